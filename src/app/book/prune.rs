//! Retention: what is older than `audit.retention` is removed from the book, but never without a trace.
//!
//! Only the beginning of a stream is removed, only behind a checkpoint that stands in the file, and in the place of what is
//! removed comes a signed record from which the chain goes on. The removal is an event itself. Every MAC is computed again
//! before: the record must not vouch for what somebody has changed, least of all for the times that say what is old.

use super::{
    Work,
    evidence::Evidence,
    fault::{Fault, Kind},
};
use crate::{
    app::{App, Error},
    crypto::{audit::AuditKeys, statement::Statement},
    model::{
        Action, AuditEvent, Caller, Head, Id, Mac, Timestamp,
        audit::RecordedEvent,
        chain::{Checkpoint, Pruning},
    },
    store::{
        audit_checkpoints,
        audit_events::{self, ChainRow},
        audit_streams,
    },
};

/// How many events one transaction removes, so that nobody waits long for it.
const BATCH: i64 = 1_000;

impl App {
    /// Removes what is older than the book's retention.
    pub async fn prune_book(&self) -> Result<(), Error> {
        let Some(retention) = self.settings.audit.retention else { return Ok(()) };
        while self.prune_batch(self.now().minus(retention)).await? {}
        Ok(())
    }

    /// Removes some events from before `cutoff`, and tells whether there may be more.
    async fn prune_batch(&self, cutoff: Timestamp) -> Result<bool, Error> {
        let mut work = self.book.begin().await?;
        let Some(checkpoint) = self.filed_checkpoint(&mut work).await? else { return Ok(false) };
        let (mut removed, mut streams, mut forged) = (0, 0, None);
        for stream in audit_events::beginning_before(&mut work, cutoff).await? {
            if removed >= BATCH {
                break;
            }
            match self.removable(&mut work, stream, cutoff, BATCH - removed).await? {
                Ok(None) => {}
                Ok(Some(head)) => {
                    removed += self.remove(&mut work, head, checkpoint).await?;
                    streams += 1;
                }
                Err(fault) => forged = Some(fault),
            }
        }
        if removed > 0 {
            let caller = Caller::operating_system("keydesk", self.new_request_id());
            let what = format!("{removed} events of {streams} streams, written before {cutoff}");
            work.record(AuditEvent::by(&caller, Action::AuditPrune).on("audit_events").detail(what)).await?;
            work.commit().await?;
        } else {
            drop(work);
        }
        if let Some(fault) = forged {
            tracing::error!("old events stay in the book, because they were changed: {fault}");
            self.raise_forgery(fault).await;
        }
        Ok(removed > 0)
    }

    /// The number of the newest checkpoint, if it stands in the file.
    async fn filed_checkpoint(&self, work: &mut Work) -> Result<Option<i64>, Error> {
        let newest = audit_checkpoints::newest(work).await?.filter(|row| self.is_filed(row));
        let keys = self.keyring.audit();
        let claims =
            newest.and_then(|row| keys.signer().verify::<Checkpoint>(Statement::Checkpoint, &row.jws));
        Ok(claims.map(|claims| claims.seq))
    }

    /// The last of the events at the beginning of a stream that are from before `cutoff`, genuine, and known to a
    /// checkpoint; or what is wrong there.
    async fn removable(
        &self,
        work: &mut Work,
        stream: Id,
        cutoff: Timestamp,
        limit: i64,
    ) -> Result<Result<Option<Head>, Fault>, Error> {
        let keys = self.keyring.audit();
        let mut evidence = Evidence::default();
        let record = audit_checkpoints::pruning(work, stream).await?;
        evidence.read_prunings(&keys, record.map(|jws| (stream, jws)).into_iter().collect());
        if let Some(fault) = evidence.faults.pop() {
            return Ok(Err(fault));
        }
        let pruned = evidence.prunings.get(&stream).map(|pruning| pruning.head);
        let mut head = pruned.unwrap_or(Head { stream, seq: 0, mac: Some(Mac::NONE) });
        let anchored = audit_streams::anchored(work, stream).await?;
        let mut rows = audit_events::in_chain_order(work, (stream, head.seq), limit).await?;
        rows.retain(|row| row.place().0 == stream);
        if rows.first().is_some_and(|row| matches!(row, ChainRow::Event(event) if event.mac.is_none())) {
            evidence.hear(&keys, &audit_events::with_heads(work).await?);
            evidence.doubt_age(&audit_streams::all(work).await?);
        }
        let (old, mut last) = (evidence.old_up_to(stream), None);
        for row in &rows {
            let Some(event) = genuine(&keys, row, head, old) else {
                return Ok(Err(Fault::at(
                    row,
                    Kind::Changed,
                    "it was changed, or is not in its place".into(),
                )));
            };
            if event.at >= cutoff || event.seq > anchored || self.is_needed(work, event).await? {
                break;
            }
            head = Head { stream, seq: event.seq, mac: event.mac };
            last = Some(head);
        }
        Ok(Ok(last))
    }

    /// Whether others need what an event says of them: that they are older than the chain is said nowhere else.
    async fn is_needed(&self, work: &mut Work, event: &RecordedEvent) -> Result<bool, Error> {
        let heads = event.heads.as_deref().map(serde_json::from_str::<Vec<Head>>);
        for head in heads.and_then(Result::ok).unwrap_or_default() {
            if head.mac.is_none() && audit_events::is_any_of(work, head.stream).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes a stream's beginning up to `head`, and puts down that it did.
    async fn remove(&self, work: &mut Work, head: Head, checkpoint: i64) -> Result<i64, Error> {
        let pruning = Pruning { head, iat: self.now().seconds(), checkpoint };
        let jws =
            self.keyring.audit().signer().sign(Statement::Pruning, &pruning).map_err(Error::internal)?;
        audit_checkpoints::put_pruning(work, head.stream, head.seq, jws).await?;
        let removed = audit_events::delete_up_to(work, head).await?;
        Ok(i64::try_from(removed).unwrap_or(i64::MAX))
    }
}

/// The event in a row, if it is as it was written, the one behind `before`, or of those up to `old` that have no MAC.
fn genuine<'r>(keys: &AuditKeys, row: &'r ChainRow, before: Head, old: i64) -> Option<&'r RecordedEvent> {
    let ChainRow::Event(event) = row else { return None };
    let is_genuine = match (event.mac, before.mac) {
        (Some(mac), Some(previous)) => old == 0 && keys.event_mac(event, previous) == mac,
        (Some(_), None) => false,
        (None, _) => event.seq <= old,
    };
    (event.seq == before.seq + 1 && is_genuine).then_some(event)
}
