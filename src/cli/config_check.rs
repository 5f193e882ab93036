//! `keydesk config`: what is configured, and where it came from.

use clap::Subcommand;
use serde::Serialize;

use super::{alerts, failure::Failure, output::Output, serve::load_tls};
use crate::config::{self, Environment, Flags, Value};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Check the configuration and the secrets in the environment; print every key with its value and its source
    #[command(after_help = "Example:
  KEYDESK_SERVER__LISTEN=127.0.0.1:9000 keydesk config check

Nothing is changed, and no secret is printed.")]
    Check,
}

#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    value: &'a str,
    source: String,
    variable: String,
    allowed: &'a str,
    meaning: &'a str,
}

impl<'a> From<&'a Value> for Shown<'a> {
    fn from(value: &'a Value) -> Self {
        Self {
            key: value.key.name,
            value: &value.text,
            source: value.source.to_string(),
            variable: value.key.variable(),
            allowed: value.key.allowed,
            meaning: value.key.meaning,
        }
    }
}

/// `keydesk config check`.
pub(super) fn run(flags: &Flags, out: Output) -> Result<(), Failure> {
    let environment = Environment::capture();
    let config = config::load(flags, &environment)?;
    let secrets = environment.secrets()?;
    secrets.found.check()?;
    alerts::endpoints(&config, secrets.webhook_key)?;
    load_tls(&config)?;
    let values: Vec<Shown<'_>> = config.values.iter().map(Shown::from).collect();
    out.list(&values, ["key", "value", "source"], |value| {
        [value.key.to_owned(), value.value.to_owned(), value.source.clone()]
    })
}
