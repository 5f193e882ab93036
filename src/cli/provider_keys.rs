//! `keydesk key`: the keys of the LLM providers.

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use super::{desk::Desk, failure::Failure, output, prompt};
use crate::{
    model::{Page, ProjectName, Provider, Timestamp},
    store::provider_keys::ProviderKeyRow,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Set a provider's key as a new version; it is asked for, or read from standard input
    #[command(after_help = "Examples:
  keydesk key set openai
  pass show openai | keydesk key set openai --project search --expires 90d")]
    Set {
        /// The provider: openai, anthropic, gemini, ... or a name of your own
        provider: Provider,
        /// The project
        #[arg(long, default_value = "default")]
        project: ProjectName,
        /// After which time it expires at the provider, such as 90d; not known, if not said
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
    },
    /// List provider keys, without their values
    #[command(after_help = "Example:\n  keydesk key list --project default")]
    List {
        /// Only those of this project
        #[arg(long)]
        project: Option<ProjectName>,
    },
    /// Delete a provider's key with all its versions
    #[command(after_help = "Example:\n  keydesk key delete openai --project search")]
    Delete {
        /// The provider
        provider: Provider,
        /// The project
        #[arg(long, default_value = "default")]
        project: ProjectName,
    },
}

#[derive(Serialize)]
struct NewVersion<'a> {
    project: &'a ProjectName,
    provider: &'a Provider,
    version: i64,
}

#[derive(Serialize)]
struct Shown<'a> {
    project: &'a ProjectName,
    provider: &'a Provider,
    env: String,
    version: i64,
    created_at: Timestamp,
    updated_at: Timestamp,
    expires_at: Option<Timestamp>,
}

impl<'a> From<&'a ProviderKeyRow> for Shown<'a> {
    fn from(row: &'a ProviderKeyRow) -> Self {
        Self {
            project: &row.project,
            provider: &row.provider,
            env: row.provider.env_variable(),
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
            expires_at: row.expires_at,
        }
    }
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<(), Failure> {
    let Desk { app, caller, out } = desk;
    match command {
        Command::Set { provider, project, expires } => {
            let key = prompt::key(&format!("{provider} for project {project}"))?;
            let version = app.set_provider_key(caller, &project, &provider, &key, expires).await?.row.version;
            let made = NewVersion { project: &project, provider: &provider, version };
            out.object(&made, format_args!("{provider} in project {project} is at version {version}"))
        }
        Command::List { project } => {
            let rows = app.provider_keys(caller, project.as_ref(), &Page::all()).await?.items;
            let keys: Vec<Shown<'_>> = rows.iter().map(|key| Shown::from(&key.row)).collect();
            out.list(
                &keys,
                ["project", "provider", "env", "version", "created", "updated (utc)", "expires"],
                |key| {
                    let (created, updated) = (output::day(key.created_at), output::minute(key.updated_at));
                    let (project, provider) = (key.project.to_string(), key.provider.to_string());
                    let expires = key.expires_at.map_or_else(|| "-".to_owned(), output::day);
                    [project, provider, key.env.clone(), key.version.to_string(), created, updated, expires]
                },
            )
        }
        Command::Delete { provider, project } => {
            app.delete_provider_key(caller, &project, &provider).await?;
            out.done(format_args!("{provider} in project {project} is deleted"))
        }
    }
}
