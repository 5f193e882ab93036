//! `api_keys`: digests of long-lived credentials.

use super::{
    Connection, StoreError, Tx,
    db::{Row, must_hit, sql},
};
use crate::model::{Id, Networks, PrincipalName, Scope, ScopeSet, Timestamp, TokenDigest};

/// An API key as it may be shown: everything but the key.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ApiKeyRow {
    /// Its identifier.
    pub id: Id,
    /// Whose it is.
    pub principal: PrincipalName,
    /// What it is for, in its owner's words.
    pub label: String,
    /// What it may do at most.
    #[serde(serialize_with = "crate::model::scope::as_text")]
    pub scope: ScopeSet,
    /// From where it may be used.
    pub sources: Networks,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when it is void.
    pub expires_at: Option<Timestamp>,
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

impl ApiKeyRow {
    /// A key that fetches provider keys, from anywhere, without end.
    pub fn new(id: Id, principal: PrincipalName, label: String, created_at: Timestamp) -> Self {
        Self {
            id,
            principal,
            label,
            scope: ScopeSet::of(&[Scope::LlmKeysRead]),
            sources: Networks::ANYWHERE,
            created_at,
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        }
    }
}

fn read(row: &Row<'_>) -> Result<ApiKeyRow, StoreError> {
    Ok(ApiKeyRow {
        id: row.id("id")?,
        principal: row.parsed("principal")?,
        label: row.text("label")?,
        scope: row.parsed("scope")?,
        sources: row.networks("sources")?,
        created_at: row.time("created_at")?,
        expires_at: row.maybe_time("expires_at")?,
        revoked_at: row.maybe_time("revoked_at")?,
        last_used_at: row.maybe_time("last_used_at")?,
    })
}

/// Keys, all or those of one principal, oldest first.
pub async fn list(
    db: &mut Connection,
    principal: Option<Id>,
    after: Option<Id>,
    limit: i64,
) -> Result<Vec<ApiKeyRow>, StoreError> {
    let statement =
        sql("select k.*, p.name as principal from api_keys k join principals p on p.id = k.principal_id \
                         where ($1 is null or k.principal_id = $1) and ($2 is null or k.id > $2) \
                         order by k.id limit $3");
    db.all(statement.bind(principal).bind(after).bind(limit), read).await
}

/// The key of that identifier.
pub async fn by_id(db: &mut Connection, id: Id) -> Result<Option<ApiKeyRow>, StoreError> {
    let statement =
        sql("select k.*, p.name as principal from api_keys k join principals p on p.id = k.principal_id \
                         where k.id = $1");
    db.optional(statement.bind(id), read).await
}

/// Adds a key. `imported` is one that was chosen by somebody else.
pub async fn insert(
    tx: &mut Tx,
    key: &ApiKeyRow,
    principal: Id,
    digest: TokenDigest,
    imported: bool,
) -> Result<(), StoreError> {
    let statement =
        sql("insert into api_keys (id, principal_id, label, digest, imported, scope, sources, created_at, \
                         expires_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
        .bind(key.id)
        .bind(principal)
        .bind(key.label.as_str())
        .bind(digest)
        .bind(imported)
        .bind(key.scope.to_string())
        .bind(&key.sources)
        .bind(key.created_at)
        .bind(key.expires_at);
    tx.execute(statement).await.map(drop)
}

/// Remembers that a key was used.
pub async fn touch(tx: &mut Tx, id: Id, now: Timestamp) -> Result<(), StoreError> {
    let statement = sql("update api_keys set last_used_at = $1 where id = $2");
    tx.execute(statement.bind(now).bind(id)).await.map(drop)
}

/// Revokes a key that is not revoked yet.
pub async fn revoke(tx: &mut Tx, id: Id, now: Timestamp) -> Result<(), StoreError> {
    let statement = sql("update api_keys set revoked_at = $1 where id = $2 and revoked_at is null");
    must_hit(tx.execute(statement.bind(now).bind(id)).await?, "api_keys")
}

/// Lets a revoked key in again.
pub async fn reinstate(tx: &mut Tx, id: Id) -> Result<(), StoreError> {
    must_hit(
        tx.execute(sql("update api_keys set revoked_at = null where id = $1").bind(id)).await?,
        "api_keys",
    )
}

/// The imported keys of a principal that are not revoked.
pub async fn imported(db: &mut Connection, principal: Id) -> Result<Vec<Id>, StoreError> {
    let statement =
        sql("select id from api_keys where principal_id = $1 and imported = 1 and revoked_at is null");
    db.all(statement.bind(principal), |row| row.id("id")).await
}
