//! Whether a desk can serve: what its load balancer asks, for whoever has a command line instead. It takes no credential and
//! says nothing secret, so that a desk on this machine may show any certificate: its name is that of the clients' way to it.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    environment::{CA_FILE, Environment},
    error::Error,
    wire::{Manner, Wire},
};

/// What a desk says of itself: `GET /health/ready`.
#[derive(Debug, Deserialize, Serialize)]
pub struct Readiness {
    /// `ready` or `not_ready`.
    pub status: String,
    /// What it depends on, each with `ok` or `failing`.
    pub checks: BTreeMap<String, String>,
}

impl Readiness {
    /// Whether requests should be sent to it.
    pub fn is_ready(&self) -> bool {
        self.status == "ready"
    }

    /// What keeps it from serving.
    pub fn failing(&self) -> Vec<&str> {
        let failing = self.checks.iter().filter(|(_, state)| *state != "ok");
        failing.map(|(name, _)| name.as_str()).collect()
    }
}

/// Asks the desk at a URL.
pub async fn readiness(
    url: &str,
    ca_file: Option<PathBuf>,
    environment: &Environment,
) -> Result<Readiness, Error> {
    let ca_file = ca_file.or_else(|| environment.path(CA_FILE));
    ask(url, &Manner { ca_file: ca_file.as_deref(), insecure: true, own: false }).await
}

/// Asks the desk of this machine that listens there.
pub async fn own_readiness(listen: SocketAddr, tls: bool) -> Result<Readiness, Error> {
    let mut address = listen;
    if address.ip().is_unspecified() {
        let loopback =
            if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    let scheme = if tls { "https" } else { "http" };
    ask(&format!("{scheme}://{address}"), &Manner { ca_file: None, insecure: true, own: true }).await
}

async fn ask(url: &str, manner: &Manner<'_>) -> Result<Readiness, Error> {
    let wire = Wire::new(url, manner)?;
    let answer = wire.probe("/health/ready").await?;
    let found: Readiness = answer.read(&wire)?;
    // Something in between may have an opinion of its own.
    if found.is_ready() != answer.status.is_success() {
        return Err(wire.strange(&format!("says {}, and answers {}", found.status, answer.status)));
    }
    Ok(found)
}
