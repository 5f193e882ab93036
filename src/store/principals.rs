//! `principals`: users and service accounts.

use std::collections::BTreeSet;

use super::{
    Connection, StoreError, Tx,
    db::{Row, inconsistent, must_hit, sql},
};
use crate::model::{GrantType, Id, Page, Principal, PrincipalKind, PrincipalName, Timestamp};

/// A user with what proves them.
pub struct Login {
    /// The user.
    pub principal: Principal,
    /// The argon2id hash, unless the user has no password.
    pub password_hash: Option<String>,
    /// When the password ends: it is a one-time password, which opens nothing but its own change.
    pub password_expires_at: Option<Timestamp>,
}

pub(super) fn read(row: &Row<'_>) -> Result<Principal, StoreError> {
    Ok(Principal {
        id: row.id("id")?,
        kind: row.parsed("kind")?,
        name: row.parsed("name")?,
        role: row.parsed("role")?,
        grant_types: grant_types(row)?,
        networks: row.networks("networks")?,
        disabled_at: row.maybe_time("disabled_at")?,
        created_at: row.time("created_at")?,
        version: row.int("version")?,
    })
}

fn grant_types(row: &Row<'_>) -> Result<BTreeSet<GrantType>, StoreError> {
    let Some(text) = row.maybe_text("grant_types")? else {
        return Ok(row.parsed::<PrincipalKind>("kind")?.grant_types());
    };
    let names: Vec<String> = serde_json::from_str(&text).map_err(|_| inconsistent("grant_types"))?;
    names.iter().map(|name| name.parse().map_err(|_| inconsistent("grant_types"))).collect()
}

/// The principal of that name.
pub async fn by_name(db: &mut Connection, name: &PrincipalName) -> Result<Option<Principal>, StoreError> {
    let statement = sql("select * from principals where name = $1");
    db.optional(statement.bind(name.as_str()), read).await
}

/// The principal of that identifier.
pub async fn by_id(db: &mut Connection, id: Id) -> Result<Option<Principal>, StoreError> {
    let statement = sql("select * from principals where id = $1");
    db.optional(statement.bind(id), read).await
}

/// The user of that name and the hash of their password.
pub async fn login(db: &mut Connection, name: &PrincipalName) -> Result<Option<Login>, StoreError> {
    let statement = sql("select * from principals \
                         where name = $1 and kind = 'user'");
    db.optional(statement.bind(name.as_str()), |row| {
        Ok(Login {
            principal: read(row)?,
            password_hash: row.maybe_text("password_hash")?,
            password_expires_at: row.maybe_time("password_expires_at")?,
        })
    })
    .await
}

/// Principals of a kind, by name.
pub async fn list(
    db: &mut Connection,
    kind: PrincipalKind,
    page: &Page,
) -> Result<Vec<Principal>, StoreError> {
    let statement =
        sql("select * from principals where kind = $1 and ($2 is null or name > $2) order by name limit $3");
    db.all(statement.bind(kind.as_str()).bind(page.after.clone()).bind(page.limit), read).await
}

/// Whether there is anybody.
pub async fn is_any(db: &mut Connection) -> Result<bool, StoreError> {
    Ok(db.optional(sql("select 1 as found from principals limit 1"), |_| Ok(())).await?.is_some())
}

/// How many enabled users other than `id` can administer the desk.
pub async fn other_enabled_admins(db: &mut Connection, id: Id) -> Result<i64, StoreError> {
    let statement = sql("select count(*) as n from principals \
                         where kind = 'user' and role = 'admin' and disabled_at is null \
                         and (grant_types is null or grant_types like '%password%') and id <> $1");
    Ok(db.optional(statement.bind(id), |row| row.int("n")).await?.unwrap_or(0))
}

/// Adds a principal.
pub async fn insert(
    tx: &mut Tx,
    principal: &Principal,
    password_hash: Option<String>,
) -> Result<(), StoreError> {
    let statement = sql("insert into principals (id, kind, name, role, password_hash, networks, \
                         created_at) values ($1, $2, $3, $4, $5, $6, $7)")
    .bind(principal.id)
    .bind(principal.kind.as_str())
    .bind(principal.name.as_str())
    .bind(principal.role.as_str())
    .bind(password_hash)
    .bind(&principal.networks)
    .bind(principal.created_at);
    tx.execute(statement).await.map(drop)
}

/// Replaces a user's password hash. With an end it is a one-time password.
pub async fn set_password_hash(
    tx: &mut Tx,
    id: Id,
    hash: String,
    expires_at: Option<Timestamp>,
) -> Result<(), StoreError> {
    let statement =
        sql("update principals set password_hash = $1, password_expires_at = $2, version = version + 1 \
                         where id = $3");
    must_hit(tx.execute(statement.bind(hash).bind(expires_at).bind(id)).await?, "principals")
}

/// Replaces a user's password hash unless it was changed since `old` was read.
pub async fn renew_password_hash(tx: &mut Tx, id: Id, old: String, new: String) -> Result<bool, StoreError> {
    let statement = sql("update principals set password_hash = $1 where id = $2 and password_hash = $3");
    Ok(tx.execute(statement.bind(new).bind(id).bind(old)).await? == 1)
}

/// Stores what may be changed of a principal, if it still is of the version that `changed` was read at.
pub async fn update(tx: &mut Tx, changed: &Principal) -> Result<bool, StoreError> {
    let usual = changed.kind.grant_types() == changed.grant_types;
    let grant_types = (!usual).then(|| serde_json::to_string(&changed.grant_types)).transpose();
    let statement =
        sql("update principals set role = $1, disabled_at = $2, grant_types = $3, networks = $4, \
                         version = version + 1 where id = $5 and version = $6")
        .bind(changed.role.as_str())
        .bind(changed.disabled_at)
        .bind(grant_types.map_err(|_| inconsistent("grant_types"))?)
        .bind(&changed.networks)
        .bind(changed.id)
        .bind(changed.version);
    Ok(tx.execute(statement).await? == 1)
}

/// Deletes a principal with its secrets, API keys and grants.
pub async fn delete(tx: &mut Tx, id: Id) -> Result<(), StoreError> {
    must_hit(tx.execute(sql("delete from principals where id = $1").bind(id)).await?, "principals")
}
