//! `throttles` and `known_sources`: failed attempts, and from where users have come before.

use super::{
    Connection, StoreError, Tx,
    db::{Row, sql},
};
use crate::model::{Id, Timestamp};

/// How often something has failed lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Failures in the window.
    pub failures: i64,
    /// When they are forgotten.
    pub window_end: Timestamp,
    /// Until when nothing is tried.
    pub blocked_until: Timestamp,
}

/// The count of a key.
pub async fn find(db: &mut Connection, key: [u8; 32]) -> Result<Option<Count>, StoreError> {
    let read = |row: &Row<'_>| {
        Ok(Count {
            failures: row.int("failures")?,
            window_end: row.time("window_end")?,
            blocked_until: row.time("blocked_until")?,
        })
    };
    db.optional(
        sql("select failures, window_end, blocked_until from throttles where key = $1").bind(key),
        read,
    )
    .await
}

/// Sets the count of a key.
pub async fn put(tx: &mut Tx, key: [u8; 32], count: Count) -> Result<(), StoreError> {
    let statement =
        sql("insert into throttles (key, failures, window_end, blocked_until) values ($1, $2, $3, $4) \
                         on conflict (key) do update set failures = excluded.failures, \
                         window_end = excluded.window_end, blocked_until = excluded.blocked_until");
    let statement = statement.bind(key).bind(count.failures).bind(count.window_end).bind(count.blocked_until);
    tx.execute(statement).await.map(drop)
}

/// Forgets a key.
pub async fn forget(tx: &mut Tx, key: [u8; 32]) -> Result<(), StoreError> {
    tx.execute(sql("delete from throttles where key = $1").bind(key)).await.map(drop)
}

/// Forgets what is over.
pub async fn forget_ended(tx: &mut Tx, now: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let statement = sql("delete from throttles where key in \
                         (select key from throttles where window_end < $1 and blocked_until < $1 limit $2)");
    tx.execute(statement.bind(now).bind(limit)).await
}

/// Whether a user has logged in from there since `since`.
pub async fn is_known(
    db: &mut Connection,
    principal: Id,
    source: [u8; 32],
    since: Timestamp,
) -> Result<bool, StoreError> {
    let statement =
        sql("select 1 as one from known_sources where principal_id = $1 and source = $2 and seen_at >= $3");
    Ok(db.optional(statement.bind(principal).bind(source).bind(since), |_| Ok(())).await?.is_some())
}

/// Remembers that a user has logged in from there; of more than `keep` sources the oldest are forgotten.
pub async fn remember(
    tx: &mut Tx,
    principal: Id,
    source: [u8; 32],
    keep: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let statement = sql("insert into known_sources (principal_id, source, seen_at) values ($1, $2, $3) \
                         on conflict (principal_id, source) do update set seen_at = excluded.seen_at");
    tx.execute(statement.bind(principal).bind(source).bind(now)).await?;
    let statement = sql("delete from known_sources where principal_id = $1 and source not in \
                         (select source from known_sources where principal_id = $1 order by seen_at desc limit $2)");
    tx.execute(statement.bind(principal).bind(keep)).await.map(drop)
}
