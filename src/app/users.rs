//! People: users and their passwords.

use std::time::Duration;

use super::{
    App, Error,
    change::Change,
    grants::grant_projects,
    login::still_stands,
    principals::{described, object, of_kind},
    session::not_a_principal,
};
use crate::{
    crypto::{generate_password, password},
    model::{
        Action, AuditEvent, Caller, Networks, Principal, PrincipalKind, PrincipalName, ProjectName, Role,
        Scope, Timestamp,
    },
    secret::Secret,
    store::{principals, token_families},
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
    /// From where they may come.
    pub networks: Networks,
}

/// A password that an administrator hands to a user.
#[derive(Debug)]
pub struct OneTimePassword {
    /// The password, shown this once.
    pub password: Secret,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// For how long a one-time password is good.
const ONE_TIME_PASSWORD: Duration = Duration::from_hours(24);

impl App {
    /// Makes a user. Needs `admin`.
    pub async fn create_user(&self, caller: &Caller, new: NewUser) -> Result<Principal, Error> {
        let object = object(PrincipalKind::User, &new.name);
        self.require(caller, Scope::Admin, Action::UserCreate, object.as_str()).await?;
        let hash = match reserved(&new.name).and_then(|()| gives_role(caller, new.role)) {
            Ok(()) => self.hash_new_password(&new.name, new.password).await,
            Err(error) => Err(error),
        };
        let hash = self.prepared(hash, caller, Action::UserCreate, &object).await?;
        let user = Principal {
            networks: new.networks,
            ..Principal::new(self.new_id(), PrincipalKind::User, new.name, new.role, self.now())
        };
        let mut change = self.change(caller, Scope::Admin, Action::UserCreate, object).await?;
        change.event = change.event.clone().detail(described(&user));
        let result = insert_user(&mut change, caller, &user, hash, &new.projects).await;
        change.finish(result).await?;
        Ok(user)
    }

    /// Sets a user's password and ends their sessions. Needs `admin`.
    pub async fn set_password(
        &self,
        caller: &Caller,
        name: &PrincipalName,
        password: Secret,
    ) -> Result<(), Error> {
        self.require(caller, Scope::Admin, Action::UserSetPassword, object(PrincipalKind::User, name))
            .await?;
        let hash = self.hash_new_password(name, password).await;
        let object = object(PrincipalKind::User, name);
        let hash = self.prepared(hash, caller, Action::UserSetPassword, &object).await?;
        self.store_password(caller, name, hash, None).await
    }

    /// Gives a user a one-time password: it ends after a day, and opens nothing but its own change. Needs `admin`.
    #[expect(clippy::disallowed_methods, reason = "the new password is hashed and shown once")]
    pub async fn reset_password(
        &self,
        caller: &Caller,
        name: &PrincipalName,
    ) -> Result<OneTimePassword, Error> {
        self.require(caller, Scope::Admin, Action::UserSetPassword, object(PrincipalKind::User, name))
            .await?;
        let password =
            generate_password(self.settings.password_policy.min_length, &*self.surroundings.entropy);
        let hash = self.passwords.hash(Secret::new(password.expose())).await?;
        let expires_at = self.now().plus(ONE_TIME_PASSWORD);
        self.store_password(caller, name, hash, Some(expires_at)).await?;
        Ok(OneTimePassword { password, expires_at })
    }

    async fn store_password(
        &self,
        caller: &Caller,
        name: &PrincipalName,
        hash: String,
        expires_at: Option<Timestamp>,
    ) -> Result<(), Error> {
        let (object, now) = (object(PrincipalKind::User, name), self.now());
        let mut change = self.change(caller, Scope::Admin, Action::UserSetPassword, object).await?;
        let result = async {
            let user = of_kind(&mut change, PrincipalKind::User, name).await?;
            principals::set_password_hash(&mut change, user.id, hash, expires_at).await?;
            token_families::revoke_all(&mut change, user.id, now).await?;
            Ok(())
        }
        .await;
        change.finish(result).await
    }

    /// Changes the caller's own password, which needs the old one, and ends all sessions.
    pub async fn change_own_password(&self, caller: &Caller, old: Secret, new: Secret) -> Result<(), Error> {
        let (Some(id), Ok(name)) = (caller.own_id(), caller.name.parse::<PrincipalName>()) else {
            return Err(not_a_principal());
        };
        let object = object(PrincipalKind::User, &name);
        let mut event = AuditEvent::by(caller, Action::UserSetPassword).on(object.as_str());
        self.authorise_own(caller, &event).await?;
        let repeated = password::are_same(&old, &new);
        let proven = match self.check_own_password(&name, old, &mut event).await {
            Ok(proven) => proven,
            Err(error) if self.shed.counts(&error) => return Err(error),
            Err(error) => {
                let reason = event.reason.clone().unwrap_or_else(|| error.code().to_owned());
                self.book.record(event.denied(reason)).await?;
                return Err(error);
            }
        };
        let hash = if repeated {
            Err(Error::Conflict("the new password is the old one".to_owned()))
        } else {
            self.hash_new_password(&name, new).await
        };
        let hash = self.prepared(hash, caller, Action::UserSetPassword, &object).await?;
        let now = self.now();
        let mut change = self.own_change(caller, Action::UserSetPassword, object).await?;
        let result = async {
            if !still_stands(&mut change, &proven).await? {
                return Err(Error::Conflict("the user was changed meanwhile; log in again".to_owned()));
            }
            principals::set_password_hash(&mut change, id, hash, None).await?;
            token_families::revoke_all(&mut change, id, now).await?;
            Ok(())
        }
        .await;
        change.finish(result).await
    }

    /// The hash of a password that the policy allows; judged in the form in which it is hashed.
    pub(super) async fn hash_new_password(
        &self,
        name: &PrincipalName,
        password: Secret,
    ) -> Result<String, Error> {
        let policy = self.settings.password_policy;
        policy
            .check(name, &password::normalise(&password))
            .map_err(|error| Error::Conflict(error.to_string()))?;
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

/// Nobody makes somebody more powerful than their own token.
pub(super) fn gives_role(caller: &Caller, role: Role) -> Result<(), Error> {
    if caller.may_give(role.scopes()) {
        return Ok(());
    }
    Err(Error::Forbidden(format!(
        "the role {role} has scopes that your token lacks; ask for them when you log in"
    )))
}

/// `keydesk` is the client of the password grant, and no principal may pass for it.
pub(super) fn reserved(name: &PrincipalName) -> Result<(), Error> {
    if name.as_str() == super::client::PUBLIC_CLIENT {
        return Err(Error::Invalid(format!("the name {name} is taken by the built-in client")));
    }
    Ok(())
}
