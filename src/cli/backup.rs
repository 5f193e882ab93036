//! `keydesk backup`, `restore` and `migrate-store`: the desk in a file, out of one, and into another database.

use std::{fs::File, io, path::PathBuf};

use indicatif::ProgressBar;

use super::{
    audit,
    desk::{self, Desk},
    failure::Failure,
    output::{self, Output},
};
use crate::{
    app::{
        backup::{Header, Lost, Settled, Step},
        desk::{Database, Location},
    },
    config::{Config, database_of},
};

#[derive(Debug, clap::Args)]
pub(super) struct Backup {
    /// A new file; - is standard output
    file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// What `keydesk backup` wrote; - is standard input
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct MigrateStore {
    /// Where the desk is, instead of where the configuration says
    #[arg(long, value_name = "URL", value_parser = Url::of)]
    from: Option<Url>,
    /// An empty database: `sqlite://PATH` or `postgres://USER@HOST:PORT/DATABASE`
    #[arg(long, value_name = "URL", value_parser = Url::of)]
    to: Url,
}

/// A database, or why it is none: said by us, because what was typed can hold a password.
#[derive(Clone, Debug)]
struct Url(Result<Database, String>);

impl Url {
    #[expect(clippy::unnecessary_wraps, reason = "clap asks for a result")]
    fn of(text: &str) -> Result<Self, String> {
        Ok(Self(database_of(text)))
    }

    fn location(self, option: &str, config: &Config) -> Result<Location, Failure> {
        let database = self.0.map_err(|error| Failure::Usage(format!("{option} {error}")))?;
        Ok(Location { database, ..desk::location(config) })
    }
}

pub(super) async fn run(desk: &Desk, Backup { file, force }: Backup) -> Result<(), Failure> {
    let mut bar = Bar::default();
    let mut progress = |step, done, total| bar.show(step, done, total);
    if file.as_os_str() == "-" {
        let out = io::BufWriter::new(io::stdout().lock());
        desk.app.back_up_to(&desk.caller, "standard output", out, &mut progress).await?;
        return Ok(());
    }
    let header = desk.app.back_up(&desk.caller, &file, force, &mut progress).await?;
    bar.end();
    let said = format!(
        "{} holds the desk as it was at {}, in {} rows; the key-encryption key is not in it",
        file.display(),
        output::second(header.at),
        header.rows
    );
    desk.out.object(&header, said)
}

pub(super) async fn restore(config: &Config, out: Output, Restore { file }: Restore) -> Result<(), Failure> {
    let from: Box<dyn io::Read> = if file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(&file);
        Box::new(
            opened
                .map_err(|error| Failure::because(format_args!("cannot read {}", file.display()), &error))?,
        )
    };
    let location = desk::location(config);
    let (caller, settings) = (desk::caller(), desk::settings(config, config.issuer(config.listen)));
    let mut bar = Bar::default();
    let mut progress = |step, done, total| bar.show(step, done, total);
    let restored = location.restore(from, &caller, settings, desk::surroundings(), &mut progress);
    let (header, settled) = Box::pin(restored).await?;
    bar.end();
    let said = format!(
        "the desk of {} is at {}, in {} rows",
        output::second(header.at),
        location.database,
        settled.rows
    );
    tell(out, Some(&header), &settled, &said)
}

pub(super) async fn migrate_store(
    config: &Config,
    out: Output,
    MigrateStore { from, to }: MigrateStore,
) -> Result<(), Failure> {
    let from = from.map_or(Ok(desk::location(config)), |url| url.location("--from", config))?;
    let to = to.location("--to", config)?;
    let (caller, settings) = (desk::caller(), desk::settings(config, config.issuer(config.listen)));
    let mut bar = Bar::default();
    let mut progress = |step, done, total| bar.show(step, done, total);
    let moved = from.migrate_to(&to, &caller, settings, desk::surroundings(), &mut progress);
    let settled = Box::pin(moved).await?;
    bar.end();
    let said = format!(
        "the desk has moved to {}, in {} rows; name it in DATABASE_URL from now on, and let nobody serve {} any more",
        to.database, settled.rows, from.database
    );
    tell(out, None, &settled, &said)
}

/// What has become of the desk, and what is not as it should be.
fn tell(out: Output, backup: Option<&Header>, settled: &Settled, said: &str) -> Result<(), Failure> {
    let Settled { book, lost, .. } = settled;
    let praise = if book.whole { format!("{said}\n{}", audit::praise(book)) } else { said.to_owned() };
    out.object(&serde_json::json!({ "backup": backup, "desk": settled }), praise)?;
    if let Some(lost) = lost {
        output::hint(warning(lost));
    }
    // That what is lost is missing has been said.
    let mut faults = book.faults.iter().filter(|fault| lost.is_none() || !fault.is_of_the_end());
    match faults.next() {
        None => Ok(()),
        Some(first) => Err(Failure::Failed(format!("the desk is there, but its book is not whole: {first}"))),
    }
}

fn warning(Lost { behind, known_to, of_backup }: &Lost) -> String {
    let (checkpoint, at, known_to) = (behind.checkpoint, output::second(behind.at), known_to.display());
    let way_on = of_backup.as_ref().map_or_else(String::new, |of_backup| {
        let of_backup = of_backup.display();
        format!(
            " To go on without them, keep {known_to} elsewhere as proof, and put {of_backup} in its place."
        )
    });
    format!(
        "WARNING: {} events are missing that checkpoint {checkpoint} of {at} in {known_to} knows of: what was done since is \
         lost, and `keydesk audit verify` says so.{way_on}",
        behind.events
    )
}

/// How far it is: a bar for each step.
#[derive(Default)]
struct Bar(Option<(Step, ProgressBar)>);

impl Bar {
    fn show(&mut self, step: Step, done: u64, total: u64) {
        if self.0.as_ref().is_none_or(|(shown, _)| *shown != step) {
            self.end();
            let what = match step {
                Step::Copying => "rows copied",
                Step::Comparing => "rows compared",
                Step::Verifying => "events verified",
            };
            self.0 = Some((step, output::bar(what)));
        }
        if let Some((_, bar)) = &self.0 {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    fn end(&mut self) {
        if let Some((_, bar)) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}
