//! `token_families` and `refresh_tokens`: logins and the lineage of their refresh tokens.

use super::{
    Connection, StoreError, Tx,
    db::{Row, inconsistent, must_hit, sql},
};
use crate::model::{Id, ScopeSet, Timestamp, TokenDigest};

/// A login.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Family {
    /// Its identifier.
    pub id: Id,
    /// Whose it is.
    #[serde(skip)]
    pub principal: Id,
    /// The client it was made with.
    pub client_id: String,
    /// What its tokens allow at most.
    #[serde(serialize_with = "crate::model::scope::as_text")]
    pub scope: ScopeSet,
    /// The generation of the valid refresh token.
    #[serde(skip)]
    pub generation: i64,
    /// When the valid token was obtained by showing its predecessor.
    pub rotated_at: Option<Timestamp>,
    /// From where.
    #[serde(skip)]
    pub rotated_source: Option<String>,
    /// When it began.
    pub created_at: Timestamp,
    /// From where.
    pub created_source: String,
    /// When it ends unless it is used.
    #[serde(skip)]
    pub idle_expires_at: Timestamp,
    /// When it ends in any case.
    pub expires_at: Timestamp,
    /// Since when it is revoked.
    #[serde(skip)]
    pub revoked_at: Option<Timestamp>,
}

impl Family {
    /// Whether it is neither revoked nor at its end.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && now < self.idle_expires_at && now < self.expires_at
    }
}

fn read(row: &Row<'_>) -> Result<Family, StoreError> {
    Ok(Family {
        id: row.id("id")?,
        principal: row.id("principal_id")?,
        client_id: row.text("client_id")?,
        scope: ScopeSet::of_token(&row.text("scope")?).map_err(|_| inconsistent("scope"))?,
        generation: row.int("generation")?,
        rotated_at: row.maybe_time("rotated_at")?,
        rotated_source: row.maybe_text("rotated_source")?,
        created_at: row.time("created_at")?,
        created_source: row.text("created_source")?,
        idle_expires_at: row.time("idle_expires_at")?,
        expires_at: row.time("expires_at")?,
        revoked_at: row.maybe_time("revoked_at")?,
    })
}

/// The login of that identifier.
pub async fn by_id(db: &mut Connection, id: Id) -> Result<Option<Family>, StoreError> {
    db.optional(sql("select * from token_families where id = $1").bind(id), read).await
}

/// The login to which a refresh token belongs, and the token's generation.
pub async fn by_token(db: &mut Connection, digest: TokenDigest) -> Result<Option<(Family, i64)>, StoreError> {
    let statement = sql("select f.*, t.generation as shown from refresh_tokens t \
                         join token_families f on f.id = t.family_id where t.digest = $1");
    db.optional(statement.bind(digest), |row| Ok((read(row)?, row.int("shown")?))).await
}

/// The logins of a principal that are alive, newest first.
pub async fn alive(
    db: &mut Connection,
    principal: Id,
    now: Timestamp,
    after: Option<Id>,
    limit: i64,
) -> Result<Vec<Family>, StoreError> {
    let statement = sql("select * from token_families where principal_id = $1 and revoked_at is null \
                         and idle_expires_at > $2 and expires_at > $2 and ($3 is null or id < $3) \
                         order by id desc limit $4");
    db.all(statement.bind(principal).bind(now).bind(after).bind(limit), read).await
}

/// Adds a login, whose first token must follow.
pub async fn insert(tx: &mut Tx, family: &Family) -> Result<(), StoreError> {
    let statement = sql(
        "insert into token_families (id, principal_id, client_id, scope, generation, created_at, \
                         created_source, idle_expires_at, expires_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(family.id)
    .bind(family.principal)
    .bind(family.client_id.as_str())
    .bind(family.scope.to_string())
    .bind(family.generation)
    .bind(family.created_at)
    .bind(family.created_source.as_str())
    .bind(family.idle_expires_at)
    .bind(family.expires_at);
    tx.execute(statement).await.map(drop)
}

/// Adds the digest of a generation.
pub async fn insert_token(
    tx: &mut Tx,
    family: Id,
    generation: i64,
    digest: TokenDigest,
) -> Result<(), StoreError> {
    let statement = sql("insert into refresh_tokens (digest, family_id, generation) values ($1, $2, $3)");
    tx.execute(statement.bind(digest).bind(family).bind(generation)).await.map(drop)
}

/// Makes `generation` the valid one.
pub async fn rotate(
    tx: &mut Tx,
    id: Id,
    generation: i64,
    source: &str,
    idle_expires_at: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    let statement = sql("update token_families set generation = $1, rotated_at = $2, rotated_source = $3, \
                         idle_expires_at = $4 where id = $5 and generation = $1 - 1 and revoked_at is null");
    let statement = statement.bind(generation).bind(now).bind(source).bind(idle_expires_at).bind(id);
    must_hit(tx.execute(statement).await?, "token_families")
}

/// Ends a login, and tells whether it was alive.
pub async fn revoke(tx: &mut Tx, id: Id, now: Timestamp) -> Result<bool, StoreError> {
    let statement = sql("update token_families set revoked_at = $1 where id = $2 and revoked_at is null");
    Ok(tx.execute(statement.bind(now).bind(id)).await? == 1)
}

/// Ends all logins of a principal.
pub async fn revoke_all(tx: &mut Tx, principal: Id, now: Timestamp) -> Result<u64, StoreError> {
    let statement =
        sql("update token_families set revoked_at = $1 where principal_id = $2 and revoked_at is null");
    tx.execute(statement.bind(now).bind(principal)).await
}

/// Forgets logins that ended before `before`, at most `limit` of them, and tells how many.
pub async fn forget_ended(tx: &mut Tx, before: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let statement = sql("delete from token_families where id in \
                         (select id from token_families where idle_expires_at < $1 limit $2)");
    tx.execute(statement.bind(before).bind(limit)).await
}

/// Remembers that an access token is void before its time.
pub async fn revoke_access_token(tx: &mut Tx, jti: &str, expires_at: Timestamp) -> Result<(), StoreError> {
    let statement =
        sql("insert into revoked_tokens (jti, expires_at) values ($1, $2) on conflict (jti) do nothing");
    tx.execute(statement.bind(jti).bind(expires_at)).await.map(drop)
}

/// Whether an access token is void before its time: by itself, or with the login it belongs to.
pub async fn is_access_token_revoked(
    db: &mut Connection,
    jti: &str,
    family: Option<Id>,
) -> Result<bool, StoreError> {
    let statement = sql("select jti from revoked_tokens where jti = $1 \
                         union all select '' from token_families where id = $2 and revoked_at is not null");
    Ok(db.optional(statement.bind(jti).bind(family), |row| row.text("jti")).await?.is_some())
}

/// Forgets revoked access tokens whose time has come, at most `limit` of them, and tells how many.
pub async fn forget_revoked(tx: &mut Tx, before: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let statement = sql("delete from revoked_tokens where jti in \
                         (select jti from revoked_tokens where expires_at < $1 limit $2)");
    tx.execute(statement.bind(before).bind(limit)).await
}
