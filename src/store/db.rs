//! The engine: connections, transactions, statements, rows, migrations. What differs between SQLite and PostgreSQL is in this
//! module and nowhere else: every other part of the store is one text for both.
//!
//! One connection of a process writes, a few read. SQLite has one writer anyway, and queueing for it here is fairer than its
//! busy handler; with PostgreSQL, too, a process writes one stream of the book, in which one event comes behind the other.

mod connection;
mod integrity;
mod migrations;
mod pieces;
mod postgres;
mod row;
mod sqlite;
mod statement;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use sqlx::{PgPool, SqlitePool};
use tokio::{sync::Semaphore, time::timeout};
use tracing::{Instrument as _, Span};

pub(super) use pieces::{Pieces, pieces};
pub(super) use row::{Read, Row};
pub(super) use statement::{Kind, Statement, Value, sql};
use writer::{Maker, Turn, Wire, Writer};

pub use connection::{Connection, Tx};
use connection::{Engine, Inner, Reader, span};
pub use postgres::{Alone, Server};
pub use writer::Held;

/// How long a request waits for a connection, and then for another process's lock, before it is told to come back. Both
/// together are less than the five seconds after which clients give up.
const WAIT: Duration = Duration::from_secs(2);
/// How long nothing may be heard of changes until a new connection is made for that.
const QUIET: Duration = Duration::from_mins(1);

/// How many at a time may read for long: fewer than there are readers, so that nobody else waits for them.
const LONG_READERS: usize = 2;

/// What can go wrong in the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, is full, locked or damaged. The cause is for the log.
    #[error("the database is not available: {}", said(.0))]
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

/// What a server says, without the place in its program.
fn said(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |said| said.message().to_owned())
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error() {
            Some(cause) if cause.is_unique_violation() => Self::Exists,
            Some(cause) if cause.is_foreign_key_violation() => Self::InUse,
            // SQLite reports `on delete restrict` as a trigger's constraint, so that only the message tells.
            Some(cause) if cause.message().contains("FOREIGN KEY constraint failed") => Self::InUse,
            _ => Self::Unavailable(error),
        }
    }
}

/// Where the database of a desk is.
#[derive(Clone, Debug)]
pub enum Database {
    /// An SQLite file.
    File(PathBuf),
    /// A PostgreSQL server.
    Server(Server),
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(server) => server.fmt(f),
        }
    }
}

/// The database of a desk.
#[derive(Clone, Debug)]
pub struct Store {
    write: Writer,
    read: Readers,
    long: Arc<Semaphore>,
    known: Arc<Known>,
}

#[derive(Clone, Debug)]
enum Readers {
    Sqlite(SqlitePool, Arc<Path>),
    Postgres(PgPool, Server),
}

/// What is known of the database without asking it.
#[derive(Debug, Default)]
struct Known {
    revision: AtomicI64,
}

impl Store {
    /// Opens the database and brings its schema up to date. A file must exist unless `create`.
    pub async fn open(database: &Database, create: bool) -> Result<Self, StoreError> {
        let (write, read) = match database {
            Database::File(path) => {
                let options = sqlite::options(path, create);
                let write = Writer::open(Maker::Sqlite(Box::new(options.clone()))).await?;
                if let Wire::Sqlite(first) = &mut *write.turn().await? {
                    migrations::sqlite().run(first).await.map_err(migration_failed)?;
                }
                (write, Readers::Sqlite(sqlite::readers(options).await?, Arc::from(path.as_path())))
            }
            Database::Server(server) => {
                server.migrate().await?;
                let write = Writer::open(Maker::Postgres(server.clone())).await?;
                (write, Readers::Postgres(server.readers(), server.clone()))
            }
        };
        let long = Arc::new(Semaphore::new(LONG_READERS));
        let store = Self { write, read, long, known: Arc::default() };
        super::keys::revision(&mut store.read().await?).await?;
        Ok(store)
    }

    /// The newest revision that this process knows of: at least that of its own last commit. What other processes have
    /// changed is noticed by whoever reads the revision from the database.
    pub fn revision(&self) -> i64 {
        self.known.revision.load(Ordering::Acquire)
    }

    /// Whether several servers may be at work on it.
    pub fn is_shared(&self) -> bool {
        matches!(self.read, Readers::Postgres(..))
    }

    /// The file on whose disk everything is, if it is on one of this machine's.
    pub fn file(&self) -> Option<&Path> {
        match &self.read {
            Readers::Sqlite(_, file) => Some(file),
            Readers::Postgres(..) => None,
        }
    }

    /// How many bytes the database takes.
    pub async fn size(&self) -> Result<u64, StoreError> {
        if let Some(file) = self.file() {
            return sqlite::size(file).map_err(|error| StoreError::Unavailable(error.into()));
        }
        let size = sql("select pg_database_size(current_database()) as size");
        let size = self.read().await?.optional(size, |row| row.int("size")).await?;
        Ok(size.and_then(|size| size.try_into().ok()).unwrap_or(0))
    }

    /// The number of the newest migration, which the schema of an open database is at.
    pub const SCHEMA: i64 = migrations::NEWEST;

    /// Looks into an existing database without changing a byte of it: is it ours, and not newer than we are?
    pub async fn inspect(database: &Database) -> Result<Connection, StoreError> {
        let inner = match database {
            Database::File(path) => Inner::Sqlite(sqlite::inspect(path).await?.acquire().await?),
            Database::Server(server) => {
                if server.schema().await?.is_none() {
                    return Err(StoreError::NotOurs(": it has no tables of ours"));
                }
                Inner::Postgres(Reader::of(server.readers().acquire().await?))
            }
        };
        Ok(Connection::new(inner, Arc::default()))
    }

    /// Returns when another process may have changed something, which is told by PostgreSQL only; never otherwise.
    pub async fn heard_of_change(&self, hearing: &mut Hearing) -> Result<(), StoreError> {
        let Readers::Postgres(_, server) = &self.read else { return std::future::pending().await };
        let listener = match &mut hearing.0 {
            Some(listener) => listener,
            none => none.insert(server.listener().await?),
        };
        // Where nothing is said for long, the connection may be lost without a word.
        let Ok(heard) = timeout(QUIET, listener.try_recv()).await else {
            // The new one first: by a listener commands know that there is a server.
            hearing.0 = Some(server.listener().await?);
            return Ok(());
        };
        // `None` is a connection that is gone, and with it what was told meanwhile.
        if !matches!(heard, Ok(Some(_))) {
            hearing.0 = None;
        }
        Ok(heard.map(drop)?)
    }

    /// Begins a unit of work that writes. Nothing happens unless [`Tx::commit`] is called.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        self.begin_at(self.write.turn(), postgres::BEGIN).await
    }

    /// The same for what takes its time, where nobody else works yet.
    pub async fn begin_long(&self) -> Result<Tx, StoreError> {
        let mut tx = self.begin().await?;
        tx.be_patient().await?;
        Ok(tx)
    }

    /// The same for the writer of the book: before it there may be as many logins as passwords are being checked, and key
    /// reads must not wait for them. Unless it is `alone`, other processes write in the book meanwhile.
    pub async fn begin_ahead(&self, alone: bool) -> Result<Tx, StoreError> {
        let begin = if alone { postgres::BEGIN } else { postgres::BEGIN_BOOK };
        self.begin_at(self.write.turn_ahead(), begin).await
    }

    /// While the answer is kept, no unit of work begins but the book's: what is decided meanwhile stands when it is written down.
    /// On SQLite that holds for this process, and another one can still change something. Whoever keeps it must not begin one.
    pub async fn hold_changes(&self) -> Result<Held, StoreError> {
        Ok(self.write.hold().await?)
    }

    async fn begin_at(
        &self,
        turn: impl Future<Output = Result<Turn, sqlx::Error>>,
        on_postgres: &'static str,
    ) -> Result<Tx, StoreError> {
        let begin = async {
            let mut turn = turn.await?;
            let revision = match &mut *turn {
                // At once, because each statement is a way to SQLite's thread and back.
                Wire::Sqlite(connection) => {
                    let begin = "begin immediate; select value from revision";
                    sqlx::query_scalar(begin).fetch_one(connection).await?
                }
                Wire::Postgres(connection) => postgres::begin(connection, on_postgres).await?,
            };
            let connection = self.connection(Inner::Write(turn));
            connection.saw_revision(revision);
            Ok(Tx { connection, revision, bumped: None })
        };
        begin.instrument(self.span("begin")).await
    }

    /// A connection that only reads.
    pub async fn read(&self) -> Result<Connection, StoreError> {
        Ok(self.connection(match &self.read {
            Readers::Sqlite(pool, _) => Inner::Sqlite(pool.acquire().await?),
            Readers::Postgres(pool, _) => Inner::Postgres(Reader::of(pool.acquire().await?)),
        }))
    }

    /// A connection that reads everything as it is at one moment, whatever is written meanwhile, and may take long: for
    /// searches, exports and verification.
    pub async fn snapshot(&self) -> Result<Connection, StoreError> {
        let turn = timeout(WAIT, Arc::clone(&self.long).acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or(sqlx::Error::PoolTimedOut)?;
        match &self.read {
            Readers::Sqlite(pool, _) => {
                let mut connection = self.connection(Inner::Snapshot(pool.begin().await?));
                connection.turn = Some(turn);
                Ok(connection)
            }
            Readers::Postgres(pool, _) => {
                let mut reader = Reader::of(pool.acquire().await?);
                reader.patience = postgres::LONG_PATIENCE;
                reader.long = Some(turn);
                postgres::begin_snapshot(reader.connection()).await?;
                Ok(self.connection(Inner::Postgres(reader)))
            }
        }
    }

    fn span(&self, text: &'static str) -> Span {
        span(if self.file().is_some() { "sqlite" } else { "postgresql" }, text)
    }

    fn connection(&self, inner: Inner) -> Connection {
        Connection::new(inner, Arc::clone(&self.known))
    }

    /// Closes every connection; SQLite's last one moves the write-ahead log into the database.
    pub async fn close(&self) {
        match &self.read {
            Readers::Sqlite(pool, _) => pool.close().await,
            Readers::Postgres(pool, _) => pool.close().await,
        }
        self.write.close().await;
    }
}

fn migration_failed(error: sqlx::migrate::MigrateError) -> StoreError {
    StoreError::Unavailable(sqlx::Error::Migrate(Box::new(error)))
}

/// Where it is heard what other processes have changed.
#[derive(Debug, Default)]
pub struct Hearing(Option<sqlx::postgres::PgListener>);

/// The error of a row whose `column` holds what our rules do not allow.
pub(super) fn inconsistent(column: &str) -> StoreError {
    StoreError::Inconsistent { column: column.to_owned() }
}

/// An update or delete that must have hit a row it was told of.
pub(super) fn must_hit(rows: u64, table: &str) -> Result<(), StoreError> {
    if rows == 0 { Err(inconsistent(table)) } else { Ok(()) }
}
