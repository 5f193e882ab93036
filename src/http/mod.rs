//! HTTP: from the wire to an operation and back.
//!
//! `edge` is the outermost layer: every request gets its identifier there and every error its final form. One file per
//! group of routes holds handlers of a few lines. Nothing here decides who may do what, or knows SQL or cryptography.

mod admin;
mod answer;
mod api_keys;
mod credential;
mod docs;
mod edge;
mod error;
mod form;
mod health;
mod host;
mod intake;
mod json;
mod llm_keys;
mod me;
mod metrics;
mod oauth;
mod observe;
mod payload;
mod peer;
mod query;
mod quota;
mod schema;
mod server;
mod spec;
pub mod tls;
mod token;
mod well_known;

use std::{future::Future, io, sync::Arc};

use poem::EndpointExt;
use poem_openapi::{LicenseObject, OpenApiService, Tags};
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};

pub use metrics::serve as serve_metrics;

use crate::app::{App, vital::vital};

/// The groups of operations, in the order of a first visit.
#[derive(Tags)]
enum Group {
    /// Prove who you are and get an access token.
    Tokens,
    /// Fetch the provider keys you may use.
    #[oai(rename = "LLM keys")]
    LlmKeys,
    /// What is your own: identity, password, API keys, sessions.
    Me,
    /// People.
    #[oai(rename = "Admin: users")]
    AdminUsers,
    /// Machines.
    #[oai(rename = "Admin: service accounts")]
    AdminServiceAccounts,
    /// Named sets of provider keys.
    #[oai(rename = "Admin: projects")]
    AdminProjects,
    /// The keys of the LLM providers.
    #[oai(rename = "Admin: provider keys")]
    AdminProviderKeys,
    /// Who may fetch which keys.
    #[oai(rename = "Admin: grants")]
    AdminGrants,
    /// The book.
    #[oai(rename = "Admin: audit")]
    AdminAudit,
    /// The keys that sign access tokens.
    #[oai(rename = "Admin: signing keys")]
    AdminSigningKeys,
    /// What a client needs to know of this desk.
    Discovery,
    /// Is it up, and fit to serve?
    Health,
}

type Operations = (
    (token::TokenApi, oauth::OAuthApi, llm_keys::LlmKeysApi, me::MeApi),
    admin::Operations,
    (well_known::DiscoveryApi, health::HealthApi),
);

const DESCRIPTION: &str = "The front desk for a team's LLM API keys: prove who you are, get the provider keys you may \
                           use. Every handover is written in the book before the key leaves.";

fn service() -> OpenApiService<Operations, ()> {
    let operations = (
        (token::TokenApi, oauth::OAuthApi, llm_keys::LlmKeysApi, me::MeApi),
        admin::OPERATIONS,
        (well_known::DiscoveryApi, health::HealthApi),
    );
    OpenApiService::new(operations, "Keydesk", env!("CARGO_PKG_VERSION"))
        .description(DESCRIPTION)
        .license(LicenseObject::new("Apache-2.0 OR MIT").url("https://spdx.org/licenses/Apache-2.0.html"))
        .server("/")
}

/// The OpenAPI document as JSON, as it is served and committed.
pub fn spec_json() -> String {
    spec::json(&spec::document(&service()))
}

/// The same as YAML.
pub fn spec_yaml() -> String {
    spec::yaml(&spec::document(&service()))
}

/// How the desk is served.
#[derive(Clone, Debug)]
pub struct Options {
    /// TLS, if the listener speaks it.
    pub tls: Option<Arc<tls::Tls>>,
    /// Notified when the certificate is to be read again at once.
    pub reload: Arc<Notify>,
    /// How many connections there may be.
    pub connections: usize,
    /// How many of them may come from one source.
    pub connections_per_source: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { tls: None, reload: Arc::default(), connections: 1024, connections_per_source: 64 }
    }
}

/// Serves the desk on `listener` until `shutdown` completes, then finishes the requests it has accepted.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let service = service();
    let document = spec::document(&service);
    let routes = docs::routes().nest_no_strip("/", service);
    let hosts = host::Hosts::new(&app.settings().issuer, listener.local_addr()?);
    let edge = edge::Edge::new(routes.data(Arc::clone(&app)).boxed(), Arc::clone(&app), hosts, &document);
    let mut beside = JoinSet::new();
    if let Some(tls) = &options.tls {
        beside.spawn(vital("certificate", Arc::clone(tls).follow(app, Arc::clone(&options.reload))));
    }
    server::run(listener, Arc::new(edge), &options, shutdown).await
}
