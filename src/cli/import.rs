//! `keydesk import`: provider keys move from a dotenv file into a project.
//!
//! The same keys under the same names as at the start of a server (`app/import.rs`), from a file. A key is taken if it differs
//! from the current one; all in one transaction. Of what is left it is said why, by line and name, never by value.

mod dotenv;

use std::{
    fmt::Write as _,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::Serialize;
use zeroize::Zeroizing;

use super::{desk::Desk, failure::Failure};
use crate::{
    app::import::{FoundKey, Taken},
    model::{ProjectName, Provider, provider},
};
use dotenv::Line;

/// More than any such file has, and little enough to read by mistake.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file, such as .env
    file: PathBuf,
    /// The project that gets the keys
    #[arg(long, default_value = "default")]
    project: ProjectName,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// What became of a line.
#[derive(Serialize)]
struct Outcome {
    line: usize,
    variable: Option<String>,
    provider: Option<Provider>,
    /// `taken`, `unchanged`, `repeated` (another line has the key of this provider) or `left`.
    became: &'static str,
    /// The version that the key has now.
    version: Option<i64>,
    /// Why it was left.
    why: Option<String>,
}

#[derive(Serialize)]
struct Done<'a> {
    project: &'a ProjectName,
    dry_run: bool,
    lines: &'a [Outcome],
}

pub(super) async fn run(desk: &Desk, args: Args) -> Result<(), Failure> {
    let Desk { app, caller, out } = desk;
    let Args { file, project, dry_run } = args;
    let text =
        read(&file).map_err(|why| Failure::Failed(format!("cannot read {}: {why}", file.display())))?;
    let (keys, mut outcomes) = sort(dotenv::lines(&text));
    drop(text);
    if keys.is_empty() {
        let left: String =
            outcomes.iter().filter(|left| left.provider.is_some()).fold(String::new(), |all, left| {
                format!("{all}; line {}: {}", left.line, left.why.as_deref().unwrap_or_default())
            });
        return Err(Failure::Failed(format!("there is no provider's key in {}{left}", file.display())));
    }
    let (lines, found): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
    let taken = app.import_keys(caller, &project, &found, dry_run).await?;
    for ((line, found), taken) in lines.iter().zip(found).zip(taken) {
        let (became, version) = match taken {
            Taken::Version(version) => ("taken", version),
            Taken::Unchanged(version) => ("unchanged", version),
        };
        let (variable, provider) = (Some(found.variable), Some(found.provider));
        outcomes.push(Outcome { line: *line, variable, provider, became, version: Some(version), why: None });
    }
    outcomes.sort_by_key(|outcome| outcome.line);
    let done = Done { project: &project, dry_run, lines: &outcomes };
    out.object(&done, told(&done, &file).trim_end())
}

fn read(file: &Path) -> Result<Zeroizing<String>, String> {
    let mut text = Zeroizing::new(String::with_capacity(16 * 1024));
    let opened = fs::File::open(file).map_err(|error| error.to_string())?;
    let read = opened.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE_BYTES { Err("it has more than 1 MiB".to_owned()) } else { Ok(text) }
}

/// Keys with their line, and what is left. A variable that is set twice has its last value, and of the several variables of
/// one provider the first is meant, as at the start of a server.
#[expect(clippy::disallowed_methods, reason = "a key that is none is told before it is brought to the desk")]
fn sort(lines: Vec<Line>) -> (Vec<(usize, FoundKey)>, Vec<Outcome>) {
    let mut keys: Vec<(usize, FoundKey)> = Vec::new();
    let mut left = Vec::new();
    let mut leave = |line, variable, provider, why: &str| {
        let (became, why) = ("left", Some(why.to_owned()));
        left.push(Outcome { line, variable, provider, became, version: None, why });
    };
    let mut repeated: Vec<Outcome> = Vec::new();
    for Line { number, name, value } in lines {
        let Some(variable) = name else {
            leave(number, None, None, value.err().unwrap_or_default());
            continue;
        };
        let Some((provider, rank)) = Provider::of_variable(&variable) else {
            leave(number, Some(variable), None, "not the variable of a known provider");
            continue;
        };
        let checked = value.map_err(str::to_owned).and_then(|key| {
            provider::check_key_text(key.expose()).map_err(|error| error.to_string())?;
            Ok(key)
        });
        let key = match checked {
            Ok(key) => key,
            Err(why) => {
                leave(number, Some(variable), Some(provider), &why);
                continue;
            }
        };
        let found = FoundKey { provider, variable, key };
        let Some(at) = keys.iter().position(|(_, other)| other.provider == found.provider) else {
            keys.push((number, found));
            continue;
        };
        let other = &keys[at];
        let other_rank = Provider::of_variable(&other.1.variable).map_or(rank, |(_, rank)| rank);
        let (older, newer) = if rank <= other_rank {
            (std::mem::replace(&mut keys[at], (number, found)), number)
        } else {
            let newer = other.0;
            ((number, found), newer)
        };
        repeated.push(Outcome {
            line: older.0,
            variable: Some(older.1.variable),
            provider: Some(older.1.provider),
            became: "repeated",
            version: None,
            why: Some(format!("line {newer} is taken instead")),
        });
    }
    left.extend(repeated);
    (keys, left)
}

/// The same for people, and what to do next.
fn told(done: &Done<'_>, file: &Path) -> String {
    let mut text = String::new();
    let project = done.project;
    let would = if done.dry_run { "would be" } else { "is" };
    for Outcome { line, variable, provider, became, version, why } in done.lines {
        let name = variable.as_ref().map_or_else(String::new, |name| format!(" {name}"));
        let became = match (provider, version, why) {
            (Some(provider), Some(version), _) if *became == "taken" => {
                format!("{provider} {would} at version {version} in project {project}")
            }
            (Some(provider), Some(version), _) => {
                format!("{provider} has this key already, at version {version}")
            }
            (.., why) => format!("not taken: {}", why.as_deref().unwrap_or_default()),
        };
        let _ = writeln!(text, "line {line}{name}: {became}");
    }
    // Also those that were not taken: there is a key in each.
    let here = done.lines.iter().filter(|outcome| outcome.became != "left");
    let here: Vec<_> = here.map(|outcome| outcome.line.to_string()).collect();
    if !done.dry_run && !here.is_empty() {
        let lines = if here.len() == 1 { "line" } else { "lines" };
        let _ = writeln!(
            text,
            "\nNext: delete {lines} {} from {}, and start programs with `keydesk run -- COMMAND`. A key that lay in a file may \
             have been copied, into backups or a repository: make new ones at the providers, and set them with `keydesk key set`.",
            here.join(", "),
            file.display()
        );
    }
    text
}
