//! `grants`: who may fetch which keys of which project.

use std::collections::BTreeSet;

use super::{
    Connection, StoreError, Tx,
    db::{Row, inconsistent, sql},
};
use crate::model::{Grant, Granted, Id, Provider, Timestamp};

fn providers(row: &Row<'_>) -> Result<Option<BTreeSet<Provider>>, StoreError> {
    let Some(text) = row.maybe_text("providers")? else { return Ok(None) };
    let slugs: Vec<String> = serde_json::from_str(&text).map_err(|_| inconsistent("providers"))?;
    let parsed: Result<_, _> = slugs.iter().map(|slug| slug.parse()).collect();
    parsed.map(Some).map_err(|_| inconsistent("providers"))
}

pub(super) fn read_granted(row: &Row<'_>) -> Result<Granted, StoreError> {
    Ok(Granted {
        project_id: row.id("project_id")?,
        project: row.parsed("project")?,
        providers: providers(row)?,
    })
}

/// The grants of a principal, by project.
pub async fn of_principal(db: &mut Connection, principal: Id) -> Result<Vec<Granted>, StoreError> {
    let statement = sql("select g.project_id, p.name as project, g.providers from grants g \
                         join projects p on p.id = g.project_id where g.principal_id = $1 order by p.name");
    db.all(statement.bind(principal), read_granted).await
}

/// Grants, all or those on one project, by project and principal; only those `after` such a pair.
pub async fn list(
    db: &mut Connection,
    project: Option<Id>,
    after: Option<(String, String)>,
    limit: i64,
) -> Result<Vec<Grant>, StoreError> {
    let (after_project, after_principal) = after.unzip();
    let statement =
        sql("select a.name as principal, p.name as project, g.providers, g.created_at from grants g \
                         join projects p on p.id = g.project_id join principals a on a.id = g.principal_id \
                         where ($1 is null or g.project_id = $1) and ($2 is null or (p.name, a.name) > ($2, $3)) \
                         order by p.name, a.name limit $4")
        .bind(project)
        .bind(after_project)
        .bind(after_principal)
        .bind(limit);
    let read = |row: &Row<'_>| {
        Ok(Grant {
            principal: row.parsed("principal")?,
            project: row.parsed("project")?,
            providers: providers(row)?,
            created_at: row.time("created_at")?,
        })
    };
    db.all(statement, read).await
}

/// Makes a grant, or changes which providers it covers.
pub async fn put(
    tx: &mut Tx,
    principal: Id,
    project: Id,
    providers: Option<&BTreeSet<Provider>>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let providers =
        providers.map(serde_json::to_string).transpose().map_err(|_| inconsistent("providers"))?;
    let statement = sql(
        "insert into grants (principal_id, project_id, providers, created_at) values ($1, $2, $3, $4) \
                         on conflict (principal_id, project_id) do update set providers = excluded.providers",
    );
    tx.execute(statement.bind(principal).bind(project).bind(providers).bind(now)).await.map(drop)
}

/// Removes a grant and tells whether there was one.
pub async fn delete(tx: &mut Tx, principal: Id, project: Id) -> Result<bool, StoreError> {
    let statement = sql("delete from grants where principal_id = $1 and project_id = $2");
    Ok(tx.execute(statement.bind(principal).bind(project)).await? == 1)
}
