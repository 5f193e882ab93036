//! `rate_limits`: how far subjects have used their quotas, where several servers share a database.

use super::{Connection, StoreError, Tx, db::sql};
use crate::model::Timestamp;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Of which limit.
    pub name: &'static str,
    /// Whose requests.
    pub subject: [u8; 16],
    /// The present moment.
    pub now: Timestamp,
    /// How many microseconds pass from one request to the next at the even pace.
    pub interval: i64,
    /// How many requests may be made at once.
    pub times: i64,
    /// How many are wanted.
    pub wanted: i64,
}

/// What was given: how many requests, and up to when all that were given are spread.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// None, some, or as many as were wanted.
    pub granted: i64,
    /// In microseconds since 1970.
    pub until: i64,
}

/// Takes requests out of a quota, as many as there are of those wanted. Asked of PostgreSQL only. In a statement of its own: it
/// waits for no unit of work, and none waits for it.
pub async fn take(db: &mut Connection, asked: Asked) -> Result<Given, StoreError> {
    let statement = sql(
        "insert into rate_limits as r (name, subject, until, granted) values ($1, $2, $3 + $4 * $6, $6) \
         on conflict (name, subject) do update set \
         granted = least($6, ($3 + $4 * $5 - greatest(least(r.until, $3 + $4 * $5), $3)) / $4), \
         until = greatest(least(r.until, $3 + $4 * $5), $3) \
             + $4 * least($6, ($3 + $4 * $5 - greatest(least(r.until, $3 + $4 * $5), $3)) / $4) \
         returning until, granted",
    )
    .bind(asked.name)
    .bind(asked.subject)
    .bind(asked.now)
    .bind(asked.interval)
    .bind(asked.times)
    .bind(asked.wanted);
    let given =
        db.optional(statement, |row| Ok(Given { granted: row.int("granted")?, until: row.int("until")? }));
    Ok(given.await?.unwrap_or(Given { granted: 0, until: 0 }))
}

/// Forgets subjects whose quota is whole again.
pub async fn forget(tx: &mut Tx, now: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let statement = sql("delete from rate_limits where (name, subject) in \
                         (select name, subject from rate_limits where until < $1 limit $2)");
    tx.execute(statement.bind(now).bind(limit)).await
}
