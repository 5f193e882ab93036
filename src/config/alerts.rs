//! Alarms and webhooks: where messages go, in which form, and into which of our own networks they may.

use super::{Error, keys, layers::Layers, networks, wrong};
use crate::{
    app::outbox::Destination,
    model::{Network, alarm::MessageForm},
    secret::Secret,
};

/// Where messages go. The URLs are secrets: for Slack and its like, who knows the URL may post.
#[derive(Debug)]
pub struct Alerts {
    /// Where alarms are posted to.
    pub webhook_url: Option<Secret>,
    /// In which form.
    pub form: MessageForm,
    /// In which of our own networks webhooks may be.
    pub allow_to: Vec<Network>,
    /// Where checkpoints of the book are posted to.
    pub checkpoint_webhook_url: Option<Secret>,
}

impl Alerts {
    pub(super) fn load(layers: &mut Layers) -> Result<Self, Error> {
        Ok(Self {
            webhook_url: webhook(layers, &keys::ALERTS_WEBHOOK_URL)?,
            form: layers.checked(&keys::ALERTS_FORMAT, form)?,
            allow_to: layers.checked(&keys::ALERTS_ALLOW_TO, networks::exceptions)?,
            checkpoint_webhook_url: webhook(layers, &keys::AUDIT_CHECKPOINT_WEBHOOK_URL)?,
        })
    }

    /// Where there is somebody to send messages to.
    pub fn destinations(&self) -> Vec<Destination> {
        let urls = [
            (Destination::Alarms, &self.webhook_url),
            (Destination::Checkpoints, &self.checkpoint_webhook_url),
        ];
        urls.into_iter().filter_map(|(destination, url)| url.as_ref().map(|_| destination)).collect()
    }
}

/// The URL, if there is one. From then on only its beginning is shown.
fn webhook(layers: &mut Layers, key: &keys::Key) -> Result<Option<Secret>, Error> {
    let found = layers.checked(key, |text| {
        if text == "off" {
            return Ok(None);
        }
        let Some((scheme, rest)) =
            text.split_once("://").filter(|(scheme, _)| ["https", "http"].contains(scheme))
        else {
            return wrong("does not begin with https:// or http://");
        };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.is_empty()
            || authority.contains('@')
            || !text.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return wrong("is not a URL with a host and without a user name");
        }
        if text.contains('#') {
            return wrong("has a fragment");
        }
        Ok(Some((Secret::new(text), format!("{scheme}://{authority}/…"))))
    })?;
    Ok(found.map(|(url, shown)| {
        layers.show_instead(key, shown);
        url
    }))
}

fn form(text: &str) -> Result<MessageForm, String> {
    match text {
        "keydesk" => Ok(MessageForm::Keydesk),
        "slack" => Ok(MessageForm::Slack),
        _ => wrong("is neither"),
    }
}
