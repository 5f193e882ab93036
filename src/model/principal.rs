//! Who can ask for keys: users (people, with a password) and service accounts (machines, with secrets and API keys).

use std::{fmt, str::FromStr};

use super::{Id, PrincipalName, Scope, ScopeSet, Timestamp};

/// Person or machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    /// A person, who proves who they are with a password.
    User,
    /// A machine, which proves what it is with a client secret or an API key.
    ServiceAccount,
}

impl PrincipalKind {
    /// The name in the database and in the book.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ServiceAccount => "service_account",
        }
    }

    /// For sentences.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ServiceAccount => "service account",
        }
    }
}

impl FromStr for PrincipalKind {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        [Self::User, Self::ServiceAccount].into_iter().find(|kind| kind.as_str() == text).ok_or(UnknownWord)
    }
}

/// What a principal may ask for at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Fetches keys.
    Member,
    /// Fetches keys and reads the book.
    Auditor,
    /// Everything.
    Admin,
}

impl Role {
    /// Every role, the least powerful first.
    pub const ALL: [Self; 3] = [Self::Member, Self::Auditor, Self::Admin];

    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }

    /// The scopes a principal of this role may ask for.
    pub fn scopes(self) -> ScopeSet {
        match self {
            Self::Member => ScopeSet::of(&[Scope::LlmKeysRead]),
            Self::Auditor => ScopeSet::of(&[Scope::LlmKeysRead, Scope::AuditRead]),
            Self::Admin => ScopeSet::all(),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownWord)
    }
}

/// A word outside its closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of the allowed words")]
pub struct UnknownWord;

/// A user or service account.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Principal {
    /// Its identifier, the `sub` of its access tokens.
    pub id: Id,
    /// Person or machine.
    pub kind: PrincipalKind,
    /// Its unique name; for a service account also the OAuth `client_id`.
    pub name: PrincipalName,
    /// What it may ask for at most.
    pub role: Role,
    /// Since when it is shut out; `None` while enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Principal {
    /// Whether it may do anything at all.
    pub fn is_enabled(&self) -> bool {
        self.disabled_at.is_none()
    }
}
