//! What was turned away unseen: requests refused because there was too much to do, or too many had failed or come before,
//! or because the database could not be used; and refusals of strangers, beyond so many a minute.
//!
//! They are counted and written in the book once a second. An event each would let strangers fill the book as fast as they
//! can send, and would make the refusal wait for the very thing that is scarce or broken.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{App, Error};
use crate::model::{Action, AuditEvent, Origin};

/// Of so many who were refused the book has a line of their own every second; the others share one.
const NAMED: usize = 8;

/// How many since the last event.
#[derive(Debug, Default)]
pub(super) struct Shed {
    busy: AtomicU64,
    throttled: AtomicU64,
    unavailable: AtomicU64,
    unnamed: AtomicU64,
    refused: Mutex<HashMap<Like, (AuditEvent, u64)>>,
}

/// What makes refusals alike: what was asked, why it was refused, by whom and from where it was asked.
type Like = (&'static str, Option<String>, String, String);

impl Shed {
    /// Counts `error` if it is one of those; otherwise it is to be written like any other.
    pub(super) fn counts(&self, error: &Error) -> bool {
        let counter = match error {
            Error::Busy => &self.busy,
            Error::TooMany { .. } => &self.throttled,
            Error::Unavailable(_) => &self.unavailable,
            // Counted where it was refused, where it was known who asked.
            Error::RateLimited { .. } => return true,
            _ => return false,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Counts a refusal with those that are like it.
    pub(super) fn count(&self, event: AuditEvent) {
        self.add(event, 1);
    }

    fn add(&self, event: AuditEvent, count: u64) {
        let like = (event.action.as_str(), event.reason.clone(), event.actor.clone(), event.source.clone());
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() < NAMED || refused.contains_key(&like) {
            refused.entry(like).or_insert((event, 0)).1 += count;
        } else {
            self.unnamed.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn take_refused(&self) -> Vec<(AuditEvent, u64)> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.drain().map(|(_, counted)| counted).collect()
    }
}

impl App {
    /// Writes down what came to nothing, such as a refusal. While it is not known who asked, only so often: what exceeds that is
    /// counted, so that strangers cannot fill the book.
    pub(super) async fn record_bounded(&self, event: AuditEvent) -> Result<(), Error> {
        if event.principal.is_none() && !self.limits.note_stranger(&event.source, self.now()) {
            self.shed.count(event);
            return Ok(());
        }
        self.book.record(event).await
    }

    /// Writes down how many were turned away since the last time that this could be written.
    pub async fn record_shed(&self) -> Result<(), Error> {
        let Shed { busy, throttled, unavailable, unnamed, .. } = &self.shed;
        let counters =
            [(busy, "busy"), (throttled, "throttled"), (unavailable, "unavailable"), (unnamed, "refused")];
        for (counter, why) in counters {
            let count = counter.swap(0, Ordering::Relaxed);
            if count > 0 {
                let origin = Origin { source: SEVERAL.to_owned(), request_id: SEVERAL.to_owned() };
                let event = AuditEvent::anonymous(&origin, Action::TokenIssue);
                let written = self.book.record(event.denied(format!("{why}: {count} requests"))).await;
                if written.is_err() {
                    counter.fetch_add(count, Ordering::Relaxed);
                }
                written?;
            }
        }
        let mut refused = self.shed.take_refused().into_iter();
        while let Some((event, count)) = refused.next() {
            let written = match count {
                1 => event.clone(),
                _ => AuditEvent { request_id: SEVERAL.to_owned(), ..event.clone() }
                    .detail(format_args!("{count} requests")),
            };
            if let Err(error) = self.book.record(written).await {
                self.shed.add(event, count);
                refused.for_each(|(event, count)| self.shed.add(event, count));
                return Err(error);
            }
        }
        Ok(())
    }
}

const SEVERAL: &str = "several";
