//! Handing over provider keys: the reason for everything else.

use std::collections::BTreeMap;

use super::{App, Error};
use crate::{
    crypto::keyring::Place,
    metrics,
    model::{
        Action, AuditEvent, Caller, Id, ProjectName, Provider, Scope, Timestamp,
        grant::{self},
    },
    secret::Secret,
    store::{
        Connection,
        grants::{self, Granted},
        provider_keys::{self, CurrentKey},
    },
};

/// A provider key on its way out.
#[derive(Debug)]
pub struct HandedKey {
    /// The provider.
    pub provider: Provider,
    /// The key.
    pub key: Secret,
    /// The number of its version.
    pub version: i64,
    /// From when it is void, if it is known.
    pub expires_at: Option<Timestamp>,
}

/// What a key read gives.
#[derive(Debug)]
pub enum KeyRead<T> {
    /// The asker has it already: the entity tag it showed is the current one, and no key leaves.
    Unchanged,
    /// The keys.
    Handed(T),
}

/// A key read with its entity tag, which changes with keys, versions and grants and says nothing about them.
#[derive(Debug)]
pub struct Tagged<T> {
    /// The entity tag, quoted (RFC 9110 §8.8.3).
    pub etag: String,
    /// The project that was read.
    pub project: ProjectName,
    /// What was read.
    pub read: KeyRead<T>,
}

impl App {
    /// The keys of a project that the caller is granted. `is_current` tells whether the caller has an entity tag already.
    pub async fn read_keys(
        &self,
        caller: &Caller,
        project: Option<&str>,
        is_current: impl Fn(&str) -> bool,
    ) -> Result<Tagged<BTreeMap<Provider, HandedKey>>, Error> {
        let read = self.read_project(caller, project, is_current).await;
        self.count(&read);
        read
    }

    /// One provider's key.
    pub async fn read_key(
        &self,
        caller: &Caller,
        project: Option<&str>,
        provider: &str,
        is_current: impl Fn(&str) -> bool,
    ) -> Result<Tagged<HandedKey>, Error> {
        let read = self.read_one(caller, project, provider, is_current).await;
        self.count(&read);
        read
    }

    fn count<T>(&self, read: &Result<Tagged<T>, Error>) {
        self.metrics.key_read(match read {
            Ok(Tagged { read: KeyRead::Handed(_), .. }) => metrics::KeyRead::Handed,
            Ok(Tagged { read: KeyRead::Unchanged, .. }) => metrics::KeyRead::Unchanged,
            // Decided again by who asked, and counted then.
            Err(Error::Stale) => return,
            Err(Error::Unavailable(_) | Error::Internal(_)) => metrics::KeyRead::Failed,
            Err(_) => metrics::KeyRead::Denied,
        });
    }

    async fn read_project(
        &self,
        caller: &Caller,
        project: Option<&str>,
        is_current: impl Fn(&str) -> bool,
    ) -> Result<Tagged<BTreeMap<Provider, HandedKey>>, Error> {
        let (project, keys) = self.entitled_keys(caller, project).await?;
        let etag = self.etag(caller, &project, &keys);
        if is_current(&etag) {
            return Ok(Tagged { etag, project, read: KeyRead::Unchanged });
        }
        let handed = self.hand_over(caller, &project, keys, format!("project:{project}")).await?;
        let handed = handed.into_iter().map(|key| (key.provider.clone(), key)).collect();
        Ok(Tagged { etag, project, read: KeyRead::Handed(handed) })
    }

    async fn read_one(
        &self,
        caller: &Caller,
        project: Option<&str>,
        provider: &str,
        is_current: impl Fn(&str) -> bool,
    ) -> Result<Tagged<HandedKey>, Error> {
        let (project, mut keys) = self.entitled_keys(caller, project).await?;
        let provider = provider.parse::<Provider>().ok();
        keys.retain(|key| Some(&key.provider) == provider.as_ref());
        if keys.is_empty() {
            let event = AuditEvent::by(caller, Action::LlmKeysRead).on(format!("project:{project}"));
            self.book.record(event.failed("unknown_provider")).await?;
            let detail = format!("project {project} has no key of this provider for you");
            return Err(Error::NotFound(detail));
        }
        let etag = self.etag(caller, &project, &keys);
        if is_current(&etag) {
            return Ok(Tagged { etag, project, read: KeyRead::Unchanged });
        }
        let object = format!("provider_key:{project}/{}", keys[0].provider);
        let handed = self.hand_over(caller, &project, keys, object).await?.into_iter().next();
        let handed = handed.ok_or_else(|| Error::internal("the key vanished"))?;
        Ok(Tagged { etag, project, read: KeyRead::Handed(handed) })
    }

    /// The access decision: which current keys of which project this caller may have.
    async fn entitled_keys(
        &self,
        caller: &Caller,
        project: Option<&str>,
    ) -> Result<(ProjectName, Vec<CurrentKey>), Error> {
        let event = AuditEvent::by(caller, Action::LlmKeysRead);
        self.authorise(caller, Scope::LlmKeysRead, &event).await?;
        let mut db = self.store.read().await?;
        let granted = match self.granted(&mut db, caller, project).await {
            Ok(granted) => granted,
            Err(error) => {
                drop(db);
                self.book.record(event.denied(error.code())).await?;
                return Err(error);
            }
        };
        let mut keys = provider_keys::current(&mut db, granted.project_id, self.now()).await?;
        keys.retain(|key| grant::permits(granted.providers.as_ref(), &key.provider));
        Ok((granted.project, keys))
    }

    /// The grant that applies: on the project asked for, else on the only one, else on `default`.
    async fn granted(
        &self,
        db: &mut Connection,
        caller: &Caller,
        project: Option<&str>,
    ) -> Result<Granted, Error> {
        let Some((principal, _)) = caller.principal else {
            return Err(Error::Forbidden("keys are handed to users and service accounts only".to_owned()));
        };
        let mut granted = grants::of_principal(db, principal).await?;
        let wanted = match project {
            Some(name) => {
                let name = name.parse::<ProjectName>().ok();
                granted.iter().position(|grant| Some(&grant.project) == name.as_ref())
            }
            None if granted.len() == 1 => Some(0),
            None => granted.iter().position(|grant| grant.project == ProjectName::default_project()),
        };
        match wanted {
            Some(index) => Ok(granted.swap_remove(index)),
            // The same whether the project exists or not.
            None if project.is_some() => {
                Err(Error::Forbidden("you have no grant on this project".to_owned()))
            }
            None if granted.is_empty() => {
                Err(Error::Forbidden("you have no grant on any project".to_owned()))
            }
            None => {
                let names: Vec<_> = granted.iter().map(|grant| grant.project.as_str()).collect();
                Err(Error::Invalid(format!("name one of your projects with ?project=: {}", names.join(", "))))
            }
        }
    }

    /// Opens the keys, and returns them only when the book says durably that they were handed over.
    async fn hand_over(
        &self,
        caller: &Caller,
        project: &ProjectName,
        keys: Vec<CurrentKey>,
        object: String,
    ) -> Result<Vec<HandedKey>, Error> {
        let versions: Vec<_> = keys.iter().map(|key| format!("{}={}", key.provider, key.version)).collect();
        let event = AuditEvent::by(caller, Action::LlmKeysRead).on(object).version(versions.join(" "));
        let opened: Result<Vec<_>, _> = keys.into_iter().map(|key| self.open_key(key)).collect();
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(%project, "a sealed provider key does not open");
                self.book.record(event.failed("not_authentic")).await?;
                return Err(error);
            }
        };
        self.book.record_decision(event, caller.revision).await?;
        Ok(opened)
    }

    fn open_key(&self, key: CurrentKey) -> Result<HandedKey, Error> {
        let plain = self.open_version(key.version_id, &key.sealed)?;
        Ok(HandedKey { provider: key.provider, key: plain, version: key.version, expires_at: key.expires_at })
    }

    /// Opens the sealed value of a provider key version.
    pub(super) fn open_version(&self, version_id: Id, sealed: &[u8]) -> Result<Secret, Error> {
        let bytes = self.keyring.open(version_place(version_id), sealed).map_err(Error::internal)?;
        let text = std::str::from_utf8(&bytes).map_err(Error::internal)?;
        Ok(Secret::new(text))
    }

    fn etag(&self, caller: &Caller, project: &ProjectName, keys: &[CurrentKey]) -> String {
        let versions: Vec<_> = keys.iter().map(|key| (&key.provider, key.version, key.version_id)).collect();
        let said = format!("{:?} {project} {versions:?}", caller.principal);
        let mac = self.keyring.mac("etag", said.as_bytes());
        format!("\"{}\"", super::hex(&mac[..16]))
    }
}

/// Where the value of a provider key version belongs.
pub(super) fn version_place(version_id: Id) -> Place<'static> {
    Place { table: "provider_key_versions", row: version_id, column: "sealed" }
}
