//! `GET /llm-keys`: the keys a caller may use.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use poem::{Request, Result};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Header, Path, Query},
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::Type,
};

use super::{
    Group,
    credential::{DescribesOAuth2, KeyReader, Scopes, app},
    error::{Answers, ApiError},
    payload::JsonBody,
    query::refuse_repeated,
    quota::meter,
};
use crate::app::llm_keys::{HandedKey, Handout, KeyRead};

/// Provider keys, by provider. Described by hand: the derived description of a map has no name, and clients that are
/// generated from it would invent one.
struct LlmKeys;

impl Type for LlmKeys {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "LlmKeys".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Reference(Self::name().into_owned())
    }

    fn register(registry: &mut Registry) {
        registry.create_schema::<Self, _>(Self::name().into_owned(), |_| MetaSchema {
            title: Some(Self::name().into_owned()),
            description: Some("Provider keys, by provider."),
            additional_properties: Some(Box::new(String::schema_ref())),
            ..MetaSchema::new("object")
        });
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

/// One provider's key.
#[derive(Object)]
struct LlmKey {
    /// The provider.
    provider: String,
    /// The project it was read from.
    project: String,
    /// The key.
    key: String,
    /// The number of its version; it grows when the key is rotated.
    version: i64,
    /// How the desk came by it: `static` is a key that was stored.
    mode: String,
    /// From when it is void (RFC 3339); null when it is not known to end.
    #[oai(nullable)]
    expires_at: Option<String>,
    /// Whether the desk can revoke it at the provider.
    revocable: bool,
    /// The environment variable in which the provider's SDK looks for it.
    env: String,
}

#[derive(ApiResponse)]
enum KeysAnswer<T: poem_openapi::types::Type> {
    /// What you may use.
    #[oai(status = 200)]
    Keys(
        JsonBody<T>,
        /// Changes with keys, versions and grants. Send it back as `If-None-Match` to poll cheaply.
        #[oai(header = "ETag")]
        String,
        /// What the answer depends on.
        #[oai(header = "Vary")]
        String,
    ),
    /// Nothing has changed since the entity tag you sent. No key is in this answer.
    #[oai(status = 304)]
    Unchanged(
        /// The entity tag you sent.
        #[oai(header = "ETag")]
        String,
        /// What the answer depends on.
        #[oai(header = "Vary")]
        String,
    ),
}

const VARY: &str = "Authorization, X-API-Key";

struct All;
impl Answers for All {
    const STATUSES: &'static [u16] = &[400, 401, 403, 429, 500, 503];
}

struct One;
impl Answers for One {
    const STATUSES: &'static [u16] = &[400, 401, 403, 404, 429, 500, 503];
}

/// Key reads.
pub(super) struct LlmKeysApi;

#[OpenApi]
impl LlmKeysApi {
    /// Get your provider keys
    ///
    /// All keys of a project that you are granted, by provider. The read is in the audit log before the keys leave. With
    /// `If-None-Match` of the current `ETag` the answer is 304 without a key.
    #[oai(path = "/llm-keys", method = "get", operation_id = "listLlmKeys", tag = "Group::LlmKeys")]
    async fn list(
        &self,
        #[oai(scope = "Scopes::LlmKeysRead")] _scheme: DescribesOAuth2,
        mut caller: KeyReader,
        request: &Request,
        /// The project; needed only if you are granted several and none is `default`.
        project: Query<Option<String>>,
        /// An entity tag you were given: if it is still the current one, the answer is 304 without a key.
        #[oai(name = "If-None-Match")]
        if_none_match: Header<Option<String>>,
        /// If it is sent, it must name the principal whose credential this is.
        #[oai(name = "X-Service-Account")]
        _account: Header<Option<String>>,
    ) -> Result<KeysAnswer<LlmKeys>, ApiError<All>> {
        app(request).spend_key_read(&caller.0, meter(request)).await?;
        refuse_repeated(request)?;
        let project = project.0.filter(|name| !name.is_empty());
        let current = |etag: &str| is_current(if_none_match.0.as_deref(), etag);
        let mut found = app(request).read_keys(&caller.0, project.as_deref(), current).await;
        while caller.decides_again(request, &found).await? {
            found = app(request).read_keys(&caller.0, project.as_deref(), current).await;
        }
        let found = found?;
        Ok(match found.read {
            KeyRead::Unchanged => KeysAnswer::Unchanged(found.etag, VARY.to_owned()),
            KeyRead::Handed(keys) => KeysAnswer::Keys(all(&keys), found.etag, VARY.to_owned()),
        })
    }

    /// Get one provider's key
    ///
    /// The key with its version, and the environment variable in which the provider's SDK looks for it.
    #[oai(path = "/llm-keys/:provider", method = "get", operation_id = "getLlmKey", tag = "Group::LlmKeys")]
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a part of the request that the specification describes"
    )]
    async fn get(
        &self,
        #[oai(scope = "Scopes::LlmKeysRead")] _scheme: DescribesOAuth2,
        mut caller: KeyReader,
        request: &Request,
        /// The provider, for example `openai`.
        provider: Path<String>,
        /// The project; needed only if you are granted several and none is `default`.
        project: Query<Option<String>>,
        /// An entity tag you were given: if it is still the current one, the answer is 304 without a key.
        #[oai(name = "If-None-Match")]
        if_none_match: Header<Option<String>>,
        /// If it is sent, it must name the principal whose credential this is.
        #[oai(name = "X-Service-Account")]
        _account: Header<Option<String>>,
    ) -> Result<KeysAnswer<LlmKey>, ApiError<One>> {
        app(request).spend_key_read(&caller.0, meter(request)).await?;
        refuse_repeated(request)?;
        let project = project.0.filter(|name| !name.is_empty());
        let current = |etag: &str| is_current(if_none_match.0.as_deref(), etag);
        let mut found = app(request).read_key(&caller.0, project.as_deref(), &provider.0, current).await;
        while caller.decides_again(request, &found).await? {
            found = app(request).read_key(&caller.0, project.as_deref(), &provider.0, current).await;
        }
        let found = found?;
        Ok(match found.read {
            KeyRead::Unchanged => KeysAnswer::Unchanged(found.etag, VARY.to_owned()),
            KeyRead::Handed(key) => {
                KeysAnswer::Keys(one(found.project.as_str(), &key), found.etag, VARY.to_owned())
            }
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "the keys go to whom they are granted")]
fn all(handout: &Handout) -> JsonBody<LlmKeys> {
    let render = |keys: &[Arc<HandedKey>]| {
        let map: BTreeMap<_, _> = keys.iter().map(|key| (key.provider.as_str(), key.key.expose())).collect();
        serde_json::to_vec(&map).unwrap_or_default()
    };
    JsonBody::ready(handout.body(render).expose())
}

#[expect(clippy::disallowed_methods, reason = "the key goes to whom it is granted")]
fn one(project: &str, key: &HandedKey) -> JsonBody<LlmKey> {
    #[derive(serde::Serialize)]
    struct Wire<'a> {
        provider: &'a str,
        project: &'a str,
        key: &'a str,
        version: i64,
        mode: &'a str,
        expires_at: Option<crate::model::Timestamp>,
        revocable: bool,
        env: String,
    }
    JsonBody::of(&Wire {
        provider: key.provider.as_str(),
        project,
        key: key.key.expose(),
        version: key.version,
        mode: "static",
        expires_at: key.expires_at,
        revocable: false,
        env: key.provider.env_variable(),
    })
}

/// RFC 9110 §13.1.2: whether `If-None-Match` lists the current entity tag. Comparison is weak; `*` matches any.
pub(super) fn is_current(if_none_match: Option<&str>, etag: &str) -> bool {
    let mut tags = if_none_match.unwrap_or_default().split(',').map(str::trim);
    tags.any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}
