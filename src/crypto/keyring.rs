//! Sealing at rest: the key-encryption key (KEK) wraps data keys, and data keys seal rows.
//!
//! The KEK lives in a file outside the database. The database holds data keys only wrapped by it, so that the database
//! alone is worthless, and a new KEK means re-wrapping a few data keys instead of every row. Two data keys are made at
//! first start: one seals records, one keys the MACs (`ETag`s, fingerprints), which must not change when rows are re-sealed.
//! While a KEK is being replaced there are two of them, and a data key says which one wraps it.
//!
//! A sealed record is `0x01 | key id (16) | nonce (12) | AES-256-GCM ciphertext and tag`. The associated data are the
//! first 17 bytes and the record's place (table, row id, column, each with its length), so that a record moved to another
//! row, column or key does not open. Every 32-byte key is used through HKDF-SHA-256 with a label, never directly. The
//! format is pinned by `tests/vectors/sealed-record.json`.

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::{aead, hkdf, hmac};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::audit::AuditKeys;
use crate::{
    model::{Entropy, Id, entropy},
    secret::Secret,
};

const FORMAT: u8 = 1;
const NONCE: usize = 12;
const HEADER: usize = 1 + 16;

/// Why something could not be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The KEK file does not hold 32 bytes in base64.
    #[error("it does not hold 32 bytes in base64")]
    MalformedKek,
    /// A record of an unknown format version, or too short.
    #[error("the sealed record has an unknown format")]
    UnknownFormat,
    /// A record sealed by a key we do not have.
    #[error("the sealed record belongs to a key that is not here")]
    UnknownKey,
    /// A record that was changed, or moved from another place.
    #[error("the sealed record was changed, moved, or sealed by another key")]
    NotAuthentic,
}

/// Where a sealed record belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The table.
    pub table: &'a str,
    /// The row's identifier.
    pub row: Id,
    /// The column.
    pub column: &'a str,
}

/// What a data key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Seals records.
    Seal,
    /// Keys MACs whose values must stay the same.
    Mac,
}

impl Purpose {
    /// The name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Mac => "mac",
        }
    }

    fn of(text: &str) -> Self {
        if text == Self::Mac.as_str() { Self::Mac } else { Self::Seal }
    }
}

/// A 32-byte key, used only through what is derived from it.
pub(super) struct Key(pub(super) Zeroizing<[u8; 32]>);

impl Key {
    pub(super) fn derive(&self, label: &'static [u8]) -> Zeroizing<[u8; 32]> {
        let mut out = Zeroizing::new([0; 32]);
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"keydesk").extract(&*self.0);
        #[expect(clippy::expect_used, reason = "32 bytes are always within what HKDF-SHA-256 can expand to")]
        extracted
            .expand(&[label], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut *out))
            .expect("HKDF-SHA-256 gives 32 bytes");
        out
    }

    pub(super) fn cipher(&self, label: &'static [u8]) -> aead::LessSafeKey {
        #[expect(clippy::expect_used, reason = "the key is 32 bytes long by type")]
        let key =
            aead::UnboundKey::new(&aead::AES_256_GCM, &*self.derive(label)).expect("AES-256 takes 32 bytes");
        aead::LessSafeKey::new(key)
    }
}

/// The key-encryption key.
pub struct Kek {
    id: [u8; 16],
    wrap: aead::LessSafeKey,
}

impl std::fmt::Debug for Kek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kek([redacted])")
    }
}

impl Kek {
    /// A new key, as the text of its file.
    pub fn generate(source: &dyn Entropy) -> Secret {
        let bytes = Zeroizing::new(entropy::random::<32>(source));
        Secret::new(STANDARD.encode(*bytes))
    }

    /// From the text of its file: 32 bytes in base64.
    #[expect(clippy::disallowed_methods, reason = "the text becomes the key")]
    pub fn from_text(text: &Secret) -> Result<Self, SealError> {
        let bytes =
            Zeroizing::new(STANDARD.decode(text.expose().trim()).map_err(|_| SealError::MalformedKek)?);
        let key: [u8; 32] = bytes.as_slice().try_into().map_err(|_| SealError::MalformedKek)?;
        let key = Key(Zeroizing::new(key));
        let mut id = [0; 16];
        id.copy_from_slice(&key.derive(b"kek id v1")[..16]);
        Ok(Self { id, wrap: key.cipher(b"kek wrap v1") })
    }

    /// Tells KEKs apart without saying anything about them.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// A new data key, wrapped for the database.
    pub fn new_data_key(&self, id: Id, purpose: Purpose, source: &dyn Entropy) -> Vec<u8> {
        let key = Zeroizing::new(entropy::random::<32>(source));
        seal_with(&self.wrap, self.id, data_key_place(id), purpose.as_str(), &*key, source)
    }

    /// Whether a data key that it wraps opens.
    pub fn check(&self, id: Id, purpose: &str, wrapped: &[u8]) -> Result<(), SealError> {
        self.open(id, Purpose::of(purpose), wrapped).map(drop)
    }

    fn open(&self, id: Id, purpose: Purpose, wrapped: &[u8]) -> Result<Key, SealError> {
        if key_id(wrapped)? != self.id {
            return Err(SealError::UnknownKey);
        }
        let bytes = open_with(&self.wrap, data_key_place(id), purpose.as_str(), wrapped)?;
        let key: [u8; 32] = bytes.as_slice().try_into().map_err(|_| SealError::NotAuthentic)?;
        Ok(Key(Zeroizing::new(key)))
    }
}

/// The KEK that wraps and, while it takes the place of another, that one too.
#[derive(Debug)]
pub struct Keks {
    /// What wraps.
    pub current: Kek,
    /// What has wrapped before, and only opens.
    pub previous: Option<Kek>,
}

impl From<Kek> for Keks {
    fn from(current: Kek) -> Self {
        Self { current, previous: None }
    }
}

impl Keks {
    /// Whether a data key opens.
    pub fn check(&self, id: Id, purpose: &str, wrapped: &[u8]) -> Result<(), SealError> {
        self.open(id, Purpose::of(purpose), wrapped).map(drop)
    }

    /// The same data key, wrapped by the current KEK.
    pub fn rewrap(
        &self,
        id: Id,
        purpose: &str,
        wrapped: &[u8],
        source: &dyn Entropy,
    ) -> Result<Vec<u8>, SealError> {
        let purpose = Purpose::of(purpose);
        let Key(key) = self.open(id, purpose, wrapped)?;
        let Kek { id: kek, wrap } = &self.current;
        Ok(seal_with(wrap, *kek, data_key_place(id), purpose.as_str(), &*key, source))
    }

    fn open(&self, id: Id, purpose: Purpose, wrapped: &[u8]) -> Result<Key, SealError> {
        let by = key_id(wrapped)?;
        let kek =
            [Some(&self.current), self.previous.as_ref()].into_iter().flatten().find(|kek| kek.id == by);
        kek.ok_or(SealError::UnknownKey)?.open(id, purpose, wrapped)
    }
}

fn data_key_place(id: Id) -> Place<'static> {
    Place { table: "data_keys", row: id, column: "wrapped" }
}

/// The data keys, unwrapped, in memory.
pub struct Keyring {
    current: Id,
    ciphers: HashMap<[u8; 16], aead::LessSafeKey>,
    mac: hmac::Key,
    audit: Arc<AuditKeys>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring([redacted])")
    }
}

impl Keyring {
    /// Unwraps the data keys of a database: identifier, purpose and wrapped bytes of each, oldest first. The newest
    /// `seal` key seals; the older ones only open.
    pub fn unwrap(keks: &Keks, data_keys: &[(Id, String, Vec<u8>)]) -> Result<Self, SealError> {
        let (mut current, mut ciphers, mut mac) = (None, HashMap::new(), None);
        for (id, purpose, wrapped) in data_keys {
            let purpose = Purpose::of(purpose);
            let key = keks.open(*id, purpose, wrapped)?;
            match purpose {
                Purpose::Mac => {
                    let audit = Arc::new(AuditKeys::derive(&key));
                    mac = Some((hmac::Key::new(hmac::HMAC_SHA256, &*key.derive(b"mac v1")), audit));
                }
                Purpose::Seal => {
                    ciphers.insert(*id.as_bytes(), key.cipher(b"seal v1"));
                    current = Some(*id);
                }
            }
        }
        match (current, mac) {
            (Some(current), Some((mac, audit))) => Ok(Self { current, ciphers, mac, audit }),
            _ => Err(SealError::UnknownKey),
        }
    }

    /// Seals `plaintext` for `place`.
    pub fn seal(&self, place: Place<'_>, plaintext: &[u8], source: &dyn Entropy) -> Vec<u8> {
        let id = *self.current.as_bytes();
        seal_with(&self.ciphers[&id], id, place, "", plaintext, source)
    }

    /// Opens a record that was sealed for `place`.
    pub fn open(&self, place: Place<'_>, record: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let cipher = self.ciphers.get(&key_id(record)?).ok_or(SealError::UnknownKey)?;
        open_with(cipher, place, "", record)
    }

    /// The keys of the book.
    pub fn audit(&self) -> Arc<AuditKeys> {
        Arc::clone(&self.audit)
    }

    /// HMAC-SHA-256 of `data` for one `purpose`: recognises a value without keeping it, and nobody without the KEK can
    /// test guesses against it.
    pub fn mac(&self, purpose: &str, data: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.mac);
        context.update(&[u8::try_from(purpose.len()).unwrap_or(u8::MAX)]);
        context.update(purpose.as_bytes());
        context.update(data);
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }
}

pub(super) fn key_id(record: &[u8]) -> Result<[u8; 16], SealError> {
    match record.split_first() {
        Some((&FORMAT, rest)) if rest.len() >= 16 + NONCE => {
            rest[..16].try_into().map_err(|_| SealError::UnknownFormat)
        }
        _ => Err(SealError::UnknownFormat),
    }
}

fn associated_data(header: &[u8], place: Place<'_>, purpose: &str) -> aead::Aad<Vec<u8>> {
    let mut bytes = header.to_vec();
    for part in [place.table.as_bytes(), place.row.as_bytes(), place.column.as_bytes(), purpose.as_bytes()] {
        bytes.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(part);
    }
    aead::Aad::from(bytes)
}

pub(super) fn seal_with(
    cipher: &aead::LessSafeKey,
    key_id: [u8; 16],
    place: Place<'_>,
    purpose: &str,
    plaintext: &[u8],
    source: &dyn Entropy,
) -> Vec<u8> {
    let nonce: [u8; NONCE] = entropy::random(source);
    let mut record = vec![FORMAT];
    record.extend(key_id);
    let aad = associated_data(&record, place, purpose);
    let mut sealed = plaintext.to_vec();
    #[expect(clippy::expect_used, reason = "AES-GCM refuses only plaintexts of more than 64 GiB")]
    cipher
        .seal_in_place_append_tag(aead::Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
        .expect("the plaintext is short");
    record.extend(nonce);
    record.extend(sealed);
    record
}

pub(super) fn open_with(
    cipher: &aead::LessSafeKey,
    place: Place<'_>,
    purpose: &str,
    record: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (header, rest) = record.split_at(HEADER);
    let (nonce, sealed) = rest.split_at(NONCE);
    let nonce = aead::Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::UnknownFormat)?;
    let mut plaintext = Zeroizing::new(sealed.to_vec());
    let length = cipher
        .open_in_place(nonce, associated_data(header, place, purpose), &mut plaintext)
        .map_err(|_| SealError::NotAuthentic)?
        .len();
    plaintext.truncate(length);
    Ok(plaintext)
}

#[cfg(test)]
mod tests;
