//! The keys of the book: the one that chains its events, and the one that signs statements about it.
//!
//! Both are derived from the data key for MACs, each with a label of its own, so that they exist wherever the key-encryption
//! key does and nowhere else.

use aws_lc_rs::hmac;

use super::{keyring::Key, statement::Signer};
use crate::model::{Head, Mac, audit::RecordedEvent, chain};

/// The keys of the book.
pub struct AuditKeys {
    chain: hmac::Key,
    head: hmac::Key,
    signer: Signer,
}

impl std::fmt::Debug for AuditKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditKeys([redacted])")
    }
}

impl AuditKeys {
    pub(super) fn derive(key: &Key) -> Self {
        Self {
            chain: hmac::Key::new(hmac::HMAC_SHA256, &*key.derive(b"audit chain v1")),
            head: hmac::Key::new(hmac::HMAC_SHA256, &*key.derive(b"audit head v1")),
            signer: Signer::derive(key),
        }
    }

    /// What signs checkpoints and pruning records.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The MAC of an event whose predecessor in the stream has `previous`.
    pub fn event_mac(&self, event: &RecordedEvent, previous: Mac) -> Mac {
        mac(&self.chain, &[&chain::canonical(event), &previous.0])
    }

    /// The MAC that says that this is the last event of its stream.
    pub fn head_seal(&self, head: &Head) -> Mac {
        let mac_or_none = head.mac.unwrap_or(Mac::NONE);
        mac(&self.head, &[head.stream.as_bytes(), &head.seq.to_be_bytes(), &mac_or_none.0])
    }
}

fn mac(key: &hmac::Key, parts: &[&[u8]]) -> Mac {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    Mac(out)
}

#[cfg(test)]
mod tests;
