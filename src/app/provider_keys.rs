//! The upstream keys of a project: set (a new version), listed without their values, deleted.

use std::time::Duration;

use super::{App, Error, after_pair, change::Change, llm_keys::version_place, projects};
use crate::{
    model::{Action, Caller, Id, Listed, Page, ProjectName, Provider, Scope, Timestamp, provider},
    secret::Secret,
    store::provider_keys::{self, ProviderKeyRow, StoredKey},
};

/// A provider key as it may be shown.
#[derive(Debug, serde::Serialize)]
pub struct ShownKey {
    /// Everything but the key.
    #[serde(flatten)]
    pub row: ProviderKeyRow,
    /// The environment variable in which the provider's SDK looks for it.
    pub env: String,
    /// Recognises a key without showing any of it: a keyed digest that only this desk can compute.
    pub fingerprint: String,
}

impl App {
    /// Provider keys, all or one project's, without their values. Needs `llm-keys:write`.
    pub async fn provider_keys(
        &self,
        caller: &Caller,
        project: Option<&ProjectName>,
        page: &Page,
    ) -> Result<Listed<ShownKey>, Error> {
        self.require(caller, Scope::LlmKeysWrite, Action::AdminRead, "provider_keys").await?;
        let mut db = self.store.read().await?;
        let project = match project {
            Some(name) => Some(projects::existing(&mut db, name).await?.id),
            None => None,
        };
        let found = provider_keys::list(&mut db, project, after_pair(page)?, page.and_one().limit).await?;
        drop(db);
        let shown: Result<Vec<_>, _> = found.into_iter().map(|stored| self.shown(stored)).collect();
        Ok(Listed::of(shown?, page, |key| format!("{}/{}", key.row.project, key.row.provider)))
    }

    /// One provider key, without its value. Needs `llm-keys:write`.
    pub async fn provider_key(
        &self,
        caller: &Caller,
        project: &ProjectName,
        provider: &Provider,
    ) -> Result<ShownKey, Error> {
        self.require(caller, Scope::LlmKeysWrite, Action::AdminRead, object(project, provider)).await?;
        let mut db = self.store.read().await?;
        let id = projects::existing(&mut db, project).await?.id;
        let stored = provider_keys::stored(&mut db, id, provider).await?;
        drop(db);
        self.shown(stored.ok_or_else(|| no_key(project, provider))?)
    }

    #[expect(clippy::disallowed_methods, reason = "a keyed digest of the key is shown, not the key")]
    fn shown(&self, stored: StoredKey) -> Result<ShownKey, Error> {
        let key = self.open_version(stored.version_id, &stored.sealed)?;
        let mac = self.keyring.mac("provider key fingerprint", key.expose().as_bytes());
        let env = stored.row.provider.env_variable();
        Ok(ShownKey { row: stored.row, env, fingerprint: super::hex(&mac[..4]) })
    }

    /// Sets a provider's key in a project and tells what became of it: of this version, though others may have followed it
    /// by now. After `lifetime` the key is void and not handed out any more. Needs `llm-keys:write`.
    #[expect(clippy::disallowed_methods, reason = "the key is checked before it is sealed")]
    pub async fn set_provider_key(
        &self,
        caller: &Caller,
        project: &ProjectName,
        provider: &Provider,
        key: &Secret,
        lifetime: Option<Duration>,
    ) -> Result<ShownKey, Error> {
        let object = object(project, provider);
        self.require(caller, Scope::LlmKeysWrite, Action::ProviderKeySet, object.as_str()).await?;
        let checked = provider::check_key_text(key.expose())
            .map_err(|error| Error::Conflict(format!("not a provider key: {error}")))
            .and_then(|()| check_lifetime(lifetime));
        self.prepared(checked, caller, Action::ProviderKeySet, &object).await?;
        let mut change = self.change(caller, Scope::LlmKeysWrite, Action::ProviderKeySet, object).await?;
        let result = async {
            let id = projects::existing(&mut change, project).await?.id;
            let expires_at = lifetime.map(|lifetime| self.now().plus(lifetime));
            self.add_version(&mut change, id, provider, key, expires_at).await?;
            let stored = provider_keys::stored(&mut change, id, provider).await?;
            self.shown(stored.ok_or_else(|| no_key(project, provider))?)
        }
        .await;
        if let Ok(set) = &result {
            change.event = change.event.clone().version(set.row.version);
        }
        change.finish(result).await
    }

    /// Seals `key` as the next version and makes it current.
    #[expect(clippy::disallowed_methods, reason = "the key is sealed")]
    pub(super) async fn add_version(
        &self,
        change: &mut Change<'_>,
        project: Id,
        provider: &Provider,
        key: &Secret,
        expires_at: Option<Timestamp>,
    ) -> Result<(Id, i64), Error> {
        let (version_id, now) = (self.new_id(), self.now());
        let (id, version) = if let Some((id, last)) = provider_keys::find(change, project, provider).await? {
            provider_keys::set_version(change, id, last + 1, now).await?;
            (id, last + 1)
        } else {
            let id = self.new_id();
            provider_keys::insert(change, id, project, provider, now).await?;
            (id, 1)
        };
        let place = version_place(version_id);
        let sealed = self.keyring.seal(place, key.expose().as_bytes(), &*self.surroundings.entropy);
        provider_keys::insert_version(change, version_id, id, version, sealed, now, expires_at).await?;
        Ok((id, version))
    }

    /// Deletes a provider's key with all its versions. Needs `llm-keys:write`.
    pub async fn delete_provider_key(
        &self,
        caller: &Caller,
        project: &ProjectName,
        provider: &Provider,
    ) -> Result<(), Error> {
        let object = object(project, provider);
        let mut change = self.change(caller, Scope::LlmKeysWrite, Action::ProviderKeyDelete, object).await?;
        let result = async {
            let project_id = projects::existing(&mut change, project).await?.id;
            let stored = provider_keys::stored(&mut change, project_id, provider).await?;
            let stored = stored.ok_or_else(|| no_key(project, provider))?;
            Ok(provider_keys::delete_values(&mut change, stored.row.id).await?)
        }
        .await;
        change.finish(result).await
    }
}

/// The longest life of a provider key.
const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

fn check_lifetime(lifetime: Option<Duration>) -> Result<(), Error> {
    if lifetime.is_some_and(|lifetime| lifetime.is_zero() || lifetime > LONGEST) {
        return Err(Error::Invalid("a provider key lasts from a second to a hundred years".to_owned()));
    }
    Ok(())
}

fn no_key(project: &ProjectName, provider: &Provider) -> Error {
    Error::NotFound(format!("project {project} has no key of {provider}"))
}

/// How the book names a provider key.
pub(super) fn object(project: &ProjectName, provider: &Provider) -> String {
    format!("provider_key:{project}/{provider}")
}
