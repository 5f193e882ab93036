//! Reading the book: lists, exports, and whether it is whole.

use std::path::PathBuf;

use super::{
    App, Error, after,
    book::{Book, Report},
};
use crate::{
    model::{
        Action, AuditEvent, Caller, Listed, Page, Scope,
        audit::{Position, RecordedEvent},
    },
    store::{Connection, audit_events},
};

/// An export under way.
#[derive(Debug)]
pub struct Export {
    db: Connection,
    filter: audit_events::Filter,
    /// Behind which event to go on.
    place: Option<Position>,
}

impl Export {
    /// How many events are held in memory.
    const PIECE: i64 = 1_000;

    /// The next events; `None` when there are no more.
    pub async fn next(&mut self) -> Result<Option<Vec<RecordedEvent>>, Error> {
        let Some(place) = self.place else { return Ok(None) };
        let found = audit_events::oldest(&mut self.db, self.filter.clone(), place, Self::PIECE).await?;
        self.place = found.last().map(RecordedEvent::position);
        Ok(self.place.map(|_| found))
    }
}

impl App {
    /// The events of the book, newest first. Needs `audit:read`.
    pub async fn audit_events(
        &self,
        caller: &Caller,
        filter: audit_events::Filter,
        page: &Page,
    ) -> Result<Listed<RecordedEvent>, Error> {
        self.require(caller, Scope::AuditRead, Action::AuditRead, "audit_events").await?;
        let bounds = [after::<Position>(page)?, filter.until.map(Position::of)];
        let before = bounds.into_iter().flatten().min().unwrap_or(Position::newest());
        let mut db = self.store.read().await?;
        let found = audit_events::newest(&mut db, filter, before, page.and_one().limit).await?;
        Ok(Listed::of(found, page, |event| event.position().to_string()))
    }

    /// The events of the book as they are at this moment, oldest first, a piece at a time. Needs `audit:read`.
    pub async fn export_events(
        &self,
        caller: &Caller,
        filter: audit_events::Filter,
    ) -> Result<Export, Error> {
        self.require(caller, Scope::AuditRead, Action::AuditExport, "audit_events").await?;
        // Who takes the whole book along is in the book.
        let event = AuditEvent::by(caller, Action::AuditExport).on("audit_events").detail(&filter);
        self.book.record(event).await?;
        Ok(Export { db: self.store.snapshot().await?, filter, place: Some(Position::oldest()) })
    }

    /// Whether the book is whole, as far as its chain, the usual checkpoint file and these `files` can tell. `progress` is
    /// told how many events of how many have been looked at. Needs `audit:read`.
    pub async fn verify_book(
        &self,
        caller: &Caller,
        files: &[PathBuf],
        progress: impl FnMut(u64, u64),
    ) -> Result<Report, Error> {
        self.require(caller, Scope::AuditRead, Action::AuditVerify, "audit_events").await?;
        let usual = &self.settings.audit.checkpoint_file;
        let report = Book::verify(&self.store, &self.keyring.audit(), usual, files, progress).await?;
        let event = AuditEvent::by(caller, Action::AuditVerify).on("audit_events");
        let event = match report.faults.first() {
            None => event.detail(format_args!("{} events", report.events)),
            Some(fault) => event.failed(fault.to_string()),
        };
        // The answer matters more than that it was asked for: a book that cannot be written can still be judged.
        if let Err(error) = self.book.record(event).await {
            tracing::warn!(%error, "that the book was verified is not in the book");
        }
        Ok(report)
    }

    /// The public key that verifies checkpoints, as a JWK.
    pub fn checkpoint_key(&self) -> serde_json::Value {
        self.keyring.audit().signer().public_jwk()
    }
}
