//! Signatures of webhook messages, as Standard Webhooks (standardwebhooks.com) defines them: any of its libraries verifies.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::secret::Secret;

const PREFIX: &str = "whsec_";

/// A text that is no secret for webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not whsec_ followed by 24 to 64 bytes in base64; make one with: echo \"whsec_$(openssl rand -base64 32)\""
)]
pub struct WebhookKeyError;

/// The key that messages are signed with; the receiver has it too.
pub struct WebhookKey(hmac::Key);

impl std::fmt::Debug for WebhookKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookKey([redacted])")
    }
}

impl WebhookKey {
    /// From its text, `whsec_…`.
    #[expect(clippy::disallowed_methods, reason = "the text becomes the key")]
    pub fn from_text(text: &Secret) -> Result<Self, WebhookKeyError> {
        let encoded = text.expose().trim().strip_prefix(PREFIX).ok_or(WebhookKeyError)?;
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| WebhookKeyError)?);
        if (24..=64).contains(&bytes.len()) {
            Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
        } else {
            Err(WebhookKeyError)
        }
    }

    /// The header `webhook-signature` of a message.
    pub fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let tag = hmac::sign(&self.0, format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the published libraries.
    #[test]
    fn a_known_message_has_its_known_signature() {
        let key = WebhookKey::from_text(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).unwrap();
        assert_eq!(
            key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in
            ["", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64 at all!!"]
        {
            assert!(WebhookKey::from_text(&Secret::new(bad)).is_err(), "{bad}");
        }
    }
}
