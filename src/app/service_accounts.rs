//! Machines: service accounts, their client secrets, and the credentials they are handed once.

use std::time::Duration;

use super::{
    App, Error,
    api_keys::object as api_key_object,
    change::Change,
    grants::grant_projects,
    principals::{described, object, of_kind},
    users::{gives_role, reserved, taken},
};
use crate::{
    crypto,
    model::{
        Action, AuditEvent, Caller, Id, Networks, Principal, PrincipalKind, PrincipalName, ProjectName, Role,
        Scope, ScopeSet, Timestamp, TokenDigest, TokenKind,
    },
    secret::Secret,
    store::{
        api_keys::{self, ApiKeyRow},
        client_secrets, principals,
    },
};

/// For how long an old client secret can stay valid beside a new one.
const LONGEST_OVERLAP: Duration = Duration::from_hours(365 * 24);

/// The label of the API key that is made with a service account.
const FIRST_KEY: &str = "first";

/// A new service account with its credentials, which are shown this once.
#[derive(Debug)]
pub struct NewServiceAccount {
    /// The account; its name is the `client_id`.
    pub account: Principal,
    /// For the token endpoint.
    pub client_secret: Secret,
    /// An API key, for `X-API-Key` or `Bearer`.
    pub token: Secret,
}

struct FirstCredentials {
    secret: TokenDigest,
    key: TokenDigest,
    secret_id: Id,
    key_id: Id,
}

impl App {
    /// Makes a service account with a client secret and an API key. Needs `admin`.
    pub async fn create_service_account(
        &self,
        caller: &Caller,
        name: PrincipalName,
        role: Role,
        projects: &[ProjectName],
        networks: Networks,
    ) -> Result<NewServiceAccount, Error> {
        let object = object(PrincipalKind::ServiceAccount, &name);
        self.require(caller, Scope::Admin, Action::ServiceAccountCreate, object.as_str()).await?;
        let allowed = reserved(&name).and_then(|()| gives_role(caller, role));
        self.prepared(allowed, caller, Action::ServiceAccountCreate, &object).await?;
        let entropy = &*self.surroundings.entropy;
        let (client_secret, secret) = crypto::generate_token(TokenKind::ClientSecret, entropy);
        let (token, key) = crypto::generate_token(TokenKind::ApiKey, entropy);
        let first = FirstCredentials { secret, key, secret_id: self.new_id(), key_id: self.new_id() };
        let account = Principal { networks, ..self.service_account(name, role) };
        let mut change = self.change(caller, Scope::Admin, Action::ServiceAccountCreate, object).await?;
        change.event = change.event.clone().detail(described(&account));
        let result = insert_account(&mut change, caller, &account, first, projects).await;
        change.finish(result).await?;
        Ok(NewServiceAccount { account, client_secret, token })
    }

    /// A service account that is not stored yet.
    pub(super) fn service_account(&self, name: PrincipalName, role: Role) -> Principal {
        Principal::new(self.new_id(), PrincipalKind::ServiceAccount, name, role, self.now())
    }

    /// Gives a service account a new client secret; the present ones end after `overlap`. Needs `admin`.
    pub async fn rotate_client_secret(
        &self,
        caller: &Caller,
        name: &PrincipalName,
        overlap: Duration,
    ) -> Result<Secret, Error> {
        let (client_secret, digest) =
            crypto::generate_token(TokenKind::ClientSecret, &*self.surroundings.entropy);
        let (id, now) = (self.new_id(), self.now());
        let object = object(PrincipalKind::ServiceAccount, name);
        let mut change = self.change(caller, Scope::Admin, Action::ClientSecretRotate, object).await?;
        let result = async {
            if overlap > LONGEST_OVERLAP {
                return Err(Error::Invalid("secrets can overlap for a year at most".to_owned()));
            }
            let account = of_kind(&mut change, PrincipalKind::ServiceAccount, name).await?;
            client_secrets::expire(&mut change, account.id, now.plus(overlap), now).await?;
            Ok(client_secrets::insert(&mut change, id, account.id, digest, now).await?)
        }
        .await;
        change.finish(result).await?;
        Ok(client_secret)
    }
}

async fn insert_account(
    change: &mut Change<'_>,
    caller: &Caller,
    account: &Principal,
    first: FirstCredentials,
    projects: &[ProjectName],
) -> Result<(), Error> {
    let now: Timestamp = account.created_at;
    principals::insert(change, account, None).await.map_err(|error| taken(error, &account.name))?;
    client_secrets::insert(change, first.secret_id, account.id, first.secret, now).await?;
    let key = ApiKeyRow {
        id: first.key_id,
        principal: account.name.clone(),
        label: FIRST_KEY.to_owned(),
        scope: ScopeSet::of(&[Scope::LlmKeysRead]),
        sources: Networks::ANYWHERE,
        created_at: now,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
    };
    api_keys::insert(change, &key, account.id, first.key, false).await?;
    let event = AuditEvent::by(caller, Action::ApiKeyIssue).on(api_key_object(&account.name, first.key_id));
    change.also(event);
    grant_projects(change, caller, account, projects).await
}
