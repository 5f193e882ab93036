//! Reading the book: lists, exports, and whether it is whole.

use std::{collections::HashMap, path::PathBuf};

use super::{
    App, Error, after,
    book::{Book, Report},
};
use crate::{
    model::{
        Action, AuditEvent, Caller, Id, Listed, Page, Scope,
        audit::{Position, RecordedEvent},
    },
    store::{Store, audit_events},
};

/// An export under way.
#[derive(Debug)]
pub struct Export {
    store: Store,
    filter: audit_events::Filter,
    /// The highest number of each stream when it began: what is behind was written since.
    ends: HashMap<Id, i64>,
    /// Behind which event to go on.
    place: Option<Position>,
}

impl Export {
    /// How many events are held in memory.
    const PIECE: i64 = 1_000;

    /// The next events; `None` when there are no more. No connection is held between them: whoever takes the export may
    /// take their time, and what is written meanwhile must not pile up behind a reader.
    pub async fn next(&mut self) -> Result<Option<Vec<RecordedEvent>>, Error> {
        let Some(place) = self.place else { return Ok(None) };
        let mut db = self.store.snapshot().await?;
        let mut found = audit_events::oldest(&mut db, self.filter.clone(), place, Self::PIECE).await?;
        self.place = found.last().map(RecordedEvent::position);
        found.retain(|event| self.ends.get(&event.stream).is_some_and(|end| event.seq <= *end));
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
        let mut db = self.store.snapshot().await?;
        let found = audit_events::newest(&mut db, filter, before, page.and_one().limit).await?;
        Ok(Listed::of(found, page, |event| event.position().to_string()))
    }

    /// The events of the book that there are at this moment, oldest first, a piece at a time. Needs `audit:read`.
    pub async fn export_events(
        &self,
        caller: &Caller,
        filter: audit_events::Filter,
    ) -> Result<Export, Error> {
        self.require(caller, Scope::AuditRead, Action::AuditExport, "audit_events").await?;
        // Who takes the whole book along is in the book.
        let event = AuditEvent::by(caller, Action::AuditExport).on("audit_events").detail(&filter);
        self.book.record(event).await?;
        let ends = audit_events::ends(&mut self.store.snapshot().await?).await?;
        Ok(Export { store: self.store.clone(), filter, ends, place: Some(Position::oldest()) })
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
