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
    /// **Prove who you are.** A password or a client secret goes in, an access token comes out: good for ten minutes, for the
    /// scopes you asked for. With a refresh token a session goes on without the password. The forms and errors are those of
    /// OAuth 2.0 (RFC 6749, 7009, 7662), so that any OAuth library will do. *Authorize*, above, does all this for you.
    Tokens,
    /// **Fetch the provider keys you may use.** The one thing most clients ever do here. Each read is in the book before a key
    /// leaves; what you are not granted does not exist for you. Send the `ETag` back as `If-None-Match` to poll cheaply.
    #[oai(rename = "LLM keys")]
    LlmKeys,
    /// **What is your own:** who you are to this desk, your password, your API keys, the sessions in which you are logged in.
    /// Changes need an access token; an API key cannot make another, so that a stolen one does not multiply.
    Me,
    /// **Named sets of provider keys.** `default` is there from the start; most teams have one for each product or
    /// environment. Needs the scope `admin`.
    #[oai(rename = "Admin: projects")]
    AdminProjects,
    /// **The keys that the LLM providers issued.** They go in here and come out only at `/llm-keys`: what is shown is a version
    /// and a fingerprint. To rotate a key, set it again. Needs the scope `llm-keys:write`.
    #[oai(rename = "Admin: provider keys")]
    AdminProviderKeys,
    /// **People.** They log in with a password, and their role bounds the scopes they can ask for: `member` fetches keys,
    /// `auditor` reads the book too, `admin` does everything. Needs the scope `admin`.
    #[oai(rename = "Admin: users")]
    AdminUsers,
    /// **Machines.** Each has a client secret for the token endpoint and an API key for programs that can keep only one text.
    /// Both are shown once, when they are made. Needs the scope `admin`.
    #[oai(rename = "Admin: service accounts")]
    AdminServiceAccounts,
    /// **Who may fetch which keys:** a user or service account, on a project, of all its providers or of some. In force at
    /// once, and so is its removal. Needs the scope `admin`.
    #[oai(rename = "Admin: grants")]
    AdminGrants,
    /// **The book:** who did what, to what, from where, and how it ended. Nothing can be changed or removed in it without
    /// `keydesk audit verify` noticing. Needs the scope `audit:read`.
    #[oai(rename = "Admin: audit")]
    AdminAudit,
    /// **The keys that sign access tokens.** The desk rotates them by itself, every ninety days; this is for seeing that, and
    /// for the day when one has leaked. Needs the scope `admin`.
    #[oai(rename = "Admin: signing keys")]
    AdminSigningKeys,
    /// **What other programs need to know of this desk:** its endpoints, and the public keys with which they can verify an
    /// access token themselves. Open to everybody.
    Discovery,
    /// **Is it up, and fit to serve?** For supervisors and load balancers. Open to everybody.
    Health,
}

type Operations = (
    (token::TokenApi, oauth::OAuthApi, llm_keys::LlmKeysApi, me::MeApi),
    admin::Operations,
    (well_known::DiscoveryApi, health::HealthApi),
);

/// What a reader of the specification has to know first.
const INTRODUCTION: &str = include_str!("spec/introduction.md");

fn service() -> OpenApiService<Operations, ()> {
    let operations = (
        (token::TokenApi, oauth::OAuthApi, llm_keys::LlmKeysApi, me::MeApi),
        admin::OPERATIONS,
        (well_known::DiscoveryApi, health::HealthApi),
    );
    OpenApiService::new(operations, "Keydesk", env!("CARGO_PKG_VERSION"))
        .description(INTRODUCTION)
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
