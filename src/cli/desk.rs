//! The desk as the command line sees it: found through the configuration, opened for the operating system's user.

use std::sync::Arc;

use super::{failure::Failure, output::Output};
use crate::{
    app::{App, AuditSettings, Settings, Surroundings, desk::Location},
    config::Config,
    crypto::SystemEntropy,
    model::{Caller, Clock as _, Id, SystemClock},
};

/// An open desk, who works at it, and where the results go.
pub(super) struct Desk {
    pub(super) app: App,
    pub(super) caller: Caller,
    pub(super) out: Output,
}

impl Desk {
    /// Opens the desk that is there. It may be served at the same time.
    pub(super) async fn open(config: &Config, out: Output) -> Result<Self, Failure> {
        // No token is issued here, so that the port need not be the one really bound.
        let issuer = config.issuer(config.listen);
        let app = location(config).open(settings(config, issuer), surroundings()).await?;
        Ok(Self { app, caller: caller(), out })
    }

    /// Leaves it. If it `anchors`, a checkpoint covers what was done.
    pub(super) async fn leave(self, anchors: bool) {
        if anchors && let Err(error) = self.app.checkpoint_own().await {
            tracing::warn!(%error, "what was done has no checkpoint yet; the next process makes one");
        }
        self.app.close().await;
    }
}

/// Where the desk is.
pub(super) fn location(config: &Config) -> Location {
    Location { database: config.database.clone(), kek: config.kek.clone() }
}

/// What the operator decided about the operations.
pub(super) fn settings(config: &Config, issuer: String) -> Settings {
    Settings {
        issuer,
        audience: config.token.audience.clone(),
        access_ttl: config.token.access_ttl,
        refresh_idle: config.token.refresh_idle,
        refresh_absolute: config.token.refresh_absolute,
        algorithm: config.token.algorithm,
        password_enabled: config.password_enabled,
        password_policy: config.password_policy,
        audit: AuditSettings { checkpoint_file: config.checkpoint_file.clone(), retention: config.retention },
        trusted_proxies: config.trusted_proxies.clone(),
        limits: config.limits,
        allow_from: config.allow_from.clone(),
        admin_allow_from: config.admin_allow_from.clone(),
        destinations: config.alerts.destinations(),
    }
}

/// The real clock and the real randomness.
pub(super) fn surroundings() -> Surroundings {
    Surroundings { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) }
}

/// The person at the command line, or the server itself.
pub(super) fn caller() -> Caller {
    let user = whoami::username().unwrap_or_else(|_| "unknown".to_owned());
    let request = Id::generate(SystemClock.now(), &SystemEntropy);
    Caller::operating_system(&user, format!("req_{request}"))
}
