//! `/admin/users/{username}/api-keys` and `/admin/service-accounts/{name}/api-keys`.

use poem::{Request, Result};
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
};

use crate::{
    app::Error,
    http::{
        Group,
        answer::{Created, Gone, Putting, Reading, Removing},
        api_keys::{ApiKeyList, ApiKeyRequest, CreatedApiKey, made},
        credential::{Authenticated, DescribesOAuth2, Scopes, app},
        error::ApiError,
        json::Json,
        payload::JsonBody,
        query,
    },
    model::{Action, Caller, PrincipalKind, PrincipalName, Scope},
};

const USER: PrincipalKind = PrincipalKind::User;
const ACCOUNT: PrincipalKind = PrincipalKind::ServiceAccount;

/// API keys of others.
pub(in crate::http) struct ApiKeysApi;

#[OpenApi]
impl ApiKeysApi {
    /// List a user's API keys
    ///
    /// Revoked and expired ones too; never the keys themselves.
    #[oai(
        path = "/admin/users/:username/api-keys",
        method = "get",
        operation_id = "listUserApiKeys",
        tag = "Group::AdminUsers"
    )]
    async fn list_of_user(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The user's name.
        username: Path<String>,
        /// How many at most.
        #[oai(default = "query::usual_limit", validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<u32>,
        /// The `next` of the page before.
        #[oai(validator(pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"))]
        after: Query<Option<String>>,
    ) -> Result<JsonBody<ApiKeyList>, ApiError<Reading>> {
        let page = query::page(request, limit.0, after.0, &[])?;
        let owner = owner(request, &caller.0, Action::AdminRead, USER, &username.0).await?;
        Ok(JsonBody::of(&app(request).api_keys(&caller.0, Some(&owner), &page).await?))
    }

    /// Make an API key for a user
    ///
    /// It can do no more than the user's role allows. The key is shown this once.
    #[oai(
        path = "/admin/users/:username/api-keys",
        method = "post",
        operation_id = "createUserApiKey",
        tag = "Group::AdminUsers"
    )]
    async fn issue_to_user(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The user's name.
        username: Path<String>,
        body: Json<ApiKeyRequest>,
    ) -> Result<Created<CreatedApiKey>, ApiError<Putting>> {
        let owner = owner(request, &caller.0, Action::ApiKeyIssue, USER, &username.0).await?;
        let issued = app(request).issue_api_key(&caller.0, &owner, body.0.into()).await?;
        Ok(Created::Made(made(&issued), format!("/admin/users/{owner}/api-keys/{}", issued.row.id)))
    }

    /// Revoke a user's API key
    ///
    /// It is dead at once.
    #[oai(
        path = "/admin/users/:username/api-keys/:id",
        method = "delete",
        operation_id = "revokeUserApiKey",
        tag = "Group::AdminUsers"
    )]
    async fn revoke_of_user(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The user's name.
        username: Path<String>,
        /// The key's identifier.
        id: Path<String>,
    ) -> Result<Gone, ApiError<Removing>> {
        let owner = owner(request, &caller.0, Action::ApiKeyRevoke, USER, &username.0).await?;
        revoke(request, &caller.0, &owner, &id.0).await
    }

    /// List a service account's API keys
    ///
    /// Revoked and expired ones too; never the keys themselves.
    #[oai(
        path = "/admin/service-accounts/:name/api-keys",
        method = "get",
        operation_id = "listServiceAccountApiKeys",
        tag = "Group::AdminServiceAccounts"
    )]
    async fn list_of_account(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The service account's name.
        name: Path<String>,
        /// How many at most.
        #[oai(default = "query::usual_limit", validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<u32>,
        /// The `next` of the page before.
        #[oai(validator(pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"))]
        after: Query<Option<String>>,
    ) -> Result<JsonBody<ApiKeyList>, ApiError<Reading>> {
        let page = query::page(request, limit.0, after.0, &[])?;
        let owner = owner(request, &caller.0, Action::AdminRead, ACCOUNT, &name.0).await?;
        Ok(JsonBody::of(&app(request).api_keys(&caller.0, Some(&owner), &page).await?))
    }

    /// Make an API key for a service account
    ///
    /// It can do no more than the account's role allows. The key is shown this once.
    #[oai(
        path = "/admin/service-accounts/:name/api-keys",
        method = "post",
        operation_id = "createServiceAccountApiKey",
        tag = "Group::AdminServiceAccounts"
    )]
    async fn issue_to_account(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The service account's name.
        name: Path<String>,
        body: Json<ApiKeyRequest>,
    ) -> Result<Created<CreatedApiKey>, ApiError<Putting>> {
        let owner = owner(request, &caller.0, Action::ApiKeyIssue, ACCOUNT, &name.0).await?;
        let issued = app(request).issue_api_key(&caller.0, &owner, body.0.into()).await?;
        Ok(Created::Made(
            made(&issued),
            format!("/admin/service-accounts/{owner}/api-keys/{}", issued.row.id),
        ))
    }

    /// Revoke a service account's API key
    ///
    /// It is dead at once.
    #[oai(
        path = "/admin/service-accounts/:name/api-keys/:id",
        method = "delete",
        operation_id = "revokeServiceAccountApiKey",
        tag = "Group::AdminServiceAccounts"
    )]
    async fn revoke_of_account(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The service account's name.
        name: Path<String>,
        /// The key's identifier.
        id: Path<String>,
    ) -> Result<Gone, ApiError<Removing>> {
        let owner = owner(request, &caller.0, Action::ApiKeyRevoke, ACCOUNT, &name.0).await?;
        revoke(request, &caller.0, &owner, &id.0).await
    }
}

/// Whose keys are meant: somebody of that kind.
async fn owner(
    request: &Request,
    caller: &Caller,
    action: Action,
    kind: PrincipalKind,
    name: &str,
) -> Result<PrincipalName, Error> {
    let name = app(request).named(caller, Scope::Admin, action, name).await?;
    Ok(app(request).principal(caller, kind, &name).await?.name)
}

async fn revoke(
    request: &Request,
    caller: &Caller,
    owner: &PrincipalName,
    id: &str,
) -> Result<Gone, ApiError<Removing>> {
    let id = app(request).named(caller, Scope::Admin, Action::ApiKeyRevoke, id).await?;
    app(request).revoke_api_key(caller, Some(owner), id).await?;
    Ok(Gone::Done)
}
