//! What an operation can answer instead of its result: one enum for the whole desk.
//!
//! A variant says what the asker may know. Causes that name files, SQL or rows travel along for the log only. `http`
//! renders the variants twice: as RFC 6749 §5.2 at the OAuth endpoints and as RFC 9457 everywhere else.

use crate::{crypto::password::PoolError, model::Scope, store::StoreError};

/// Why an operation did not give its result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks a rule; the text says which, and never repeats what was sent.
    #[error("{0}")]
    Invalid(String),
    /// No credential was sent.
    #[error("no credential was sent")]
    CredentialMissing,
    /// The credential is unknown, expired, revoked or its owner disabled: not said which.
    #[error("the credential is not valid")]
    CredentialInvalid,
    /// The credential lacks a scope.
    #[error("the credential lacks the scope {}", .0.as_str())]
    InsufficientScope(Scope),
    /// The caller may not, whatever the credential's scopes.
    #[error("{0}")]
    Forbidden(String),
    /// It may not be done from where the request comes from.
    #[error("this is not allowed from your network")]
    Elsewhere,
    /// There is no such thing, as far as the caller may know.
    #[error("{0}")]
    NotFound(String),
    /// The state of things does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// RFC 6749 §5.2 `invalid_client`.
    #[error("client authentication failed")]
    InvalidClient,
    /// RFC 6749 §5.2 `invalid_grant`.
    #[error("the user name or password is not right")]
    InvalidGrant,
    /// The same of a refresh token.
    #[error("the refresh token is not valid, or not any more: log in again")]
    InvalidRefreshToken,
    /// RFC 6749 §5.2 `unauthorized_client`.
    #[error("this client may not use this grant type")]
    UnauthorizedClient,
    /// RFC 6749 §5.2 `unsupported_grant_type`.
    #[error("this grant type is not supported")]
    UnsupportedGrantType,
    /// RFC 6749 §5.2 `invalid_scope`.
    #[error("a scope is unknown or more than this principal may ask for")]
    InvalidScope,
    /// Too many attempts: come back after so many seconds.
    #[error("too many attempts; try again later")]
    TooMany {
        /// Seconds.
        retry_after: u64,
    },
    /// More requests than the limit allows: come back after so many seconds.
    #[error("you ask more often than you may; the RateLimit headers say how often that is")]
    RateLimited {
        /// Seconds.
        retry_after: u64,
    },
    /// What was to be changed is not what it was when it was read (RFC 9110 §13.1.1).
    #[error("it has changed since you read it; read it again and repeat the change")]
    Changed,
    /// Something that decides access changed between the decision and the handover: decide again.
    #[error("access was changed at this very moment; try again")]
    Stale,
    /// Too much to do at this moment.
    #[error("too many passwords are waiting to be checked; try again in a second")]
    Busy,
    /// The database or the book cannot be used at this moment.
    #[error("the desk cannot reach its database or write its book; nothing was handed over")]
    Unavailable(#[source] Cause),
    /// Something is wrong that only an operator can mend.
    #[error("the desk found something wrong with its own data")]
    Internal(#[source] Cause),
    /// The desk does not open: what is wrong and what to do. Seen only by the operator.
    #[error("{0}")]
    Refused(String),
}

/// What lies behind an error, for the log.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Error {
    /// A short word for the book.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid_request",
            Self::CredentialMissing => "credential_missing",
            Self::CredentialInvalid => "invalid_token",
            Self::InsufficientScope(_) => "insufficient_scope",
            Self::Forbidden(_) => "forbidden",
            Self::Elsewhere => super::networks::ELSEWHERE,
            Self::NotFound(_) => "not_found",
            Self::Conflict(_) => "conflict",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant | Self::InvalidRefreshToken => "invalid_grant",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope => "invalid_scope",
            Self::TooMany { .. } => "too_many_attempts",
            Self::RateLimited { .. } => "rate_limited",
            Self::Changed => "changed",
            Self::Stale => "stale",
            Self::Busy => "busy",
            Self::Unavailable(_) => "unavailable",
            Self::Internal(_) => "internal",
            Self::Refused(_) => "refused",
        }
    }

    /// The cause, for the log.
    pub fn cause(&self) -> Option<&(dyn std::error::Error + Send + Sync)> {
        match self {
            Self::Unavailable(cause) | Self::Internal(cause) => Some(&**cause),
            _ => None,
        }
    }

    /// An [`Error::Internal`] because of `cause`.
    pub(super) fn internal(cause: impl Into<Cause>) -> Self {
        Self::Internal(cause.into())
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists => Self::Conflict("it exists already".to_owned()),
            StoreError::InUse => Self::Conflict("something still refers to it".to_owned()),
            StoreError::Unavailable(_) => Self::Unavailable(error.into()),
            StoreError::Inconsistent { .. } | StoreError::Newer { .. } | StoreError::NotOurs(_) => {
                Self::internal(error)
            }
        }
    }
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Full => Self::Busy,
            PoolError::Broken => Self::Unavailable(error.into()),
        }
    }
}
