//! Nouns and rules: what a principal, a grant, a token or an audit event *is*.
//!
//! Pure by design: no I/O, no async, no framework. Everything else may import the model and the model imports nothing of
//! the crate, so a rule stated here holds for HTTP, the command line and the store alike.

pub mod alarm;
pub mod audit;
pub mod caller;
pub mod chain;
pub mod clock;
pub mod entropy;
pub mod grant;
pub mod id;
pub mod name;
pub mod network;
pub mod page;
pub mod password;
pub mod principal;
pub mod provider;
pub mod rate;
pub mod scope;
pub mod token;

pub use alarm::{Alarm, Rule};
pub use audit::{Action, AuditEvent, Outcome};
pub use caller::{Caller, CredentialKind, Origin};
pub use chain::{Head, Mac};
pub use clock::{Clock, SystemClock, Timestamp};
pub use entropy::Entropy;
pub use grant::{Grant, Granted, Project};
pub use id::Id;
pub use name::{NameError, PrincipalName, ProfileName, ProjectName};
pub use network::{Network, Networks};
pub use page::{Listed, Page};
pub use password::PasswordPolicy;
pub use principal::{GrantType, Principal, PrincipalKind, Role};
pub use provider::Provider;
pub use rate::Rate;
pub use scope::{Scope, ScopeSet};
pub use token::{TokenDigest, TokenKind};
