//! `keydesk run`: a command gets its keys as environment variables, and no file is written.
//!
//! Without more we become the command: its exit code, its signals and its terminal are its own. With `--mask` or `--watch` we
//! stay, and try not to be noticed. Exit codes are those of `env`, `timeout` and `docker run`: the command's own; 125 when we
//! are what failed; 126 when the command cannot be run; 127 when there is none; 128 + n when it died of signal n, of which we
//! then die too.
//!
//! Who may not have the keys any longer does not keep them for good by leaving a command running, and a hiccup does not end
//! anybody's work: see `watch.rs`.

mod mask;
mod stream;
mod supervise;
pub(super) mod terminal;
mod watch;

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt as _,
    process,
    sync::mpsc,
    time::Duration,
};

use super::{
    failure::Failure,
    variables::{self, Fetched, Given, Wanted},
    yours,
};
use supervise::{End, Supervisor};
use terminal::say;
use watch::Watch;

/// We failed, not the command.
pub(super) const OURS: u8 = 125;
const NOT_RUNNABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    wanted: Wanted,
    /// Replace keys in what the command prints: [openai key]
    #[arg(long)]
    mask: bool,
    /// When a key changes, stop the command and start it again with the new one
    #[arg(long)]
    watch: bool,
    /// How often --watch asks
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = interval)]
    interval: Duration,
    /// How long the command may take to end before it is killed
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// How long --watch goes on when the keys are refused from now on, or `never` to stop
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = stop_after)]
    stop_after: StopAfter,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) const HELP: &str = "Examples:
  keydesk run -- python app.py
  keydesk run --only openai,anthropic --mask -- ./deploy.sh
  keydesk run --project search --watch -- npm start

The command has its keys in the providers' usual variables. KEYDESK_API_KEY and KEYDESK_CLIENT_ID with KEYDESK_CLIENT_SECRET are
not passed on to it.

Exit codes: the command's own; 125 if keydesk failed, 126 if the command cannot be run, 127 if there is none, 128 + n if signal
n ended it.";

/// Gets the keys, and runs the command.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    Err(begin(args).unwrap_or_else(|failure| failure.with_code(OURS)))
}

/// How it ended; an error, if it did not begin.
fn begin(args: Args) -> Result<Failure, Failure> {
    let Args { wanted, mask, watch, interval, grace, stop_after, command } = args;
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::Usage("there is no command".to_owned()));
    };
    let runtime = yours::one_thread()?;
    let fetched = runtime.block_on(wanted.fetch(watch))?;
    for given in &fetched.given {
        for other in variables::others_set(&given.provider) {
            say(&format!("{other} is set here, too, and some programs prefer it to {}", given.variable));
        }
    }
    if !mask && !watch {
        runtime.shutdown_background();
        return Ok(exec((program, arguments), fetched.given));
    }
    super::leave_core_limit();
    let (sender, events) = mpsc::channel();
    let supervisor = Supervisor::new((program, arguments), mask, grace, sender.clone())?;
    let Fetched { client, project, etag, given } = fetched;
    if watch {
        let given = given.clone();
        Watch { client, project, etag, given, interval, stop_after }.begin(runtime, sender);
    }
    supervisor.run(given, &events).map(end_as)
}

/// How long a command runs on whose keys are refused.
#[derive(Clone, Copy, Debug)]
struct StopAfter(Option<Duration>);

fn stop_after(text: &str) -> Result<StopAfter, String> {
    if text == "never" {
        return Ok(StopAfter(None));
    }
    humantime::parse_duration(text).map(|after| StopAfter(Some(after))).map_err(|error| error.to_string())
}

/// The desk counts requests, by default sixty a minute of one principal: five seconds leave most of them to others.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_secs(1) { Err("at least a second".to_owned()) } else { Ok(interval) }
}

fn exec((program, arguments): (&OsString, &[OsString]), given: Vec<Given>) -> Failure {
    super::leave_core_limit();
    let mut command = process::Command::new(program);
    command.args(arguments);
    variables::set(&mut command, &given);
    drop(given);
    let (line, code) = not_started(program, &command.exec());
    Failure::Ended { line: Some(line), code }
}

/// What to say of a command that does not start, and the exit code.
fn not_started(program: &OsStr, error: &io::Error) -> (String, u8) {
    let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE };
    let why = if code == NOT_FOUND { "there is no such command".to_owned() } else { error.to_string() };
    (format!("cannot run {}: {why}", program.display()), code)
}

/// Whether this process was to run a command: what is wrong with its arguments is not to be taken for an exit code of that.
pub(super) fn was_meant() -> bool {
    let mut arguments = env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        if ["--config", "--data-dir", "--log-format"].iter().any(|option| argument == *option) {
            arguments.next();
        } else if !argument.as_encoded_bytes().starts_with(b"-") {
            return argument == "run";
        }
    }
    false
}

/// Ends as the command did.
fn end_as(end: End) -> Failure {
    let code = match end {
        End::Code(code) => code,
        End::Signal(signal) => {
            // Comes back only if that signal ends nobody.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            u8::try_from(128 + signal).unwrap_or(OURS)
        }
    };
    Failure::Ended { line: None, code }
}
