//! Keys as environment variables: which a command is given, and under which name.
//!
//! A provider has one conventional variable, which the desk names too (`env`). Others that some programs look for, such as
//! `GOOGLE_API_KEY`, are left as they are: they hold keys of other services as well. The credential that we ourselves were
//! given in the environment is not passed on: a command that is to have one key would have them all.

use std::{collections::BTreeSet, ffi::OsStr, process::Command, sync::Arc};

use super::{
    failure::Failure,
    yours::{Whose, is_a_copy},
};
use crate::{
    client::{CREDENTIALS, Client, Error, Etag, Handed, Keys, Kind},
    model::{ProjectName, Provider, provider},
    secret::Secret,
};

/// A key, and the variable it goes into.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) provider: Provider,
    pub(super) variable: String,
    pub(super) key: Arc<Secret>,
}

/// Which keys are wanted.
#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// The project, instead of `KEYDESK_PROJECT` or the profile's
    #[arg(long)]
    project: Option<ProjectName>,
    /// Only the keys of these providers
    #[arg(long, value_name = "PROVIDER,...", value_delimiter = ',')]
    only: Vec<Provider>,
    #[command(flatten)]
    whose: Whose,
}

/// Keys that were handed over, and how to ask for them again.
pub(super) struct Fetched {
    pub(super) client: Client,
    pub(super) project: Option<ProjectName>,
    pub(super) etag: Option<Etag>,
    pub(super) given: Vec<Given>,
}

impl Wanted {
    /// Asks the desk for them. What was not asked for is not handed over, and is not in the book as if it were; only who wants
    /// to hear of changes (`watched`) asks for the project's keys as a whole.
    pub(super) async fn fetch(self, watched: bool) -> Result<Fetched, Failure> {
        let Self { project, only, whose } = self;
        let client = whose.client()?;
        if !only.is_empty() && !watched {
            let mut keys = Vec::new();
            for provider in only.iter().collect::<BTreeSet<_>>() {
                let key = client.key(project.as_ref(), provider).await;
                let key = key.map_err(|error| Error { what: format!("{provider}: {error}"), ..error })?;
                is_a_copy(&client, key.copied_at);
                keys.push((key.provider, key.key));
            }
            return Ok(Fetched { client, project, etag: None, given: select(keys, &only)? });
        }
        match client.keys(project.as_ref(), None).await? {
            Keys::Handed(Handed { keys, etag, copied_at }) => {
                is_a_copy(&client, copied_at);
                Ok(Fetched { client, project, etag, given: select(keys, &only)? })
            }
            Keys::Unchanged => Err(Failure::Failed("the desk handed out no keys".to_owned())),
        }
    }
}

/// Of the keys that the desk handed over those that were asked for: all, if `only` names none.
pub(super) fn select(keys: Vec<(Provider, Secret)>, only: &[Provider]) -> Result<Vec<Given>, Error> {
    let refused = |what| Error::new(Kind::Refused, what);
    let names = || keys.iter().map(|(provider, _)| provider.as_str()).collect::<Vec<_>>().join(", ");
    let had = |provider: &Provider| keys.iter().any(|(had, _)| had == provider);
    if let Some(missing) = only.iter().find(|provider| !had(provider)) {
        return Err(refused(format!("there is no key of {missing} for you, but of: {}", names())));
    }
    let mut given: Vec<Given> = Vec::new();
    for (provider, key) in keys.into_iter().filter(|(provider, _)| only.is_empty() || only.contains(provider))
    {
        let variable = provider.env_variable();
        if let Some(other) = given.iter().find(|given| given.variable == variable) {
            let both = format!("the keys of {} and {provider} both go into {variable}", other.provider);
            return Err(Error::new(Kind::Failed, format!("{both}: say with --only which you mean")));
        }
        given.push(Given { provider, variable, key: Arc::new(key) });
    }
    if given.is_empty() {
        return Err(refused("there are no keys for you in this project".to_owned()));
    }
    Ok(given)
}

/// `command` will have them.
#[expect(clippy::disallowed_methods, reason = "the command is given the keys")]
pub(super) fn set(command: &mut Command, given: &[Given]) {
    for name in CREDENTIALS {
        command.env_remove(name);
    }
    command.envs(given.iter().map(|given| (&given.variable, given.key.expose())));
}

/// The variables of a provider that are set here and are not the conventional one: some programs prefer them to it.
pub(super) fn others_set(provider: &Provider) -> Vec<&'static str> {
    let known = provider::KNOWN.iter().find(|known| known.slug == provider.as_str());
    let others = known.map_or(&[][..], |known| &known.variables[1..]);
    others.iter().copied().filter(|name| is_set(name)).collect()
}

/// Whether a variable is set in this process, and not empty.
pub(super) fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| value != OsStr::new(""))
}
