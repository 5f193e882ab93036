//! API keys on the wire: the same under `/me` and under `/admin`.

use std::time::Duration;

use poem_openapi::Object;
use serde::Deserialize;

use super::{
    payload::{JsonBody, list},
    schema::{NetworkList, Word, present},
};
use crate::{
    app::api_keys::{IssuedApiKey, NewKey},
    model::{Networks, ScopeSet},
};

/// An API key to be made.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiKeyRequest {
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

impl From<ApiKeyRequest> for NewKey {
    fn from(new: ApiKeyRequest) -> Self {
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

list! {
    /// API keys, oldest first.
    ApiKeyList of ApiKey
}

/// A new API key. The key is shown this once.
#[derive(Object)]
pub(super) struct CreatedApiKey {
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

/// The answer with a new key.
#[expect(clippy::disallowed_methods, reason = "the new key is shown to who asked for it")]
pub(super) fn made(issued: &IssuedApiKey) -> JsonBody<CreatedApiKey> {
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
