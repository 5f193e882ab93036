//! Is the desk fit to serve?

use std::sync::atomic::Ordering;

use super::App;

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
        let store = match self.store.read().await {
            Ok(mut connection) => connection.check_reading().await.is_ok(),
            Err(_) => false,
        };
        vec![
            Check { name: "store", ok: store },
            Check { name: "audit", ok: self.book.is_healthy().await },
            Check { name: "signing_key", ok: !self.signing_keys.is_empty() },
            Check { name: "draining", ok: !self.draining.load(Ordering::Relaxed) },
        ]
    }

    /// From now on the desk is not ready: it finishes what it has accepted and stops.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The public keys that verify access tokens, as a JWK Set (RFC 7517 §5).
    pub fn jwks(&self) -> serde_json::Value {
        self.signing_keys.public(self.now())
    }
}
