//! Cryptography: digests, password hashing, sealing at rest, access tokens.
//!
//! The only module that names argon2, jsonwebtoken, aws-lc-rs or getrandom. It knows no SQL and no HTTP: bytes and model types in,
//! bytes and model types out. Randomness comes from the injected [`Entropy`], except inside key-pair generation, where
//! the library insists on its own.

pub mod audit;
pub mod jwt;
pub mod keyring;
pub mod machine;
pub mod password;
pub mod statement;
pub mod webhook;

use aws_lc_rs::{constant_time, digest};

use crate::{
    model::{Entropy, TokenDigest, TokenKind, entropy},
    secret::Secret,
};

/// The operating system's generator of random numbers. Asked directly: what aws-lc-rs puts between first measures the
/// processor's jitter, for 37 ms of every start, and is slower afterwards, too.
#[derive(Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(
        clippy::expect_used,
        reason = "without randomness nothing we do is safe: stopping is the only answer"
    )]
    fn fill(&self, out: &mut [u8]) {
        getrandom::fill(out).expect("the operating system gives random bytes");
    }
}

/// A new token of this kind: shown once, stored as its digest.
pub fn generate_token(kind: TokenKind, source: &dyn Entropy) -> (Secret, TokenDigest) {
    let text = kind.format(entropy::random(source));
    let digest = token_digest(&text);
    (Secret::new(text), digest)
}

/// A password for a person to type once, of at least `min_length` characters: groups of five letters and digits that look
/// like nothing else, at least four of them (116 bits).
pub fn generate_password(min_length: usize, source: &dyn Entropy) -> Secret {
    const LETTERS: &[u8; 57] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let groups = (min_length + 1).div_ceil(6).max(4);
    let mut text = zeroize::Zeroizing::new(String::with_capacity(groups * 6));
    while text.len() + 1 < groups * 6 {
        if text.len() % 6 == 5 {
            text.push('-');
        }
        let [byte] = entropy::random::<1>(source);
        // 228 is the largest multiple of 57 in a byte: drawing again beyond it keeps every letter equally likely.
        if byte < 228 {
            text.push(char::from(LETTERS[usize::from(byte % 57)]));
        }
    }
    text.truncate(min_length.max(23));
    Secret::new(text.as_str())
}

/// The SHA-256 under which a generated token is stored. A plain digest is enough: it has 256 random bits.
pub fn token_digest(text: &str) -> TokenDigest {
    TokenDigest(sha256(text.as_bytes()))
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// SHA-256 of what comes in pieces.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Sha256 {
    /// Adds a piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all of them.
    pub fn finish(self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        out
    }
}

/// Whether two byte strings are equal, in a time that does not depend on where they differ.
pub fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test looks at what it made")]
    fn a_generated_password_is_long_enough_and_typable() {
        for (min_length, length) in [(15, 23), (23, 23), (24, 24), (1024, 1024)] {
            assert_eq!(generate_password(min_length, &SystemEntropy).len(), length);
        }
        let password = generate_password(15, &SystemEntropy);
        assert!(password.expose().split('-').all(|group| group.len() == 5), "{}", password.expose());
        assert_ne!(
            generate_password(15, &SystemEntropy).expose(),
            generate_password(15, &SystemEntropy).expose()
        );
    }
}
