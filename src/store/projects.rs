//! `projects`: named sets of provider keys.

use super::{
    Connection, StoreError, Tx,
    db::{Row, must_hit, sql},
};
use crate::model::{Id, Page, Project, ProjectName};

fn read(row: &Row<'_>) -> Result<Project, StoreError> {
    Ok(Project { id: row.id("id")?, name: row.parsed("name")?, created_at: row.time("created_at")? })
}

/// The project of that name.
pub async fn by_name(db: &mut Connection, name: &ProjectName) -> Result<Option<Project>, StoreError> {
    db.optional(sql("select id, name, created_at from projects where name = $1").bind(name.as_str()), read)
        .await
}

/// Projects, by name.
pub async fn list(db: &mut Connection, page: &Page) -> Result<Vec<Project>, StoreError> {
    let statement = sql("select id, name, created_at from projects \
                         where $1 is null or name > $1 order by name limit $2");
    db.all(statement.bind(page.after.clone()).bind(page.limit), read).await
}

/// Adds a project.
pub async fn insert(tx: &mut Tx, project: &Project) -> Result<(), StoreError> {
    let statement = sql("insert into projects (id, name, created_at) values ($1, $2, $3)");
    tx.execute(statement.bind(project.id).bind(project.name.as_str()).bind(project.created_at))
        .await
        .map(drop)
}

/// Deletes a project that has no provider keys and no grants; otherwise [`StoreError::InUse`].
pub async fn delete(tx: &mut Tx, id: Id) -> Result<(), StoreError> {
    must_hit(tx.execute(sql("delete from projects where id = $1").bind(id)).await?, "projects")
}
