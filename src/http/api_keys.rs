//! API keys on the wire: the same under `/me` and under `/admin`.

use std::time::Duration;

use poem_openapi::{Object, types::Example};
use serde::Deserialize;

use super::{
    payload::{JsonBody, list},
    schema::{NetworkList, Word, office, present},
};
use crate::{
    app::api_keys::{IssuedApiKey, NewKey},
    model::{Networks, ScopeSet},
};

/// An API key to be made.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
#[oai(example)]
pub(super) struct NewApiKey {
    /// What it is for.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none, validator(max_length = 100))]
    label: Option<String>,
    /// For how many seconds it is good; without end when absent.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none, validator(minimum(value = "1"), maximum(value = "3153600000")))]
    expires_in: Option<u32>,
    /// What it may do at most, space-separated; `llm-keys:read` when absent.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none)]
    scope: Option<Word<ScopeSet>>,
    /// Addresses and networks from which it may be used; anywhere when absent.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none)]
    sources: Option<NetworkList<false>>,
}

impl Example for NewApiKey {
    fn example() -> Self {
        Self {
            label: Some("laptop".to_owned()),
            expires_in: Some(7_776_000),
            scope: "llm-keys:read".parse().ok().map(Word),
            sources: office(),
        }
    }
}

impl From<NewApiKey> for NewKey {
    fn from(new: NewApiKey) -> Self {
        Self {
            label: new.label.unwrap_or_default(),
            lifetime: new.expires_in.map(|seconds| Duration::from_secs(u64::from(seconds))),
            scope: new.scope.map(|scope| scope.0),
            sources: new.sources.map_or(Networks::ANYWHERE, |sources| sources.0),
        }
    }
}

/// An API key, without the key.
#[derive(Object)]
#[oai(example)]
pub(super) struct ApiKey {
    /// Its identifier.
    id: String,
    /// Whose it is.
    principal: String,
    /// What it is for.
    label: String,
    /// What it may do at most, space-separated.
    scope: String,
    /// From which networks it may be used; null is anywhere.
    #[oai(nullable)]
    sources: Option<Vec<String>>,
    /// When it was made.
    created_at: String,
    /// From when it is void; null is never.
    #[oai(nullable)]
    expires_at: Option<String>,
    /// Since when it is revoked; null while it is not.
    #[oai(nullable)]
    revoked_at: Option<String>,
    /// When it was last used, to the minute; null when it never was.
    #[oai(nullable)]
    last_used_at: Option<String>,
}

impl Example for ApiKey {
    fn example() -> Self {
        Self {
            id: "019a0000-0000-7000-8000-000000000001".to_owned(),
            principal: "alice".to_owned(),
            label: "laptop".to_owned(),
            scope: "llm-keys:read".to_owned(),
            sources: None,
            created_at: "2026-01-31T12:00:00.000000Z".to_owned(),
            expires_at: Some("2026-05-01T12:00:00.000000Z".to_owned()),
            revoked_at: None,
            last_used_at: None,
        }
    }
}

list! {
    /// API keys, oldest first.
    ApiKeyList of ApiKey
}

/// A new API key. The key is shown this once.
#[derive(Object)]
#[oai(example)]
pub(super) struct MadeApiKey {
    /// Its identifier.
    id: String,
    /// The key, for `X-API-Key` or `Authorization: Bearer`.
    api_key: String,
    /// Whose it is.
    principal: String,
    /// What it is for.
    label: String,
    /// What it may do at most, space-separated.
    scope: String,
    /// From which networks it may be used; null is anywhere.
    #[oai(nullable)]
    sources: Option<Vec<String>>,
    /// When it was made.
    created_at: String,
    /// From when it is void; null is never.
    #[oai(nullable)]
    expires_at: Option<String>,
}

impl Example for MadeApiKey {
    fn example() -> Self {
        let ApiKey { id, principal, label, scope, sources, created_at, expires_at, .. } = ApiKey::example();
        Self {
            id,
            api_key: "kd_ak_EXAMPLE".to_owned(),
            principal,
            label,
            scope,
            sources,
            created_at,
            expires_at,
        }
    }
}

/// The answer with a new key.
#[expect(clippy::disallowed_methods, reason = "the new key is shown to who asked for it")]
pub(super) fn made(issued: &IssuedApiKey) -> JsonBody<MadeApiKey> {
    let row = &issued.row;
    JsonBody::of(&serde_json::json!({
        "id": row.id,
        "api_key": issued.api_key.expose(),
        "principal": row.principal,
        "label": row.label,
        "scope": row.scope.to_string(),
        "sources": row.sources,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
    }))
}
