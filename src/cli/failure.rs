//! How a command fails: one clear line on standard error, and an exit code.

use std::{error::Error as StdError, fmt, io, process::ExitCode};

use std::io::Write as _;

use crate::{
    app,
    client::{self, Kind},
    config, telemetry,
};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was asked in a way that cannot be understood: exit code 2.
    Usage(String),
    /// It failed: exit code 1.
    Failed(String),
    /// A desk elsewhere did not give what was asked for: an exit code that says what there is to do.
    AtDesk(client::Error),
    /// Nobody reads what it prints.
    Output(io::Error),
    /// It ended with this exit code, and a line if there is something left to say.
    Ended { line: Option<String>, code: u8 },
}

impl Failure {
    /// `what` failed because of `error`.
    pub(super) fn because(what: impl fmt::Display, error: &(dyn StdError + 'static)) -> Self {
        Self::Failed(format!("{what}: {}", chain(error)))
    }

    /// Says so and tells the exit code.
    pub(super) fn report(self) -> ExitCode {
        let Some((line, code)) = self.said() else { return ExitCode::SUCCESS };
        if let Some(line) = line {
            let _ = writeln!(io::stderr(), "keydesk: {}", one_line(&line));
        }
        ExitCode::from(code)
    }

    /// The same failure with this exit code, unless it says itself which.
    pub(super) fn with_code(self, code: u8) -> Self {
        match self {
            Self::Ended { .. } => self,
            _ => Self::Ended { line: self.said().and_then(|(line, _)| line), code },
        }
    }

    /// The line and the exit code, if there is anything to say.
    fn said(self) -> Option<(Option<String>, u8)> {
        let (line, code) = match self {
            // As with any program whose reader has seen enough: `keydesk audit list | head`.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return None,
            Self::Output(error) => (format!("cannot write to standard output: {error}"), 1),
            Self::Usage(line) => (line, 2),
            Self::Failed(line) => (line, 1),
            Self::AtDesk(error) => (error.what, exit_code(error.kind)),
            Self::Ended { line, code } => return Some((line, code)),
        };
        Some((Some(line), code))
    }
}

/// What programs go by that call `keydesk get` and its like; its help says it to people.
fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Failed => 1,
        Kind::LogIn => 3,
        Kind::Refused => 4,
        Kind::Busy | Kind::Away => 5,
    }
}

/// An error and what lies behind it. A cause that the text before it has already told is left out.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
        cause = error.source();
    }
    told
}

/// Without control characters, which a terminal would obey.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl From<app::Error> for Failure {
    fn from(error: app::Error) -> Self {
        Self::Failed(chain(&error))
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        Self::AtDesk(error)
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<telemetry::Error> for Failure {
    fn from(error: telemetry::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
