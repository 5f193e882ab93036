//! The variables that say who one is and where the desk stands.
//!
//! The desk's own settings begin with the same letters, and refuse names that nobody knows: so they ask here, in
//! [`VARIABLES`], which ones are the client's. The client looks at its own only.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use zeroize::Zeroize as _;

use super::error::Error;
use crate::secret::Secret;

/// The client's variables.
pub const VARIABLES: [&str; 10] =
    [URL, PROFILE, PROJECT, CA_FILE, API_KEY, CLIENT_ID, CLIENT_SECRET, FILES[0], FILES[1], FILES[2]];
/// Those that name a file with a secret in it.
pub(super) const FILES: [&str; 3] =
    [SERVICE_ACCOUNT_FILE, "KEYDESK_API_KEY_FILE", "KEYDESK_CLIENT_SECRET_FILE"];
pub(super) const URL: &str = "KEYDESK_URL";
pub(super) const PROFILE: &str = "KEYDESK_PROFILE";
pub(super) const PROJECT: &str = "KEYDESK_PROJECT";
pub(super) const CA_FILE: &str = "KEYDESK_CA_FILE";
pub(super) const API_KEY: &str = "KEYDESK_API_KEY";
pub(super) const CLIENT_ID: &str = "KEYDESK_CLIENT_ID";
pub(super) const CLIENT_SECRET: &str = "KEYDESK_CLIENT_SECRET";
pub(super) const SERVICE_ACCOUNT_FILE: &str = "KEYDESK_SERVICE_ACCOUNT_FILE";
/// What is a credential by itself.
pub const CREDENTIALS: [&str; 3] = [API_KEY, CLIENT_ID, CLIENT_SECRET];
/// Where a user's files are, and how the session's bus is found.
const OTHERS: [&str; 5] =
    ["HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];

/// Those variables and no others. Some hold secrets, so it prints their names only and is wiped when dropped.
#[derive(Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// What the process was started with.
    pub fn capture() -> Self {
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
    }

    /// A variable's value; `None` if it is not set or empty.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Error> {
        let Some(value) = self.0.get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        match value.to_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(Error::failed(format_args!("{name} is not UTF-8 text"))),
        }
    }

    /// A path.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// The secret that `name`, or the file that `name_FILE` names, holds, with the variable that gave it.
    pub(super) fn secret(&self, name: &str) -> Result<Option<(String, Secret)>, Error> {
        let in_file = format!("{name}_FILE");
        match (self.text(name)?, self.path(&in_file)) {
            (None, None) => Ok(None),
            (Some(text), None) => Ok(Some((name.to_owned(), Secret::new(text)))),
            (None, Some(path)) => match Secret::from_file(&path) {
                Ok(secret) => Ok(Some((in_file, secret))),
                Err(why) => {
                    Err(Error::failed(format_args!("{in_file} names a file that cannot be used: {why}")))
                }
            },
            (Some(_), Some(_)) => Err(Error::failed(format_args!(
                "{name} and {in_file} are both set: unset the one that is not meant"
            ))),
        }
    }

    /// A directory that a variable names, else one below the user's home. Relative paths do not count (XDG Base Directory).
    pub(super) fn directory(&self, variable: &str, below_home: &str) -> Result<PathBuf, Error> {
        if let Some(path) = self.path(variable).filter(|path| path.is_absolute()) {
            return Ok(path.join("keydesk"));
        }
        match self.path("HOME") {
            Some(home) => Ok(home.join(below_home).join("keydesk")),
            None => Err(Error::failed(format_args!("neither HOME nor {variable} says where your files are"))),
        }
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        for value in self.0.values_mut() {
            std::mem::take(value).into_encoded_bytes().zeroize();
        }
    }
}

impl FromIterator<(String, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, OsString)>>(variables: I) -> Self {
        let concerns_us = |name: &str| VARIABLES.contains(&name) || OTHERS.contains(&name);
        Self(variables.into_iter().filter(|(name, _)| concerns_us(name)).collect())
    }
}
