//! The book: one event for everything that was asked, handed over, refused or changed.
//!
//! An event says who (`actor`, through which client, proven by what), did what (`action`) to what (`object`, which
//! version), from where, and how it ended. It never holds a secret; a name that nobody has is recorded as a keyed digest,
//! because people type passwords into the wrong field.

mod recorded;

use std::{fmt, str::FromStr};

pub use recorded::{Position, RecordedEvent};

use super::{Caller, CredentialKind, Id, Origin, Principal, PrincipalKind, principal::UnknownWord};

/// Each action once: what it means and its name in the book.
macro_rules! actions {
    ($($(#[$meaning:meta])+ $action:ident => $name:literal,)+) => {
        /// What was done: `noun.verb`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Action {
            $($(#[$meaning])+ $action,)+
        }

        impl Action {
            /// The names of all.
            pub const NAMES: &[&str] = &[$($name),+];

            /// The name in the book.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$action => $name,)+
                }
            }
        }
    };
}

actions! {
    /// The desk was made: first start.
    DeskInitialise => "desk.initialise",
    /// The desk was copied into a file.
    DeskBackup => "desk.backup",
    /// The desk was made from such a file.
    DeskRestore => "desk.restore",
    /// The desk was moved into another database.
    DeskMigrate => "desk.migrate",
    /// The server started.
    ServerStart => "server.start",
    /// The server stopped in good order.
    ServerStop => "server.stop",
    /// After a failure, the book was tried, and could be written again.
    BookProbe => "book.probe",
    /// A request came from where none is answered, or from nobody knows where.
    RequestAdmit => "request.admit",
    /// An access token was asked for.
    TokenIssue => "token.issue",
    /// A refresh token was exchanged for its successor.
    TokenRefresh => "token.refresh",
    /// A spent refresh token came back: somebody has a copy.
    RefreshTokenReuse => "refresh_token.reuse",
    /// A token was revoked.
    TokenRevoke => "token.revoke",
    /// A token was asked about.
    TokenIntrospect => "token.introspect",
    /// A login was ended.
    SessionRevoke => "session.revoke",
    /// A credential was shown on a request.
    CredentialVerify => "credential.verify",
    /// Provider keys were asked for.
    LlmKeysRead => "llm_keys.read",
    /// A principal looked at what is its own.
    OwnRead => "own.read",
    /// What administrators administer was looked at.
    AdminRead => "admin.read",
    /// The book was looked into.
    AuditRead => "audit.read",
    /// The book was exported.
    AuditExport => "audit.export",
    /// It was checked whether the book is whole.
    AuditVerify => "audit.verify",
    /// Old events were removed from the book.
    AuditPrune => "audit.prune",
    /// A user was made.
    UserCreate => "user.create",
    /// A user's password was set.
    UserSetPassword => "user.set_password",
    /// A user's failed attempts were forgotten.
    UserUnlock => "user.unlock",
    /// A password hash was made anew with today's parameters.
    UserRehashPassword => "user.rehash_password",
    /// A user or service account was changed.
    PrincipalUpdate => "principal.update",
    /// A user or service account was shut out.
    PrincipalDisable => "principal.disable",
    /// A user or service account was let in again.
    PrincipalEnable => "principal.enable",
    /// A user or service account was deleted.
    PrincipalDelete => "principal.delete",
    /// A service account was made.
    ServiceAccountCreate => "service_account.create",
    /// A service account's client secret was rotated.
    ClientSecretRotate => "client_secret.rotate",
    /// An API key was made.
    ApiKeyIssue => "api_key.issue",
    /// An API key was revoked.
    ApiKeyRevoke => "api_key.revoke",
    /// A project was made.
    ProjectCreate => "project.create",
    /// A project was deleted.
    ProjectDelete => "project.delete",
    /// A grant was made or changed.
    GrantSet => "grant.set",
    /// A grant was removed.
    GrantRemove => "grant.remove",
    /// A provider key got a new version.
    ProviderKeySet => "provider_key.set",
    /// A provider key was deleted.
    ProviderKeyDelete => "provider_key.delete",
    /// A signing key was made.
    SigningKeyCreate => "signing_key.create",
    /// A signing key was declared compromised.
    SigningKeyRevoke => "signing_key.revoke",
    /// A data key was wrapped by another key-encryption key.
    DataKeyRewrap => "data_key.rewrap",
    /// A rule found something that somebody should hear of.
    AlarmRaise => "alarm.raise",
    /// A message to a webhook could not be delivered, and is not tried again.
    WebhookGiveUp => "webhook.give_up",
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Allowed,
    /// The asker may not, or did not prove who they are.
    Denied,
    /// It could not be done, for example because the thing does not exist.
    Failed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 3] = [Self::Allowed, Self::Denied, Self::Failed];

    /// The name in the book.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Outcome {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text).ok_or(UnknownWord)
    }
}

/// An event on its way into the book.
#[derive(Clone, Debug)]
pub struct AuditEvent {
    /// What was done.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was refused or failed, for the reader of the book; the asker may have been told less.
    pub reason: Option<String>,
    /// To what: `user:alice`, `project:default`, `provider_key:default/openai`.
    pub object: Option<String>,
    /// Which version or versions: `3`, or `anthropic=1 openai=3`.
    pub version: Option<String>,
    /// What more there is to say: scopes, a role, what a grant covers.
    pub detail: Option<String>,
    /// Who asked: identifier and kind, where the asker is a principal.
    pub principal: Option<(Id, PrincipalKind)>,
    /// Who asked: the name.
    pub actor: String,
    /// The OAuth client through which it was asked.
    pub client_id: Option<String>,
    /// What was shown to prove it.
    pub credential: Option<&'static str>,
    /// The peer's address, or `local`.
    pub source: String,
    /// The request's identifier.
    pub request_id: String,
}

impl AuditEvent {
    /// `caller` did `action`.
    pub fn by(caller: &Caller, action: Action) -> Self {
        Self {
            action,
            outcome: Outcome::Allowed,
            reason: None,
            object: None,
            version: None,
            detail: None,
            principal: caller.principal,
            actor: caller.name.clone(),
            client_id: caller.client_id.clone(),
            credential: Some(caller.credential.as_str()),
            source: caller.origin.source.clone(),
            request_id: caller.origin.request_id.clone(),
        }
    }

    /// Somebody, not known yet, did `action`.
    pub fn anonymous(origin: &Origin, action: Action) -> Self {
        Self {
            action,
            outcome: Outcome::Allowed,
            reason: None,
            object: None,
            version: None,
            detail: None,
            principal: None,
            actor: "anonymous".to_owned(),
            client_id: None,
            credential: None,
            source: origin.source.clone(),
            request_id: origin.request_id.clone(),
        }
    }

    /// The desk did `action` by itself.
    pub fn by_desk(origin: &Origin, action: Action) -> Self {
        Self { actor: "keydesk".to_owned(), ..Self::anonymous(origin, action) }
    }

    /// From here on the asker is known to be, or to claim to be, `principal`.
    pub fn is_by(&mut self, principal: &Principal, credential: CredentialKind) {
        self.principal = Some((principal.id, principal.kind));
        self.actor = principal.name.to_string();
        self.credential = Some(credential.as_str());
    }

    /// Remembers why, and passes `error` on: the book is told more than the asker.
    pub fn because<E>(&mut self, reason: &str, error: E) -> E {
        self.reason = Some(reason.to_owned());
        error
    }

    /// The same event, done to `object`.
    #[must_use]
    pub fn on(mut self, object: impl Into<String>) -> Self {
        self.object = Some(object.into());
        self
    }

    /// The same event, about `version` of the object.
    #[must_use]
    pub fn version(mut self, version: impl std::fmt::Display) -> Self {
        self.version = Some(version.to_string());
        self
    }

    /// The same event, with more to say.
    #[must_use]
    pub fn detail(mut self, detail: impl std::fmt::Display) -> Self {
        self.detail = Some(detail.to_string());
        self
    }

    /// The same event, refused because of `reason`.
    #[must_use]
    pub fn denied(mut self, reason: impl Into<String>) -> Self {
        self.outcome = Outcome::Denied;
        self.reason = Some(reason.into());
        self
    }

    /// The same event, which could not be done because of `reason`.
    #[must_use]
    pub fn failed(mut self, reason: impl Into<String>) -> Self {
        self.outcome = Outcome::Failed;
        self.reason = Some(reason.into());
        self
    }
}
