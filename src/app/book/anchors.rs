//! The checkpoint file, as a backup takes it along, and as a restored book is held against it.

use std::{collections::HashMap, io, path::Path};

use super::{Book, evidence};
use crate::{
    app::Error,
    crypto::{audit::AuditKeys, statement::Statement},
    model::{Id, Timestamp, chain::Checkpoint},
    store::{audit_checkpoints::CheckpointRow, audit_streams::StreamRow},
};

/// What checkpoints know of, and the book does not.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Behind {
    /// How many events.
    pub events: i64,
    /// The number of the newest checkpoint.
    pub checkpoint: i64,
    /// When that was made.
    pub at: Timestamp,
}

impl Book {
    /// The lines of the file that are checkpoints of this desk, up to number `newest`.
    pub(in crate::app) fn checkpoints_up_to(
        keys: &AuditKeys,
        path: &Path,
        newest: i64,
    ) -> Result<Vec<String>, Error> {
        let found = genuine(keys, path)?.into_iter();
        Ok(found.filter(|(checkpoint, _)| checkpoint.seq <= newest).map(|(_, line)| line).collect())
    }

    /// These lines as rows of the database.
    pub(in crate::app) fn checkpoints_of(keys: &AuditKeys, lines: &[String]) -> Vec<CheckpointRow> {
        let row = |line: &String| {
            let Checkpoint { seq, iat, events, .. } = read(keys, line)?;
            Some(CheckpointRow { seq, at: moment(iat), events, jws: line.clone(), filed_at: None })
        };
        lines.iter().filter_map(row).collect()
    }

    /// Whether the checkpoints in the file go further than `streams`.
    pub(in crate::app) fn behind(
        keys: &AuditKeys,
        path: &Path,
        streams: &[StreamRow],
    ) -> Result<Option<Behind>, Error> {
        let found = genuine(keys, path)?;
        let Some((newest, _)) = found.iter().max_by_key(|(checkpoint, _)| checkpoint.seq) else {
            return Ok(None);
        };
        let mut known: HashMap<Id, i64> = HashMap::new();
        for head in found.iter().flat_map(|(checkpoint, _)| &checkpoint.heads) {
            let end = known.entry(head.stream).or_default();
            *end = head.seq.max(*end);
        }
        for row in streams {
            known.entry(row.head.stream).and_modify(|end| *end -= row.head.seq.min(*end));
        }
        let (checkpoint, at) = (newest.seq, moment(newest.iat));
        let events = known.values().sum();
        Ok((events > 0).then_some(Behind { events, checkpoint, at }))
    }
}

fn genuine(keys: &AuditKeys, path: &Path) -> Result<Vec<(Checkpoint, String)>, Error> {
    let lines = match evidence::lines(path) {
        Ok(lines) => lines,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Err(Error::Refused(format!("cannot read the checkpoints {}: {error}", path.display())));
        }
    };
    Ok(lines.into_iter().filter_map(|line| Some((read(keys, &line.jws)?, line.jws))).collect())
}

fn read(keys: &AuditKeys, line: &str) -> Option<Checkpoint> {
    keys.signer().verify(Statement::Checkpoint, line)
}

fn moment(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds.saturating_mul(1_000_000))
}
