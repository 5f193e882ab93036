//! Which key-encryption keys there are, what each of them wraps, and what is to be done next.
//!
//! This is asked when something is wrong, too, so it needs no desk that opens, and what cannot be read is part of the answer.

use std::path::Path;

use serde::Serialize;

use super::{Files, read};
use crate::{
    app::{Error, desk::Location, hex},
    crypto::keyring::Kek,
    store::keys::DataKeyRow,
};

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// None is under way.
    None,
    /// A new key is made, and does not wrap yet.
    Begun,
    /// Some data keys are still wrapped by the previous key.
    UnderWay,
    /// Nothing is wrapped by the previous key any more, and it is still there.
    Over,
    /// The desk does not open with these files.
    Refused,
}

/// One key-encryption key.
#[derive(Debug, Serialize)]
pub struct KekRow {
    /// `current`, `previous`, `next`, or `other` for one that is only in the database.
    pub role: &'static str,
    /// Its identifier, which says nothing about the key.
    pub id: Option<String>,
    /// Where it is.
    pub file: Option<String>,
    /// How many data keys it wraps.
    pub data_keys: usize,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// What there is to know.
#[derive(Debug, Serialize)]
pub struct Status {
    /// How far a rotation is.
    pub stage: Stage,
    /// Every key-encryption key that is in a file or in the database.
    pub keks: Vec<KekRow>,
    /// How many data keys do not open although their key-encryption key is here.
    pub damaged: usize,
    /// What to do next, in words.
    pub advice: String,
}

impl Location {
    /// Looks, and changes nothing.
    pub async fn kek_status(&self) -> Result<Status, Error> {
        self.must_exist().await?;
        let rows = self.data_keys().await?;
        let files = [
            ("current", self.kek.current.clone(), true),
            ("previous", self.kek.previous_path(), self.kek.previous.is_some()),
            ("next", self.kek.next_path(), false),
        ];
        let (mut keks, mut found) = (Vec::new(), Vec::new());
        for (role, path, is_named) in &files {
            if let Some((row, kek)) = look(role, path, *is_named, &rows) {
                keks.push(row);
                found.extend(kek);
            }
        }
        let known: Vec<_> = found.iter().map(Kek::id).collect();
        let mut others: Vec<_> = rows
            .iter()
            .map(|row| &row.kek_id)
            .filter(|id| !known.iter().any(|kek| id.as_slice() == kek))
            .collect();
        others.sort();
        others.dedup();
        let is_foreign = !others.is_empty();
        keks.extend(others.into_iter().map(|id| KekRow {
            role: "other",
            id: Some(hex(id)),
            file: None,
            data_keys: count(&rows, id),
            problem: Some("no file with it is here".to_owned()),
        }));
        let is_damaged = |row: &&DataKeyRow| {
            let kek = found.iter().find(|kek| row.kek_id == kek.id());
            kek.is_some_and(|kek| kek.check(row.id, &row.purpose, &row.wrapped).is_err())
        };
        let damaged = rows.iter().filter(is_damaged).count();
        let stage = match self.kek.read() {
            Err(_) => Stage::Refused,
            Ok(_) if is_foreign || damaged > 0 => Stage::Refused,
            Ok(read) => match read.previous {
                Some(previous) if count(&rows, &previous.id()) > 0 => Stage::UnderWay,
                Some(_) => Stage::Over,
                None if self.kek.next_path().exists() => Stage::Begun,
                None => Stage::None,
            },
        };
        Ok(Status { stage, keks, damaged, advice: self.kek.advice(stage) })
    }
}

impl Files {
    fn advice(&self, stage: Stage) -> String {
        let previous = self.previous_path();
        match stage {
            Stage::None => "no rotation is under way; `keydesk kek rotate` begins one".to_owned(),
            Stage::Begun => {
                "a rotation was interrupted before anything was changed; `keydesk kek rotate` goes on with it".to_owned()
            }
            Stage::UnderWay => "a rotation is under way: a server that was started with both files goes on with it by \
                                itself, and so does `keydesk kek rotate`"
                .to_owned(),
            Stage::Over if self.previous.is_some() => format!(
                "the rotation is over: remove kek.previous_file from the configuration of every machine, and {}; keep \
                 a copy as long as you keep backups from before",
                previous.display()
            ),
            Stage::Over => format!(
                "the rotation is over: `keydesk kek rotate` puts {} aside, or remove it; keep a copy as long as you \
                 keep backups from before",
                previous.display()
            ),
            Stage::Refused => "the desk does not open with these files; put the key-encryption keys that the data keys \
                               are wrapped by where kek.file and kek.previous_file say, or restore a backup if data \
                               keys are damaged"
                .to_owned(),
        }
    }
}

fn look(
    role: &'static str,
    path: &Path,
    is_named: bool,
    rows: &[DataKeyRow],
) -> Option<(KekRow, Option<Kek>)> {
    let (kek, problem) = match read(path, "key-encryption key") {
        Ok(None) if !is_named => return None,
        Ok(None) => (None, Some("is missing".to_owned())),
        Ok(Some(kek)) => (Some(kek), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let id = kek.as_ref().map(Kek::id);
    let row = KekRow {
        role,
        id: id.map(|id| hex(&id)),
        file: Some(path.display().to_string()),
        data_keys: id.map_or(0, |id| count(rows, &id)),
        problem,
    };
    Some((row, kek))
}

fn count(rows: &[DataKeyRow], kek: &[u8]) -> usize {
    rows.iter().filter(|row| row.kek_id == kek).count()
}
