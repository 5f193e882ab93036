//! Logging in and out, and what is known of it without asking anybody.

use super::{
    Client, State,
    environment::Environment,
    error::Error,
    keychain::Keychain,
    offline::Offline,
    profiles::{Account, MAX_OFFLINE, Profile, Profiles},
    session::{self, Keeper, Session},
    who::Who,
    wire::{Manner, Wire, checked_url},
};
use crate::secret::Secret;

/// What is known of a profile on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is a session, and this has its refresh token.
    LoggedIn(Keeper),
    /// There is none.
    LoggedOut,
    /// There is none yet: the password is a one-time one, good for its own change and nothing else.
    NewPasswordNeeded,
    /// There is one of another machine or user.
    NotOurs,
    /// A service account, which needs none.
    NotNeeded,
}

/// Begins a session as `profile` says and keeps the profile; says where the refresh token is. A service account shows its own
/// credential instead of a password.
pub async fn log_in(
    environment: &Environment,
    mut profile: Profile,
    password: Option<&Secret>,
) -> Result<Standing, Error> {
    let mut profiles = Profiles::open(environment)?;
    let url = checked_url(&profile.url, profile.insecure)?;
    profile.url = url.as_str().trim_end_matches('/').to_owned();
    if let Some(other) = profiles.named(&profile.name).filter(|other| other.url != profile.url) {
        return Err(Error::failed(format_args!(
            "the profile {} is for {}; choose another name with --profile",
            other.name, other.url
        )));
    }
    let standing = match (&profile.who, password) {
        (Account::User(username), Some(password)) => {
            let wire = Wire::new(&profile.url, &manner(&profile))?;
            let tokens = session::password(&wire, username.as_str(), password).await?;
            if tokens.are_for_a_new_password() {
                return Ok(Standing::NewPasswordNeeded);
            }
            let session = session_of(&profile, environment)?;
            Standing::LoggedIn(session.begin(&wire, tokens).await?)
        }
        (Account::User(_), None) => return Err(Error::failed("a user logs in with a password")),
        (Account::ServiceAccount(_), _) => {
            Client::of(Who::of(&profile)?, environment)?.me().await?;
            Standing::NotNeeded
        }
    };
    // What another account has left here is not this one's.
    Offline::new(State::open(environment)?, profile.name.as_str(), MAX_OFFLINE).wipe()?;
    profiles.put(&profile)?;
    Ok(standing)
}

/// Changes the password of the user of a profile. Every session of theirs ends, this one too.
pub async fn change_password(profile: &Profile, old: &Secret, new: &Secret) -> Result<(), Error> {
    let Account::User(username) = &profile.who else {
        return Err(Error::failed("a service account has no password"));
    };
    let wire = Wire::new(&profile.url, &manner(profile))?;
    session::change_password(&wire, username.as_str(), old, new).await
}

/// Ends the session of a profile, here and at the desk; `Ok(false)` if there was none. If the desk cannot be told, it is
/// forgotten here all the same, and the error says so.
pub async fn log_out(environment: &Environment, profile: &Profile) -> Result<bool, Error> {
    Offline::new(State::open(environment)?, profile.name.as_str(), MAX_OFFLINE).wipe()?;
    let session = session_of(profile, environment)?;
    let wire = Wire::new(&profile.url, &manner(profile));
    session.end(wire.as_ref().map_err(Clone::clone), &profile.url).await
}

/// What is known of a profile, without asking the desk.
pub fn standing(environment: &Environment, profile: &Profile) -> Result<Standing, Error> {
    if matches!(profile.who, Account::ServiceAccount(_)) {
        return Ok(Standing::NotNeeded);
    }
    let session = session_of(profile, environment)?;
    Ok(match session.read() {
        Ok(Some(kept)) => kept.keeper().map_or(Standing::LoggedOut, Standing::LoggedIn),
        Ok(None) => Standing::LoggedOut,
        Err(_) => Standing::NotOurs,
    })
}

fn session_of(profile: &Profile, environment: &Environment) -> Result<Session, Error> {
    let (state, keychain) = (State::open(environment)?, Keychain::of(environment));
    Ok(Session::new(Some(state), keychain, profile.name.to_string()))
}

fn manner(profile: &Profile) -> Manner<'_> {
    Manner { ca_file: profile.ca_file.as_deref(), insecure: profile.insecure, own: false }
}
