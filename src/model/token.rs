//! Opaque tokens: `kd_<kind>_` + 43 base62 characters (256 random bits) + 6 base62 characters of CRC-32.
//!
//! The fixed prefix lets secret scanners find a leaked token (`kd_(ak|cs|rt)_[0-9A-Za-z]{49}`) and must never change. The
//! checksum lets us refuse a mistyped one without asking the database. Only the digest of a token is ever stored.

/// What an opaque token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A long-lived credential for `X-API-Key` or `Bearer`.
    ApiKey,
    /// A service account's secret at the token endpoint.
    ClientSecret,
    /// A single-use, rotated credential for new access tokens.
    RefreshToken,
}

const ALL: [TokenKind; 3] = [TokenKind::ApiKey, TokenKind::ClientSecret, TokenKind::RefreshToken];
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_CHARS: usize = 43;
const CHECKSUM_CHARS: usize = 6;

/// What every opaque token of ours begins with.
pub const PREFIX: &str = "kd_";

impl TokenKind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::ApiKey => "kd_ak_",
            Self::ClientSecret => "kd_cs_",
            Self::RefreshToken => "kd_rt_",
        }
    }

    /// The token of this kind that carries these random bits.
    pub fn format(self, random: [u8; 32]) -> String {
        let mut text = String::with_capacity(self.prefix().len() + RANDOM_CHARS + CHECKSUM_CHARS);
        text.push_str(self.prefix());
        push_base62(&mut text, &random, RANDOM_CHARS);
        let checksum = crc32fast::hash(text.as_bytes()).to_be_bytes();
        push_base62(&mut text, &checksum, CHECKSUM_CHARS);
        text
    }

    /// The kind of a well-formed token whose checksum is right; `None` for anything else.
    pub fn recognise(text: &str) -> Option<Self> {
        let kind = ALL.into_iter().find(|kind| text.starts_with(kind.prefix()))?;
        let checked =
            text.len().checked_sub(CHECKSUM_CHARS).filter(|n| *n == kind.prefix().len() + RANDOM_CHARS)?;
        let mut expected = String::with_capacity(CHECKSUM_CHARS);
        push_base62(
            &mut expected,
            &crc32fast::hash(text.as_bytes().get(..checked)?).to_be_bytes(),
            CHECKSUM_CHARS,
        );
        (text.as_bytes()[checked..] == *expected.as_bytes()).then_some(kind)
    }
}

/// Appends the big-endian number `bytes` in exactly `width` base62 digits.
fn push_base62(text: &mut String, bytes: &[u8], width: usize) {
    let mut number = bytes.to_vec();
    let mut digits = vec![b'0'; width];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u32;
        for byte in &mut number {
            let value = remainder << 8 | u32::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or_default();
            remainder = value % 62;
        }
        *digit = BASE62[remainder as usize];
    }
    text.extend(digits.into_iter().map(char::from));
}

/// What the database knows of a token: 32 bytes from which the token cannot be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenDigest(pub [u8; 32]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_carries_its_kind_and_checksum() {
        let token = TokenKind::ApiKey.format([0xff; 32]);
        assert_eq!(token.len(), 55);
        // Computed independently: 2^256 - 1 in base 62, then CRC-32 of what stands before.
        assert_eq!(token, "kd_ak_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1391pG8");
        assert_eq!(TokenKind::recognise(&token), Some(TokenKind::ApiKey));
        assert_eq!(
            TokenKind::recognise(&TokenKind::RefreshToken.format([0; 32])),
            Some(TokenKind::RefreshToken)
        );
    }

    #[test]
    fn any_single_changed_character_is_noticed() {
        let token = TokenKind::ClientSecret.format([7; 32]);
        for i in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[i] = if changed[i] == b'x' { b'y' } else { b'x' };
            assert_eq!(TokenKind::recognise(std::str::from_utf8(&changed).unwrap()), None, "character {i}");
        }
        for bad in ["", "kd_", "kd_ak_", &token[..54], &format!("{token}0"), "kd_ak_é"] {
            assert_eq!(TokenKind::recognise(bad), None, "{bad}");
        }
    }
}
