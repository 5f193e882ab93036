//! Who can ask for keys: users (people, with a password) and service accounts (machines, with secrets and API keys).

use std::{collections::BTreeSet, fmt, str::FromStr};

use super::{Id, Networks, PrincipalName, Scope, ScopeSet, Timestamp};

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
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::User, Self::ServiceAccount];

    /// The name in the database and in the book.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ServiceAccount => "service_account",
        }
    }

    /// The grant types a principal of this kind can ever use; the ones it may use unless it is said otherwise.
    pub fn grant_types(self) -> BTreeSet<GrantType> {
        match self {
            Self::User => BTreeSet::from([GrantType::Password, GrantType::RefreshToken]),
            Self::ServiceAccount => BTreeSet::from([GrantType::ClientCredentials]),
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

impl fmt::Display for PrincipalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PrincipalKind {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(UnknownWord)
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

impl ScopeSet {
    /// What of these scopes a principal of `role` has today. Everybody may change their own password.
    #[must_use]
    pub fn within(self, role: Role) -> Self {
        self.intersection(role.scopes().with(Scope::PasswordChange))
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

/// A way to an access token (RFC 6749 §1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// A user name and password (§4.3).
    Password,
    /// A client's own credentials (§4.4).
    ClientCredentials,
    /// A refresh token (§6).
    RefreshToken,
}

impl GrantType {
    /// Every grant type of the token endpoint.
    pub const ALL: [Self; 3] = [Self::Password, Self::ClientCredentials, Self::RefreshToken];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::ClientCredentials => "client_credentials",
            Self::RefreshToken => "refresh_token",
        }
    }
}

impl fmt::Display for GrantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for GrantType {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|grant| grant.as_str() == text).ok_or(UnknownWord)
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
    /// The grant types it may use at the token endpoint.
    pub grant_types: BTreeSet<GrantType>,
    /// From where its credentials may be used.
    pub networks: Networks,
    /// Since when it is shut out; `None` while enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Grows with every change: what `If-Match` compares.
    pub version: i64,
}

impl Principal {
    /// A new, enabled principal with the usual grant types.
    pub fn new(id: Id, kind: PrincipalKind, name: PrincipalName, role: Role, created_at: Timestamp) -> Self {
        Self {
            id,
            kind,
            name,
            role,
            grant_types: kind.grant_types(),
            networks: Networks::ANYWHERE,
            disabled_at: None,
            created_at,
            version: 1,
        }
    }

    /// Whether it may do anything at all.
    pub fn is_enabled(&self) -> bool {
        self.disabled_at.is_none()
    }
}
