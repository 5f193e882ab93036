//! Is the database itself as we made it? Whoever can write in it can also change its indexes, triggers and views: so that
//! queries pass over rows, or that something is done in our own transactions.

use std::{collections::BTreeSet, sync::Arc};

use sqlx::sqlite::SqlitePoolOptions;

use super::{Connection, Inner, StoreError, migrator, sql};

impl Connection {
    /// What is wrong with a table or its indexes, if anything is: an index that does not lead to every row hides some.
    pub async fn damage(&mut self, table: &'static str) -> Result<Option<String>, StoreError> {
        let check = sql("select integrity_check as damage from pragma_integrity_check($1)").bind(table);
        let found = self.optional(check, |row| row.text("damage")).await?;
        Ok(found.filter(|damage| damage != "ok"))
    }

    /// The triggers and views that are not as our migrations make them, are missing, or are not ours at all: whoever can
    /// write in the database could have others act in our transactions.
    pub async fn changed_rules(&mut self) -> Result<Vec<String>, StoreError> {
        let ours = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
        migrator()
            .run(&ours)
            .await
            .map_err(|error| StoreError::Unavailable(sqlx::Error::Migrate(Box::new(error))))?;
        let ours = Self { inner: Inner::Read(ours.acquire().await?), known: Arc::default() }.rules().await?;
        let found = self.rules().await?;
        let changed = ours.symmetric_difference(&found).map(|(kind, name, _)| format!("{kind} {name}"));
        Ok(changed.collect::<BTreeSet<_>>().into_iter().collect())
    }

    async fn rules(&mut self) -> Result<BTreeSet<(String, String, String)>, StoreError> {
        let rules = sql("select type, name, sql from sqlite_schema where type in ('trigger', 'view')");
        let rules =
            self.all(rules, |row| Ok((row.text("type")?, row.text("name")?, row.text("sql")?))).await?;
        Ok(rules.into_iter().collect())
    }
}
