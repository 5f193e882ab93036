//! Webhooks: posts what the app has due, and reports what became of it.
//!
//! Messages are signed as Standard Webhooks defines it (standardwebhooks.com). A receiver is a stranger: it has ten seconds,
//! its certificate is checked, it cannot send us elsewhere, and of what it answers only the status is read.
//! This runs beside the server and shares nothing with requests but the database.

mod address;
mod form;

use std::{error::Error as _, fmt, sync::Arc, time::Duration};

use reqwest::{Client, StatusCode, Url, redirect};

use crate::{
    app::{
        App,
        outbox::{Delivery, Destination, Outgoing},
    },
    crypto::webhook::WebhookKey,
    model::{Network, alarm::MessageForm},
    secret::Secret,
};
use address::Guard;

/// How often to look what is due.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a receiver may take for everything.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Why there can be no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is none, or names an address that must not be posted to.
    #[error("the URL cannot be used: {0}")]
    Url(String),
    /// Our own form is worth nothing unsigned.
    #[error(
        "it needs a secret to sign messages with, which the receiver checks: set KEYDESK_ALERTS__WEBHOOK_SECRET, made with: \
         echo \"whsec_$(openssl rand -base64 32)\""
    )]
    Secret,
    /// There is no HTTP client, for example because this machine has no certificates to check others against.
    #[error("no connections can be made (are the system's CA certificates installed?): {0}")]
    Client(String),
}

/// Where messages are posted to.
pub struct Endpoint {
    destination: Destination,
    url: Url,
    key: Option<Arc<WebhookKey>>,
    form: MessageForm,
    guard: Guard,
    client: Client,
}

/// Without the URL, which is a secret.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("destination", &self.destination).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint that will be posted to only if its address is public or in `allow_to`.
    #[expect(clippy::disallowed_methods, reason = "the URL becomes the endpoint's")]
    pub fn new(
        destination: Destination,
        url: &Secret,
        key: Option<Arc<WebhookKey>>,
        form: MessageForm,
        allow_to: &[Network],
    ) -> Result<Self, Error> {
        let url = Url::parse(url.expose()).map_err(|error| Error::Url(error.to_string()))?;
        if form == MessageForm::Keydesk && key.is_none() {
            return Err(Error::Secret);
        }
        let guard = Guard { allow_to: allow_to.to_vec(), is_plain: url.scheme() == "http" };
        guard.check_host(&url).map_err(|refused| Error::Url(refused.to_string()))?;
        let client = Client::builder()
            .user_agent(concat!("keydesk/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .timeout(PATIENCE)
            .connect_timeout(CONNECT_PATIENCE)
            // Every connection looks its address up again, and has it checked again.
            .pool_max_idle_per_host(0)
            .dns_resolver(Arc::new(guard.clone()))
            .build()
            .map_err(|error| Error::Client(told(&error)))?;
        Ok(Self { destination, url, key, form, guard, client })
    }

    /// Posts what is due, for ever.
    pub async fn run(self, app: Arc<App>) {
        loop {
            self.post_due(&app).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Posts what is due now.
    pub async fn post_due(&self, app: &App) {
        for message in app.take_due(self.destination).await {
            let delivery = self.post(&message).await;
            if let Err(error) = app.record_delivery(&message, delivery).await {
                tracing::warn!(%error, webhook_id = %message.id, "cannot write down what became of a webhook message");
            }
        }
    }

    async fn post(&self, message: &Outgoing) -> Delivery {
        // Addresses in the URL itself are never looked up, so that the resolver does not see them.
        self.guard.check_host(&self.url).map_err(|refused| refused.to_string())?;
        let body = match self.form {
            MessageForm::Keydesk => message.body.clone(),
            MessageForm::Slack => form::slack(&message.body),
        };
        let (id, timestamp) = (format!("msg_{}", message.id), message.sent_at.seconds());
        let mut request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", timestamp);
        if let Some(key) = &self.key {
            request = request.header("webhook-signature", key.sign(&id, timestamp, &body));
        }
        match request.body(body).send().await {
            Ok(response) => answer(response.status()),
            Err(error) => Err(told(&error.without_url())),
        }
    }
}

/// The status alone: what else a receiver says may quote the address, which for Slack and its like is the secret.
fn answer(status: StatusCode) -> Delivery {
    if status.is_success() {
        Ok(status.to_string())
    } else if status.is_redirection() {
        Err(format!("the receiver answered {status}, and redirects are not followed"))
    } else {
        Err(format!("the receiver answered {status}"))
    }
}

/// An error and what lies behind it, without repetitions.
fn told(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "the receiver did not answer in time".to_owned();
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
