//! `imports`: what was last taken over from the environment, as keyed digests.

use super::{Connection, StoreError, Tx, db::sql};
use crate::model::Timestamp;

/// The digest of what `source` held when it was last imported.
pub async fn last(db: &mut Connection, source: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let statement = sql("select mac from imports where source = $1");
    db.optional(statement.bind(source), |row| row.bytes("mac")).await
}

/// Remembers what `source` holds.
pub async fn remember(tx: &mut Tx, source: &str, mac: [u8; 32], now: Timestamp) -> Result<(), StoreError> {
    let statement = sql("insert into imports (source, mac, imported_at) values ($1, $2, $3) \
                         on conflict (source) do update set mac = excluded.mac, imported_at = excluded.imported_at");
    tx.execute(statement.bind(source).bind(mac).bind(now)).await.map(drop)
}
