//! `/me`: what is the caller's own.

use poem::{Request, Result};
use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
};
use serde::Deserialize;

use super::{
    Group,
    answer::{Created, Gone, Knowing, Listing, MakingOwn, Proving, Reading, Removing},
    api_keys::{ApiKeyList, ApiKeyRequest, CreatedApiKey, made},
    credential::{Authenticated, DescribesOAuth2, app},
    error::ApiError,
    json::Json,
    payload::{JsonBody, list},
    query,
    schema::Word,
};
use crate::{
    app::Error,
    model::{Id, PrincipalKind, Role},
    secret::Secret,
};

/// Which keys you may fetch from a project.
#[derive(Object)]
struct OwnGrant {
    /// The project.
    project: String,
    /// Only these providers; null is all, present and future.
    #[oai(nullable)]
    providers: Option<Vec<String>>,
}

/// Who you are, and what you may do.
#[derive(Object)]
struct Me {
    /// Your identifier, the `sub` of your access tokens.
    id: String,
    /// Person or machine.
    kind: Word<PrincipalKind>,
    /// Your name.
    name: String,
    /// What you may ask for at most.
    role: Word<Role>,
    /// What you showed: `access_token` or `api_key`.
    credential: String,
    /// What it allows, space-separated.
    scope: String,
    /// Which keys you may fetch.
    grants: Vec<OwnGrant>,
}

/// A change of your password.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
struct PasswordChange {
    /// The password you have now.
    old_password: Secret,
    /// The one you want. A few random words make a good one.
    new_password: Secret,
}

/// A session: a login, and the refresh tokens that prolong it.
#[derive(Object)]
struct Session {
    /// Its identifier.
    id: String,
    /// The OAuth client it was made with.
    client_id: String,
    /// What its tokens allow at most, space-separated.
    scope: String,
    /// When it was last prolonged; null when it never was.
    #[oai(nullable)]
    rotated_at: Option<String>,
    /// When it began.
    created_at: String,
    /// From which address.
    created_source: String,
    /// When it ends at the latest.
    expires_at: String,
}

list! {
    /// Sessions, newest first.
    SessionList of Session
}

/// Self-service.
pub(super) struct MeApi;

#[OpenApi(tag = "Group::Me")]
impl MeApi {
    /// Get who you are
    ///
    /// Works with every credential: the way to find out what one is good for.
    #[oai(path = "/me", method = "get", operation_id = "getMe")]
    async fn me(
        &self,
        _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
    ) -> Result<JsonBody<Me>, ApiError<Knowing>> {
        Ok(JsonBody::of(&app(request).own_identity(&caller.0).await?))
    }

    /// Change your password
    ///
    /// Needs the old one, and an access token; a one-time password is changed this way too. Ends all your sessions. Wrong
    /// attempts are slowed down like wrong logins.
    #[oai(path = "/me/password", method = "put", operation_id = "changeMyPassword")]
    async fn change_password(
        &self,
        _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        body: Json<PasswordChange>,
    ) -> Result<Gone, ApiError<Proving>> {
        let PasswordChange { old_password, new_password } = body.0;
        app(request).change_own_password(&caller.0, old_password, new_password).await?;
        Ok(Gone::Done)
    }

    /// List your API keys
    ///
    /// Revoked and expired ones too; never the keys themselves.
    #[oai(path = "/me/api-keys", method = "get", operation_id = "listMyApiKeys")]
    async fn api_keys(
        &self,
        _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// How many at most.
        #[oai(default = "query::usual_limit", validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<u32>,
        /// The `next` of the page before.
        #[oai(validator(pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"))]
        after: Query<Option<String>>,
    ) -> Result<JsonBody<ApiKeyList>, ApiError<Listing>> {
        let page = query::page(request, limit.0, after.0, &[])?;
        Ok(JsonBody::of(&app(request).own_api_keys(&caller.0, &page).await?))
    }

    /// Make an API key for yourself
    ///
    /// Needs an access token; the key can do no more than that token. The key is shown this once.
    #[oai(path = "/me/api-keys", method = "post", operation_id = "createMyApiKey")]
    async fn issue_api_key(
        &self,
        _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        body: Json<ApiKeyRequest>,
    ) -> Result<Created<CreatedApiKey>, ApiError<MakingOwn>> {
        let issued = app(request).issue_own_api_key(&caller.0, body.0.into()).await?;
        Ok(Created::Made(made(&issued), format!("/me/api-keys/{}", issued.row.id)))
    }

    /// Revoke one of your API keys
    ///
    /// It is dead at once. Needs an access token.
    #[oai(path = "/me/api-keys/:id", method = "delete", operation_id = "revokeMyApiKey")]
    async fn revoke_api_key(
        &self,
        _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The key's identifier.
        id: Path<String>,
    ) -> Result<Gone, ApiError<Removing>> {
        app(request).revoke_own_api_key(&caller.0, own_id(&id.0)?).await?;
        Ok(Gone::Done)
    }

    /// List your sessions
    ///
    /// The logins that are alive, newest first.
    #[oai(path = "/me/sessions", method = "get", operation_id = "listMySessions")]
    async fn sessions(
        &self,
        _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// How many at most.
        #[oai(default = "query::usual_limit", validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<u32>,
        /// The `next` of the page before.
        #[oai(validator(pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"))]
        after: Query<Option<String>>,
    ) -> Result<JsonBody<SessionList>, ApiError<Listing>> {
        let page = query::page(request, limit.0, after.0, &[])?;
        Ok(JsonBody::of(&app(request).own_sessions(&caller.0, &page).await?))
    }

    /// End one of your sessions
    ///
    /// Its refresh token and every access token issued in it are void at once. Needs an access token.
    #[oai(path = "/me/sessions/:id", method = "delete", operation_id = "endMySession")]
    async fn end_session(
        &self,
        _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The session's identifier.
        id: Path<String>,
    ) -> Result<Gone, ApiError<Reading>> {
        app(request).end_own_session(&caller.0, own_id(&id.0)?).await?;
        Ok(Gone::Done)
    }
}

/// An identifier in an address; what can be none is nobody's.
fn own_id(text: &str) -> Result<Id, Error> {
    text.parse().map_err(|_| Error::NotFound("you have nothing of that identifier".to_owned()))
}
