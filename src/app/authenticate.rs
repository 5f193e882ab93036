//! From a credential on a request to a [`Caller`].
//!
//! Whether the owner is enabled, the key revoked, the role smaller than when the token was issued: all of it is looked up
//! again as soon as anything of the kind has changed, so a revocation is in force at once.

use std::{
    sync::{Arc, PoisonError, atomic::AtomicI64},
    time::Duration,
};

use super::{
    App, Error,
    networks::{self, ELSEWHERE},
    token::TokenId,
    view::{Asker, View},
};
use crate::{
    crypto::{self, jwt},
    model::{
        Action, AuditEvent, Caller, CredentialKind, Id, Networks, Origin, Principal, PrincipalName, ScopeSet,
        Timestamp, TokenDigest, TokenKind, provider, token,
    },
    secret::Secret,
    store::{
        api_keys,
        askers::{self, AskerRow},
    },
};

/// How precisely the last use of an API key is remembered: writing every use would cost as much as the key read.
const LAST_USED_PRECISION: Duration = Duration::from_mins(1);
/// How many uses one transaction writes down, so that nobody waits long for it.
const USES_AT_ONCE: usize = 500;

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
pub(super) type Refusal = (&'static str, Option<(Box<Principal>, CredentialKind)>);

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
            let refused = self.refuse(Action::CredentialVerify, &origin, Error::CredentialMissing);
            return Err(Box::pin(refused).await);
        };
        let view = self.view().await?;
        let found = match self.identify(&view, &presented).await {
            Ok(found) => found.checked(account, &origin),
            Err(Unidentified::Refused(refusal)) => Err(refusal),
            Err(Unidentified::Failed(error)) => return Err(error),
        };
        match found {
            Ok(found) => {
                self.note_use(&found);
                Ok(found.caller(origin, view.revision))
            }
            Err((reason, owner)) => {
                let mut event = AuditEvent::anonymous(&origin, Action::CredentialVerify).denied(reason);
                if let Some((owner, credential)) = owner {
                    event.is_by(&owner, credential);
                }
                Box::pin(self.record_bounded(event)).await?;
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
    async fn identify(&self, view: &View, presented: &Presented) -> Result<Arc<Asker>, Unidentified> {
        let (text, kinds): (_, &[_]) = match presented {
            Presented::Bearer(text) => {
                (text.expose(), &[CredentialKind::AccessToken, CredentialKind::ApiKey])
            }
            Presented::ApiKey(text) => (text.expose(), &[CredentialKind::ApiKey]),
            Presented::Malformed => return Err(refused("malformed_authorization")),
        };
        let found = self.asker(view, crypto::token_digest(text), || self.owner(text, kinds)).await?;
        // It may have come to be known when it was shown in another way.
        if kinds.contains(&found.credential) { Ok(found) } else { Err(refused("malformed_api_key")) }
    }

    /// Whose a credential of one of these `kinds` is.
    async fn owner(&self, text: &str, kinds: &[CredentialKind]) -> Result<Asker, Unidentified> {
        if kinds.contains(&CredentialKind::AccessToken) && jwt::looks_like_jwt(text) {
            return self.owner_of_access_token(text).await;
        }
        let digest = self.api_key_digest(text).ok_or(refused("malformed_api_key"))?;
        self.owner_of_api_key(digest).await
    }

    async fn owner_of_access_token(&self, text: &str) -> Result<Asker, Unidentified> {
        let claims = self.verify_access_token(text).map_err(|error| match error {
            jwt::JwtError::Expired => refused("expired_token"),
            _ => refused("invalid_token"),
        })?;
        let parsed =
            (claims.sub.parse::<Id>(), ScopeSet::of_token(&claims.scope), claims.jti.parse::<TokenId>());
        let (Ok(id), Ok(scopes), Ok(token_id)) = parsed else { return Err(refused("invalid_token")) };
        let mut db = self.store.read().await?;
        let found = askers::by_token(&mut db, id, &claims.jti, token_id.family).await?;
        let (AskerRow { principal, grants }, is_revoked) = found.ok_or(refused("unknown_principal"))?;
        let credential = CredentialKind::AccessToken;
        if is_revoked {
            return Err(Unidentified::Refused(("revoked_token", Some((Box::new(principal), credential)))));
        }
        Ok(Asker {
            scopes: scopes.within(principal.role),
            principal,
            grants: grants.into(),
            credential,
            client_id: Some(claims.client_id.clone()),
            sources: Networks::ANYWHERE,
            good: claims.accepted(),
            used: None,
        })
    }

    async fn owner_of_api_key(&self, digest: TokenDigest) -> Result<Asker, Unidentified> {
        let found = askers::by_api_key(&mut self.store.read().await?, digest).await?;
        let (AskerRow { principal, grants }, key) = found.ok_or(refused("unknown_api_key"))?;
        let (now, credential) = (self.now(), CredentialKind::ApiKey);
        let reason = if key.revoked_at.is_some() {
            Some("revoked_api_key")
        } else if key.expires_at.is_some_and(|end| end <= now) {
            Some("expired_api_key")
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(Unidentified::Refused((reason, Some((Box::new(principal), credential)))));
        }
        Ok(Asker {
            scopes: key.scope.within(principal.role),
            principal,
            grants: grants.into(),
            credential,
            client_id: None,
            sources: key.sources,
            good: Timestamp::FIRST..key.expires_at.unwrap_or(Timestamp::LAST),
            used: Some((key.id, AtomicI64::new(key.last_used_at.unwrap_or(Timestamp::FIRST).micros()))),
        })
    }

    /// Remembers that an API key was used, to be written down within a second: the book has every use.
    fn note_use(&self, asker: &Asker) {
        let now = self.now();
        if let Some(id) = asker.is_news(now, LAST_USED_PRECISION) {
            self.uses.lock().unwrap_or_else(PoisonError::into_inner).insert(id, now);
        }
    }

    /// Writes down when API keys were used last.
    pub async fn record_uses(&self) -> Result<(), Error> {
        let uses = std::mem::take(&mut *self.uses.lock().unwrap_or_else(PoisonError::into_inner));
        let uses: Vec<_> = uses.into_iter().collect();
        for some in uses.chunks(USES_AT_ONCE) {
            let mut tx = self.store.begin().await?;
            for (id, at) in some {
                api_keys::touch(&mut tx, *id, *at).await?;
            }
            tx.commit().await?;
        }
        Ok(())
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

/// Why it is not known who asks.
pub(super) enum Unidentified {
    Refused(Refusal),
    Failed(Error),
}

pub(super) fn refused(reason: &'static str) -> Unidentified {
    Unidentified::Refused((reason, None))
}

impl<E: Into<Error>> From<E> for Unidentified {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Asker {
    /// The same, if its owner is the one that the request names, is not shut out and may be where the request comes from.
    fn checked(self: Arc<Self>, account: Option<&str>, origin: &Origin) -> Result<Arc<Self>, Refusal> {
        let owner = &self.principal;
        let named = |account: &str| {
            account == owner.id.to_string()
                || account.parse::<PrincipalName>().is_ok_and(|name| name == owner.name)
        };
        let reason = if !account.is_none_or(named) {
            "wrong_service_account"
        } else if !owner.is_enabled() {
            "disabled"
        } else if !networks::allow(owner, Some(&self.sources), &origin.source) {
            ELSEWHERE
        } else {
            return Ok(self);
        };
        Err((reason, Some((Box::new(owner.clone()), self.credential))))
    }

    fn caller(&self, origin: Origin, revision: i64) -> Caller {
        Caller {
            principal: Some((self.principal.id, self.principal.kind)),
            name: self.principal.name.to_string(),
            client_id: self.client_id.clone(),
            scopes: self.scopes,
            grants: Arc::clone(&self.grants),
            credential: self.credential,
            origin,
            revision,
        }
    }
}
