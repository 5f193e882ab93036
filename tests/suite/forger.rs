//! Somebody who has the database but not the key-encryption key: on SQLite the file, on PostgreSQL a superuser's connection.
//! What is said in SQL is one text for both; what has no common form is a method here.

use sqlx::{AssertSqlSafe, Connection, Error, PgConnection, Row, SqliteConnection, query_scalar, raw_sql};

use crate::engine::OwnDatabase;

/// SQLite's functions of these names, out of the way of the desk's own tables.
const FUNCTIONS: &str = "create schema if not exists forger; \
    create or replace function forger.unhex(text) returns bytea language sql as $$ select decode($1, 'hex') $$; \
    create or replace function forger.zeroblob(int) returns bytea language sql as $$ select decode(repeat('00', $1), 'hex') $$; \
    create or replace function forger.randomblob(int) returns bytea language sql as \
        $$ select substr(decode(repeat(md5(random()::text), $1 / 16 + 1), 'hex'), 1, $1) $$; \
    set search_path = public, forger; set synchronous_commit = on";

/// The rule that a forger of the book has to do away with first.
const GUARD: &str = "audit_events_are_not_changed";

#[derive(Debug)]
pub(crate) enum Forger {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// The same on whichever connection it is.
macro_rules! on_either {
    ($forger:expr, $connection:ident => $work:expr) => {
        match $forger {
            Forger::Sqlite($connection) => $work,
            Forger::Postgres($connection) => $work,
        }
    };
}

impl Forger {
    pub(crate) async fn of_file(path: &std::path::Path) -> Self {
        Self::Sqlite(SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap())
    }

    pub(crate) async fn of(database: &OwnDatabase) -> Self {
        let mut connection = PgConnection::connect(&database.superusers_url()).await.unwrap();
        raw_sql(FUNCTIONS).execute(&mut connection).await.unwrap();
        Self::Postgres(connection)
    }

    pub(crate) async fn run(&mut self, sql: &str) {
        self.attempt(sql).await.unwrap();
    }

    /// The same, where it may be refused.
    pub(crate) async fn attempt(&mut self, sql: &str) -> Result<(), Error> {
        let sql = AssertSqlSafe(sql);
        on_either!(self, connection => raw_sql(sql).execute(connection).await.map(drop))
    }

    pub(crate) async fn number(&mut self, sql: &str) -> i64 {
        self.numbers(sql).await[0]
    }

    pub(crate) async fn numbers(&mut self, sql: &str) -> Vec<i64> {
        let sql = AssertSqlSafe(sql);
        on_either!(self, connection => query_scalar(sql).fetch_all(connection).await.unwrap())
    }

    pub(crate) async fn text(&mut self, sql: &str) -> String {
        self.texts(sql).await.swap_remove(0)
    }

    /// The first column, as text. Several statements may stand one behind the other; the last one's rows are the answer.
    pub(crate) async fn texts(&mut self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql);
        on_either!(self, connection => {
            let rows = raw_sql(sql).fetch_all(connection).await.unwrap();
            rows.iter().map(|row| row.get_unchecked(0)).collect()
        })
    }

    /// All that is in a table.
    pub(crate) async fn contents(&mut self, table: &str) -> String {
        let rows = match self {
            Self::Sqlite(_) => {
                let columns = "select group_concat('quote(' || name || ')', '||') from pragma_table_info";
                let columns = self.text(&format!("{columns}('{table}')")).await;
                format!("select coalesce(group_concat({columns}), '') from {table}")
            }
            Self::Postgres(_) => {
                format!("select coalesce(string_agg(t::text, ',' order by t::text), '') from {table} t")
            }
        };
        self.text(&rows).await
    }

    /// From now on every `insert` or `update` of the table fails, as if there were no room, and the text of the failure is this.
    pub(crate) async fn refuse(&mut self, what: &str, table: &str, message: &str) {
        let refuse = match self {
            Self::Sqlite(_) => {
                format!(
                    "create trigger refusal before {what} on {table} begin select raise(abort, '{message}'); end"
                )
            }
            Self::Postgres(_) => format!(
                "create function forger.refuse() returns trigger language plpgsql as \
                 $$ begin raise exception '{message}'; end $$; \
                 create trigger refusal before {what} on {table} for each row execute function forger.refuse()"
            ),
        };
        self.run(&refuse).await;
    }

    /// Ends [`Self::refuse`].
    pub(crate) async fn allow(&mut self) {
        self.run(match self {
            Self::Sqlite(_) => "drop trigger refusal",
            Self::Postgres(_) => "drop function forger.refuse cascade",
        })
        .await;
    }

    /// Does away with the rule that events are not changed, and returns what makes it again.
    pub(crate) async fn unguard(&mut self) -> String {
        let (rule, drop) = match self {
            Self::Sqlite(_) => (format!("select sql from sqlite_schema where name = '{GUARD}'"), ""),
            Self::Postgres(_) => {
                let rule = format!("select pg_get_triggerdef(oid) from pg_trigger where tgname = '{GUARD}'");
                (rule, " on audit_events")
            }
        };
        let rule = self.text(&rule).await;
        self.run(&format!("drop trigger {GUARD}{drop}")).await;
        rule
    }

    /// Begins a change as the program does, so that it waits for this one and this one for it.
    pub(crate) async fn begin_change(&mut self) {
        self.run(match self {
            Self::Sqlite(_) => "begin immediate",
            Self::Postgres(_) => "begin; select pg_advisory_xact_lock(1801680235, 1)",
        })
        .await;
    }

    /// What every change does that decides access.
    pub(crate) async fn bump_revision(&mut self) {
        if matches!(self, Self::Postgres(_)) {
            self.run("select pg_advisory_xact_lock(1801680235, 2)").await;
        }
        self.run("update revision set value = value + 1").await;
    }
}
