//! Revoking a token (RFC 7009) and asking about one (RFC 7662).

use std::{sync::Arc, time::Duration};

use super::{
    App, Error,
    client::{Client, ClientCredentials},
    limits::Meter,
    token::TokenId,
};
pub use crate::crypto::jwt::AccessClaims;
use crate::{
    crypto::{self, jwt},
    metrics::Lookup,
    model::{Action, AuditEvent, Caller, Id, Origin, Scope, ScopeSet, Timestamp, TokenKind},
    secret::Secret,
    store::{principals, token_families},
};

/// The longest life that can be configured for an access token: lowering the setting does not void what was issued.
pub(super) const MAX_ACCESS_TTL: Duration = Duration::from_hours(1);

/// Who asks about a token.
#[derive(Debug)]
pub enum Asker {
    /// A client that authenticates as at the token endpoint.
    Client(ClientCredentials),
    /// Somebody with an access token that carries `admin`.
    Caller(Caller),
}

/// What can be revoked.
enum Revocable {
    Session(Id),
    AccessToken { jti: String, end: Timestamp },
}

impl App {
    /// Revokes a token of the client that asks: a refresh token with its whole session, an access token by itself. What
    /// is unknown, somebody else's or over already is no error (RFC 7009 §2.2); a store that fails is one (§2.2.1).
    pub async fn revoke_token(
        &self,
        client: ClientCredentials,
        token: Option<Secret>,
        origin: Origin,
    ) -> Result<(), Error> {
        let mut event = AuditEvent::anonymous(&origin, Action::TokenRevoke);
        match self.revoke(client, token, &mut event).await {
            Ok(()) => Ok(()),
            Err(error) if self.shed.counts(&error) => Err(error),
            Err(error) => {
                let reason = event.reason.clone().unwrap_or_else(|| error.code().to_owned());
                self.record_bounded(event.denied(reason)).await?;
                Err(error)
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the token is looked up by its digest, or verified")]
    async fn revoke(
        &self,
        client: ClientCredentials,
        token: Option<Secret>,
        event: &mut AuditEvent,
    ) -> Result<(), Error> {
        let client = self.authenticate_client(&client, event).await?;
        let token = token.ok_or_else(|| super::token::missing("token"))?;
        let Some(revocable) = self.revocable(&client, token.expose()).await? else {
            // Nothing changes, so nothing but the asking is written down.
            return self.record_bounded(event.clone()).await;
        };
        let (mut tx, now) = (self.book.begin().await?, self.now());
        match revocable {
            Revocable::Session(id) => {
                token_families::revoke(&mut tx, id, now).await?;
                event.object = Some(format!("session:{id}"));
            }
            Revocable::AccessToken { jti, end } => {
                token_families::revoke_access_token(&mut tx, &jti, end).await?;
                event.object = Some(format!("access_token:{jti}"));
            }
        }
        tx.bump_revision().await?;
        tx.record(event.clone()).await?;
        Ok(tx.commit().await?)
    }

    /// What of the asking client's a token is, if it is anything.
    async fn revocable(&self, client: &Client, token: &str) -> Result<Option<Revocable>, Error> {
        if TokenKind::recognise(token) == Some(TokenKind::RefreshToken) {
            let digest = crypto::token_digest(token);
            let found = token_families::by_token(&mut self.store.read().await?, digest).await?;
            let own = found.filter(|(family, _)| family.client_id == client.id());
            return Ok(own.map(|(family, _)| Revocable::Session(family.id)));
        }
        let own = self.access_token_of(client, token);
        Ok(own.map(|claims| {
            let end = i64::try_from(claims.exp).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            // A little longer than the token itself, because of the leeway with which it is accepted.
            let end = Timestamp::from_micros(end).plus(Duration::from_mins(1));
            Revocable::AccessToken { jti: claims.jti.clone(), end }
        }))
    }

    /// What an access token says, if it is valid now; `None` for everything else, without a difference. Refresh tokens and
    /// API keys are not access tokens, and count as everything else.
    pub async fn introspect_token(
        &self,
        asker: Asker,
        token: Option<Secret>,
        origin: Origin,
        meter: &Meter,
    ) -> Result<Option<AccessClaims>, Error> {
        let mut event = AuditEvent::anonymous(&origin, Action::TokenIntrospect);
        match self.introspect(asker, token, meter, &mut event).await {
            Ok(claims) => {
                let subject =
                    claims.as_ref().map_or_else(|| "inactive".to_owned(), |claims| claims.jti.clone());
                self.book.record(event.on(format!("access_token:{subject}"))).await?;
                Ok(claims)
            }
            Err(error) if self.shed.counts(&error) => Err(error),
            Err(error) => {
                let reason = event.reason.clone().unwrap_or_else(|| error.code().to_owned());
                self.record_bounded(event.denied(reason)).await?;
                Err(error)
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the token is verified")]
    async fn introspect(
        &self,
        asker: Asker,
        token: Option<Secret>,
        meter: &Meter,
        event: &mut AuditEvent,
    ) -> Result<Option<AccessClaims>, Error> {
        match asker {
            Asker::Client(shown) => {
                // RFC 7662 §2.1: whoever asks must authenticate, so that tokens cannot be tried out.
                let Client::Confidential(..) = self.authenticate_client(&shown, event).await? else {
                    return Err(Error::InvalidClient);
                };
            }
            Asker::Caller(caller) => {
                *event = AuditEvent::by(&caller, Action::TokenIntrospect);
                if !self.may_use_here(&caller, Scope::Admin) {
                    return Err(Error::Elsewhere);
                }
                if !caller.may(Scope::Admin) {
                    return Err(Error::InsufficientScope(Scope::Admin));
                }
            }
        }
        if let Some((asker, _)) = event.principal {
            self.spend_introspection(asker, meter, event).await?;
        }
        let token = token.ok_or_else(|| super::token::missing("token"))?;
        let Ok(claims) = self.verify_access_token(token.expose()) else { return Ok(None) };
        let mut db = self.store.read().await?;
        let family = claims.jti.parse::<TokenId>().ok().and_then(|id| id.family);
        if token_families::is_access_token_revoked(&mut db, &claims.jti, family).await? {
            return Ok(None);
        }
        let Ok(id) = claims.sub.parse::<Id>() else { return Ok(None) };
        let owner = principals::by_id(&mut db, id).await?;
        let Some(owner) = owner.filter(crate::model::Principal::is_enabled) else { return Ok(None) };
        // What the token allows today, which a smaller role may have made less.
        let scope = ScopeSet::of_token(&claims.scope).unwrap_or_default().within(owner.role).to_string();
        Ok(Some(AccessClaims { scope, ..claims.as_ref().clone() }))
    }

    fn access_token_of(&self, client: &Client, text: &str) -> Option<Arc<AccessClaims>> {
        self.verify_access_token(text).ok().filter(|claims| claims.client_id == client.id())
    }

    /// Signature, issuer, audience and time; not whether it was revoked.
    pub(super) fn verify_access_token(&self, text: &str) -> Result<Arc<AccessClaims>, jwt::JwtError> {
        let expected = jwt::Expectation {
            issuer: &self.settings.issuer,
            audience: &self.settings.audience,
            max_ttl: MAX_ACCESS_TTL,
        };
        let note = |known| self.metrics.looked_up(Lookup::Signature, known);
        self.signing_keys.verify(text, &expected, self.now(), note)
    }
}
