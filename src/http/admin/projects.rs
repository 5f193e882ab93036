//! `/admin/projects`.

use poem::{Request, Result};
use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
};
use serde::Deserialize;

use crate::{
    http::{
        Group,
        answer::{Created, Gone, Listing, Making, Reading, Removing},
        credential::{Authenticated, DescribesOAuth2, Scopes, app},
        error::ApiError,
        json::Json,
        payload::{JsonBody, list},
        query,
        schema::Word,
    },
    model::{Action, ProjectName, Scope},
};

/// A project to be made.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProjectRequest {
    /// The name. Upper case is folded.
    name: Word<ProjectName>,
}

/// A named set of provider keys.
#[derive(Object)]
struct Project {
    /// Its name.
    name: String,
    /// When it was made.
    created_at: String,
}

list! {
    /// Projects, by name.
    ProjectList of Project
}

/// Projects.
pub(in crate::http) struct ProjectsApi;

#[OpenApi(tag = "Group::AdminProjects")]
impl ProjectsApi {
    /// List projects
    ///
    /// By name.
    #[oai(path = "/admin/projects", method = "get", operation_id = "listProjects")]
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
    ) -> Result<JsonBody<ProjectList>, ApiError<Listing>> {
        let page = query::page(request, limit.0, after.0, &[])?;
        Ok(JsonBody::of(&app(request).projects(&caller.0, &page).await?))
    }

    /// Make a project
    ///
    /// It has no keys and no grants yet.
    #[oai(path = "/admin/projects", method = "post", operation_id = "createProject")]
    async fn create(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        body: Json<ProjectRequest>,
    ) -> Result<Created<Project>, ApiError<Making>> {
        let project = app(request).create_project(&caller.0, body.0.name.0).await?;
        Ok(Created::Made(JsonBody::of(&project), format!("/admin/projects/{}", project.name)))
    }

    /// Get a project
    ///
    /// Its keys and grants have lists of their own.
    #[oai(path = "/admin/projects/:project", method = "get", operation_id = "getProject")]
    async fn get(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The project's name.
        project: Path<String>,
    ) -> Result<JsonBody<Project>, ApiError<Reading>> {
        let app = app(request);
        let name = app.named(&caller.0, Scope::Admin, Action::AdminRead, &project.0).await?;
        Ok(JsonBody::of(&app.project(&caller.0, &name).await?))
    }

    /// Delete a project
    ///
    /// Only one that has neither keys nor grants.
    #[oai(path = "/admin/projects/:project", method = "delete", operation_id = "deleteProject")]
    async fn delete(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// The project's name.
        project: Path<String>,
    ) -> Result<Gone, ApiError<Removing>> {
        let app = app(request);
        let name = app.named(&caller.0, Scope::Admin, Action::ProjectDelete, &project.0).await?;
        app.delete_project(&caller.0, &name).await?;
        Ok(Gone::Done)
    }
}
