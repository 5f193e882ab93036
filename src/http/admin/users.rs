//! `/admin/users`.

use poem::{Request, Result};
use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
};
use serde::Deserialize;

use super::principals::{Principal, PrincipalList, PrincipalPatch, projects, versioned};
use crate::{
    app::users::NewUser,
    http::{
        Group,
        answer::{
            Changing, Created, Gone, IfMatch, Listing, MakingWith, Putting, Reading, Removing, Versioned,
        },
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

const KIND: PrincipalKind = PrincipalKind::User;

/// A user to be made.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserRequest {
    /// The name. Upper case is folded.
    name: Word<PrincipalName>,
    /// The password.
    password: Secret,
    /// What they may ask for at most; `member` when absent.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none)]
    role: Option<Word<Role>>,
    /// Projects whose keys they may fetch from the start.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none)]
    projects: Option<Vec<Word<ProjectName>>>,
    /// Addresses and networks from which they may come; anywhere when absent.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none)]
    networks: Option<NetworkList<false>>,
}

/// A password for a user.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    /// The password.
    password: Secret,
}

/// A one-time password, which is shown this once. It opens nothing but its own change.
#[derive(Object)]
struct OneTimePassword {
    /// The password.
    password: String,
    /// When it ends.
    expires_at: String,
}

/// Users.
pub(in crate::http) struct UsersApi;

#[OpenApi(tag = "Group::AdminUsers")]
impl UsersApi {
    /// List users
    ///
    /// By name.
    #[oai(path = "/admin/users", method = "get", operation_id = "listUsers")]
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

    /// Make a user
    ///
    /// Users and service accounts share one name space.
    #[oai(path = "/admin/users", method = "post", operation_id = "createUser")]
    async fn create(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        body: Json<UserRequest>,
    ) -> Result<Created<Principal>, ApiError<MakingWith>> {
        let UserRequest { name, password, role, projects: granted, networks } = body.0;
        let networks = networks.map_or(Networks::ANYWHERE, |networks| networks.0);
        let role = role.map_or(Role::Member, |role| role.0);
        let new = NewUser { name: name.0, role, password, projects: projects(granted), networks };
        let user = app(request).create_user(&caller.0, new).await?;
        Ok(Created::Made(JsonBody::of(&user), format!("/admin/users/{}", user.name)))
    }

    /// Get a user
    ///
    /// With the version, as `ETag`, that a change must show.
    #[oai(path = "/admin/users/:username", method = "get", operation_id = "getUser")]
    async fn get(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The user's name.
        username: Path<String>,
    ) -> Result<Versioned<Principal>, ApiError<Reading>> {
        let app = app(request);
        let name = app.named(&caller.0, Scope::Admin, Action::AdminRead, &username.0).await?;
        Ok(versioned(&app.principal(&caller.0, KIND, &name).await?))
    }

    /// Change a user
    ///
    /// The role, whether they are shut out, the grant types, from where they may come. The last enabled admin stays one.
    #[oai(path = "/admin/users/:username", method = "patch", operation_id = "updateUser")]
    async fn update(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The user's name.
        username: Path<String>,
        /// The `ETag` of the user as you read it; `*` for whatever it is now.
        #[oai(name = "If-Match")]
        if_match: IfMatch,
        body: Json<PrincipalPatch>,
    ) -> Result<Versioned<Principal>, ApiError<Changing>> {
        let app = app(request);
        let name = app.named(&caller.0, Scope::Admin, Action::PrincipalUpdate, &username.0).await?;
        let (patch, expected) = (body.0.into(), if_match.0.as_deref());
        Ok(versioned(&app.update_principal(&caller.0, KIND, &name, patch, expected).await?))
    }

    /// Delete a user
    ///
    /// With all API keys, sessions and grants. The book keeps the name. The last enabled admin stays.
    #[oai(path = "/admin/users/:username", method = "delete", operation_id = "deleteUser")]
    async fn delete(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The user's name.
        username: Path<String>,
    ) -> Result<Gone, ApiError<Removing>> {
        let app = app(request);
        let name = app.named(&caller.0, Scope::Admin, Action::PrincipalDelete, &username.0).await?;
        app.delete(&caller.0, KIND, &name).await?;
        Ok(Gone::Done)
    }

    /// Set a user's password
    ///
    /// Ends all their sessions.
    #[oai(path = "/admin/users/:username/password", method = "put", operation_id = "setUserPassword")]
    async fn set_password(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The user's name.
        username: Path<String>,
        body: Json<NewPassword>,
    ) -> Result<Gone, ApiError<Putting>> {
        let app = app(request);
        let name = app.named(&caller.0, Scope::Admin, Action::UserSetPassword, &username.0).await?;
        app.set_password(&caller.0, &name, body.0.password).await?;
        Ok(Gone::Done)
    }

    /// Give a user a one-time password
    ///
    /// Good for a day, and for nothing but its own change at `/me/password`. Ends all their sessions.
    #[oai(
        path = "/admin/users/:username/password-reset",
        method = "post",
        operation_id = "resetUserPassword"
    )]
    #[expect(clippy::disallowed_methods, reason = "the one-time password is shown to who asked for it")]
    async fn reset_password(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The user's name.
        username: Path<String>,
    ) -> Result<JsonBody<OneTimePassword>, ApiError<Reading>> {
        let app = app(request);
        let name = app.named(&caller.0, Scope::Admin, Action::UserSetPassword, &username.0).await?;
        let reset = app.reset_password(&caller.0, &name).await?;
        let (password, expires_at) = (reset.password.expose(), reset.expires_at);
        Ok(JsonBody::of(&serde_json::json!({ "password": password, "expires_at": expires_at })))
    }
}
