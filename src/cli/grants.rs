//! `keydesk grant`: who may fetch which keys.

use std::collections::BTreeSet;

use clap::Subcommand;
use serde::Serialize;

use super::{desk::Desk, failure::Failure, output};
use crate::model::{Page, PrincipalName, ProjectName, Provider};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Let a user or service account fetch a project's keys; replaces the grant that is there
    #[command(after_help = "Examples:
  keydesk grant add alice default
  keydesk grant add ci search --provider openai --provider anthropic")]
    Add {
        /// The user or service account
        principal: PrincipalName,
        /// The project
        project: ProjectName,
        /// Only this provider's key; can be repeated. All providers, present and future, if not said
        #[arg(long = "provider", value_name = "PROVIDER")]
        providers: Vec<Provider>,
    },
    /// List the grants
    #[command(after_help = "Example:\n  keydesk grant list --project default")]
    List {
        /// Only those on this project
        #[arg(long)]
        project: Option<ProjectName>,
    },
    /// Remove a grant: in force at once
    #[command(after_help = "Example:\n  keydesk grant remove alice default")]
    Remove {
        /// The user or service account
        principal: PrincipalName,
        /// The project
        project: ProjectName,
    },
}

#[derive(Serialize)]
struct Granted<'a> {
    principal: &'a PrincipalName,
    project: &'a ProjectName,
    providers: Option<&'a BTreeSet<Provider>>,
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<(), Failure> {
    let Desk { app, caller, out } = desk;
    match command {
        Command::Add { principal, project, providers } => {
            let providers = (!providers.is_empty()).then(|| providers.into_iter().collect::<BTreeSet<_>>());
            let providers = providers.as_ref();
            app.set_grant(caller, &principal, &project, providers).await?;
            let granted = Granted { principal: &principal, project: &project, providers };
            out.object(&granted, format_args!("{principal} may fetch from {project}: {}", covered(providers)))
        }
        Command::List { project } => {
            let grants = app.grants(caller, project.as_ref(), &Page::all()).await?.items;
            out.list(&grants, ["principal", "project", "providers", "since (utc)"], |grant| {
                let providers = covered(grant.providers.as_ref());
                [
                    grant.principal.to_string(),
                    grant.project.to_string(),
                    providers,
                    output::minute(grant.created_at),
                ]
            })
        }
        Command::Remove { principal, project } => {
            app.remove_grant(caller, &principal, &project).await?;
            out.done(format_args!("{principal} may not fetch from {project} any more"))
        }
    }
}

/// What a grant covers, for people.
pub(super) fn covered(providers: Option<&BTreeSet<Provider>>) -> String {
    let names = |some: &BTreeSet<Provider>| some.iter().map(Provider::as_str).collect::<Vec<_>>().join(", ");
    providers.map_or_else(|| "all providers".to_owned(), names)
}
