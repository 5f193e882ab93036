//! Secrets from the environment: the first admin's password, the URLs of webhooks and what they are signed with, and what is
//! imported.
//!
//! Each can be given as `NAME`, or as `NAME_FILE` with the path of a file that holds it, which is how container platforms
//! hand over secrets. Both at once is an error, because one of them would be silently ignored.

use std::path::Path;

use super::{Environment, Error, keys};
use crate::{
    app::import::{Found, FoundKey},
    crypto::webhook::WebhookKey,
    model::provider,
    secret::Secret,
};

/// The password of the user that the first start makes.
pub(super) const ADMIN_PASSWORD: &str = "KEYDESK_ADMIN_PASSWORD";
/// What messages to webhooks are signed with.
pub(super) const WEBHOOK_SECRET: &str = "KEYDESK_ALERTS__WEBHOOK_SECRET";
const SERVICE_API_KEY: &str = "SERVICE_API_KEY";

/// The secrets that were found in the environment.
#[derive(Debug)]
pub struct Secrets {
    /// The password of the first admin.
    pub admin_password: Option<Secret>,
    /// What messages to webhooks are signed with.
    pub webhook_key: Option<WebhookKey>,
    /// Provider keys and the service API key.
    pub found: Found,
}

/// The names of all variables that may hold a secret or the path of one.
pub(super) fn names() -> impl Iterator<Item = String> {
    let providers = provider::KNOWN.iter().flat_map(|known| known.variables.iter().copied());
    providers
        .chain([ADMIN_PASSWORD, WEBHOOK_SECRET, SERVICE_API_KEY])
        .map(str::to_owned)
        .chain(keys::SECRET.iter().map(|key| key.variable()))
        .flat_map(|name| [file_variable(&name), name])
}

fn file_variable(name: &str) -> String {
    format!("{name}_FILE")
}

impl Environment {
    /// Reads the secrets. Of the several variables of one provider the first that is set wins.
    pub fn secrets(&self) -> Result<Secrets, Error> {
        let mut found = Found::default();
        for known in provider::KNOWN {
            let mut keys = Vec::new();
            for variable in known.variables {
                keys.extend(self.secret(variable)?);
            }
            if let Some((variable, key)) = keys.into_iter().next() {
                let provider =
                    known.slug.parse().map_err(|error| Error(format!("{}: {error}", known.slug)))?;
                found.provider_keys.push(FoundKey { provider, variable, key });
            }
        }
        found.service_api_key = self.secret(SERVICE_API_KEY)?.map(|(_, key)| key);
        let admin_password = self.secret(ADMIN_PASSWORD)?.map(|(_, password)| password);
        Ok(Secrets { admin_password, webhook_key: self.webhook_key()?, found })
    }

    fn webhook_key(&self) -> Result<Option<WebhookKey>, Error> {
        let Some((variable, text)) = self.secret(WEBHOOK_SECRET)? else { return Ok(None) };
        WebhookKey::from_text(&text).map(Some).map_err(|error| Error(format!("{variable} {error}")))
    }

    /// The secret that `name` or its `_FILE` gives, with the variable that gave it.
    pub(super) fn secret(&self, name: &str) -> Result<Option<(String, Secret)>, Error> {
        let in_file = file_variable(name);
        match (self.text(name)?, self.text(&in_file)?) {
            (None, None) => Ok(None),
            (Some(text), None) => Ok(Some((name.to_owned(), Secret::new(text)))),
            (None, Some(path)) => match Secret::from_file(Path::new(&path)) {
                Ok(secret) => Ok(Some((in_file, secret))),
                // The path is not repeated: it may be the secret itself, set in the wrong variable.
                Err(why) => Err(Error(format!("{in_file} names a file that cannot be used: {why}"))),
            },
            (Some(_), Some(_)) => {
                Err(Error(format!("{name} and {in_file} are both set: unset the one that is not meant")))
            }
        }
    }
}
