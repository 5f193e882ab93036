//! The schema, step by step: the same numbers and the same tables for both engines.

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

/// Number, name, and the text for SQLite and for PostgreSQL.
const MIGRATIONS: [(i64, &str, &str, &str); 8] = {
    macro_rules! migration {
        ($number:literal, $file:literal, $name:literal) => {
            (
                $number,
                $name,
                include_str!(concat!("../../../migrations/sqlite/", $file, "_", $name, ".sql")),
                include_str!(concat!("../../../migrations/postgres/", $file, "_", $name, ".sql")),
            )
        };
    }
    [
        migration!(1, "0001", "init"),
        migration!(2, "0002", "tokens"),
        migration!(3, "0003", "chain"),
        migration!(4, "0004", "networks"),
        migration!(5, "0005", "alarms"),
        migration!(6, "0006", "audit_by_place"),
        migration!(7, "0007", "alarm_reads_by_hour"),
        migration!(8, "0008", "rate_limits"),
    ]
};

/// The newest number that this program knows.
pub(super) const NEWEST: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

pub(super) fn sqlite() -> Migrator {
    migrator(|(number, name, text, _)| (number, name, text))
}

pub(super) fn postgres() -> Migrator {
    migrator(|(number, name, _, text)| (number, name, text))
}

type All = (i64, &'static str, &'static str, &'static str);

fn migrator(of: fn(All) -> (i64, &'static str, &'static str)) -> Migrator {
    let migrations = MIGRATIONS.into_iter().map(of).map(|(number, name, text)| {
        Migration::new(number, name.into(), MigrationType::Simple, text.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// The triggers that the migrations for PostgreSQL make: their names, and their texts with those of their functions.
pub(super) fn postgres_triggers() -> Vec<(String, String)> {
    let text: String = MIGRATIONS.iter().map(|(_, _, _, text)| *text).collect();
    let function = |name: &str| {
        let body = text.split_once(&format!("create function {name}()"))?.1.split_once("$$")?.1;
        Some(body.split_once("$$")?.0.to_owned())
    };
    let triggers = text.split("create trigger ").skip(1).filter_map(|trigger| {
        let trigger = trigger.split_once(';')?.0;
        let (name, rest) = trigger.split_once(' ')?;
        let body = function(rest.rsplit_once(' ')?.1.strip_suffix("()")?)?;
        Some((name.to_owned(), format!("create trigger {trigger}; {body}")))
    });
    triggers.collect()
}
