//! Writing in the book: events that stand alone, gathered into one transaction.
//!
//! One task takes whatever events are waiting, writes them in one transaction and answers everybody when it is durable,
//! so that a hundred key reads share one fsync and a single one waits for nobody. If the transaction fails, the requests in
//! it fail, with those that came while it was tried. Events that belong to a change are not written here but inside the change's own transaction.

mod anchors;
mod chain;
mod checkpoints;
mod diagnose;
mod evidence;
mod fault;
mod prune;
mod verify;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use tokio::sync::{mpsc, oneshot};
use tracing::Instrument as _;

use super::{Error, vital::vital};
use crate::{
    model::{Action, AuditEvent, Head, Id, Origin},
    store::StoreError,
};
pub use anchors::Behind;
pub(super) use chain::{Chain, Work};
pub(super) use checkpoints::Filing;
pub use fault::{Fault, Kind};
pub use verify::Report;

/// How many events may wait; beyond that a request is told to come back.
const QUEUE: usize = 1024;
/// How many share one transaction.
const BATCH: usize = 256;

/// The pen.
pub(super) struct Book {
    queue: mpsc::Sender<Entry>,
    chain: Chain,
    healthy: Arc<AtomicBool>,
    /// Up to where checkpoints have named its stream, as far as this process has seen them with its own eyes. What the
    /// database says of that could be forged.
    anchored: AtomicI64,
}

struct Entry {
    /// Taken when it is written.
    event: Option<AuditEvent>,
    /// The revision at which it was decided that this may happen; if it has moved, the decision no longer stands.
    decided_at: Option<i64>,
    written: oneshot::Sender<Written>,
}

/// What became of an event.
#[derive(Clone)]
enum Written {
    Durably,
    /// Not written, because its decision no longer stands.
    Stale,
    Failed(String),
}

impl Book {
    /// Starts the writer task.
    pub(super) fn open(chain: Chain) -> Self {
        let (queue, entries) = mpsc::channel(QUEUE);
        let healthy = Arc::new(AtomicBool::new(true));
        tokio::spawn(vital("book", write(chain.clone(), entries, Arc::clone(&healthy))));
        Self { queue, chain, healthy, anchored: AtomicI64::new(0) }
    }

    /// How many events wait for their turn, of the [`QUEUE`] that may.
    pub(super) fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Begins a transaction that can write in the book.
    pub(super) async fn begin(&self) -> Result<Work, StoreError> {
        self.chain.begin().await
    }

    /// The stream that this process writes.
    pub(super) fn stream(&self) -> Id {
        self.chain.stream()
    }

    /// The end of this process's stream, from memory, if no checkpoint of this process has named it; and up to where one has.
    pub(super) async fn unanchored(&self) -> Option<(Head, i64)> {
        let (head, anchored) = (self.chain.head().await?, self.anchored.load(Ordering::Relaxed));
        (head.seq > anchored).then_some((head, anchored))
    }

    /// A genuine checkpoint has named this process's stream up to `seq`.
    pub(super) fn anchor(&self, seq: i64) {
        self.anchored.fetch_max(seq, Ordering::Relaxed);
    }

    /// Whether the last events could be written.
    pub(super) fn is_writing(&self) -> bool {
        self.healthy.load(Ordering::Relaxed) && !self.queue.is_closed()
    }

    /// Whether events can be written. After a failure it is tried, so that a desk which nobody asks any more, because it
    /// is not ready, finds out by itself that it is.
    pub(super) async fn is_healthy(&self) -> bool {
        let itself = Origin { source: "local".to_owned(), request_id: "probe".to_owned() };
        self.is_writing() || self.record(AuditEvent::anonymous(&itself, Action::BookProbe)).await.is_ok()
    }

    /// Returns when `event` is durable. An error means that it is not, and whatever it was about must not happen.
    pub(super) async fn record(&self, event: AuditEvent) -> Result<(), Error> {
        self.submit(event, None).await
    }

    /// The same for what was allowed or refused by a decision made at revision `decided_at`. If anything that decides access has
    /// changed since, nothing is written and the answer is [`Error::Stale`]: a handover never comes after the change
    /// that forbids it, in the book or outside.
    pub(super) async fn record_decision(&self, event: AuditEvent, decided_at: i64) -> Result<(), Error> {
        self.submit(event, Some(decided_at)).await
    }

    async fn submit(&self, event: AuditEvent, decided_at: Option<i64>) -> Result<(), Error> {
        let (written, answer) = oneshot::channel();
        self.queue
            .try_send(Entry { event: Some(event), decided_at, written })
            .map_err(|_| Error::Unavailable("the book has too many events waiting".into()))?;
        match answer.instrument(tracing::info_span!("audit.commit")).await {
            Ok(Written::Durably) => Ok(()),
            Ok(Written::Stale) => Err(Error::Stale),
            Ok(Written::Failed(cause)) => Err(Error::Unavailable(cause.into())),
            Err(_) => Err(Error::Unavailable("the book is closed".into())),
        }
    }
}

async fn write(chain: Chain, mut entries: mpsc::Receiver<Entry>, healthy: Arc<AtomicBool>) {
    let mut batch = Vec::with_capacity(BATCH);
    while entries.recv_many(&mut batch, BATCH).await > 0 {
        let result = write_batch(&chain, &mut batch).await;
        healthy.store(result.is_ok(), Ordering::Relaxed);
        let failure = result.err().map(|error| error.to_string());
        if failure.is_some() {
            // Who came while it was tried has waited for the same thing, and is not made to wait for it once more.
            while let Ok(entry) = entries.try_recv() {
                batch.push(entry);
            }
        }
        for entry in batch.drain(..) {
            let outcome = match &failure {
                Some(cause) => Written::Failed(cause.clone()),
                None if entry.event.is_some() => Written::Stale,
                None => Written::Durably,
            };
            // Who has stopped waiting has gone; the event stays.
            let _ = entry.written.send(outcome);
        }
    }
}

/// Writes the events whose decisions still stand; the others stay in their entries.
async fn write_batch(chain: &Chain, batch: &mut [Entry]) -> Result<(), StoreError> {
    let prepared = prepare(chain, batch).await;
    let work = prepared.inspect_err(|_| chain.metrics().events_lost())?;
    work.commit().await
}

async fn prepare(chain: &Chain, batch: &mut [Entry]) -> Result<Work, StoreError> {
    let mut work = chain.begin_ahead().await?;
    let revision = work.revision();
    for entry in batch.iter_mut().filter(|entry| entry.decided_at.is_none_or(|at| at == revision)) {
        if let Some(event) = entry.event.take() {
            work.record(event).await?;
        }
    }
    Ok(work)
}
