//! Names of principals and projects: one grammar, canonicalised once.
//!
//! Names are ASCII `[a-z0-9][a-z0-9._@-]{0,62}`; upper case is folded at the door, everything else is refused. Unicode
//! look-alikes, wildcards, slashes and white space can therefore neither collide with an existing name nor widen a grant.

use std::{fmt, str::FromStr};

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name has 1 to 63 characters out of a-z, 0-9, '.', '_', '-' and '@', and starts with a letter or digit"
)]
pub struct NameError;

/// The canonical form of `text`, or why it has none.
pub(super) fn canonical(text: &str, extra: &[u8]) -> Result<String, NameError> {
    let name = text.to_ascii_lowercase();
    let starts_well = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || extra.contains(&b);
    if starts_well && name.len() <= 63 && name.bytes().all(allowed) { Ok(name) } else { Err(NameError) }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $extra:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The canonical text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                canonical(text, $extra).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of a user or service account; a service account's name is its OAuth `client_id`.
    PrincipalName, b"._@-"
);
name_type!(
    /// The name of a project.
    ProjectName, b"._-"
);
name_type!(
    /// The name by which somebody's machine knows a desk, and who they are there; a part of file names.
    ProfileName, b"._-"
);

impl ProjectName {
    /// The project that exists from the start.
    pub fn default_project() -> Self {
        Self("default".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_case_is_folded_and_everything_odd_is_refused() {
        assert_eq!("Alice@Example.com".parse::<PrincipalName>().unwrap().as_str(), "alice@example.com");
        for bad in [
            "",
            " alice",
            "alice ",
            "al ice",
            "a/b",
            "*",
            "a*",
            "a,b",
            "ａlice",
            "\u{212a}im",
            "alice\u{200b}",
            "ı",
        ] {
            assert_eq!(bad.parse::<PrincipalName>(), Err(NameError), "{bad:?}");
        }
        assert!("a".repeat(63).parse::<ProjectName>().is_ok());
        assert!("a".repeat(64).parse::<ProjectName>().is_err());
    }
}
