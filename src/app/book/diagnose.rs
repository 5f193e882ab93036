//! What became of an event whose MAC is wrong: changed, moved, copied, inserted, or robbed of its predecessors.
//!
//! A MAC covers the event's number and its predecessor's MAC, so it can be tried whether an event is genuine in another
//! place. This only finds a better word for what is found already.

use std::collections::BTreeMap;

use super::fault::{Fault, Kind};
use crate::{
    crypto::audit::AuditKeys,
    model::{Id, Mac, audit::RecordedEvent},
    store::{
        Connection, StoreError,
        audit_events::{self, ChainRow},
    },
};

/// In streams that are longer, only the beginning is searched.
const SEARCHED: i64 = 100_000;
/// How many removed predecessors are tried.
const TRIED: i64 = 1_000;

/// Finds the better word, if there is one.
pub(super) async fn diagnose(
    db: &mut Connection,
    keys: &AuditKeys,
    fault: &mut Fault,
) -> Result<(), StoreError> {
    let (Some(stream), Some(seq)) = (fault.stream, fault.seq) else { return Ok(()) };
    let Some(event) = event(db, stream, seq).await? else { return Ok(()) };
    let next = event_after(db, stream, seq).await?;
    let macs = audit_events::macs(db, stream, SEARCHED).await?;
    let macs: BTreeMap<i64, Mac> = macs.into_iter().filter_map(|(seq, mac)| Some((seq, mac?))).collect();
    let search = Search { keys, macs };
    if let Some((kind, what)) = search.word_for(&event, next.as_ref()) {
        fault.kind = kind;
        fault.what = what;
    }
    Ok(())
}

async fn event(db: &mut Connection, stream: Id, seq: i64) -> Result<Option<RecordedEvent>, StoreError> {
    let found = event_after(db, stream, seq - 1).await?;
    Ok(found.filter(|event| event.seq == seq))
}

async fn event_after(db: &mut Connection, stream: Id, seq: i64) -> Result<Option<RecordedEvent>, StoreError> {
    let found = audit_events::in_chain_order(db, (stream, seq), 1).await?;
    Ok(found.into_iter().find_map(|row| match row {
        ChainRow::Event(event) if event.stream == stream => Some(event),
        _ => None,
    }))
}

struct Search<'a> {
    keys: &'a AuditKeys,
    /// By number, as they stand in the stream.
    macs: BTreeMap<i64, Mac>,
}

impl Search<'_> {
    fn word_for(&self, event: &RecordedEvent, next: Option<&RecordedEvent>) -> Option<(Kind, String)> {
        let seq = event.seq;
        let twin = self.macs.iter().find(|(other, mac)| **other != seq && Some(**mac) == event.mac);
        if let Some((other, _)) = twin {
            return Some((Kind::Copied, format!("it is a copy of event {other}, changed to stand here")));
        }
        if let Some(written) = self.written_as(event) {
            return Some((Kind::Moved, format!("it was written as event {written} and moved here")));
        }
        let before = if seq == 1 { Some(Mac::NONE) } else { self.macs.get(&(seq - 1)).copied() };
        if let (Some(next), Some(before)) = (next, before)
            && self.is_genuine(next, seq, before)
        {
            let what = format!("nobody wrote it: it was inserted before the event that was number {seq}");
            return Some((Kind::Inserted, what));
        }
        if let (Some(next), Some(own)) = (next, event.mac)
            && let Some(removed) = (1..=TRIED).find(|removed| self.is_genuine(next, next.seq + removed, own))
        {
            let what =
                format!("{removed} before it were removed, and the numbers behind them changed to hide it");
            return Some((Kind::Missing, what));
        }
        None
    }

    fn is_genuine(&self, event: &RecordedEvent, seq: i64, previous: Mac) -> bool {
        let event = RecordedEvent { seq, ..event.clone() };
        Some(self.keys.event_mac(&event, previous)) == event.mac
    }

    /// The number under which an event is genuine. Its predecessor is where it was, or where the event itself now is not.
    fn written_as(&self, event: &RecordedEvent) -> Option<i64> {
        let previous = |seq: i64| {
            let first = (seq == 1).then_some(Mac::NONE);
            [first, self.macs.get(&(seq - 1)).copied(), self.macs.get(&seq).copied()]
        };
        let others = self.macs.keys().copied().filter(|seq| *seq != event.seq);
        others.into_iter().find(|seq| {
            previous(*seq).into_iter().flatten().any(|previous| self.is_genuine(event, *seq, previous))
        })
    }
}
