//! `keydesk audit`: the book.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use super::{audit_table, desk::Desk, failure::Failure, output};
use crate::{
    app::Report,
    model::{Action, Clock as _, Outcome, Page, SystemClock, Timestamp, audit::RecordedEvent},
    store::audit_events::Filter,
};
use clap::{Args, Subcommand, ValueEnum, builder::PossibleValuesParser};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List what happened, the newest first
    #[command(after_help = "Examples:
  keydesk audit list --principal alice --since 24h
  keydesk audit list --action llm_keys.read --limit 1000 --json")]
    List {
        /// How many at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        #[command(flatten)]
        which: Which,
    },
    /// Write out what happened, the oldest first, for other programs
    #[command(after_help = "Examples:
  keydesk audit export > book.jsonl
  keydesk audit export --format csv --since 2026-01-01T00:00:00Z --until 2026-02-01T00:00:00Z > january.csv")]
    Export {
        /// One JSON object a line, or a table for a spreadsheet
        #[arg(long, value_enum, default_value_t = Format::Jsonl)]
        format: Format,
        #[command(flatten)]
        which: Which,
    },
    /// Check that the book is whole: nothing changed, removed, inserted or moved
    ///
    /// Computes the whole chain again and holds it against the checkpoints. That the newest events, or the whole database
    /// with its checkpoint file, were replaced by older ones can only be seen with a copy of the checkpoints that was kept
    /// elsewhere. Names the first event that is wrong and exits with 1.
    #[command(after_help = "Examples:
  keydesk audit verify
  keydesk audit verify --checkpoints /mnt/elsewhere/audit.checkpoints")]
    Verify {
        /// A copy of the checkpoints, besides the file of the desk; may be given several times
        #[arg(long, value_name = "FILE")]
        checkpoints: Vec<PathBuf>,
    },
    /// Print the public key with which anybody can check the checkpoints' signatures, as a JWK
    #[command(after_help = "Example:\n  keydesk audit public-key > audit-key.jwk")]
    PublicKey,
}

/// Which events.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Only what this one did: a user, a service account, or os:NAME
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// Only this action, such as token.issue
    #[arg(long, value_parser = PossibleValuesParser::new(Action::NAMES), hide_possible_values = true)]
    action: Option<String>,
    /// Only what ended so
    #[arg(long, value_parser = outcome())]
    outcome: Option<String>,
    /// Only from then on: a length of time such as 24h, or a moment such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<When>,
    /// Only before then, said in the same ways
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<When>,
}

impl Which {
    fn filter(self) -> Filter {
        let now = SystemClock.now();
        Filter {
            actor: self.principal,
            action: self.action,
            outcome: self.outcome,
            since: self.since.map(|when| when.moment(now)),
            until: self.until.map(|when| when.moment(now)),
        }
    }
}

/// How an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One JSON object a line.
    Jsonl,
    /// RFC 4180, with a line of names.
    Csv,
}

/// A moment, as people say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// So long ago.
    Ago(Duration),
    /// That moment.
    Moment(Timestamp),
}

impl When {
    fn moment(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(duration) => {
                let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
                Timestamp::from_micros(now.micros().saturating_sub(micros))
            }
            Self::Moment(moment) => moment,
        }
    }
}

fn moment(text: &str) -> Result<When, String> {
    if let Ok(duration) = humantime::parse_duration(text) {
        return Ok(When::Ago(duration));
    }
    text.parse().map(When::Moment).map_err(|_| {
        "neither a length of time such as 24h nor a moment such as 2026-01-31T12:00:00Z".to_owned()
    })
}

fn outcome() -> PossibleValuesParser {
    PossibleValuesParser::new(Outcome::ALL.map(Outcome::as_str))
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { limit, which } => list(desk, limit, which).await,
        Command::Export { format, which } => export(desk, format, which).await,
        Command::Verify { checkpoints } => verify(desk, &checkpoints).await,
        Command::PublicKey => desk.out.text(format!("{:#}", desk.app.checkpoint_key())),
    }
}

async fn list(desk: &Desk, limit: u32, which: Which) -> Result<(), Failure> {
    let page = Page { limit: i64::from(limit), after: None };
    let events = desk.app.audit_events(&desk.caller, which.filter(), &page).await?.items;
    desk.out.list(&events, ["time (utc)", "outcome", "actor", "action", "object"], |event| {
        [
            output::second(event.at),
            event.outcome.clone(),
            event.actor.clone(),
            event.action.clone(),
            details(event),
        ]
    })
}

/// To what, which version, and why not.
fn details(event: &RecordedEvent) -> String {
    let reason = event.reason.as_ref().map(|reason| format!("({reason})"));
    let parts = [event.object.clone(), event.version.clone(), event.detail.clone(), reason];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

async fn export(desk: &Desk, format: Format, which: Which) -> Result<(), Failure> {
    let out = io::BufWriter::new(io::stdout().lock());
    let mut export = desk.app.export_events(&desk.caller, which.filter()).await?;
    match format {
        Format::Jsonl => {
            let mut out = out;
            while let Some(events) = export.next().await? {
                for event in &events {
                    serde_json::to_writer(&mut out, event)
                        .map_err(io::Error::from)
                        .map_err(Failure::Output)?;
                    out.write_all(b"\n").map_err(Failure::Output)?;
                }
            }
            out.flush().map_err(Failure::Output)
        }
        Format::Csv => {
            let mut table = csv::Writer::from_writer(out);
            let written = |result: csv::Result<()>| result.map_err(|error| Failure::Output(error.into()));
            written(table.write_record(audit_table::COLUMNS))?;
            while let Some(events) = export.next().await? {
                for event in &events {
                    written(table.write_record(audit_table::cells(event)))?;
                }
            }
            table.flush().map_err(Failure::Output)
        }
    }
}

async fn verify(desk: &Desk, files: &[PathBuf]) -> Result<(), Failure> {
    let bar = output::bar("events");
    let report = desk.app.verify_book(&desk.caller, files, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    let report = report.await;
    bar.finish_and_clear();
    let report = report?;
    let Some(first) = report.faults.first() else {
        return desk.out.object(&report, praise(&report));
    };
    if desk.out.is_json() {
        desk.out.object(&report, "")?;
    }
    let others = report.faults.len() as u64 - 1 + report.more;
    let others = match others {
        0 => String::new(),
        1 => "; one thing more is wrong, see --json".to_owned(),
        others => format!("; {others} things more are wrong, see --json"),
    };
    Err(Failure::Failed(format!("the book is not whole: {first}{others}")))
}

/// What can be said of a book in which nothing is wrong, and what cannot.
pub(super) fn praise(report: &Report) -> String {
    let mut lines =
        vec![format!("the book is whole: {} events in {} streams", report.events, report.streams)];
    if report.pruned > 0 {
        let pruned = report.pruned;
        lines.push(format!("{pruned} older events were removed by audit.retention, as signed records say"));
    }
    if report.unprotected > 0 {
        let old = report.unprotected;
        lines.push(format!("{old} events are older than the chain: nothing can be said of them"));
    }
    lines.push(match (report.checkpoint, report.checkpoint_at) {
        (Some(seq), Some(at)) => {
            let at = output::second(Timestamp::from_micros(at.saturating_mul(1_000_000)));
            format!("it goes on from checkpoint {seq} of {at}")
        }
        _ => "there is no checkpoint: that the newest events were removed would not be seen".to_owned(),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_length_of_time_or_a_moment() {
        let now = Timestamp::from_micros(100_000_000);
        assert_eq!(moment("90s").unwrap().moment(now), Timestamp::from_micros(10_000_000));
        assert_eq!(
            moment("1970-01-01T01:00:07+01:00").unwrap().moment(now),
            Timestamp::from_micros(7_000_000)
        );
        assert!(moment("1000000000 years").map_or(true, |when| when.moment(now).micros() < 0));
        for bad in ["", "yesterday", "2026-01-31", "-5h"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }
}
