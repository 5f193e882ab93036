//! The command line: arguments become operations, results become a table, JSON or a sentence.
//!
//! `serve` runs the server. The commands about users, keys and so on work on the same data directory through the same
//! operations as HTTP, authorised and written in the book as the operating system's user; a running server notices. The
//! commands in `yours.rs` ask a desk over HTTP, wherever it is. Exit codes are decided here and in `failure.rs` alone.

mod alerts;
mod api_keys;
mod audit;
mod audit_table;
mod backup;
mod banner;
mod config_check;
mod desk;
mod doctor;
mod env;
mod environment;
mod failure;
mod get;
mod grants;
mod health;
mod import;
mod kek;
mod login;
mod man;
mod output;
mod projects;
mod prompt;
mod provider_keys;
mod run;
mod serve;
mod service_accounts;
mod signing_keys;
mod status;
mod users;
mod variables;
mod yours;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{LazyLock, OnceLock},
};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    config::{self, Config, Environment, Flags},
    http, telemetry, version,
};
use desk::Desk;
use failure::Failure;
use output::Output;

/// What `--version` says; `-V` says the version alone.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| version::build().to_string());

/// The front desk for a team's LLM API keys
///
/// People and machines prove who they are, get the keys they may use, and every handover is written in the book first.
#[derive(Debug, Parser)]
#[command(
    name = "keydesk",
    version,
    long_version = LONG_VERSION.as_str(),
    arg_required_else_help = true,
    after_help = "Example, in an empty directory:
  OPENAI_API_KEY=sk-... keydesk serve

Settings come from keydesk.toml, KEYDESK_* variables and flags; see `keydesk config check`."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Under a heading of their own, so that they do not stand among what a command is about.
#[derive(Debug, Args)]
#[command(next_help_heading = "For every command")]
struct Global {
    /// The configuration file, instead of ./keydesk.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the desk keeps its files, instead of ./keydesk-data
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How the log on standard error is written: text or json
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Print data as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Yours(yours::Command),
    /// Run a command with your keys in its environment
    ///
    /// Each provider's conventional variable is set, such as `OPENAI_API_KEY`; everything else stays as it is.
    #[command(after_help = run::HELP)]
    Run(run::Args),
    /// Run the server; in an empty data directory, make everything first
    #[command(after_help = "Example:
  export KEYDESK_ADMIN_PASSWORD='correct horse battery staple' OPENAI_API_KEY=sk-...
  keydesk serve --listen 127.0.0.1:8000

Stop it with SIGTERM or Ctrl-C: it finishes the requests it has accepted. A second signal stops it at once.")]
    Serve(serve::Args),
    #[command(flatten)]
    AtDesk(AtDesk),
    /// The key-encryption key, which the whole database depends on
    #[command(after_help = "Example:\n  keydesk kek status")]
    Kek {
        #[command(subcommand)]
        command: kek::Command,
    },
    /// Make a desk out of a backup, where there is none
    ///
    /// The key-encryption key has to be there: it is not in the backup. All of the backup is checked before there is a desk,
    /// and its book is held against the checkpoints that are there.
    #[command(after_help = "Examples:
  keydesk restore desk.backup --data-dir /var/lib/keydesk
  DATABASE_URL=postgres://keydesk@db.example.com/keydesk keydesk restore desk.backup")]
    Restore(backup::Restore),
    /// Move the desk into another database
    ///
    /// No server may run meanwhile. The data directory with the key-encryption key goes on serving, and so does every token,
    /// API key and client secret. What is left in the old database is what it was before.
    #[command(after_help = "Example:
  keydesk migrate-store --to postgres://keydesk@db.example.com/keydesk
  DATABASE_URL=postgres://keydesk@db.example.com/keydesk keydesk serve

A password is better kept out of the command line: in ~/.pgpass or PGPASSWORD.")]
    MigrateStore(backup::MigrateStore),
    /// Print the OpenAPI document
    #[command(after_help = "Example:\n  keydesk openapi --yaml > keydesk.yaml")]
    Openapi {
        /// As YAML instead of JSON
        #[arg(long)]
        yaml: bool,
    },
    /// Ask a desk whether it is ready
    #[command(after_help = health::HELP)]
    Health(health::Health),
    /// Look at the configuration
    #[command(after_help = "Example:\n  keydesk config check")]
    Config {
        #[command(subcommand)]
        command: config_check::Command,
    },
    /// Print a completion script for your shell
    #[command(after_help = "Example:
  keydesk completions bash > ~/.local/share/bash-completion/completions/keydesk")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual: a page for each command
    ///
    /// Without a directory the page of keydesk itself is printed.
    #[command(after_help = "Example:
  keydesk man ~/.local/share/man/man1 && man keydesk-audit-verify")]
    Man {
        /// Where to put the pages
        directory: Option<PathBuf>,
    },
}

/// What is done at an existing desk.
#[derive(Debug, Subcommand)]
enum AtDesk {
    /// People, who log in with a password
    #[command(after_help = "Example:\n  keydesk user add alice --project default")]
    User {
        #[command(subcommand)]
        command: users::Command,
    },
    /// Machines, which show a client secret or an API key
    #[command(after_help = "Example:\n  keydesk service-account add ci --project default --file sa.json")]
    ServiceAccount {
        #[command(subcommand)]
        command: service_accounts::Command,
    },
    /// Long-lived credentials of users and service accounts
    #[command(after_help = "Example:\n  keydesk api-key add alice --label laptop --expires 90d")]
    ApiKey {
        #[command(subcommand)]
        command: api_keys::Command,
    },
    /// The keys that sign access tokens
    #[command(after_help = "Example:\n  keydesk signing-key rotate")]
    SigningKey {
        #[command(subcommand)]
        command: signing_keys::Command,
    },
    /// Named sets of provider keys
    #[command(after_help = "Example:\n  keydesk project add search")]
    Project {
        #[command(subcommand)]
        command: projects::Command,
    },
    /// Who may fetch which project's keys
    #[command(after_help = "Example:\n  keydesk grant add ci search --provider openai")]
    Grant {
        #[command(subcommand)]
        command: grants::Command,
    },
    /// The keys of the LLM providers
    #[command(after_help = "Example:\n  keydesk key set openai")]
    Key {
        #[command(subcommand)]
        command: provider_keys::Command,
    },
    /// Take over provider keys from a .env file
    ///
    /// Known variables are taken, such as `OPENAI_API_KEY`, unless the project has the same key already; placeholders and other
    /// lines are left, and it is said why. No value is shown.
    #[command(after_help = "Examples:
  keydesk import .env --dry-run
  keydesk import .env --project search")]
    Import(import::Args),
    /// Copy the desk into a file, while it is served
    ///
    /// The file holds all there is in the database, as it is at one moment, and the checkpoints. What is secret in it is sealed:
    /// without the key-encryption key, which is not in it, it opens nothing.
    #[command(after_help = "Examples:
  keydesk backup desk.backup
  keydesk backup - | ssh elsewhere 'cat > desk.backup'")]
    Backup(backup::Backup),
    /// The book: who asked for what, and what became of it
    #[command(after_help = "Example:\n  keydesk audit list --outcome denied --since 24h")]
    Audit {
        #[command(subcommand)]
        command: audit::Command,
    },
    /// Alarms: whether they arrive, and which were there
    #[command(after_help = "Example:\n  keydesk alert test")]
    Alert {
        #[command(subcommand)]
        command: alerts::Command,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    telemetry::install_panic_hook();
    keep_memory_private();
    if let Some(code) = run::terminal::become_its_owner() {
        return ExitCode::from(code);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Also --help and --version. If nobody reads it, there is nothing to be done about it.
            let _ = error.print();
            let code =
                if error.use_stderr() && run::was_meant() { i32::from(run::OURS) } else { error.exit_code() };
            return ExitCode::from(u8::try_from(code).unwrap_or(2));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// How large a core dump this process might have left.
static CORE: OnceLock<Rlimit> = OnceLock::new();

/// No core dump, and no debugger of another process of the same user: the memory holds keys. Best effort.
fn keep_memory_private() {
    let found = *CORE.get_or_init(|| getrlimit(Resource::Core));
    // What is taken from the maximum is gone for the command of `run`, too.
    let maximum = if run::was_meant() { found.maximum } else { Some(0) };
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// The limit as it was found, for a command that is not ours. Our own memory stays out of a dump all the same, on Linux.
fn leave_core_limit() {
    if let Some(found) = CORE.get() {
        let _ = setrlimit(Resource::Core, *found);
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global: Global { config, data_dir, log_format, json }, command } = cli;
    let out = Output::new(json);
    let mut flags = Flags { config, data_dir, listen: None, log_format };
    match command {
        Command::Yours(command) => yours::run(command, out),
        Command::Run(args) => run::run(args),
        Command::Openapi { yaml } => out.text(if yaml { http::spec_yaml() } else { http::spec_json() }),
        Command::Completions { shell } => completions(out, shell),
        Command::Man { directory } => man::run(Cli::command(), out, directory),
        Command::Health(health) => health.run(&flags, out),
        Command::Config { command: config_check::Command::Check } => config_check::run(&flags, out),
        Command::Serve(args) => {
            flags.listen = args.listen;
            let environment = environment::take();
            let config = config::load(&flags, &environment)?;
            in_runtime(&config, config.traces_endpoint.as_deref(), serve::run(&config, environment))
        }
        Command::Kek { command } => {
            let config = config::load(&flags, &Environment::capture())?;
            in_runtime(&config, None, kek::run(&config, out, command))
        }
        Command::Restore(args) => {
            let config = config::load(&flags, &Environment::capture())?;
            in_runtime(&config, None, backup::restore(&config, out, args))
        }
        Command::MigrateStore(args) => {
            let config = config::load(&flags, &Environment::capture())?;
            in_runtime(&config, None, backup::migrate_store(&config, out, args))
        }
        Command::AtDesk(command) => {
            let environment = Environment::capture();
            let config = config::load(&flags, &environment)?;
            in_runtime(&config, None, at_desk(&config, &environment, out, command))
        }
    }
}

fn completions(out: Output, shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "keydesk", &mut script);
    out.text(String::from_utf8_lossy(&script).into_owned())
}

/// Opens the log, and the way to the collector of traces, and runs `work` to its end.
fn in_runtime(
    config: &Config,
    traces: Option<&str>,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let _telemetry = telemetry::init(&config.log, traces)?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::because("cannot start", &error))?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

async fn at_desk(
    config: &Config,
    environment: &Environment,
    out: Output,
    command: AtDesk,
) -> Result<(), Failure> {
    let desk = Desk::open(config, out).await?;
    // A server makes the checkpoints, and knows where to send them. Whoever looks at the book vouches for nothing in it.
    let anchors = !matches!(command, AtDesk::Audit { .. }) && !desk::location(config).is_served().await;
    let result = match command {
        AtDesk::User { command } => users::run(&desk, command).await,
        AtDesk::ServiceAccount { command } => service_accounts::run(&desk, command).await,
        AtDesk::ApiKey { command } => api_keys::run(&desk, command).await,
        AtDesk::SigningKey { command } => signing_keys::run(&desk, command).await,
        AtDesk::Project { command } => projects::run(&desk, command).await,
        AtDesk::Grant { command } => grants::run(&desk, command).await,
        AtDesk::Key { command } => provider_keys::run(&desk, command).await,
        AtDesk::Import(args) => import::run(&desk, args).await,
        AtDesk::Backup(args) => backup::run(&desk, args).await,
        AtDesk::Audit { command } => audit::run(&desk, command).await,
        AtDesk::Alert { command } => alerts::run(&desk, config, environment, command).await,
    };
    desk.leave(anchors).await;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_summary_and_an_example() {
        fn walk(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Example") && help.contains("\n  "), "{path} has no example");
            assert!(command.get_about().is_some(), "{path} has no summary");
            command.get_subcommands().for_each(|command| walk(command, &path));
        }
        Cli::command().debug_assert();
        walk(&Cli::command(), "");
    }
}
