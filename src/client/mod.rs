//! The client side: a desk as those see it who fetch keys from it.
//!
//! It speaks HTTP to a desk like any other client and knows nothing of what is behind: it may be on another machine, and of
//! another version. A command is a process of its own that people and tools wait for, so nothing is read, built or asked
//! that is not needed for the one answer.

mod doctor;
mod environment;
mod error;
mod health;
mod keychain;
mod keys;
mod login;
mod offline;
mod profiles;
mod session;
mod state;
mod who;
mod wire;

use std::path::Path;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::{
    model::{ProjectName, Provider, provider::check_key_form},
    secret::Secret,
};
pub use doctor::{Finding, Verdict, examine};
pub use environment::{CREDENTIALS, Environment, VARIABLES};
pub use error::{Error, Kind};
pub use health::{Readiness, own_readiness, readiness};
use keychain::Keychain;
pub use keys::{Etag, Handed, Keys, LlmKey, OpenedKey};
pub use login::{Said, Standing, change_password, log_in, log_out, prepared, standing};
use offline::Offline;
pub use profiles::{Account, Profile, Profiles, offline as offline_age};
pub use session::Keeper;
use session::Session;
use state::State;
pub use who::Choice;
use who::{Credential, Who};
use wire::{Answer, Manner, Wire};

/// Where a desk has the key of each provider.
const ONE_KEY: &str = "/llm-keys/";

/// One desk, as one principal.
#[derive(Debug)]
pub struct Client {
    who: Who,
    wire: Wire,
    session: Session,
    offline: Option<Offline>,
}

/// Who one is at the desk: `GET /me`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Me {
    /// `user` or `service_account`.
    pub kind: String,
    /// The name.
    pub name: String,
    /// What can be asked for at most.
    pub role: String,
    /// What was shown: `access_token` or `api_key`.
    pub credential: String,
    /// What it allows.
    pub scope: String,
    /// Which keys may be fetched.
    pub grants: Vec<OwnGrant>,
}

/// The keys of a project that may be fetched.
#[derive(Debug, Serialize, Deserialize)]
pub struct OwnGrant {
    /// The project.
    pub project: String,
    /// Only these providers; `None`: all.
    pub providers: Option<Vec<String>>,
}

impl Client {
    /// Finds out who one is, and at which desk. Nothing is asked of anybody yet.
    pub fn open(choice: &Choice, environment: &Environment) -> Result<Self, Error> {
        Self::of(Who::find(choice, environment)?, environment)
    }

    fn of(who: Who, environment: &Environment) -> Result<Self, Error> {
        let manner = Manner { ca_file: who.ca_file.as_deref(), insecure: who.insecure, own: false };
        let wire = Wire::new(&who.url, &manner)?;
        let state = State::open(environment);
        let offline = match who.offline {
            Some(max_age) => Some(Offline::new(State::open(environment)?, &who.kept_as(), max_age)),
            None => None,
        };
        let state = if matches!(who.credential, Credential::Session) { Some(state?) } else { state.ok() };
        let session = Session::new(state, Keychain::of(environment), who.kept_as());
        Ok(Self { who, wire, session, offline })
    }

    /// The desk's URL.
    pub fn url(&self) -> &str {
        self.wire.url()
    }

    /// Where the credential comes from: a variable, a file or a profile.
    pub fn from(&self) -> &str {
        &self.who.from
    }

    /// The file that the credential is in, if others than its owner may read it.
    pub fn open_to_others(&self) -> Option<&Path> {
        self.who.open_to_others.as_deref()
    }

    /// The key of one provider. It lives for a minute at least.
    pub async fn key(&self, project: Option<&ProjectName>, provider: &Provider) -> Result<LlmKey, Error> {
        let project = self.project(project);
        let found = self.fetch_key(&project, provider).await;
        let Some(offline) = &self.offline else { return found };
        match found {
            Ok(key) => {
                // A copy that cannot be written is no reason to keep the key from who asked for it.
                let _ = offline.keep(&project, copy_of(&key));
                Ok(key)
            }
            Err(error) if error.kind == Kind::Away => offline.key(&project, provider).ok_or(error),
            Err(error) => Err(refused(offline, error, &project, Some(provider))),
        }
    }

    /// All keys of a project. With the entity tag of what one has, nothing is handed over that is `known` already.
    pub async fn keys(&self, project: Option<&ProjectName>, known: Option<&Etag>) -> Result<Keys, Error> {
        let project = self.project(project);
        let found = self.fetch_keys(&project, known).await;
        let Some(offline) = &self.offline else { return found };
        match found {
            Ok(Keys::Handed(handed)) => {
                // Only asked for one by one they tell when they end, which a copy has to know.
                for (provider, _) in &handed.keys {
                    if let Ok(key) = self.fetch_key(&project, provider).await {
                        let _ = offline.keep(&project, key);
                    }
                }
                let _ = offline.keep_all(&project, &handed.keys);
                Ok(Keys::Handed(handed))
            }
            Ok(Keys::Unchanged) => Ok(Keys::Unchanged),
            Err(error) if error.kind == Kind::Away => offline.keys(&project).map(Keys::Handed).ok_or(error),
            Err(error) => Err(refused(offline, error, &project, None)),
        }
    }

    /// Who one is.
    pub async fn me(&self) -> Result<Me, Error> {
        let answer = self.ask("/me", None).await?;
        answer.read(&self.wire)
    }

    async fn fetch_key(&self, project: &str, provider: &Provider) -> Result<LlmKey, Error> {
        let path =
            format!("{ONE_KEY}{}{}", utf8_percent_encode(provider.as_str(), NON_ALPHANUMERIC), of(project));
        let ask = async || self.ask(&path, None).await?.read(&self.wire);
        let mut key: LlmKey = ask().await?;
        if key.is_ending() {
            // It may be replaced at this very moment.
            key = ask().await?;
        }
        if key.provider != *provider || (!project.is_empty() && key.project != project) {
            let what =
                format!("hands over another key than that of {provider}, which is not what a desk gives");
            return Err(self.wire.strange(&what));
        }
        self.check(provider, &key.key)?;
        match key.expires_at.filter(|_| key.is_ending()) {
            Some(end) => Err(Error::failed(format_args!(
                "the key of {provider} ends at {end}, in less than a minute; somebody has to store a new one"
            ))),
            None => Ok(key),
        }
    }

    async fn fetch_keys(&self, project: &str, known: Option<&Etag>) -> Result<Keys, Error> {
        let answer =
            self.ask(&format!("/llm-keys{}", of(project)), known.map(|etag| etag.0.as_str())).await?;
        if answer.status == StatusCode::NOT_MODIFIED {
            return Ok(Keys::Unchanged);
        }
        let found: std::collections::BTreeMap<String, Secret> = answer.read(&self.wire)?;
        let keys = found.into_iter().map(|(name, key)| Ok((name.parse()?, key)));
        let keys = keys.collect::<Result<_, crate::model::NameError>>();
        let keys: Vec<(Provider, Secret)> =
            keys.map_err(|_| self.wire.strange("names a provider as no desk does"))?;
        keys.iter().try_for_each(|(provider, key)| self.check(provider, key))?;
        Ok(Keys::Handed(Handed { keys, etag: answer.header(&header::ETAG).map(Etag), copied_at: None }))
    }

    /// A key ends up in headers, variables and files, so that what cannot be one goes no further.
    #[expect(clippy::disallowed_methods, reason = "the key's form is looked at")]
    fn check(&self, provider: &Provider, key: &Secret) -> Result<(), Error> {
        check_key_form(key.expose()).map_err(|wrong| {
            self.wire.strange(&format!(
                "hands over as the key of {provider} what is not what a desk gives: {wrong}"
            ))
        })
    }

    fn project(&self, asked: Option<&ProjectName>) -> String {
        asked.or(self.who.project.as_ref()).map(ToString::to_string).unwrap_or_default()
    }

    /// Asks with the credential; once more with a new access token if the desk no longer knows the one there was.
    async fn ask(&self, path: &str, etag: Option<&str>) -> Result<Answer, Error> {
        let answer = match &self.who.credential {
            Credential::ApiKey(key) => self.wire.get(path, key, etag).await?,
            Credential::Client { .. } | Credential::Session => {
                let token = self.session.token(&self.wire, &self.who, None).await?;
                let answer = self.wire.get(path, &token, etag).await?;
                if answer.status == StatusCode::UNAUTHORIZED {
                    let token = self.session.token(&self.wire, &self.who, Some(&token)).await?;
                    self.wire.get(path, &token, etag).await?
                } else {
                    answer
                }
            }
        };
        match answer.status {
            StatusCode::OK | StatusCode::NOT_MODIFIED => Ok(answer),
            _ => Err(self.no(path, &answer).await),
        }
    }

    /// An answer that is none to what was asked.
    async fn no(&self, path: &str, answer: &Answer) -> Error {
        let (url, status) = (self.wire.url(), answer.status);
        let error = match status {
            StatusCode::UNAUTHORIZED => Error::log_in(match &self.who.credential {
                Credential::Session => {
                    format!("{url} does not accept the session; log in again: {}", self.who.log_in_again())
                }
                _ => format!(
                    "{url} does not accept the credential from {}: it is wrong, revoked or too old, or the account is shut",
                    self.who.from
                ),
            }),
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND if !answer.is_problem() => {
                return self.wire.somebody_else(status);
            }
            StatusCode::NOT_FOUND if !path.starts_with(ONE_KEY) => return self.wire.somebody_else(status),
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                Error::new(Kind::Refused, format_args!("{url} refuses: {}", answer.said()))
            }
            _ => return Error::failed(format_args!("{url}: {}", answer.said())),
        };
        // A desk has no such key, or a path of it no such resource: what every desk has tells which.
        if status == StatusCode::NOT_FOUND
            && let Err(error) = Box::pin(self.me()).await
            && error.kind == Kind::Failed
        {
            return error;
        }
        if answer.is_problem() { error.said_with(status) } else { error }
    }
}

/// A desk that says no takes away what there is a copy of. What fails here, or is said by somebody else, says nothing of it.
fn refused(offline: &Offline, error: Error, project: &str, provider: Option<&Provider>) -> Error {
    let done = match error.refusal {
        None => Ok(()),
        Some(StatusCode::NOT_FOUND) => offline.forget(project, provider),
        Some(StatusCode::FORBIDDEN) => offline.forget(project, None),
        Some(_) => offline.wipe(),
    };
    match done {
        Ok(()) => error,
        Err(left) => {
            let what = format!("{error}; and the copy for when the desk is away is left: {left}");
            Error { what, ..error }
        }
    }
}

/// The query that names a project.
fn of(project: &str) -> String {
    if project.is_empty() {
        String::new()
    } else {
        format!("?project={}", utf8_percent_encode(project, NON_ALPHANUMERIC))
    }
}

#[expect(clippy::disallowed_methods, reason = "one goes to who asked, the other is sealed")]
fn copy_of(key: &LlmKey) -> LlmKey {
    LlmKey {
        provider: key.provider.clone(),
        project: key.project.clone(),
        key: Secret::new(key.key.expose()),
        version: key.version,
        mode: key.mode.clone(),
        expires_at: key.expires_at,
        revocable: key.revocable,
        env: key.env.clone(),
        copied_at: key.copied_at,
    }
}
