//! `profiles.toml`: the desks that somebody knows, and who they are there. A person may edit it; there is no secret in it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use toml_edit::{DocumentMut, Item, Table, value};

use super::{
    environment::{Environment, PROFILE},
    error::Error,
    state::{State, make_private, replace},
};
use crate::model::{NameError, PrincipalName, ProfileName, ProjectName};

const FILE: &str = "profiles.toml";
/// For how long at most keys may be handed out from a copy: what is revoked meanwhile goes on being handed out.
pub(super) const MAX_OFFLINE: Duration = Duration::from_hours(7 * 24);
/// A copy that lives shorter is none when it is needed.
const MIN_OFFLINE: Duration = Duration::from_mins(1);
/// The lock of whoever changes the file; no profile has this name.
const LOCK: &str = "_profiles";

/// A desk, and who one is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: ProfileName,
    /// The desk's URL.
    pub url: String,
    /// Who: a user who logs in with a password, or a service account.
    pub who: Account,
    /// The project whose keys are asked for if nothing else is said.
    pub project: Option<ProjectName>,
    /// The only certificates that the desk's is checked against, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether the desk may be spoken to in the clear, although it is on another machine.
    pub insecure: bool,
    /// How old a copy of keys may be that is used when the desk is away; `None`: there is no copy.
    pub offline: Option<Duration>,
}

/// Who a profile is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// A user; the session is kept on this machine.
    User(PrincipalName),
    /// A service account; the file has what it shows.
    ServiceAccount(PathBuf),
}

/// All profiles.
#[derive(Clone, Debug)]
pub struct Profiles {
    path: PathBuf,
    text: String,
    default: Option<ProfileName>,
    all: Vec<Profile>,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    default: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, WrittenProfile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenProfile {
    url: String,
    username: Option<String>,
    service_account_file: Option<PathBuf>,
    project: Option<String>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    insecure: bool,
    offline: Option<String>,
}

impl Profiles {
    /// Reads the file, if there is one.
    pub fn open(environment: &Environment) -> Result<Self, Error> {
        let path = environment.directory("XDG_CONFIG_HOME", ".config")?.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::failed(format_args!("cannot read {}: {error}", path.display()))),
        };
        let wrong = |what: String| Error::failed(format_args!("{}: {what}", path.display()));
        let written: Written = toml::from_str(&text).map_err(|error| {
            // Not the error's own text, which repeats the line.
            let line =
                error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
            wrong(format!("line {line}: {}", error.message().replace('\n', ", ")))
        })?;
        let all = written.profiles.into_iter().map(|(name, profile)| {
            profile
                .checked(&name)
                .map_err(|what| wrong(format!("[profiles.{}]: {what}", name.escape_debug())))
        });
        let all = all.collect::<Result<Vec<_>, _>>()?;
        let default = written.default.map(|name| name.parse::<ProfileName>()).transpose();
        let default = default.map_err(|error| wrong(format!("default: {error}")))?;
        Ok(Self { path, text, default, all })
    }

    /// Each of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.all.iter()
    }

    /// The one with this name.
    pub fn named(&self, name: &ProfileName) -> Option<&Profile> {
        self.all.iter().find(|profile| profile.name == *name)
    }

    /// The one that is used if nobody says which.
    pub fn default_name(&self) -> Option<&ProfileName> {
        self.default.as_ref()
    }

    /// The one that is named, else the one the environment names, else the default.
    pub fn chosen(&self, name: Option<&ProfileName>, environment: &Environment) -> Result<&Profile, Error> {
        let said = match name {
            Some(name) => Some(name.clone()),
            None => said(environment)?.or_else(|| self.default.clone()),
        };
        let name = said.ok_or_else(|| match self.names() {
            None => Error::log_in("you are not logged in at any desk; run: keydesk login URL"),
            Some(names) => Error::log_in(format_args!(
                "no profile is chosen; say --profile NAME, or run: keydesk use NAME; there are: {names}"
            )),
        })?;
        self.named(&name).ok_or_else(|| self.unknown(&name))
    }

    /// Adds a profile or replaces the one with its name; the first is the default. Everything else in the file stays as
    /// somebody wrote it.
    pub(super) async fn put(environment: &Environment, profile: &Profile) -> Result<(), Error> {
        Self::edit(environment, |profiles, document| {
            profiles.check_free(&profile.name, &profile.url)?;
            document["default"] = value(profiles.default.as_ref().unwrap_or(&profile.name).as_str());
            let profiles = document.entry("profiles").or_insert_with(|| {
                let mut table = Table::new();
                table.set_implicit(true);
                Item::Table(table)
            });
            let table = &mut profiles[profile.name.as_str()];
            if !table.is_table_like() {
                *table = Item::Table(Table::new());
            }
            let path = |path: &PathBuf| path.display().to_string();
            let (username, file) = match &profile.who {
                Account::User(name) => (Some(name.to_string()), None),
                Account::ServiceAccount(file) => (None, Some(path(file))),
            };
            for (key, said) in [
                ("url", Some(profile.url.clone())),
                ("username", username),
                ("service_account_file", file),
                ("project", profile.project.as_ref().map(ToString::to_string)),
                ("ca_file", profile.ca_file.as_ref().map(path)),
                ("offline", profile.offline.map(|age| humantime::format_duration(age).to_string())),
            ] {
                match said {
                    Some(said) => table[key] = value(said),
                    None => forget(table, key),
                }
            }
            if profile.insecure {
                table["insecure"] = value(true);
            } else {
                forget(table, "insecure");
            }
            Ok(())
        })
        .await
    }

    /// Takes a profile out of the file. If it was the default, there is none until one is chosen.
    pub async fn remove(environment: &Environment, name: &ProfileName) -> Result<(), Error> {
        Self::edit(environment, |profiles, document| {
            if profiles.default.as_ref() == Some(name) {
                document.remove("default");
            }
            if let Some(profiles) = document.get_mut("profiles") {
                forget(profiles, name.as_str());
            }
            Ok(())
        })
        .await
    }

    /// Makes this one the default.
    pub async fn choose(environment: &Environment, name: &ProfileName) -> Result<(), Error> {
        Self::edit(environment, |profiles, document| {
            profiles.named(name).ok_or_else(|| profiles.unknown(name))?;
            document["default"] = value(name.as_str());
            Ok(())
        })
        .await
    }

    /// Whether a profile for the desk at `url` may have that name: a session of one desk is never taken to another.
    pub(super) fn check_free(&self, name: &ProfileName, url: &str) -> Result<(), Error> {
        match self.named(name).filter(|other| other.url != url) {
            Some(other) => Err(Error::failed(format_args!(
                "the profile {name} is for {}; choose another name with --profile",
                other.url
            ))),
            None => Ok(()),
        }
    }

    /// There is no profile of that name.
    fn unknown(&self, name: &ProfileName) -> Error {
        let others = self.names().map_or_else(String::new, |names| format!("; there are: {names}"));
        Error::log_in(format_args!(
            "there is no profile {name}; make it with: keydesk login URL --profile {name}{others}"
        ))
    }

    fn names(&self) -> Option<String> {
        let names: Vec<_> = self.all.iter().map(|profile| profile.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Changes the file as it is now, one after the other.
    async fn edit(
        environment: &Environment,
        change: impl FnOnce(&Self, &mut DocumentMut) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let _lock = State::open(environment)?.lock(LOCK).await?;
        let profiles = Self::open(environment)?;
        let cannot = |error: &dyn std::fmt::Display| {
            Error::failed(format_args!("cannot write {}: {error}", profiles.path.display()))
        };
        let mut document: DocumentMut = profiles.text.parse().map_err(|_| cannot(&"it is no TOML"))?;
        change(&profiles, &mut document)?;
        if let Some(directory) = profiles.path.parent() {
            make_private(directory).map_err(|error| cannot(&error))?;
        }
        replace(&behind(&profiles.path), document.to_string().as_bytes()).map_err(|error| cannot(&error))
    }
}

/// Where a link leads, so that a file that is kept elsewhere and linked here stays so.
fn behind(path: &Path) -> PathBuf {
    let linked = || Some(path.parent()?.join(fs::read_link(path).ok()?));
    fs::canonicalize(path).ok().or_else(linked).unwrap_or_else(|| path.to_owned())
}

/// The profile that the environment names.
pub(super) fn said(environment: &Environment) -> Result<Option<ProfileName>, Error> {
    let name = environment.text(PROFILE)?.map(|name| name.parse()).transpose();
    name.map_err(|error: NameError| Error::failed(format_args!("{PROFILE}: {error}")))
}

fn forget(table: &mut Item, key: &str) {
    if let Some(table) = table.as_table_like_mut() {
        table.remove(key);
    }
}

impl WrittenProfile {
    fn checked(self, name: &str) -> Result<Profile, String> {
        let who = match (self.username, self.service_account_file) {
            (Some(name), None) => Account::User(name.parse().map_err(|error| format!("username: {error}"))?),
            (None, Some(file)) => Account::ServiceAccount(file),
            _ => return Err("needs either username or service_account_file".to_owned()),
        };
        let project = self.project.map(|name| name.parse()).transpose();
        let offline = self.offline.as_deref().map(offline).transpose();
        Ok(Profile {
            name: name.parse().map_err(|error| format!("{error}"))?,
            url: self.url,
            who,
            project: project.map_err(|error| format!("project: {error}"))?,
            ca_file: self.ca_file,
            insecure: self.insecure,
            offline: offline.map_err(|error| format!("offline: {error}"))?,
        })
    }
}

/// How old a copy may be: a minute at least, at most seven days.
pub fn offline(text: &str) -> Result<Duration, String> {
    let age = humantime::parse_duration(text).map_err(|_| "is no duration such as 12h".to_owned())?;
    if age < MIN_OFFLINE {
        return Err("is less than a minute".to_owned());
    }
    if age > MAX_OFFLINE {
        return Err("is more than 7 days: what is revoked would be handed out for too long".to_owned());
    }
    Ok(age)
}
