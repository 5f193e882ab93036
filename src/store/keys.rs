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
}

/// The signing keys of an algorithm, newest first.
pub async fn signing_keys(db: &mut Connection, algorithm: &str) -> Result<Vec<SigningKeyRow>, StoreError> {
    let statement = sql("select id, kid, algorithm, sealed from signing_keys where algorithm = $1 \
                         order by created_at desc, id desc");
    let read = |row: &Row<'_>| {
        Ok(SigningKeyRow {
            id: row.id("id")?,
            kid: row.text("kid")?,
            algorithm: row.text("algorithm")?,
            sealed: row.bytes("sealed")?,
        })
    };
    db.all(statement.bind(algorithm), read).await
}

/// Adds a signing key.
pub async fn insert_signing_key(tx: &mut Tx, key: SigningKeyRow, now: Timestamp) -> Result<(), StoreError> {
    let statement =
        sql("insert into signing_keys (id, kid, algorithm, sealed, created_at) values ($1, $2, $3, $4, $5)")
            .bind(key.id)
            .bind(key.kid)
            .bind(key.algorithm)
            .bind(key.sealed)
            .bind(now);
    tx.execute(statement).await.map(drop)
}
