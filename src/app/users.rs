//! People: users and their passwords.

use super::{
    App, Error,
    change::Change,
    grants::grant_projects,
    principals::{object, of_kind},
};
use crate::{
    model::{Action, Caller, Principal, PrincipalKind, PrincipalName, ProjectName, Role, Scope},
    secret::Secret,
    store::principals,
};

/// A user to be made.
#[derive(Debug)]
pub struct NewUser {
    /// The name.
    pub name: PrincipalName,
    /// What they may ask for at most.
    pub role: Role,
    /// The password.
    pub password: Secret,
    /// Projects they are granted from the start.
    pub projects: Vec<ProjectName>,
}

impl App {
    /// Makes a user. Needs `admin`.
    pub async fn create_user(&self, caller: &Caller, new: NewUser) -> Result<Principal, Error> {
        reserved(&new.name)?;
        let hash = self.hash_new_password(&new.name, new.password).await?;
        let user = Principal {
            id: self.new_id(),
            kind: PrincipalKind::User,
            name: new.name,
            role: new.role,
            disabled_at: None,
            created_at: self.now(),
        };
        let object = object(PrincipalKind::User, &user.name);
        let mut change = self.change(caller, Scope::Admin, Action::UserCreate, object).await?;
        let result = insert_user(&mut change, caller, &user, hash, &new.projects).await;
        change.finish(result).await?;
        Ok(user)
    }

    /// Sets a user's password. Needs `admin`.
    pub async fn set_password(
        &self,
        caller: &Caller,
        name: &PrincipalName,
        password: Secret,
    ) -> Result<(), Error> {
        let hash = self.hash_new_password(name, password).await?;
        let object = object(PrincipalKind::User, name);
        let mut change = self.change(caller, Scope::Admin, Action::UserSetPassword, object).await?;
        let result = async {
            let user = of_kind(&mut change, PrincipalKind::User, name).await?;
            Ok(principals::set_password_hash(&mut change, user.id, hash).await?)
        };
        let result = result.await;
        change.finish(result).await
    }

    #[expect(clippy::disallowed_methods, reason = "the policy reads the password it judges")]
    pub(super) async fn hash_new_password(
        &self,
        name: &PrincipalName,
        password: Secret,
    ) -> Result<String, Error> {
        let policy = self.settings.password_policy;
        policy.check(name, password.expose()).map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(self.passwords.hash(password).await?)
    }
}

async fn insert_user(
    change: &mut Change<'_>,
    caller: &Caller,
    user: &Principal,
    hash: String,
    projects: &[ProjectName],
) -> Result<(), Error> {
    principals::insert(change, user, Some(hash)).await.map_err(|error| taken(error, &user.name))?;
    grant_projects(change, caller, user, projects).await
}

/// One name space for users and service accounts, said in words.
pub(super) fn taken(error: crate::store::StoreError, name: &PrincipalName) -> Error {
    match error {
        crate::store::StoreError::Exists => {
            Error::Conflict(format!("there is already a user or service account named {name}"))
        }
        other => other.into(),
    }
}

/// `keydesk` is the client of the password grant, and no principal may pass for it.
pub(super) fn reserved(name: &PrincipalName) -> Result<(), Error> {
    if name.as_str() == super::token::PUBLIC_CLIENT {
        return Err(Error::Invalid(format!("the name {name} is taken by the built-in client")));
    }
    Ok(())
}
