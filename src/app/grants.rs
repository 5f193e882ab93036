//! Grants: who may fetch which keys of which project.

use std::collections::BTreeSet;

use super::{App, Error, after_pair, change::Change, principals, projects};
use crate::{
    model::{
        Action, AuditEvent, Caller, Grant, Listed, Page, Principal, PrincipalName, ProjectName, Provider,
        Scope,
    },
    store::grants,
};

impl App {
    /// Grants, all or those on one project, by project and principal. Needs `admin`.
    pub async fn grants(
        &self,
        caller: &Caller,
        project: Option<&ProjectName>,
        page: &Page,
    ) -> Result<Listed<Grant>, Error> {
        self.require(caller, Scope::Admin, Action::AdminRead, "grants").await?;
        let mut db = self.store.read().await?;
        let project = match project {
            Some(name) => Some(projects::existing(&mut db, name).await?.id),
            None => None,
        };
        let found = grants::list(&mut db, project, after_pair(page)?, page.and_one().limit).await?;
        Ok(Listed::of(found, page, |grant| format!("{}/{}", grant.project, grant.principal)))
    }

    /// Grants a principal the keys of a project: all of them, or only those of `providers`. Needs `admin`.
    pub async fn set_grant(
        &self,
        caller: &Caller,
        principal: &PrincipalName,
        project: &ProjectName,
        providers: Option<&BTreeSet<Provider>>,
    ) -> Result<(), Error> {
        let now = self.now();
        let mut change =
            self.change(caller, Scope::Admin, Action::GrantSet, object(principal, project)).await?;
        change.event = change.event.clone().detail(covered(providers));
        let result = async {
            if providers.is_some_and(BTreeSet::is_empty) {
                return Err(Error::Invalid(
                    "name at least one provider, or say that all are meant".to_owned(),
                ));
            }
            let principal = principals::existing(&mut change, principal).await?.id;
            let project = projects::existing(&mut change, project).await?.id;
            Ok(grants::put(&mut change, principal, project, providers, now).await?)
        }
        .await;
        change.finish(result).await
    }

    /// Removes a grant: in force when this returns. Needs `admin`.
    pub async fn remove_grant(
        &self,
        caller: &Caller,
        principal: &PrincipalName,
        project: &ProjectName,
    ) -> Result<(), Error> {
        let mut change =
            self.change(caller, Scope::Admin, Action::GrantRemove, object(principal, project)).await?;
        let result = async {
            let principal_id = principals::existing(&mut change, principal).await?.id;
            let project_id = projects::existing(&mut change, project).await?.id;
            if grants::delete(&mut change, principal_id, project_id).await? {
                Ok(())
            } else {
                Err(Error::NotFound(format!("{principal} has no grant on {project}")))
            }
        }
        .await;
        change.finish(result).await
    }
}

/// Grants a new principal whole projects, as part of its own making.
pub(super) async fn grant_projects(
    change: &mut Change<'_>,
    caller: &Caller,
    principal: &Principal,
    names: &[ProjectName],
) -> Result<(), Error> {
    for name in names {
        let project = projects::existing(change, name).await?;
        grants::put(change, principal.id, project.id, None, principal.created_at).await?;
        let event =
            AuditEvent::by(caller, Action::GrantSet).on(object(&principal.name, name)).detail(covered(None));
        change.also(event);
    }
    Ok(())
}

fn object(principal: &PrincipalName, project: &ProjectName) -> String {
    format!("grant:{project}/{principal}")
}

/// What a grant covers, for the book.
fn covered(providers: Option<&BTreeSet<Provider>>) -> String {
    providers.map_or_else(
        || "all providers".to_owned(),
        |some| some.iter().map(Provider::as_str).collect::<Vec<_>>().join(" "),
    )
}
