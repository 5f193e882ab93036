//! `keydesk health`: is the desk ready? For containers' health checks, and for scripts that wait for a desk.
//!
//! Two exit codes, as those who ask know no others.

use std::path::PathBuf;

use clap::Args;

use super::{failure::Failure, output::Output};
use crate::{
    client::{self, Readiness},
    config::{self, Environment, Flags},
};

pub(super) const HELP: &str = "Examples:
  keydesk health
  until keydesk health https://keys.example.com; do sleep 1; done

It asks for /health/ready. Exit codes: 0 ready; 1 not ready, or not to be reached.
A desk of this machine that wants certificates of its clients (tls.client_ca_file) cannot be asked this way.";

#[derive(Debug, Args)]
pub(super) struct Health {
    /// The desk's URL, instead of where the desk of this configuration listens
    url: Option<String>,
    /// The certificate of the authority that the desk's certificate is of, if it is not a public one
    #[arg(long, value_name = "FILE", requires = "url")]
    ca_file: Option<PathBuf>,
}

impl Health {
    /// `keydesk health`.
    pub(super) fn run(self, flags: &Flags, out: Output) -> Result<(), Failure> {
        // No threads, no log: it is asked every few seconds.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::because("cannot start", &error))?;
        let found = runtime.block_on(self.ask(flags))?;
        if !found.is_ready() {
            if out.is_json() {
                out.object(&found, "")?;
            }
            return Err(Failure::Failed(format!("not ready: {}", found.failing().join(", "))));
        }
        out.object(&found, "ready")
    }

    async fn ask(self, flags: &Flags) -> Result<Readiness, Failure> {
        let asked = if let Some(url) = self.url {
            client::readiness(&url, self.ca_file, &client::Environment::capture()).await
        } else {
            let config = config::load(flags, &Environment::capture())?;
            if config.listen.port() == 0 {
                let what = "server.listen is any free port: name the desk's URL";
                return Err(Failure::Failed(what.to_owned()));
            }
            client::own_readiness(config.listen, config.tls.is_some()).await
        };
        asked.map_err(|error| Failure::Failed(error.what))
    }
}
