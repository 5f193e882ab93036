//! `keydesk status` and `whoami`: what this machine knows, and what the desk says.

use serde::Serialize;

use super::{failure::Failure, login::described, output::Output};
use crate::client::{self, Client, Environment, Keeper, Profiles, Standing};

#[derive(Serialize)]
struct Row {
    profile: String,
    default: bool,
    url: String,
    who: String,
    project: Option<String>,
    session: &'static str,
    offline: Option<String>,
}

/// Every profile, without asking any desk.
pub(super) fn status(out: Output) -> Result<(), Failure> {
    let environment = Environment::capture();
    let profiles = Profiles::open(&environment)?;
    let mut rows = Vec::new();
    for profile in profiles.iter() {
        rows.push(Row {
            profile: profile.name.to_string(),
            default: profiles.default_name() == Some(&profile.name),
            url: profile.url.clone(),
            who: described(&profile.who),
            project: profile.project.as_ref().map(ToString::to_string),
            session: session(client::standing(&environment, profile)?),
            offline: profile.offline.map(|age| humantime::format_duration(age).to_string()),
        });
    }
    out.list(&rows, ["profile", "url", "who", "project", "session", "offline"], |row| {
        let mark = if row.default { " (default)" } else { "" };
        [
            format!("{}{mark}", row.profile),
            row.url.clone(),
            row.who.clone(),
            row.project.clone().unwrap_or_default(),
            row.session.to_owned(),
            row.offline.clone().unwrap_or_default(),
        ]
    })
}

fn session(standing: Standing) -> &'static str {
    match standing {
        Standing::LoggedIn(Keeper::Keyring) => "in the keyring",
        Standing::LoggedIn(Keeper::File) => "in a sealed file",
        Standing::LoggedOut | Standing::NewPasswordNeeded => "logged out",
        Standing::NotOurs => "of another machine or user",
        Standing::NotNeeded => "not needed",
    }
}

/// What the desk says of whoever asks.
pub(super) async fn whoami(client: Client, out: Output) -> Result<(), Failure> {
    let me = client.me().await?;
    let grants = me.grants.iter().map(|grant| match &grant.providers {
        Some(providers) => format!("{} ({})", grant.project, providers.join(", ")),
        None => grant.project.clone(),
    });
    let grants: Vec<_> = grants.collect();
    let kind = me.kind.replace('_', " ");
    let grants = if grants.is_empty() { "nothing".to_owned() } else { grants.join(", ") };
    let sentence = format!("{}, {kind} and {}, at {}; may fetch: {grants}", me.name, me.role, client.url());
    out.object(&me, sentence)
}
