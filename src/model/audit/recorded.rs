//! An event as it stands in the book, and its place there.

use std::{fmt, str::FromStr};

use super::AuditEvent;
use crate::model::{Id, Mac, Timestamp, id::IdError};

/// An event as it stands in the book.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RecordedEvent {
    /// When it was written.
    pub at: Timestamp,
    /// Its identifier.
    pub id: Id,
    /// The process that wrote it; each process writes one stream.
    pub stream: Id,
    /// Its place in the stream, from 1, without gaps.
    pub seq: i64,
    /// `noun.verb`.
    pub action: String,
    /// `allowed`, `denied` or `failed`.
    pub outcome: String,
    /// Who.
    pub actor: String,
    /// The principal's identifier, where the actor is one.
    pub principal_id: Option<Id>,
    /// `user` or `service_account`, where the actor is one.
    pub principal_kind: Option<String>,
    /// Through which OAuth client.
    pub client_id: Option<String>,
    /// Proven by what.
    pub credential: Option<String>,
    /// To what.
    pub object: Option<String>,
    /// Which version.
    pub version: Option<String>,
    /// What more there is to say.
    pub detail: Option<String>,
    /// From where.
    pub source: String,
    /// The request's identifier.
    pub request_id: String,
    /// Why it was refused or failed.
    pub reason: Option<String>,
    /// In the first event of a stream: the last events of other streams that nobody had named yet, as JSON.
    #[serde(serialize_with = "as_json")]
    pub heads: Option<String>,
    /// The MAC over all of this and the predecessor's MAC; `None` in what is older than the chain.
    pub mac: Option<Mac>,
}

/// No text in the book is longer than this, in characters.
const MAX_TEXT: usize = 2_000;

/// A text that is one line wherever it is printed, and not long: whatever somebody sent, it cannot look like another event,
/// nor steer a terminal, nor fill the disk.
fn tame(text: String) -> String {
    let unruly = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    if text.len() <= MAX_TEXT && !text.chars().any(unruly) {
        return text;
    }
    let kept = text.chars().take(MAX_TEXT).map(|c| if unruly(c) { char::REPLACEMENT_CHARACTER } else { c });
    let mut tamed: String = kept.collect();
    if text.chars().nth(MAX_TEXT).is_some() {
        tamed.push('…');
    }
    tamed
}

/// JSON inside JSON, not a text that holds some; a text that holds none stays a text.
#[expect(clippy::ref_option, reason = "serde calls it so")]
fn as_json<S: serde::Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let value = text
        .as_ref()
        .map(|text| serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::String(text.clone())));
    serde::Serialize::serialize(&value, serializer)
}

/// A place in the book, between two events: what comes after it in a list is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// When.
    pub at: Timestamp,
    /// In which stream.
    pub stream: Id,
    /// At which place of the stream.
    pub seq: i64,
}

impl Position {
    /// Before every event that was written before `moment`, and after all others.
    pub const fn of(moment: Timestamp) -> Self {
        Self { at: moment, stream: Id::from_bytes([0; 16]), seq: 0 }
    }

    /// After every event.
    pub const fn oldest() -> Self {
        Self::of(Timestamp::from_micros(i64::MIN))
    }

    /// Before every event.
    pub const fn newest() -> Self {
        Self::of(Timestamp::from_micros(i64::MAX))
    }
}

impl RecordedEvent {
    /// `event` as number `seq` of `stream`, without its MAC.
    pub fn new(event: AuditEvent, id: Id, stream: Id, seq: i64, at: Timestamp) -> Self {
        let (principal_id, principal_kind) = event.principal.unzip();
        Self {
            at,
            id,
            stream,
            seq,
            action: event.action.as_str().to_owned(),
            outcome: event.outcome.as_str().to_owned(),
            actor: tame(event.actor),
            principal_id,
            principal_kind: principal_kind.map(|kind| kind.as_str().to_owned()),
            client_id: event.client_id.map(tame),
            credential: event.credential.map(str::to_owned),
            object: event.object.map(tame),
            version: event.version.map(tame),
            detail: event.detail.map(tame),
            source: tame(event.source),
            request_id: tame(event.request_id),
            reason: event.reason.map(tame),
            heads: None,
            mac: None,
        }
    }

    /// The event's own place.
    pub fn position(&self) -> Position {
        Position { at: self.at, stream: self.stream, seq: self.seq }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.at.micros(), self.stream, self.seq)
    }
}

impl FromStr for Position {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut parts = text.split('.');
        let (Some(at), Some(stream), Some(seq), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(IdError);
        };
        Ok(Self {
            at: Timestamp::from_micros(at.parse().map_err(|_| IdError)?),
            stream: stream.parse()?,
            seq: seq.parse().map_err(|_| IdError)?,
        })
    }
}
