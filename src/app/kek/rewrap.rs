//! Data keys that the previous KEK wraps are wrapped by the current one, while the desk works.
//!
//! One row is one transaction with its line in the book, and is changed only if it still is what was read: several processes
//! may be at it, and whoever is killed leaves rows of either kind, which the same two files open. A server needs no KEK for
//! its work, so one that knows only the old one goes on; but it says in time that its next start would be refused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Files;
use crate::{
    app::{App, Error, hex},
    crypto::keyring::{Kek, Keks},
    model::{Action, Caller, Scope},
    store::keys::{self, DataKeyRow},
};

/// What a process knows of its KEKs.
#[derive(Debug)]
pub(in crate::app) struct Held {
    files: Files,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: [u8; 16],
    previous: Option<[u8; 16]>,
    /// The keys themselves, as long as there may be something to wrap.
    keks: Option<Arc<Keks>>,
    /// What was said last about the next start.
    complaint: Option<String>,
}

impl Held {
    pub(in crate::app) fn new(files: Files, keks: Keks) -> Self {
        let (current, previous) = (keks.current.id(), keks.previous.as_ref().map(Kek::id));
        let keks = previous.map(|_| Arc::new(keks));
        Self { files, state: Mutex::new(State { current, previous, keks, complaint: None }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of `rows` the current KEK wraps, the previous one, and another.
    pub(in crate::app) fn count(&self, rows: &[DataKeyRow]) -> [(&'static str, usize); 3] {
        let state = self.state();
        let (current, previous) = (state.current, state.previous);
        drop(state);
        let by = |wanted: [u8; 16]| rows.iter().filter(|row| row.kek_id == wanted).count();
        let (current, previous) = (by(current), previous.map_or(0, by));
        [("current", current), ("previous", previous), ("other", rows.len() - current - previous)]
    }
}

impl App {
    /// Wraps by the current KEK what the previous one wraps, and tells how many data keys this process has wrapped.
    pub async fn rewrap_data_keys(&self, caller: &Caller) -> Result<usize, Error> {
        let Some(keks) = self.keks.state().keks.clone() else { return Ok(0) };
        let rows = keys::data_keys(&mut self.store.read().await?).await?;
        let mut wrapped = 0;
        for row in rows.iter().filter(|row| row.kek_id != keks.current.id()) {
            wrapped += usize::from(self.rewrap_data_key(caller, &keks, row).await?);
        }
        let rows = keys::data_keys(&mut self.store.read().await?).await?;
        if rows.iter().all(|row| row.kek_id == keks.current.id()) {
            self.keks.state().keks = None;
        }
        Ok(wrapped)
    }

    /// Whether it was this process that did it.
    async fn rewrap_data_key(&self, caller: &Caller, keks: &Keks, row: &DataKeyRow) -> Result<bool, Error> {
        let new = keks
            .rewrap(row.id, &row.purpose, &row.wrapped, &*self.surroundings.entropy)
            .map_err(|error| Error::internal(format!("data key {} does not open: {error}", row.id)))?;
        let object = format!("data_key:{}", row.id);
        let mut change = self.change(caller, Scope::Admin, Action::DataKeyRewrap, object).await?;
        change.event = change.event.clone().detail(format!("kek={}", hex(&keks.current.id())));
        match keys::rewrap_data_key(&mut change, row, keks.current.id(), new).await {
            // Another process was faster, and its line is in the book.
            Ok(false) => Ok(false),
            Ok(true) => change.finish(Ok(true)).await,
            Err(error) => change.finish(Err(error.into())).await,
        }
    }

    /// The same by the server itself.
    pub(in crate::app) async fn rewrap_by_itself(&self) -> Result<(), Error> {
        if self.keks.state().keks.is_none() {
            return Ok(());
        }
        let caller = Caller::operating_system("keydesk", self.new_request_id());
        let wrapped = self.rewrap_data_keys(&caller).await?;
        if self.keks.state().keks.is_none() {
            tracing::info!(
                kek.file = %self.keks.files.current.display(),
                kek.previous_file = %self.keks.files.previous_path().display(),
                data_keys.wrapped = wrapped,
                "every data key is wrapped by the key-encryption key; the previous one is of no more use to this \
                 database: remove kek.previous_file, or the file if it lies beside the other"
            );
        }
        Ok(())
    }

    /// Looks whether the files, as they are now, open the data keys, as they are now, and says so if the next start would be
    /// refused: another process may have put a KEK in place that is not here.
    pub(in crate::app) async fn watch_keks(&self) -> Result<(), Error> {
        let rows = keys::data_keys(&mut self.store.read().await?).await?;
        let found = self.keks.files.read().map_err(|error| error.to_string()).and_then(|keks| {
            let other = rows.iter().find(|row| keks.check(row.id, &row.purpose, &row.wrapped).is_err());
            match other {
                None => Ok(keks),
                Some(row) => {
                    let (id, file) = (row.id, self.keks.files.current.display());
                    Err(format!("data key {id} is wrapped by another key than the one in {file}"))
                }
            }
        });
        let mut state = self.keks.state();
        let complaint = found.as_ref().err().cloned();
        if let Ok(keks) = found
            && state.keks.is_none()
        {
            (state.current, state.previous) = (keks.current.id(), keks.previous.as_ref().map(Kek::id));
        }
        if let Some(complaint) = complaint.as_ref().filter(|text| state.complaint.as_ref() != Some(text)) {
            tracing::warn!(
                "{complaint}: this server goes on, but cannot be started again until the right file is there; if the \
                 key-encryption key was replaced elsewhere, copy the new one to this machine"
            );
        }
        state.complaint = complaint;
        Ok(())
    }
}
