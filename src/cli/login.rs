//! `keydesk login`, `logout` and `use`: sessions at desks, and the profiles that name them.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{failure::Failure, output::Output, prompt};
use crate::{
    client::{self, Account, Environment, Keeper, Profile, Profiles, Said, Standing},
    model::{PrincipalName, ProfileName, ProjectName},
    secret::Secret,
};

#[derive(Debug, Args)]
pub(super) struct Login {
    /// The desk
    url: String,
    /// The name to give it here; otherwise the host's
    #[arg(long, value_name = "NAME")]
    profile: Option<ProfileName>,
    /// Who you are
    #[arg(long, conflicts_with = "service_account_file")]
    username: Option<PrincipalName>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Instead of a user: the file that `keydesk service-account add --file` has written; it stays where it is
    #[arg(long, value_name = "FILE", conflicts_with = "password_stdin")]
    service_account_file: Option<PathBuf>,
    /// The project to fetch keys from if nothing else is said
    #[arg(long)]
    project: Option<ProjectName>,
    /// The only authorities by whom the desk may prove that it is the desk (PEM)
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Let keys cross the network readable, where http:// is all there is
    #[arg(long)]
    insecure: bool,
    /// Keep a sealed copy of fetched keys, to be used up to this age, 1m to 7d, while the desk is away
    #[arg(long, value_name = "AGE", value_parser = client::offline_age)]
    offline: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct Logout {
    /// The profile, instead of the one that is chosen
    #[arg(long, value_name = "NAME")]
    profile: Option<ProfileName>,
    /// Take the profile out of profiles.toml, too
    #[arg(long)]
    forget: bool,
}

#[derive(Debug, Args)]
pub(super) struct Passwd {
    /// The profile, instead of the one that is chosen
    #[arg(long, value_name = "NAME")]
    profile: Option<ProfileName>,
}

impl Login {
    pub(super) async fn run(self, out: Output) -> Result<(), Failure> {
        let environment = Environment::capture();
        let who = self.service_account_file.map(Account::ServiceAccount);
        let said = Said {
            url: self.url,
            profile: self.profile,
            who: who.or(self.username.map(Account::User)),
            project: self.project,
            ca_file: self.ca_file,
            insecure: self.insecure,
            offline: self.offline,
        };
        let ask = || ask_username(self.password_stdin).map(Account::User);
        let profile = client::prepared(&environment, said, ask)?;
        let password = match &profile.who {
            Account::User(username) => Some(prompt::password(username, self.password_stdin)?),
            Account::ServiceAccount(_) if self.password_stdin => {
                return Err(Failure::Usage(format!(
                    "the profile {} is a service account's; say who you are with --username",
                    profile.name
                )));
            }
            Account::ServiceAccount(_) => None,
        };
        let mut standing = client::log_in(&environment, &profile, password.as_ref()).await?;
        if let (Standing::NewPasswordNeeded, Some(old)) = (standing, &password) {
            standing = with_a_new_password(&environment, &profile, old).await?;
        }
        let (name, who) = (&profile.name, described(&profile.who));
        out.done(format_args!("profile {name}: {who} at {}{}", profile.url, kept(standing)))
    }
}

fn ask_username(password_stdin: bool) -> Result<PrincipalName, Failure> {
    let typed = if password_stdin { None } else { prompt::line("Username: ")? };
    let typed = typed.ok_or_else(|| Failure::Usage("say who you are with --username".to_owned()))?;
    typed.parse().map_err(|error| Failure::Usage(format!("{error}")))
}

/// Asks for a new password, changes the old one to it, and logs in with it.
async fn with_a_new_password(
    environment: &Environment,
    profile: &Profile,
    old: &Secret,
) -> Result<Standing, Failure> {
    let Account::User(username) = &profile.who else {
        return Err(Failure::Failed("a service account has no password".to_owned()));
    };
    let new = prompt::changed_password(username)?;
    client::change_password(environment, profile, old, &new).await?;
    Ok(client::log_in(environment, profile, Some(&new)).await?)
}

impl Passwd {
    pub(super) async fn run(self, out: Output) -> Result<(), Failure> {
        let environment = Environment::capture();
        let profiles = Profiles::open(&environment)?;
        let profile = profiles.chosen(self.profile.as_ref(), &environment)?;
        let Account::User(username) = &profile.who else {
            return Err(Failure::Failed("a service account has no password".to_owned()));
        };
        let old = prompt::password(username, false)?;
        let standing = with_a_new_password(&environment, profile, &old).await?;
        out.done(format_args!("the password of {username} is changed{}", kept(standing)))
    }
}

/// Who a profile is, in a word.
pub(super) fn described(who: &Account) -> String {
    match who {
        Account::User(name) => name.to_string(),
        Account::ServiceAccount(file) => file.display().to_string(),
    }
}

fn kept(standing: Standing) -> &'static str {
    match standing {
        Standing::LoggedIn(Keeper::Keyring) => "; the session is in the keyring",
        Standing::LoggedIn(Keeper::File) => "; the session is in a file that opens on this machine only",
        _ => "",
    }
}

impl Logout {
    pub(super) async fn run(self, out: Output) -> Result<(), Failure> {
        let environment = Environment::capture();
        let profiles = Profiles::open(&environment)?;
        let profile = profiles.chosen(self.profile.as_ref(), &environment)?;
        let Profile { name, url, .. } = profile;
        let ended = client::log_out(&environment, profile).await;
        if self.forget {
            Profiles::remove(&environment, name).await?;
        }
        match (ended, &profile.who) {
            (Ok(_), _) if self.forget => out.done(format_args!("profile {name}: forgotten")),
            (Ok(_), Account::ServiceAccount(file)) => out.done(format_args!(
                "profile {name}: a service account has no session, and {} is as good as before; to end its use here, run: \
                 keydesk logout --profile {name} --forget",
                file.display()
            )),
            (Ok(true), _) => out.done(format_args!("profile {name}: logged out at {url}")),
            (Ok(false), _) => out.done(format_args!("profile {name}: there was no session at {url}")),
            (Err(error), _) => {
                let what = format!(
                    "the session of the profile {name} is forgotten here, but the desk was not told: {error}"
                );
                Err(client::Error { what, ..error }.into())
            }
        }
    }
}

pub(super) async fn choose(name: &ProfileName, out: Output) -> Result<(), Failure> {
    Profiles::choose(&Environment::capture(), name).await?;
    out.done(format_args!("profile {name} is used if nothing else is said"))
}
