//! `/admin/projects/{project}/grants`.

use std::collections::BTreeSet;

use poem::{Request, Result};
use poem_openapi::{
    Object, OpenApi,
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
        schema::{Word, nullable},
    },
    model::{Action, PrincipalName, ProjectName, Provider, Scope},
};

/// What a grant is to cover.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantRequest {
    /// Only these providers; null is all of the project's, present and future.
    #[serde(deserialize_with = "nullable")]
    #[oai(nullable, validator(min_items = 1))]
    providers: Option<Vec<Word<Provider>>>,
}

/// A principal's right to a project's keys.
#[derive(Object)]
struct Grant {
    /// Who.
    principal: String,
    /// On which project.
    project: String,
    /// Only these providers; null is all, present and future.
    #[oai(nullable)]
    providers: Option<Vec<String>>,
    /// Since when.
    created_at: String,
}

list! {
    /// Grants, by principal.
    GrantList of Grant
}

/// Grants.
pub(in crate::http) struct GrantsApi;

#[OpenApi(tag = "Group::AdminGrants")]
impl GrantsApi {
    /// List a project's grants
    ///
    /// By principal.
    #[oai(path = "/admin/projects/:project/grants", method = "get", operation_id = "listGrants")]
    async fn list(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
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
    ) -> Result<JsonBody<GrantList>, ApiError<Reading>> {
        let page = query::page(request, limit.0, after.0, &[])?;
        let project = app(request).named(&caller.0, Scope::Admin, Action::AdminRead, &project.0).await?;
        Ok(JsonBody::of(&app(request).grants(&caller.0, Some(&project), &page).await?))
    }

    /// Grant a principal a project's keys
    ///
    /// Replaces the grant that is there. In force at once.
    #[oai(path = "/admin/projects/:project/grants/:principal", method = "put", operation_id = "setGrant")]
    async fn set(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The project's name.
        project: Path<String>,
        /// The name of the user or service account.
        principal: Path<String>,
        body: Json<GrantRequest>,
    ) -> Result<Gone, ApiError<Putting>> {
        let app = app(request);
        let project: ProjectName = app.named(&caller.0, Scope::Admin, Action::GrantSet, &project.0).await?;
        let principal: PrincipalName =
            app.named(&caller.0, Scope::Admin, Action::GrantSet, &principal.0).await?;
        let providers = |words: Vec<Word<Provider>>| words.into_iter().map(|word| word.0).collect();
        let providers: Option<BTreeSet<_>> = body.0.providers.map(providers);
        app.set_grant(&caller.0, &principal, &project, providers.as_ref()).await?;
        Ok(Gone::Done)
    }

    /// Remove a grant
    ///
    /// In force at once.
    #[oai(
        path = "/admin/projects/:project/grants/:principal",
        method = "delete",
        operation_id = "deleteGrant"
    )]
    async fn remove(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The project's name.
        project: Path<String>,
        /// The name of the user or service account.
        principal: Path<String>,
    ) -> Result<Gone, ApiError<Reading>> {
        let app = app(request);
        let project: ProjectName =
            app.named(&caller.0, Scope::Admin, Action::GrantRemove, &project.0).await?;
        let principal: PrincipalName =
            app.named(&caller.0, Scope::Admin, Action::GrantRemove, &principal.0).await?;
        app.remove_grant(&caller.0, &principal, &project).await?;
        Ok(Gone::Done)
    }
}
