//! What a server does by itself: notice what other processes have changed, keep the book, and forget what is over.
//!
//! Each of these goes at its own pace, so that a disk that hangs, or a book with years to remove, delays no other: above all
//! not that a revocation at the command line is in force within a second.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{App, Error};
use crate::store::{Hearing, keys, rate_limits, throttles, token_families};

/// How often to look whether another process has changed something; a revocation elsewhere is in force within a second.
const WATCH: Duration = Duration::from_millis(250);
/// How often to write down how many were turned away, and to look whether a checkpoint is due.
const SECOND: Duration = Duration::from_secs(1);
/// How often to look whether the files of the key-encryption key still open what they have to.
const KEKS: Duration = Duration::from_secs(10);
/// How often to forget.
const FORGET: Duration = Duration::from_mins(1);
/// How many rows one transaction forgets at most, so that nobody waits long for it.
const BATCH: i64 = 500;

impl App {
    /// Runs until it is dropped.
    pub async fn upkeep(self: Arc<Self>) {
        tokio::join!(
            every(WATCH, "could not look for changes", || self.notice()),
            self.hear(),
            every(SECOND, "could not write down what was turned away", || self.record_shed()),
            every(SECOND, "could not remember which API keys were used", || self.record_uses()),
            every(SECOND, "could not make a checkpoint of the book", || self.make_due_checkpoint(false)),
            every(SECOND, "could not look which checkpoints are to be filed", || self.file_checkpoints()),
            every(SECOND, "could not wrap data keys by the key-encryption key", || self.rewrap_by_itself()),
            every(KEKS, "could not look which key-encryption key is in use", || self.watch_keks()),
            every(FORGET, "could not clear what is over", || self.forget()),
            every(FORGET, "could not remove old events from the book", || self.prune_book()),
        );
    }

    /// Begins a new view if another process has changed anything that decides access.
    pub async fn notice(&self) -> Result<(), Error> {
        keys::revision(&mut self.store.read().await?).await?;
        self.view().await.map(drop)
    }

    /// Begins a new view as soon as the database says that there is a reason.
    async fn hear(&self) {
        let mut hearing = Hearing::default();
        loop {
            let heard = self.store.heard_of_change(&mut hearing).await.map_err(Error::from);
            let noticed = match heard {
                Ok(()) => self.notice().await,
                Err(error) => Err(error),
            };
            if let Err(error) = noticed {
                tracing::debug!(%error, "could not hear of changes; they are looked for meanwhile");
                tokio::time::sleep(SECOND).await;
            }
        }
    }

    /// Forgets sessions, revocations, throttles and messages that are over, and replaces an old signing key.
    async fn forget(&self) -> Result<(), Error> {
        let now = self.now();
        self.limits.forget(now);
        self.views.forget_keys();
        // An access token can outlive its session's end by its own lifetime.
        let over = now.minus(Duration::from_hours(1));
        loop {
            let mut tx = self.store.begin().await?;
            let sessions = token_families::forget_ended(&mut tx, over, BATCH).await?;
            let revoked = token_families::forget_revoked(&mut tx, now, BATCH).await?;
            let limits = rate_limits::forget(&mut tx, now, BATCH).await?;
            let throttles = throttles::forget_ended(&mut tx, now, BATCH).await?;
            tx.commit().await?;
            let messages = self.forget_messages(BATCH).await?;
            if sessions.max(revoked).max(throttles).max(messages).max(limits) < BATCH.unsigned_abs() {
                break;
            }
        }
        self.forget_seen().await?;
        self.replace_old_signing_key().await
    }
}

/// Does `work` again and again, and logs `failure` when it fails.
async fn every<W: Future<Output = Result<(), Error>>>(period: Duration, failure: &str, work: impl Fn() -> W) {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = work().await {
            tracing::warn!(%error, "{failure}");
        }
    }
}
