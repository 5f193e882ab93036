//! Writing in the book: events that stand alone, gathered into one transaction.
//!
//! One task takes whatever events are waiting, writes them in one transaction and answers everybody when it is durable,
//! so that a hundred key reads share one fsync and a single one waits for nobody. If the transaction fails, exactly the
//! requests in it fail. Events that belong to a change are not written here but inside the change's own transaction.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{mpsc, oneshot};

use super::{Error, Surroundings};
use crate::{
    model::{Action, AuditEvent, Id, Origin},
    store::{Store, StoreError, audit_events, keys},
};

/// How many events may wait; beyond that a request is told to come back.
const QUEUE: usize = 1024;
/// How many share one transaction.
const BATCH: usize = 256;

/// The pen. Each process writes one stream.
pub(super) struct Book {
    queue: mpsc::Sender<Entry>,
    stream: Id,
    healthy: Arc<AtomicBool>,
}

struct Entry {
    event: AuditEvent,
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
    pub(super) fn open(store: Store, surroundings: Surroundings) -> Self {
        let (queue, entries) = mpsc::channel(QUEUE);
        let stream = surroundings.new_id();
        let healthy = Arc::new(AtomicBool::new(true));
        tokio::spawn(write(store, surroundings, stream, entries, Arc::clone(&healthy)));
        Self { queue, stream, healthy }
    }

    /// The stream of this process.
    pub(super) fn stream(&self) -> Id {
        self.stream
    }

    /// Whether events can be written. After a failure it is tried, so that a desk which nobody asks any more, because it
    /// is not ready, finds out by itself that it is.
    pub(super) async fn is_healthy(&self) -> bool {
        let itself = Origin { source: "local".to_owned(), request_id: "probe".to_owned() };
        self.healthy.load(Ordering::Relaxed)
            || self.record(AuditEvent::anonymous(&itself, Action::BookProbe)).await.is_ok()
    }

    /// Returns when `event` is durable. An error means that it is not, and whatever it was about must not happen.
    pub(super) async fn record(&self, event: AuditEvent) -> Result<(), Error> {
        self.submit(event, None).await
    }

    /// The same for what was allowed by a decision made at revision `decided_at`. If anything that decides access has
    /// changed since, nothing is written and the answer is [`Error::Stale`]: a handover never comes after the change
    /// that forbids it, in the book or outside.
    pub(super) async fn record_decision(&self, event: AuditEvent, decided_at: i64) -> Result<(), Error> {
        self.submit(event, Some(decided_at)).await
    }

    async fn submit(&self, event: AuditEvent, decided_at: Option<i64>) -> Result<(), Error> {
        let (written, answer) = oneshot::channel();
        self.queue
            .try_send(Entry { event, decided_at, written })
            .map_err(|_| Error::Unavailable("the book has too many events waiting".into()))?;
        match answer.await {
            Ok(Written::Durably) => Ok(()),
            Ok(Written::Stale) => Err(Error::Stale),
            Ok(Written::Failed(cause)) => Err(Error::Unavailable(cause.into())),
            Err(_) => Err(Error::Unavailable("the book is closed".into())),
        }
    }
}

async fn write(
    store: Store,
    surroundings: Surroundings,
    stream: Id,
    mut entries: mpsc::Receiver<Entry>,
    healthy: Arc<AtomicBool>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while entries.recv_many(&mut batch, BATCH).await > 0 {
        let result = write_batch(&store, &surroundings, stream, &batch).await;
        healthy.store(result.is_ok(), Ordering::Relaxed);
        for (i, entry) in batch.drain(..).enumerate() {
            let outcome = match &result {
                Ok(stale) if stale.contains(&i) => Written::Stale,
                Ok(_) => Written::Durably,
                Err(error) => Written::Failed(error.to_string()),
            };
            // Who has stopped waiting has gone; the event stays.
            let _ = entry.written.send(outcome);
        }
    }
}

/// Writes the events whose decisions still stand, and tells which do not, by their places.
async fn write_batch(
    store: &Store,
    surroundings: &Surroundings,
    stream: Id,
    batch: &[Entry],
) -> Result<Vec<usize>, StoreError> {
    let mut tx = store.begin().await?;
    let revision = keys::revision(&mut tx).await?;
    let mut stale = Vec::new();
    for (i, entry) in batch.iter().enumerate() {
        if entry.decided_at.is_some_and(|decided_at| decided_at != revision) {
            stale.push(i);
            continue;
        }
        let (id, now) = (surroundings.new_id(), surroundings.clock.now());
        audit_events::append(&mut tx, id, stream, now, entry.event.clone()).await?;
    }
    tx.commit().await?;
    Ok(stale)
}
