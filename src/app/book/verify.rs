//! Is the book whole? Every MAC is computed again, and every statement about the book is held against it.
//!
//! The chain shows what was changed, removed, inserted or moved inside a stream. That the end of a stream, or a whole
//! stream, or everything since some day is gone shows only against a statement made before: the seal of the stream's head,
//! the first event of another stream, and above all a checkpoint that was kept where the forger could not reach it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use super::{
    Book,
    diagnose::diagnose,
    evidence::{self, Claimant, Evidence},
    fault::{Fault, Kind},
};
use crate::{
    app::Error,
    crypto::audit::AuditKeys,
    model::{Head, Id, Mac, audit::RecordedEvent},
    store::{
        Connection, Store, StoreError, audit_checkpoints,
        audit_events::{self, ChainRow},
        audit_streams::{self, StreamRow},
    },
};

/// How many events are read at a time.
const PAGE: i64 = 2_000;
/// For how many of the faults a better word is looked for.
const DIAGNOSED: usize = 5;

/// How many faults are told; beyond that they are counted.
const MAX_FAULTS: usize = 100;

/// What was found.
#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub whole: bool,
    /// How many events there are.
    pub events: u64,
    /// How many streams they are in.
    pub streams: u64,
    /// How many of them are older than the chain, and protected by nothing.
    pub unprotected: u64,
    /// How many events were removed by retention, as signed records say.
    pub pruned: i64,
    /// The number of the last checkpoint that was held against the book.
    pub checkpoint: Option<i64>,
    /// When that was made, in seconds since 1970.
    pub checkpoint_at: Option<i64>,
    /// What is wrong, in the order of the book.
    pub faults: Vec<Fault>,
    /// How many faults more there are.
    pub more: u64,
}

/// Goes through the book in the order of the chain.
pub(super) struct Verifier<'a> {
    keys: &'a AuditKeys,
    evidence: &'a Evidence,
    streams: HashMap<Id, StreamRow>,
    seen: HashSet<Id>,
    current: Option<Walk>,
    pub(super) report: Report,
}

/// Where we are in a stream.
struct Walk {
    stream: Id,
    seq: i64,
    /// The MAC of the event before; `None` if that is missing or has none.
    previous: Option<Mac>,
    /// Up to here the stream is older than the chain.
    old: i64,
    /// Where the stream ends, if that is known.
    head: Option<Head>,
    /// An event behind that end was found and told.
    beyond: bool,
}

impl<'a> Verifier<'a> {
    pub(super) fn new(keys: &'a AuditKeys, evidence: &'a Evidence, streams: Vec<StreamRow>) -> Self {
        let streams = streams.into_iter().map(|row| (row.head.stream, row)).collect();
        let report = Report {
            pruned: evidence.prunings.values().map(|pruning| pruning.head.seq).sum(),
            checkpoint: evidence.last_checkpoint.map(|(seq, _)| seq),
            checkpoint_at: evidence.last_checkpoint.map(|(_, iat)| iat),
            ..Report::default()
        };
        Self { keys, evidence, streams, seen: HashSet::new(), current: None, report }
    }

    /// The next row of the book.
    fn row(&mut self, row: &ChainRow) {
        self.report.events += 1;
        let (stream, seq) = row.place();
        let mut walk = match self.current.take() {
            Some(walk) if walk.stream == stream => walk,
            finished => {
                self.end_of(finished.as_ref());
                self.start_of(stream)
            }
        };
        if seq <= walk.seq {
            self.fault(Fault::at(row, Kind::Inserted, "there are two events of this number".to_owned()));
        } else if seq > walk.seq + 1 {
            let what = format!("events {} to {} before it are missing", walk.seq + 1, seq - 1);
            self.fault(Fault::at(row, Kind::Missing, what));
            walk.previous = None;
        }
        let mac = match row {
            ChainRow::Event(event) => self.event(event, &mut walk),
            ChainRow::Malformed { column, .. } => {
                let what = format!("it was changed: its {column} is nothing that a desk writes");
                self.fault(Fault::at(row, Kind::Changed, what));
                None
            }
        };
        self.current = Some(Walk { seq, previous: mac, ..walk });
    }

    fn start_of(&mut self, stream: Id) -> Walk {
        self.seen.insert(stream);
        self.report.streams += 1;
        let (seq, previous) = match self.evidence.prunings.get(&stream) {
            Some(pruning) => (pruning.head.seq, pruning.head.mac),
            None => (0, Some(Mac::NONE)),
        };
        let (old, head) = (self.evidence.old_up_to(stream), self.sealed_head(stream));
        Walk { stream, seq, previous, old, head, beyond: false }
    }

    /// Checks one event, and returns its MAC for the next.
    fn event(&mut self, event: &RecordedEvent, walk: &mut Walk) -> Option<Mac> {
        let row = || ChainRow::Event(event.clone());
        self.check_claims(event);
        if walk.old > 0 {
            self.old_event(event, walk.old);
            return None;
        }
        let Some(mac) = event.mac else {
            self.fault(Fault::at(&row(), Kind::Changed, "it has no MAC".to_owned()));
            return None;
        };
        // Behind a gap there is nothing to compute with; the gap is told already.
        if let Some(previous) = walk.previous
            && self.keys.event_mac(event, previous) != mac
        {
            walk.beyond = walk.head.is_some_and(|head| head.seq < event.seq);
            let (kind, what) = if walk.beyond {
                (Kind::Inserted, "its MAC is wrong, and the stream ended before it: nobody wrote it")
            } else {
                (Kind::Changed, "its MAC is wrong: it was changed after it was written")
            };
            self.fault(Fault::at(&row(), kind, what.to_owned()));
        }
        Some(mac)
    }

    /// Checks what can be checked of an event in a stream that is older than the chain.
    fn old_event(&mut self, event: &RecordedEvent, end: i64) {
        let row = || ChainRow::Event(event.clone());
        if event.seq > end {
            let what = format!("nobody wrote it: when the chain began, the stream ended with event {end}");
            self.fault(Fault::at(&row(), Kind::Inserted, what));
        } else if event.mac.is_some() {
            let what = "it was changed: it has a MAC, and is older than the chain".to_owned();
            self.fault(Fault::at(&row(), Kind::Changed, what));
        } else {
            self.report.unprotected += 1;
        }
    }

    /// What others have said of this very event.
    fn check_claims(&mut self, event: &RecordedEvent) {
        let claims = self.evidence.claims.get(&event.stream).and_then(|claims| claims.get(&event.seq));
        for claim in claims.into_iter().flatten().filter(|claim| claim.mac != event.mac) {
            let what = format!("it is not the event that {} names", claim.by);
            self.fault(Fault::at(&ChainRow::Event(event.clone()), Kind::Contradicted, what));
        }
    }

    fn end_of(&mut self, walk: Option<&Walk>) {
        let Some(&Walk { stream, seq, previous, old, ref head, beyond }) = walk else { return };
        let sealed = *head;
        self.check_end(stream, seq, sealed);
        match sealed {
            Some(head) if head.seq < seq && !beyond => {
                let what = "the stream's head was rolled back: it names this event as the last".to_owned();
                self.fault(Fault::of(stream, head.seq, Kind::Head, what));
            }
            Some(head) if head.seq == seq && head.mac != previous => {
                let what = "it is not the last event that the stream's head names".to_owned();
                self.fault(Fault::of(stream, seq, Kind::Contradicted, what));
            }
            None if old == 0 => {
                let what = "the stream's head is missing or forged: nobody knows where it ended".to_owned();
                self.fault(Fault::of(stream, seq, Kind::Head, what));
            }
            _ => {}
        }
    }

    /// The head of a stream, if it is genuine.
    fn sealed_head(&self, stream: Id) -> Option<Head> {
        let row = self.streams.get(&stream)?;
        (row.seal? == self.keys.head_seal(&row.head)).then_some(row.head)
    }

    /// Is there a word of events behind `seq`, the last of the stream?
    fn check_end(&mut self, stream: Id, seq: i64, sealed: Option<Head>) {
        let claims = self.evidence.claims.get(&stream).and_then(BTreeMap::last_key_value);
        let claim = claims.and_then(|(last, claims)| Some((*last, claims.first()?)));
        let head = sealed.map_or(0, |head| head.seq);
        let (last, fault) = match claim {
            Some((last, claim)) if last > seq => {
                let behind =
                    if let Claimant::Checkpoint(..) = claim.by { "truncated behind" } else { "named by" };
                let what = format!(
                    "events {} to {} are missing at the end: {behind} {}",
                    seq + 1,
                    last.max(head),
                    claim.by
                );
                (last, Some(Fault::of(stream, seq + 1, Kind::Truncated, what)))
            }
            _ => (head, None),
        };
        if last > seq {
            let what = format!("events {} to {head} are missing at the end, says the stream's head", seq + 1);
            self.fault(fault.unwrap_or_else(|| Fault::of(stream, seq + 1, Kind::Truncated, what)));
        }
    }

    /// Were there events of which no stream could consist?
    fn check_count(&mut self, total: u64) {
        let unseen = total.saturating_sub(self.report.events);
        if unseen > 0 {
            let what = format!("{unseen} events stand where no desk writes: before event 1 of every stream");
            self.fault(Fault::general(Kind::Inserted, what));
        }
    }

    /// Nobody has looked further in these streams than they go.
    fn check_marks(&mut self, streams: &[Head]) {
        for head in streams {
            let what =
                "its marks were changed to keep checkpoints, later streams or alarms from it".to_owned();
            self.fault(Fault::of(head.stream, head.seq, Kind::Head, what));
        }
    }

    /// The end of the book: what should have come and did not, and what there is to say `besides`.
    pub(super) fn finish(mut self, besides: Vec<Fault>) -> Report {
        let last = self.current.take();
        self.end_of(last.as_ref());
        let named =
            self.evidence.claims.keys().chain(self.streams.keys()).chain(self.evidence.prunings.keys());
        let mut unseen: Vec<Id> = named.copied().filter(|stream| !self.seen.contains(stream)).collect();
        unseen.sort_unstable();
        unseen.dedup();
        for stream in unseen {
            let pruned = self.evidence.prunings.get(&stream).map_or(0, |pruning| pruning.head.seq);
            self.check_end(stream, pruned, self.sealed_head(stream));
        }
        for fault in besides {
            self.fault(fault);
        }
        let Self { mut report, evidence, .. } = self;
        // What is wrong with the statements themselves comes first: the rest is judged by them.
        report.faults.splice(0..0, evidence.faults.iter().cloned());
        report.whole = report.faults.is_empty() && report.more == 0;
        report
    }

    fn fault(&mut self, fault: Fault) {
        if self.report.faults.len() < MAX_FAULTS {
            self.report.faults.push(fault);
        } else {
            self.report.more += 1;
        }
    }
}

/// What somebody did to the database itself, so that the book looks other than it is.
async fn tampering(db: &mut Connection) -> Result<Vec<Fault>, StoreError> {
    let damage = db.damage("audit_events").await?.map(|damage| {
        let what = format!("the database does not find all events: {damage}");
        Fault::general(Kind::Missing, what)
    });
    let rules = db.changed_rules().await?.into_iter().map(|rule| {
        let what = format!("the database's {rule} is not the one that a desk makes");
        Fault::general(Kind::Changed, what)
    });
    Ok(damage.into_iter().chain(rules).collect())
}

impl Book {
    /// Goes through the whole book as it is at one moment, while others may go on writing.
    pub(in crate::app) async fn verify(
        store: &Store,
        keys: &AuditKeys,
        usual: &Path,
        given: &[PathBuf],
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Report, Error> {
        // What must stand in the file, then the file, then the book: each may only be newer than the one before.
        let marked = audit_streams::all(&mut store.read().await?).await?;
        let rows = audit_checkpoints::checkpoints(&mut store.read().await?).await?;
        let filed = rows.iter().filter(|row| row.filed_at.is_some()).map(|row| row.seq).max().unwrap_or(0);
        let lines = evidence::read_files(usual, given)?;
        let mut db = store.snapshot().await?;
        let streams = audit_streams::all(&mut db).await?;
        let mut evidence = Evidence::default();
        evidence.read_prunings(keys, audit_checkpoints::prunings(&mut db).await?);
        evidence.read_checkpoints(keys, &lines, filed, &evidence::names(usual, given));
        evidence.read_unfiled(keys, &rows);
        evidence.check_marks(&marked);
        evidence.hear(keys, &audit_events::with_heads(&mut db).await?);
        evidence.check_prunings();
        if evidence.last_checkpoint.is_none() && !audit_streams::is_chained(&mut db).await? {
            evidence.nothing_is_chained(&streams);
        }
        evidence.doubt_age(&streams);
        let total = u64::try_from(audit_events::count(&mut db).await?).unwrap_or(0);
        let mut verifier = Verifier::new(keys, &evidence, streams);
        let mut place = (Id::from_bytes([0; 16]), 0);
        loop {
            let rows = audit_events::in_chain_order(&mut db, place, PAGE).await?;
            let Some(last) = rows.last() else { break };
            place = last.place();
            for row in &rows {
                verifier.row(row);
            }
            progress(verifier.report.events, total);
        }
        verifier.check_count(total);
        verifier.check_marks(&audit_streams::overrun(&mut db).await?);
        let mut report = verifier.finish(tampering(&mut db).await?);
        for fault in report.faults.iter_mut().filter(|fault| fault.kind == Kind::Changed).take(DIAGNOSED) {
            diagnose(&mut db, keys, fault).await?;
        }
        Ok(report)
    }
}
