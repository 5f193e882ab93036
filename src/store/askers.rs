//! Who a credential belongs to and what they are granted, in one look.

use super::{
    Connection, StoreError,
    db::{Row, sql},
    grants, principals,
};
use crate::model::{Granted, Id, Networks, Principal, ScopeSet, Timestamp, TokenDigest};

/// A principal with its grants, by project.
#[derive(Debug)]
pub struct AskerRow {
    /// The principal.
    pub principal: Principal,
    /// What it is granted.
    pub grants: Vec<Granted>,
}

/// An API key, as far as it matters to whoever shows it.
#[derive(Debug)]
pub struct ShownKey {
    /// Its identifier.
    pub id: Id,
    /// What it may do at most.
    pub scope: ScopeSet,
    /// From where it may be used.
    pub sources: Networks,
    /// From when it is void.
    pub expires_at: Option<Timestamp>,
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

/// The principal `id`, and whether its access token `jti` is void before its time: by itself, or with the login `family`.
pub async fn by_token(
    db: &mut Connection,
    id: Id,
    jti: &str,
    family: Option<Id>,
) -> Result<Option<(AskerRow, bool)>, StoreError> {
    let statement = sql("select a.*, g.project_id, p.name as project, g.providers, \
                         exists (select 1 from revoked_tokens where jti = $2) or exists \
                         (select 1 from token_families where id = $3 and revoked_at is not null) as is_revoked \
                         from principals a left join grants g on g.principal_id = a.id \
                         left join projects p on p.id = g.project_id where a.id = $1 order by p.name");
    let read = |row: &Row<'_>| Ok((read_row(row)?, row.is("is_revoked")?));
    Ok(gather(db.all(statement.bind(id).bind(jti).bind(family), read).await?))
}

/// The API key of that digest and its owner.
pub async fn by_api_key(
    db: &mut Connection,
    digest: TokenDigest,
) -> Result<Option<(AskerRow, ShownKey)>, StoreError> {
    let statement = sql(
        "select a.*, g.project_id, p.name as project, g.providers, k.id as key_id, k.scope, k.sources, \
                         k.expires_at, k.revoked_at, k.last_used_at from api_keys k join principals a on a.id = k.principal_id \
                         left join grants g on g.principal_id = a.id left join projects p on p.id = g.project_id \
                         where k.digest = $1 order by p.name",
    );
    let read = |row: &Row<'_>| Ok((read_row(row)?, read_key(row)?));
    Ok(gather(db.all(statement.bind(digest), read).await?))
}

fn read_key(row: &Row<'_>) -> Result<ShownKey, StoreError> {
    Ok(ShownKey {
        id: row.id("key_id")?,
        scope: row.parsed("scope")?,
        sources: row.networks("sources")?,
        expires_at: row.maybe_time("expires_at")?,
        revoked_at: row.maybe_time("revoked_at")?,
        last_used_at: row.maybe_time("last_used_at")?,
    })
}

type OneGrant = (Principal, Option<Granted>);

/// One row for each grant, or a single one without.
fn read_row(row: &Row<'_>) -> Result<OneGrant, StoreError> {
    let granted = row.maybe_id("project_id")?.map(|_| grants::read_granted(row)).transpose()?;
    Ok((principals::read(row)?, granted))
}

fn gather<T>(rows: Vec<(OneGrant, T)>) -> Option<(AskerRow, T)> {
    let mut rows = rows.into_iter();
    let ((principal, first), rest) = rows.next()?;
    let grants = first.into_iter().chain(rows.filter_map(|((_, granted), _)| granted)).collect();
    Some((AskerRow { principal, grants }, rest))
}
