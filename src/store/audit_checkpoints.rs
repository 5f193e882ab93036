//! `audit_checkpoints` and `audit_prunings`: signed statements about the book.

use super::{
    Connection, StoreError, Tx,
    db::{Pieces, Row, pieces, sql},
};
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

/// The checkpoints that are still here, oldest first. Where one process keeps one file: those that do not stand in it yet, and
/// the newest. Where several processes keep files: all, because a file may be begun or brought up to date at any time.
pub async fn checkpoints(db: &mut Connection) -> Result<Vec<CheckpointRow>, StoreError> {
    db.all(sql("select seq, at, events, jws, filed_at from audit_checkpoints order by seq"), read).await
}

/// The first checkpoints behind number `seq`.
pub async fn behind(db: &mut Connection, seq: i64, limit: i64) -> Result<Vec<CheckpointRow>, StoreError> {
    let statement = sql(
        "select seq, at, events, jws, filed_at from audit_checkpoints where seq > $1 order by seq limit $2",
    );
    db.all(statement.bind(seq).bind(limit), read).await
}

/// The newest checkpoint.
pub async fn newest(db: &mut Connection) -> Result<Option<CheckpointRow>, StoreError> {
    let statement =
        sql("select seq, at, events, jws, filed_at from audit_checkpoints order by seq desc limit 1");
    db.optional(statement, read).await
}

fn read(row: &Row<'_>) -> Result<CheckpointRow, StoreError> {
    Ok(CheckpointRow {
        seq: row.int("seq")?,
        at: row.time("at")?,
        events: row.int("events")?,
        jws: row.text("jws")?,
        filed_at: row.maybe_time("filed_at")?,
    })
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

/// From now on several processes may keep files: those that stood in a file alone are here as well, and each process has to
/// find out what stands in its own.
pub async fn share(tx: &mut Tx, rows: Vec<CheckpointRow>) -> Result<(), StoreError> {
    tx.execute(sql("update audit_checkpoints set filed_at = null")).await?;
    for (_, insertion) in
        SHARE.of(rows, |statement, row| statement.bind(row.seq).bind(row.at).bind(row.events).bind(row.jws))
    {
        tx.execute(insertion).await?;
    }
    Ok(())
}

static SHARE: Pieces = pieces!(
    "insert into audit_checkpoints (seq, at, events, jws) select * from (values ",
    "(?, ?, ?, ?)",
    ") as rows where column1 is not null on conflict (seq) do nothing"
);

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
