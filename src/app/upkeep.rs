//! What a server does by itself: notice what other processes have changed, and forget what is over.

use std::{sync::Arc, time::Duration};

use super::{App, Error};
use crate::{
    model::Timestamp,
    store::{keys, throttles, token_families},
};

/// How often to look whether another process has changed something; a revocation elsewhere is in force within a second.
const WATCH: Duration = Duration::from_millis(250);
/// How often to write down how many were turned away.
const SECOND: Duration = Duration::from_secs(1);
/// How often to forget.
const FORGET: Duration = Duration::from_mins(1);
/// How many rows one transaction forgets at most, so that nobody waits long for it.
const BATCH: i64 = 500;

impl App {
    /// Runs until it is dropped.
    pub async fn upkeep(self: Arc<Self>) {
        let mut watch = tokio::time::interval(WATCH);
        watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut seen, mut ticks) = (0, 0_u128);
        loop {
            watch.tick().await;
            ticks += 1;
            if let Err(error) = self.notice(&mut seen).await {
                tracing::warn!(%error, "could not look for changes");
            }
            let second = ticks.is_multiple_of(SECOND.as_millis() / WATCH.as_millis());
            if second && let Err(error) = self.record_shed().await {
                tracing::warn!(%error, "could not write down what was turned away");
            }
            if second && let Err(error) = self.keep_checkpoints(false).await {
                tracing::warn!(%error, "could not make a checkpoint of the book");
            }
            let due = ticks.is_multiple_of(FORGET.as_millis() / WATCH.as_millis());
            if due && let Err(error) = self.forget().await {
                tracing::warn!(%error, "could not clear what is over");
            }
            if due && let Err(error) = self.prune_book().await {
                tracing::warn!(%error, "could not remove old events from the book");
            }
        }
    }

    /// Reads the signing keys again if anything that decides access has changed.
    async fn notice(&self, seen: &mut i64) -> Result<(), Error> {
        let revision = keys::revision(&mut self.store.read().await?).await?;
        if revision != *seen {
            self.load_signing_keys().await?;
            *seen = revision;
        }
        Ok(())
    }

    /// Forgets sessions, revocations, throttles and messages that are over, and replaces an old signing key.
    async fn forget(&self) -> Result<(), Error> {
        let now = self.now();
        self.limits.forget(now);
        // An access token can outlive its session's end by its own lifetime.
        let over = Timestamp::from_micros(now.micros() - 3_600_000_000);
        loop {
            let mut tx = self.store.begin().await?;
            let sessions = token_families::forget_ended(&mut tx, over, BATCH).await?;
            token_families::forget_revoked(&mut tx, now).await?;
            let throttles = throttles::forget_ended(&mut tx, now, BATCH).await?;
            tx.commit().await?;
            let messages = self.forget_messages(BATCH).await?;
            if sessions.max(throttles).max(messages) < BATCH.unsigned_abs() {
                break;
            }
        }
        self.forget_seen().await?;
        self.replace_old_signing_key().await
    }
}
