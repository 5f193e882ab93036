//! Access tokens: signed JWTs as RFC 9068 describes them, and the one function that verifies them.
//!
//! The library checks the signature and the encoding. Everything else is checked here, because its defaults let through
//! what must not pass: tokens without `iss` or `aud`, any `typ`, unknown `crit`, a minute of leeway. Our tokens have a
//! header of exactly `alg`, `typ` and `kid`; a token with anything else in it is not ours, so `jku`, `jwk`, `x5u`, `crit`
//! and `zip` are refused before any of them could mean something.

use std::{fmt, ops::Range, str::FromStr, time::Duration};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{
    DecodingKey, EncodingKey, Header, Validation,
    jwk::{Jwk, PublicKeyUse, ThumbprintHash},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{
    model::{Timestamp, principal::UnknownWord},
    secret::Secret,
};

/// The media type of our access tokens (RFC 9068 §2.1), without `application/`.
pub const TYP: &str = "at+jwt";
/// How far clocks may disagree.
const LEEWAY_SECONDS: u64 = 5;
/// A longer text is not looked at.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Signature algorithms of access tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519 (RFC 8037).
    EdDsa,
    /// ECDSA on P-256 with SHA-256 (RFC 7518).
    Es256,
    /// RSA PKCS #1 v1.5 with SHA-256 and 3072-bit keys (RFC 7518).
    Rs256,
}

impl Algorithm {
    const ALL: [Self; 3] = [Self::EdDsa, Self::Es256, Self::Rs256];

    /// The registered name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    const fn jose(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
        }
    }
}

impl FromStr for Algorithm {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text).ok_or(UnknownWord)
    }
}

/// Why a token is not accepted. Told apart for the book and the tests; the client learns only `invalid_token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not three parts of base64url, or too long.
    #[error("malformed token")]
    Malformed,
    /// A header other than `alg`, `typ`, `kid`, or a wrong `typ`.
    #[error("unexpected token header")]
    Header,
    /// A `kid` that is none of our keys.
    #[error("unknown signing key")]
    UnknownKey,
    /// The signature does not match, or the claims are not well-formed.
    #[error("bad signature or claims")]
    Invalid,
    /// `iss` or `aud` is not us.
    #[error("token of another issuer or for another audience")]
    NotOurs,
    /// `iat` or `nbf` in the future, or a lifetime we never give.
    #[error("implausible token times")]
    Times,
    /// Past its `exp`.
    #[error("expired token")]
    Expired,
}

/// A key pair that signs access tokens.
pub struct SigningKey {
    algorithm: Algorithm,
    kid: String,
    jwk: Jwk,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({} {})", self.algorithm.as_str(), self.kid)
    }
}

/// A key pair could not be made or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signing key cannot be used")]
pub struct KeyError;

impl SigningKey {
    /// A new key pair, as PKCS #8 version 1.
    pub fn generate(algorithm: Algorithm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let random = SystemRandom::new();
        let pkcs8 = match algorithm {
            Algorithm::EdDsa => Ed25519KeyPair::generate_pkcs8v1(&random).map(|pair| pair.as_ref().to_vec()),
            Algorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                .map(|pair| pair.as_ref().to_vec()),
            Algorithm::Rs256 => rsa::KeyPair::generate(rsa::KeySize::Rsa3072)
                .and_then(|pair| AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair))
                .map(|der| der.as_ref().to_vec()),
        };
        pkcs8.map(Zeroizing::new).map_err(|_| KeyError)
    }

    /// From PKCS #8. The `kid` is the key's RFC 7638 thumbprint.
    pub fn from_pkcs8(algorithm: Algorithm, pkcs8: &[u8]) -> Result<Self, KeyError> {
        let encoding = match algorithm {
            Algorithm::EdDsa => EncodingKey::from_ed_der(pkcs8),
            Algorithm::Es256 => EncodingKey::from_ec_der(pkcs8),
            // Through PEM, because that is the reader that understands PKCS #8 for RSA.
            Algorithm::Rs256 => EncodingKey::from_rsa_pem(pem(pkcs8).as_bytes()).map_err(|_| KeyError)?,
        };
        let mut jwk = Jwk::from_encoding_key(&encoding, algorithm.jose()).map_err(|_| KeyError)?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| KeyError)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let decoding = DecodingKey::from_jwk(&jwk).map_err(|_| KeyError)?;
        Ok(Self { algorithm, kid, jwk, encoding, decoding })
    }

    /// Its identifier in token headers.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key, for the JWK Set.
    pub fn public_jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// Signs `claims`.
    pub fn sign(&self, claims: &AccessClaims) -> Result<Secret, KeyError> {
        let mut header = Header::new(self.algorithm.jose());
        header.typ = Some(TYP.to_owned());
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding).map(Secret::new).map_err(|_| KeyError)
    }
}

fn pem(pkcs8: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(pkcs8));
    let mut text = Zeroizing::new("-----BEGIN PRIVATE KEY-----\n".to_owned());
    for start in (0..body.len()).step_by(64) {
        text.push_str(&body[start..body.len().min(start + 64)]);
        text.push('\n');
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    text
}

/// The claims of an access token (RFC 9068 §2.2), and the user's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccessClaims {
    /// Who issued it.
    pub iss: String,
    /// The principal's identifier.
    pub sub: String,
    /// For whom it is.
    pub aud: String,
    /// The client to which it was issued.
    pub client_id: String,
    /// When it was issued, in seconds since 1970.
    pub iat: u64,
    /// From when it is void, likewise.
    pub exp: u64,
    /// Its identifier.
    pub jti: String,
    /// Space-separated scopes.
    pub scope: String,
    /// The user's name; absent for machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

impl AccessClaims {
    /// From when to when the token is accepted: our clock and the issuer's may differ a little.
    pub fn accepted(&self) -> Range<Timestamp> {
        let moment = |seconds: u64| {
            Timestamp::from_micros(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000))
        };
        moment(self.iat.saturating_sub(LEEWAY_SECONDS))..moment(self.exp.saturating_add(LEEWAY_SECONDS))
    }
}

/// What a token must be to be accepted.
#[derive(Clone, Debug)]
pub struct Expectation<'a> {
    /// The exact issuer.
    pub issuer: &'a str,
    /// The audience that must be among the token's.
    pub audience: &'a str,
    /// The longest lifetime we give.
    pub max_ttl: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenHeader {
    alg: String,
    typ: String,
    kid: String,
}

#[derive(Deserialize)]
struct TokenClaims {
    iss: String,
    sub: String,
    aud: Audience,
    client_id: String,
    iat: u64,
    exp: u64,
    nbf: Option<u64>,
    jti: String,
    scope: String,
    username: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Whether `text` has the shape of a JWT, so that a bearer credential can be told from an API key without a key at hand.
pub fn looks_like_jwt(text: &str) -> bool {
    text.len() <= MAX_TOKEN_BYTES && text.matches('.').count() == 2 && header_json(text).is_some()
}

fn header_json(token: &str) -> Option<serde_json::Value> {
    let bytes = URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
    serde_json::from_slice(&bytes).ok().filter(serde_json::Value::is_object)
}

/// Verifies an access token at the moment `now` against our `keys`. Never asks anybody or reads anything.
pub fn verify(
    token: &str,
    keys: &[&SigningKey],
    expected: &Expectation<'_>,
    now: Timestamp,
) -> Result<AccessClaims, JwtError> {
    let key = signing_key(token, keys)?;
    let claims = signed_claims(token, &key.decoding, key.algorithm)?;
    check_claims(claims, expected, u64::try_from(now.seconds()).unwrap_or(0))
}

/// The claims of a token whose signature and encoding are right. What they say is checked elsewhere, with our clock.
fn signed_claims<T: DeserializeOwned>(
    token: &str,
    key: &DecodingKey,
    algorithm: Algorithm,
) -> Result<T, JwtError> {
    let mut validation = Validation::new(algorithm.jose());
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let decoded = jsonwebtoken::decode(token, key, &validation).map_err(|_| JwtError::Invalid)?;
    Ok(decoded.claims)
}

/// The key a token names: our own, by exact `kid`, with the algorithm that belongs to the key.
fn signing_key<'k>(token: &str, keys: &[&'k SigningKey]) -> Result<&'k SigningKey, JwtError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(JwtError::Malformed);
    }
    let first = token.split('.').next().unwrap_or_default();
    let bytes = URL_SAFE_NO_PAD.decode(first).map_err(|_| JwtError::Malformed)?;
    let header: TokenHeader = serde_json::from_slice(&bytes).map_err(|_| JwtError::Header)?;
    if header.typ != TYP {
        return Err(JwtError::Header);
    }
    let key = keys.iter().copied().find(|key| key.kid == header.kid).ok_or(JwtError::UnknownKey)?;
    if header.alg == key.algorithm.as_str() { Ok(key) } else { Err(JwtError::Header) }
}

fn check_claims(claims: TokenClaims, expected: &Expectation<'_>, now: u64) -> Result<AccessClaims, JwtError> {
    let for_us = match &claims.aud {
        Audience::One(audience) => audience == expected.audience,
        Audience::Many(audiences) => audiences.iter().any(|audience| audience == expected.audience),
    };
    if claims.iss != expected.issuer || !for_us {
        return Err(JwtError::NotOurs);
    }
    let starts = claims.nbf.unwrap_or(0).max(claims.iat);
    let lifetime = claims.exp.checked_sub(claims.iat).ok_or(JwtError::Times)?;
    if starts > now + LEEWAY_SECONDS || lifetime > expected.max_ttl.as_secs() {
        return Err(JwtError::Times);
    }
    if claims.exp + LEEWAY_SECONDS <= now {
        return Err(JwtError::Expired);
    }
    if claims.sub.is_empty() || claims.client_id.is_empty() || claims.jti.is_empty() {
        return Err(JwtError::Invalid);
    }
    Ok(AccessClaims {
        iss: claims.iss,
        sub: claims.sub,
        aud: expected.audience.to_owned(),
        client_id: claims.client_id,
        iat: claims.iat,
        exp: claims.exp,
        jti: claims.jti,
        scope: claims.scope,
        username: claims.username,
    })
}

#[cfg(test)]
mod tests;
