//! Who one is, and at which desk: flags, then the environment, then a profile. What is found first is all that counts: a
//! credential of one desk is never shown to another.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::{
    environment::{
        API_KEY, CA_FILE, CLIENT_ID, CLIENT_SECRET, Environment, FILES, PROJECT, SERVICE_ACCOUNT_FILE, URL,
    },
    error::Error,
    profiles::{Account, Profile, Profiles, said},
};
use crate::{
    crypto,
    model::{ProfileName, ProjectName},
    secret::Secret,
};

/// What the command line says about it.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// `--profile`.
    pub profile: Option<ProfileName>,
    /// `--url`.
    pub url: Option<String>,
}

/// What is shown to the desk.
#[derive(Debug)]
pub(super) enum Credential {
    /// A session that is kept on this machine.
    Session,
    /// A service account's secret.
    Client { id: String, secret: Secret },
    /// An API key.
    ApiKey(Secret),
}

/// Somebody at a desk.
#[derive(Debug)]
pub(super) struct Who {
    pub(super) url: String,
    pub(super) credential: Credential,
    /// Where the credential comes from, for messages.
    pub(super) from: String,
    pub(super) project: Option<ProjectName>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) insecure: bool,
    pub(super) offline: Option<Duration>,
    pub(super) profile: Option<ProfileName>,
    /// The file that the credential is in, if others may read it.
    pub(super) open_to_others: Option<PathBuf>,
}

/// What `service-account add --file` writes, as far as it matters here.
#[derive(Deserialize)]
struct ServiceAccountFile {
    client_id: Option<String>,
    client_secret: Option<Secret>,
    token: Option<Secret>,
}

impl Who {
    /// Finds out.
    pub(super) fn find(choice: &Choice, environment: &Environment) -> Result<Self, Error> {
        let mut who = Self::chosen(choice, environment)?;
        if let Some(project) = environment.text(PROJECT)? {
            let project =
                project.parse().map_err(|error| Error::failed(format_args!("{PROJECT}: {error}")))?;
            who.project = Some(project);
        }
        who.ca_file = environment.path(CA_FILE).or(who.ca_file);
        Ok(who)
    }

    fn chosen(choice: &Choice, environment: &Environment) -> Result<Self, Error> {
        if choice.profile.is_some() {
            return Self::of(Profiles::open(environment)?.chosen(choice.profile.as_ref(), environment)?);
        }
        let url = choice.url.clone().map_or_else(|| environment.text(URL), |url| Ok(Some(url)))?;
        if let Some((credential, from)) = given(environment)? {
            let url = url.ok_or_else(|| {
                Error::failed(format_args!(
                    "{from} is set, but not at which desk to use it: set {URL}, or say --url"
                ))
            })?;
            let (project, ca_file, insecure, offline, profile) = (None, None, false, None, None);
            let files = FILES.iter().filter_map(|name| environment.path(name));
            let open_to_others = files.into_iter().find(|file| is_open_to_others(file));
            return Ok(Self {
                url,
                credential,
                from,
                project,
                ca_file,
                insecure,
                offline,
                profile,
                open_to_others,
            });
        }
        match url {
            Some(url) => Self::at(&url, environment),
            None => Self::of(Profiles::open(environment)?.chosen(None, environment)?),
        }
    }

    /// The one profile of the desk at `url`.
    fn at(url: &str, environment: &Environment) -> Result<Self, Error> {
        let name = said(environment)?;
        let url = url.trim_end_matches('/');
        let profiles = Profiles::open(environment)?;
        let fits =
            |profile: &&Profile| profile.url == url && name.as_ref().is_none_or(|name| profile.name == *name);
        let mut fitting = profiles.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(profile), None) => Self::of(profile),
            (Some(_), Some(_)) => Err(Error::failed(format_args!(
                "there are several profiles for {url}; say which with --profile"
            ))),
            (None, _) => {
                Err(Error::log_in(format_args!("you are not logged in at {url}; run: keydesk login {url}")))
            }
        }
    }

    /// Whoever the profile says.
    pub(super) fn of(profile: &Profile) -> Result<Self, Error> {
        let Profile { name, url, who, project, ca_file, insecure, offline } = profile.clone();
        let (credential, from, file) = match who {
            Account::User(username) => (Credential::Session, format!("{username} ({name})"), None),
            Account::ServiceAccount(file) => {
                (service_account(&file)?, file.display().to_string(), Some(file))
            }
        };
        let open_to_others = file.filter(|file| is_open_to_others(file));
        let profile = Some(name);
        Ok(Self { url, credential, from, project, ca_file, insecure, offline, profile, open_to_others })
    }

    /// The name under which things are kept that belong to this principal at this desk. Those without a profile begin
    /// with a sign that no profile's name begins with.
    #[expect(clippy::disallowed_methods, reason = "who has another secret has another name")]
    pub(super) fn kept_as(&self) -> String {
        match (&self.profile, &self.credential) {
            (Some(profile), _) => profile.to_string(),
            (None, Credential::Client { id, secret }) => {
                let said =
                    [self.url.as_bytes(), b"\0", id.as_bytes(), b"\0", secret.expose().as_bytes()].concat();
                let digest = crypto::sha256(&said);
                digest[..12].iter().fold("_".to_owned(), |name, byte| format!("{name}{byte:02x}"))
            }
            (None, _) => "_".to_owned(),
        }
    }

    /// How to log in again.
    pub(super) fn log_in_again(&self) -> String {
        match &self.profile {
            Some(profile) => format!("keydesk login {} --profile {profile}", self.url),
            None => format!("keydesk login {}", self.url),
        }
    }
}

/// The credential that the environment holds, with the variable it is from.
fn given(environment: &Environment) -> Result<Option<(Credential, String)>, Error> {
    let api_key = environment.secret(API_KEY)?;
    let id = environment.text(CLIENT_ID)?;
    let secret = environment.secret(CLIENT_SECRET)?;
    let file = environment.path(SERVICE_ACCOUNT_FILE);
    match (api_key, id, secret, file) {
        (None, None, None, None) => Ok(None),
        (Some((from, key)), None, None, None) => Ok(Some((Credential::ApiKey(key), from))),
        (None, Some(id), Some((from, secret)), None) => Ok(Some((Credential::Client { id, secret }, from))),
        (None, None, None, Some(file)) => {
            service_account(&file).map(|credential| Some((credential, SERVICE_ACCOUNT_FILE.to_owned())))
        }
        (None, Some(_), None, None) => Err(Error::failed(format_args!(
            "{CLIENT_ID} is set, but not {CLIENT_SECRET} or {CLIENT_SECRET}_FILE"
        ))),
        (None, None, Some((from, _)), None) => {
            Err(Error::failed(format_args!("{from} is set, but not {CLIENT_ID}")))
        }
        (key, id, secret, file) => {
            let set = [
                key.map(|(name, _)| name),
                id.map(|_| CLIENT_ID.to_owned()).or(secret.map(|(name, _)| name)),
                file.map(|_| SERVICE_ACCOUNT_FILE.to_owned()),
            ];
            let set: Vec<_> = set.into_iter().flatten().collect();
            Err(Error::failed(format_args!(
                "{} are set, and each says who you are: unset all but the one that is meant",
                set.join(" and ")
            )))
        }
    }
}

/// Not refused, as `ssh` does: what hands secrets to a program, in CI and in containers, often gives them such a mode.
fn is_open_to_others(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|about| about.permissions().mode() & 0o077 != 0)
}

/// What is in a service account's file. Its API key is used if there is one: it needs no access token.
fn service_account(path: &Path) -> Result<Credential, Error> {
    let cannot = |what: &str| {
        Error::failed(format_args!("cannot use the service account in {}: {what}", path.display()))
    };
    let text = Secret::from_file(path).map_err(|why| cannot(&why))?;
    #[expect(clippy::disallowed_methods, reason = "the secrets in it are taken out")]
    let file: ServiceAccountFile = serde_json::from_str(text.expose())
        .map_err(|_| cannot("it is not what `keydesk service-account add --file` writes"))?;
    match file {
        ServiceAccountFile { token: Some(key), .. } => Ok(Credential::ApiKey(key)),
        ServiceAccountFile { client_id: Some(id), client_secret: Some(secret), .. } => {
            Ok(Credential::Client { id, secret })
        }
        _ => Err(cannot("it has neither a token nor a client_id with its client_secret")),
    }
}
