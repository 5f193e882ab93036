//! `keydesk service-account`: machines.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Subcommand;
use serde::Serialize;

use super::{
    desk::Desk,
    failure::Failure,
    output::{hint, json},
    users::{self, role},
};
use crate::{
    app::service_accounts::NewServiceAccount,
    model::{Network, Networks, PrincipalKind, PrincipalName, ProjectName, Role, Timestamp},
    secret::Secret,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a service account with a client secret and an API key, which are shown this once
    #[command(after_help = "Examples:
  keydesk service-account add ci --project default --file sa.json
  keydesk service-account add ci --project default --json")]
    Add {
        /// Its name, which is also its OAuth client id
        name: PrincipalName,
        /// What it may ask for at most
        #[arg(long, default_value = Role::Member.as_str(), value_parser = role())]
        role: Role,
        /// A project whose keys it may fetch; can be repeated
        #[arg(long = "project", value_name = "PROJECT")]
        projects: Vec<ProjectName>,
        /// A network from which it may come, such as 10.0.0.0/8; repeat for more; anywhere, if not said
        #[arg(long = "from", value_name = "CIDR")]
        from: Vec<Network>,
        /// Write the credentials to this new file, readable by you only, instead of showing them
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// List the service accounts
    #[command(after_help = "Example:\n  keydesk service-account list --json")]
    List,
    /// Make a new client secret; the old one stays valid for a while
    #[command(after_help = "Example:\n  keydesk service-account rotate-secret ci --overlap 1h")]
    RotateSecret {
        /// Its name
        name: PrincipalName,
        /// For how long the old secret stays valid
        #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = humantime::parse_duration)]
        overlap: Duration,
    },
    /// Say from where a service account may come: every credential of its works there only, at once
    #[command(after_help = "Examples:
  keydesk service-account networks ci --from 10.0.0.0/8
  keydesk service-account networks ci --anywhere")]
    Networks {
        /// Its name
        name: PrincipalName,
        #[command(flatten)]
        place: users::Place,
    },
    /// Shut a service account out: every credential is dead at once
    #[command(after_help = "Example:\n  keydesk service-account disable ci")]
    Disable {
        /// Its name
        name: PrincipalName,
    },
    /// Let a service account in again
    #[command(after_help = "Example:\n  keydesk service-account enable ci")]
    Enable {
        /// Its name
        name: PrincipalName,
    },
    /// Delete a service account with all secrets, API keys and grants
    #[command(after_help = "Example:\n  keydesk service-account delete ci")]
    Delete {
        /// Its name
        name: PrincipalName,
    },
}

const KIND: PrincipalKind = PrincipalKind::ServiceAccount;

/// What a program needs to prove that it is the service account: the content of `--file`.
#[derive(Serialize)]
struct Credentials<'a> {
    client_id: &'a PrincipalName,
    client_secret: &'a str,
    token: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    created_at: Timestamp,
}

/// What is printed about it when the credentials went to a file.
#[derive(Serialize)]
struct Filed<'a> {
    client_id: &'a PrincipalName,
    file: &'a Path,
    #[serde(rename = "type")]
    kind: &'static str,
    created_at: Timestamp,
}

#[derive(Serialize)]
struct Rotated<'a> {
    client_id: &'a PrincipalName,
    client_secret: &'a str,
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add { name, role, projects, from, file } => {
            add(desk, name, role, &projects, users::networks(from)?, file.as_deref()).await
        }
        Command::List => users::list(desk, KIND).await,
        Command::RotateSecret { name, overlap } => {
            show_rotated(desk, &name, &desk.app.rotate_client_secret(&desk.caller, &name, overlap).await?)
        }
        Command::Networks { name, place } => users::bind(desk, KIND, &name, place).await,
        Command::Disable { name } => users::disable(desk, KIND, &name).await,
        Command::Enable { name } => users::enable(desk, KIND, &name).await,
        Command::Delete { name } => users::delete(desk, KIND, &name).await,
    }
}

async fn add(
    desk: &Desk,
    name: PrincipalName,
    role: Role,
    projects: &[ProjectName],
    networks: Networks,
    path: Option<&Path>,
) -> Result<(), Failure> {
    // Before anything is made, so that what cannot be written is never made.
    let file = path.map(NewFile::reserve).transpose()?;
    let new = desk.app.create_service_account(&desk.caller, name, role, projects, networks).await?;
    show_new(desk, &new, file)?;
    if projects.is_empty() {
        hint(format_args!(
            "{0} may not fetch any keys yet; run: keydesk grant add {0} default",
            new.account.name
        ));
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the new credentials are handed to who asked for them")]
fn show_new(desk: &Desk, new: &NewServiceAccount, file: Option<NewFile>) -> Result<(), Failure> {
    let NewServiceAccount { account, client_secret, token } = new;
    let (client_id, kind, created_at) = (&account.name, KIND.as_str(), account.created_at);
    let credentials = Credentials {
        client_id,
        client_secret: client_secret.expose(),
        token: token.expose(),
        kind,
        created_at,
    };
    let undo = format!("run: keydesk service-account delete {client_id}");
    let Some(file) = file else {
        desk.out.done(format_args!("client_id      {client_id}"))?;
        let lines = [("client_secret", client_secret), ("token", token)];
        return desk.out.credentials(&credentials, &lines, undo);
    };
    let path = file.path.clone();
    json(&credentials).map_err(io::Error::from).and_then(|text| file.fill(&text)).map_err(|error| {
        let path = path.display();
        Failure::Failed(format!(
            "service account {client_id} is made, but {path} could not be written: {error}; {undo}"
        ))
    })?;
    let sentence = format!("service account {client_id} is made; its credentials are in {}", path.display());
    desk.out.object(&Filed { client_id, file: &path, kind, created_at }, sentence)
}

#[expect(clippy::disallowed_methods, reason = "the new client secret is shown to who asked for it")]
fn show_rotated(desk: &Desk, name: &PrincipalName, secret: &Secret) -> Result<(), Failure> {
    let rotated = Rotated { client_id: name, client_secret: secret.expose() };
    desk.out.credentials(&rotated, &[("client_secret", secret)], "rotate it once more")
}

/// A new file that only its owner can read; removed again unless it is filled.
struct NewFile {
    path: PathBuf,
    file: fs::File,
    filled: bool,
}

impl NewFile {
    fn reserve(path: &Path) -> Result<Self, Failure> {
        match fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file, filled: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::Failed(format!(
                "{} exists already; remove it or name another file. Nothing was made",
                path.display()
            ))),
            Err(error) => Err(Failure::because(format_args!("cannot create {}", path.display()), &error)),
        }
    }

    fn fill(mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.file.sync_all()?;
        self.filled = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.filled {
            let _ = fs::remove_file(&self.path);
        }
    }
}
