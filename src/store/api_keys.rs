//! `api_keys`: digests of long-lived credentials.

use super::{
    Connection, StoreError, Tx,
    db::{Row, must_hit, sql},
    principals,
};
use crate::model::{Id, Principal, PrincipalName, Timestamp, TokenDigest};

/// An API key as it may be shown: everything but the key.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ApiKeyRow {
    /// Its identifier.
    pub id: Id,
    /// Whose it is.
    pub principal: PrincipalName,
    /// What it is for, in its owner's words.
    pub label: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when it is void.
    pub expires_at: Option<Timestamp>,
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
}

/// What an API key opens.
#[derive(Debug)]
pub struct ApiKeyOwner {
    /// The key.
    pub key: Id,
    /// Whose it is.
    pub principal: Principal,
    /// From when it is void.
    pub expires_at: Option<Timestamp>,
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
}

/// The key of that digest and its owner.
pub async fn owner(db: &mut Connection, digest: TokenDigest) -> Result<Option<ApiKeyOwner>, StoreError> {
    let statement = sql("select k.id as key_id, k.expires_at, k.revoked_at, \
                         p.id, p.kind, p.name, p.role, p.disabled_at, p.created_at \
                         from api_keys k join principals p on p.id = k.principal_id where k.digest = $1");
    let read = |row: &Row<'_>| {
        Ok(ApiKeyOwner {
            key: row.id("key_id")?,
            principal: principals::read(row)?,
            expires_at: row.maybe_time("expires_at")?,
            revoked_at: row.maybe_time("revoked_at")?,
        })
    };
    db.optional(statement.bind(digest), read).await
}

fn read(row: &Row<'_>) -> Result<ApiKeyRow, StoreError> {
    Ok(ApiKeyRow {
        id: row.id("id")?,
        principal: row.parsed("principal")?,
        label: row.text("label")?,
        created_at: row.time("created_at")?,
        expires_at: row.maybe_time("expires_at")?,
        revoked_at: row.maybe_time("revoked_at")?,
    })
}

/// All keys, or those of one principal, by owner and age.
pub async fn list(db: &mut Connection, principal: Option<Id>) -> Result<Vec<ApiKeyRow>, StoreError> {
    let statement =
        sql("select k.id, p.name as principal, k.label, k.created_at, k.expires_at, k.revoked_at \
                         from api_keys k join principals p on p.id = k.principal_id \
                         where $1 is null or k.principal_id = $1 order by p.name, k.created_at, k.id");
    db.all(statement.bind(principal), read).await
}

/// The key of that identifier.
pub async fn by_id(db: &mut Connection, id: Id) -> Result<Option<ApiKeyRow>, StoreError> {
    let statement =
        sql("select k.id, p.name as principal, k.label, k.created_at, k.expires_at, k.revoked_at \
                         from api_keys k join principals p on p.id = k.principal_id where k.id = $1");
    db.optional(statement.bind(id), read).await
}

/// A key to be stored.
#[derive(Debug)]
pub struct NewApiKey {
    /// Its identifier.
    pub id: Id,
    /// Whose it is.
    pub principal: Id,
    /// What it is for.
    pub label: String,
    /// Its digest.
    pub digest: TokenDigest,
    /// Whether it was chosen by somebody else.
    pub imported: bool,
    /// From when it is void.
    pub expires_at: Option<Timestamp>,
}

/// Adds a key.
pub async fn insert(tx: &mut Tx, key: NewApiKey, now: Timestamp) -> Result<(), StoreError> {
    let statement =
        sql("insert into api_keys (id, principal_id, label, digest, imported, created_at, expires_at) \
                         values ($1, $2, $3, $4, $5, $6, $7)")
        .bind(key.id)
        .bind(key.principal)
        .bind(key.label)
        .bind(key.digest)
        .bind(key.imported)
        .bind(now)
        .bind(key.expires_at);
    tx.execute(statement).await.map(drop)
}

/// Revokes a key that is not revoked yet.
pub async fn revoke(tx: &mut Tx, id: Id, now: Timestamp) -> Result<(), StoreError> {
    let statement = sql("update api_keys set revoked_at = $1 where id = $2 and revoked_at is null");
    must_hit(tx.execute(statement.bind(now).bind(id)).await?, "api_keys")
}

/// The imported keys of a principal that are not revoked.
pub async fn imported(db: &mut Connection, principal: Id) -> Result<Vec<Id>, StoreError> {
    let statement =
        sql("select id from api_keys where principal_id = $1 and imported = 1 and revoked_at is null");
    db.all(statement.bind(principal), |row| row.id("id")).await
}
