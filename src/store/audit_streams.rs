//! `audit_streams`: the last event of each stream of the book.

use super::{
    Connection, StoreError, Tx,
    db::{Row, sql},
};
use crate::model::{Head, Id, Mac};

/// The head of `stream`, if it has one.
pub async fn head(db: &mut Connection, stream: Id) -> Result<Option<Head>, StoreError> {
    db.optional(sql("select stream, seq, mac from audit_streams where stream = $1").bind(stream), read).await
}

/// Remembers the last event of a stream.
pub async fn put_head(tx: &mut Tx, head: Head, seal: Mac) -> Result<(), StoreError> {
    let statement = sql("insert into audit_streams (stream, seq, mac, seal) values ($1, $2, $3, $4) \
                         on conflict (stream) do update set seq = excluded.seq, mac = excluded.mac, seal = excluded.seal")
    .bind(head.stream)
    .bind(head.seq)
    .bind(head.mac)
    .bind(seal);
    tx.execute(statement).await.map(drop)
}

/// The heads that no other stream has named yet. From now on they count as named.
pub async fn take_uncarried(tx: &mut Tx) -> Result<Vec<Head>, StoreError> {
    let found = sql("select stream, seq, mac from audit_streams where carried < seq order by stream");
    let found = tx.all(found, read).await?;
    tx.execute(sql("update audit_streams set carried = seq where carried < seq")).await?;
    Ok(found)
}

fn read(row: &Row<'_>) -> Result<Head, StoreError> {
    Ok(Head { stream: row.id("stream")?, seq: row.int("seq")?, mac: row.maybe_mac("mac")? })
}
