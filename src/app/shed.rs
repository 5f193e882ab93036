//! What was turned away unseen: requests refused because there was too much to do, or too many had failed before, or
//! because the database could not be used.
//!
//! They are counted and written in the book once a second as one event. An event each would let strangers fill the book as
//! fast as they can send, and would make the refusal wait for the very thing that is scarce or broken.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{App, Error};
use crate::model::{Action, AuditEvent, Origin};

/// How many since the last event.
#[derive(Debug, Default)]
pub(super) struct Shed {
    busy: AtomicU64,
    throttled: AtomicU64,
    unavailable: AtomicU64,
}

impl Shed {
    /// Counts `error` if it is one of those; otherwise it is to be written like any other.
    pub(super) fn counts(&self, error: &Error) -> bool {
        let counter = match error {
            Error::Busy => &self.busy,
            Error::TooMany { .. } => &self.throttled,
            Error::Unavailable(_) => &self.unavailable,
            _ => return false,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        true
    }
}

impl App {
    /// Writes down how many were turned away since the last time that this could be written.
    pub(super) async fn record_shed(&self) -> Result<(), Error> {
        let Shed { busy, throttled, unavailable } = &self.shed;
        for (counter, why) in [(busy, "busy"), (throttled, "throttled"), (unavailable, "unavailable")] {
            let count = counter.swap(0, Ordering::Relaxed);
            if count > 0 {
                let origin = Origin { source: "several".to_owned(), request_id: "several".to_owned() };
                let event = AuditEvent::anonymous(&origin, Action::TokenIssue);
                let written = self.book.record(event.denied(format!("{why}: {count} requests"))).await;
                if written.is_err() {
                    counter.fetch_add(count, Ordering::Relaxed);
                }
                written?;
            }
        }
        Ok(())
    }
}
