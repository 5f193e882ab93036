//! `outbox`: messages on their way to webhooks.

use super::{
    Connection, StoreError, Tx,
    db::{Pieces, Row, Statement, pieces, sql},
};
use crate::model::{Id, Timestamp};

/// What has become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is to be sent.
    Waiting,
    /// The receiver has it.
    Delivered,
    /// It was tried often enough.
    GivenUp,
    /// It has no receiver.
    Kept,
}

impl State {
    /// The name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::GivenUp => "given_up",
            Self::Kept => "kept",
        }
    }
}

/// A message as it stands in the table.
#[derive(Clone, Debug)]
pub struct MessageRow {
    /// Its identifier, the same at every attempt.
    pub id: Id,
    /// `alarms` or `checkpoints`.
    pub destination: String,
    /// The rule, if it is an alarm.
    pub rule: Option<String>,
    /// What the alarm is about.
    pub subject: Option<String>,
    /// The message, in JSON.
    pub body: String,
    /// `waiting`, `delivered`, `given_up` or `kept`.
    pub state: String,
    /// How often it was sent.
    pub attempts: i64,
    /// When it is sent next.
    pub next_attempt_at: Option<Timestamp>,
    /// When it was delivered or given up.
    pub finished_at: Option<Timestamp>,
    /// What the receiver answered.
    pub answer: Option<String>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Puts messages in.
pub async fn insert(tx: &mut Tx, messages: Vec<MessageRow>) -> Result<(), StoreError> {
    static INSERT: Pieces = pieces!(
        "insert into outbox (id, destination, rule, subject, body, state, attempts, next_attempt_at, finished_at, \
         answer, last_error, created_at) select * from (values ",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ") as rows where column1 is not null"
    );
    for (_, statement) in INSERT.of(messages, bind) {
        tx.execute(statement).await?;
    }
    Ok(())
}

fn bind(statement: Statement, message: MessageRow) -> Statement {
    statement
        .bind(message.id)
        .bind(message.destination)
        .bind(message.rule)
        .bind(message.subject)
        .bind(message.body)
        .bind(message.state)
        .bind(message.attempts)
        .bind(message.next_attempt_at)
        .bind(message.finished_at)
        .bind(message.answer)
        .bind(message.last_error)
        .bind(message.created_at)
}

/// What is to be sent now, the oldest first. After a clock was set back, nothing waits longer than it would have: what is
/// due later than `horizon` is due.
pub async fn due(
    db: &mut Connection,
    destination: &str,
    now: Timestamp,
    horizon: Timestamp,
    limit: i64,
) -> Result<Vec<MessageRow>, StoreError> {
    let statement = sql(
        "select id, destination, rule, subject, body, state, attempts, next_attempt_at, finished_at, answer, \
                         last_error, created_at from outbox where destination = $1 and state = 'waiting' \
                         and (next_attempt_at <= $2 or next_attempt_at > $3) order by next_attempt_at, id limit $4",
    );
    db.all(statement.bind(destination).bind(now).bind(horizon).bind(limit), read).await
}

/// One message.
pub async fn find(db: &mut Connection, id: Id) -> Result<Option<MessageRow>, StoreError> {
    let statement = sql(
        "select id, destination, rule, subject, body, state, attempts, next_attempt_at, finished_at, answer, \
                         last_error, created_at from outbox where id = $1",
    );
    db.optional(statement.bind(id), read).await
}

/// The newest alarms, newest first.
pub async fn newest_alarms(db: &mut Connection, limit: i64) -> Result<Vec<MessageRow>, StoreError> {
    let statement = sql(
        "select id, destination, rule, subject, body, state, attempts, next_attempt_at, finished_at, answer, \
                         last_error, created_at from outbox where destination = 'alarms' \
                         order by created_at desc, id desc limit $1",
    );
    db.all(statement.bind(limit), read).await
}

/// Counts an attempt that is about to be made, and sets when the next one would be. Tells whether this one may be made:
/// of two processes that want to, one may.
pub async fn claim(tx: &mut Tx, id: Id, attempts: i64, next: Timestamp) -> Result<bool, StoreError> {
    let statement = sql("update outbox set attempts = attempts + 1, next_attempt_at = $3 \
                         where id = $1 and attempts = $2 and state = 'waiting'");
    Ok(tx.execute(statement.bind(id).bind(attempts).bind(next)).await? == 1)
}

/// The message is delivered, or given up.
pub async fn finish(
    tx: &mut Tx,
    id: Id,
    state: State,
    answer: Option<String>,
    error: Option<String>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let statement = sql("update outbox set state = $2, next_attempt_at = null, finished_at = $3, \
                         answer = coalesce($4, answer), last_error = coalesce($5, last_error) where id = $1");
    let statement = statement.bind(id).bind(state.as_str()).bind(now).bind(answer).bind(error);
    tx.execute(statement).await.map(drop)
}

/// The last attempt failed.
pub async fn note_error(tx: &mut Tx, id: Id, error: &str) -> Result<(), StoreError> {
    let statement = sql("update outbox set last_error = $2 where id = $1");
    tx.execute(statement.bind(id).bind(error)).await.map(drop)
}

/// When an alarm of this rule was last made.
pub async fn last_alarm(db: &mut Connection, rule: &str) -> Result<Option<Timestamp>, StoreError> {
    let statement = sql("select created_at from outbox where rule = $1 order by created_at desc limit 1");
    db.optional(statement.bind(rule), |row| row.time("created_at")).await
}

/// When alarms of these rules about these subjects were last made; left out where there were none.
pub async fn last_alarms(
    db: &mut Connection,
    asked: Vec<(&'static str, String)>,
) -> Result<Vec<(String, String, Timestamp)>, StoreError> {
    static SELECT: Pieces = pieces!(
        "select rule, subject, max(created_at) as created_at from (values ",
        "(?, ?)",
        ") as asked cross join outbox where rule = column1 and subject = column2 group by rule, subject"
    );
    let mut found = Vec::new();
    for (_, statement) in SELECT.of(asked, |statement, (rule, subject)| statement.bind(rule).bind(subject)) {
        let read = |row: &Row<'_>| Ok((row.text("rule")?, row.text("subject")?, row.time("created_at")?));
        found.extend(db.all(statement, read).await?);
    }
    Ok(found)
}

/// Forgets finished messages of a destination from before `moment`.
pub async fn forget_older(
    tx: &mut Tx,
    destination: &str,
    moment: Timestamp,
    limit: i64,
) -> Result<u64, StoreError> {
    let statement = sql("delete from outbox where id in (select id from outbox where created_at < $2 \
                         and destination = $1 and state <> 'waiting' limit $3)");
    tx.execute(statement.bind(destination).bind(moment).bind(limit)).await
}

fn read(row: &Row<'_>) -> Result<MessageRow, StoreError> {
    Ok(MessageRow {
        id: row.id("id")?,
        destination: row.text("destination")?,
        rule: row.maybe_text("rule")?,
        subject: row.maybe_text("subject")?,
        body: row.text("body")?,
        state: row.text("state")?,
        attempts: row.int("attempts")?,
        next_attempt_at: row.maybe_time("next_attempt_at")?,
        finished_at: row.maybe_time("finished_at")?,
        answer: row.maybe_text("answer")?,
        last_error: row.maybe_text("last_error")?,
        created_at: row.time("created_at")?,
    })
}
