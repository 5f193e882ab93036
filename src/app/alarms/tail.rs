//! Reading the book on from where it was read last.
//!
//! The place is kept per stream and moves in the transaction that raises what was found, so that over a crash nothing is
//! missed and nothing is raised twice.

use super::{guessing, incidents, networks, reads};
use crate::{
    app::{App, Error},
    model::Timestamp,
    store::alarms::{self, Piece, SeenEvent},
};

/// How many events are read at a time, and of how many streams.
const BATCH: i64 = 2000;
const STREAMS: i64 = 20;

impl App {
    /// Reads a piece of each stream that has grown. Tells whether there may be more.
    pub(super) async fn read_on(&self) -> Result<bool, Error> {
        let mut more = false;
        let grown = alarms::grown(&mut self.store.read().await?, STREAMS).await?;
        for piece in grown {
            let end = piece.to.min(piece.from + BATCH);
            more |= end < piece.to;
            self.judge(Piece { to: end, ..piece }).await?;
        }
        Ok(more)
    }

    async fn judge(&self, piece: Piece) -> Result<(), Error> {
        // What is written stays as it is, so it can be read before the one writer is asked for.
        let mut db = self.store.read().await?;
        let events = alarms::events(&mut db, piece).await?;
        let reads = alarms::reads(&mut db, piece).await?;
        drop(db);
        let mut work = self.book.begin().await?;
        if !alarms::advance(&mut work, piece).await? {
            return Ok(());
        }
        let mut found: Vec<_> = events.iter().filter_map(incidents::alarm).collect();
        found.extend(guessing::alarms(&mut work, &events).await?);
        found.extend(networks::alarms(&mut work, &events, &reads).await?);
        found.extend(reads::alarms(&mut work, &reads).await?);
        for alarm in &found {
            self.raise_in(&mut work, alarm).await?;
        }
        Ok(work.commit().await?)
    }

    /// Forgets what no rule looks at any more.
    pub(in crate::app) async fn forget_seen(&self) -> Result<(), Error> {
        let now = self.now();
        let mut tx = self.store.begin().await?;
        let (marks, networks) = (guessing::forget_before(now), networks::forget_before(now));
        alarms::forget(&mut tx, marks, networks, reads::forget_before(now)).await?;
        Ok(tx.commit().await?)
    }
}

/// The moment `length` before `now`.
pub(in crate::app) fn before(now: Timestamp, length: std::time::Duration) -> Timestamp {
    let micros = i64::try_from(length.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.micros().saturating_sub(micros))
}

impl SeenEvent {
    /// The principal as alarms name it: `user:alice`, `service_account:ci`, or the actor where it is none.
    pub(super) fn who(&self) -> String {
        match &self.principal_kind {
            Some(kind) => format!("{kind}:{}", self.actor),
            None => self.actor.clone(),
        }
    }
}
