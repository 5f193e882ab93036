//! Moving in: provider keys and the service API key found in the server's environment, and provider keys from a file.
//!
//! At every start, a variable that changed since it was last imported becomes a new version in project `default`. What
//! was imported is remembered as a keyed digest, so that an old value still standing in a unit file does not undo a
//! rotation made since, and a revoked service key stays revoked. What somebody brings in a file is meant now, and nothing is
//! remembered of it.

use super::{App, Error, change::Change, principals::object, projects, provider_keys};
use crate::{
    crypto::jwt,
    model::{
        Action, AuditEvent, Caller, Id, Principal, PrincipalKind, PrincipalName, ProjectName, Provider, Role,
        Scope, TokenDigest, provider, token,
    },
    secret::Secret,
    store::{
        self,
        api_keys::{self, ApiKeyRow},
        askers, grants, imports, principals,
    },
};

/// The name of the service account that owns the imported API key, and of the variable it comes from.
const SERVICE_ACCOUNT: &str = "default";
const SERVICE_VARIABLE: &str = "SERVICE_API_KEY";

/// A provider key found in the environment.
#[derive(Debug)]
pub struct FoundKey {
    /// The provider.
    pub provider: Provider,
    /// The variable that holds it.
    pub variable: String,
    /// The key.
    pub key: Secret,
}

/// What was found in the environment.
#[derive(Debug, Default)]
pub struct Found {
    /// Provider keys.
    pub provider_keys: Vec<FoundKey>,
    /// `SERVICE_API_KEY`.
    pub service_api_key: Option<Secret>,
}

/// What the import did, for the terminal.
#[derive(Debug, PartialEq, Eq)]
pub struct Imported {
    /// The variable.
    pub variable: String,
    /// What became of it.
    pub became: String,
}

/// What became of a key that somebody brought, with its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is the current key now.
    Version(i64),
    /// It was so already.
    Unchanged(i64),
}

impl Found {
    /// Refuses placeholders and stubs, naming the variable, before anything is touched.
    #[expect(clippy::disallowed_methods, reason = "a key that is none is refused before it is stored")]
    pub fn check(&self) -> Result<(), Error> {
        let service = self.service_api_key.iter().map(|key| (SERVICE_VARIABLE, key));
        let providers = self.provider_keys.iter().map(|found| (found.variable.as_str(), &found.key));
        if self.service_api_key.as_ref().is_some_and(|key| is_of_ours(key.expose())) {
            let why = "it looks like a token of Keydesk's own, which it could be mistaken for";
            return Err(Error::Refused(format!(
                "{SERVICE_VARIABLE} is not imported: {why}. Choose another value."
            )));
        }
        for (variable, key) in providers.chain(service) {
            provider::check_key_text(key.expose()).map_err(|error| {
                Error::Refused(format!(
                    "{variable} is not imported: {error}. Set it to the real key, or unset it."
                ))
            })?;
        }
        Ok(())
    }
}

/// Whether a text would be read as an access token or as a token of ours wherever it is shown.
fn is_of_ours(text: &str) -> bool {
    text.starts_with(token::PREFIX) || jwt::looks_like_jwt(text)
}

impl App {
    /// Imports what has changed.
    pub async fn import(&self, caller: &Caller, found: &Found) -> Result<Vec<Imported>, Error> {
        found.check()?;
        let mut done = Vec::new();
        for key in &found.provider_keys {
            done.extend(self.import_provider_key(caller, key).await?);
        }
        if let Some(key) = &found.service_api_key {
            done.extend(self.import_service_key(caller, key).await?);
        }
        Ok(done)
    }

    #[expect(clippy::disallowed_methods, reason = "the key is compared by a keyed digest")]
    async fn import_provider_key(
        &self,
        caller: &Caller,
        found: &FoundKey,
    ) -> Result<Option<Imported>, Error> {
        let project = ProjectName::default_project();
        let source = format!("provider_key:{}", found.provider);
        let mac = self.keyring.mac("imported key", found.key.expose().as_bytes());
        let mut db = self.store.read().await?;
        if imports::last(&mut db, &source).await?.as_deref() == Some(&mac) {
            return Ok(None);
        }
        let Ok(project_id) = projects::existing(&mut db, &project).await.map(|project| project.id) else {
            tracing::warn!(variable = found.variable, "not imported: the project `default` was deleted");
            return Ok(None);
        };
        drop(db);
        let now = self.now();
        let object = provider_keys::object(&project, &found.provider);
        let mut change = self.change(caller, Scope::LlmKeysWrite, Action::ProviderKeySet, object).await?;
        let result = async {
            let (_, version) =
                self.add_version(&mut change, project_id, &found.provider, &found.key, None).await?;
            imports::remember(&mut change, &source, mac, now).await?;
            Ok(version)
        }
        .await;
        if let Ok(version) = &result {
            change.event = change.event.clone().version(version);
        }
        let version = change.finish(result).await?;
        let became = format!("provider key {project}/{} version {version}", found.provider);
        Ok(Some(Imported { variable: found.variable.clone(), became }))
    }

    /// Makes these the current keys of `project`, as far as they are not already: all of them or, if there is an error, none.
    /// As a trial it only tells what would become of them. Needs `llm-keys:write`.
    pub async fn import_keys(
        &self,
        caller: &Caller,
        project: &ProjectName,
        keys: &[FoundKey],
        is_trial: bool,
    ) -> Result<Vec<Taken>, Error> {
        let place = format!("project:{project}");
        let action = if is_trial { Action::AdminRead } else { Action::ProviderKeySet };
        self.require(caller, Scope::LlmKeysWrite, action, place.as_str()).await?;
        let taken = self.would_take(project, keys).await;
        let mut taken = self.prepared(taken, caller, action, &place).await?;
        let is_new = |(_, taken): &(_, &mut Taken)| matches!(taken, Taken::Version(_));
        let mut new: Vec<(&FoundKey, &mut Taken)> = keys.iter().zip(&mut taken).filter(is_new).collect();
        if is_trial || new.is_empty() {
            return Ok(taken);
        }
        let mut change = self.change(caller, Scope::LlmKeysWrite, action, place).await?;
        let result = async {
            let id = projects::existing(&mut change, project).await?.id;
            for (index, (key, taken)) in new.iter_mut().enumerate() {
                let (_, version) = self.add_version(&mut change, id, &key.provider, &key.key, None).await?;
                **taken = Taken::Version(version);
                let object = provider_keys::object(project, &key.provider);
                let event = AuditEvent::by(caller, action).on(object).version(version);
                if index == 0 {
                    change.event = event;
                } else {
                    change.also(event);
                }
            }
            Ok(())
        }
        .await;
        change.finish(result).await?;
        Ok(taken)
    }

    /// What would become of them.
    #[expect(clippy::disallowed_methods, reason = "the keys are checked, and compared with the current ones")]
    async fn would_take(&self, project: &ProjectName, keys: &[FoundKey]) -> Result<Vec<Taken>, Error> {
        let mut db = self.store.read().await?;
        let id = projects::existing(&mut db, project).await?.id;
        let mut taken = Vec::new();
        for FoundKey { provider, variable, key } in keys {
            provider::check_key_text(key.expose())
                .map_err(|error| Error::Refused(format!("{variable} is not imported: {error}")))?;
            let current = store::provider_keys::stored(&mut db, id, provider).await?;
            taken.push(match current {
                None => Taken::Version(1),
                Some(current) => {
                    let version = current.row.version;
                    let is_same =
                        self.open_version(current.version_id, &current.sealed)?.expose() == key.expose();
                    if is_same { Taken::Unchanged(version) } else { Taken::Version(version + 1) }
                }
            });
        }
        Ok(taken)
    }

    /// Makes `key` the one imported API key of service account `default`; the one imported before is revoked.
    #[expect(clippy::disallowed_methods, reason = "the key is stored as a keyed digest")]
    async fn import_service_key(&self, caller: &Caller, key: &Secret) -> Result<Option<Imported>, Error> {
        let mac = self.keyring.mac("imported key", key.expose().as_bytes());
        let digest = self.imported_key_digest(key.expose());
        if imports::last(&mut self.store.read().await?, SERVICE_VARIABLE).await?.as_deref() == Some(&mac) {
            return Ok(None);
        }
        let account = self.imported_account(caller).await?;
        let now = self.now();
        let object = format!("api_key:{SERVICE_ACCOUNT}/{SERVICE_VARIABLE}");
        let mut change = self.change(caller, Scope::Admin, Action::ApiKeyIssue, object).await?;
        let result = async {
            for old in api_keys::imported(&mut change, account).await? {
                api_keys::revoke(&mut change, old, now).await?;
                let event = AuditEvent::by(caller, Action::ApiKeyRevoke);
                change.also(event.on(format!("api_key:{SERVICE_ACCOUNT}/{old}")));
            }
            imports::remember(&mut change, SERVICE_VARIABLE, mac, now).await?;
            self.put_imported_key(&mut change, account, digest).await
        }
        .await;
        change.finish(result).await?;
        let became = format!("API key of service account {SERVICE_ACCOUNT}");
        Ok(Some(Imported { variable: SERVICE_VARIABLE.to_owned(), became }))
    }

    /// Stores the imported key, or lets it in again if it was imported before.
    async fn put_imported_key(
        &self,
        change: &mut Change<'_>,
        account: Id,
        digest: TokenDigest,
    ) -> Result<(), Error> {
        if let Some((_, known)) = askers::by_api_key(change, digest).await? {
            return Ok(api_keys::reinstate(change, known.id).await?);
        }
        let name = SERVICE_ACCOUNT.parse().map_err(Error::internal)?;
        let new = ApiKeyRow::new(self.new_id(), name, SERVICE_VARIABLE.to_owned(), self.now());
        Ok(api_keys::insert(change, &new, account, digest, true).await?)
    }

    /// The service account `default`, made and granted project `default` if it is not there yet.
    async fn imported_account(&self, caller: &Caller) -> Result<Id, Error> {
        let name: PrincipalName = SERVICE_ACCOUNT.parse().map_err(Error::internal)?;
        let present = principals::by_name(&mut self.store.read().await?, &name).await?;
        match present {
            Some(Principal { kind: PrincipalKind::ServiceAccount, id, .. }) => return Ok(id),
            Some(_) => {
                let detail =
                    "SERVICE_API_KEY is not imported: a user has the name `default`. Rename or unset it.";
                return Err(Error::Refused(detail.to_owned()));
            }
            None => {}
        }
        let account = self.service_account(name, Role::Member);
        let object = object(PrincipalKind::ServiceAccount, &account.name);
        let mut change = self.change(caller, Scope::Admin, Action::ServiceAccountCreate, object).await?;
        let result = async {
            principals::insert(&mut change, &account, None).await?;
            let project = projects::existing(&mut change, &ProjectName::default_project()).await?;
            grants::put(&mut change, account.id, project.id, None, account.created_at).await?;
            let granted = AuditEvent::by(caller, Action::GrantSet)
                .on(format!("grant:{}/{SERVICE_ACCOUNT}", project.name));
            change.also(granted);
            Ok(())
        }
        .await;
        change.finish(result).await?;
        Ok(account.id)
    }
}
