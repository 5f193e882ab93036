//! `/admin/projects/{project}/keys`: provider keys go in here, and never come out.

use std::time::Duration;

use poem::{Request, Result};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
};
use serde::Deserialize;

use crate::{
    http::{
        Group,
        answer::{Gone, Putting, Reading},
        credential::{Authenticated, DescribesOAuth2, Scopes, app},
        error::ApiError,
        json::Json,
        payload::{JsonBody, list},
        query,
        schema::present,
    },
    model::{Action, ProjectName, Provider, Scope},
    secret::Secret,
};

/// A provider key to be stored.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderKeyRequest {
    /// The key as the provider issued it. Placeholders and masked texts are refused.
    key: Secret,
    /// In how many seconds it expires at the provider: then it is not handed out any more, and two weeks before there is an
    /// alarm. Not known when absent.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none, validator(minimum(value = "1"), maximum(value = "3153600000")))]
    expires_in: Option<u32>,
}

/// A provider key, without the key.
#[derive(Object)]
struct ProviderKey {
    /// The project.
    project: String,
    /// The provider.
    provider: String,
    /// The number of the current version.
    version: i64,
    /// When it was first set.
    created_at: String,
    /// When the current version was set.
    updated_at: String,
    /// From when the current version is void; null when it is not known to end.
    #[oai(nullable)]
    expires_at: Option<String>,
    /// The environment variable in which the provider's SDK looks for it.
    env: String,
    /// Recognises the key: the same key has the same fingerprint at this desk, which says nothing of the key.
    fingerprint: String,
}

list! {
    /// Provider keys, by provider.
    ProviderKeyList of ProviderKey
}

#[derive(ApiResponse)]
enum StoredAnswer {
    /// A new version is the current one.
    #[oai(status = 200)]
    Replaced(JsonBody<ProviderKey>),
    /// The first version.
    #[oai(status = 201)]
    Made(JsonBody<ProviderKey>),
}

const SCOPE: Scope = Scope::LlmKeysWrite;

/// Provider keys.
pub(in crate::http) struct ProviderKeysApi;

#[OpenApi(tag = "Group::AdminProviderKeys")]
impl ProviderKeysApi {
    /// List a project's provider keys
    ///
    /// By provider, with fingerprints; never the keys themselves.
    #[oai(path = "/admin/projects/:project/keys", method = "get", operation_id = "listProviderKeys")]
    async fn list(
        &self,
        #[oai(scope = "Scopes::LlmKeysWrite")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The project's name.
        project: Path<String>,
        /// How many at most.
        #[oai(default = "query::usual_limit", validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<u32>,
        /// The `next` of the page before.
        #[oai(validator(pattern = "^[^/]+/.+$"))]
        after: Query<Option<String>>,
    ) -> Result<JsonBody<ProviderKeyList>, ApiError<Reading>> {
        let page = query::page(request, limit.0, after.0, &[])?;
        let project = app(request).named(&caller.0, SCOPE, Action::AdminRead, &project.0).await?;
        Ok(JsonBody::of(&app(request).provider_keys(&caller.0, Some(&project), &page).await?))
    }

    /// Get what may be shown of a provider key
    ///
    /// Its version and fingerprint; never the key itself.
    #[oai(path = "/admin/projects/:project/keys/:provider", method = "get", operation_id = "getProviderKey")]
    async fn get(
        &self,
        #[oai(scope = "Scopes::LlmKeysWrite")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The project's name.
        project: Path<String>,
        /// The provider, for example `openai`.
        provider: Path<String>,
    ) -> Result<JsonBody<ProviderKey>, ApiError<Reading>> {
        let app = app(request);
        let project: ProjectName = app.named(&caller.0, SCOPE, Action::AdminRead, &project.0).await?;
        let provider: Provider = app.named(&caller.0, SCOPE, Action::AdminRead, &provider.0).await?;
        Ok(JsonBody::of(&app.provider_key(&caller.0, &project, &provider).await?))
    }

    /// Set a provider key
    ///
    /// Adds a version and makes it the current one: from now on everybody who is granted the provider gets it.
    #[oai(path = "/admin/projects/:project/keys/:provider", method = "put", operation_id = "setProviderKey")]
    async fn set(
        &self,
        #[oai(scope = "Scopes::LlmKeysWrite")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The project's name.
        project: Path<String>,
        /// The provider, for example `openai`.
        provider: Path<String>,
        body: Json<ProviderKeyRequest>,
    ) -> Result<StoredAnswer, ApiError<Putting>> {
        let app = app(request);
        let project: ProjectName = app.named(&caller.0, SCOPE, Action::ProviderKeySet, &project.0).await?;
        let provider: Provider = app.named(&caller.0, SCOPE, Action::ProviderKeySet, &provider.0).await?;
        let ProviderKeyRequest { key, expires_in } = body.0;
        let lifetime = expires_in.map(|seconds| Duration::from_secs(u64::from(seconds)));
        let set = app.set_provider_key(&caller.0, &project, &provider, &key, lifetime).await?;
        let shown = JsonBody::of(&set);
        Ok(if set.row.version == 1 { StoredAnswer::Made(shown) } else { StoredAnswer::Replaced(shown) })
    }

    /// Delete a provider key
    ///
    /// With all its versions. The key stays valid at the provider: revoke it there too.
    #[oai(
        path = "/admin/projects/:project/keys/:provider",
        method = "delete",
        operation_id = "deleteProviderKey"
    )]
    async fn delete(
        &self,
        #[oai(scope = "Scopes::LlmKeysWrite")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The project's name.
        project: Path<String>,
        /// The provider, for example `openai`.
        provider: Path<String>,
    ) -> Result<Gone, ApiError<Reading>> {
        let app = app(request);
        let project: ProjectName = app.named(&caller.0, SCOPE, Action::ProviderKeyDelete, &project.0).await?;
        let provider: Provider = app.named(&caller.0, SCOPE, Action::ProviderKeyDelete, &provider.0).await?;
        app.delete_provider_key(&caller.0, &project, &provider).await?;
        Ok(Gone::Done)
    }
}
