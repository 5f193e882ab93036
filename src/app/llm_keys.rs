//! Handing over provider keys: the reason for everything else.

use std::{slice, sync::Arc};

pub use super::view::Handout;

use super::{App, Error};
use crate::{
    crypto::{
        self,
        keyring::{Place, SealError},
    },
    metrics,
    model::{Action, AuditEvent, Caller, Granted, Id, ProjectName, Provider, Scope, Timestamp, grant},
    secret::Secret,
    store::provider_keys::{self, CurrentKey},
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
    /// The row that holds it.
    pub(super) version_id: Id,
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
    ) -> Result<Tagged<Arc<Handout>>, Error> {
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
    ) -> Result<Tagged<Arc<HandedKey>>, Error> {
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
    ) -> Result<Tagged<Arc<Handout>>, Error> {
        let event = AuditEvent::by(caller, Action::LlmKeysRead);
        let (granted, handout) = self.entitled_keys(caller, project, &event).await?;
        let project = granted.project.clone();
        let etag = self.etag(caller, &handout.digest);
        if is_current(&etag) {
            return Ok(Tagged { etag, project, read: KeyRead::Unchanged });
        }
        let event = event.on(format!("project:{project}"));
        self.check_seals(&handout, |_| true, &event).await?;
        self.book.record_decision(event.version(&handout.versions), caller.revision).await?;
        Ok(Tagged { etag, project, read: KeyRead::Handed(handout) })
    }

    async fn read_one(
        &self,
        caller: &Caller,
        project: Option<&str>,
        provider: &str,
        is_current: impl Fn(&str) -> bool,
    ) -> Result<Tagged<Arc<HandedKey>>, Error> {
        let event = AuditEvent::by(caller, Action::LlmKeysRead);
        let (granted, handout) = self.entitled_keys(caller, project, &event).await?;
        let (project, provider) = (granted.project.clone(), provider.parse::<Provider>().ok());
        let is_asked = |other: &Provider| Some(other) == provider.as_ref();
        let of_project = event.clone().on(format!("project:{project}"));
        self.check_seals(&handout, is_asked, &of_project).await?;
        let Some(key) = handout.keys.iter().find(|key| is_asked(&key.provider)) else {
            // Compared with the newest revision, like a handover: a key that was just stored is not refused.
            self.book.record_decision(of_project.failed("unknown_provider"), caller.revision).await?;
            let detail = format!("project {project} has no key of this provider for you");
            return Err(Error::NotFound(detail));
        };
        let etag = self.etag(caller, &digest(granted.project_id, slice::from_ref(key)));
        if is_current(&etag) {
            return Ok(Tagged { etag, project, read: KeyRead::Unchanged });
        }
        let event = event.on(format!("provider_key:{project}/{}", key.provider)).version(key);
        self.book.record_decision(event, caller.revision).await?;
        Ok(Tagged { etag, project, read: KeyRead::Handed(Arc::clone(key)) })
    }

    /// The access decision: which keys of which project this caller may have.
    async fn entitled_keys<'c>(
        &self,
        caller: &'c Caller,
        project: Option<&str>,
        event: &AuditEvent,
    ) -> Result<(&'c Granted, Arc<Handout>), Error> {
        self.authorise(caller, Scope::LlmKeysRead, event).await?;
        let granted = match granted(caller, project) {
            Ok(granted) => granted,
            Err(error) => {
                let denied = event.clone().denied(error.code());
                Box::pin(self.book.record_decision(denied, caller.revision)).await?;
                return Err(error);
            }
        };
        let view = self.view().await?;
        if view.revision != caller.revision {
            return Err(Error::Stale);
        }
        Ok((granted, self.handout(&view, granted, || self.open_keys(granted)).await?))
    }

    /// Fails, and has it written down, if one of the keys asked for did not open.
    async fn check_seals(
        &self,
        handout: &Handout,
        asked: impl Fn(&Provider) -> bool,
        event: &AuditEvent,
    ) -> Result<(), Error> {
        let Some(broken) = handout.broken.iter().find(|provider| asked(provider)) else { return Ok(()) };
        tracing::error!(provider = %broken, "a sealed provider key does not open");
        self.book.record(event.clone().failed("not_authentic")).await?;
        Err(Error::internal(SealError::NotAuthentic))
    }

    /// Opens the keys of a grant. They are returned to nobody before the book says durably that they were handed over.
    async fn open_keys(&self, granted: &Granted) -> Result<Handout, Error> {
        let mut db = self.store.read().await?;
        let mut keys = provider_keys::current(&mut db, granted.project_id, self.now()).await?;
        drop(db);
        keys.retain(|key| grant::permits(granted.providers.as_ref(), &key.provider));
        let mut broken = Vec::new();
        let open = |key: CurrentKey| {
            let provider = key.provider.clone();
            self.open_key(key).map_err(|_| broken.push(provider)).ok()
        };
        let opened = keys.into_iter().filter_map(open).collect();
        Ok(Handout::new(granted.project_id, opened, broken))
    }

    fn open_key(&self, key: CurrentKey) -> Result<HandedKey, Error> {
        let plain = self.open_version(key.version_id, &key.sealed)?;
        let CurrentKey { provider, version, version_id, expires_at, .. } = key;
        Ok(HandedKey { provider, key: plain, version, version_id, expires_at })
    }

    /// Opens the sealed value of a provider key version.
    pub(super) fn open_version(&self, version_id: Id, sealed: &[u8]) -> Result<Secret, Error> {
        let bytes = self.keyring.open(version_place(version_id), sealed).map_err(Error::internal)?;
        let text = std::str::from_utf8(&bytes).map_err(Error::internal)?;
        Ok(Secret::new(text))
    }

    /// The entity tag of `said` for this caller.
    fn etag(&self, caller: &Caller, said: &[u8; 32]) -> String {
        let id = caller.own_id().map_or([0; 16], |id| *id.as_bytes());
        let mac = self.keyring.mac("etag", [id.as_slice(), said].concat().as_slice());
        format!("\"{}\"", super::hex(&mac[..16]))
    }
}

/// What an entity tag of these keys depends on, whoever asks.
pub(super) fn digest(project: Id, keys: &[HandedKey]) -> [u8; 32] {
    let versions: Vec<_> = keys.iter().map(|key| (&key.provider, key.version, key.version_id)).collect();
    crypto::sha256(format!("{project} {versions:?}").as_bytes())
}

/// The grant that applies: on the project asked for, else on the only one, else on `default`.
fn granted<'c>(caller: &'c Caller, project: Option<&str>) -> Result<&'c Granted, Error> {
    if caller.principal.is_none() {
        return Err(Error::Forbidden("keys are handed to users and service accounts only".to_owned()));
    }
    let grants = &caller.grants;
    let on = |name: &ProjectName| grants.iter().find(|grant| grant.project == *name);
    let found = match project {
        Some(name) => name.parse().ok().and_then(|name| on(&name)),
        None if grants.len() == 1 => grants.first(),
        None => on(&ProjectName::default_project()),
    };
    found.ok_or_else(|| match project {
        // The same whether the project exists or not.
        Some(_) => Error::Forbidden("you have no grant on this project".to_owned()),
        None if grants.is_empty() => Error::Forbidden("you have no grant on any project".to_owned()),
        None => {
            let names: Vec<_> = grants.iter().map(|grant| grant.project.as_str()).collect();
            Error::Invalid(format!("name one of your projects with ?project=: {}", names.join(", ")))
        }
    })
}

impl std::fmt::Display for HandedKey {
    /// Its version, for the book.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.provider, self.version)
    }
}

/// Where the value of a provider key version belongs.
pub(super) fn version_place(version_id: Id) -> Place<'static> {
    Place { table: "provider_key_versions", row: version_id, column: "sealed" }
}
