//! What users and service accounts have in common: they are shut out, let in again and deleted.

use super::{App, Error};
use crate::{
    model::{Action, Caller, Principal, PrincipalKind, PrincipalName, Role, Scope},
    store::{Connection, principals},
};

impl App {
    /// All users, or all service accounts. Needs `admin`.
    pub async fn principals(&self, caller: &Caller, kind: PrincipalKind) -> Result<Vec<Principal>, Error> {
        if !caller.may(Scope::Admin) {
            return Err(Error::InsufficientScope(Scope::Admin));
        }
        Ok(principals::list(&mut self.store.read().await?, kind).await?)
    }

    /// Shuts a principal out: every credential it holds is dead when this returns.
    pub async fn disable(
        &self,
        caller: &Caller,
        kind: PrincipalKind,
        name: &PrincipalName,
    ) -> Result<(), Error> {
        let mut change =
            self.change(caller, Scope::Admin, Action::PrincipalDisable, object(kind, name)).await?;
        let now = self.now();
        let result = async {
            let principal = of_kind(&mut change, kind, name).await?;
            keep_one_admin(&mut change, &principal).await?;
            Ok(principals::set_disabled_at(&mut change, principal.id, Some(now)).await?)
        };
        let result = result.await;
        change.finish(result).await
    }

    /// Lets a principal in again.
    pub async fn enable(
        &self,
        caller: &Caller,
        kind: PrincipalKind,
        name: &PrincipalName,
    ) -> Result<(), Error> {
        let mut change =
            self.change(caller, Scope::Admin, Action::PrincipalEnable, object(kind, name)).await?;
        let result = async {
            let principal = of_kind(&mut change, kind, name).await?;
            Ok(principals::set_disabled_at(&mut change, principal.id, None).await?)
        };
        let result = result.await;
        change.finish(result).await
    }

    /// Deletes a principal with its secrets, API keys and grants. The book keeps its name.
    pub async fn delete(
        &self,
        caller: &Caller,
        kind: PrincipalKind,
        name: &PrincipalName,
    ) -> Result<(), Error> {
        let mut change =
            self.change(caller, Scope::Admin, Action::PrincipalDelete, object(kind, name)).await?;
        let result = async {
            let principal = of_kind(&mut change, kind, name).await?;
            keep_one_admin(&mut change, &principal).await?;
            Ok(principals::delete(&mut change, principal.id).await?)
        };
        let result = result.await;
        change.finish(result).await
    }
}

/// How the book names a principal.
pub(super) fn object(kind: PrincipalKind, name: &PrincipalName) -> String {
    format!("{}:{name}", kind.as_str())
}

/// The principal of that name, whatever its kind.
pub(super) async fn existing(db: &mut Connection, name: &PrincipalName) -> Result<Principal, Error> {
    let found = principals::by_name(db, name).await?;
    found.ok_or_else(|| Error::NotFound(format!("there is no user or service account {name}")))
}

/// The principal of that name and kind.
pub(super) async fn of_kind(
    db: &mut Connection,
    kind: PrincipalKind,
    name: &PrincipalName,
) -> Result<Principal, Error> {
    let found = principals::by_name(db, name).await?.filter(|principal| principal.kind == kind);
    found.ok_or_else(|| Error::NotFound(format!("there is no {} {name}", kind.noun())))
}

/// A desk that nobody can administer cannot be mended over HTTP.
async fn keep_one_admin(db: &mut Connection, principal: &Principal) -> Result<(), Error> {
    let is_admin =
        principal.kind == PrincipalKind::User && principal.role == Role::Admin && principal.is_enabled();
    if is_admin && principals::other_enabled_admins(db, principal.id).await? == 0 {
        let detail = format!("{} is the last enabled admin; make another one first", principal.name);
        return Err(Error::Conflict(detail));
    }
    Ok(())
}
