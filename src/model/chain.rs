//! The chain of the book: what each event's MAC is computed over, and what is said of a stream's last event.
//!
//! The canonical bytes of an event are a version byte and then every column of its row, each with its length, so that no
//! two events have the same bytes. They are pinned by `tests/vectors/audit-chain.json`.

use std::{fmt, str::FromStr};

use super::{Id, audit::RecordedEvent};

/// The version of [`canonical`].
const VERSION: u8 = 1;

/// HMAC-SHA-256 of an event and its predecessor's. In texts it is hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 32]);

impl Mac {
    /// What stands for the predecessor of a stream's first event.
    pub const NONE: Self = Self([0; 32]);
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 32 bytes in hexadecimal")]
pub struct MacError;

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(MacError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(pair).map_err(|_| MacError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| MacError)?;
        }
        Ok(Self(bytes))
    }
}

impl serde::Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The last event of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The stream.
    pub stream: Id,
    /// The event's number.
    pub seq: i64,
    /// The event's MAC; `None` in a stream that is older than the chain.
    pub mac: Option<Mac>,
}

/// How far the book had come at a moment: the claims of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Its number: 1, 2, 3, …
    pub seq: i64,
    /// When it was made, in seconds since 1970 (RFC 7519 §4.1.6).
    pub iat: i64,
    /// The SHA-256 of the checkpoint before it; `None` in the first.
    pub previous: Option<Mac>,
    /// How many events had ever been written.
    pub events: i64,
    /// The last event of each stream that had grown since the checkpoint before.
    pub heads: Vec<Head>,
}

/// What was removed because it was old enough: the claims of a pruning record, one for each stream.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pruning {
    /// The last event removed, and all before it in its stream. Its MAC is what the first event kept is chained to.
    pub head: Head,
    /// When it was removed, in seconds since 1970.
    pub iat: i64,
    /// The checkpoint behind which it was.
    pub checkpoint: i64,
}

/// The bytes of an event that its MAC covers: all of its row but the MAC itself.
pub fn canonical(event: &RecordedEvent) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.push(VERSION);
    let mut field = |bytes: Option<&[u8]>| match bytes {
        None => out.push(0),
        Some(bytes) => {
            out.push(1);
            out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend(bytes);
        }
    };
    field(Some(event.id.as_bytes()));
    field(Some(event.stream.as_bytes()));
    field(Some(&event.seq.to_be_bytes()));
    field(Some(&event.at.micros().to_be_bytes()));
    field(Some(event.action.as_bytes()));
    field(Some(event.outcome.as_bytes()));
    field(Some(event.actor.as_bytes()));
    field(event.principal_id.as_ref().map(|id| id.as_bytes().as_slice()));
    for column in [
        &event.principal_kind,
        &event.client_id,
        &event.credential,
        &event.object,
        &event.version,
        &event.detail,
    ] {
        field(column.as_ref().map(String::as_bytes));
    }
    field(Some(event.source.as_bytes()));
    field(Some(event.request_id.as_bytes()));
    field(event.reason.as_ref().map(String::as_bytes));
    field(event.heads.as_ref().map(String::as_bytes));
    out
}
