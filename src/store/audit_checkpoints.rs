//! `audit_checkpoints` and `audit_prunings`: signed statements about the book.

use super::{Connection, StoreError, Tx, db::sql};
use crate::model::{Id, Timestamp};

/// A checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointRow {
    /// Its number.
    pub seq: i64,
    /// When it was made.
    pub at: Timestamp,
    /// How many events had been written.
    pub events: i64,
    /// The signed statement.
    pub jws: String,
    /// When it was written to the checkpoint file, if it was.
    pub filed_at: Option<Timestamp>,
}

/// The checkpoints that are still here, oldest first: those that do not stand in the file yet, and the newest.
pub async fn checkpoints(db: &mut Connection) -> Result<Vec<CheckpointRow>, StoreError> {
    db.all(sql("select seq, at, events, jws, filed_at from audit_checkpoints order by seq"), |row| {
        Ok(CheckpointRow {
            seq: row.int("seq")?,
            at: row.time("at")?,
            events: row.int("events")?,
            jws: row.text("jws")?,
            filed_at: row.maybe_time("filed_at")?,
        })
    })
    .await
}

/// Adds a checkpoint.
pub async fn insert(tx: &mut Tx, row: CheckpointRow) -> Result<(), StoreError> {
    let statement =
        sql("insert into audit_checkpoints (seq, at, events, jws, filed_at) values ($1, $2, $3, $4, $5)")
            .bind(row.seq)
            .bind(row.at)
            .bind(row.events)
            .bind(row.jws)
            .bind(row.filed_at);
    tx.execute(statement).await.map(drop)
}

/// Remembers that the checkpoints up to `seq` stand in the file, and forgets all but the newest of them.
pub async fn filed(tx: &mut Tx, seq: i64, now: Timestamp) -> Result<(), StoreError> {
    let mark = sql("update audit_checkpoints set filed_at = $2 where seq <= $1 and filed_at is null");
    tx.execute(mark.bind(seq).bind(now)).await?;
    tx.execute(sql("delete from audit_checkpoints where seq < $1").bind(seq)).await.map(drop)
}

/// The pruning record of each stream that has one.
pub async fn prunings(db: &mut Connection) -> Result<Vec<(Id, String)>, StoreError> {
    let statement = sql("select stream, jws from audit_prunings order by stream");
    db.all(statement, |row| Ok((row.id("stream")?, row.text("jws")?))).await
}

/// The pruning record of a stream.
pub async fn pruning(db: &mut Connection, stream: Id) -> Result<Option<String>, StoreError> {
    let statement = sql("select jws from audit_prunings where stream = $1").bind(stream);
    db.optional(statement, |row| row.text("jws")).await
}

/// Puts down that a stream begins behind `seq`.
pub async fn put_pruning(tx: &mut Tx, stream: Id, seq: i64, jws: String) -> Result<(), StoreError> {
    let statement = sql("insert into audit_prunings (stream, seq, jws) values ($1, $2, $3) \
                         on conflict (stream) do update set seq = excluded.seq, jws = excluded.jws")
    .bind(stream)
    .bind(seq)
    .bind(jws);
    tx.execute(statement).await.map(drop)
}
