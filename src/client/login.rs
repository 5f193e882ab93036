//! Logging in and out, and what is known of it without asking anybody.

use std::{
    path::{self, PathBuf},
    time::Duration,
};

use super::{
    Client, State,
    environment::{CA_FILE, Environment, PROJECT},
    error::Error,
    keychain::Keychain,
    offline::Offline,
    profiles::{Account, MAX_OFFLINE, Profile, Profiles, said},
    session::{self, Keeper, Session},
    who::Who,
    wire::{Manner, Wire, checked_url},
};
use crate::{
    model::{ProfileName, ProjectName},
    secret::Secret,
};

/// What is said at a login about the profile that it makes.
#[derive(Debug)]
pub struct Said {
    /// The desk.
    pub url: String,
    /// The profile's name.
    pub profile: Option<ProfileName>,
    /// Who logs in.
    pub who: Option<Account>,
    /// The profile's project.
    pub project: Option<ProjectName>,
    /// The profile's authorities.
    pub ca_file: Option<PathBuf>,
    /// Whether the profile is one that speaks in the clear.
    pub insecure: bool,
    /// How old the profile's copies may be.
    pub offline: Option<Duration>,
}

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

/// The profile that a login makes: as is said, else as the environment says, else as it was before; `ask` is called if that
/// does not tell who. What makes a login impossible is found here, before anybody types a password.
pub fn prepared<E: From<Error>>(
    environment: &Environment,
    said_now: Said,
    ask: impl FnOnce() -> Result<Account, E>,
) -> Result<Profile, E> {
    let parsed = checked_url(&said_now.url, true)?;
    let url = parsed.as_str().trim_end_matches('/').to_owned();
    let name = match said_now.profile.map_or_else(|| said(environment), |name| Ok(Some(name)))? {
        Some(name) => name,
        None => parsed.host_str().unwrap_or_default().parse().map_err(|_| {
            Error::failed("there is no name to be made of the URL; choose one with --profile")
        })?,
    };
    let profiles = Profiles::open(environment)?;
    profiles.check_free(&name, &url)?;
    let before = profiles.named(&name);
    let insecure = said_now.insecure || before.is_some_and(|before| before.insecure);
    checked_url(&url, insecure)?;
    let absolute = |file: PathBuf| {
        path::absolute(&file)
            .map_err(|error| Error::failed(format_args!("cannot find {}: {error}", file.display())))
    };
    let project = environment.text(PROJECT)?.map(|name| name.parse()).transpose();
    let project = project.map_err(|error| Error::failed(format_args!("{PROJECT}: {error}")))?;
    let ca_file = said_now.ca_file.or_else(|| environment.path(CA_FILE)).map(absolute).transpose()?;
    let ca_file = ca_file.or_else(|| before?.ca_file.clone());
    // Reads the file that it names.
    Wire::new(&url, &Manner { ca_file: ca_file.as_deref(), insecure, own: false })?;
    let who = match said_now.who.or_else(|| Some(before?.who.clone())) {
        Some(Account::ServiceAccount(file)) => Account::ServiceAccount(absolute(file)?),
        Some(user) => user,
        None => ask()?,
    };
    Ok(Profile {
        name,
        url,
        who,
        project: said_now.project.or(project).or_else(|| before?.project.clone()),
        ca_file,
        insecure,
        offline: said_now.offline.or_else(|| before?.offline),
    })
}

/// Begins a session as `profile` says and keeps the profile; says where the refresh token is. A service account shows its own
/// credential instead of a password.
pub async fn log_in(
    environment: &Environment,
    profile: &Profile,
    password: Option<&Secret>,
) -> Result<Standing, Error> {
    let standing = match (&profile.who, password) {
        (Account::User(username), Some(password)) => {
            let wire = wire(profile, environment)?;
            let tokens = session::password(&wire, username.as_str(), password).await?;
            if tokens.are_for_a_new_password() {
                return Ok(Standing::NewPasswordNeeded);
            }
            let session = session_of(profile, environment)?;
            Standing::LoggedIn(session.begin(&wire, tokens).await?)
        }
        (Account::User(_), None) => return Err(Error::failed("a user logs in with a password")),
        (Account::ServiceAccount(_), _) => {
            Client::of(Who::of(profile)?, environment)?.me().await?;
            Standing::NotNeeded
        }
    };
    // What another account has left here is not this one's.
    Offline::new(State::open(environment)?, profile.name.as_str(), MAX_OFFLINE).wipe()?;
    Profiles::put(environment, profile).await?;
    Ok(standing)
}

/// Changes the password of the user of a profile. Every session of theirs ends, this one too.
pub async fn change_password(
    environment: &Environment,
    profile: &Profile,
    old: &Secret,
    new: &Secret,
) -> Result<(), Error> {
    let Account::User(username) = &profile.who else {
        return Err(Error::failed("a service account has no password"));
    };
    let wire = wire(profile, environment)?;
    session::change_password(&wire, username.as_str(), old, new).await
}

/// Ends the session of a profile, here and at the desk; `Ok(false)` if there was none. If the desk cannot be told, it is
/// forgotten here all the same, and the error says so.
pub async fn log_out(environment: &Environment, profile: &Profile) -> Result<bool, Error> {
    Offline::new(State::open(environment)?, profile.name.as_str(), MAX_OFFLINE).wipe()?;
    let session = session_of(profile, environment)?;
    let wire = wire(profile, environment);
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

fn wire(profile: &Profile, environment: &Environment) -> Result<Wire, Error> {
    let ca_file = environment.path(CA_FILE).or_else(|| profile.ca_file.clone());
    Wire::new(&profile.url, &Manner { ca_file: ca_file.as_deref(), insecure: profile.insecure, own: false })
}
