//! Sessions: a login, and the refresh tokens that prolong it (RFC 6749 §6, RFC 9700 §4.14).
//!
//! Each refresh token is good for one exchange. Because answers get lost, the one just spent still gives *the same*
//! successor to the same client at the same address for ten seconds; a spent token that comes back otherwise means that
//! somebody has a copy, and ends the session with everything issued in it. Tokens are derived from a sealed key, so that
//! the same successor can be given again without ever storing one.

use std::time::Duration;

use super::{
    App, Error, after,
    book::Work,
    networks::{self, ELSEWHERE},
    token::IssuedToken,
};
use crate::{
    crypto,
    model::{
        Action, AuditEvent, Caller, CredentialKind, GrantType, Id, Listed, Outcome, Page, Principal,
        ScopeSet, TokenKind,
    },
    secret::Secret,
    store::{
        Tx, principals,
        token_families::{self, Family},
    },
};

/// For how long a lost answer can be asked for again.
const GRACE: Duration = Duration::from_secs(10);

impl App {
    /// A session that is not stored yet, and its first refresh token.
    pub(super) fn new_family(
        &self,
        principal: Id,
        client_id: &str,
        scope: ScopeSet,
        source: &str,
    ) -> (Family, Secret) {
        let now = self.now();
        let family = Family {
            id: self.new_id(),
            principal,
            client_id: client_id.to_owned(),
            scope,
            generation: 1,
            rotated_at: None,
            rotated_source: None,
            created_at: now,
            created_source: source.to_owned(),
            idle_expires_at: now.plus(self.settings.refresh_idle.min(self.settings.refresh_absolute)),
            expires_at: now.plus(self.settings.refresh_absolute),
            revoked_at: None,
        };
        let token = self.refresh_token(family.id, 1);
        (family, token)
    }

    /// The refresh token of a generation: always the same, and known to nobody without the KEK.
    fn refresh_token(&self, family: Id, generation: i64) -> Secret {
        let said = [family.as_bytes().as_slice(), &generation.to_be_bytes()].concat();
        Secret::new(TokenKind::RefreshToken.format(self.keyring.mac("refresh token", &said)))
    }

    #[expect(clippy::disallowed_methods, reason = "the token is stored as its digest")]
    pub(super) async fn insert_family(
        &self,
        tx: &mut Tx,
        family: &Family,
        first: &Secret,
    ) -> Result<(), Error> {
        token_families::insert(tx, family).await?;
        let digest = crypto::token_digest(first.expose());
        Ok(token_families::insert_token(tx, family.id, family.generation, digest).await?)
    }

    /// Exchanges a refresh token. `asked` may narrow the scope, never widen it.
    #[expect(clippy::disallowed_methods, reason = "the token is looked up by its digest")]
    pub(super) async fn refresh_grant(
        &self,
        client_id: &str,
        shown: &Secret,
        asked: Option<ScopeSet>,
        event: &mut AuditEvent,
    ) -> Result<IssuedToken, Error> {
        if TokenKind::recognise(shown.expose()) != Some(TokenKind::RefreshToken) {
            return Err(event.because("malformed_refresh_token", Error::InvalidRefreshToken));
        }
        let digest = crypto::token_digest(shown.expose());
        // One writer at a time: of two uses of one token, the second sees what the first did.
        let mut tx = self.book.begin().await?;
        let found = token_families::by_token(&mut tx, digest).await?;
        let Some((family, generation)) = found else {
            return Err(event.because("unknown_refresh_token", Error::InvalidRefreshToken));
        };
        let Some(user) = principals::by_id(&mut tx, family.principal).await? else {
            return Err(event.because("unknown_user", Error::InvalidRefreshToken));
        };
        event.is_by(&user, CredentialKind::RefreshToken);
        event.object = Some(format!("session:{}", family.id));
        let now = self.now();
        let spent_just_now = generation == family.generation - 1
            && family.rotated_at.is_some_and(|at| now < at.plus(GRACE))
            && family.rotated_source.as_deref() == Some(event.source.as_str());
        let is_current = generation == family.generation;
        // Before anything else that may be wrong with the request: a spent token is an attack whatever comes with it.
        if family.is_alive(now) && !is_current && !spent_just_now {
            return Err(self.end_for_reuse(tx, &family, event).await?);
        }
        // What was granted, as far as the role still allows it.
        let scopes = asked.unwrap_or(family.scope.within(user.role));
        self.check_refresh(&family, &user, client_id, scopes, event)?;
        let next =
            if is_current { self.rotate(&mut tx, &family, &event.source).await? } else { family.generation };
        let mut token = self.sign(&user, client_id, scopes, Some(family.id))?;
        token.refresh_token = Some(self.refresh_token(family.id, next));
        let event = event.clone().detail(token.scope);
        tx.record(event).await?;
        tx.commit().await?;
        Ok(token)
    }

    fn check_refresh(
        &self,
        family: &Family,
        user: &Principal,
        client_id: &str,
        scopes: ScopeSet,
        event: &mut AuditEvent,
    ) -> Result<(), Error> {
        let reason = if family.client_id != client_id {
            Some("token_of_another_client")
        } else if family.revoked_at.is_some() {
            Some("session_revoked")
        } else if !family.is_alive(self.now()) {
            Some("session_expired")
        } else if !user.is_enabled() {
            Some("disabled")
        } else if !user.grant_types.contains(&GrantType::RefreshToken) {
            Some("refresh_grant_off")
        } else if !networks::allow(user, None, &event.source) {
            Some(ELSEWHERE)
        } else {
            None
        };
        match reason {
            Some(reason) => Err(event.because(reason, Error::InvalidRefreshToken)),
            // RFC 6749 §6: never more than was granted; and never more than the role allows today.
            None if !scopes.is_subset_of(family.scope.intersection(user.role.scopes())) => {
                Err(Error::InvalidScope)
            }
            None => Ok(()),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the successor is stored as its digest")]
    async fn rotate(&self, tx: &mut Tx, family: &Family, source: &str) -> Result<i64, Error> {
        let (next, now) = (family.generation + 1, self.now());
        let idle = now.plus(self.settings.refresh_idle).min(family.expires_at);
        token_families::rotate(tx, family.id, next, source, idle, now).await?;
        let digest = crypto::token_digest(self.refresh_token(family.id, next).expose());
        token_families::insert_token(tx, family.id, next, digest).await?;
        Ok(next)
    }

    /// Somebody has a copy: the session ends, and the book says so loudly. Gives the error to answer with.
    async fn end_for_reuse(
        &self,
        mut tx: Work,
        family: &Family,
        event: &mut AuditEvent,
    ) -> Result<Error, Error> {
        token_families::revoke(&mut tx, family.id, self.now()).await?;
        tx.bump_revision().await?;
        let attack = AuditEvent {
            action: Action::RefreshTokenReuse,
            outcome: Outcome::Denied,
            reason: Some("a spent refresh token came back; the session was ended".to_owned()),
            ..event.clone()
        };
        tx.record(attack).await?;
        tx.commit().await?;
        Ok(event.because("refresh_token_reuse", Error::InvalidRefreshToken))
    }

    /// The caller's sessions that are alive, newest first.
    pub async fn own_sessions(&self, caller: &Caller, page: &Page) -> Result<Listed<Family>, Error> {
        let principal = self.own(caller, "sessions").await?;
        let (after, limit) = (after(page)?, page.and_one().limit);
        let mut db = self.store.read().await?;
        let found = token_families::alive(&mut db, principal, self.now(), after, limit).await?;
        Ok(Listed::of(found, page, |family| family.id.to_string()))
    }

    /// Ends one of the caller's sessions with everything issued in it.
    pub async fn end_own_session(&self, caller: &Caller, id: Id) -> Result<(), Error> {
        let principal = caller.own_id().ok_or_else(not_a_principal)?;
        let now = self.now();
        let mut change = self.own_change(caller, Action::SessionRevoke, format!("session:{id}")).await?;
        let result = async {
            let family = token_families::by_id(&mut change, id).await?;
            // Somebody else's session is no session as far as the caller may know.
            let own = family.filter(|family| family.principal == principal && family.is_alive(now));
            own.ok_or_else(|| Error::NotFound("you have no such session".to_owned()))?;
            token_families::revoke(&mut change, id, now).await?;
            Ok(())
        }
        .await;
        change.finish(result).await
    }
}

/// The command line's caller is nobody in the database.
pub(super) fn not_a_principal() -> Error {
    Error::Forbidden("this is for users and service accounts".to_owned())
}
