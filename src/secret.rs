//! Text that must not be seen: passwords, provider keys, tokens.
//!
//! [`Secret`] wipes its memory when dropped, prints as `[redacted]`, and is opened in one way only, [`Secret::expose`].
//! `clippy.toml` forbids that call, so every place that opens a secret carries an `#[expect(…, reason = "…")]`: to review
//! where secrets go, search for `disallowed_methods`.

use std::{fmt, fs, io::Read as _, path::Path};

use bytes::Bytes;
use zeroize::Zeroizing;

/// More than any secret in a file may have, and little enough to read by mistake.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Secret text. Not `Clone`, `Display` or `Serialize`, on purpose: a second copy is made knowingly or not at all.
/// It can be read from a request, and the way back does not exist.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of the text, which is wiped when the secret is dropped.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// What a file holds, without the newline at its end; or why it cannot be used, without its name, which may be a secret
    /// that was set in the wrong place.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let mut text = Zeroizing::new(String::with_capacity(4096));
        let file = fs::File::open(path).map_err(|error| error.to_string())?;
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err("it has more than 64 KiB".to_owned());
        }
        trim_newline(&mut text);
        if text.is_empty() {
            Err("it is empty".to_owned())
        } else {
            Ok(Self::new(std::mem::take(&mut *text)))
        }
    }

    /// The text itself. Say why at the call, in an `#[expect(clippy::disallowed_methods, reason = "…")]`.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Length in bytes: what limits and policies need to know without reading the text.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Takes off the one newline that editors and `echo` put at the end.
pub(crate) fn trim_newline(text: &mut String) {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Secret bytes that several answers share: what a request is answered with again and again. Wiped when the last one that
/// has them drops them.
pub struct SecretBytes(Bytes);

impl SecretBytes {
    /// Takes ownership of the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Bytes::from_owner(Zeroizing::new(bytes)))
    }

    /// The bytes themselves. Say why at the call, as with [`Secret::expose`].
    pub fn expose(&self) -> Bytes {
        self.0.clone()
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}
