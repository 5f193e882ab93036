//! Signed statements about the book: compact JWS (RFC 7515) under Ed25519.
//!
//! The key is derived like the chain's and is not in the JWK Set, and each kind of statement has a `typ` of its own: none of
//! them can ever be an access token, nor one kind pass for another.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

use super::{keyring::Key, sha256};

/// What is stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    /// How far the book has come.
    Checkpoint,
    /// What was removed from it.
    Pruning,
}

impl Statement {
    /// The media type, without `application/` (RFC 7515 §4.1.9).
    pub const fn typ(self) -> &'static str {
        match self {
            Self::Checkpoint => "audit-checkpoint+jwt",
            Self::Pruning => "audit-pruning+jwt",
        }
    }
}

/// Signs statements.
pub struct Signer {
    pair: Ed25519KeyPair,
    x: String,
    kid: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer([redacted])")
    }
}

impl Signer {
    pub(super) fn derive(key: &Key) -> Self {
        #[expect(clippy::expect_used, reason = "any 32 bytes are an Ed25519 seed (RFC 8032 §5.1.5)")]
        let pair = Ed25519KeyPair::from_seed_unchecked(&*key.derive(b"audit checkpoint v1"))
            .expect("Ed25519 takes 32 bytes");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        // RFC 7638 §3: the required members, in the order of the alphabet.
        let thumbprint = sha256(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#).as_bytes());
        Self { pair, x, kid: URL_SAFE_NO_PAD.encode(thumbprint) }
    }

    /// The public key, as a JWK (RFC 8037).
    pub fn public_jwk(&self) -> serde_json::Value {
        serde_json::json!({
            "kty": "OKP", "crv": "Ed25519", "x": self.x, "kid": self.kid, "alg": "EdDSA", "use": "sig",
        })
    }

    fn header(&self, statement: Statement) -> String {
        let header = format!(r#"{{"alg":"EdDSA","typ":"{}","kid":"{}"}}"#, statement.typ(), self.kid);
        URL_SAFE_NO_PAD.encode(header)
    }

    /// Signs `claims`.
    pub fn sign(&self, statement: Statement, claims: &impl Serialize) -> serde_json::Result<String> {
        let signed =
            format!("{}.{}", self.header(statement), URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims)?));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()));
        Ok(format!("{signed}.{signature}"))
    }

    /// What `jws` states, if it is a statement of this kind that this key has signed.
    pub fn verify<T: DeserializeOwned>(&self, statement: Statement, jws: &str) -> Option<T> {
        let (signed, signature) = jws.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        // Our own header to the letter: there is nothing in it to be interpreted.
        if header != self.header(statement) {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let key = UnparsedPublicKey::new(&ED25519, self.pair.public_key().as_ref());
        key.verify(signed.as_bytes(), &signature).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}
