//! Projects: named sets of provider keys.

use super::{App, Error};
use crate::{
    model::{Action, Caller, Listed, Page, Project, ProjectName, Scope},
    store::{Connection, StoreError, projects, provider_keys},
};

impl App {
    /// Projects, by name. Needs `admin`.
    pub async fn projects(&self, caller: &Caller, page: &Page) -> Result<Listed<Project>, Error> {
        self.require(caller, Scope::Admin, Action::AdminRead, "projects").await?;
        let found = projects::list(&mut self.store.read().await?, &page.and_one()).await?;
        Ok(Listed::of(found, page, |project| project.name.to_string()))
    }

    /// One project. Needs `admin`.
    pub async fn project(&self, caller: &Caller, name: &ProjectName) -> Result<Project, Error> {
        self.require(caller, Scope::Admin, Action::AdminRead, format!("project:{name}")).await?;
        existing(&mut self.store.read().await?, name).await
    }

    /// Makes a project. Needs `admin`.
    pub async fn create_project(&self, caller: &Caller, name: ProjectName) -> Result<Project, Error> {
        let project = Project { id: self.new_id(), name, created_at: self.now() };
        let object = format!("project:{}", project.name);
        let mut change = self.change(caller, Scope::Admin, Action::ProjectCreate, object).await?;
        let result = projects::insert(&mut change, &project).await.map_err(|error| match error {
            StoreError::Exists => Error::Conflict(format!("there is already a project {}", project.name)),
            other => other.into(),
        });
        change.finish(result).await?;
        Ok(project)
    }

    /// Deletes a project without keys and grants. Needs `admin`.
    pub async fn delete_project(&self, caller: &Caller, name: &ProjectName) -> Result<(), Error> {
        let object = format!("project:{name}");
        let mut change = self.change(caller, Scope::Admin, Action::ProjectDelete, object).await?;
        let result = async {
            let project = existing(&mut change, name).await?;
            let in_use =
                || Error::Conflict(format!("project {name} still has keys or grants; remove those first"));
            if provider_keys::any(&mut change, project.id).await? {
                return Err(in_use());
            }
            projects::delete(&mut change, project.id).await.map_err(|error| match error {
                StoreError::InUse => in_use(),
                other => other.into(),
            })
        }
        .await;
        change.finish(result).await
    }
}

/// The project of that name.
pub(super) async fn existing(db: &mut Connection, name: &ProjectName) -> Result<Project, Error> {
    let found = projects::by_name(db, name).await?;
    found.ok_or_else(|| Error::NotFound(format!("there is no project {name}")))
}
