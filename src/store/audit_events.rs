//! `audit_events`: the book.

use std::{collections::HashMap, fmt};

use super::{
    Connection, StoreError, Tx,
    db::{Pieces, Row, Statement, inconsistent, pieces, sql},
};
use crate::model::{
    Head, Id, Mac, Timestamp,
    audit::{Position, RecordedEvent},
};

/// Every column of an event.
macro_rules! columns {
    () => {
        "id, stream, seq, at, action, outcome, actor, principal_id, principal_kind, client_id, credential, \
         object, version, detail, source, request_id, reason, heads, mac"
    };
}

/// Whole events, of those that the rest of the statement says.
macro_rules! select {
    ($rest:literal) => {
        sql(concat!("select ", columns!(), " from audit_events ", $rest))
    };
}

/// Which events to show; each part narrows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this actor's.
    pub actor: Option<String>,
    /// Only this action.
    pub action: Option<String>,
    /// Only this outcome.
    pub outcome: Option<String>,
    /// Only from this moment on.
    pub since: Option<Timestamp>,
    /// Only before this moment.
    pub until: Option<Timestamp>,
}

/// For the book: what was looked for.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = |moment: Option<Timestamp>| moment.map(|moment| moment.to_string());
        let parts = [
            ("principal", self.actor.clone()),
            ("action", self.action.clone()),
            ("outcome", self.outcome.clone()),
            ("since", moment(self.since)),
            ("until", moment(self.until)),
        ];
        let given = parts.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        let given: Vec<String> = given.collect();
        f.write_str(if given.is_empty() { "everything" } else { "" })?;
        f.write_str(&given.join(" "))
    }
}

/// Writes events in their places; the last of them, sealed, is the new `head` of their stream.
pub async fn insert(
    tx: &mut Tx,
    events: Vec<RecordedEvent>,
    head: Head,
    seal: Mac,
) -> Result<(), StoreError> {
    for (events, insertion) in INSERT.of(events, bind) {
        let put = sql("insert into audit_streams (stream, seq, mac, seal) values (?, ?, ?, ?) \
                       on conflict (stream) do update set seq = excluded.seq, mac = excluded.mac, seal = excluded.seal");
        let put = put.bind(head.stream).bind(head.seq).bind(head.mac).bind(seal);
        // A trigger that somebody has added could swallow some.
        if tx.execute_both(put, insertion).await? != events + 1 {
            return Err(inconsistent("audit_events"));
        }
    }
    Ok(())
}

static INSERT: Pieces = pieces!(
    concat!("insert into audit_events (", columns!(), ") select * from (values "),
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    ") as rows where column1 is not null"
);

fn bind(statement: Statement, event: RecordedEvent) -> Statement {
    statement
        .bind(event.id)
        .bind(event.stream)
        .bind(event.seq)
        .bind(event.at)
        .bind(event.action)
        .bind(event.outcome)
        .bind(event.actor)
        .bind(event.principal_id)
        .bind(event.principal_kind)
        .bind(event.client_id)
        .bind(event.credential)
        .bind(event.object)
        .bind(event.version)
        .bind(event.detail)
        .bind(event.source)
        .bind(event.request_id)
        .bind(event.reason)
        .bind(event.heads)
        .bind(event.mac)
}

/// The newest events below `before` that pass the filter, newest first. Both ends are always bound, so that the index
/// leads to the page however deep it is.
pub async fn newest(
    db: &mut Connection,
    filter: Filter,
    before: Position,
    limit: i64,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let statement = select!(
        "where ($1 is null or actor = $1) and ($2 is null or action = $2) \
                         and ($3 is null or outcome = $3) and at >= $4 and (at, stream, seq) < ($5, $6, $7) \
                         order by at desc, stream desc, seq desc limit $8"
    )
    .bind(filter.actor)
    .bind(filter.action)
    .bind(filter.outcome)
    .bind(filter.since.unwrap_or(Timestamp::from_micros(i64::MIN)))
    .bind(before.at)
    .bind(before.stream)
    .bind(before.seq)
    .bind(limit);
    db.all(statement, read).await
}

/// The events above `after` that pass the filter, oldest first.
pub async fn oldest(
    db: &mut Connection,
    filter: Filter,
    after: Position,
    limit: i64,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let statement =
        select!("where ($1 is null or actor = $1) and ($2 is null or action = $2) \
                         and ($3 is null or outcome = $3) and at >= $4 and at < $5 and (at, stream, seq) > ($6, $7, $8) \
                         order by at, stream, seq limit $9")
        .bind(filter.actor)
        .bind(filter.action)
        .bind(filter.outcome)
        .bind(filter.since.unwrap_or(Timestamp::from_micros(i64::MIN)))
        .bind(filter.until.unwrap_or(Timestamp::from_micros(i64::MAX)))
        .bind(after.at)
        .bind(after.stream)
        .bind(after.seq)
        .bind(limit);
    db.all(statement, read).await
}

/// A row as the chain is checked: it may hold anything.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every row is an event")]
pub enum ChainRow {
    /// An event.
    Event(RecordedEvent),
    /// What can be none, because of this column.
    Malformed {
        /// Its stream.
        stream: Id,
        /// Its number.
        seq: i64,
        /// The first column that is wrong.
        column: String,
    },
}

impl ChainRow {
    /// Stream and number.
    pub fn place(&self) -> (Id, i64) {
        match self {
            Self::Event(event) => (event.stream, event.seq),
            Self::Malformed { stream, seq, .. } => (*stream, *seq),
        }
    }
}

/// The rows behind a place, in the order of the chain.
pub async fn in_chain_order(
    db: &mut Connection,
    (stream, seq): (Id, i64),
    limit: i64,
) -> Result<Vec<ChainRow>, StoreError> {
    let statement = select!("where (stream, seq) > ($1, $2) order by stream, seq limit $3")
        .bind(stream)
        .bind(seq)
        .bind(limit);
    db.all(statement, read_anything).await
}

/// The events that name the heads of other streams.
pub async fn with_heads(db: &mut Connection) -> Result<Vec<ChainRow>, StoreError> {
    let statement = select!("where heads is not null order by stream, seq");
    db.all(statement, read_anything).await
}

/// Number and MAC of every event of a stream.
pub async fn macs(
    db: &mut Connection,
    stream: Id,
    limit: i64,
) -> Result<Vec<(i64, Option<Mac>)>, StoreError> {
    let statement = sql("select seq, mac from audit_events where stream = $1 order by seq limit $2");
    db.all(statement.bind(stream).bind(limit), |row| {
        Ok((row.int("seq")?, row.maybe_mac("mac").ok().flatten()))
    })
    .await
}

/// The streams whose first event that is left says that it is from before `cutoff`, the oldest first.
pub async fn beginning_before(db: &mut Connection, cutoff: Timestamp) -> Result<Vec<Id>, StoreError> {
    let statement = sql(
        "with recursive streams (stream) as (select (select stream from audit_events order by stream, seq limit 1) \
         union all select (select stream from audit_events where stream > before.stream order by stream, seq limit 1) \
         from streams as before where before.stream is not null) \
         select stream from (select stream, (select at from audit_events where stream = streams.stream order by seq limit 1) as at \
         from streams where stream is not null) as first where at < $1 order by at, stream",
    );
    db.all(statement.bind(cutoff), |row| row.id("stream")).await
}

/// Whether there is an event of this stream.
pub async fn is_any_of(db: &mut Connection, stream: Id) -> Result<bool, StoreError> {
    let statement = sql("select 1 as found from audit_events where stream = $1 limit 1").bind(stream);
    Ok(db.optional(statement, |_| Ok(())).await?.is_some())
}

/// Removes the beginning of a stream, for which there must be a pruning record, and tells how many events that were.
pub async fn delete_up_to(tx: &mut Tx, head: Head) -> Result<u64, StoreError> {
    let statement = sql("delete from audit_events where stream = $1 and seq <= $2");
    tx.execute(statement.bind(head.stream).bind(head.seq)).await
}

/// The highest number of each stream.
pub async fn ends(db: &mut Connection) -> Result<HashMap<Id, i64>, StoreError> {
    let statement = sql("select stream, max(seq) as seq from audit_events group by stream");
    Ok(db.all(statement, |row| Ok((row.id("stream")?, row.int("seq")?))).await?.into_iter().collect())
}

/// How many events there are.
pub async fn count(db: &mut Connection) -> Result<i64, StoreError> {
    let found = db.optional(sql("select count(*) as number from audit_events"), |row| row.int("number"));
    Ok(found.await?.unwrap_or(0))
}

fn read_anything(row: &Row<'_>) -> Result<ChainRow, StoreError> {
    match read(row) {
        Ok(event) => Ok(ChainRow::Event(event)),
        Err(StoreError::Inconsistent { column }) => {
            Ok(ChainRow::Malformed { stream: row.id("stream")?, seq: row.int("seq")?, column })
        }
        Err(other) => Err(other),
    }
}

fn read(row: &Row<'_>) -> Result<RecordedEvent, StoreError> {
    Ok(RecordedEvent {
        at: row.time("at")?,
        id: row.id("id")?,
        stream: row.id("stream")?,
        seq: row.int("seq")?,
        action: row.text("action")?,
        outcome: row.text("outcome")?,
        actor: row.text("actor")?,
        principal_id: row.maybe_id("principal_id")?,
        principal_kind: row.maybe_text("principal_kind")?,
        client_id: row.maybe_text("client_id")?,
        credential: row.maybe_text("credential")?,
        object: row.maybe_text("object")?,
        version: row.maybe_text("version")?,
        detail: row.maybe_text("detail")?,
        source: row.text("source")?,
        request_id: row.text("request_id")?,
        reason: row.maybe_text("reason")?,
        heads: row.maybe_text("heads")?,
        mac: row.maybe_mac("mac")?,
    })
}
