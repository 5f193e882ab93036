//! The part of the process's environment that is ours to read.

use std::{collections::BTreeMap, ffi::OsString};

use zeroize::Zeroize as _;

use super::{Error, Key, secrets};

/// The prefix of our own variables. An unknown variable that begins with it is an error.
pub(super) const PREFIX: &str = "KEYDESK_";
/// Common names that others have given to things we understand.
const SHARED: [&str; 3] = ["DATABASE_URL", "DATABASE_URL_FILE", "RUST_LOG"];

/// The variables that concern us, and no others. Some hold secrets, so it prints their names only and is wiped when dropped.
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

    /// Whether nothing here concerns us.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every name with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &OsString)> {
        self.0.iter()
    }

    /// The names of our own variables that are set and not empty.
    pub(super) fn ours(&self) -> impl Iterator<Item = &str> {
        let set = self.0.iter().filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty());
        set.map(|(name, _)| name.as_str())
    }

    /// A variable's value; `None` if it is not set or empty, as container tools set variables nobody gave a value.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Error> {
        let Some(value) = self.0.get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        match value.to_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(Error(format!("{name} is not UTF-8 text"))),
        }
    }
}

impl Environment {
    /// Refuses a variable that is set and empty where taking it for unset would open a door.
    pub(super) fn refuse_empty(&self, key: &Key) -> Result<(), Error> {
        let name = key.variable();
        match self.0.get(&name) {
            Some(value) if value.is_empty() => {
                Err(Error(format!("{name} is empty: say {}, or unset it", key.allowed)))
            }
            _ => Ok(()),
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
        let names: Vec<String> = secrets::names().collect();
        let concerns_us = |name: &String| {
            name.starts_with(PREFIX) || SHARED.contains(&name.as_str()) || names.contains(name)
        };
        Self(variables.into_iter().filter(|(name, _)| concerns_us(name)).collect())
    }
}
