//! What was said of the book before: checkpoints in files, pruning records, and what events say of other streams.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs,
    io::{self, BufRead as _},
    path::{Path, PathBuf},
};

use super::fault::{Fault, Kind};
use crate::{
    app::Error,
    crypto::{self, audit::AuditKeys, statement::Statement},
    model::{
        Head, Id, Mac, Timestamp,
        audit::RecordedEvent,
        chain::{Checkpoint, Pruning},
    },
    store::{audit_checkpoints::CheckpointRow, audit_events::ChainRow, audit_streams::StreamRow},
};

/// What the book is held against.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// By stream and number.
    pub(super) claims: HashMap<Id, BTreeMap<i64, Vec<Claim>>>,
    pub(super) prunings: HashMap<Id, Pruning>,
    /// Number and time.
    pub(super) last_checkpoint: Option<(i64, i64)>,
    /// What is wrong with the statements.
    pub(super) faults: Vec<Fault>,
    /// Up to where streams are older than the chain.
    old: HashMap<Id, i64>,
}

/// Somebody's word on one event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) mac: Option<Mac>,
    pub(super) by: Claimant,
}

/// Whose word it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Claimant {
    /// A checkpoint's: its number and time.
    Checkpoint(i64, i64),
    /// The word of the first event of another stream.
    Event { stream: Id, seq: i64 },
}

impl fmt::Display for Claimant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(seq, iat) => {
                write!(f, "checkpoint {seq} of {}", Timestamp::from_micros(iat.saturating_mul(1_000_000)))
            }
            Self::Event { stream, seq } => write!(f, "event {seq} of stream {stream}"),
        }
    }
}

/// A line of a checkpoint file.
pub(super) struct Line {
    file: PathBuf,
    number: usize,
    pub(super) jws: String,
}

/// The lines of a checkpoint file. The last one may be half written; what has no end of line is not looked at.
pub(super) fn lines(path: &Path) -> io::Result<Vec<Line>> {
    let mut reader = io::BufReader::new(fs::File::open(path)?);
    let mut lines = Vec::new();
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 && bytes.ends_with(b"\n") {
        let jws = String::from_utf8_lossy(&bytes).trim().to_owned();
        lines.push(Line { file: path.to_owned(), number: lines.len() + 1, jws });
        bytes.clear();
    }
    Ok(lines)
}

impl Evidence {
    fn claim(&mut self, head: Head, by: Claimant) {
        let claims = self.claims.entry(head.stream).or_default().entry(head.seq).or_default();
        claims.push(Claim { mac: head.mac, by });
    }

    /// Up to which event a stream is older than the chain; 0 if it is not.
    pub(super) fn old_up_to(&self, stream: Id) -> i64 {
        let pruned = self.prunings.get(&stream).filter(|pruning| pruning.head.mac.is_none());
        self.old.get(&stream).copied().unwrap_or(0).max(pruned.map_or(0, |pruning| pruning.head.seq))
    }

    /// Nothing is chained yet, so that all there is is older than the chain.
    pub(super) fn nothing_is_chained(&mut self, streams: &[StreamRow]) {
        self.old.extend(streams.iter().map(|row| (row.head.stream, row.head.seq)));
    }

    /// Adds what the first events of streams say of other streams, if their own MACs are right.
    ///
    /// The very first event of the chain says what is older than the chain, and where that ends. No later one does.
    pub(super) fn hear(&mut self, keys: &AuditKeys, rows: &[ChainRow]) {
        let mut chain_began: Vec<(&RecordedEvent, Vec<Head>)> = Vec::new();
        for row in rows {
            let ChainRow::Event(event) = row else { continue };
            if event.seq != 1 || event.mac != Some(keys.event_mac(event, Mac::NONE)) {
                continue;
            }
            let heads = event.heads.as_deref().map(serde_json::from_str::<Vec<Head>>);
            let heads = heads.and_then(Result::ok).unwrap_or_default();
            for head in &heads {
                self.claim(*head, Claimant::Event { stream: event.stream, seq: event.seq });
            }
            if heads.iter().any(|head| head.mac.is_none()) {
                chain_began.push((event, heads));
            }
        }
        chain_began.sort_by_key(|(event, _)| event.at);
        let mut chain_began = chain_began.into_iter();
        if let Some((_, heads)) = chain_began.next() {
            let old = heads.iter().filter(|head| head.mac.is_none());
            self.old.extend(old.map(|head| (head.stream, head.seq)));
        }
        for (event, _) in chain_began {
            let what = "it says that events are older than the chain, which had begun long before".to_owned();
            self.faults.push(Fault::at(&ChainRow::Event(event.clone()), Kind::Contradicted, what));
        }
    }

    /// Takes no stream for older than the chain of which there is any sign that it was chained.
    pub(super) fn doubt_age(&mut self, streams: &[StreamRow]) {
        let chained = |row: &StreamRow| row.seal.is_some() || row.head.mac.is_some();
        for row in streams.iter().filter(|row| chained(row)) {
            self.old.remove(&row.head.stream);
        }
        let Self { old, claims, .. } = self;
        old.retain(|stream, _| {
            claims.get(stream).is_none_or(|claims| claims.values().flatten().all(|claim| claim.mac.is_none()))
        });
    }

    /// Adds the checkpoints of all files together, and says which are forged, and which are missing up to number `filed`.
    pub(super) fn read_checkpoints(&mut self, keys: &AuditKeys, lines: &[Line], filed: i64, sources: &str) {
        let mut found: BTreeMap<i64, (Checkpoint, Mac)> = BTreeMap::new();
        for Line { file, number, jws } in lines {
            let place = format!("line {number} of {}", file.display());
            let Some(checkpoint) = keys.signer().verify::<Checkpoint>(Statement::Checkpoint, jws) else {
                let what = format!("{place} is no checkpoint of this desk: it was changed or forged");
                self.faults.push(Fault::general(Kind::Checkpoint, what));
                continue;
            };
            let digest = Mac(crypto::sha256(jws.as_bytes()));
            let seq = checkpoint.seq;
            match found.get(&seq) {
                Some((_, other)) if *other != digest => {
                    let what = format!(
                        "{place} is another checkpoint {seq} than the one before: the database was rolled back to \
                         before it, and went on from there"
                    );
                    self.faults.push(Fault::general(Kind::Checkpoint, what));
                    self.claim_all(&checkpoint);
                }
                Some(_) => {}
                None => drop(found.insert(seq, (checkpoint, digest))),
            }
        }
        self.check_sequence(&found, filed, sources);
        for (checkpoint, _) in found.values() {
            self.claim_all(checkpoint);
        }
        self.last_checkpoint = found.last_key_value().map(|(seq, (checkpoint, _))| (*seq, checkpoint.iat));
    }

    /// Adds the checkpoints that do not stand in the file yet.
    pub(super) fn read_unfiled(&mut self, keys: &AuditKeys, rows: &[CheckpointRow]) {
        for row in rows.iter().filter(|row| row.filed_at.is_none()) {
            if let Some(checkpoint) = keys.signer().verify(Statement::Checkpoint, &row.jws) {
                self.claim_all(&checkpoint);
            }
        }
    }

    /// Is every stream known to checkpoints up to where its row says? Otherwise none would be made of what lies between.
    pub(super) fn check_marks(&mut self, streams: &[StreamRow]) {
        for row in streams.iter().filter(|row| row.anchored > 0 && row.seal.is_some()) {
            let Head { stream, seq, .. } = row.head;
            let claims = self.claims.get(&stream).and_then(|claims| claims.get(&row.anchored));
            let is_known =
                claims.into_iter().flatten().any(|claim| matches!(claim.by, Claimant::Checkpoint(..)));
            if !is_known {
                let what = format!(
                    "no checkpoint names event {}, and its row in audit_streams says so",
                    row.anchored
                );
                self.faults.push(Fault::of(stream, seq, Kind::Head, what));
            }
        }
    }

    fn claim_all(&mut self, checkpoint: &Checkpoint) {
        for head in &checkpoint.heads {
            self.claim(*head, Claimant::Checkpoint(checkpoint.seq, checkpoint.iat));
        }
    }

    fn check_sequence(&mut self, found: &BTreeMap<i64, (Checkpoint, Mac)>, filed: i64, sources: &str) {
        let mut previous: Option<(i64, Mac)> = None;
        let mut strange = Vec::new();
        let mut missing = |from: i64, to: i64| {
            if from <= to {
                let which = if from == to {
                    format!("checkpoint {to} is")
                } else {
                    format!("checkpoints {from} to {to} are")
                };
                let what = format!("{which} missing in {sources}");
                self.faults.push(Fault::general(Kind::Checkpoint, what));
            }
        };
        for (seq, (checkpoint, digest)) in found {
            let before = previous.map_or(0, |(seq, _)| seq);
            missing(before + 1, seq - 1);
            if before == seq - 1 && checkpoint.previous != previous.map(|(_, digest)| digest) {
                let what = format!(
                    "checkpoint {seq} does not follow checkpoint {before}: the database was rolled back between them"
                );
                strange.push(Fault::general(Kind::Checkpoint, what));
            }
            previous = Some((*seq, *digest));
        }
        missing(previous.map_or(0, |(seq, _)| seq) + 1, filed);
        self.faults.append(&mut strange);
    }

    /// Holds the pruning records against all else that was said of the events they end with.
    pub(super) fn check_prunings(&mut self) {
        for pruning in self.prunings.values() {
            let Head { stream, seq, mac } = pruning.head;
            let claims = self.claims.get(&stream).and_then(|claims| claims.get(&seq));
            for claim in claims.into_iter().flatten().filter(|claim| claim.mac != mac) {
                let what = format!("the last event that was pruned is not the one that {} names", claim.by);
                self.faults.push(Fault::of(stream, seq, Kind::Pruning, what));
            }
        }
    }

    /// Adds the pruning records.
    pub(super) fn read_prunings(&mut self, keys: &AuditKeys, records: Vec<(Id, String)>) {
        for (stream, jws) in records {
            match keys.signer().verify::<Pruning>(Statement::Pruning, &jws) {
                Some(pruning) if pruning.head.stream == stream => {
                    self.prunings.insert(stream, pruning);
                }
                _ => {
                    let what = "the record of what was pruned from it is forged".to_owned();
                    self.faults.push(Fault::of(stream, 1, Kind::Pruning, what));
                }
            }
        }
    }
}

/// The lines of every file. The usual one may be missing as long as nothing was ever written to it, or others are given.
pub(super) fn read_files(usual: &Path, given: &[PathBuf]) -> Result<Vec<Line>, Error> {
    let mut all = Vec::new();
    for path in given.iter().map(PathBuf::as_path).chain([usual]) {
        match lines(path) {
            Ok(lines) => all.extend(lines),
            Err(error) if error.kind() == io::ErrorKind::NotFound && path == usual => {}
            Err(error) => {
                return Err(Error::Refused(format!(
                    "cannot read the checkpoints {}: {error}",
                    path.display()
                )));
            }
        }
    }
    Ok(all)
}

/// Whether there is a genuine checkpoint in the file.
pub(super) fn is_in_file(keys: &AuditKeys, path: &Path) -> io::Result<bool> {
    let genuine =
        |line: &Line| keys.signer().verify::<Checkpoint>(Statement::Checkpoint, &line.jws).is_some();
    match lines(path) {
        Ok(lines) => Ok(lines.iter().any(genuine)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The number of the last genuine checkpoint in the file; 0 if there is none.
pub(super) fn last_in_file(keys: &AuditKeys, path: &Path) -> i64 {
    let claims = |line: &Line| keys.signer().verify::<Checkpoint>(Statement::Checkpoint, &line.jws);
    let lines = lines(path).unwrap_or_default();
    lines.iter().rev().find_map(claims).map_or(0, |checkpoint| checkpoint.seq)
}

/// What a person would call these files.
pub(super) fn names(usual: &Path, given: &[PathBuf]) -> String {
    let all: Vec<_> =
        given.iter().map(|path| path.display().to_string()).chain([usual.display().to_string()]).collect();
    all.join(", ")
}
