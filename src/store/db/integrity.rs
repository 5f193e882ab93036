//! Is the database itself as we made it? Whoever can write in it can also change its indexes, triggers and views: so that
//! queries pass over rows, or that something is done in our own transactions.

use std::{collections::BTreeSet, sync::Arc};

use sqlx::sqlite::SqlitePoolOptions;

use super::{Connection, Engine, Inner, StoreError, migration_failed, migrations, sql};

/// What acts in our transactions: its kind, its name, and what it does.
type Rule = (String, String, String);

impl Connection {
    /// What is wrong with a table or its indexes, if anything is: an index that does not lead to every row hides some. Only
    /// SQLite can be asked; a PostgreSQL server looks after its files itself.
    pub async fn damage(&mut self, table: &'static str) -> Result<Option<String>, StoreError> {
        if self.is_postgres() {
            return Ok(None);
        }
        let check = sql("select integrity_check as damage from pragma_integrity_check($1)").bind(table);
        let found = self.optional(check, |row| row.text("damage")).await?;
        Ok(found.filter(|damage| damage != "ok"))
    }

    /// The triggers and views that are not as our migrations make them, are missing, or are not ours at all: whoever can
    /// write in the database could have others act in our transactions.
    pub async fn changed_rules(&mut self) -> Result<Vec<String>, StoreError> {
        let ours = if self.is_postgres() {
            migrations::postgres_triggers()
                .into_iter()
                .map(|(name, text)| rule("trigger", &name, &text))
                .collect()
        } else {
            let ours = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
            migrations::sqlite().run(&ours).await.map_err(migration_failed)?;
            Self::new(Inner::Sqlite(ours.acquire().await?), Arc::default()).rules().await?
        };
        let found = self.rules().await?;
        let changed = ours.symmetric_difference(&found).map(|(kind, name, _)| format!("{kind} {name}"));
        Ok(changed.collect::<BTreeSet<_>>().into_iter().collect())
    }

    async fn rules(&mut self) -> Result<BTreeSet<Rule>, StoreError> {
        let rules = if self.is_postgres() {
            // What an extension has brought along is nobody's attack.
            sql(
                "select 'trigger' as type, t.tgname::text as name, pg_get_triggerdef(t.oid, true) || '; ' || p.prosrc \
                     || case t.tgenabled when 'O' then '' else ' (disabled)' end as sql \
                 from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_proc p on p.oid = t.tgfoid \
                 where not t.tgisinternal and c.relnamespace = current_schema()::regnamespace \
                 union all select 'rule', r.rulename::text, c.relname::text from pg_rewrite r join pg_class c on c.oid = r.ev_class \
                 where c.relnamespace = current_schema()::regnamespace and not exists \
                 (select 1 from pg_depend d where d.objid = c.oid and d.deptype = 'e')",
            )
        } else {
            sql("select type, name, sql from sqlite_schema where type in ('trigger', 'view')")
        };
        let rules = self
            .all(rules, |row| Ok(rule(&row.text("type")?, &row.text("name")?, &row.text("sql")?)))
            .await?;
        Ok(rules.into_iter().collect())
    }

    fn is_postgres(&mut self) -> bool {
        matches!(self.engine(), Engine::Postgres(..))
    }
}

/// Written in one way, whoever writes it.
fn rule(kind: &str, name: &str, text: &str) -> Rule {
    let words: Vec<_> = text.split_whitespace().collect();
    (kind.to_owned(), name.to_owned(), words.join(" ").to_lowercase())
}
