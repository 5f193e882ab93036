//! The engine: connections, transactions, statements, rows, migrations. All that is particular to SQLite is in this file.
//!
//! One connection writes (SQLite has one writer anyway, and queueing for it here is fairer than its busy handler), a few
//! read. `synchronous=FULL`: with `NORMAL`, acknowledged transactions are lost at a power cut.

mod integrity;

use std::{fs, io, ops, path::Path, sync::Arc, time::Duration};

use sqlx::{
    Row as _, SqlSafeStr as _, Sqlite, SqlitePool, ValueRef as _,
    migrate::{Migration, MigrationType, Migrator},
    pool::PoolConnection,
    sqlite::{
        SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions,
        SqliteRow, SqliteSynchronous,
    },
};
use tracing::{Instrument as _, Span};

use crate::model::{Id, Mac, Networks, Timestamp, TokenDigest};

/// How long a request waits for a connection, and then for another process's lock, before it is told to come back. Both
/// together are less than the five seconds after which clients give up.
const WAIT: Duration = Duration::from_secs(2);
const READERS: u32 = 4;

const MIGRATIONS: [(i64, &str, &str); 5] = [
    (1, "init", include_str!("../../migrations/sqlite/0001_init.sql")),
    (2, "tokens", include_str!("../../migrations/sqlite/0002_tokens.sql")),
    (3, "chain", include_str!("../../migrations/sqlite/0003_chain.sql")),
    (4, "networks", include_str!("../../migrations/sqlite/0004_networks.sql")),
    (5, "alarms", include_str!("../../migrations/sqlite/0005_alarms.sql")),
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
    write: SqlitePool,
    read: SqlitePool,
    file: Arc<Path>,
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
        let pool =
            |connections: u32| SqlitePoolOptions::new().max_connections(connections).acquire_timeout(WAIT);
        let write = pool(1).after_release(|connection, _| Box::pin(is_clean(connection)));
        let write = write.connect_with(options.clone()).await?;
        migrator()
            .run(&write)
            .await
            .map_err(|error| StoreError::Unavailable(sqlx::Error::Migrate(Box::new(error))))?;
        // After the writer, which creates the file and switches it to WAL.
        let read = pool(READERS).connect_with(options.create_if_missing(false).read_only(true)).await?;
        Ok(Self { write, read, file: Arc::from(path) })
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
            Some(_) => Ok(Connection(Inner::Read(connection))),
        }
    }

    /// Begins a unit of work that writes. Nothing happens unless [`Tx::commit`] is called.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        let begin = async {
            let mut connection = self.write.acquire().await?;
            sqlx::query("begin immediate").execute(&mut *connection).await?;
            Ok(Tx(Connection(Inner::Write(connection))))
        };
        begin.instrument(span("begin immediate")).await
    }

    /// A connection that only reads.
    pub async fn read(&self) -> Result<Connection, StoreError> {
        Ok(Connection(Inner::Read(self.read.acquire().await?)))
    }

    /// A connection that reads everything as it is at one moment, whatever is written meanwhile.
    pub async fn snapshot(&self) -> Result<Connection, StoreError> {
        Ok(Connection(Inner::Snapshot(self.read.begin().await?)))
    }

    /// Closes every connection; the last one moves the write-ahead log into the database.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// Leaves the transaction, if there still is one, before the next unit of work gets the connection; a connection that
/// cannot be cleaned is thrown away. Not left to the library: SQLite ends a transaction by itself when the disk is full,
/// and the library then believes for ever that it is inside one.
async fn is_clean(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    match sqlx::query("rollback").execute(connection).await {
        Ok(_) => Ok(true),
        Err(error) => Ok(error.to_string().contains("no transaction is active")),
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
pub struct Connection(Inner);

#[derive(Debug)]
enum Inner {
    Read(PoolConnection<Sqlite>),
    Snapshot(sqlx::Transaction<'static, Sqlite>),
    Write(PoolConnection<Sqlite>),
}

/// A unit of work. Dropped without [`Tx::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Tx(Connection);

impl Tx {
    /// Makes everything durable: when this returns, a power cut cannot undo it.
    pub async fn commit(self) -> Result<(), StoreError> {
        let mut connection = self.0;
        connection.execute(sql("commit")).await.map(drop)
    }

    /// Marks that something which decides access has changed, so that every cache of every process is stale.
    pub async fn bump_revision(&mut self) -> Result<(), StoreError> {
        self.execute(sql("update revision set value = value + 1")).await.map(drop)
    }
}

impl ops::Deref for Tx {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl ops::DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

/// A statement with its arguments. Its text is fixed when the program is built, so nothing a client sends can be part of it.
pub(super) struct Statement {
    text: &'static str,
    arguments: Vec<Value>,
}

/// A statement; `$1`, `$2`, … are given with [`Statement::bind`] in order.
pub(super) fn sql(text: &'static str) -> Statement {
    Statement { text, arguments: Vec::new() }
}

impl Statement {
    pub(super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.arguments.push(value.into());
        self
    }

    fn query(self) -> sqlx::query::Query<'static, Sqlite, SqliteArguments> {
        self.arguments.into_iter().fold(sqlx::query(self.text), |query, value| match value {
            Value::Int(value) => query.bind(value),
            Value::Text(value) => query.bind(value),
            Value::Bytes(value) => query.bind(value),
        })
    }
}

/// What can be bound to a statement.
pub(super) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

macro_rules! into_value {
    ($($from:ty => |$value:ident| $variant:ident($convert:expr);)*) => {$(
        impl From<$from> for Value {
            fn from($value: $from) -> Self {
                Self::$variant(Some($convert))
            }
        }
        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self {
                Self::$variant(value.map(|$value| $convert))
            }
        }
    )*};
}
into_value! {
    i64 => |value| Int(value);
    bool => |value| Int(i64::from(value));
    Timestamp => |value| Int(value.micros());
    &str => |value| Text(value.to_owned());
    String => |value| Text(value);
    Id => |value| Bytes(value.as_bytes().to_vec());
    TokenDigest => |value| Bytes(value.0.to_vec());
    Mac => |value| Bytes(value.0.to_vec());
    Vec<u8> => |value| Bytes(value);
    [u8; 16] => |value| Bytes(value.to_vec());
    [u8; 32] => |value| Bytes(value.to_vec());
}

impl From<&Networks> for Value {
    fn from(networks: &Networks) -> Self {
        // An array of texts: it cannot fail.
        Self::Text(networks.list().and_then(|list| serde_json::to_string(list).ok()))
    }
}

impl Connection {
    fn sqlite(&mut self) -> &mut SqliteConnection {
        match &mut self.0 {
            Inner::Read(connection) | Inner::Write(connection) => connection,
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

/// Reads one row.
pub(super) type Read<T> = fn(&Row<'_>) -> Result<T, StoreError>;

/// A row of a result. Each accessor names the column it could not read.
pub(super) struct Row<'r>(&'r SqliteRow);

impl Row<'_> {
    fn get<'r, T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>>(
        &'r self,
        column: &str,
    ) -> Result<T, StoreError> {
        self.0.try_get(column).map_err(|_| inconsistent(column))
    }

    pub(super) fn int(&self, column: &str) -> Result<i64, StoreError> {
        self.get(column)
    }

    pub(super) fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        self.int(column).map(Timestamp::from_micros)
    }

    pub(super) fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.get::<Option<i64>>(column)?.map(Timestamp::from_micros))
    }

    pub(super) fn text(&self, column: &str) -> Result<String, StoreError> {
        self.get(column)
    }

    pub(super) fn maybe_text(&self, column: &str) -> Result<Option<String>, StoreError> {
        self.get(column)
    }

    pub(super) fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        self.get(column)
    }

    pub(super) fn id(&self, column: &str) -> Result<Id, StoreError> {
        let bytes: [u8; 16] = self.bytes(column)?.try_into().map_err(|_| inconsistent(column))?;
        Ok(Id::from_bytes(bytes))
    }

    pub(super) fn maybe_id(&self, column: &str) -> Result<Option<Id>, StoreError> {
        let present = self.0.try_get_raw(column).is_ok_and(|value| !value.is_null());
        present.then(|| self.id(column)).transpose()
    }

    pub(super) fn maybe_mac(&self, column: &str) -> Result<Option<Mac>, StoreError> {
        let bytes = self.get::<Option<Vec<u8>>>(column)?;
        bytes.map(|bytes| bytes.try_into().map(Mac)).transpose().map_err(|_| inconsistent(column))
    }

    /// Networks as a JSON array; null is anywhere.
    pub(super) fn networks(&self, column: &str) -> Result<Networks, StoreError> {
        let Some(text) = self.maybe_text(column)? else { return Ok(Networks::ANYWHERE) };
        let texts: Vec<String> = serde_json::from_str(&text).map_err(|_| inconsistent(column))?;
        let networks: Result<Vec<_>, _> = texts.iter().map(|text| text.parse()).collect();
        networks.ok().and_then(|list| Networks::within(list).ok()).ok_or_else(|| inconsistent(column))
    }

    /// A text that is one of our words or names.
    pub(super) fn parsed<T: std::str::FromStr>(&self, column: &str) -> Result<T, StoreError> {
        self.text(column)?.parse().map_err(|_| inconsistent(column))
    }
}

/// The error of a row whose `column` holds what our rules do not allow.
pub(super) fn inconsistent(column: &str) -> StoreError {
    StoreError::Inconsistent { column: column.to_owned() }
}

/// An update or delete that must have hit a row it was told of.
pub(super) fn must_hit(rows: u64, table: &str) -> Result<(), StoreError> {
    if rows == 0 { Err(inconsistent(table)) } else { Ok(()) }
}
