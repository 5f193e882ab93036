//! What was said of the book before: checkpoints in files, pruning records, and what events say of other streams.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
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
        chain::{Checkpoint, Pruning},
    },
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
    old: HashSet<Id>,
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
    jws: String,
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
    pub(super) fn claim(&mut self, head: Head, claim: Claim) {
        if head.mac.is_none() {
            self.old.insert(head.stream);
        }
        self.claims.entry(head.stream).or_default().entry(head.seq).or_default().push(claim);
    }

    /// Whether a genuine statement says that the stream is older than the chain.
    pub(super) fn is_old(&self, stream: Id) -> bool {
        self.old.contains(&stream)
    }

    /// Nothing is chained yet, so that all there is is older than the chain.
    pub(super) fn nothing_is_chained(&mut self, streams: impl Iterator<Item = Id>) {
        self.old.extend(streams);
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

    fn claim_all(&mut self, checkpoint: &Checkpoint) {
        for head in &checkpoint.heads {
            let by = Claimant::Checkpoint(checkpoint.seq, checkpoint.iat);
            self.claim(*head, Claim { mac: head.mac, by });
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
                let mut fault = Fault::of(stream, seq, Kind::Pruning, what);
                fault.on_word_of(claim);
                self.faults.push(fault);
            }
        }
    }

    /// Adds the pruning records.
    pub(super) fn read_prunings(&mut self, keys: &AuditKeys, records: Vec<(Id, String)>) {
        for (stream, jws) in records {
            match keys.signer().verify::<Pruning>(Statement::Pruning, &jws) {
                Some(pruning) if pruning.head.stream == stream => {
                    if pruning.head.mac.is_none() {
                        self.old.insert(stream);
                    }
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

/// What a person would call these files.
pub(super) fn names(usual: &Path, given: &[PathBuf]) -> String {
    let all: Vec<_> =
        given.iter().map(|path| path.display().to_string()).chain([usual.display().to_string()]).collect();
    all.join(", ")
}
