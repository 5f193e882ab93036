//! PostgreSQL: any number of processes on one database.
//!
//! What SQLite gives by having one writer is asked for here with two advisory locks, which end with their transactions.
//! [`BEGIN`] takes the first alone: of all processes one at a time changes something, so that whatever a unit of work has
//! read stays as it is until its end. It comes to that lock through a [`Gate`], so that it does not wait for it on the one
//! connection on which its process writes, while the book waits for that connection. The book does not take the first lock,
//! because every key read writes in it: it shares the second ([`BEGIN_BOOK`]) with all other writers of the book, and only a
//! change of the revision takes that one alone ([`BUMP`]). So the revision that the book has read stays until its events
//! are durable. Whoever takes both takes them in this order, and who shares the second takes nothing more. Advisory locks
//! rather than row locks: they are given in the order in which they were asked for, and a change does not starve among a
//! thousand key reads.
//!
//! Rows come behind locks: the book's writer changes one row that others change too, the end of its stream, and waits for
//! whoever has it. So who has touched the end of another stream, under the first lock, must not ask for the second any more, or
//! the two would wait for each other.
//!
//! Nothing waits for ever. The server is told how long a statement may take, so that it gives up by itself, and a process
//! that vanished in the middle of a transaction holds its locks for seconds only; a server that says nothing at all is given
//! up here, and its connection is closed.

use std::{
    fmt, io,
    net::IpAddr,
    pin::Pin,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgPool, Postgres, Row as _,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgSslMode},
};
use tokio::{runtime::Handle, time::timeout};

use super::{StoreError, WAIT, migrations};

/// How long a statement may take; together with [`WAIT`] less than the five seconds after which clients give up.
pub(super) const PATIENCE: Duration = Duration::from_millis(2500);
/// The same where everything is read as it was at one moment: an export, a verification.
pub(super) const LONG_PATIENCE: Duration = Duration::from_mins(5);
/// How long the schema may be under work by another process that starts.
const MIGRATION: Duration = Duration::from_mins(10);
const READERS: u32 = 8;
/// One for who is on the way to a unit of work, one for who is in it, one for who holds the others back.
const GATES: u32 = 3;
/// How long a connection may take to say that it is there.
const REPLY: Duration = Duration::from_secs(1);

/// Begins a unit of work, and tells the revision.
pub(super) const BEGIN: &str =
    "begin; select pg_advisory_xact_lock(1801680235, 1); select value from revision";
/// Begins one of the book's.
pub(super) const BEGIN_BOOK: &str =
    "begin; select pg_advisory_xact_lock_shared(1801680235, 2); select value from revision";
/// Moves the revision, and tells the other processes when it is durable.
pub(super) const BUMP: &str = "update revision set value = value + 1 \
     from (select pg_advisory_xact_lock(1801680235, 2), pg_notify('keydesk_revision', '')) as alone returning value";
/// A transaction in which something has failed must not seem to be committed.
const COMMIT: &str = "select; commit";

const CHANNEL: &str = "keydesk_revision";

/// What has a lock for as long as its connection lasts is given up soon by a server that does not hear of it any more.
const KEEP_ALIVE: &str =
    "set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3; ";

/// What every connection begins with. What is acknowledged is durable, whatever is usual on this server.
const SETTINGS: &str = "set statement_timeout = '2500ms'; set lock_timeout = '2000ms'; \
     set idle_in_transaction_session_timeout = '3s'; set default_transaction_isolation = 'read committed'; \
     select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') in ('off', 'local'); \
     select pg_is_in_recovery() or current_setting('default_transaction_read_only')::bool as read_only";

/// A database on a server.
#[derive(Clone)]
pub struct Server {
    options: Arc<PgConnectOptions>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Without the password.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        let database = options.get_database().unwrap_or(options.get_username());
        match options.get_socket() {
            Some(socket) => write!(f, "{database} at {}", socket.display()),
            None => write!(f, "{database} at {}:{}", options.get_host(), options.get_port()),
        }
    }
}

impl FromStr for Server {
    type Err = &'static str;

    /// Off loopback the server has to prove who it is, unless the URL says otherwise with `sslmode`.
    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let options =
            PgConnectOptions::from_str(url).map_err(|_| "is not a PostgreSQL URL that can be read")?;
        let options = options.application_name("keydesk");
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let says = query.split('&').any(|part| part.starts_with("sslmode=") || part.starts_with("ssl-mode="));
        let mode = match () {
            () if says => options.get_ssl_mode(),
            () if is_local(&options) => PgSslMode::Prefer,
            () => PgSslMode::VerifyFull,
        };
        Ok(Self { options: Arc::new(options.ssl_mode(mode)) })
    }
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host().trim_start_matches('[').trim_end_matches(']');
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

impl Server {
    /// A connection that can write.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        patiently(WAIT, async {
            let mut connection = self.options.connect().await?;
            prepare(&mut connection).await?;
            Ok(connection)
        })
        .await
    }

    /// The readers.
    pub(super) fn readers(&self) -> PgPool {
        self.pool(READERS)
    }

    /// For [`Gate`]s.
    pub(super) fn gates(&self) -> PgPool {
        self.pool(GATES)
    }

    /// None is opened before it is needed.
    fn pool(&self, most: u32) -> PgPool {
        let pool = PgPoolOptions::new().max_connections(most).acquire_timeout(WAIT);
        // What was connected to another node before a fail-over is forgotten in time.
        let pool = pool.max_lifetime(Duration::from_mins(5)).test_before_acquire(false);
        let lost = Arc::new(Lost(Mutex::new(None)));
        let lost_meanwhile = Arc::clone(&lost);
        pool.after_connect(|connection, _| Box::pin(prepare(connection)))
            .before_acquire(move |connection, it| lost.look_for(connection, it.age))
            // Given back in the middle of a statement, it is asked for its end, which may never come.
            .after_release(move |connection, it| lost_meanwhile.look_for(connection, it.age))
            .connect_lazy_with(PgConnectOptions::clone(&self.options))
    }

    /// A listener for changes that other processes make.
    pub(super) async fn listener(&self) -> Result<PgListener, sqlx::Error> {
        patiently(WAIT, async {
            let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
            let pool = pool.acquire_timeout(WAIT).connect_lazy_with(PgConnectOptions::clone(&self.options));
            let mut listener = PgListener::connect_with(&pool).await?;
            // By which a command knows that there is a server.
            let lock = [KEEP_ALIVE, "select pg_advisory_lock_shared(1801680235, 4)"].concat();
            sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut listener).await?;
            listener.listen(CHANNEL).await?;
            Ok(listener)
        })
        .await
    }

    /// Brings the schema up to date. Of processes that start at once, one does and the others wait.
    pub(super) async fn migrate(&self) -> Result<(), StoreError> {
        let schema = self.schema().await?;
        if schema == Some(migrations::NEWEST) {
            return Ok(());
        }
        let mut connection = self.connect().await?;
        if schema.is_none() {
            let others = "select exists (select 1 from pg_class c where c.relnamespace = current_schema()::regnamespace \
                          and c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relname <> '_sqlx_migrations' \
                          and not exists (select 1 from pg_depend d where d.objid = c.oid and d.deptype = 'e'))";
            let others = sqlx::query_scalar(others).fetch_one(&mut connection);
            if patiently(PATIENCE, others).await? {
                return Err(StoreError::NotOurs(
                    ": there are tables of others in it; give the desk an empty one",
                ));
            }
        }
        let work = async {
            sqlx::raw_sql("set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0")
                .execute(&mut connection)
                .await?;
            let done = migrations::postgres().run_direct(None, &mut connection, false).await;
            done.map_err(|error| sqlx::Error::Migrate(Box::new(error)))
        };
        patiently(MIGRATION, work).await?;
        Ok(connection.close().await?)
    }

    /// The number of the newest migration that was made; `None`: there are no tables of ours. Nothing is changed.
    pub(super) async fn schema(&self) -> Result<Option<i64>, StoreError> {
        let mut connection = self.connect().await?;
        let work = async {
            let exists: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
                .fetch_one(&mut connection)
                .await?;
            if !exists {
                return Ok(None);
            }
            sqlx::query_scalar("select max(version) from _sqlx_migrations where success")
                .fetch_one(&mut connection)
                .await
        };
        let found = patiently(PATIENCE, work).await?;
        match found {
            Some(found) if found > migrations::NEWEST => {
                Err(StoreError::Newer { found, known: migrations::NEWEST })
            }
            found => Ok(found),
        }
    }

    /// Waits until this process is the only one that starts here, for as long as the answer is kept.
    pub async fn hold_alone(&self) -> Result<Alone, StoreError> {
        let mut connection = self.connect().await?;
        let lock = "set statement_timeout = 0; set lock_timeout = 0; select pg_advisory_lock(1801680235, 3)";
        let lock = AssertSqlSafe([KEEP_ALIVE, lock].concat());
        patiently(MIGRATION, sqlx::raw_sql(lock).execute(&mut connection)).await?;
        Ok(Alone(connection))
    }

    /// Whether a server listens at this moment.
    pub async fn is_served(&self) -> Result<bool, StoreError> {
        let mut connection = self.connect().await?;
        // Looked at, not tried: two who try at a time would take each other for a server.
        let held = "select exists (select 1 from pg_locks where locktype = 'advisory' and classid = 1801680235 and objid = 4 \
                    and granted and database = (select oid from pg_database where datname = current_database()))";
        patiently(PATIENCE, sqlx::query_scalar(held).fetch_one(&mut connection))
            .await
            .map_err(StoreError::from)
    }
}

/// When a connection of the pool was last found lost. Those that are older are not asked any more, one after the other: what
/// has cut off one has cut off all.
#[derive(Debug)]
struct Lost(Mutex<Option<Instant>>);

impl Lost {
    /// Whether a connection of that age is good for anything.
    fn look_for<'c>(
        self: &Arc<Self>,
        connection: &'c mut PgConnection,
        age: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<bool, sqlx::Error>> + Send + 'c>> {
        let lost = Arc::clone(self);
        Box::pin(async move {
            let made = Instant::now().checked_sub(age);
            if *lost.0.lock().unwrap_or_else(PoisonError::into_inner) > made {
                return Ok(false);
            }
            let found = patiently(REPLY, connection.ping()).await;
            if found.is_err() {
                *lost.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            found.map(|()| true)
        })
    }
}

/// While this is kept, no other process starts.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "the lock ends with the connection")] PgConnection);

async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let rows = sqlx::raw_sql(SETTINGS).fetch_all(connection).await?;
    let read_only = rows.last().map_or(Ok(false), |row| row.try_get("read_only"))?;
    if read_only {
        return Err(sqlx::Error::Io(io::Error::other(
            "the server takes no changes: it is a standby, or read-only by default",
        )));
    }
    Ok(())
}

/// Begins a transaction in which everything is read as it is at one moment, for as long as it takes.
pub(super) async fn begin_snapshot(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let begin = "begin isolation level repeatable read, read only";
    patiently(PATIENCE, sqlx::raw_sql(begin).execute(&mut *connection)).await?;
    be_patient(connection).await
}

/// Ends it, however long the statement that is still under way takes. Whether the connection is good for others.
pub(super) async fn end_snapshot(connection: &mut PgConnection) -> bool {
    patiently(LONG_PATIENCE, sqlx::raw_sql("rollback").execute(connection)).await.is_ok()
}

/// From now on the transaction may take its time.
pub(super) async fn be_patient(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let settings =
        "set local statement_timeout = '5min'; set local idle_in_transaction_session_timeout = '10min'";
    patiently(PATIENCE, sqlx::raw_sql(settings).execute(connection)).await.map(drop)
}

/// Where those of all processes stand in line who would change something. No promise rests on it: if its connection is lost,
/// the next one is let through, and waits for the first lock after all.
#[derive(Debug)]
pub(super) struct Gate(Option<PoolConnection<Postgres>>);

impl Gate {
    /// Waits for the turn to change something.
    pub(super) async fn pass(gates: &PgPool) -> Result<Self, sqlx::Error> {
        Self::open(gates, "begin; select pg_advisory_xact_lock(1801680235, 5)").await
    }

    /// Holds back who would pass, together with all others who do.
    pub(super) async fn hold(gates: &PgPool) -> Result<Self, sqlx::Error> {
        Self::open(gates, "begin; select pg_advisory_xact_lock_shared(1801680235, 5)").await
    }

    async fn open(gates: &PgPool, lock: &'static str) -> Result<Self, sqlx::Error> {
        let mut gate = Self(Some(gates.acquire().await?));
        if let Some(connection) = &mut gate.0 {
            patiently(PATIENCE, sqlx::raw_sql(lock).execute(&mut **connection)).await?;
        }
        Ok(gate)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let Some(mut connection) = self.0.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                if !rollback(&mut connection).await {
                    drop(connection.detach());
                }
            })),
            Err(_) => drop(connection.detach()),
        }
    }
}

/// The revision at which one of the above began.
pub(super) async fn begin(connection: &mut PgConnection, begin: &'static str) -> Result<i64, sqlx::Error> {
    let rows = patiently(PATIENCE, sqlx::raw_sql(begin).fetch_all(connection)).await?;
    rows.last().map_or(Err(sqlx::Error::RowNotFound), |row| row.try_get("value"))
}

/// Makes everything durable.
pub(super) async fn commit(connection: &mut PgConnection, patience: Duration) -> Result<(), sqlx::Error> {
    patiently(patience, sqlx::raw_sql(COMMIT).execute(connection)).await.map(drop)
}

/// Leaves the transaction, if there is one. Whether the connection is good for another.
pub(super) async fn rollback(connection: &mut PgConnection) -> bool {
    let rollback = "rollback; show transaction_read_only";
    let Ok(rows) = patiently(REPLY, sqlx::raw_sql(rollback).fetch_all(connection)).await else {
        return false;
    };
    rows.last()
        .is_some_and(|row| row.try_get("transaction_read_only").is_ok_and(|says: String| says == "off"))
}

/// The result of `work`, unless the server takes longer. Then its connection is of no use any more. Boxed, because a request has
/// room in it for whatever it may wait for, whichever engine it is.
pub(super) fn patiently<'w, T: 'w>(
    patience: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>> + Send + 'w,
) -> Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'w>> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the server does not answer");
    Box::pin(async move { timeout(patience, work).await.unwrap_or_else(|_| Err(sqlx::Error::Io(late()))) })
}
