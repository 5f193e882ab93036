//! The engine: connections, transactions, statements, rows, migrations. All that is particular to SQLite is in this file.
//!
//! One connection writes (SQLite has one writer anyway, and queueing for it here is fairer than its busy handler), a few
//! read. `synchronous=FULL`: with `NORMAL`, acknowledged transactions are lost at a power cut.

mod integrity;
mod pieces;
mod row;
mod statement;
mod writer;

use std::{
    fs, io, ops,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use sqlx::{
    SqlSafeStr as _, Sqlite, SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
    pool::PoolConnection,
    sqlite::{
        SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
    },
};
use tracing::{Instrument as _, Span};

pub(super) use pieces::{Pieces, pieces};
pub(super) use row::{Read, Row};
pub(super) use statement::{Statement, sql};
use writer::{Turn, Writer};

pub use writer::Held;

/// How long a request waits for a connection, and then for another process's lock, before it is told to come back. Both
/// together are less than the five seconds after which clients give up.
const WAIT: Duration = Duration::from_secs(2);
const READERS: u32 = 4;

const MIGRATIONS: [(i64, &str, &str); 7] = [
    (1, "init", include_str!("../../migrations/sqlite/0001_init.sql")),
    (2, "tokens", include_str!("../../migrations/sqlite/0002_tokens.sql")),
    (3, "chain", include_str!("../../migrations/sqlite/0003_chain.sql")),
    (4, "networks", include_str!("../../migrations/sqlite/0004_networks.sql")),
    (5, "alarms", include_str!("../../migrations/sqlite/0005_alarms.sql")),
    (6, "audit_by_place", include_str!("../../migrations/sqlite/0006_audit_by_place.sql")),
    (7, "alarm_reads_by_hour", include_str!("../../migrations/sqlite/0007_alarm_reads_by_hour.sql")),
];

/// What can go wrong in the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, is full, locked or damaged. The cause is for the log.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// Something with this name is already there.
    #[error("it exists already")]
    Exists,
    /// Something else still refers to it.
    #[error("something still refers to it")]
    InUse,
    /// A row that our rules do not allow.
    #[error("column {column} of a row holds what it must not")]
    Inconsistent {
        /// The column.
        column: String,
    },
    /// A schema newer than this program.
    #[error("the database was written by a newer keydesk (schema {found}, this one knows {known})")]
    Newer {
        /// The version in the database.
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// Not a database of ours.
    #[error("the file is not a keydesk database{0}")]
    NotOurs(&'static str),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error() {
            Some(cause) if cause.is_unique_violation() => Self::Exists,
            // `on delete restrict` is reported as a trigger's constraint, so that only the message tells.
            Some(cause) if cause.message().contains("FOREIGN KEY constraint failed") => Self::InUse,
            _ => Self::Unavailable(error),
        }
    }
}

/// The database of a desk.
#[derive(Clone, Debug)]
pub struct Store {
    write: Writer,
    read: SqlitePool,
    file: Arc<Path>,
    known: Arc<Known>,
}

/// What is known of the database without asking it.
#[derive(Debug, Default)]
struct Known {
    revision: AtomicI64,
}

impl Store {
    /// Opens the database file, which must exist unless `create`, and brings its schema up to date.
    pub async fn open(path: &Path, create: bool) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(WAIT)
            .pragma("trusted_schema", "OFF");
        let write = Writer::open(options.clone()).await?;
        let mut first = write.turn().await?;
        migrator()
            .run(&mut *first)
            .await
            .map_err(|error| StoreError::Unavailable(sqlx::Error::Migrate(Box::new(error))))?;
        drop(first);
        // After the writer, which creates the file and switches it to WAL.
        let pool = SqlitePoolOptions::new().max_connections(READERS).acquire_timeout(WAIT);
        // A file that can still be read needs no asking.
        let pool = pool.test_before_acquire(false);
        let read = pool.connect_with(options.create_if_missing(false).read_only(true)).await?;
        let store = Self { write, read, file: Arc::from(path), known: Arc::default() };
        super::keys::revision(&mut store.read().await?).await?;
        Ok(store)
    }

    /// The newest revision that this process knows of: at least that of its own last commit. What other processes have
    /// changed is noticed by whoever reads the revision from the database.
    pub fn revision(&self) -> i64 {
        self.known.revision.load(Ordering::Acquire)
    }

    /// The file on whose disk everything is.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// How many bytes the database takes, with what is not yet moved from the write-ahead log.
    pub fn size(&self) -> io::Result<u64> {
        let mut log = self.file.as_os_str().to_owned();
        log.push("-wal");
        Ok(fs::metadata(&self.file)?.len() + fs::metadata(log).map_or(0, |log| log.len()))
    }

    /// Looks into an existing database without changing a byte of it: is it ours, and not newer than we are?
    pub async fn inspect(path: &Path) -> Result<Connection, StoreError> {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(WAIT);
        let pool =
            SqlitePoolOptions::new().max_connections(1).acquire_timeout(WAIT).connect_with(options).await;
        let mut connection = pool.map_err(not_ours)?.acquire().await.map_err(not_ours)?;
        let found: Option<i64> =
            sqlx::query_scalar("select max(version) from _sqlx_migrations where success")
                .fetch_one(&mut *connection)
                .await
                .map_err(not_ours)?;
        let known = MIGRATIONS[MIGRATIONS.len() - 1].0;
        match found {
            None => Err(StoreError::NotOurs(": it has no tables")),
            Some(found) if found > known => Err(StoreError::Newer { found, known }),
            Some(_) => Ok(Connection { inner: Inner::Read(connection), known: Arc::default() }),
        }
    }

    /// Begins a unit of work that writes. Nothing happens unless [`Tx::commit`] is called.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        self.begin_at(self.write.turn()).await
    }

    /// The same for the writer of the book: before it there may be as many logins as passwords are being checked, and key
    /// reads must not wait for them.
    pub async fn begin_ahead(&self) -> Result<Tx, StoreError> {
        self.begin_at(self.write.turn_ahead()).await
    }

    /// While the answer is kept, no unit of work of this process begins but the book's: what is decided meanwhile stands when it
    /// is written down, unless another process changes something. Whoever keeps it must not begin one.
    pub async fn hold_changes(&self) -> Result<Held, StoreError> {
        Ok(self.write.hold().await?)
    }

    async fn begin_at(
        &self,
        turn: impl Future<Output = Result<Turn, sqlx::Error>>,
    ) -> Result<Tx, StoreError> {
        let begin = async {
            let mut connection = turn.await?;
            // At once, because each statement is a way to SQLite's thread and back.
            let begin = "begin immediate; select value from revision";
            let revision = sqlx::query_scalar(begin).fetch_one(&mut *connection).await?;
            let connection = self.connection(Inner::Write(connection));
            connection.saw_revision(revision);
            Ok(Tx { connection, revision, bumped: None })
        };
        begin.instrument(span("begin immediate")).await
    }

    /// A connection that only reads.
    pub async fn read(&self) -> Result<Connection, StoreError> {
        Ok(self.connection(Inner::Read(self.read.acquire().await?)))
    }

    /// A connection that reads everything as it is at one moment, whatever is written meanwhile.
    pub async fn snapshot(&self) -> Result<Connection, StoreError> {
        Ok(self.connection(Inner::Snapshot(self.read.begin().await?)))
    }

    fn connection(&self, inner: Inner) -> Connection {
        Connection { inner, known: Arc::clone(&self.known) }
    }

    /// Closes every connection; the last one moves the write-ahead log into the database.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// A damaged or foreign file, told apart from one that is only out of reach.
fn not_ours(error: sqlx::Error) -> StoreError {
    match error.as_database_error().map(|cause| cause.message().to_owned()) {
        Some(message) if message.contains("no such table") => {
            StoreError::NotOurs(": it has no tables of ours")
        }
        Some(message) if message.contains("not a database") || message.contains("malformed") => {
            StoreError::NotOurs(", or it is damaged: restore it from a backup")
        }
        _ => StoreError::Unavailable(error),
    }
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.into_iter().map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// A connection, reading or inside a unit of work.
#[derive(Debug)]
pub struct Connection {
    inner: Inner,
    known: Arc<Known>,
}

#[derive(Debug)]
enum Inner {
    Read(PoolConnection<Sqlite>),
    Snapshot(sqlx::Transaction<'static, Sqlite>),
    Write(Turn),
}

/// A unit of work. Dropped without [`Tx::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Tx {
    connection: Connection,
    /// The revision that it found.
    revision: i64,
    /// The revision that it makes.
    bumped: Option<i64>,
}

impl Tx {
    /// Makes everything durable: when this returns, a power cut cannot undo it.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.connection.execute(sql("commit")).await?;
        if let Inner::Write(turn) = &mut self.connection.inner {
            turn.ended = true;
        }
        if let Some(revision) = self.bumped {
            self.connection.saw_revision(revision);
        }
        Ok(())
    }

    /// The revision at which it began. Nobody else moves it before the end.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Marks that something which decides access has changed, so that every cache of every process is stale.
    pub async fn bump_revision(&mut self) -> Result<(), StoreError> {
        let statement = sql("update revision set value = value + 1 returning value");
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
    /// From now on the process knows of `revision`.
    pub(super) fn saw_revision(&self, revision: i64) {
        self.known.revision.fetch_max(revision, Ordering::AcqRel);
    }

    fn sqlite(&mut self) -> &mut SqliteConnection {
        match &mut self.inner {
            Inner::Read(connection) => connection,
            Inner::Write(turn) => turn,
            Inner::Snapshot(transaction) => transaction,
        }
    }

    /// Runs a statement and tells how many rows it touched.
    pub(super) async fn execute(&mut self, statement: Statement) -> Result<u64, StoreError> {
        let span = span(statement.text);
        Ok(statement.query().execute(self.sqlite()).instrument(span).await?.rows_affected())
    }

    /// The rows of a query, each read by `read`.
    pub(super) async fn all<T>(&mut self, statement: Statement, read: Read<T>) -> Result<Vec<T>, StoreError> {
        let span = span(statement.text);
        let rows = statement.query().fetch_all(self.sqlite()).instrument(span).await?;
        rows.iter().map(|row| read(&Row(row))).collect()
    }

    /// The first row of a query, if there is one.
    pub(super) async fn optional<T>(
        &mut self,
        statement: Statement,
        read: Read<T>,
    ) -> Result<Option<T>, StoreError> {
        let span = span(statement.text);
        let row = statement.query().fetch_optional(self.sqlite()).instrument(span).await?;
        row.as_ref().map(|row| read(&Row(row))).transpose()
    }

    /// Whether the database can be read at this moment.
    pub async fn check_reading(&mut self) -> Result<(), StoreError> {
        self.optional(sql("select value from revision"), |row| row.int("value")).await.map(drop)
    }
}

/// The span of a statement, in the trace of whoever waits for it. The text is ours and fixed; the values are left out.
fn span(text: &'static str) -> Span {
    tracing::info_span!(
        "db.query",
        otel.name = text.split(' ').next(),
        otel.kind = "client",
        db.system.name = "sqlite",
        db.query.text = text
    )
}

/// The error of a row whose `column` holds what our rules do not allow.
pub(super) fn inconsistent(column: &str) -> StoreError {
    StoreError::Inconsistent { column: column.to_owned() }
}

/// An update or delete that must have hit a row it was told of.
pub(super) fn must_hit(rows: u64, table: &str) -> Result<(), StoreError> {
    if rows == 0 { Err(inconsistent(table)) } else { Ok(()) }
}
