//! `/admin/service-accounts`.

use std::time::Duration;

use poem::{Request, Result};
use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
};
use serde::Deserialize;

use super::principals::{Principal, PrincipalList, PrincipalPatch, projects, versioned};
use crate::{
    app::service_accounts::NewServiceAccount,
    http::{
        Group,
        answer::{Changing, Created, Gone, IfMatch, Listing, MakingWith, Putting, Reading, Versioned},
        credential::{Authenticated, DescribesOAuth2, Scopes, app},
        error::ApiError,
        json::Json,
        payload::JsonBody,
        query,
        schema::{NetworkList, Word, present},
    },
    model::{Action, Networks, PrincipalKind, PrincipalName, ProjectName, Role, Scope},
    secret::Secret,
};

const KIND: PrincipalKind = PrincipalKind::ServiceAccount;
/// For how long an old client secret stays valid unless it is said.
const OVERLAP: u32 = 24 * 60 * 60;

/// A service account to be made.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceAccountRequest {
    /// The name, which is also the OAuth `client_id`. Upper case is folded.
    name: Word<PrincipalName>,
    /// What it may ask for at most; `member` when absent.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none)]
    role: Option<Word<Role>>,
    /// Projects whose keys it may fetch from the start.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none)]
    projects: Option<Vec<Word<ProjectName>>>,
    /// Addresses and networks from which it may come; anywhere when absent.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none)]
    networks: Option<NetworkList<false>>,
}

/// A new service account. Its credentials are shown this once.
#[derive(Object)]
struct CreatedServiceAccount {
    /// Its identifier, the `sub` of its access tokens.
    id: String,
    /// Its name, for the token endpoint.
    client_id: String,
    /// Its secret, for the token endpoint.
    client_secret: String,
    /// An API key, for `X-API-Key` or `Authorization: Bearer`.
    token: String,
    /// Always `service_account`.
    #[oai(rename = "type")]
    kind: String,
    /// When it was made.
    created_at: String,
}

/// How to rotate a client secret.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientSecretRotation {
    /// For how many seconds the old secret stays valid; a day when absent.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none, validator(minimum(value = "0"), maximum(value = "31536000")))]
    overlap_seconds: Option<u32>,
}

/// A new client secret, which is shown this once.
#[derive(Object)]
struct ClientSecret {
    /// The service account.
    client_id: String,
    /// Its new secret, for the token endpoint.
    client_secret: String,
}

/// Service accounts.
pub(in crate::http) struct ServiceAccountsApi;

#[OpenApi(tag = "Group::AdminServiceAccounts")]
impl ServiceAccountsApi {
    /// List service accounts
    ///
    /// By name.
    #[oai(path = "/admin/service-accounts", method = "get", operation_id = "listServiceAccounts")]
    async fn list(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// How many at most.
        #[oai(default = "query::usual_limit", validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<u32>,
        /// The `next` of the page before.
        after: Query<Option<String>>,
    ) -> Result<JsonBody<PrincipalList>, ApiError<Listing>> {
        let page = query::page(request, limit.0, after.0, &[])?;
        Ok(JsonBody::of(&app(request).principals(&caller.0, KIND, &page).await?))
    }

    /// Make a service account
    ///
    /// With a client secret for the token endpoint and an API key, both shown this once.
    #[oai(path = "/admin/service-accounts", method = "post", operation_id = "createServiceAccount")]
    async fn create(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        body: Json<ServiceAccountRequest>,
    ) -> Result<Created<CreatedServiceAccount>, ApiError<MakingWith>> {
        let ServiceAccountRequest { name, role, projects: granted, networks } = body.0;
        let networks = networks.map_or(Networks::ANYWHERE, |networks| networks.0);
        let role = role.map_or(Role::Member, |role| role.0);
        let new = app(request)
            .create_service_account(&caller.0, name.0, role, &projects(granted), networks)
            .await?;
        Ok(Created::Made(made(&new), format!("/admin/service-accounts/{}", new.account.name)))
    }

    /// Get a service account
    ///
    /// With the version, as `ETag`, that a change must show.
    #[oai(path = "/admin/service-accounts/:name", method = "get", operation_id = "getServiceAccount")]
    async fn get(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The service account's name.
        name: Path<String>,
    ) -> Result<Versioned<Principal>, ApiError<Reading>> {
        let app = app(request);
        let name = app.named(&caller.0, Scope::Admin, Action::AdminRead, &name.0).await?;
        Ok(versioned(&app.principal(&caller.0, KIND, &name).await?))
    }

    /// Change a service account
    ///
    /// The role, whether it is shut out, the grant types, from where it may come.
    #[oai(path = "/admin/service-accounts/:name", method = "patch", operation_id = "updateServiceAccount")]
    async fn update(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The service account's name.
        name: Path<String>,
        /// The `ETag` of the service account as you read it; `*` for whatever it is now.
        #[oai(name = "If-Match")]
        if_match: IfMatch,
        body: Json<PrincipalPatch>,
    ) -> Result<Versioned<Principal>, ApiError<Changing>> {
        let app = app(request);
        let name = app.named(&caller.0, Scope::Admin, Action::PrincipalUpdate, &name.0).await?;
        let (patch, expected) = (body.0.into(), if_match.0.as_deref());
        Ok(versioned(&app.update_principal(&caller.0, KIND, &name, patch, expected).await?))
    }

    /// Delete a service account
    ///
    /// With all secrets, API keys and grants. The book keeps the name.
    #[oai(path = "/admin/service-accounts/:name", method = "delete", operation_id = "deleteServiceAccount")]
    async fn delete(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The service account's name.
        name: Path<String>,
    ) -> Result<Gone, ApiError<Reading>> {
        let app = app(request);
        let name = app.named(&caller.0, Scope::Admin, Action::PrincipalDelete, &name.0).await?;
        app.delete(&caller.0, KIND, &name).await?;
        Ok(Gone::Done)
    }

    /// Rotate a client secret
    ///
    /// The old one stays valid for a while, so that a fleet can change over. The new one is shown this once.
    #[oai(
        path = "/admin/service-accounts/:name/secret",
        method = "post",
        operation_id = "rotateClientSecret"
    )]
    async fn rotate_secret(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The service account's name.
        name: Path<String>,
        body: Json<ClientSecretRotation>,
    ) -> Result<JsonBody<ClientSecret>, ApiError<Putting>> {
        let app = app(request);
        let name = app.named(&caller.0, Scope::Admin, Action::ClientSecretRotate, &name.0).await?;
        let overlap = Duration::from_secs(u64::from(body.0.overlap_seconds.unwrap_or(OVERLAP)));
        Ok(rotated(&name, &app.rotate_client_secret(&caller.0, &name, overlap).await?))
    }
}

#[expect(clippy::disallowed_methods, reason = "the credentials are shown to who asked for them")]
fn made(new: &NewServiceAccount) -> JsonBody<CreatedServiceAccount> {
    JsonBody::of(&serde_json::json!({
        "id": new.account.id,
        "client_id": new.account.name,
        "client_secret": new.client_secret.expose(),
        "token": new.token.expose(),
        "type": KIND,
        "created_at": new.account.created_at,
    }))
}

#[expect(clippy::disallowed_methods, reason = "the new client secret is shown to who asked for it")]
fn rotated(name: &PrincipalName, secret: &Secret) -> JsonBody<ClientSecret> {
    JsonBody::of(&serde_json::json!({ "client_id": name, "client_secret": secret.expose() }))
}
