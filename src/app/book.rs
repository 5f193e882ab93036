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
    store::{Store, StoreError, audit_events},
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
    written: oneshot::Sender<Result<(), String>>,
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
        let (written, answer) = oneshot::channel();
        let entry = Entry { event, written };
        self.queue
            .try_send(entry)
            .map_err(|_| Error::Unavailable("the book has too many events waiting".into()))?;
        match answer.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(cause)) => Err(Error::Unavailable(cause.into())),
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
        let (events, waiting): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|entry| (entry.event, entry.written)).unzip();
        let result =
            write_batch(&store, &surroundings, stream, events).await.map_err(|error| error.to_string());
        healthy.store(result.is_ok(), Ordering::Relaxed);
        for written in waiting {
            // Who has stopped waiting has gone; the event stays.
            let _ = written.send(result.clone());
        }
    }
}

async fn write_batch(
    store: &Store,
    surroundings: &Surroundings,
    stream: Id,
    events: Vec<AuditEvent>,
) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    for event in events {
        audit_events::append(&mut tx, surroundings.new_id(), stream, surroundings.clock.now(), event).await?;
    }
    tx.commit().await
}
