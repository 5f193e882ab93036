//! `data_keys` and `signing_keys`: the desk's own keys, wrapped or sealed.

use super::{
    Connection, StoreError, Tx,
    db::{Row, sql},
};
use crate::model::{Id, Timestamp};

/// A wrapped data key.
#[derive(Debug)]
pub struct DataKeyRow {
    /// Its identifier.
    pub id: Id,
    /// What it is for.
    pub purpose: String,
    /// Which KEK wraps it.
    pub kek_id: Vec<u8>,
    /// The wrapped key.
    pub wrapped: Vec<u8>,
}

/// All data keys, oldest first.
pub async fn data_keys(db: &mut Connection) -> Result<Vec<DataKeyRow>, StoreError> {
    let read = |row: &Row<'_>| {
        Ok(DataKeyRow {
            id: row.id("id")?,
            purpose: row.text("purpose")?,
            kek_id: row.bytes("kek_id")?,
            wrapped: row.bytes("wrapped")?,
        })
    };
    db.all(sql("select id, purpose, kek_id, wrapped from data_keys order by created_at, id"), read).await
}

/// When the oldest data key was made.
pub async fn oldest_data_key(db: &mut Connection) -> Result<Option<Timestamp>, StoreError> {
    let found =
        db.optional(sql("select min(created_at) as oldest from data_keys"), |row| row.maybe_time("oldest"));
    Ok(found.await?.flatten())
}

/// Adds a data key.
pub async fn insert_data_key(tx: &mut Tx, key: DataKeyRow, now: Timestamp) -> Result<(), StoreError> {
    let statement =
        sql("insert into data_keys (id, purpose, kek_id, wrapped, created_at) values ($1, $2, $3, $4, $5)")
            .bind(key.id)
            .bind(key.purpose)
            .bind(key.kek_id)
            .bind(key.wrapped)
            .bind(now);
    tx.execute(statement).await.map(drop)
}

/// Wraps a data key by another KEK, unless it is no more what was read, and tells whether it was.
pub async fn rewrap_data_key(
    tx: &mut Tx,
    read: &DataKeyRow,
    kek_id: [u8; 16],
    wrapped: Vec<u8>,
) -> Result<bool, StoreError> {
    let statement = sql("update data_keys set kek_id = $1, wrapped = $2 \
                         where id = $3 and kek_id = $4 and wrapped = $5")
    .bind(kek_id.to_vec())
    .bind(wrapped)
    .bind(read.id)
    .bind(read.kek_id.clone())
    .bind(read.wrapped.clone());
    Ok(tx.execute(statement).await? == 1)
}

/// A sealed signing key.
#[derive(Debug)]
pub struct SigningKeyRow {
    /// Its identifier.
    pub id: Id,
    /// Its RFC 7638 thumbprint.
    pub kid: String,
    /// The algorithm it signs with.
    pub algorithm: String,
    /// PKCS #8, sealed.
    pub sealed: Vec<u8>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it signs; it is published before.
    pub activates_at: Timestamp,
    /// Since when nothing it has signed is accepted.
    pub compromised_at: Option<Timestamp>,
}

/// The signing keys, the one that signs last first.
pub async fn signing_keys(db: &mut Connection) -> Result<Vec<SigningKeyRow>, StoreError> {
    let read = |row: &Row<'_>| {
        Ok(SigningKeyRow {
            id: row.id("id")?,
            kid: row.text("kid")?,
            algorithm: row.text("algorithm")?,
            sealed: row.bytes("sealed")?,
            created_at: row.time("created_at")?,
            activates_at: row.time("activates_at")?,
            compromised_at: row.maybe_time("compromised_at")?,
        })
    };
    db.all(sql("select * from signing_keys order by activates_at desc, id desc"), read).await
}

/// Adds a signing key.
pub async fn insert_signing_key(tx: &mut Tx, key: SigningKeyRow) -> Result<(), StoreError> {
    let statement = sql("insert into signing_keys (id, kid, algorithm, sealed, created_at, activates_at) \
                         values ($1, $2, $3, $4, $5, $6)")
    .bind(key.id)
    .bind(key.kid)
    .bind(key.algorithm)
    .bind(key.sealed)
    .bind(key.created_at)
    .bind(key.activates_at);
    tx.execute(statement).await.map(drop)
}

/// Declares every signing key compromised, and tells which were not yet.
pub async fn compromise_signing_keys(tx: &mut Tx, now: Timestamp) -> Result<Vec<String>, StoreError> {
    let kids = tx
        .all(sql("select kid from signing_keys where compromised_at is null"), |row| row.text("kid"))
        .await?;
    tx.execute(sql("update signing_keys set compromised_at = $1 where compromised_at is null").bind(now))
        .await?;
    Ok(kids)
}

/// The number that moves with every change to anything that decides access. From now on [`super::Store::revision`] tells it.
pub async fn revision(db: &mut Connection) -> Result<i64, StoreError> {
    let found = db.optional(sql("select value from revision"), |row| row.int("value")).await?.unwrap_or(0);
    db.saw_revision(found);
    Ok(found)
}
