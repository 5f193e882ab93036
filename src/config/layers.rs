//! What was typed: the text of each key, from the strongest layer that gives one, with the place it came from.

use std::{collections::HashMap, fmt, fs, io, path::PathBuf};

use toml::{Table, value::Value as Toml};

use super::{
    Environment, Error, KEYS, Key,
    environment::PREFIX,
    keys::{self, Default, Kind, nearest},
    secrets,
};
use crate::{client, secret::Secret};

/// The file that is read when nobody names one.
const FILE: &str = "keydesk.toml";
/// The variable that names the file.
const FILE_VARIABLE: &str = "KEYDESK_CONFIG";
const NO_LIST: &str = "must be an array of strings, each in quotes";
/// A name for `database.url` that platforms set and other programs know.
const DATABASE_URL: &str = "DATABASE_URL";

/// What the command line says about the configuration.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<std::net::SocketAddr>,
    /// `--log-format`.
    pub log_format: Option<String>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Variable(String),
    /// This flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A key's value as text.
#[derive(Clone, Debug)]
pub struct Value {
    /// The key.
    pub key: &'static Key,
    /// The value.
    pub text: String,
    /// Where it came from.
    pub source: Source,
}

/// The layers, laid over each other.
pub(super) struct Layers(HashMap<&'static str, (String, Source)>);

impl Layers {
    /// Reads the file, the environment and the flags.
    pub(super) fn gather(flags: &Flags, environment: &Environment) -> Result<Self, Error> {
        let mut layers = Self(HashMap::new());
        for key in KEYS {
            if let Default::Text(text) = key.default {
                layers.put(key, text, Source::Default);
            }
        }
        layers.read_file(flags, environment)?;
        layers.read_environment(environment)?;
        if let Some(path) = &flags.data_dir {
            let text = path.to_str().ok_or_else(|| Error("--data-dir is not UTF-8 text".to_owned()))?;
            layers.put(&keys::DATA_DIR, text, Source::Flag("--data-dir"));
        }
        if let Some(address) = flags.listen {
            layers.put(&keys::SERVER_LISTEN, address, Source::Flag("--listen"));
        }
        if let Some(format) = &flags.log_format {
            layers.put(&keys::LOG_FORMAT, format, Source::Flag("--log-format"));
        }
        Ok(layers)
    }

    fn put(&mut self, key: &Key, text: impl fmt::Display, source: Source) {
        self.0.insert(key.name, (text.to_string(), source));
    }

    fn read_file(&mut self, flags: &Flags, environment: &Environment) -> Result<(), Error> {
        let named = match &flags.config {
            Some(path) => Some(path.clone()),
            None => environment.text(FILE_VARIABLE)?.map(PathBuf::from),
        };
        let path = named.clone().unwrap_or_else(|| PathBuf::from(FILE));
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(Error(format!("cannot read the configuration {}: {error}", path.display())));
            }
        };
        let table = text.parse::<Table>().map_err(|error| {
            // Not the error's own text, which repeats the line.
            let line =
                error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
            Error(format!("{}, line {line}: {}", path.display(), error.message().replace('\n', ", ")))
        })?;
        self.read_table("", &table, &Source::File(path))
    }

    /// Reads a table; `prefix` is its name with a dot, or empty.
    fn read_table(&mut self, prefix: &str, table: &Table, source: &Source) -> Result<(), Error> {
        for (name, value) in table {
            let name = format!("{prefix}{name}");
            if let Some(key) = KEYS.iter().find(|key| key.name == name) {
                self.put(
                    key,
                    scalar(key, value).map_err(|what| invalid(source, key, &what))?,
                    source.clone(),
                );
            } else if let Toml::Table(inner) = value
                && KEYS.iter().any(|key| key.name.starts_with(&format!("{name}.")))
            {
                self.read_table(&format!("{name}."), inner, source)?;
            } else {
                return Err(unknown(source, &name, value.is_table()));
            }
        }
        Ok(())
    }

    fn read_environment(&mut self, environment: &Environment) -> Result<(), Error> {
        self.read_secret(&keys::DATABASE_URL, environment.secret(DATABASE_URL)?);
        self.read_secrets(environment)?;
        for name in environment.ours() {
            let value = environment.text(name)?.unwrap_or_default();
            if let Some(key) = KEYS.iter().find(|key| key.variable() == name) {
                self.put(key, value, Source::Variable(name.to_owned()));
            } else if !is_for_others(name, &value) {
                let known =
                    KEYS.iter().map(Key::variable).chain([FILE_VARIABLE.to_owned()]).chain(our_secrets());
                let nearest = nearest(name, known);
                return Err(Error(format!(
                    "there is no setting {}; the nearest is {nearest}",
                    name.escape_debug()
                )));
            }
        }
        Ok(())
    }

    /// Keys whose values may come in files, as other secrets do.
    fn read_secrets(&mut self, environment: &Environment) -> Result<(), Error> {
        for key in keys::SECRET {
            self.read_secret(key, environment.secret(&key.variable())?);
        }
        Ok(())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the layer holds texts; what is shown of them is cut by whoever checks them"
    )]
    fn read_secret(&mut self, key: &Key, found: Option<(String, Secret)>) {
        if let Some((variable, text)) = found {
            self.put(key, text.expose(), Source::Variable(variable));
        }
    }

    /// Whether any layer gives the key.
    pub(super) fn is_given(&self, key: &Key) -> bool {
        self.0.contains_key(key.name)
    }

    /// Gives the key a default that follows from others.
    pub(super) fn derive(&mut self, key: &Key, text: impl fmt::Display) {
        if !self.is_given(key) {
            self.put(key, text, Source::Default);
        }
    }

    /// Shows `text` in place of the key's value, because people should not see all of it.
    pub(super) fn show_instead(&mut self, key: &Key, text: String) {
        if let Some(value) = self.0.get_mut(key.name) {
            value.0 = text;
        }
    }

    /// The key's value, made of its text by `check`, which says what is wrong otherwise.
    pub(super) fn checked<T>(
        &self,
        key: &Key,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Error> {
        let (text, source) =
            self.0.get(key.name).map_or(("", &Source::Default), |(text, source)| (text, source));
        check(text).map_err(|what| invalid(source, key, &what))
    }

    /// A path.
    pub(super) fn path(&self, key: &Key) -> Result<PathBuf, Error> {
        self.checked(
            key,
            |text| if text.is_empty() { Err("is empty".to_owned()) } else { Ok(PathBuf::from(text)) },
        )
    }

    /// All of it, for people.
    pub(super) fn into_values(mut self) -> Vec<Value> {
        let value = |key: &'static Key| {
            let (text, source) = self.0.remove(key.name)?;
            Some(Value { key, text, source })
        };
        KEYS.iter().filter_map(value).collect()
    }
}

/// One line: where, which key, what is wrong, what is allowed.
fn invalid(source: &Source, key: &Key, what: &str) -> Error {
    Error(format!("{source}: {} {what} (allowed: {})", key.name, key.allowed))
}

fn unknown(source: &Source, name: &str, is_table: bool) -> Error {
    let table_of = |key: &Key| key.name.split_once('.').map(|(table, _)| table.to_owned());
    let (what, nearest) = if is_table {
        ("table", nearest(name, KEYS.iter().filter_map(table_of)))
    } else {
        ("key", nearest(name, KEYS.iter().map(|key| key.name.to_owned())))
    };
    Error(format!("{source}: there is no {what} {}; the nearest is {nearest}", name.escape_debug()))
}

fn scalar(key: &Key, value: &Toml) -> Result<String, String> {
    match (key.kind, value) {
        (Kind::Text | Kind::List, Toml::String(text)) => Ok(text.clone()),
        (Kind::Boolean, Toml::Boolean(value)) => Ok(value.to_string()),
        (Kind::Integer, Toml::Integer(value)) => Ok(value.to_string()),
        (Kind::List, Toml::Array(items)) => {
            let items: Option<Vec<_>> = items.iter().map(Toml::as_str).collect();
            items.map(|items| items.join(", ")).ok_or_else(|| NO_LIST.to_owned())
        }
        (Kind::Text, _) => Err("must be a string in quotes".to_owned()),
        (Kind::Boolean, _) => Err("must be true or false, without quotes".to_owned()),
        (Kind::Integer, _) => Err("must be a whole number, without quotes".to_owned()),
        (Kind::List, _) => Err(NO_LIST.to_owned()),
    }
}

fn our_secrets() -> impl Iterator<Item = String> {
    secrets::names().filter(|name| name.starts_with(PREFIX))
}

/// Variables with our prefix that are no settings: where the configuration is, secrets, what is for the client, and what Kubernetes sets in every
/// pod for a service named `keydesk`.
fn is_for_others(name: &str, value: &str) -> bool {
    name == FILE_VARIABLE
        || is_of_kubernetes(name, value)
        || client::VARIABLES.contains(&name)
        || our_secrets().any(|secret| secret == name)
}

/// `KEYDESK_SERVICE_HOST`, `KEYDESK_SERVICE_PORT[_NAME]`, `KEYDESK_PORT=tcp://…`, `KEYDESK_PORT_8000_TCP[_…]`: recognised by
/// their values too, so that somebody who means to set a port is told that this is not how.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let of_port = name.strip_prefix("KEYDESK_PORT_").and_then(|rest| rest.split_once('_'));
    name == "KEYDESK_SERVICE_HOST"
        || (name.starts_with("KEYDESK_SERVICE_PORT") && is_number(value))
        || (name == "KEYDESK_PORT" && value.contains("://"))
        || of_port.is_some_and(|(port, rest)| {
            is_number(port) && (rest.starts_with("TCP") || rest.starts_with("UDP"))
        })
}
