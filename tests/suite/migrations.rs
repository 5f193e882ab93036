//! The schema is the same on both engines: the same steps, and after them the same tables, columns and indexes.

use std::{collections::BTreeSet, fs};

use crate::{
    engine::{self, OwnDatabase},
    forger::Forger,
};

/// The names of the steps for an engine.
fn steps(engine: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("migrations/{engine}")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn both_engines_have_the_same_steps_and_the_program_knows_all_of_them() {
    let (sqlite, postgres) = (steps("sqlite"), steps("postgres"));
    assert_eq!(sqlite, postgres);
    let program = fs::read_to_string("src/store/db/migrations.rs").unwrap();
    for (number, name) in sqlite.iter().enumerate() {
        let (digits, rest) = name.split_once('_').unwrap();
        assert_eq!(digits, format!("{:04}", number + 1), "without gaps: {name}");
        let line =
            format!("migration!({}, \"{digits}\", \"{}\")", number + 1, rest.strip_suffix(".sql").unwrap());
        assert!(program.contains(&line), "{line}");
    }
}

/// What there is after all steps, a line each. The types are called as SQLite calls them.
async fn schema(forger: &mut Forger) -> BTreeSet<String> {
    let lines = match forger {
        Forger::Sqlite(_) => {
            "select t.name || '.' || c.name || ' ' || lower(c.type) || iif(c.\"notnull\" or c.pk, ' not null', '') \
             from sqlite_schema t join pragma_table_info(t.name) c where t.type = 'table' and t.name not like 'sqlite%' \
             union all select 'index ' || i.name || ' on ' || i.tbl_name || ' (' || \
             (select group_concat(c.name, ', ' order by c.seqno) from pragma_index_info(i.name) c) || ')' \
             from sqlite_schema i where i.type = 'index' and i.sql is not null"
        }
        Forger::Postgres(_) => {
            "select c.table_name || '.' || c.column_name || ' ' || case c.data_type when 'bytea' then 'blob' \
             when 'bigint' then 'integer' else c.data_type end || case c.is_nullable when 'NO' then ' not null' else '' end \
             from information_schema.columns c where c.table_schema = 'public' and c.table_name not like '\\_%' \
             union all select 'index ' || i.relname || ' on ' || t.relname || ' (' || \
             (select string_agg(pg_get_indexdef(x.indexrelid, n, true), ', ' order by n) from generate_series(1, x.indnkeyatts) n) \
             || ')' from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class t on t.oid = x.indrelid \
             where t.relnamespace = 'public'::regnamespace and t.relname not like '\\_%' \
             and not exists (select 1 from pg_constraint k where k.conindid = i.oid)"
        }
    };
    forger.texts(lines).await.into_iter().collect()
}

#[tokio::test]
async fn both_engines_have_the_same_tables_columns_and_indexes() {
    let Some(own) = OwnDatabase::with_tables() else {
        println!("skipped: it needs {}", engine::VARIABLE);
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("desk.db");
    fs::write(&file, "").unwrap();
    let mut sqlite = Forger::of_file(&file).await;
    for step in steps("sqlite") {
        sqlite.run(&fs::read_to_string(format!("migrations/sqlite/{step}")).unwrap()).await;
    }
    let (sqlite, postgres) = (schema(&mut sqlite).await, schema(&mut Forger::of(&own).await).await);
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
        one.difference(other).cloned().collect()
    };
    assert!(sqlite.len() > 100, "{sqlite:?}");
    assert_eq!((only(&sqlite, &postgres), only(&postgres, &sqlite)), (Vec::new(), Vec::new()));
}
