//! Keys as a client has them.

use std::{str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    model::{Clock as _, Provider, SystemClock, Timestamp},
    secret::Secret,
};

/// How long before its end a key counts as ending: whoever asks for it wants to use it.
const MARGIN: Duration = Duration::from_mins(1);

/// One provider's key, as `GET /llm-keys/{provider}` tells it.
#[derive(Debug, Deserialize)]
pub struct LlmKey {
    /// The provider.
    #[serde(deserialize_with = "parsed")]
    pub provider: Provider,
    /// The project it was read from.
    pub project: String,
    /// The key.
    pub key: Secret,
    /// The number of its version.
    pub version: i64,
    /// How the desk came by it.
    pub mode: String,
    /// From when it is void.
    pub expires_at: Option<Timestamp>,
    /// Whether the desk can revoke it at the provider.
    pub revocable: bool,
    /// The variable in which the provider's own SDK looks for it.
    pub env: String,
    /// Since when it is here, if it is a copy because the desk is away.
    #[serde(default)]
    pub copied_at: Option<Timestamp>,
}

/// The same, with the key readable.
#[derive(Serialize)]
pub struct OpenedKey<'a> {
    provider: &'a Provider,
    project: &'a str,
    key: &'a str,
    version: i64,
    mode: &'a str,
    expires_at: Option<Timestamp>,
    revocable: bool,
    env: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    copied_at: Option<Timestamp>,
}

impl LlmKey {
    /// With the key readable, for whoever it was fetched for.
    #[expect(clippy::disallowed_methods, reason = "the key goes to who asked for it")]
    pub fn opened(&self) -> OpenedKey<'_> {
        let Self { provider, project, key, version, mode, expires_at, revocable, env, copied_at } = self;
        OpenedKey {
            provider,
            project,
            key: key.expose(),
            version: *version,
            mode,
            expires_at: *expires_at,
            revocable: *revocable,
            env,
            copied_at: *copied_at,
        }
    }

    /// Whether it ends so soon that it may be void when it is used.
    pub(super) fn is_ending(&self) -> bool {
        let soon = SystemClock.now().plus(MARGIN);
        self.expires_at.is_some_and(|end| end <= soon)
    }
}

/// The entity tag of an answer: says whether keys, versions or grants have changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etag(pub(super) String);

/// All keys of a project.
#[derive(Debug)]
pub enum Keys {
    /// Nothing has changed since the entity tag that was shown. Nothing was handed over.
    Unchanged,
    /// These.
    Handed(Handed),
}

/// Keys that were handed over.
#[derive(Debug)]
pub struct Handed {
    /// By provider.
    pub keys: Vec<(Provider, Secret)>,
    /// To be shown next time; none if this is a copy.
    pub etag: Option<Etag>,
    /// Since when they are here, if they are a copy because the desk is away.
    pub copied_at: Option<Timestamp>,
}

fn parsed<'de, T: FromStr, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom("not what it should be"))
}
