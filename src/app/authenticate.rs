//! From a credential on a request to a [`Caller`].
//!
//! Whether the owner is enabled, the key revoked, the role smaller than when the token was issued: all of it is looked up
//! at every request, so a revocation is in force at once.

use std::time::Duration;

use super::{
    App, Error,
    networks::{self, ELSEWHERE},
    token::TokenId,
};
use crate::{
    crypto::{self, jwt},
    model::{
        Action, AuditEvent, Caller, CredentialKind, Id, Origin, Principal, PrincipalName, ScopeSet,
        TokenDigest, TokenKind, provider, token,
    },
    secret::Secret,
    store::{
        api_keys::{self, ApiKeyRow},
        keys, principals, token_families,
    },
};

/// How precisely the last use of an API key is remembered: writing every use would cost as much as the key read.
const LAST_USED_PRECISION: Duration = Duration::from_mins(1);

/// What a request showed.
#[derive(Debug)]
pub enum Presented {
    /// `Authorization: Bearer …`: an access token or an API key.
    Bearer(Secret),
    /// `X-API-Key: …`.
    ApiKey(Secret),
    /// An `Authorization` header that is not `Bearer` and a text.
    Malformed,
}

/// Why a credential is refused, for the book.
type Refusal = (&'static str, Option<(Box<Principal>, CredentialKind)>);

impl App {
    /// Proves who is asking. `account` is the `X-Service-Account` header: if it is there, it must name the owner of the
    /// credential.
    pub async fn authenticate(
        &self,
        presented: Option<Presented>,
        account: Option<&str>,
        origin: Origin,
    ) -> Result<Caller, Error> {
        let Some(presented) = presented else {
            return Err(self.refuse(Action::CredentialVerify, &origin, Error::CredentialMissing).await);
        };
        // Before anything is looked up: whatever changes from here on makes the decision stale.
        let revision = keys::revision(&mut self.store.read().await?).await?;
        let found = self.identify(&presented).await?;
        match found.and_then(|found| found.checked(account, &origin)) {
            Ok(found) => {
                self.remember_use(found.api_key.as_ref()).await?;
                Ok(found.into_caller(origin, revision))
            }
            Err((reason, owner)) => {
                let mut event = AuditEvent::anonymous(&origin, Action::CredentialVerify).denied(reason);
                if let Some((owner, credential)) = owner {
                    event.is_by(&owner, credential);
                }
                self.record_bounded(event).await?;
                Err(if reason == ELSEWHERE { Error::Elsewhere } else { Error::CredentialInvalid })
            }
        }
    }

    /// Writes down that something was refused before it was known who asks, and gives the error to answer with: a refusal
    /// that cannot be written is no less a refusal, but the asker is told that the desk cannot work.
    pub async fn refuse(&self, action: Action, origin: &Origin, error: Error) -> Error {
        match self.record_bounded(AuditEvent::anonymous(origin, action).denied(error.code())).await {
            Ok(()) => error,
            Err(unavailable) => unavailable,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the credential is verified, or looked up by its digest")]
    async fn identify(&self, presented: &Presented) -> Result<Result<Found, Refusal>, Error> {
        match presented {
            Presented::Bearer(text) if jwt::looks_like_jwt(text.expose()) => {
                self.owner_of_access_token(text.expose()).await
            }
            Presented::Bearer(text) | Presented::ApiKey(text) => self.owner_of_api_key(text.expose()).await,
            Presented::Malformed => Ok(Err(("malformed_authorization", None))),
        }
    }

    async fn owner_of_access_token(&self, text: &str) -> Result<Result<Found, Refusal>, Error> {
        let claims = match self.verify_access_token(text) {
            Ok(claims) => claims,
            Err(jwt::JwtError::Expired) => return Ok(Err(("expired_token", None))),
            Err(_) => return Ok(Err(("invalid_token", None))),
        };
        let parsed =
            (claims.sub.parse::<Id>(), ScopeSet::of_token(&claims.scope), claims.jti.parse::<TokenId>());
        let (Ok(id), Ok(scopes), Ok(token_id)) = parsed else { return Ok(Err(("invalid_token", None))) };
        let mut db = self.store.read().await?;
        let Some(principal) = principals::by_id(&mut db, id).await? else {
            return Ok(Err(("unknown_principal", None)));
        };
        if token_families::is_access_token_revoked(&mut db, &claims.jti, token_id.family).await? {
            return Ok(Err(("revoked_token", Some((Box::new(principal), CredentialKind::AccessToken)))));
        }
        let (credential, client_id) = (CredentialKind::AccessToken, Some(claims.client_id));
        Ok(Ok(Found { principal, scopes, credential, client_id, api_key: None }))
    }

    async fn owner_of_api_key(&self, text: &str) -> Result<Result<Found, Refusal>, Error> {
        let Some(digest) = self.api_key_digest(text) else { return Ok(Err(("malformed_api_key", None))) };
        let Some((key, principal)) = api_keys::owner(&mut self.store.read().await?, digest).await? else {
            return Ok(Err(("unknown_api_key", None)));
        };
        let now = self.now();
        let reason = if key.revoked_at.is_some() {
            Some("revoked_api_key")
        } else if key.expires_at.is_some_and(|end| end <= now) {
            Some("expired_api_key")
        } else {
            None
        };
        if let Some(reason) = reason {
            return Ok(Err((reason, Some((Box::new(principal), CredentialKind::ApiKey)))));
        }
        let (scopes, credential) = (key.scope, CredentialKind::ApiKey);
        Ok(Ok(Found { principal, scopes, credential, client_id: None, api_key: Some(key) }))
    }

    async fn remember_use(&self, key: Option<&ApiKeyRow>) -> Result<(), Error> {
        let now = self.now();
        let is_old = |key: &&ApiKeyRow| key.last_used_at.is_none_or(|at| at.plus(LAST_USED_PRECISION) <= now);
        let Some(key) = key.filter(is_old) else { return Ok(()) };
        let mut tx = self.store.begin().await?;
        api_keys::touch(&mut tx, key.id, now).await?;
        Ok(tx.commit().await?)
    }

    /// The digest under which an API key would be stored; `None` for what cannot be one, so that junk costs no query.
    fn api_key_digest(&self, text: &str) -> Option<TokenDigest> {
        if text.starts_with(token::PREFIX) {
            (TokenKind::recognise(text) == Some(TokenKind::ApiKey)).then(|| crypto::token_digest(text))
        } else {
            provider::check_key_text(text).ok().map(|()| self.imported_key_digest(text))
        }
    }

    /// The digest of an API key that somebody else chose. Keyed, because it may be guessable.
    pub(super) fn imported_key_digest(&self, text: &str) -> TokenDigest {
        TokenDigest(self.keyring.mac("imported api key", text.as_bytes()))
    }
}

struct Found {
    principal: Principal,
    scopes: ScopeSet,
    credential: CredentialKind,
    client_id: Option<String>,
    api_key: Option<ApiKeyRow>,
}

impl Found {
    /// The same, if its owner is the one that the request names, is not shut out and may be where the request comes from.
    fn checked(self, account: Option<&str>, origin: &Origin) -> Result<Self, Refusal> {
        let owner = &self.principal;
        let named = |account: &str| {
            account == owner.id.to_string()
                || account.parse::<PrincipalName>().is_ok_and(|name| name == owner.name)
        };
        let own = self.api_key.as_ref().map(|key| &key.sources);
        let reason = if !account.is_none_or(named) {
            "wrong_service_account"
        } else if !owner.is_enabled() {
            "disabled"
        } else if !networks::allow(owner, own, &origin.source) {
            ELSEWHERE
        } else {
            return Ok(self);
        };
        Err((reason, Some((Box::new(self.principal), self.credential))))
    }

    fn into_caller(self, origin: Origin, revision: i64) -> Caller {
        Caller {
            principal: Some((self.principal.id, self.principal.kind)),
            name: self.principal.name.to_string(),
            client_id: self.client_id,
            scopes: self.scopes.within(self.principal.role),
            credential: self.credential,
            origin,
            revision,
        }
    }
}
