//! Which Keydesk this is: what a report about a fault should name.
//!
//! The version is the package's; the rest comes from `build.rs`, which leaves empty what it does not know.

use std::fmt;

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Iso8601};

/// How this program was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Build {
    /// The version of Keydesk.
    pub version: &'static str,
    /// The commit it was built from; only of a release build from a checkout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<&'static str>,
    /// The day of that commit, in UTC; not of the build, which changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// The compiler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rustc: Option<&'static str>,
    /// For which machines.
    pub target: &'static str,
    /// Whether all it needs of the system's libraries is in it.
    #[serde(rename = "static")]
    pub is_static: bool,
    /// Whether it was built with optimisation, for use.
    pub release: bool,
    /// The databases it can work on.
    pub engines: [&'static str; 2],
}

/// How this program was built.
pub fn build() -> Build {
    let known = |text: &'static str| Some(text).filter(|text| !text.is_empty());
    let day = |moment: OffsetDateTime| moment.date().format(&Iso8601::DATE).ok();
    let moment: Option<i64> = env!("KEYDESK_BUILD_EPOCH").parse().ok();
    Build {
        version: env!("CARGO_PKG_VERSION"),
        commit: known(env!("KEYDESK_BUILD_COMMIT")),
        date: moment.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()).and_then(day),
        rustc: known(env!("KEYDESK_BUILD_RUSTC")),
        target: env!("KEYDESK_BUILD_TARGET"),
        is_static: cfg!(target_feature = "crt-static"),
        release: !cfg!(debug_assertions),
        engines: ["sqlite", "postgres"],
    }
}

/// For people: the version, and a line for each thing that is known.
impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.version)?;
        writeln!(f, "commit:  {}", self.commit.unwrap_or("unknown"))?;
        writeln!(f, "date:    {}", self.date.as_deref().unwrap_or("unknown"))?;
        writeln!(f, "rustc:   {}", self.rustc.unwrap_or("unknown"))?;
        let linking = if self.is_static { "static" } else { "dynamic" };
        let profile = if self.release { "release" } else { "debug" };
        writeln!(f, "target:  {}, {linking}, {profile}", self.target)?;
        write!(f, "engines: {}", self.engines.join(", "))
    }
}
