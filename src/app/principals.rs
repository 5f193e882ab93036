//! What users and service accounts have in common: they are listed, changed, shut out and deleted.

use std::collections::BTreeSet;

use super::{App, Error, change::Change, session::not_a_principal, users::gives_role};
use crate::{
    model::{
        Action, Caller, GrantType, Granted, Id, Listed, Networks, Page, Principal, PrincipalKind,
        PrincipalName, Role, Scope, ScopeSet,
    },
    store::{Connection, grants, principals, token_families},
};

/// What to change of a principal; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    /// What it may ask for at most.
    pub role: Option<Role>,
    /// Whether it is shut out.
    pub disabled: Option<bool>,
    /// The grant types it may use.
    pub grant_types: Option<BTreeSet<GrantType>>,
    /// From where its credentials may be used.
    pub networks: Option<Networks>,
}

/// Who a caller is, and what they may do.
#[derive(Debug, serde::Serialize)]
pub struct Identity {
    /// The principal's identifier, the `sub` of its access tokens.
    pub id: Id,
    /// Person or machine.
    pub kind: PrincipalKind,
    /// The name.
    pub name: PrincipalName,
    /// What the principal may ask for at most.
    pub role: Role,
    /// What was shown.
    pub credential: &'static str,
    /// What it allows.
    #[serde(serialize_with = "crate::model::scope::as_text")]
    pub scope: ScopeSet,
    /// Which keys the principal may fetch.
    pub grants: Vec<Granted>,
}

impl App {
    /// Who the caller is: whatever the credential, it may know that.
    pub async fn own_identity(&self, caller: &Caller) -> Result<Identity, Error> {
        let id = caller.own_id().ok_or_else(not_a_principal)?;
        let mut db = self.store.read().await?;
        let Principal { kind, name, role, .. } =
            principals::by_id(&mut db, id).await?.ok_or(Error::CredentialInvalid)?;
        let grants = grants::of_principal(&mut db, id).await?;
        let (credential, scope) = (caller.credential.as_str(), caller.scopes);
        Ok(Identity { id, kind, name, role, credential, scope, grants })
    }

    /// Users, or service accounts, by name. Needs `admin`.
    pub async fn principals(
        &self,
        caller: &Caller,
        kind: PrincipalKind,
        page: &Page,
    ) -> Result<Listed<Principal>, Error> {
        self.require(caller, Scope::Admin, Action::AdminRead, format!("{}s", kind.as_str())).await?;
        let found = principals::list(&mut self.store.read().await?, kind, &page.and_one()).await?;
        Ok(Listed::of(found, page, |principal| principal.name.to_string()))
    }

    /// One user or service account. Needs `admin`.
    pub async fn principal(
        &self,
        caller: &Caller,
        kind: PrincipalKind,
        name: &PrincipalName,
    ) -> Result<Principal, Error> {
        self.require(caller, Scope::Admin, Action::AdminRead, object(kind, name)).await?;
        of_kind(&mut self.store.read().await?, kind, name).await
    }

    /// Changes a principal, if it still has one of the versions that `expected` names. Needs `admin`.
    pub async fn update_principal(
        &self,
        caller: &Caller,
        kind: PrincipalKind,
        name: &PrincipalName,
        patch: Patch,
        expected: Option<&[i64]>,
    ) -> Result<Principal, Error> {
        let action = match (patch.disabled, &patch.role, &patch.grant_types, &patch.networks) {
            (Some(true), None, None, None) => Action::PrincipalDisable,
            (Some(false), None, None, None) => Action::PrincipalEnable,
            _ => Action::PrincipalUpdate,
        };
        let allowed = patch.role.map_or(Ok(()), |role| gives_role(caller, role));
        let mut change = self.change(caller, Scope::Admin, action, object(kind, name)).await?;
        if let Err(error) = allowed {
            return change.finish(Err(error)).await;
        }
        if let Some(networks) = &patch.networks {
            change.event = change.event.clone().detail(format_args!("from {networks}"));
        }
        let result = self.apply(&mut change, kind, name, patch, expected).await;
        if let Ok(changed) = &result {
            change.event = change.event.clone().version(changed.version);
        }
        change.finish(result).await
    }

    async fn apply(
        &self,
        change: &mut Change<'_>,
        kind: PrincipalKind,
        name: &PrincipalName,
        patch: Patch,
        expected: Option<&[i64]>,
    ) -> Result<Principal, Error> {
        let before = of_kind(change, kind, name).await?;
        if expected.is_some_and(|versions| !versions.contains(&before.version)) {
            return Err(Error::Changed);
        }
        let mut after = before.clone();
        after.role = patch.role.unwrap_or(before.role);
        if let Some(grant_types) = patch.grant_types {
            if !grant_types.is_subset(&kind.grant_types()) {
                return Err(Error::Conflict(format!(
                    "a {} cannot use one of these grant types",
                    kind.noun()
                )));
            }
            after.grant_types = grant_types;
        }
        match patch.disabled {
            Some(true) if before.is_enabled() => after.disabled_at = Some(self.now()),
            Some(false) => after.disabled_at = None,
            _ => {}
        }
        if after.role != Role::Admin
            || !after.is_enabled()
            || !after.grant_types.contains(&GrantType::Password)
        {
            keep_one_admin(change, &before).await?;
        }
        if let Some(networks) = patch.networks {
            let own = change.event.principal.is_some_and(|(id, _)| id == before.id);
            if own && !networks.cover(&change.event.source) {
                let detail = "you would shut yourself out: your own address is not in these networks";
                return Err(Error::Conflict(detail.to_owned()));
            }
            after.networks = networks;
        }
        if !principals::update(change, &after).await? {
            return Err(Error::Changed);
        }
        if !after.is_enabled() {
            token_families::revoke_all(change, after.id, self.now()).await?;
        }
        after.version += 1;
        Ok(after)
    }

    /// Shuts a principal out: every credential it holds is dead when this returns.
    pub async fn disable(
        &self,
        caller: &Caller,
        kind: PrincipalKind,
        name: &PrincipalName,
    ) -> Result<(), Error> {
        let patch = Patch { disabled: Some(true), ..Patch::default() };
        self.update_principal(caller, kind, name, patch, None).await.map(drop)
    }

    /// Lets a principal in again. Its sessions stay ended.
    pub async fn enable(
        &self,
        caller: &Caller,
        kind: PrincipalKind,
        name: &PrincipalName,
    ) -> Result<(), Error> {
        let patch = Patch { disabled: Some(false), ..Patch::default() };
        self.update_principal(caller, kind, name, patch, None).await.map(drop)
    }

    /// Deletes a principal with its secrets, API keys, sessions and grants. The book keeps its name.
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
        }
        .await;
        change.finish(result).await
    }
}

/// What the book says of a new principal: its role, and from where it may come if that is not anywhere.
pub(super) fn described(principal: &Principal) -> String {
    match principal.networks.list() {
        Some(_) => format!("{} from {}", principal.role, principal.networks),
        None => principal.role.to_string(),
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
