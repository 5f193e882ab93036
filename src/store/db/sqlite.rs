//! SQLite: one file, one writer, a few readers. `synchronous=FULL`: with `NORMAL`, acknowledged transactions are lost at a
//! power cut.

use std::{fs, io, path::Path};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{StoreError, WAIT, migrations};

const READERS: u32 = 4;

/// How the file is opened for writing.
pub(super) fn options(path: &Path, create: bool) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(create)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(WAIT)
        .pragma("trusted_schema", "OFF")
}

/// The readers. After the writer, which creates the file and switches it to WAL.
pub(super) async fn readers(options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    let pool = SqlitePoolOptions::new().max_connections(READERS).acquire_timeout(WAIT);
    // A file that can still be read needs no asking.
    let pool = pool.test_before_acquire(false);
    pool.connect_with(options.create_if_missing(false).read_only(true)).await
}

/// A single reader of an existing file of ours, not newer than we are. Not a byte of it is changed.
pub(super) async fn inspect(path: &Path) -> Result<SqlitePool, StoreError> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(WAIT);
    let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(WAIT).connect_with(options).await;
    let pool = pool.map_err(not_ours)?;
    let found: Option<i64> = sqlx::query_scalar("select max(version) from _sqlx_migrations where success")
        .fetch_one(&pool)
        .await
        .map_err(not_ours)?;
    match found {
        None => Err(StoreError::NotOurs(": it has no tables")),
        Some(found) if found > migrations::NEWEST => {
            Err(StoreError::Newer { found, known: migrations::NEWEST })
        }
        Some(_) => Ok(pool),
    }
}

/// How many bytes the database takes, with what is not yet moved from the write-ahead log.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    Ok(fs::metadata(path)?.len() + fs::metadata(log).map_or(0, |log| log.len()))
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
