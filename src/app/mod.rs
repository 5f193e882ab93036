//! The operations of the desk: what anybody can ask for, over HTTP or at the command line.
//!
//! Each operation takes the [`Caller`] first, authorises, works, and writes its audit event in the same transaction as
//! its change; a key read is in the book before the key leaves. There is no other way to a key or a change, so these
//! rules hold whoever calls. Whether somebody may do something is decided here and in [`crate::model`], nowhere else.

pub mod alarms;
pub mod api_keys;
mod audit;
mod authenticate;
pub mod backup;
mod book;
pub mod change;
pub mod client;
pub mod desk;
pub mod disk;
mod error;
pub mod grants;
pub mod health;
pub mod import;
pub mod kek;
pub mod limits;
pub mod llm_keys;
mod login;
mod networks;
mod observe;
pub mod outbox;
pub mod principals;
pub mod projects;
pub mod provider_keys;
pub mod revocation;
pub mod service_accounts;
pub mod session;
mod shed;
pub mod signing_keys;
mod throttle;
pub mod token;
mod upkeep;
pub mod users;
mod view;
pub mod vital;

use std::{
    collections::HashMap,
    net::IpAddr,
    str::FromStr,
    sync::{Arc, Mutex},
    time::Duration,
};

pub use authenticate::Presented;
pub use book::{Behind, Fault, Kind as FaultKind, Report};
pub use error::{Cause, Error};

pub use crate::store::{Held, audit_events::Filter as AuditFilter};

use crate::{
    crypto::{jwt::Algorithm, keyring::Keyring, password::PasswordPool},
    metrics::Metrics,
    model::{
        Action, AuditEvent, Caller, Clock, Entropy, Id, Network, Networks, Page, PasswordPolicy, Scope,
        Timestamp,
    },
    store::Store,
};

/// How often a request is decided, because access was changed in the middle of it, before it is told to come back.
pub const MOST_DECISIONS: usize = 10;
/// After how many decisions it holds back the changes of this process until one stands: where there is always another change,
/// nobody would get a key.
const FREE_DECISIONS: usize = 3;

/// What an operator decides about the operations.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The issuer identifier (RFC 8414 §2), never taken from a request.
    pub issuer: String,
    /// The audience of access tokens.
    pub audience: String,
    /// How long an access token lives.
    pub access_ttl: Duration,
    /// For how long a session lasts without being used.
    pub refresh_idle: Duration,
    /// For how long a session lasts in any case.
    pub refresh_absolute: Duration,
    /// What new access tokens are signed with, and the only algorithm accepted.
    pub algorithm: Algorithm,
    /// Whether users may log in with a password at the token endpoint.
    pub password_enabled: bool,
    /// What may be a password.
    pub password_policy: PasswordPolicy,
    /// How the book is kept.
    pub audit: AuditSettings,
    /// Proxies whose word is taken for where a client is.
    pub trusted_proxies: Vec<Network>,
    /// From where the desk answers at all.
    pub allow_from: Networks,
    /// From where it can be administered.
    pub admin_allow_from: Networks,
    /// Where there is somebody to send messages to.
    pub destinations: Vec<outbox::Destination>,
    /// How often somebody may ask.
    pub limits: limits::Limits,
}

impl Settings {
    /// Whether what a proxy at `address` says of its client is believed.
    pub fn trusts_proxy(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains_address(address))
    }
}

/// How the book is kept.
#[derive(Clone, Debug)]
pub struct AuditSettings {
    /// Where checkpoints are written to.
    pub checkpoint_file: std::path::PathBuf,
    /// For how long events are kept; `None`: for ever.
    pub retention: Option<Duration>,
}

/// Where time and randomness come from.
#[derive(Clone)]
pub struct Surroundings {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// An open desk.
pub struct App {
    store: Store,
    keyring: Keyring,
    keks: kek::Held,
    signing_keys: signing_keys::Ring,
    passwords: PasswordPool,
    turns: throttle::Turns,
    shed: shed::Shed,
    views: view::Views,
    /// When API keys were used last, until it is written down.
    uses: Mutex<HashMap<Id, Timestamp>>,
    limits: limits::Limiters,
    book: book::Book,
    unwritten: alarms::Unwritten,
    filing: book::Filing,
    surroundings: Surroundings,
    settings: Settings,
    health: health::Health,
    metrics: Metrics,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("App")
    }
}

impl App {
    /// The present moment, as this desk sees it.
    pub fn now(&self) -> Timestamp {
        self.surroundings.clock.now()
    }

    fn new_id(&self) -> Id {
        self.surroundings.new_id()
    }

    /// An identifier under which a request is logged, answered and written in the book.
    pub fn new_request_id(&self) -> String {
        format!("req_{}", self.new_id())
    }

    /// What a request keeps for its next decisions after so many that no longer stood when they were written down. A change that
    /// is under way already can still be among them.
    pub async fn decide_after(&self, decisions: usize) -> Result<Option<Held>, Error> {
        if decisions < FREE_DECISIONS { Ok(None) } else { Ok(Some(self.store.hold_changes().await?)) }
    }

    /// The settings, as far as clients may know them.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Refuses, and writes down the refusal, unless the caller's credential carries `scope` and may use it where it is.
    async fn authorise(&self, caller: &Caller, scope: Scope, event: &AuditEvent) -> Result<(), Error> {
        let error = if !self.may_use_here(caller, scope) {
            Error::Elsewhere
        } else if !caller.may(scope) {
            Error::InsufficientScope(scope)
        } else {
            return Ok(());
        };
        self.book.record(event.clone().denied(error.code())).await?;
        Err(error)
    }

    /// The same for what only reads, or has work to do before its change begins.
    async fn require(
        &self,
        caller: &Caller,
        scope: Scope,
        action: Action,
        object: impl Into<String>,
    ) -> Result<(), Error> {
        self.authorise(caller, scope, &AuditEvent::by(caller, action).on(object)).await
    }

    /// A name or identifier out of an address. A text that can be none is answered like one that nothing has, and only
    /// to those who may know what there is.
    pub async fn named<T: FromStr>(
        &self,
        caller: &Caller,
        scope: Scope,
        action: Action,
        text: &str,
    ) -> Result<T, Error> {
        if let Ok(name) = text.parse() {
            return Ok(name);
        }
        self.require(caller, scope, action, "malformed").await?;
        Err(Error::NotFound("there is nothing of that name".to_owned()))
    }

    /// The server starts or stops: worth a line, because a gap in the book should have a reason.
    pub async fn record_lifecycle(&self, caller: &Caller, action: Action) -> Result<(), Error> {
        self.book.record(AuditEvent::by(caller, action)).await
    }

    /// Waits for what is being written and closes the database.
    pub async fn close(&self) {
        if let Err(error) = self.record_uses().await {
            tracing::warn!(%error, "could not remember which API keys were used");
        }
        self.store.close().await;
    }
}

impl Surroundings {
    fn new_id(&self) -> Id {
        Id::generate(self.clock.now(), &*self.entropy)
    }
}

/// Where a page of a list begins.
fn after<T: FromStr>(page: &Page) -> Result<Option<T>, Error> {
    let after = page.after.as_deref().map(str::parse).transpose();
    after.map_err(|_| Error::Invalid("`after` is not from this list".to_owned()))
}

/// The same in a list that is sorted by two names.
fn after_pair(page: &Page) -> Result<Option<(String, String)>, Error> {
    let pair = |text: &String| text.split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned()));
    match page.after.as_ref().map(pair) {
        Some(None) => Err(Error::Invalid("`after` is not from this list".to_owned())),
        found => Ok(found.flatten()),
    }
}

/// A short text that changes with `bytes`, for entity tags of things that are not secret.
pub fn fingerprint(bytes: &[u8]) -> String {
    hex(&crate::crypto::sha256(bytes)[..16])
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    bytes.iter().flat_map(digits).map(char::from).collect()
}
