//! `keydesk api-key`: long-lived credentials.

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use super::{desk::Desk, failure::Failure, output, users::networks};
use crate::{
    app::api_keys::{IssuedApiKey, NewKey},
    model::{Clock as _, Id, Network, Page, PrincipalName, ScopeSet, SystemClock, Timestamp},
    store::api_keys::ApiKeyRow,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an API key, which is shown this once
    #[command(after_help = "Example:\n  keydesk api-key add alice --label laptop --expires 90d")]
    Add {
        /// The user or service account it belongs to
        principal: PrincipalName,
        /// What it is for
        #[arg(long, default_value = "", hide_default_value = true)]
        label: String,
        /// From when on it is void, such as 90d; never, if not said
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
        /// What it may do at most, such as "llm-keys:read audit:read"; llm-keys:read, if not said
        #[arg(long, value_name = "SCOPES")]
        scope: Option<ScopeSet>,
        /// A network from which it may be used, such as 10.0.0.0/8; repeat for more; anywhere, if not said
        #[arg(long = "from", value_name = "CIDR")]
        sources: Vec<Network>,
    },
    /// List API keys, without their values
    #[command(after_help = "Example:\n  keydesk api-key list alice")]
    List {
        /// Only those of this user or service account
        principal: Option<PrincipalName>,
    },
    /// Revoke an API key: it is dead at once
    #[command(after_help = "Example:\n  keydesk api-key revoke 0199a3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b")]
    Revoke {
        /// The identifier that `keydesk api-key list` shows
        id: Id,
    },
}

#[derive(Serialize)]
struct Issued<'a> {
    id: Id,
    api_key: &'a str,
    principal: &'a PrincipalName,
    label: &'a str,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<(), Failure> {
    let Desk { app, caller, out } = desk;
    match command {
        Command::Add { principal, label, expires, scope, sources } => {
            let sources = networks(sources)?;
            let new = NewKey { label, lifetime: expires, scope, sources };
            show(desk, &app.issue_api_key(caller, &principal, new).await?)
        }
        Command::List { principal } => {
            let keys = app.api_keys(caller, principal.as_ref(), &Page::all()).await?;
            out.list(&keys.items, ["id", "principal", "label", "created", "state"], |key| {
                let created = output::day(key.created_at);
                [key.id.to_string(), key.principal.to_string(), key.label.clone(), created, state(key)]
            })
        }
        Command::Revoke { id } => {
            app.revoke_api_key(caller, None, id).await?;
            out.done(format_args!("API key {id} is revoked"))
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the new key is shown to who asked for it")]
fn show(desk: &Desk, issued: &IssuedApiKey) -> Result<(), Failure> {
    let IssuedApiKey { row, api_key, .. } = issued;
    let value = Issued {
        id: row.id,
        api_key: api_key.expose(),
        principal: &row.principal,
        label: &row.label,
        created_at: row.created_at,
        expires_at: row.expires_at,
    };
    desk.out.credentials(
        &value,
        &[("api_key", api_key)],
        format_args!("run: keydesk api-key revoke {}", row.id),
    )
}

/// Whether a key works, for tables.
pub(super) fn state(key: &ApiKeyRow) -> String {
    match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked".to_owned(),
        (None, Some(end)) if end <= SystemClock.now() => "expired".to_owned(),
        (None, Some(end)) => format!("until {}", output::day(end)),
        (None, None) => "valid".to_owned(),
    }
}
