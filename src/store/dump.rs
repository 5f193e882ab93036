//! Every table, row by row, whatever the engine: what a backup is written from and loaded into.
//!
//! There is one list of the tables and their columns, and a test that holds it against the schema of the database, so that
//! nothing new is forgotten. Only quotas are left out: they are of a minute, and begin anew. A row is a line of JSON: numbers, texts, and bytes in hexadecimal, in the order of the list.

use std::fmt::Write as _;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    Connection, Store, StoreError, Tx,
    db::{Kind, Pieces, Read, Statement, Value, inconsistent, must_hit, pieces, sql},
};

/// A table.
pub struct Table {
    /// Its name.
    pub name: &'static str,
    columns: &'static [(&'static str, Kind)],
    /// How many of the columns, from the first, are the key, in whose order the rows are.
    key: usize,
    first: &'static str,
    next: &'static str,
    count: &'static str,
    insert: Pieces,
    read: Read<Record>,
}

/// How many rows are read at a time.
const PAGE: i64 = 1_000;
/// How many rows are written to a file at a time, where a transaction that never ends would keep a copy of all of them.
const CHUNK: u64 = 50_000;
/// How far the revision goes on from what it was: farther than it can have gone since in what this is a copy of, so that
/// nobody takes what was remembered of the one for the other.
const LEAP: i64 = 1_000_000;

macro_rules! tables {
    ($($table:ident [$key:ident $key_kind:ident $(, $more:ident $more_kind:ident)*]
        $($column:ident $kind:ident),+;)+) => {
        /// Every table, each behind those that it refers to.
        pub static TABLES: &[Table] = &[$(Table {
            name: stringify!($table),
            columns: &[
                (stringify!($key), Kind::$key_kind),
                $((stringify!($more), Kind::$more_kind),)*
                $((stringify!($column), Kind::$kind)),+
            ],
            key: 1 $(+ tables!(@one $more))*,
            first: tables!(@select $table [$key $($more)*] [$($column)+] ""),
            next: tables!(@select $table [$key $($more)*] [$($column)+] concat!(
                " where (", stringify!($key) $(, ", ", stringify!($more))*, ") > (?" $(, tables!(@place $more))*, ")"
            )),
            count: concat!("select count(*) as number from ", stringify!($table)),
            insert: pieces!(
                concat!(
                    "insert into ", stringify!($table), " (", tables!(@columns [$key $($more)*] [$($column)+]),
                    ") select * from (values "
                ),
                concat!("(?" $(, tables!(@place $more))* $(, tables!(@place $column))+, ")"),
                ") as rows where column1 is not null"
            ),
            read: |row| Ok(Record(vec![
                row.value(stringify!($key), Kind::$key_kind)?,
                $(row.value(stringify!($more), Kind::$more_kind)?,)*
                $(row.value(stringify!($column), Kind::$kind)?),+
            ])),
        }),+];
    };
    (@one $column:ident) => { 1 };
    (@place $column:ident) => { ", ?" };
    (@columns [$key:ident $($more:ident)*] [$($column:ident)+]) => {
        concat!(stringify!($key) $(, ", ", stringify!($more))* $(, ", ", stringify!($column))+)
    };
    (@select $table:ident [$key:ident $($more:ident)*] [$($column:ident)+] $where:expr) => {
        concat!(
            "select ", tables!(@columns [$key $($more)*] [$($column)+]), " from ", stringify!($table), $where,
            " order by ", stringify!($key) $(, ", ", stringify!($more))*, " limit ?"
        )
    };
}

tables! {
    revision [id Int] value Int;
    data_keys [id Bytes] purpose Text, kek_id Bytes, wrapped Bytes, created_at Int;
    signing_keys [id Bytes] kid Text, algorithm Text, sealed Bytes, created_at Int, activates_at Int, compromised_at Int;
    principals [id Bytes] kind Text, name Text, role Text, password_hash Text, disabled_at Int, created_at Int, version Int,
        password_expires_at Int, grant_types Text, networks Text;
    client_secrets [id Bytes] principal_id Bytes, digest Bytes, created_at Int, expires_at Int;
    api_keys [id Bytes] principal_id Bytes, label Text, digest Bytes, imported Int, created_at Int, expires_at Int,
        revoked_at Int, scope Text, sources Text, last_used_at Int;
    projects [id Bytes] name Text, created_at Int;
    grants [principal_id Bytes, project_id Bytes] providers Text, created_at Int;
    provider_keys [id Bytes] project_id Bytes, provider Text, version Int, created_at Int, updated_at Int;
    provider_key_versions [id Bytes] provider_key_id Bytes, version Int, sealed Bytes, expires_at Int, created_at Int;
    imports [source Text] mac Bytes, imported_at Int;
    token_families [id Bytes] principal_id Bytes, client_id Text, scope Text, generation Int, rotated_at Int,
        rotated_source Text, created_at Int, created_source Text, idle_expires_at Int, expires_at Int, revoked_at Int;
    refresh_tokens [digest Bytes] family_id Bytes, generation Int;
    revoked_tokens [jti Text] expires_at Int;
    throttles [key Bytes] failures Int, window_end Int, blocked_until Int;
    known_sources [principal_id Bytes, source Bytes] seen_at Int;
    audit_prunings [stream Bytes] seq Int, jws Text;
    audit_checkpoints [seq Int] at Int, events Int, jws Text, filed_at Int;
    audit_streams [stream Bytes] seq Int, mac Bytes, seal Bytes, carried Int, anchored Int, watched Int;
    audit_events [stream Bytes, seq Int] id Bytes, at Int, action Text, outcome Text, actor Text, principal_id Bytes,
        principal_kind Text, client_id Text, credential Text, object Text, version Text, detail Text, source Text,
        request_id Text, reason Text, heads Text, mac Bytes;
    outbox [id Bytes] destination Text, rule Text, subject Text, body Text, state Text, attempts Int, next_attempt_at Int,
        finished_at Int, answer Text, last_error Text, created_at Int;
    alarm_marks [kind Text, subject Text, item Text] at Int;
    alarm_networks [principal_id Bytes, network Text] seen_at Int;
    alarm_reads [hour Int, principal_id Bytes] reads Int;
}

impl Table {
    /// The names of its columns.
    pub fn columns(&self) -> impl Iterator<Item = &'static str> {
        self.columns.iter().map(|(name, _)| *name)
    }

    /// A row from its line; `None`: it is no row of this table.
    pub fn record(&self, line: &[u8]) -> Option<Record> {
        let cells: Vec<Cell> = serde_json::from_slice(line).ok()?;
        if cells.len() != self.columns.len() {
            return None;
        }
        let values = cells.into_iter().zip(self.columns).map(|(cell, (_, kind))| cell.into_value(*kind));
        values.collect::<Option<_>>().map(Record)
    }

    /// How many rows there are.
    pub async fn count(&self, db: &mut Connection) -> Result<u64, StoreError> {
        let found = db.optional(sql(self.count), |row| row.int("number")).await?;
        Ok(found.and_then(|found| found.try_into().ok()).unwrap_or(0))
    }

    /// The next rows behind `last`, in the order of the key; none: it was the last.
    pub async fn rows(
        &'static self,
        db: &mut Connection,
        last: Option<&Record>,
    ) -> Result<Vec<Record>, StoreError> {
        let key = last.map_or(&[][..], |Record(values)| &values[..self.key]);
        let text = if last.is_some() { self.next } else { self.first };
        let statement = key.iter().cloned().fold(sql(text), Statement::bind);
        db.all(statement.bind(PAGE), self.read).await
    }
}

/// A row.
#[derive(Clone)]
pub struct Record(Vec<Value>);

/// As its line.
impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Int(Some(value)) => serializer.serialize_i64(*value),
            Self::Text(Some(value)) => serializer.serialize_str(value),
            Self::Bytes(Some(value)) => serializer.serialize_str(&hex(value)),
            Self::Int(None) | Self::Text(None) | Self::Bytes(None) => serializer.serialize_unit(),
        }
    }
}

/// What stands in a line for a column.
enum Cell {
    Nothing,
    Int(i64),
    Text(String),
}

impl Cell {
    fn into_value(self, kind: Kind) -> Option<Value> {
        Some(match (kind, self) {
            (Kind::Int, Self::Int(value)) => Value::Int(Some(value)),
            (Kind::Text, Self::Text(value)) => Value::Text(Some(value)),
            (Kind::Bytes, Self::Text(value)) => Value::Bytes(Some(unhex(&value)?)),
            (Kind::Int, Self::Nothing) => Value::Int(None),
            (Kind::Text, Self::Nothing) => Value::Text(None),
            (Kind::Bytes, Self::Nothing) => Value::Bytes(None),
            _ => return None,
        })
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Cell;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, a text or null")
            }

            fn visit_unit<E>(self) -> Result<Cell, E> {
                Ok(Cell::Nothing)
            }

            fn visit_i64<E>(self, value: i64) -> Result<Cell, E> {
                Ok(Cell::Int(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Cell, E> {
                value.try_into().map(Cell::Int).map_err(E::custom)
            }

            fn visit_str<E>(self, value: &str) -> Result<Cell, E> {
                Ok(Cell::Text(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn hex(bytes: &[u8]) -> String {
    let text = String::with_capacity(bytes.len() * 2);
    bytes.iter().fold(text, |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| if let [high, low] = pair { Some(digit(*high)? << 4 | digit(*low)?) } else { None })
        .collect()
}

/// An empty database that is being filled. Dropped without [`Load::finish`], it is no desk: on a server nothing has been written,
/// and a file is still a draft.
#[derive(Debug)]
pub struct Load {
    store: Store,
    tx: Tx,
    /// How many rows are in the transaction.
    rows: u64,
}

impl Load {
    /// Begins, if `store` is empty.
    pub async fn begin(store: &Store) -> Result<Self, StoreError> {
        let mut tx = store.begin_long().await?;
        for table in TABLES {
            let free = u64::from(table.name == "revision");
            if table.count(&mut tx).await? > free {
                return Err(StoreError::Exists);
            }
        }
        tx.execute(sql("delete from revision")).await?;
        Ok(Self { store: store.clone(), tx, rows: 0 })
    }

    /// Adds rows to a table.
    pub async fn insert(mut self, table: &'static Table, rows: Vec<Record>) -> Result<Self, StoreError> {
        let bind = |statement: Statement, Record(values): Record| {
            values.into_iter().fold(statement, Statement::bind)
        };
        for (rows, insertion) in table.insert.of(rows, bind) {
            if self.tx.execute(insertion).await? != rows {
                return Err(inconsistent(table.name));
            }
            self.rows += rows;
        }
        if self.rows < CHUNK || self.store.file().is_none() {
            return Ok(self);
        }
        let Self { store, tx, .. } = self;
        tx.commit().await?;
        Ok(Self { tx: store.begin_long().await?, store, rows: 0 })
    }

    /// What has been written so far.
    pub fn transaction(&mut self) -> &mut Tx {
        &mut self.tx
    }

    /// Makes everything durable. Whatever was remembered of what this is a copy of is stale.
    pub async fn finish(mut self) -> Result<(), StoreError> {
        let leap = sql("update revision set value = value + $1").bind(LEAP);
        must_hit(self.tx.execute(leap).await?, "revision")?;
        self.tx.commit().await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sqlx::{AssertSqlSafe, Connection as _, PgConnection, raw_sql};

    use super::*;
    use crate::store::Database;

    /// What the migrations keep for themselves, and what is left out.
    const NOT_OURS: [&str; 2] = ["_sqlx_migrations", "rate_limits"];

    fn listed() -> BTreeMap<String, Vec<(String, Kind)>> {
        let columns = |table: &Table| {
            let mut columns: Vec<_> =
                table.columns.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
            columns[table.key..].sort_by(|a, b| a.0.cmp(&b.0));
            columns
        };
        TABLES.iter().map(|table| (table.name.to_owned(), columns(table))).collect()
    }

    /// Table, column, type, and which part of the key it is, if any.
    fn found(rows: Vec<(String, String, String, i64)>) -> BTreeMap<String, Vec<(String, Kind)>> {
        let mut tables: BTreeMap<String, Vec<(i64, String, Kind)>> = BTreeMap::new();
        for (table, column, kind, part) in rows {
            if NOT_OURS.contains(&table.as_str()) {
                continue;
            }
            let kind = match kind.to_lowercase().as_str() {
                "integer" | "bigint" => Kind::Int,
                "text" => Kind::Text,
                "blob" | "bytea" => Kind::Bytes,
                other => panic!("{table}.{column} is {other}"),
            };
            let part = if part == 0 { i64::MAX } else { part };
            tables.entry(table).or_default().push((part, column, kind));
        }
        let sorted = |mut columns: Vec<(i64, String, Kind)>| {
            columns.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            columns.into_iter().map(|(_, name, kind)| (name, kind)).collect()
        };
        tables.into_iter().map(|(table, columns)| (table, sorted(columns))).collect()
    }

    const READ: Read<(String, String, String, i64)> =
        |row| Ok((row.text("t")?, row.text("c")?, row.text("kind")?, row.int("part")?));

    #[tokio::test]
    async fn every_table_and_column_is_in_the_list() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(&Database::File(place.path().join("k.db")), true).await.unwrap();
        let columns = sql("select m.name as t, c.name as c, c.type as kind, c.pk as part \
                           from sqlite_schema m, pragma_table_info(m.name) c \
                           where m.type = 'table'");
        let rows = store.read().await.unwrap().all(columns, READ).await.unwrap();
        assert_eq!(found(rows), listed());
    }

    /// Where `scripts/with-postgres` has started a server.
    #[tokio::test]
    async fn every_table_and_column_of_postgresql_is_in_the_list() {
        let Ok(server) = std::env::var("KEYDESK_TEST_POSTGRES") else { return };
        let name = format!("columns_{}", std::process::id());
        let mut connection = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
        let mut administer = async |what: &str| {
            let statement = AssertSqlSafe(format!("{what} database {name}"));
            raw_sql(statement).execute(&mut connection).await.unwrap();
        };
        administer("create").await;
        let database = Database::Server(format!("{server}/{name}").parse().unwrap());
        let store = Store::open(&database, true).await.unwrap();
        let columns = sql(
            "select c.relname::text as t, a.attname::text as c, format_type(a.atttypid, null) as kind, \
             coalesce(array_position(i.indkey::int2[], a.attnum) + 1, 0)::bigint as part \
             from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped \
             left join pg_index i on i.indrelid = c.oid and i.indisprimary \
             where c.relkind = 'r' and c.relnamespace = current_schema()::regnamespace",
        );
        let rows = store.read().await.unwrap().all(columns, READ).await;
        store.close().await;
        administer("drop").await;
        assert_eq!(found(rows.unwrap()), listed());
    }

    #[tokio::test]
    async fn each_table_comes_behind_those_that_it_refers_to() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(&Database::File(place.path().join("k.db")), true).await.unwrap();
        let references = sql("select m.name as a, f.\"table\" as b from sqlite_schema m, \
                              pragma_foreign_key_list(m.name) f where m.type = 'table'");
        let mut db = store.read().await.unwrap();
        let references = db.all(references, |row| Ok((row.text("a")?, row.text("b")?))).await.unwrap();
        let place = |name: &str| TABLES.iter().position(|table| table.name == name).unwrap();
        assert!(references.len() > 5);
        for (table, other) in references {
            assert!(place(&other) < place(&table), "{table} refers to {other}");
        }
    }

    #[test]
    fn a_line_holds_whatever_a_row_can() {
        let table = TABLES.iter().find(|table| table.name == "api_keys").unwrap();
        let row = |line: &str| table.record(line.as_bytes());
        let line =
            r#"["00ff","",null,"a0",-9223372036854775808,9223372036854775807,null,null,"\"é\n","[]",0]"#;
        assert_eq!(serde_json::to_string(&row(line).unwrap()).unwrap(), line);
        for bad in [
            "",
            "{}",
            "[]",
            &line.replace("00ff", "00f"),
            &line.replace("00ff", "00zz"),
            &line.replace("00ff", "é"),
            &line.replace(",0]", "]"),
            &line.replace(",0]", ",0,0]"),
            &line.replace(",0]", ",\"0\"]"),
            &line.replace(",0]", ",9223372036854775808]"),
            &line.replace(",0]", ",1.5]"),
            &line.replace(",0]", ",[]]"),
            &line.replace("\"a0\"", "0"),
        ] {
            assert!(row(bad).is_none(), "{bad}");
        }
    }
}
