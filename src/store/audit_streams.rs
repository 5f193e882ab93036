//! `audit_streams`: the last event of each stream of the book.

use super::{
    Connection, StoreError, Tx,
    db::{Row, sql},
};
use crate::model::{Head, Id, Mac};

/// The head of `stream`, if it has one. A commit that nobody waits for any more may still be under way: it is waited for.
pub async fn settled_head(tx: &mut Tx, stream: Id) -> Result<Option<Head>, StoreError> {
    let found = sql("update audit_streams set seq = seq where stream = $1 returning stream, seq, mac");
    tx.optional(found.bind(stream), read).await
}

/// The streams whose head no other stream has named yet. From now on they count as named.
pub async fn take_uncarried(tx: &mut Tx) -> Result<Vec<StreamRow>, StoreError> {
    // In one statement: meanwhile other processes write on.
    let found = sql("update audit_streams set carried = seq where carried < seq \
                     returning stream, seq, mac, seal, anchored");
    let mut found = tx.all(found, read_row).await?;
    found.sort_by_key(|row| row.head.stream);
    Ok(found)
}

/// A stream.
#[derive(Clone, Copy, Debug)]
pub struct StreamRow {
    /// Its last event.
    pub head: Head,
    /// The MAC that vouches for that.
    pub seal: Option<Mac>,
    /// Up to where the last checkpoint knows it.
    pub anchored: i64,
}

/// All streams.
pub async fn all(db: &mut Connection) -> Result<Vec<StreamRow>, StoreError> {
    db.all(sql("select stream, seq, mac, seal, anchored from audit_streams order by stream"), read_row).await
}

/// The streams that have grown since the last checkpoint.
pub async fn to_anchor(db: &mut Connection) -> Result<Vec<StreamRow>, StoreError> {
    let statement = sql(
        "select stream, seq, mac, seal, anchored from audit_streams where anchored < seq order by stream",
    );
    db.all(statement, read_row).await
}

/// The streams of which the last checkpoint knows another end, whichever way.
pub async fn to_anchor_anew(db: &mut Connection) -> Result<Vec<StreamRow>, StoreError> {
    let statement = sql(
        "select stream, seq, mac, seal, anchored from audit_streams where anchored <> seq order by stream",
    );
    db.all(statement, read_row).await
}

/// Up to where a checkpoint knows a stream.
pub async fn anchored(db: &mut Connection, stream: Id) -> Result<i64, StoreError> {
    let found = sql("select anchored from audit_streams where stream = $1").bind(stream);
    Ok(db.optional(found, |row| row.int("anchored")).await?.unwrap_or(0))
}

/// From now on a checkpoint knows these streams up to there; meanwhile other processes write on.
pub async fn anchor(tx: &mut Tx, heads: Vec<Head>) -> Result<(), StoreError> {
    for head in heads {
        let statement = sql("update audit_streams set anchored = $2 where stream = $1");
        tx.execute(statement.bind(head.stream).bind(head.seq)).await?;
    }
    Ok(())
}

/// Whether there is any sign that the chain has begun.
pub async fn is_chained(db: &mut Connection) -> Result<bool, StoreError> {
    let found = sql("select 1 as found where \
                     exists (select 1 from audit_streams where seal is not null or mac is not null) \
                     or exists (select 1 from audit_checkpoints) or exists (select 1 from audit_prunings) \
                     or exists (select 1 from audit_events where mac is not null or heads is not null)");
    Ok(db.optional(found, |_| Ok(())).await?.is_some())
}

/// The streams that were looked at further than they go, says the database.
pub async fn overrun(db: &mut Connection) -> Result<Vec<Head>, StoreError> {
    let found = sql("select stream, seq, mac from audit_streams \
                     where anchored > seq or carried > seq or watched > seq order by stream");
    db.all(found, read).await
}

fn read_row(row: &Row<'_>) -> Result<StreamRow, StoreError> {
    Ok(StreamRow { head: read(row)?, seal: row.maybe_mac("seal")?, anchored: row.int("anchored")? })
}

fn read(row: &Row<'_>) -> Result<Head, StoreError> {
    Ok(Head { stream: row.id("stream")?, seq: row.int("seq")?, mac: row.maybe_mac("mac")? })
}
