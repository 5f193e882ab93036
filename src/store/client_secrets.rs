//! `client_secrets`: digests of the secrets service accounts show at the token endpoint.

use super::{
    Connection, StoreError, Tx,
    db::{Row, sql},
    principals,
};
use crate::model::{Id, Principal, Timestamp, TokenDigest};

/// Whose secret has that digest, if it is valid at this moment, and when it ends.
pub async fn owner(
    db: &mut Connection,
    digest: TokenDigest,
    now: Timestamp,
) -> Result<Option<(Principal, Option<Timestamp>)>, StoreError> {
    let statement =
        sql("select p.*, s.expires_at from client_secrets s join principals p on p.id = s.principal_id \
                         where s.digest = $1 and (s.expires_at is null or s.expires_at > $2)");
    let read = |row: &Row<'_>| Ok((principals::read(row)?, row.maybe_time("expires_at")?));
    db.optional(statement.bind(digest).bind(now), read).await
}

/// Adds a secret that does not expire.
pub async fn insert(
    tx: &mut Tx,
    id: Id,
    principal: Id,
    digest: TokenDigest,
    now: Timestamp,
) -> Result<(), StoreError> {
    let statement =
        sql("insert into client_secrets (id, principal_id, digest, created_at) values ($1, $2, $3, $4)");
    tx.execute(statement.bind(id).bind(principal).bind(digest).bind(now)).await.map(drop)
}

/// Lets all present secrets of a principal end no later than `end`, and forgets those that have ended.
pub async fn expire(tx: &mut Tx, principal: Id, end: Timestamp, now: Timestamp) -> Result<(), StoreError> {
    let statement = sql("update client_secrets set expires_at = $1 \
                         where principal_id = $2 and (expires_at is null or expires_at > $1)");
    tx.execute(statement.bind(end).bind(principal)).await?;
    let statement = sql("delete from client_secrets where principal_id = $1 and expires_at <= $2");
    tx.execute(statement.bind(principal).bind(now)).await.map(drop)
}
