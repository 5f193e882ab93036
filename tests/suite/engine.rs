//! The engine that the suite runs on: SQLite, or PostgreSQL when `scripts/with-postgres` has started a server for it. There
//! every desk has a new database of its own, because a desk takes locks and hears of changes by the database.

use std::{
    env, process,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use keydesk::store::{Database, Store};
use sqlx::{AssertSqlSafe, Connection, PgConnection, query_scalar, raw_sql};
use tokio::runtime;

/// Says that there is a server, and where.
pub(crate) const VARIABLE: &str = "KEYDESK_TEST_POSTGRES";

/// The URL of the server's superuser, without a database.
pub(crate) fn server() -> Option<&'static str> {
    static SERVER: OnceLock<Option<String>> = OnceLock::new();
    SERVER.get_or_init(|| env::var(VARIABLE).ok()).as_deref()
}

/// Whether a test has something to show here; where it has not, it says why.
pub(crate) fn only_on_sqlite(why: &str) -> bool {
    if server().is_some() {
        println!("skipped on PostgreSQL: {why}");
    }
    server().is_none()
}

/// A new database on the server.
#[derive(Debug)]
pub(crate) struct OwnDatabase(String);

impl OwnDatabase {
    /// With nothing in it, as an administrator makes it for a first start.
    pub(crate) fn empty() -> Option<Self> {
        server().map(|_| Self::like("template1"))
    }

    /// With tables and nothing in them. Copying is ten times as fast as making them.
    pub(crate) fn with_tables() -> Option<Self> {
        static MADE_ONCE: OnceLock<OwnDatabase> = OnceLock::new();
        server()?;
        let model = MADE_ONCE.get_or_init(|| {
            let database = Self::like("template1");
            let server = Database::Server(database.url().parse().unwrap());
            now(async move || Store::open(&server, true).await.unwrap().close().await);
            database
        });
        Some(Self::like(&model.0))
    }

    fn like(model: &str) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("suite_{}_{}", process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let create = format!("create database {name} template {model} owner keydesk");
        now(|| administer(create));
        Self(name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// All that is in its tables.
    pub(crate) fn contents(&self) -> String {
        let url = self.superusers_url();
        now(async move || {
            let tables = "select string_agg(query_to_xml(format('select * from %I order by 1, 2', tablename), true, true, '')::text, '' \
                          order by tablename) from pg_tables where schemaname = 'public'";
            let mut connection = PgConnection::connect(&url).await.unwrap();
            query_scalar(tables).fetch_one(&mut connection).await.unwrap()
        })
    }

    /// As the program opens it: as its owner, who is nobody else.
    pub(crate) fn url(&self) -> String {
        let rest = server().unwrap().strip_prefix("postgres://postgres").unwrap();
        format!("postgres://keydesk{rest}/{}", self.0)
    }

    /// As somebody opens it who may do anything.
    pub(crate) fn superusers_url(&self) -> String {
        format!("{}/{}", server().unwrap(), self.0)
    }
}

impl Drop for OwnDatabase {
    /// Meanwhile the next test goes on. What is left when the tests end goes with the server.
    fn drop(&mut self) {
        let drop = format!("drop database {} with (force)", self.0);
        thread::spawn(|| now(|| administer(drop)));
    }
}

async fn administer(statement: String) {
    let url = format!("{}/postgres", server().unwrap());
    let mut connection = PgConnection::connect(&url).await.unwrap();
    raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
}

/// Waits for it here, whether or not this is an asynchronous test.
fn now<T: Send + 'static, F: Future<Output = T>>(work: impl FnOnce() -> F + Send + 'static) -> T {
    let work = || runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work());
    thread::spawn(work).join().unwrap()
}
