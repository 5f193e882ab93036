//! The chain that a process writes: each event carries a MAC over itself and its predecessor's.
//!
//! Events are written in a [`Work`], a transaction that knows the end of the chain. There is one connection that writes,
//! so there is one `Work` at a time, and the end moves only when its transaction is durable: what is rolled back never
//! was. The end is kept in memory, not read back: a tail cut off behind our back leaves a gap that shows.

use std::{io, ops, path::Path, sync::Arc, time::Instant};

use tokio::sync::{Mutex, OwnedMutexGuard};
use tracing::Instrument as _;

use super::evidence;
use crate::{
    app::Surroundings,
    crypto::audit::AuditKeys,
    metrics::Metrics,
    model::{Action, AuditEvent, Head, Id, Mac, Origin, audit::RecordedEvent},
    store::{
        Store, StoreError, Tx, audit_events,
        audit_streams::{self, StreamRow},
    },
};

/// The stream of this process.
#[derive(Clone)]
pub(in crate::app) struct Chain {
    store: Store,
    surroundings: Surroundings,
    keys: Arc<AuditKeys>,
    metrics: Metrics,
    stream: Id,
    end: Arc<Mutex<End>>,
    /// Where checkpoints are filed.
    checkpoints: Arc<Path>,
}

/// Where the chain ends in the database.
#[derive(Clone, Copy)]
enum End {
    /// Behind this event; `None`: nothing is written yet.
    At(Option<Head>),
    /// A commit was not heard of to its end: the database has to be asked which of the two it is.
    InDoubt { before: Option<Head>, after: Head },
}

/// A transaction that can write in the book. Dropped without [`Work::commit`], it leaves nothing.
pub(in crate::app) struct Work {
    tx: Tx,
    chain: Chain,
    written: Option<Written>,
}

/// What a transaction has added to the chain.
struct Written {
    end: OwnedMutexGuard<End>,
    /// Where it ended before.
    before: Option<Head>,
    head: Option<Head>,
    /// What is sent to the database with the commit, all at once.
    events: Vec<RecordedEvent>,
}

impl Chain {
    /// A stream in which nothing is written yet.
    pub(in crate::app) fn new(
        store: Store,
        surroundings: Surroundings,
        keys: Arc<AuditKeys>,
        metrics: Metrics,
        checkpoints: &Path,
    ) -> Self {
        let (stream, checkpoints) = (surroundings.new_id(), Arc::from(checkpoints));
        let end = Arc::new(Mutex::new(End::At(None)));
        Self { store, surroundings, keys, metrics, stream, end, checkpoints }
    }

    pub(super) fn stream(&self) -> Id {
        self.stream
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<Work, StoreError> {
        Ok(self.work(self.store.begin().await?))
    }

    /// Begins the writer's next. The first event of a stream is written alone, because it changes what others change.
    pub(super) async fn begin_ahead(&self) -> Result<Work, StoreError> {
        // Nobody waits here: who has the end has the connection, too, and that is waited for in its turn.
        let is_first = self.end.try_lock().is_ok_and(|end| !matches!(*end, End::At(Some(_))));
        Ok(self.work(self.store.begin_ahead(is_first).await?))
    }

    fn work(&self, tx: Tx) -> Work {
        Work { tx, chain: self.clone(), written: None }
    }

    /// The end of the stream, as far as it is known for certain.
    pub(super) async fn head(&self) -> Option<Head> {
        if let End::At(head) = *self.end.lock().await { head } else { None }
    }

    /// The heads that nobody has named yet, and the streams whose heads are forged.
    async fn other_heads(&self, tx: &mut Tx) -> Result<(Vec<Head>, Vec<Id>), StoreError> {
        let chained = audit_streams::is_chained(tx).await?;
        let streams = audit_streams::take_uncarried(tx).await?;
        // Whoever can change the database can take every sign of the chain from it, but not from the file.
        let chained = chained || (!streams.is_empty() && self.has_checkpoints().await?);
        Ok(genuine_heads(&self.keys, &streams, chained))
    }

    async fn has_checkpoints(&self) -> Result<bool, StoreError> {
        let (keys, file) = (Arc::clone(&self.keys), Arc::clone(&self.checkpoints));
        let found = tokio::task::spawn_blocking(move || evidence::is_in_file(&keys, &file)).await;
        found.map_err(io::Error::other).flatten().map_err(|error| StoreError::Unavailable(error.into()))
    }
}

impl Work {
    /// Writes `event` as the next of the stream. It can be read back only after the commit.
    pub(in crate::app) async fn record(&mut self, event: AuditEvent) -> Result<(), StoreError> {
        let forged = self.append(event).await?;
        if let Some(stream) = forged.first() {
            // As if somebody had verified the book: the rule about that raises the alarm.
            let itself = Origin { source: "local".to_owned(), request_id: "verify".to_owned() };
            let mut event = AuditEvent::anonymous(&itself, Action::AuditVerify).on("audit_events");
            "keydesk".clone_into(&mut event.actor);
            self.append(event.failed(format!("stream {stream}: its head was forged"))).await?;
        }
        Ok(())
    }

    /// Returns, at the beginning of the stream, the other streams whose heads are forged.
    async fn append(&mut self, event: AuditEvent) -> Result<Vec<Id>, StoreError> {
        let Self { tx, chain, written } = self;
        let written = match written {
            Some(written) => written,
            // After the connection: who holds the end of the chain has the only one and is about to give it back.
            None => written.insert(Written::begin(tx, chain).await?),
        };
        let (seq, previous) = match written.head {
            Some(head) => (head.seq + 1, head.mac.unwrap_or(Mac::NONE)),
            None => (1, Mac::NONE),
        };
        let (id, now) = (chain.surroundings.new_id(), chain.surroundings.clock.now());
        let mut event = RecordedEvent::new(event, id, chain.stream, seq, now);
        let mut forged = Vec::new();
        if seq == 1 {
            let (heads, others) = chain.other_heads(tx).await?;
            event.heads = as_text(&heads);
            forged = others;
        }
        let mac = chain.keys.event_mac(&event, previous);
        event.mac = Some(mac);
        written.head = Some(Head { stream: chain.stream, seq, mac: Some(mac) });
        written.events.push(event);
        Ok(forged)
    }

    /// Makes everything durable: when this returns, a power cut cannot undo it.
    pub(in crate::app) async fn commit(self) -> Result<(), StoreError> {
        let (metrics, begun) = (self.chain.metrics.clone(), Instant::now());
        let events = self.written.as_ref().map_or(0, |written| written.events.len());
        let committed = self.commit_unmeasured().instrument(tracing::info_span!("audit.commit")).await;
        match &committed {
            Ok(()) if events > 0 => metrics.events_committed(events, begun.elapsed()),
            Err(_) if events > 0 => metrics.events_lost(),
            _ => {}
        }
        committed
    }

    async fn commit_unmeasured(mut self) -> Result<(), StoreError> {
        let Some(Written { mut end, before, head: Some(head), events }) = self.written else {
            return self.tx.commit().await;
        };
        audit_events::insert(&mut self.tx, events, head, self.chain.keys.head_seal(&head)).await?;
        // Until the answer is here nobody knows, not even if this is never polled again.
        *end = End::InDoubt { before, after: head };
        self.tx.commit().await?;
        *end = End::At(Some(head));
        Ok(())
    }
}

impl Written {
    async fn begin(tx: &mut Tx, chain: &Chain) -> Result<Self, StoreError> {
        let end = Arc::clone(&chain.end).lock_owned().await;
        let head = match *end {
            End::At(head) => head,
            End::InDoubt { before, after } => {
                let found = audit_streams::settled_head(tx, chain.stream).await?;
                if found != before && found != Some(after) {
                    tracing::error!(
                        "the book's newest events were changed behind the desk's back; restart it"
                    );
                    return Err(StoreError::Inconsistent { column: "audit_streams.seq".to_owned() });
                }
                found
            }
        };
        // Which it stays until something of ours is durable behind it.
        Ok(Self { end, before: head, head, events: Vec::new() })
    }
}

/// The heads that may be vouched for. One without a seal is older than the chain, if there is no chain yet; later it is
/// forged, and nothing of ours must say otherwise. The streams of those that are forged come second.
pub(super) fn genuine_heads(keys: &AuditKeys, streams: &[StreamRow], chained: bool) -> (Vec<Head>, Vec<Id>) {
    let genuine = |row: &&StreamRow| match row.seal {
        Some(seal) => seal == keys.head_seal(&row.head),
        None => row.head.mac.is_none() && !chained,
    };
    let (genuine, forged): (Vec<&StreamRow>, Vec<&StreamRow>) = streams.iter().partition(genuine);
    if !forged.is_empty() {
        tracing::error!("the head of a stream of the book was forged; run: keydesk audit verify");
    }
    let forged = forged.iter().map(|row| row.head.stream).collect();
    (genuine.iter().map(|row| row.head).collect(), forged)
}

/// What the first event of a stream says of the others.
fn as_text(heads: &[Head]) -> Option<String> {
    if heads.is_empty() { None } else { serde_json::to_string(heads).ok() }
}

impl ops::Deref for Work {
    type Target = Tx;
    fn deref(&self) -> &Tx {
        &self.tx
    }
}

impl ops::DerefMut for Work {
    fn deref_mut(&mut self) -> &mut Tx {
        &mut self.tx
    }
}
