//! Identifiers of stored things: version 7 UUIDs, so that they sort by age. Never a secret.

use std::{fmt, str::FromStr};

use uuid::{Builder, Uuid};

use super::{Timestamp, entropy};

/// A text that is no identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier")]
pub struct IdError;

/// The identifier of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Id(Uuid);

impl Id {
    /// A new identifier for something made `now`.
    pub fn generate(now: Timestamp, source: &dyn entropy::Entropy) -> Self {
        Self(Builder::from_unix_timestamp_millis(now.millis(), &entropy::random(source)).into_uuid())
    }

    /// From the 16 bytes the database holds.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes the database holds.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Id {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        text.parse().map(Self).map_err(|_| IdError)
    }
}
