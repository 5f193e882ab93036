//! `alarm_marks`, `alarm_networks`, `alarm_reads`, and `audit_streams.watched`: how far the rules have read the book, and what they
//! remember of it.

use super::{
    Connection, StoreError, Tx,
    db::{Pieces, Row, Statement, pieces, sql},
};
use crate::model::{Id, Timestamp};

/// What the rules see of an event.
#[derive(Clone, Debug)]
pub struct SeenEvent {
    /// When.
    pub at: Timestamp,
    /// `noun.verb`.
    pub action: String,
    /// `allowed`, `denied` or `failed`.
    pub outcome: String,
    /// Who.
    pub actor: String,
    /// The principal, where the actor is one.
    pub principal_id: Option<Id>,
    /// `user` or `service_account`, where the actor is one.
    pub principal_kind: Option<String>,
    /// To what.
    pub object: Option<String>,
    /// From where.
    pub source: String,
    /// The request.
    pub request_id: String,
    /// Why it was refused or failed.
    pub reason: Option<String>,
}

/// The key reads of a principal from one source within an hour. There are so many that they are only counted.
#[derive(Clone, Debug)]
pub struct SeenReads {
    /// The principal.
    pub principal_id: Id,
    /// `user:alice`.
    pub who: String,
    /// From where.
    pub source: String,
    /// The hour, from 1970.
    pub hour: i64,
    /// How many.
    pub reads: i64,
    /// When the first of them was.
    pub at: Timestamp,
    /// One of the requests.
    pub request_id: String,
}

/// A piece of a stream that has not been read yet: the events after `from` up to and with `to`.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// The stream.
    pub stream: Id,
    /// Up to where it has been read.
    pub from: i64,
    /// The last event of the piece.
    pub to: i64,
}

/// The streams that have grown since they were read; `None` for a row that is malformed, which is a finding and no reason to
/// read nothing.
pub async fn grown(db: &mut Connection) -> Result<Vec<Option<Piece>>, StoreError> {
    let statement = sql("select stream, watched, seq from audit_streams where watched < seq order by stream");
    db.all(statement, |row| Ok(read_piece(row).ok())).await
}

fn read_piece(row: &Row<'_>) -> Result<Piece, StoreError> {
    Ok(Piece { stream: row.id("stream")?, from: row.int("watched")?, to: row.int("seq")? })
}

/// Whether any stream is said to have been read, or to stand in a checkpoint, further than it goes.
pub async fn is_ahead(db: &mut Connection) -> Result<bool, StoreError> {
    let statement = sql("select seq from audit_streams where watched > seq or anchored > seq limit 1");
    Ok(db.optional(statement, |row| row.int("seq")).await?.is_some())
}

/// Such streams are read on from their ends, and stand in the next checkpoint.
pub async fn set_back(tx: &mut Tx) -> Result<(), StoreError> {
    tx.execute(sql("update audit_streams set watched = seq where watched > seq")).await?;
    tx.execute(sql("update audit_streams set anchored = 0 where anchored > seq")).await.map(drop)
}

/// The events of a piece, in order, but for successful key reads; `None` for one that is malformed.
pub async fn events(db: &mut Connection, piece: Piece) -> Result<Vec<Option<SeenEvent>>, StoreError> {
    let statement = sql(
        "select at, action, outcome, actor, principal_id, principal_kind, object, source, request_id, reason \
                         from audit_events where stream = $1 and seq > $2 and seq <= $3 \
                         and not (action = 'llm_keys.read' and outcome = 'allowed') order by seq",
    );
    let statement = statement.bind(piece.stream).bind(piece.from).bind(piece.to);
    db.all(statement, |row| Ok(read_event(row).ok())).await
}

fn read_event(row: &Row<'_>) -> Result<SeenEvent, StoreError> {
    Ok(SeenEvent {
        at: row.time("at")?,
        action: row.text("action")?,
        outcome: row.text("outcome")?,
        actor: row.text("actor")?,
        principal_id: row.maybe_id("principal_id")?,
        principal_kind: row.maybe_text("principal_kind")?,
        object: row.maybe_text("object")?,
        source: row.text("source")?,
        request_id: row.text("request_id")?,
        reason: row.maybe_text("reason")?,
    })
}

/// The successful key reads of a piece, counted; `None` where they are malformed.
pub async fn reads(db: &mut Connection, piece: Piece) -> Result<Vec<Option<SeenReads>>, StoreError> {
    let statement = sql(
        "select principal_id, max(principal_kind) as kind, max(actor) as actor, source, at / 3600000000 as hour, \
                         count(*) as reads, min(at) as at, max(request_id) as request_id from audit_events \
                         where stream = $1 and seq > $2 and seq <= $3 and action = 'llm_keys.read' and outcome = 'allowed' \
                         and principal_id is not null group by principal_id, source, at / 3600000000",
    );
    let statement = statement.bind(piece.stream).bind(piece.from).bind(piece.to);
    db.all(statement, |row| Ok(read_reads(row).ok())).await
}

fn read_reads(row: &Row<'_>) -> Result<SeenReads, StoreError> {
    Ok(SeenReads {
        principal_id: row.id("principal_id")?,
        who: format!("{}:{}", row.text("kind")?, row.text("actor")?),
        source: row.text("source")?,
        hour: row.int("hour")?,
        reads: row.int("reads")?,
        at: row.time("at")?,
        request_id: row.text("request_id")?,
    })
}

/// Remembers that a piece was read. Tells whether it had not been: of two processes that read the same events, one goes on.
pub async fn advance(tx: &mut Tx, piece: Piece) -> Result<bool, StoreError> {
    let statement = sql("update audit_streams set watched = $3 where stream = $1 and watched = $2");
    Ok(tx.execute(statement.bind(piece.stream).bind(piece.from).bind(piece.to)).await? == 1)
}

/// Notes that `item` was seen with `subject`, and tells how many different ones have been since `since`.
pub async fn mark(
    tx: &mut Tx,
    kind: &str,
    subject: &str,
    item: &str,
    at: Timestamp,
    since: Timestamp,
) -> Result<i64, StoreError> {
    let statement = sql("insert into alarm_marks (kind, subject, item, at) values ($1, $2, $3, $4) \
                         on conflict (kind, subject, item) do update set at = excluded.at");
    tx.execute(statement.bind(kind).bind(subject).bind(item).bind(at)).await?;
    let statement =
        sql("select count(*) as items from alarm_marks where kind = $1 and subject = $2 and at > $3");
    let count = tx.optional(statement.bind(kind).bind(subject).bind(since), |row| row.int("items")).await?;
    Ok(count.unwrap_or(0))
}

/// The networks that these principals have come from, and when last.
pub async fn networks(
    db: &mut Connection,
    principals: Vec<Id>,
) -> Result<Vec<(Id, String, Timestamp)>, StoreError> {
    static SELECT: Pieces = pieces!(
        // In this order, or the whole table could be gone through for a few of them.
        "select principal_id, network, seen_at from (values ",
        "(?)",
        ") as asked cross join alarm_networks where principal_id = column1"
    );
    let mut found = Vec::new();
    for (_, statement) in SELECT.of(principals, Statement::bind) {
        let read = |row: &Row<'_>| Ok((row.id("principal_id")?, row.text("network")?, row.time("seen_at")?));
        found.extend(db.all(statement, read).await?);
    }
    Ok(found)
}

/// Remembers when principals were in these networks. No network of a principal may be among them twice.
pub async fn remember_networks(tx: &mut Tx, seen: Vec<(Id, String, Timestamp)>) -> Result<(), StoreError> {
    static UPSERT: Pieces = pieces!(
        "insert into alarm_networks (principal_id, network, seen_at) select * from (values ",
        "(?, ?, ?)",
        ") as rows where column1 is not null \
         on conflict (principal_id, network) do update set seen_at = excluded.seen_at"
    );
    let bind = |statement: Statement, (principal, network, at): (Id, String, Timestamp)| {
        statement.bind(principal).bind(network).bind(at)
    };
    for (_, statement) in UPSERT.of(seen, bind) {
        tx.execute(statement).await?;
    }
    Ok(())
}

/// Of more than `keep` networks of a principal the oldest are forgotten.
pub async fn forget_networks(tx: &mut Tx, principal: Id, keep: i64) -> Result<(), StoreError> {
    let statement = sql(
        "delete from alarm_networks where principal_id = $1 and network not in (select network \
                         from alarm_networks where principal_id = $1 order by seen_at desc, network limit $2)",
    );
    tx.execute(statement.bind(principal).bind(keep)).await.map(drop)
}

/// Adds key reads of principals in an hour each, and tells how many there are now. No hour of a principal may be among them
/// twice.
pub async fn add_reads(tx: &mut Tx, reads: Vec<(Id, i64, i64)>) -> Result<Vec<(Id, i64, i64)>, StoreError> {
    static UPSERT: Pieces = pieces!(
        "insert into alarm_reads (principal_id, hour, reads) select * from (values ",
        "(?, ?, ?)",
        ") as rows where column1 is not null \
         on conflict (principal_id, hour) do update set reads = alarm_reads.reads + excluded.reads \
         returning principal_id, hour, reads"
    );
    let bind = |statement: Statement, (principal, hour, reads): (Id, i64, i64)| {
        statement.bind(principal).bind(hour).bind(reads)
    };
    let mut found = Vec::with_capacity(reads.len());
    for (_, statement) in UPSERT.of(reads, bind) {
        let read = |row: &Row<'_>| Ok((row.id("principal_id")?, row.int("hour")?, row.int("reads")?));
        found.extend(tx.all(statement, read).await?);
    }
    Ok(found)
}

/// The most key reads of principals in any hour before these, as far as `past` hours back; left out where there were none.
pub async fn most_reads(
    db: &mut Connection,
    hours: Vec<(Id, i64)>,
    past: i64,
) -> Result<Vec<(Id, i64, i64)>, StoreError> {
    static SELECT: Pieces = pieces!(
        "select principal_id, column3 as hour, max(reads) as reads from (values ",
        "(?, ?, ?)",
        ") as asked cross join alarm_reads where principal_id = column1 and hour >= column2 and hour < column3 \
         group by principal_id, column3"
    );
    let bind = |statement: Statement, (principal, first, end): (Id, i64, i64)| {
        statement.bind(principal).bind(first).bind(end)
    };
    let spans = hours.into_iter().map(|(principal, hour)| (principal, hour - past, hour)).collect();
    let mut found = Vec::new();
    for (_, statement) in SELECT.of(spans, bind) {
        let read = |row: &Row<'_>| Ok((row.id("principal_id")?, row.int("hour")?, row.int("reads")?));
        found.extend(db.all(statement, read).await?);
    }
    Ok(found)
}

/// Forgets what no rule looks at any more.
pub async fn forget(
    tx: &mut Tx,
    marks_before: Timestamp,
    networks_before: Timestamp,
    reads_before_hour: i64,
) -> Result<(), StoreError> {
    tx.execute(sql("delete from alarm_marks where at < $1").bind(marks_before)).await?;
    // The last network of each stays: who comes back after a long time is not new.
    let statement =
        sql("delete from alarm_networks where seen_at < $1 and seen_at < (select max(newer.seen_at) \
                         from alarm_networks newer where newer.principal_id = alarm_networks.principal_id)");
    tx.execute(statement.bind(networks_before)).await?;
    tx.execute(sql("delete from alarm_reads where hour < $1").bind(reads_before_hour)).await.map(drop)
}
