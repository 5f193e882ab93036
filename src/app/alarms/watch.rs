//! The watch: once a second what was written in the book, now and then the state of the desk.
//!
//! It runs beside the requests and shares nothing with them but the database, for short transactions.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};

use super::{memory::Memory, state};
use crate::{
    app::{App, Error},
    model::{Alarm, Rule, Timestamp},
};

const SECOND: Duration = Duration::from_secs(1);
/// How many rounds there are between looks at the disk, and at the keys.
const DISK: u64 = 10;
const KEYS: u64 = 60;
/// For how many rounds on end the rules may be unable to read the book.
const PATIENCE: u64 = 10;

/// What the watch remembers from one round to the next.
#[derive(Debug)]
pub struct Watch {
    app: Arc<App>,
    rounds: u64,
    /// What both clocks said in the last round.
    clocks: (Timestamp, Instant),
    book_failed: bool,
    /// For how many rounds the book could not be read.
    unread: u64,
    certificates_refused: u64,
    memory: Memory,
}

impl Watch {
    /// Begins now.
    pub fn new(app: Arc<App>) -> Self {
        let clocks = (app.now(), Instant::now());
        let memory = Memory::default();
        Self { app, rounds: 0, clocks, book_failed: false, unread: 0, certificates_refused: 0, memory }
    }

    /// Goes round for ever.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(SECOND);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.round().await;
        }
    }

    /// One round. What cannot be done now is done in the next one.
    pub async fn round(&mut self) {
        self.look_at_book().await;
        self.read_book().await;
        self.look_at_clock().await;
        self.look_at_certificate().await;
        if !self.app.filing.works() {
            let summary = "checkpoints of the book cannot be written to their file";
            self.raise(Alarm::new(Rule::CheckpointFailure, "checkpoints", summary)).await;
        }
        if self.rounds.is_multiple_of(DISK) {
            self.look_at_disk().await;
            if let Err(error) = self.app.look_at_places().await {
                tracing::debug!(%error, "cannot look how far the book was read");
            }
        }
        if self.rounds.is_multiple_of(KEYS)
            && let Err(error) = self.look_at_keys().await
        {
            tracing::debug!(%error, "cannot look at the keys");
        }
        self.rounds += 1;
    }

    /// A book that the rules cannot read for long is told of, because nothing that is in it is.
    async fn read_book(&mut self) {
        let Err(error) = self.catch_up().await else {
            self.unread = 0;
            return;
        };
        tracing::debug!(%error, "the rules cannot read the book at this moment");
        self.unread += 1;
        if self.unread >= PATIENCE && !self.book_failed {
            tracing::warn!(%error, "the rules cannot read the book");
            let summary = "the alarm rules cannot read the book: what is written in it is not looked at";
            self.raise(Alarm::new(Rule::BookFailure, "rules", summary)).await;
        }
    }

    /// Reads on until there is nothing new.
    async fn catch_up(&mut self) -> Result<(), Error> {
        while self.app.read_on(&mut self.memory).await? {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// The book fails when its writer says so, or when an alarm could not be written. It has recovered when the alarm about
    /// that can be written down.
    async fn look_at_book(&mut self) {
        if !self.book_failed && !self.app.book.is_writing() {
            self.note_failure().await;
        }
        if !self.book_failed {
            return;
        }
        if self.app.write_down_alarms().await.is_ok() && self.app.book.is_healthy().await {
            self.book_failed = false;
            self.raise(Alarm::new(Rule::BookRecovery, "book", "the book can be written again")).await;
        }
    }

    async fn note_failure(&mut self) {
        self.book_failed = true;
        let summary = "the book cannot be written, and no key is handed over without it";
        self.app.raise(Alarm::new(Rule::BookFailure, "book", summary)).await;
    }

    async fn raise(&mut self, alarm: Alarm) {
        if !self.app.raise(alarm).await && !self.book_failed {
            self.note_failure().await;
        }
    }

    async fn look_at_clock(&mut self) {
        let now = (self.app.now(), Instant::now());
        let (wall, steady) = std::mem::replace(&mut self.clocks, now);
        if let Some(alarm) = state::clock_jump(wall, now.0, now.1.duration_since(steady)) {
            self.raise(alarm).await;
        }
    }

    async fn look_at_certificate(&mut self) {
        let refused = self.app.certificates_refused();
        if std::mem::replace(&mut self.certificates_refused, refused) < refused {
            let summary =
                "the new files of the certificate cannot be used, and the ones before are served on";
            self.raise(Alarm::new(Rule::CertificateRefused, "certificate", summary)).await;
        }
    }

    async fn look_at_disk(&mut self) {
        let app = Arc::clone(&self.app);
        // Asked on a thread of its own: a network file system may take its time.
        let disk = tokio::task::spawn_blocking(move || app.disk()).await;
        if let Ok(Some(disk)) = disk
            && let Some(alarm) = state::disk_space(disk)
        {
            self.raise(alarm).await;
        }
    }

    /// What is about to expire, and whether the signing keys still open.
    async fn look_at_keys(&mut self) -> Result<(), Error> {
        if let Err(Error::Internal(_)) = self.app.load_signing_keys().await {
            let summary = "a sealed signing key does not open; those that were opened before are used on";
            self.raise(Alarm::new(Rule::BrokenSeal, "signing_keys", summary)).await;
        }
        for alarm in self.app.expiring().await? {
            self.raise(alarm).await;
        }
        Ok(())
    }
}
