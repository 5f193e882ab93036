//! `keydesk audit`: the book.

use std::time::Duration;

use super::{desk::Desk, failure::Failure, output};
use crate::{
    model::{Clock as _, Outcome, Page, SystemClock, Timestamp, audit::RecordedEvent},
    store::audit_events::Filter,
};
use clap::{Subcommand, builder::PossibleValuesParser};

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
        /// Only what this one did: a user, a service account, or os:NAME
        #[arg(long, value_name = "NAME")]
        principal: Option<String>,
        /// Only this action, such as token.issue
        #[arg(long)]
        action: Option<String>,
        /// Only what ended so
        #[arg(long, value_parser = outcome())]
        outcome: Option<String>,
        /// Only from then on: a length of time such as 24h, or a moment such as 2026-01-31T12:00:00Z
        #[arg(long, value_name = "WHEN", value_parser = since)]
        since: Option<Since>,
    },
}

/// From when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// So long ago.
    Ago(Duration),
    /// That moment.
    Moment(Timestamp),
}

impl Since {
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

fn since(text: &str) -> Result<Since, String> {
    if let Ok(duration) = humantime::parse_duration(text) {
        return Ok(Since::Ago(duration));
    }
    text.parse().map(Since::Moment).map_err(|_| {
        "neither a length of time such as 24h nor a moment such as 2026-01-31T12:00:00Z".to_owned()
    })
}

fn outcome() -> PossibleValuesParser {
    PossibleValuesParser::new(Outcome::ALL.map(Outcome::as_str))
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<(), Failure> {
    let Command::List { limit, principal, action, outcome, since } = command;
    let since = since.map(|since| since.moment(SystemClock.now()));
    let filter = Filter { actor: principal, action, outcome, since, until: None };
    let page = Page { limit: i64::from(limit), after: None };
    let events = desk.app.audit_events(&desk.caller, filter, &page).await?.items;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_length_of_time_or_a_moment() {
        let now = Timestamp::from_micros(100_000_000);
        assert_eq!(since("90s").unwrap().moment(now), Timestamp::from_micros(10_000_000));
        assert_eq!(
            since("1970-01-01T01:00:07+01:00").unwrap().moment(now),
            Timestamp::from_micros(7_000_000)
        );
        assert!(since("1000000000 years").map_or(true, |since| since.moment(now).micros() < 0));
        for bad in ["", "yesterday", "2026-01-31", "-5h"] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }
}
