//! Scopes: what an access token may do (RFC 6749 §3.3).

use std::{fmt, str::FromStr};

/// One scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Fetch the provider keys the principal is granted.
    LlmKeysRead,
    /// Set and delete provider keys.
    LlmKeysWrite,
    /// Read the book.
    AuditRead,
    /// Administer principals, projects and grants.
    Admin,
    /// Change one's own one-time password, and nothing else. Cannot be asked for: it is what such a password gives.
    PasswordChange,
}

impl Scope {
    /// Every scope that can be asked for, in the order in which they are listed to people.
    pub const ALL: [Self; 4] = [Self::LlmKeysRead, Self::LlmKeysWrite, Self::AuditRead, Self::Admin];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LlmKeysRead => "llm-keys:read",
            Self::LlmKeysWrite => "llm-keys:write",
            Self::AuditRead => "audit:read",
            Self::Admin => "admin",
            Self::PasswordChange => "password:change",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A text that names no scope we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope")]
pub struct UnknownScope;

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeSet(u8);

impl ScopeSet {
    /// The set of these scopes.
    pub fn of(scopes: &[Scope]) -> Self {
        Self(scopes.iter().fold(0, |set, scope| set | scope.bit()))
    }

    /// Every scope there is.
    pub fn all() -> Self {
        Self::of(&Scope::ALL)
    }

    /// Whether `scope` is in the set.
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// This set and one scope more.
    #[must_use]
    pub fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// The scopes that are in both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether every scope of this set is also in `other`.
    pub fn is_subset_of(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

/// Serialises a set as its space-separated text.
pub fn as_text<S: serde::Serializer>(scopes: &ScopeSet, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(scopes)
}

/// Space-separated, in a fixed order.
impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Scope::ALL
            .into_iter()
            .chain([Scope::PasswordChange])
            .filter(|s| self.contains(*s))
            .map(Scope::as_str)
            .collect();
        f.write_str(&names.join(" "))
    }
}

/// Space-separated scope names (RFC 6749 §3.3); any other separator, or an unknown name, is refused.
impl ScopeSet {
    /// The scopes of a token that we issued: those that can be asked for, or the one that a one-time password gives.
    pub fn of_token(text: &str) -> Result<Self, UnknownScope> {
        if text == Scope::PasswordChange.as_str() {
            Ok(Self::of(&[Scope::PasswordChange]))
        } else {
            text.parse()
        }
    }
}

impl FromStr for ScopeSet {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        text.split(' ').try_fold(Self::default(), |set, name| {
            let scope = Scope::ALL.into_iter().find(|scope| scope.as_str() == name).ok_or(UnknownScope)?;
            Ok(Self(set.0 | scope.bit()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_separated_by_single_spaces_are_scopes() {
        let set: ScopeSet = "admin llm-keys:read".parse().unwrap();
        assert_eq!(set.to_string(), "llm-keys:read admin");
        for bad in ["*", "Admin", "admin ", "admin  llm-keys:read", "admin\tllm-keys:read", "аdmin"] {
            assert!(bad.parse::<ScopeSet>().is_err(), "{bad:?}");
        }
    }
}
