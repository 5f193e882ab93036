//! Is the desk fit to serve?

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;

use super::App;
use crate::model::Timestamp;

/// What does not answer for so long does not work: who asks does not wait for ever either.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What the surroundings of the desk tell about its state.
#[derive(Debug, Default)]
pub(super) struct Health {
    draining: AtomicBool,
    certificate_expires_at: Mutex<Option<Timestamp>>,
    certificates_refused: AtomicU64,
}

/// One thing the desk depends on.
#[derive(Debug)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// Whether it works.
    pub ok: bool,
}

impl App {
    /// Every dependency with its state. Nothing here tells a stranger more than "works" or "does not".
    pub async fn readiness(&self) -> Vec<Check> {
        let (store, audit) = tokio::join!(
            // Boxed, because a probe has room in it for all that it may wait for.
            timeout(PATIENCE, Box::pin(self.can_read())),
            timeout(PATIENCE, Box::pin(self.book.is_healthy())),
        );
        vec![
            Check { name: "store", ok: store.unwrap_or(false) },
            Check { name: "audit", ok: audit.unwrap_or(false) },
            Check { name: "checkpoints", ok: self.filing.works() },
            Check { name: "signing_key", ok: !self.signing_keys.is_empty() },
            Check { name: "draining", ok: !self.is_draining() },
        ]
    }

    async fn can_read(&self) -> bool {
        match self.store.read().await {
            Ok(mut connection) => connection.check_reading().await.is_ok(),
            Err(_) => false,
        }
    }

    /// From now on the desk is not ready: it finishes what it has accepted and stops.
    pub fn start_draining(&self) {
        self.health.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the desk is about to stop.
    pub fn is_draining(&self) -> bool {
        self.health.draining.load(Ordering::Relaxed)
    }

    /// The certificate with which the desk is served, while it speaks TLS itself, is valid until `moment`.
    pub fn serve_with_certificate_until(&self, moment: Timestamp) {
        let mut expires = self.health.certificate_expires_at.lock().unwrap_or_else(PoisonError::into_inner);
        *expires = Some(moment);
    }

    /// Until when the certificate is valid with which the desk is served; `None` without TLS.
    pub fn certificate_expires_at(&self) -> Option<Timestamp> {
        *self.health.certificate_expires_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files of certificate or key have changed to what cannot be used; the ones before are served on.
    pub fn refuse_certificate(&self) {
        self.health.certificates_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many times that has happened.
    pub fn certificates_refused(&self) -> u64 {
        self.health.certificates_refused.load(Ordering::Relaxed)
    }

    /// The public keys that verify access tokens, as a JWK Set (RFC 7517 §5).
    pub fn jwks(&self) -> serde_json::Value {
        self.signing_keys.public(self.now())
    }
}
