//! `provider_keys` and `provider_key_versions`: the upstream keys, sealed.

use super::{
    Connection, StoreError, Tx,
    db::{Row, must_hit, sql},
};
use crate::model::{Id, ProjectName, Provider, Timestamp};

/// The current version of a provider key.
#[derive(Debug)]
pub struct CurrentKey {
    /// The provider.
    pub provider: Provider,
    /// The number of the current version.
    pub version: i64,
    /// The row that holds it; part of the seal's associated data.
    pub version_id: Id,
    /// The key, sealed.
    pub sealed: Vec<u8>,
    /// From when it is void.
    pub expires_at: Option<Timestamp>,
}

/// A provider key as it may be shown: everything but the key.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ProviderKeyRow {
    /// Its identifier.
    #[serde(skip)]
    pub id: Id,
    /// Its project.
    pub project: ProjectName,
    /// Its provider.
    pub provider: Provider,
    /// The number of the current version.
    pub version: i64,
    /// When it was first set.
    pub created_at: Timestamp,
    /// When the current version was set.
    pub updated_at: Timestamp,
    /// From when the current version is void.
    pub expires_at: Option<Timestamp>,
}

/// A provider key with the sealed value of its current version.
#[derive(Debug)]
pub struct StoredKey {
    /// What may be shown.
    pub row: ProviderKeyRow,
    /// The row that holds the value; part of the seal's associated data.
    pub version_id: Id,
    /// The key, sealed.
    pub sealed: Vec<u8>,
}

/// The current keys of a project that have not expired, by provider.
pub async fn current(
    db: &mut Connection,
    project: Id,
    now: Timestamp,
) -> Result<Vec<CurrentKey>, StoreError> {
    let statement = sql("select k.provider, k.version, v.id, v.sealed, v.expires_at from provider_keys k \
                         join provider_key_versions v on v.provider_key_id = k.id and v.version = k.version \
                         where k.project_id = $1 and (v.expires_at is null or v.expires_at > $2) order by k.provider");
    let read = |row: &Row<'_>| {
        Ok(CurrentKey {
            provider: row.parsed("provider")?,
            version: row.int("version")?,
            version_id: row.id("id")?,
            sealed: row.bytes("sealed")?,
            expires_at: row.maybe_time("expires_at")?,
        })
    };
    db.all(statement.bind(project).bind(now), read).await
}

/// Of all current keys: when the one that has not been rotated for longest was set, and when the first one expires or has
/// expired.
pub async fn extremes(db: &mut Connection) -> Result<(Option<Timestamp>, Option<Timestamp>), StoreError> {
    let statement =
        sql("select min(v.created_at) as oldest, min(v.expires_at) as expiry from provider_keys k \
                         join provider_key_versions v on v.provider_key_id = k.id and v.version = k.version");
    let read = |row: &Row<'_>| Ok((row.maybe_time("oldest")?, row.maybe_time("expiry")?));
    Ok(db.optional(statement, read).await?.unwrap_or_default())
}

/// The current keys that expire before `end`: project, provider, when.
pub async fn expiring(
    db: &mut Connection,
    end: Timestamp,
) -> Result<Vec<(ProjectName, Provider, Timestamp)>, StoreError> {
    let statement = sql("select p.name, k.provider, v.expires_at from provider_keys k \
                         join provider_key_versions v on v.provider_key_id = k.id and v.version = k.version \
                         join projects p on p.id = k.project_id where v.expires_at < $1 order by v.expires_at");
    let read = |row: &Row<'_>| Ok((row.parsed("name")?, row.parsed("provider")?, row.time("expires_at")?));
    db.all(statement.bind(end), read).await
}

fn read_row(row: &Row<'_>) -> Result<ProviderKeyRow, StoreError> {
    Ok(ProviderKeyRow {
        id: row.id("id")?,
        project: row.parsed("project")?,
        provider: row.parsed("provider")?,
        version: row.int("version")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        expires_at: row.maybe_time("expires_at")?,
    })
}

fn read_stored(row: &Row<'_>) -> Result<StoredKey, StoreError> {
    Ok(StoredKey { row: read_row(row)?, version_id: row.id("version_id")?, sealed: row.bytes("sealed")? })
}

/// Provider keys, all or those of one project, by project and provider; only those `after` such a pair.
pub async fn list(
    db: &mut Connection,
    project: Option<Id>,
    after: Option<(String, String)>,
    limit: i64,
) -> Result<Vec<StoredKey>, StoreError> {
    let (after_project, after_provider) = after.unzip();
    let statement = sql(
        "select k.id, p.name as project, k.provider, k.version, k.created_at, k.updated_at, \
                         v.id as version_id, v.sealed, v.expires_at from provider_keys k join projects p on p.id = k.project_id \
                         join provider_key_versions v on v.provider_key_id = k.id and v.version = k.version \
                         where ($1 is null or k.project_id = $1) and ($2 is null or (p.name, k.provider) > ($2, $3)) \
                         order by p.name, k.provider limit $4",
    );
    let statement = statement.bind(project).bind(after_project).bind(after_provider).bind(limit);
    db.all(statement, read_stored).await
}

/// A project's key of a provider, with its sealed value.
pub async fn stored(
    db: &mut Connection,
    project: Id,
    provider: &Provider,
) -> Result<Option<StoredKey>, StoreError> {
    let statement = sql(
        "select k.id, p.name as project, k.provider, k.version, k.created_at, k.updated_at, \
                         v.id as version_id, v.sealed, v.expires_at from provider_keys k join projects p on p.id = k.project_id \
                         join provider_key_versions v on v.provider_key_id = k.id and v.version = k.version \
                         where k.project_id = $1 and k.provider = $2",
    );
    db.optional(statement.bind(project).bind(provider.as_str()), read_stored).await
}

/// The identifier of a project's key of a provider and the number of its last version, also of one that was deleted.
pub async fn find(
    db: &mut Connection,
    project: Id,
    provider: &Provider,
) -> Result<Option<(Id, i64)>, StoreError> {
    let statement = sql("select id, version from provider_keys where project_id = $1 and provider = $2");
    let read = |row: &Row<'_>| Ok((row.id("id")?, row.int("version")?));
    db.optional(statement.bind(project).bind(provider.as_str()), read).await
}

/// Adds a provider key at version 1, whose version row must follow.
pub async fn insert(
    tx: &mut Tx,
    id: Id,
    project: Id,
    provider: &Provider,
    now: Timestamp,
) -> Result<(), StoreError> {
    let statement =
        sql("insert into provider_keys (id, project_id, provider, version, created_at, updated_at) \
                         values ($1, $2, $3, 1, $4, $4)");
    tx.execute(statement.bind(id).bind(project).bind(provider.as_str()).bind(now)).await.map(drop)
}

/// Makes `version` the current one.
pub async fn set_version(tx: &mut Tx, id: Id, version: i64, now: Timestamp) -> Result<(), StoreError> {
    let statement = sql("update provider_keys set version = $1, updated_at = $2 where id = $3");
    must_hit(tx.execute(statement.bind(version).bind(now).bind(id)).await?, "provider_keys")
}

/// Adds the sealed value of a version.
pub async fn insert_version(
    tx: &mut Tx,
    id: Id,
    provider_key: Id,
    version: i64,
    sealed: Vec<u8>,
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> Result<(), StoreError> {
    let statement = sql(
        "insert into provider_key_versions (id, provider_key_id, version, sealed, created_at, expires_at) \
                         values ($1, $2, $3, $4, $5, $6)",
    );
    let statement = statement.bind(id).bind(provider_key).bind(version).bind(sealed);
    tx.execute(statement.bind(now).bind(expires_at)).await.map(drop)
}

/// Deletes all values of a provider key. Its number stays taken: the next value gets the next one.
pub async fn delete_values(tx: &mut Tx, id: Id) -> Result<(), StoreError> {
    let statement = sql("delete from provider_key_versions where provider_key_id = $1").bind(id);
    must_hit(tx.execute(statement).await?, "provider_key_versions")
}

/// Whether a project has a provider key with a value.
pub async fn any(db: &mut Connection, project: Id) -> Result<bool, StoreError> {
    let statement = sql("select k.version from provider_keys k join provider_key_versions v \
                         on v.provider_key_id = k.id where k.project_id = $1 limit 1");
    Ok(db.optional(statement.bind(project), |row| row.int("version")).await?.is_some())
}
