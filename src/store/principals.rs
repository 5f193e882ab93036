//! `principals`: users and service accounts.

use super::{
    Connection, StoreError, Tx,
    db::{Row, must_hit, sql},
};
use crate::model::{Id, Principal, PrincipalKind, PrincipalName, Timestamp};

/// A user with what proves them.
#[derive(Debug)]
pub struct Login {
    /// The user.
    pub principal: Principal,
    /// The argon2id hash, unless the user has no password.
    pub password_hash: Option<String>,
}

pub(super) fn read(row: &Row<'_>) -> Result<Principal, StoreError> {
    Ok(Principal {
        id: row.id("id")?,
        kind: row.parsed("kind")?,
        name: row.parsed("name")?,
        role: row.parsed("role")?,
        disabled_at: row.maybe_time("disabled_at")?,
        created_at: row.time("created_at")?,
    })
}

/// The principal of that name.
pub async fn by_name(db: &mut Connection, name: &PrincipalName) -> Result<Option<Principal>, StoreError> {
    let statement =
        sql("select id, kind, name, role, disabled_at, created_at from principals where name = $1");
    db.optional(statement.bind(name.as_str()), read).await
}

/// The principal of that identifier.
pub async fn by_id(db: &mut Connection, id: Id) -> Result<Option<Principal>, StoreError> {
    let statement = sql("select id, kind, name, role, disabled_at, created_at from principals where id = $1");
    db.optional(statement.bind(id), read).await
}

/// The user of that name and the hash of their password.
pub async fn login(db: &mut Connection, name: &PrincipalName) -> Result<Option<Login>, StoreError> {
    let statement =
        sql("select id, kind, name, role, disabled_at, created_at, password_hash from principals \
                         where name = $1 and kind = 'user'");
    db.optional(statement.bind(name.as_str()), |row| {
        Ok(Login { principal: read(row)?, password_hash: row.maybe_text("password_hash")? })
    })
    .await
}

/// All principals of a kind, by name.
pub async fn list(db: &mut Connection, kind: PrincipalKind) -> Result<Vec<Principal>, StoreError> {
    let statement = sql(
        "select id, kind, name, role, disabled_at, created_at from principals where kind = $1 order by name",
    );
    db.all(statement.bind(kind.as_str()), read).await
}

/// How many enabled users other than `id` can administer the desk.
pub async fn other_enabled_admins(db: &mut Connection, id: Id) -> Result<i64, StoreError> {
    let statement = sql("select count(*) as n from principals \
                         where kind = 'user' and role = 'admin' and disabled_at is null and id <> $1");
    Ok(db.optional(statement.bind(id), |row| row.int("n")).await?.unwrap_or(0))
}

/// Adds a principal.
pub async fn insert(
    tx: &mut Tx,
    principal: &Principal,
    password_hash: Option<String>,
) -> Result<(), StoreError> {
    let statement = sql("insert into principals (id, kind, name, role, password_hash, created_at) \
                         values ($1, $2, $3, $4, $5, $6)")
    .bind(principal.id)
    .bind(principal.kind.as_str())
    .bind(principal.name.as_str())
    .bind(principal.role.as_str())
    .bind(password_hash)
    .bind(principal.created_at);
    tx.execute(statement).await.map(drop)
}

/// Replaces a user's password hash.
pub async fn set_password_hash(tx: &mut Tx, id: Id, hash: String) -> Result<(), StoreError> {
    let statement = sql("update principals set password_hash = $1 where id = $2").bind(hash).bind(id);
    must_hit(tx.execute(statement).await?, "principals")
}

/// Replaces a user's password hash unless it was changed since `old` was read.
pub async fn renew_password_hash(tx: &mut Tx, id: Id, old: String, new: String) -> Result<bool, StoreError> {
    let statement = sql("update principals set password_hash = $1 where id = $2 and password_hash = $3");
    Ok(tx.execute(statement.bind(new).bind(id).bind(old)).await? == 1)
}

/// Shuts a principal out (a moment) or lets it in again (`None`).
pub async fn set_disabled_at(tx: &mut Tx, id: Id, disabled_at: Option<Timestamp>) -> Result<(), StoreError> {
    let statement = sql("update principals set disabled_at = $1 where id = $2").bind(disabled_at).bind(id);
    must_hit(tx.execute(statement).await?, "principals")
}

/// Deletes a principal with its secrets, API keys and grants.
pub async fn delete(tx: &mut Tx, id: Id) -> Result<(), StoreError> {
    must_hit(tx.execute(sql("delete from principals where id = $1").bind(id)).await?, "principals")
}
