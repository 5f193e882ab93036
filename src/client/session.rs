//! A session on this machine: an access token that is used until shortly before its end, and the refresh token that prolongs
//! it.
//!
//! Whoever finds the access token too old gets a new one, under a lock, so that of many commands that start at once one
//! asks the desk and the others find what it got. A refresh token is spent when it is used. If the answer is lost, or this
//! process dies before the successor is on the disk, the next to ask within ten seconds is given the same successor; later,
//! the desk takes it for a stolen token, and it is time to log in again.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    error::{Error, Kind},
    keychain::Keychain,
    state::{Room, State},
    who::{Credential, Who},
    wire::{Answer, Wire},
};
use crate::{
    crypto,
    model::{Clock as _, Scope, SystemClock, Timestamp},
    secret::Secret,
};

/// How long before its end an access token counts as too old.
const MARGIN: Duration = Duration::from_mins(1);
/// Twice this is less than the time in which a spent refresh token gives its successor again.
const REFRESH_PATIENCE: Duration = Duration::from_secs(4);

/// Where the refresh token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeper {
    /// The operating system's keyring.
    Keyring,
    /// A file that is sealed to the machine.
    File,
}

/// What is kept between two commands.
#[derive(Debug, Deserialize)]
pub(super) struct Kept {
    access_token: Secret,
    renew_at: i64,
    /// `None`: the keyring has it, or there is none.
    refresh_token: Option<Secret>,
    keeper: Option<Keeper>,
}

/// The answer of the token endpoint (RFC 6749 §5.1).
#[derive(Deserialize)]
pub(super) struct Tokens {
    access_token: Secret,
    expires_in: u64,
    refresh_token: Option<Secret>,
    scope: Option<String>,
}

impl Tokens {
    /// Whether they are good for a change of the password and nothing else: it was a one-time password.
    pub(super) fn are_for_a_new_password(&self) -> bool {
        self.scope.as_deref() == Some(Scope::PasswordChange.as_str())
    }
}

/// The body of `PUT /me/password`.
#[derive(Serialize)]
struct Change<'a> {
    old_password: &'a str,
    new_password: &'a str,
}

/// The session of one principal at one desk.
#[derive(Debug)]
pub(super) struct Session {
    /// `None` for a service account on a machine where nothing can be kept.
    state: Option<State>,
    keychain: Keychain,
    name: String,
}

impl Session {
    pub(super) fn new(state: Option<State>, keychain: Keychain, name: String) -> Self {
        Self { state, keychain, name }
    }

    fn file(&self) -> String {
        format!("{}.session", self.name)
    }

    /// What is kept, if anything.
    pub(super) fn read(&self) -> Result<Option<Kept>, Error> {
        let Some(state) = &self.state else { return Ok(None) };
        let Some(text) = state.read(&self.file())? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|_| {
            Error::log_in(format_args!("what is kept of the session {} makes no sense", self.name))
        })
    }

    /// An access token that lives for a while yet, and is not the one that was `refused`.
    pub(super) async fn token(
        &self,
        wire: &Wire,
        who: &Who,
        refused: Option<&Secret>,
    ) -> Result<Secret, Error> {
        let is_person = matches!(who.credential, Credential::Session);
        // A service account can always get another token; what is kept only saves it the asking.
        let read = || if is_person { self.read() } else { Ok(self.read().unwrap_or(None)) };
        if let Some(token) = read()?.and_then(|kept| kept.usable(refused)) {
            return Ok(token);
        }
        let lock = match &self.state {
            Some(state) => state.lock(&self.name).await,
            None => Err(Error::failed("there is no place for a lock")),
        };
        let _lock = if is_person { Some(lock?) } else { lock.ok() };
        let kept = read()?;
        if let Credential::Client { id, secret } = &who.credential {
            if let Some(token) = kept.and_then(|kept| kept.usable(refused)) {
                return Ok(token);
            }
            let kept = Kept::of(client_credentials(wire, who, id, secret).await?);
            let _ = self.write(&kept, None);
            return Ok(kept.access_token);
        }
        match kept {
            Some(kept) if kept.is_usable(refused) => Ok(kept.access_token),
            Some(kept) => self.refresh(wire, who, kept).await,
            None => Err(Error::log_in(format_args!(
                "you are not logged in at {}; run: {}",
                who.url,
                who.log_in_again()
            ))),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the refresh token is shown to the desk")]
    async fn refresh(&self, wire: &Wire, who: &Who, kept: Kept) -> Result<Secret, Error> {
        let again = who.log_in_again();
        let Some(shown) = self.refresh_token(&kept, &who.url).await? else {
            return Err(Error::log_in(format_args!(
                "the session's refresh token is gone; log in again: {again}"
            )));
        };
        let room = self.room()?;
        let form = [("grant_type", "refresh_token"), ("refresh_token", shown.expose())];
        let mut answer = wire.post_within(REFRESH_PATIENCE, "/token", &form).await;
        if answer.as_ref().is_err_and(|error| error.kind == Kind::Away) {
            // The answer may have been lost: at once, the desk gives the same one again.
            answer = wire.post_within(REFRESH_PATIENCE, "/token", &form).await;
        }
        let answer = answer?;
        if answer.code() == "invalid_grant" {
            return Err(Error::log_in(format_args!(
                "{} no longer accepts the session of {}: it has ended or is too old, the password was changed, or the \
                 account is shut. Log in again: {again}",
                who.url, who.from
            ))
            .said_with(answer.status));
        }
        let tokens = tokens(wire, &answer)?;
        // In the keyring first: what is spent must not be all that is left.
        self.keep(tokens, kept.keeper == Some(Keeper::Keyring), &who.url, room.as_ref())
            .await
            .map(|(kept, _)| kept.access_token)
    }

    /// Room for the successor of what is about to be spent: there is no other copy of it, and the desk takes whoever comes with
    /// the spent one for a thief.
    fn room(&self) -> Result<Option<Room>, Error> {
        let room = self.state.as_ref().map(|state| state.room(&self.file())).transpose();
        room.map_err(|error| {
            Error::failed(format_args!(
                "{error}; so the session could not be kept, and the desk was not asked. Make room there or make it \
                 writable, and try again"
            ))
        })
    }

    /// The refresh token, wherever it is.
    async fn refresh_token(&self, kept: &Kept, url: &str) -> Result<Option<Secret>, Error> {
        match kept {
            Kept { keeper: Some(Keeper::Keyring), .. } => self.keychain.find(&self.account(url)).await,
            #[expect(clippy::disallowed_methods, reason = "a copy of the token, to be shown to the desk")]
            Kept { refresh_token, .. } => Ok(refresh_token.as_ref().map(|token| Secret::new(token.expose()))),
        }
    }

    /// The keyring's name for it.
    fn account(&self, url: &str) -> String {
        format!("{} at {url}", self.name)
    }

    /// Keeps new tokens: the refresh token in the keyring if it is `in_keyring` and the keyring takes it.
    async fn keep(
        &self,
        tokens: Tokens,
        in_keyring: bool,
        url: &str,
        room: Option<&Room>,
    ) -> Result<(Kept, Keeper), Error> {
        let mut kept = Kept::of(tokens);
        let mut keeper = Keeper::File;
        if in_keyring
            && let Some(token) = &kept.refresh_token
            && self.keychain.keep(&self.account(url), token).await
        {
            kept.refresh_token = None;
            keeper = Keeper::Keyring;
        }
        kept.keeper = Some(keeper);
        self.write(&kept, room)?;
        Ok((kept, keeper))
    }

    #[expect(clippy::disallowed_methods, reason = "the tokens are sealed before they are written")]
    fn write(&self, kept: &Kept, room: Option<&Room>) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            access_token: &'a str,
            renew_at: i64,
            refresh_token: Option<&'a str>,
            keeper: Option<Keeper>,
        }
        let Some(state) = &self.state else { return Ok(()) };
        let written = Written {
            access_token: kept.access_token.expose(),
            renew_at: kept.renew_at,
            refresh_token: kept.refresh_token.as_ref().map(Secret::expose),
            keeper: kept.keeper,
        };
        let mut text = Zeroizing::new(Vec::with_capacity(4096));
        serde_json::to_writer(&mut *text, &written).map_err(Error::failed)?;
        match room {
            Some(room) => state.write_in(room, &self.file(), &text),
            None => state.write(&self.file(), &text),
        }
    }

    /// Begins a session with the answer to a login, in place of the one that may have been there; says where its refresh
    /// token is.
    pub(super) async fn begin(&self, wire: &Wire, tokens: Tokens) -> Result<Keeper, Error> {
        let Some(state) = &self.state else { return Err(Error::failed("there is no place for a session")) };
        let _lock = state.lock(&self.name).await?;
        // What was there before is of no use to anybody now. If the desk does not hear of it, it ends by itself.
        if let Ok(Some(before)) = self.read()
            && let Ok(Some(token)) = self.refresh_token(&before, wire.url()).await
        {
            let _ = revoke(wire, &token).await;
        }
        self.keep(tokens, true, wire.url(), None).await.map(|(_, keeper)| keeper)
    }

    /// Ends the session here, and at the desk; `Ok(false)` if there was none. It is forgotten here whatever happens.
    pub(super) async fn end(&self, wire: Result<&Wire, Error>, url: &str) -> Result<bool, Error> {
        let Some(state) = &self.state else { return Ok(false) };
        let _lock = state.lock(&self.name).await?;
        let kept = self.read();
        let told = match (&kept, wire) {
            (Ok(Some(kept)), Ok(wire)) => match self.refresh_token(kept, url).await {
                Ok(Some(token)) => revoke(wire, &token).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            },
            (Ok(Some(_)), Err(error)) => Err(error),
            _ => Ok(()),
        };
        if let Ok(Some(Kept { keeper: Some(Keeper::Keyring), .. })) = &kept {
            self.keychain.forget(&self.account(url)).await;
        }
        state.remove(&self.file())?;
        told.map(|()| !matches!(kept, Ok(None)))
    }
}

impl Kept {
    fn of(tokens: Tokens) -> Self {
        let life = Duration::from_secs(tokens.expires_in);
        let renew_at = SystemClock.now().plus(life.saturating_sub(MARGIN.min(life / 5)));
        let Tokens { access_token, refresh_token, .. } = tokens;
        Self { access_token, renew_at: renew_at.micros(), refresh_token, keeper: None }
    }

    pub(super) fn keeper(&self) -> Option<Keeper> {
        self.keeper
    }

    #[expect(clippy::disallowed_methods, reason = "the token is compared with the one that was refused")]
    fn is_usable(&self, refused: Option<&Secret>) -> bool {
        let is_refused = refused.is_some_and(|refused| {
            crypto::equal_in_constant_time(refused.expose().as_bytes(), self.access_token.expose().as_bytes())
        });
        SystemClock.now() < Timestamp::from_micros(self.renew_at) && !is_refused
    }

    fn usable(self, refused: Option<&Secret>) -> Option<Secret> {
        self.is_usable(refused).then_some(self.access_token)
    }
}

/// Logs in with a password.
#[expect(clippy::disallowed_methods, reason = "the password is shown to the desk")]
pub(super) async fn password(wire: &Wire, username: &str, password: &Secret) -> Result<Tokens, Error> {
    let form = [("grant_type", "password"), ("username", username), ("password", password.expose())];
    let answer = wire.post("/token", &form).await?;
    if answer.code() == "invalid_grant" {
        return Err(Error::log_in(format_args!(
            "{} does not let {username} in: the name or the password is wrong, or the account is shut",
            wire.url()
        )));
    }
    tokens(wire, &answer)
}

/// Changes a password by the one that there is; every session of its user ends.
#[expect(clippy::disallowed_methods, reason = "the passwords are shown to the desk")]
pub(super) async fn change_password(
    wire: &Wire,
    username: &str,
    old: &Secret,
    new: &Secret,
) -> Result<(), Error> {
    let tokens = password(wire, username, old).await?;
    let change = Change { old_password: old.expose(), new_password: new.expose() };
    let mut body = Zeroizing::new(Vec::with_capacity(4096));
    serde_json::to_writer(&mut *body, &change).map_err(Error::failed)?;
    let answer = wire.put("/me/password", &tokens.access_token, &body).await?;
    if answer.status.is_success() {
        return Ok(());
    }
    Err(Error::failed(format_args!("{} does not change the password: {}", wire.url(), answer.said())))
}

#[expect(clippy::disallowed_methods, reason = "the client secret is shown to the desk")]
async fn client_credentials(wire: &Wire, who: &Who, id: &str, secret: &Secret) -> Result<Tokens, Error> {
    let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret.expose())];
    let answer = wire.post("/token", &form).await?;
    if answer.code() == "invalid_client" {
        return Err(Error::log_in(format_args!(
            "{} does not accept the client secret of {} from {}: it is wrong or too old, or the account is shut",
            wire.url(),
            id.escape_debug(),
            who.from
        ))
        .said_with(answer.status));
    }
    tokens(wire, &answer)
}

fn tokens(wire: &Wire, answer: &Answer) -> Result<Tokens, Error> {
    if answer.status.is_success() {
        return answer.read(wire);
    }
    let what = format!("{} gives no access token: {}", wire.url(), answer.said());
    match answer.code().as_str() {
        "" => Err(wire.somebody_else(answer.status)),
        "access_denied" => Err(Error::new(Kind::Refused, what).said_with(answer.status)),
        _ => Err(Error::failed(what)),
    }
}

/// RFC 7009: the session is over, with all its tokens.
#[expect(clippy::disallowed_methods, reason = "the refresh token is shown to the desk")]
async fn revoke(wire: &Wire, token: &Secret) -> Result<(), Error> {
    let form = [("token", token.expose()), ("token_type_hint", "refresh_token")];
    let answer = wire.post("/revoke", &form).await?;
    if answer.status.is_success() {
        Ok(())
    } else {
        Err(Error::failed(format_args!("{} does not end the session: {}", wire.url(), answer.said())))
    }
}
