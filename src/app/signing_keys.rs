//! The keys that sign access tokens, and their life (NIST SP 800-57 part 1 §7).
//!
//! A new key is *pre-active*: published in the JWK Set, so that verifiers know it before they see its first token. After
//! five minutes, for which they may keep the set, it is *active* and signs. Its predecessor is *deactivated*: it signs no
//! more, and verifies until its last token is over. A *compromised* key is refused at once. A key is replaced by itself
//! when its cryptoperiod of ninety days is over.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use quick_cache::sync::Cache;

use super::{App, Error, revocation::MAX_ACCESS_TTL, view::cache};
use crate::{
    crypto::{
        self,
        jwt::{self, AccessClaims, Expectation, JwtError, SigningKey},
        keyring::Place,
    },
    model::{Action, AuditEvent, Caller, Id, Scope, Timestamp, TokenDigest},
    secret::Secret,
    store::{Connection, keys},
};

/// How long verifiers may keep the JWK Set, in seconds; a new key is published that long before it signs.
pub const JWKS_MAX_AGE: u64 = 300;
/// How long a key signs before it is replaced.
const CRYPTOPERIOD: Duration = Duration::from_hours(90 * 24);

/// A signing key as it may be shown.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SigningKeyInfo {
    /// Its RFC 7638 thumbprint.
    pub kid: String,
    /// The algorithm it signs with.
    pub algorithm: String,
    /// `pre_activation`, `active`, `deactivated` or `compromised`.
    pub state: &'static str,
    /// When it was made and published.
    pub created_at: Timestamp,
    /// From when on it signs.
    pub activates_at: Timestamp,
    /// When it is to be replaced at the latest.
    pub cryptoperiod_ends_at: Timestamp,
}

/// The keys in memory. Read at every signature and verification, replaced when the database has changed.
#[derive(Debug)]
pub(super) struct Ring {
    loaded: RwLock<Arc<Loaded>>,
    /// For how long a deactivated key still verifies.
    overlap: Duration,
}

/// The keys as of a revision, newest first.
#[derive(Debug)]
struct Loaded {
    revision: i64,
    keys: Vec<RingKey>,
    /// What they have verified, by the digest of the whole token: a signature is checked once.
    verified: Arc<Cache<TokenDigest, Arc<AccessClaims>>>,
}

/// How many tokens are known to be genuine.
const VERIFIED: u64 = 32 * 1024;

#[derive(Debug)]
struct RingKey {
    key: SigningKey,
    activates_at: Timestamp,
    /// When its last token is over: known once it has a successor.
    ends_at: Option<Timestamp>,
}

impl Ring {
    pub(super) fn empty() -> Self {
        // Until the last token it can have signed is over, and a minute for clocks that disagree.
        let loaded = Loaded { revision: -1, keys: Vec::new(), verified: Arc::new(cache(VERIFIED)) };
        Self { loaded: RwLock::new(Arc::new(loaded)), overlap: MAX_ACCESS_TTL + Duration::from_mins(1) }
    }

    fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the keys, unless newer ones were read meanwhile. Other keys have verified nothing yet.
    fn put(&self, revision: i64, keys: Vec<RingKey>) {
        let mut present = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        if revision < present.revision {
            return;
        }
        let is_same = keys.iter().map(|key| key.key.kid()).eq(present.keys.iter().map(|key| key.key.kid()));
        let verified = if is_same { Arc::clone(&present.verified) } else { Arc::new(cache(VERIFIED)) };
        *present = Arc::new(Loaded { revision, keys, verified });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.loaded().keys.is_empty()
    }

    /// From when on the key signs that signs now.
    pub(super) fn activated_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.loaded().keys.iter().map(|key| key.activates_at).find(|at| *at <= now)
    }

    /// Signs with the newest key that is active.
    pub(super) fn sign(&self, claims: &AccessClaims, now: Timestamp) -> Result<Secret, Error> {
        let loaded = self.loaded();
        let active = loaded.keys.iter().find(|key| key.activates_at <= now);
        let active = active.ok_or_else(|| Error::internal("there is no active signing key"))?;
        active.key.sign(claims).map_err(Error::internal)
    }

    /// Verifies against the keys that are active or deactivated. `note` is told whether the token was known to be genuine.
    pub(super) fn verify(
        &self,
        token: &str,
        expected: &Expectation<'_>,
        now: Timestamp,
        note: impl FnOnce(bool),
    ) -> Result<Arc<AccessClaims>, JwtError> {
        let (loaded, digest) = (self.loaded(), crypto::token_digest(token));
        let known = loaded.verified.get(&digest).filter(|claims| claims.accepted().contains(&now));
        note(known.is_some());
        if let Some(claims) = known {
            return Ok(claims);
        }
        let valid: Vec<_> = loaded.keys.iter().filter(|key| key.is_valid(now)).map(|key| &key.key).collect();
        let claims = Arc::new(jwt::verify(token, &valid, expected, now)?);
        loaded.verified.insert(digest, Arc::clone(&claims));
        Ok(claims)
    }

    /// The public keys that verify what is signed now or soon, or was signed lately (RFC 7517 §5).
    pub(super) fn public(&self, now: Timestamp) -> serde_json::Value {
        let loaded = self.loaded();
        let valid: Vec<_> =
            loaded.keys.iter().filter(|key| key.is_valid(now)).map(|key| key.key.public_jwk()).collect();
        serde_json::json!({ "keys": valid })
    }
}

impl RingKey {
    fn is_valid(&self, now: Timestamp) -> bool {
        self.ends_at.is_none_or(|end| now < end)
    }
}

fn place(id: Id) -> Place<'static> {
    Place { table: "signing_keys", row: id, column: "sealed" }
}

impl App {
    /// Reads the keys of the configured algorithm from the database.
    pub(super) async fn load_signing_keys(&self) -> Result<(), Error> {
        let mut db = self.store.read().await?;
        let revision = keys::revision(&mut db).await?;
        let loaded = self.read_signing_keys(&mut db).await?;
        self.signing_keys.put(revision, loaded);
        Ok(())
    }

    async fn read_signing_keys(&self, db: &mut Connection) -> Result<Vec<RingKey>, Error> {
        let algorithm = self.settings.algorithm;
        let mut successor: Option<Timestamp> = None;
        let mut ring = Vec::new();
        for row in keys::signing_keys(db).await? {
            if row.algorithm != algorithm.as_str() || row.compromised_at.is_some() {
                continue;
            }
            let pkcs8 = self.keyring.open(place(row.id), &row.sealed).map_err(Error::internal)?;
            let key = SigningKey::from_pkcs8(algorithm, &pkcs8).map_err(Error::internal)?;
            let ends_at = successor.map(|at| at.plus(self.signing_keys.overlap));
            ring.push(RingKey { key, activates_at: row.activates_at, ends_at });
            successor = Some(row.activates_at);
        }
        Ok(ring)
    }

    /// Makes a signing key of the configured algorithm if there is none yet.
    pub async fn ensure_signing_key(&self, caller: &Caller) -> Result<(), Error> {
        if self.signing_keys.is_empty() {
            self.create_signing_key(caller, self.now(), false).await?;
        }
        Ok(())
    }

    /// Replaces the signing key: the new one is published now and signs in five minutes. In an `emergency` it signs at
    /// once, and everything that was signed before is void. Needs `admin`.
    pub async fn rotate_signing_key(
        &self,
        caller: &Caller,
        emergency: bool,
    ) -> Result<SigningKeyInfo, Error> {
        self.require(caller, Scope::Admin, Action::SigningKeyCreate, "signing_keys").await?;
        let now = self.now();
        let activates_at = if emergency { now } else { now.plus(Duration::from_secs(JWKS_MAX_AGE)) };
        let kid = self.create_signing_key(caller, activates_at, emergency).await?;
        let all = self.signing_keys(caller).await?;
        all.into_iter().find(|key| key.kid == kid).ok_or_else(|| Error::internal("the new key vanished"))
    }

    async fn create_signing_key(
        &self,
        caller: &Caller,
        activates_at: Timestamp,
        emergency: bool,
    ) -> Result<String, Error> {
        let algorithm = self.settings.algorithm;
        let pkcs8 = SigningKey::generate(algorithm).map_err(Error::internal)?;
        let kid = SigningKey::from_pkcs8(algorithm, &pkcs8).map_err(Error::internal)?.kid().to_owned();
        let (id, now) = (self.new_id(), self.now());
        let row = keys::SigningKeyRow {
            id,
            kid: kid.clone(),
            algorithm: algorithm.as_str().to_owned(),
            sealed: self.keyring.seal(place(id), &pkcs8, &*self.surroundings.entropy),
            created_at: now,
            activates_at,
            compromised_at: None,
        };
        let object = format!("signing_key:{kid}");
        let mut change = self.change(caller, Scope::Admin, Action::SigningKeyCreate, object).await?;
        let result = async {
            let waits = |key: &keys::SigningKeyRow| {
                key.activates_at > now && key.compromised_at.is_none() && key.algorithm == algorithm.as_str()
            };
            if !emergency && keys::signing_keys(&mut change).await?.iter().any(waits) {
                let detail = "a new signing key is published and waits for its turn already";
                return Err(Error::Conflict(detail.to_owned()));
            }
            if emergency {
                for old in keys::compromise_signing_keys(&mut change, now).await? {
                    let event =
                        AuditEvent::by(caller, Action::SigningKeyRevoke).on(format!("signing_key:{old}"));
                    change.also(event);
                }
            }
            Ok(keys::insert_signing_key(&mut change, row).await?)
        }
        .await;
        change.finish(result).await?;
        self.load_signing_keys().await?;
        Ok(kid)
    }

    /// The signing keys, newest first. Needs `admin`.
    pub async fn signing_keys(&self, caller: &Caller) -> Result<Vec<SigningKeyInfo>, Error> {
        self.require(caller, Scope::Admin, Action::AdminRead, "signing_keys").await?;
        let now = self.now();
        let rows = keys::signing_keys(&mut self.store.read().await?).await?;
        let active = rows.iter().find(|row| {
            row.activates_at <= now
                && row.compromised_at.is_none()
                && row.algorithm == self.settings.algorithm.as_str()
        });
        let active = active.map(|row| row.kid.clone());
        Ok(rows.into_iter().map(|row| info(row, active.as_deref(), now)).collect())
    }

    /// Replaces a signing key whose cryptoperiod is over.
    pub(super) async fn replace_old_signing_key(&self) -> Result<(), Error> {
        let now = self.now();
        let newest = self.signing_keys.loaded().keys.first().map(|key| key.activates_at);
        if newest.is_some_and(|at| at.plus(CRYPTOPERIOD) <= now) {
            let caller = Caller::operating_system("keydesk", self.new_request_id());
            self.rotate_signing_key(&caller, false).await?;
        }
        Ok(())
    }
}

fn info(row: keys::SigningKeyRow, active: Option<&str>, now: Timestamp) -> SigningKeyInfo {
    let state = if row.compromised_at.is_some() {
        "compromised"
    } else if active == Some(row.kid.as_str()) {
        "active"
    } else if row.activates_at > now {
        "pre_activation"
    } else {
        "deactivated"
    };
    SigningKeyInfo {
        kid: row.kid,
        algorithm: row.algorithm,
        state,
        created_at: row.created_at,
        activates_at: row.activates_at,
        cryptoperiod_ends_at: row.activates_at.plus(CRYPTOPERIOD),
    }
}
