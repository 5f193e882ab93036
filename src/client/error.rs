//! How a client's request ends when it does not end well: told apart by what there is to do about it.

use std::fmt;

use reqwest::StatusCode;

/// One line for the person or the log, and what kind of failure it is. Never a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    /// What there is to do about it.
    pub kind: Kind,
    /// What happened, and the way out.
    pub what: String,
    /// With what status the desk itself said no, in the form in which a desk does; `None` if it was anybody else.
    pub refusal: Option<StatusCode>,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Look at what it says: a setting, a file, an answer that makes no sense.
    Failed,
    /// Log in again, or get another credential.
    LogIn,
    /// Ask for a grant, or for something else: the desk said no.
    Refused,
    /// Try again: there are too many requests.
    Busy,
    /// Try again: the desk cannot be reached, or is not well.
    Away,
}

impl Error {
    /// A failure that nobody at the desk has spoken of.
    pub fn new(kind: Kind, what: impl fmt::Display) -> Self {
        Self { kind, what: what.to_string(), refusal: None }
    }

    /// The desk itself said it.
    pub(super) fn said_with(self, status: StatusCode) -> Self {
        Self { refusal: Some(status), ..self }
    }

    pub(super) fn failed(what: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, what)
    }

    pub(super) fn log_in(what: impl fmt::Display) -> Self {
        Self::new(Kind::LogIn, what)
    }
}
