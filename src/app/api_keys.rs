//! API keys: long-lived credentials of users and service accounts, shown once.

use std::time::Duration;

use super::{App, Error, principals::existing};
use crate::{
    crypto,
    model::{Action, Caller, Id, PrincipalName, Scope, TokenKind},
    secret::Secret,
    store::api_keys::{self, ApiKeyRow, NewApiKey},
};

/// A new API key, which is shown this once.
#[derive(Debug)]
pub struct IssuedApiKey {
    /// What may be shown again.
    pub row: ApiKeyRow,
    /// The key.
    pub api_key: Secret,
}

impl App {
    /// Makes an API key for a principal. Needs `admin`.
    pub async fn issue_api_key(
        &self,
        caller: &Caller,
        owner: &PrincipalName,
        label: String,
        lifetime: Option<Duration>,
    ) -> Result<IssuedApiKey, Error> {
        if label.len() > 100 || label.chars().any(char::is_control) {
            return Err(Error::Invalid("a label has at most 100 bytes and no control characters".to_owned()));
        }
        let (api_key, digest) = crypto::generate_token(TokenKind::ApiKey, &*self.surroundings.entropy);
        let (id, now) = (self.new_id(), self.now());
        let expires_at = lifetime.map(|lifetime| now.plus(lifetime));
        let row = ApiKeyRow {
            id,
            principal: owner.clone(),
            label: label.clone(),
            created_at: now,
            expires_at,
            revoked_at: None,
        };
        let mut change =
            self.change(caller, Scope::Admin, Action::ApiKeyIssue, format!("api_key:{id}")).await?;
        let result = async {
            let principal = existing(&mut change, owner).await?.id;
            let key = NewApiKey { id, principal, label, digest, imported: false, expires_at };
            Ok(api_keys::insert(&mut change, key, now).await?)
        };
        let result = result.await;
        change.finish(result).await?;
        Ok(IssuedApiKey { row, api_key })
    }

    /// All API keys, or one principal's. Needs `admin`.
    pub async fn api_keys(
        &self,
        caller: &Caller,
        owner: Option<&PrincipalName>,
    ) -> Result<Vec<ApiKeyRow>, Error> {
        if !caller.may(Scope::Admin) {
            return Err(Error::InsufficientScope(Scope::Admin));
        }
        let mut db = self.store.read().await?;
        let owner = match owner {
            Some(name) => Some(existing(&mut db, name).await?.id),
            None => None,
        };
        Ok(api_keys::list(&mut db, owner).await?)
    }

    /// Revokes an API key: it is dead when this returns. Needs `admin`.
    pub async fn revoke_api_key(&self, caller: &Caller, id: Id) -> Result<(), Error> {
        let now = self.now();
        let mut change =
            self.change(caller, Scope::Admin, Action::ApiKeyRevoke, format!("api_key:{id}")).await?;
        let result = async {
            let key = api_keys::by_id(&mut change, id).await?;
            let key = key.ok_or_else(|| Error::NotFound("there is no such API key".to_owned()))?;
            if key.revoked_at.is_some() {
                return Err(Error::Conflict("this API key is revoked already".to_owned()));
            }
            Ok(api_keys::revoke(&mut change, id, now).await?)
        };
        let result = result.await;
        change.finish(result).await
    }
}
