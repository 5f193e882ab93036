//! API keys: long-lived credentials of users and service accounts, shown once.

use std::time::Duration;

use super::{App, Error, after, change::Change, principals::existing, session::not_a_principal};
use crate::{
    crypto,
    model::{
        Action, AuditEvent, Caller, Id, Listed, Networks, Page, Principal, PrincipalName, Scope, ScopeSet,
        Timestamp, TokenDigest, TokenKind,
    },
    secret::Secret,
    store::{
        Connection,
        api_keys::{self, ApiKeyRow},
    },
};

/// A longer lifetime is a mistake; without end is said by leaving it out.
const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

/// A new API key, which is shown this once.
#[derive(Debug)]
pub struct IssuedApiKey {
    /// What may be shown again.
    pub row: ApiKeyRow,
    /// The key.
    pub api_key: Secret,
    digest: TokenDigest,
}

/// What an API key is to be.
#[derive(Debug, Default)]
pub struct NewKey {
    /// What it is for, in its owner's words.
    pub label: String,
    /// For how long it is good; `None` is without end.
    pub lifetime: Option<Duration>,
    /// What it may do at most; `None` is `llm-keys:read`.
    pub scope: Option<ScopeSet>,
    /// From where it may be used.
    pub sources: Networks,
}

impl App {
    /// Makes an API key for a principal. Needs `admin`.
    pub async fn issue_api_key(
        &self,
        caller: &Caller,
        owner: &PrincipalName,
        new: NewKey,
    ) -> Result<IssuedApiKey, Error> {
        self.require(caller, Scope::Admin, Action::ApiKeyIssue, format!("api_key:{owner}/new")).await?;
        let issued = self.draft_api_key(owner.clone(), new).and_then(|issued| {
            let may = caller.may_give(issued.row.scope);
            if may {
                Ok(issued)
            } else {
                Err(Error::Forbidden("nobody gives scopes that they lack".to_owned()))
            }
        });
        let issued =
            self.prepared(issued, caller, Action::ApiKeyIssue, &format!("api_key:{owner}/new")).await?;
        let object = object(owner, issued.row.id);
        let mut change = self.change(caller, Scope::Admin, Action::ApiKeyIssue, object).await?;
        let result = async {
            let principal = existing(&mut change, owner).await?;
            insert(&mut change, &issued, &principal).await
        }
        .await;
        change.finish(result).await?;
        Ok(issued)
    }

    /// Makes an API key for the caller itself, which can do no more than the caller's own token.
    pub async fn issue_own_api_key(&self, caller: &Caller, new: NewKey) -> Result<IssuedApiKey, Error> {
        let owner: PrincipalName = caller.name.parse().map_err(|_| not_a_principal())?;
        let event = AuditEvent::by(caller, Action::ApiKeyIssue).on(format!("api_key:{owner}/new"));
        self.authorise_own(caller, &event).await?;
        let issued = self.draft_api_key(owner.clone(), new).and_then(|issued| {
            let may = issued.row.scope.is_subset_of(caller.scopes);
            let detail = "an API key cannot do more than the token it is made with";
            if may { Ok(issued) } else { Err(Error::Forbidden(detail.to_owned())) }
        });
        let issued =
            self.prepared(issued, caller, Action::ApiKeyIssue, &format!("api_key:{owner}/new")).await?;
        let object = object(&owner, issued.row.id);
        let mut change = self.own_change(caller, Action::ApiKeyIssue, object).await?;
        let result = async {
            let principal = existing(&mut change, &owner).await?;
            insert(&mut change, &issued, &principal).await
        }
        .await;
        change.finish(result).await?;
        Ok(issued)
    }

    fn draft_api_key(&self, principal: PrincipalName, new: NewKey) -> Result<IssuedApiKey, Error> {
        if new.label.len() > 100 || new.label.chars().any(char::is_control) {
            return Err(Error::Invalid("a label has at most 100 bytes and no control characters".to_owned()));
        }
        if new.lifetime.is_some_and(|lifetime| lifetime.is_zero() || lifetime > LONGEST) {
            return Err(Error::Invalid("an API key lasts from a second to a hundred years".to_owned()));
        }
        let (api_key, digest) = crypto::generate_token(TokenKind::ApiKey, &*self.surroundings.entropy);
        let now = self.now();
        let row = ApiKeyRow {
            id: self.new_id(),
            principal,
            label: new.label,
            scope: new.scope.unwrap_or_else(|| ScopeSet::of(&[Scope::LlmKeysRead])),
            sources: new.sources,
            created_at: now,
            expires_at: new.lifetime.map(|lifetime| now.plus(lifetime)),
            revoked_at: None,
            last_used_at: None,
        };
        Ok(IssuedApiKey { row, api_key, digest })
    }

    /// All API keys, or one principal's, by owner and age. Needs `admin`.
    pub async fn api_keys(
        &self,
        caller: &Caller,
        owner: Option<&PrincipalName>,
        page: &Page,
    ) -> Result<Listed<ApiKeyRow>, Error> {
        self.require(caller, Scope::Admin, Action::AdminRead, "api_keys").await?;
        let mut db = self.store.read().await?;
        let owner = match owner {
            Some(name) => Some(existing(&mut db, name).await?.id),
            None => None,
        };
        listed(&mut db, owner, page).await
    }

    /// The caller's own API keys.
    pub async fn own_api_keys(&self, caller: &Caller, page: &Page) -> Result<Listed<ApiKeyRow>, Error> {
        let owner = self.own(caller, "api_keys").await?;
        listed(&mut self.store.read().await?, Some(owner), page).await
    }

    /// Revokes an API key, of `owner` if one is named: it is dead when this returns. Needs `admin`.
    pub async fn revoke_api_key(
        &self,
        caller: &Caller,
        owner: Option<&PrincipalName>,
        id: Id,
    ) -> Result<(), Error> {
        let now = self.now();
        let mut change =
            self.change(caller, Scope::Admin, Action::ApiKeyRevoke, format!("api_key:{id}")).await?;
        let result =
            revoke(&mut change, |key| owner.is_none_or(|owner| *owner == key.principal), id, now).await;
        change.finish(result).await
    }

    /// Revokes one of the caller's own API keys.
    pub async fn revoke_own_api_key(&self, caller: &Caller, id: Id) -> Result<(), Error> {
        let now = self.now();
        let mut change = self.own_change(caller, Action::ApiKeyRevoke, format!("api_key:{id}")).await?;
        let result = revoke(&mut change, |key| key.principal.as_str() == caller.name, id, now).await;
        change.finish(result).await
    }
}

/// How the book names an API key: with its owner, because the key's row goes with the owner and the book stays.
pub(super) fn object(owner: &PrincipalName, id: Id) -> String {
    format!("api_key:{owner}/{id}")
}

async fn insert(change: &mut Change<'_>, issued: &IssuedApiKey, owner: &Principal) -> Result<(), Error> {
    if !issued.row.scope.is_subset_of(owner.role.scopes()) {
        return Err(Error::Forbidden(format!("the role of {} does not allow these scopes", owner.name)));
    }
    change.event = change.event.clone().detail(issued.row.scope);
    Ok(api_keys::insert(change, &issued.row, owner.id, issued.digest, false).await?)
}

async fn listed(db: &mut Connection, owner: Option<Id>, page: &Page) -> Result<Listed<ApiKeyRow>, Error> {
    let found = api_keys::list(db, owner, after(page)?, page.and_one().limit).await?;
    Ok(Listed::of(found, page, |key| key.id.to_string()))
}

async fn revoke(
    change: &mut Change<'_>,
    is_meant: impl Fn(&ApiKeyRow) -> bool,
    id: Id,
    now: Timestamp,
) -> Result<(), Error> {
    let key = api_keys::by_id(change, id).await?.filter(is_meant);
    let key = key.ok_or_else(|| Error::NotFound("there is no such API key".to_owned()))?;
    change.event = change.event.clone().on(object(&key.principal, id));
    if key.revoked_at.is_some() {
        return Err(Error::Conflict("this API key is revoked already".to_owned()));
    }
    Ok(api_keys::revoke(change, id, now).await?)
}
