//! From a credential on a request to a [`Caller`].
//!
//! Whether the owner is enabled, the key revoked, the role smaller than when the token was issued: all of it is looked up
//! at every request, so a revocation is in force at once.

use super::{App, Error};
use crate::{
    crypto::{self, jwt},
    model::{
        Action, AuditEvent, Caller, CredentialKind, Id, Origin, Principal, PrincipalName, Scope, ScopeSet,
        TokenDigest, TokenKind, provider, token,
    },
    secret::Secret,
    store::{api_keys, principals},
};

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
type Refusal = (&'static str, Option<Principal>);

impl App {
    /// Proves who is asking. `account` is the `X-Service-Account` header: if it is there, it must name the owner of the
    /// credential.
    pub async fn authenticate(
        &self,
        presented: Option<Presented>,
        account: Option<&str>,
        origin: Origin,
    ) -> Result<Caller, Error> {
        let presented = presented.ok_or(Error::CredentialMissing)?;
        let kind = match presented {
            Presented::ApiKey(_) => Some(CredentialKind::ApiKey),
            _ => None,
        };
        match self.identify(presented, account, &origin).await? {
            Ok(caller) => Ok(caller),
            Err((reason, owner)) => {
                self.book.record(refusal(origin, kind, reason, owner)).await?;
                Err(Error::CredentialInvalid)
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the credential is verified, or looked up by its digest")]
    async fn identify(
        &self,
        presented: Presented,
        account: Option<&str>,
        origin: &Origin,
    ) -> Result<Result<Caller, Refusal>, Error> {
        let found = match &presented {
            Presented::Bearer(text) if jwt::looks_like_jwt(text.expose()) => {
                self.owner_of_access_token(text.expose()).await?
            }
            Presented::Bearer(text) | Presented::ApiKey(text) => self.owner_of_api_key(text.expose()).await?,
            Presented::Malformed => Err(("malformed_authorization", None)),
        };
        Ok(found.and_then(|found| found.into_caller(account, origin.clone())))
    }

    async fn owner_of_access_token(&self, text: &str) -> Result<Result<Found, Refusal>, Error> {
        let expected = jwt::Expectation {
            issuer: &self.settings.issuer,
            audience: &self.settings.audience,
            max_ttl: self.settings.access_ttl,
        };
        let claims = match jwt::verify(text, &self.signing_keys, &expected, self.now()) {
            Ok(claims) => claims,
            Err(jwt::JwtError::Expired) => return Ok(Err(("expired_token", None))),
            Err(_) => return Ok(Err(("invalid_token", None))),
        };
        let (Ok(id), Ok(scopes)) = (claims.sub.parse::<Id>(), claims.scope.parse::<ScopeSet>()) else {
            return Ok(Err(("invalid_token", None)));
        };
        let principal = principals::by_id(&mut self.store.read().await?, id).await?;
        Ok(principal.ok_or(("unknown_principal", None)).map(|principal| Found {
            principal,
            scopes,
            credential: CredentialKind::AccessToken,
            client_id: Some(claims.client_id),
        }))
    }

    async fn owner_of_api_key(&self, text: &str) -> Result<Result<Found, Refusal>, Error> {
        let Some(digest) = self.api_key_digest(text) else { return Ok(Err(("malformed_api_key", None))) };
        let Some(owner) = api_keys::owner(&mut self.store.read().await?, digest).await? else {
            return Ok(Err(("unknown_api_key", None)));
        };
        if owner.revoked_at.is_some() {
            return Ok(Err(("revoked_api_key", Some(owner.principal))));
        }
        if owner.expires_at.is_some_and(|end| end <= self.now()) {
            return Ok(Err(("expired_api_key", Some(owner.principal))));
        }
        Ok(Ok(Found {
            principal: owner.principal,
            scopes: ScopeSet::of(&[Scope::LlmKeysRead]),
            credential: CredentialKind::ApiKey,
            client_id: None,
        }))
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
}

impl Found {
    fn into_caller(self, account: Option<&str>, origin: Origin) -> Result<Caller, Refusal> {
        let owner = &self.principal;
        let named = |account: &str| {
            account == owner.id.to_string()
                || account.parse::<PrincipalName>().is_ok_and(|name| name == owner.name)
        };
        if !account.is_none_or(named) {
            return Err(("wrong_service_account", Some(self.principal)));
        }
        if !self.principal.is_enabled() {
            return Err(("disabled", Some(self.principal)));
        }
        Ok(Caller {
            principal: Some((self.principal.id, self.principal.kind)),
            name: self.principal.name.to_string(),
            client_id: self.client_id,
            scopes: self.scopes.intersection(self.principal.role.scopes()),
            credential: self.credential,
            origin,
        })
    }
}

fn refusal(
    origin: Origin,
    kind: Option<CredentialKind>,
    reason: &str,
    owner: Option<Principal>,
) -> AuditEvent {
    AuditEvent {
        action: Action::CredentialVerify,
        outcome: crate::model::Outcome::Denied,
        reason: Some(reason.to_owned()),
        object: None,
        version: None,
        principal: owner.as_ref().map(|owner| (owner.id, owner.kind)),
        actor: owner.map_or_else(|| "anonymous".to_owned(), |owner| owner.name.to_string()),
        client_id: None,
        credential: kind.map(CredentialKind::as_str),
        source: origin.source,
        request_id: origin.request_id,
    }
}
