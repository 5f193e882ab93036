//! The commands of those who fetch keys from a desk, wherever it is: who they are, and their keys.
//!
//! They read neither the server's configuration nor its environment, and open no log: what they have to say is on standard
//! error in a line. A tool waits for them, so one thread has to do.

use clap::{Args, Subcommand};

use super::{doctor, env, failure::Failure, get, login, output::Output, status};
use crate::{
    client::{Choice, Client, Environment},
    model::{ProfileName, Timestamp},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Log in at a desk, so that the other commands can fetch your keys from it
    ///
    /// The session is kept in the operating system's keyring or, where there is none, in a file that opens on this machine
    /// only. The password is kept nowhere. For a profile that is there already, what no flag says stays as it is.
    #[command(after_help = "Examples:
  keydesk login https://keydesk.example.com
  keydesk login https://keydesk.example.com --username alice --profile work --project search
  keydesk login https://keydesk.example.com --username alice --password-stdin < password.txt
  keydesk login https://keydesk.example.com --service-account-file sa.json --profile ci")]
    Login(login::Login),
    /// Log out: the desk ends the session, and it is forgotten here
    #[command(
        after_help = "Examples:\n  keydesk logout\n  keydesk logout --profile work\n  keydesk logout --profile ci --forget"
    )]
    Logout(login::Logout),
    /// Change your password at the desk
    ///
    /// Asks for the one that you have, and for the new one. Every session of yours ends, and a new one begins here.
    #[command(after_help = "Examples:\n  keydesk passwd\n  keydesk passwd --profile work")]
    Passwd(login::Passwd),
    /// Choose the profile that is used if nothing else is said
    #[command(after_help = "Example:\n  keydesk use work")]
    Use {
        /// The profile
        name: ProfileName,
    },
    /// Ask the desk who you are, and which keys you may fetch
    #[command(after_help = "Examples:\n  keydesk whoami\n  keydesk whoami --profile work --json")]
    Whoami {
        #[command(flatten)]
        whose: Whose,
    },
    /// List the profiles on this machine; asks no desk
    #[command(after_help = "Example:\n  keydesk status")]
    Status,
    /// Print one key, and nothing else
    ///
    /// Made for programs that call a command for a key: never asks, never prints a key that ends within a minute, and says in
    /// its exit code what there is to do.
    #[command(after_help = get::HELP)]
    Get(get::Get),
    /// Print your keys as variables, for programs that read them so
    ///
    /// Keys do not go into a file unless you put them there: `keydesk run` needs none.
    #[command(after_help = env::HELP)]
    Env(env::Args),
    /// Find out what is wrong between this machine and the desk, and what to do
    ///
    /// Looks at settings, files, the name, the connection, the certificate, the clocks, the desk, the credential and the grants. No
    /// key is fetched, and nothing secret is shown. Exits with 0 if all is well, with 1 if not.
    #[command(after_help = "Examples:\n  keydesk doctor\n  keydesk doctor --profile work --json")]
    Doctor {
        #[command(flatten)]
        whose: Whose,
    },
}

/// As whom, and at which desk.
#[derive(Debug, Args)]
pub(super) struct Whose {
    /// The profile, instead of the one that is chosen
    #[arg(long, value_name = "NAME", conflicts_with = "url")]
    profile: Option<ProfileName>,
    /// The desk, instead of `KEYDESK_URL`
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

impl Whose {
    /// A client for it.
    pub(super) fn client(self) -> Result<Client, Failure> {
        let client = Client::open(&self.choice(), &Environment::capture())?;
        if let Some(file) = client.open_to_others() {
            super::output::hint(format_args!(
                "keydesk: others may read the credential in {0}; run: chmod go= '{0}'",
                file.display()
            ));
        }
        Ok(client)
    }

    /// The same as the client takes it.
    pub(super) fn choice(self) -> Choice {
        Choice { profile: self.profile, url: self.url }
    }
}

/// What to say about keys that are a copy because the desk is away.
pub(super) fn is_a_copy(client: &Client, copied_at: Option<Timestamp>) {
    if let Some(since) = copied_at {
        super::output::hint(format_args!(
            "keydesk: {} is away; this is the copy of {} UTC",
            client.url(),
            super::output::second(since)
        ));
    }
}

pub(super) fn run(command: Command, out: Output) -> Result<(), Failure> {
    in_one_thread(async {
        match command {
            Command::Login(login) => login.run(out).await,
            Command::Logout(logout) => logout.run(out).await,
            Command::Passwd(passwd) => passwd.run(out).await,
            Command::Use { name } => login::choose(&name, out).await,
            Command::Whoami { whose } => status::whoami(whose.client()?, out).await,
            Command::Status => status::status(out),
            Command::Get(get) => get.run(out).await,
            Command::Env(args) => env::run(args, out).await,
            Command::Doctor { whose } => doctor::run(whose, out).await,
        }
    })
}

/// Runs `work` to its end.
fn in_one_thread(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = one_thread()?;
    let result = runtime.block_on(work);
    // The name of the desk may still be looked up; nobody waits for it any more.
    runtime.shutdown_background();
    result
}

/// What runs in this thread alone.
pub(super) fn one_thread() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::because("cannot start", &error))
}
