//! The password grant (RFC 6749 §4.3): where guessing is slowed, and where a wrong login teaches nothing.

use super::{
    App, Error,
    book::Work,
    client::PUBLIC_CLIENT,
    networks::{self, ELSEWHERE},
    throttle::Attempt,
    token::IssuedToken,
};
use crate::{
    crypto::password::Verdict,
    model::{
        Action, AuditEvent, CredentialKind, GrantType, Principal, PrincipalName, Scope, ScopeSet,
        password::MAX_PASSWORD_BYTES,
    },
    secret::Secret,
    store::{Tx, principals},
};

/// A longer user name is refused before anything is done with it.
const MAX_USERNAME_BYTES: usize = 256;

/// A user whose password was right.
struct Proven {
    user: Principal,
    attempt: Attempt,
    /// The stored hash and the one to put in its place.
    renewal: Option<(String, String)>,
    /// Whether the password is good for nothing but its own change.
    one_time: bool,
}

impl App {
    /// Unknown, disabled, passwordless, expired and wrong are one answer after the same work.
    pub(super) async fn password_grant(
        &self,
        username: &str,
        password: Secret,
        asked: ScopeSet,
        event: &mut AuditEvent,
    ) -> Result<IssuedToken, Error> {
        if username.len() > MAX_USERNAME_BYTES || password.len() > MAX_PASSWORD_BYTES {
            return Err(Error::Invalid("the user name or password is too long".to_owned()));
        }
        let Ok(name) = username.parse::<PrincipalName>() else {
            return Err(event.because("malformed_username", Error::InvalidGrant));
        };
        let proven = self.prove_password(&name, password, event).await?;
        let scopes = if proven.one_time { ScopeSet::of(&[Scope::PasswordChange]) } else { asked };
        if !proven.one_time && !asked.is_subset_of(proven.user.role.scopes()) {
            self.settle(&proven, None).await?;
            return Err(Error::InvalidScope);
        }
        self.begin_session(&proven, scopes, event).await
    }

    /// Checks that `password` is the one of user `name`, whatever it takes no matter who they are.
    async fn prove_password(
        &self,
        name: &PrincipalName,
        password: Secret,
        event: &mut AuditEvent,
    ) -> Result<Proven, Error> {
        event.credential = Some(CredentialKind::Password.as_str());
        let login = principals::login(&mut self.store.read().await?, name).await?;
        match &login {
            Some(login) => event.is_by(&login.principal, CredentialKind::Password),
            None => event.actor = self.unknown_name(name),
        }
        let mut attempt = self.admit(name, login.as_ref().map(|login| login.principal.id), event).await?;
        let now = self.now();
        let one_time = login.as_ref().is_some_and(|login| login.password_expires_at.is_some());
        let expired =
            login.as_ref().and_then(|login| login.password_expires_at).is_some_and(|end| end <= now);
        let (user, stored) = login.map_or((None, None), |login| (Some(login.principal), login.password_hash));
        let verdict = match self.passwords.verify(attempt.take_place()?, password, stored.clone()).await {
            Ok(verdict) => verdict,
            Err(error) => {
                self.take_back(&attempt).await?;
                return Err(error.into());
            }
        };
        let proven = match user {
            None => Err("unknown_user"),
            Some(_) if verdict == Verdict::Wrong => Err("wrong_password"),
            Some(user) if !user.is_enabled() => Err("disabled"),
            Some(_) if expired => Err("expired_password"),
            Some(user) if !user.grant_types.contains(&GrantType::Password) => Err("password_grant_off"),
            Some(user) if !networks::allow(&user, None, &event.source) => Err(ELSEWHERE),
            Some(user) => Ok(user),
        };
        let user = match proven {
            Ok(user) => user,
            Err(reason) => {
                self.confirm_failure(&attempt).await?;
                return Err(event.because(reason, Error::InvalidGrant));
            }
        };
        let renewal = match (verdict, stored) {
            (Verdict::RightButOutdated(new), Some(old)) => Some((old, new)),
            _ => None,
        };
        Ok(Proven { user, attempt, renewal, one_time })
    }

    /// Whether `password` is the present one of `user`: for changing it. Counted like a login.
    pub(super) async fn check_own_password(
        &self,
        name: &PrincipalName,
        password: Secret,
        event: &mut AuditEvent,
    ) -> Result<Principal, Error> {
        let proven = self.prove_password(name, password, event).await;
        match proven {
            Ok(proven) => self.settle(&proven, None).await.map(|()| proven.user),
            Err(Error::InvalidGrant) => Err(Error::Conflict("the old password is not right".to_owned())),
            Err(other) => Err(other),
        }
    }

    /// Everything that a login writes, in one transaction: the session, the renewed hash, the counts, the events.
    async fn begin_session(
        &self,
        proven: &Proven,
        scopes: ScopeSet,
        event: &mut AuditEvent,
    ) -> Result<IssuedToken, Error> {
        let lasting = proven.user.grant_types.contains(&GrantType::RefreshToken) && !proven.one_time;
        let (family, refresh_token) = self.new_family(proven.user.id, PUBLIC_CLIENT, scopes, &event.source);
        let mut token = self.sign(&proven.user, PUBLIC_CLIENT, scopes, Some(family.id))?;
        let written = event.clone().on(format!("access_token:{}", token.id)).detail(scopes);
        let mut tx = self.book.begin().await?;
        if !still_stands(&mut tx, &proven.user).await? {
            drop(tx);
            self.confirm_failure(&proven.attempt).await?;
            return Err(event.because("changed_meanwhile", Error::InvalidGrant));
        }
        self.insert_family(&mut tx, &family, &refresh_token).await?;
        self.settle_in_tx(&mut tx, proven, Some(&written)).await?;
        tx.record(written).await?;
        tx.commit().await?;
        token.refresh_token = lasting.then_some(refresh_token);
        Ok(token)
    }

    async fn settle(&self, proven: &Proven, event: Option<&AuditEvent>) -> Result<(), Error> {
        let mut tx = self.book.begin().await?;
        self.settle_in_tx(&mut tx, proven, event).await?;
        Ok(tx.commit().await?)
    }

    /// Takes the attempt's counts back, remembers the source, and stores a renewed hash unless the password was changed
    /// meanwhile.
    async fn settle_in_tx(
        &self,
        tx: &mut Work,
        proven: &Proven,
        event: Option<&AuditEvent>,
    ) -> Result<(), Error> {
        self.absolve(tx, &proven.attempt).await?;
        self.remember_source(tx, proven.user.id, &proven.attempt).await?;
        let (Some((old, new)), Some(event)) = (&proven.renewal, event) else { return Ok(()) };
        if principals::renew_password_hash(tx, proven.user.id, old.clone(), new.clone()).await? {
            let event = AuditEvent {
                action: Action::UserRehashPassword,
                object: None,
                version: None,
                ..event.clone()
            };
            tx.record(event).await?;
        }
        Ok(())
    }

    /// How the book names a user name that nobody has. Keyed, because people type passwords into the wrong field.
    fn unknown_name(&self, name: &PrincipalName) -> String {
        let mac = self.keyring.mac("unknown user name", name.as_str().as_bytes());
        format!("unknown:{}", super::hex(&mac[..8]))
    }
}

/// Whether a principal is still what it was when it proved who it is: not changed, shut out, deleted, or given another
/// password. Asked in the transaction that rests on it, because proving takes a while.
pub(super) async fn still_stands(tx: &mut Tx, proven: &Principal) -> Result<bool, Error> {
    let now = principals::by_id(tx, proven.id).await?;
    Ok(now.is_some_and(|now| now.version == proven.version && now.is_enabled()))
}
