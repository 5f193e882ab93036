//! `audit_events`: the book.

use super::{
    Connection, StoreError, Tx,
    db::{Row, sql},
};
use crate::model::{
    Timestamp,
    audit::{Position, RecordedEvent},
};

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

/// Writes `event` in its place.
pub async fn insert(tx: &mut Tx, event: RecordedEvent) -> Result<(), StoreError> {
    let statement = sql("insert into audit_events (id, stream, seq, at, action, outcome, actor, principal_id, principal_kind, \
                         client_id, credential, object, version, detail, source, request_id, reason, heads, mac) values \
                         ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)")
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
    .bind(event.mac);
    tx.execute(statement).await.map(drop)
}

/// The newest events below `before` that pass the filter, newest first. Both ends are always bound, so that the index
/// leads to the page however deep it is.
pub async fn newest(
    db: &mut Connection,
    filter: Filter,
    before: Position,
    limit: i64,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let statement =
        sql("select id, stream, seq, at, action, outcome, actor, principal_id, principal_kind, client_id, \
                         credential, object, version, detail, source, request_id, reason, heads, mac from audit_events \
                         where ($1 is null or actor = $1) and ($2 is null or action = $2) \
                         and ($3 is null or outcome = $3) and at >= $4 and (at, stream, seq) < ($5, $6, $7) \
                         order by at desc, stream desc, seq desc limit $8")
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
