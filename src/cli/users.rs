//! `keydesk user`: people.

use std::fmt::Write as _;

use clap::{
    Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde::Serialize;

use super::{desk::Desk, failure::Failure, output, prompt};
use crate::{
    app::{principals::Patch, users::NewUser},
    model::{
        Grant, Network, Networks, Page, Principal, PrincipalKind, PrincipalName, ProjectName, Role, Timestamp,
    },
    store::api_keys::ApiKeyRow,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a user; the password is asked for, or read from standard input
    #[command(after_help = "Examples:
  keydesk user add alice --project default
  pass show keydesk/alice | keydesk user add alice --password-stdin")]
    Add {
        /// The user's name
        name: PrincipalName,
        /// What the user may ask for at most
        #[arg(long, default_value = Role::Member.as_str(), value_parser = role())]
        role: Role,
        /// A project whose keys the user may fetch; can be repeated
        #[arg(long = "project", value_name = "PROJECT")]
        projects: Vec<ProjectName>,
        /// A network from which the user may come, such as 10.0.0.0/8; repeat for more; anywhere, if not said
        #[arg(long = "from", value_name = "CIDR")]
        from: Vec<Network>,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// List the users
    #[command(after_help = "Example:\n  keydesk user list --json")]
    List,
    /// Show a user with grants and API keys
    #[command(after_help = "Example:\n  keydesk user show alice")]
    Show {
        /// The user's name
        name: PrincipalName,
    },
    /// Set a user's password
    #[command(after_help = "Example:\n  keydesk user passwd alice")]
    Passwd {
        /// The user's name
        name: PrincipalName,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Give a user a one-time password, good for a day and for nothing but its own change
    #[command(after_help = "Example:\n  keydesk user reset-password alice")]
    ResetPassword {
        /// The user's name
        name: PrincipalName,
    },
    /// Forget a user's failed logins, so that they can log in from anywhere again
    #[command(after_help = "Example:\n  keydesk user unlock alice")]
    Unlock {
        /// The user's name
        name: PrincipalName,
    },
    /// Say from where a user may come: every credential of theirs works there only, at once
    #[command(after_help = "Examples:
  keydesk user networks alice --from 10.0.0.0/8 --from 2001:db8::/32
  keydesk user networks alice --anywhere")]
    Networks {
        /// The user's name
        name: PrincipalName,
        #[command(flatten)]
        place: Place,
    },
    /// Shut a user out: every credential is dead at once
    #[command(after_help = "Example:\n  keydesk user disable alice")]
    Disable {
        /// The user's name
        name: PrincipalName,
    },
    /// Let a user in again
    #[command(after_help = "Example:\n  keydesk user enable alice")]
    Enable {
        /// The user's name
        name: PrincipalName,
    },
    /// Delete a user with all API keys and grants
    #[command(after_help = "Example:\n  keydesk user delete alice")]
    Delete {
        /// The user's name
        name: PrincipalName,
    },
}

/// From where a user or service account may come.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Place {
    /// A network such as 10.0.0.0/8, or an address; repeat for more
    #[arg(long = "from", value_name = "CIDR")]
    from: Vec<Network>,
    /// From anywhere
    #[arg(long)]
    anywhere: bool,
}

const KIND: PrincipalKind = PrincipalKind::User;

pub(super) async fn run(desk: &Desk, command: Command) -> Result<(), Failure> {
    let Desk { app, caller, out } = desk;
    match command {
        Command::Add { name, role, projects, from, password_stdin } => {
            let networks = networks(from)?;
            let password = prompt::new_password(&name, password_stdin)?;
            let next = if projects.is_empty() {
                format!("; to let them fetch keys: keydesk grant add {name} PROJECT")
            } else {
                String::new()
            };
            let user = app.create_user(caller, NewUser { name, role, password, projects, networks }).await?;
            out.object(&user, format_args!("user {} is made{next}", user.name))
        }
        Command::List => list(desk, KIND).await,
        Command::Show { name } => show(desk, &name).await,
        Command::Passwd { name, password_stdin } => {
            app.principal(caller, KIND, &name).await?;
            app.set_password(caller, &name, prompt::new_password(&name, password_stdin)?).await?;
            out.done(format_args!("user {name} has a new password"))
        }
        Command::ResetPassword { name } => reset_password(desk, &name).await,
        Command::Unlock { name } => {
            app.unlock_user(caller, &name).await?;
            out.done(format_args!("the failed logins of {name} are forgotten"))
        }
        Command::Networks { name, place } => bind(desk, KIND, &name, place).await,
        Command::Disable { name } => disable(desk, KIND, &name).await,
        Command::Enable { name } => enable(desk, KIND, &name).await,
        Command::Delete { name } => delete(desk, KIND, &name).await,
    }
}

#[expect(clippy::disallowed_methods, reason = "the one-time password is shown to who asked for it")]
async fn reset_password(desk: &Desk, name: &PrincipalName) -> Result<(), Failure> {
    let reset = desk.app.reset_password(&desk.caller, name).await?;
    let value = OneTime { username: name, password: reset.password.expose(), expires_at: reset.expires_at };
    let undo = format_args!("run the command again");
    desk.out.credentials(&value, &[("password", &reset.password)], undo)?;
    output::hint(format_args!(
        "it is good for its own change only, before {}: `keydesk login` asks for a new one, and so does PUT /me/password",
        output::minute(reset.expires_at)
    ));
    Ok(())
}

#[derive(Serialize)]
struct OneTime<'a> {
    username: &'a PrincipalName,
    password: &'a str,
    expires_at: Timestamp,
}

/// The roles, for clap.
pub(super) fn role() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL.map(Role::as_str)).try_map(|text| text.parse::<Role>())
}

/// All users, or all service accounts.
pub(super) async fn list(desk: &Desk, kind: PrincipalKind) -> Result<(), Failure> {
    let principals = desk.app.principals(&desk.caller, kind, &Page::all()).await?;
    desk.out.list(&principals.items, ["name", "role", "state", "created (utc)"], |principal| {
        let created = output::minute(principal.created_at);
        [principal.name.to_string(), principal.role.to_string(), state(principal), created]
    })
}

fn state(principal: &Principal) -> String {
    let disabled = |since| format!("disabled since {}", output::minute(since));
    principal.disabled_at.map_or_else(|| "enabled".to_owned(), disabled)
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    principal: &'a Principal,
    grants: &'a [Grant],
    api_keys: &'a [ApiKeyRow],
}

async fn show(desk: &Desk, name: &PrincipalName) -> Result<(), Failure> {
    let principal = desk.app.principal(&desk.caller, KIND, name).await?;
    let mut grants = desk.app.grants(&desk.caller, None, &Page::all()).await?.items;
    grants.retain(|grant| grant.principal == *name);
    let api_keys = desk.app.api_keys(&desk.caller, Some(name), &Page::all()).await?.items;
    let mut text = format!(
        "name     {name}\nrole     {}\nstate    {}\nfrom     {}\ncreated  {} UTC\nid       {}",
        principal.role,
        state(&principal),
        principal.networks,
        output::minute(principal.created_at),
        principal.id
    );
    for grant in &grants {
        let covered = super::grants::covered(grant.providers.as_ref());
        let _ = write!(text, "\ngrant    {}: {covered}", grant.project);
    }
    for key in &api_keys {
        let _ = write!(text, "\napi key  {} {} {}", key.id, super::api_keys::state(key), key.label);
    }
    desk.out.object(&Shown { principal: &principal, grants: &grants, api_keys: &api_keys }, text)
}

/// Says from where a user or service account may come.
pub(super) async fn bind(
    desk: &Desk,
    kind: PrincipalKind,
    name: &PrincipalName,
    place: Place,
) -> Result<(), Failure> {
    let patch = Patch { networks: Some(networks(place.from)?), ..Patch::default() };
    let changed = desk.app.update_principal(&desk.caller, kind, name, patch, None).await?;
    let sentence = format_args!("{} {name} may come from {}", kind.noun(), changed.networks);
    desk.out.object(&changed, sentence)
}

/// The networks that were named; none is anywhere.
pub(super) fn networks(named: Vec<Network>) -> Result<Networks, Failure> {
    if named.is_empty() {
        return Ok(Networks::ANYWHERE);
    }
    Networks::within(named).map_err(|error| Failure::Usage(error.to_string()))
}

/// Shuts a user or service account out.
pub(super) async fn disable(desk: &Desk, kind: PrincipalKind, name: &PrincipalName) -> Result<(), Failure> {
    desk.app.disable(&desk.caller, kind, name).await?;
    desk.out.done(format_args!("{} {name} is disabled: no credential of theirs works any more", kind.noun()))
}

/// Lets a user or service account in again.
pub(super) async fn enable(desk: &Desk, kind: PrincipalKind, name: &PrincipalName) -> Result<(), Failure> {
    desk.app.enable(&desk.caller, kind, name).await?;
    desk.out.done(format_args!("{} {name} is enabled", kind.noun()))
}

/// Deletes a user or service account.
pub(super) async fn delete(desk: &Desk, kind: PrincipalKind, name: &PrincipalName) -> Result<(), Failure> {
    desk.app.delete(&desk.caller, kind, name).await?;
    desk.out.done(format_args!("{} {name} is deleted", kind.noun()))
}
