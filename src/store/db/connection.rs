//! A connection, and a unit of work on one: the same for whoever uses it, whichever engine is behind.

use std::{
    ops,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sqlx::{PgConnection, Postgres, Sqlite, pool::PoolConnection, sqlite::SqliteConnection};
use tokio::{runtime::Handle, sync::OwnedSemaphorePermit};
use tracing::{Instrument as _, Span};

use super::{
    Known, Read, Row, Statement, StoreError,
    postgres::{self, patiently},
    sql,
    writer::{Turn, Wire},
};

/// A connection, reading or inside a unit of work.
#[derive(Debug)]
pub struct Connection {
    inner: Inner,
    known: Arc<Known>,
    /// Kept by who reads for long from SQLite.
    pub(super) turn: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
pub(super) enum Inner {
    Sqlite(PoolConnection<Sqlite>),
    Snapshot(sqlx::Transaction<'static, Sqlite>),
    Postgres(Reader),
    Write(Turn),
}

/// A connection that reads from PostgreSQL.
#[derive(Debug)]
pub(super) struct Reader {
    connection: Option<PoolConnection<Postgres>>,
    /// Whether it is good for others.
    pub(super) keep: bool,
    pub(super) patience: Duration,
    /// Kept by who reads for long, in a transaction, until the server has really ended that.
    pub(super) long: Option<OwnedSemaphorePermit>,
}

impl Reader {
    pub(super) fn of(connection: PoolConnection<Postgres>) -> Self {
        Self { connection: Some(connection), keep: true, patience: postgres::PATIENCE, long: None }
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        match &mut self.connection {
            Some(connection) => connection,
            None => unreachable!("it is taken when this is dropped"),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        match (self.keep, self.long.take(), Handle::try_current()) {
            (true, None, _) => {}
            // Whoever asked may have gone in the middle of a statement: the server works on it all the same.
            (true, Some(turn), Ok(runtime)) => drop(runtime.spawn(async move {
                if !postgres::end_snapshot(&mut connection).await {
                    drop(connection.detach());
                }
                drop(turn);
            })),
            _ => drop(connection.detach()),
        }
    }
}

/// Whom a statement is sent to.
pub(super) enum Engine<'c> {
    Sqlite(&'c mut SqliteConnection),
    /// With how long to wait for it, and where to say that it was in vain.
    Postgres(&'c mut PgConnection, Duration, Option<&'c mut bool>),
}

/// A unit of work. Dropped without [`Tx::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Tx {
    pub(super) connection: Connection,
    /// The revision that it found.
    pub(super) revision: i64,
    /// The revision that it makes.
    pub(super) bumped: Option<i64>,
}

impl Tx {
    /// Makes everything durable: when this returns, a power cut cannot undo it.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        if let Inner::Write(turn) = &mut self.connection.inner {
            let patience = turn.patience;
            match &mut **turn {
                Wire::Sqlite(connection) => {
                    let commit = sqlx::query("commit").execute(connection);
                    commit.instrument(span("sqlite", "commit")).await?;
                }
                Wire::Postgres(connection) => {
                    let commit = postgres::commit(connection, patience);
                    commit.instrument(span("postgresql", "commit")).await?;
                }
            }
            turn.ended = true;
        }
        if let Some(revision) = self.bumped {
            self.connection.saw_revision(revision);
        }
        Ok(())
    }

    /// From now on it may take its time.
    pub(super) async fn be_patient(&mut self) -> Result<(), StoreError> {
        if let Inner::Write(turn) = &mut self.connection.inner {
            turn.patience = postgres::LONG_PATIENCE;
            if let Wire::Postgres(connection) = &mut **turn {
                postgres::be_patient(connection).await?;
            }
        }
        Ok(())
    }

    /// The revision at which it began. Nobody else moves it before the end.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Marks that something which decides access has changed, so that every cache of every process is stale.
    pub async fn bump_revision(&mut self) -> Result<(), StoreError> {
        let statement = match self.connection.engine() {
            Engine::Sqlite(_) => sql("update revision set value = value + 1 returning value"),
            Engine::Postgres(..) => sql(postgres::BUMP),
        };
        self.bumped = self.optional(statement, |row| row.int("value")).await?;
        Ok(())
    }
}

impl ops::Deref for Tx {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl ops::DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl Connection {
    pub(super) fn new(inner: Inner, known: Arc<Known>) -> Self {
        Self { inner, known, turn: None }
    }

    /// From now on the process knows of `revision`.
    pub(in crate::store) fn saw_revision(&self, revision: i64) {
        self.known.revision.fetch_max(revision, Ordering::AcqRel);
    }

    pub(super) fn engine(&mut self) -> Engine<'_> {
        match &mut self.inner {
            Inner::Sqlite(connection) => Engine::Sqlite(connection),
            Inner::Snapshot(transaction) => Engine::Sqlite(transaction),
            Inner::Postgres(reader) => {
                let Reader { connection: Some(connection), keep, patience, .. } = reader else {
                    unreachable!("it is taken when this is dropped")
                };
                Engine::Postgres(connection, *patience, Some(keep))
            }
            Inner::Write(turn) => {
                let patience = turn.patience;
                match &mut **turn {
                    Wire::Sqlite(connection) => Engine::Sqlite(connection),
                    // Whoever drops the turn sees that the connection is of no use.
                    Wire::Postgres(connection) => Engine::Postgres(connection, patience, None),
                }
            }
        }
    }

    /// Runs a statement and tells how many rows it touched.
    pub(in crate::store) async fn execute(&mut self, statement: Statement) -> Result<u64, StoreError> {
        let text = statement.text;
        Ok(match self.engine() {
            Engine::Sqlite(connection) => {
                let work = statement.sqlite().execute(connection);
                work.instrument(span("sqlite", text)).await?.rows_affected()
            }
            Engine::Postgres(connection, patience, keep) => {
                let work = patiently(patience, statement.postgres().execute(connection));
                good_for_others(keep, work.instrument(span("postgresql", text)).await)?.rows_affected()
            }
        })
    }

    /// Runs two statements, whose places are `?`, and tells how many rows they touched together. To SQLite they go at once.
    pub(in crate::store) async fn execute_both(
        &mut self,
        first: Statement,
        second: Statement,
    ) -> Result<u64, StoreError> {
        match self.engine() {
            Engine::Sqlite(_) => self.execute(first.followed_by(second)).await,
            Engine::Postgres(..) => Ok(self.execute(first).await? + self.execute(second).await?),
        }
    }

    /// The rows of a query, each read by `read`.
    pub(in crate::store) async fn all<T>(
        &mut self,
        statement: Statement,
        read: Read<T>,
    ) -> Result<Vec<T>, StoreError> {
        let text = statement.text;
        match self.engine() {
            Engine::Sqlite(connection) => {
                let work = statement.sqlite().fetch_all(connection);
                let rows = work.instrument(span("sqlite", text)).await?;
                rows.iter().map(|row| read(&Row::Sqlite(row))).collect()
            }
            Engine::Postgres(connection, patience, keep) => {
                let work = patiently(patience, statement.postgres().fetch_all(connection));
                let rows = good_for_others(keep, work.instrument(span("postgresql", text)).await)?;
                rows.iter().map(|row| read(&Row::Postgres(row))).collect()
            }
        }
    }

    /// The first row of a query, if there is one.
    pub(in crate::store) async fn optional<T>(
        &mut self,
        statement: Statement,
        read: Read<T>,
    ) -> Result<Option<T>, StoreError> {
        let text = statement.text;
        match self.engine() {
            Engine::Sqlite(connection) => {
                let work = statement.sqlite().fetch_optional(connection);
                let row = work.instrument(span("sqlite", text)).await?;
                row.as_ref().map(|row| read(&Row::Sqlite(row))).transpose()
            }
            Engine::Postgres(connection, patience, keep) => {
                let work = patiently(patience, statement.postgres().fetch_optional(connection));
                let row = good_for_others(keep, work.instrument(span("postgresql", text)).await)?;
                row.as_ref().map(|row| read(&Row::Postgres(row))).transpose()
            }
        }
    }

    /// Whether the database can be read at this moment.
    pub async fn check_reading(&mut self) -> Result<(), StoreError> {
        self.optional(sql("select value from revision"), |row| row.int("value")).await.map(drop)
    }
}

/// Notes in `keep` whether a connection is good for others after this: not if the server did not answer, or is gone.
fn good_for_others<T>(keep: Option<&mut bool>, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
    if let (Some(keep), Err(sqlx::Error::Io(_))) = (keep, &result) {
        *keep = false;
    }
    result
}

/// The span of a statement, in the trace of whoever waits for it. The text is ours and fixed; the values are left out.
pub(super) fn span(engine: &'static str, text: &'static str) -> Span {
    tracing::info_span!(
        "db.query",
        otel.name = text.split(' ').next(),
        otel.kind = "client",
        db.system.name = engine,
        db.query.text = text
    )
}
