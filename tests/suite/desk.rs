//! A desk to test: its own directory, a clock that stands still, predictable randomness, a real listener on a free port.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use keydesk::{
    app::{
        App, AuditSettings, Settings, Surroundings,
        desk::{Database, Location},
        kek::Files,
        limits::Limits,
        service_accounts::NewServiceAccount,
        users::NewUser,
    },
    crypto::jwt::Algorithm,
    model::{
        Caller, Clock, Entropy, Networks, Page, PasswordPolicy, ProjectName, Role, Timestamp,
        audit::RecordedEvent,
    },
    secret::Secret,
    store::audit_events::Filter,
};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot};

use crate::{engine::OwnDatabase, forger::Forger};

/// Seconds since 1970 at which every test begins.
pub(crate) const START: i64 = 1_800_000_000;
/// The password of every user that a test makes.
pub(crate) const PASSWORD: &str = "correct horse battery staple";
/// Where an SQLite database is in its desk's directory.
const FILE: &str = "keydesk.db";

/// A clock that stands still, but for a microsecond a reading, so that events have an order.
pub(crate) struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn set_back(&self, by: Duration) {
        self.0.fetch_sub(i64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

/// Counts: every draw is different and every run is the same.
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let drawn = keydesk::crypto::sha256(&self.0.fetch_add(1, Ordering::SeqCst).to_le_bytes());
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
    }
}

/// A running desk.
pub(crate) struct Desk {
    pub(crate) app: Arc<App>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) url: String,
    pub(crate) http: Client,
    directory: TempDir,
    own: Option<OwnDatabase>,
    pub(crate) location: Location,
    _stop: oneshot::Sender<()>,
}

pub(crate) fn settings(issuer: &str) -> Settings {
    Settings {
        issuer: issuer.to_owned(),
        audience: "keydesk".to_owned(),
        access_ttl: Duration::from_mins(10),
        refresh_idle: Duration::from_hours(7 * 24),
        refresh_absolute: Duration::from_hours(30 * 24),
        algorithm: Algorithm::EdDsa,
        password_enabled: true,
        password_policy: PasswordPolicy { min_length: 15 },
        trusted_proxies: Vec::new(),
        allow_from: Networks::ANYWHERE,
        limits: Limits::default(),
        admin_allow_from: Networks::ANYWHERE,
        destinations: Vec::new(),
        audit: AuditSettings { checkpoint_file: "audit.checkpoints".into(), retention: None },
    }
}

/// The operator at the command line.
pub(crate) fn operator() -> Caller {
    Caller::operating_system("tester", "req_test".to_owned())
}

impl Desk {
    pub(crate) async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    /// A desk with other settings.
    pub(crate) async fn open_with(change: impl Fn(&mut Settings)) -> Self {
        Self::assemble(change, true).await
    }

    /// One that does nothing by itself: what upkeep would do at its time, the test does at its own.
    pub(crate) async fn open_still(change: impl Fn(&mut Settings)) -> Self {
        Self::assemble(change, false).await
    }

    async fn assemble(change: impl Fn(&mut Settings), upkeep: bool) -> Self {
        let (directory, own) = (TempDir::new().unwrap(), OwnDatabase::with_tables());
        let location = Location {
            database: own.as_ref().map_or_else(
                || Database::File(directory.path().join(FILE)),
                |own| Database::Server(own.url().parse().unwrap()),
            ),
            kek: Files { current: directory.path().join("kek"), previous: None },
        };
        let clock = Arc::new(TestClock(AtomicI64::new(START * 1_000_000)));
        let surroundings =
            Surroundings { clock: Arc::clone(&clock) as _, entropy: Arc::new(Counter(AtomicU64::new(0))) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut settings = settings(&url);
        settings.audit.checkpoint_file = directory.path().join("audit.checkpoints");
        change(&mut settings);
        location
            .initialise(&operator(), settings.clone(), surroundings.clone(), Secret::new(PASSWORD))
            .await
            .unwrap();
        let app = Arc::new(location.open(settings, surroundings).await.unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let served = Arc::clone(&app);
        tokio::spawn(async move {
            let stop = async { drop(stopped.await) };
            let options = keydesk::http::Options::default();
            tokio::select! {
                served = keydesk::http::serve(listener, Arc::clone(&served), options, stop) => served.unwrap(),
                () = served.upkeep(), if upkeep => {}
            }
        });
        Self { app, clock, url, http: Client::new(), directory, own, location, _stop: stop }
    }

    /// The same desk, as another process would open it now.
    pub(crate) async fn open_again(&self, number: u64) -> App {
        let entropy = Arc::new(Counter(AtomicU64::new(number << 32)));
        let surroundings = Surroundings { clock: Arc::clone(&self.clock) as _, entropy };
        self.location.open(self.app.settings().clone(), surroundings).await.unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }

    /// `POST /token` with this form.
    pub(crate) async fn token_request(&self, form: &[(&str, &str)]) -> Response {
        self.http.post(format!("{}/token", self.url)).form(form).send().await.unwrap()
    }

    /// An access token of a user with the test password.
    pub(crate) async fn login(&self, user: &str) -> String {
        let response = self
            .token_request(&[("grant_type", "password"), ("username", user), ("password", PASSWORD)])
            .await;
        assert_eq!(response.status(), 200);
        json(response).await["access_token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn add_user(&self, name: &str, role: Role, projects: &[&str]) {
        let projects = projects.iter().map(|name| name.parse().unwrap()).collect();
        let new = NewUser {
            name: name.parse().unwrap(),
            role,
            password: Secret::new(PASSWORD),
            projects,
            networks: Networks::ANYWHERE,
        };
        self.app.create_user(&operator(), new).await.unwrap();
    }

    pub(crate) async fn add_account(&self, name: &str, projects: &[&str]) -> NewServiceAccount {
        let projects: Vec<ProjectName> = projects.iter().map(|name| name.parse().unwrap()).collect();
        self.app
            .create_service_account(
                &operator(),
                name.parse().unwrap(),
                Role::Member,
                &projects,
                Networks::ANYWHERE,
            )
            .await
            .unwrap()
    }

    pub(crate) async fn add_project(&self, name: &str) {
        self.app.create_project(&operator(), name.parse().unwrap()).await.unwrap();
    }

    pub(crate) async fn set_key(&self, project: &str, provider: &str, key: &str) -> i64 {
        let (project, provider) = (project.parse().unwrap(), provider.parse().unwrap());
        self.app
            .set_provider_key(&operator(), &project, &provider, &Secret::new(key), None)
            .await
            .unwrap()
            .row
            .version
    }

    /// The newest events, newest first.
    pub(crate) async fn events(&self) -> Vec<RecordedEvent> {
        self.app.audit_events(&operator(), Filter::default(), &Page::all()).await.unwrap().items
    }

    /// What the book says of one request.
    pub(crate) async fn events_of(&self, response_id: &str) -> Vec<RecordedEvent> {
        self.events().await.into_iter().filter(|event| event.request_id == response_id).collect()
    }

    /// A connection of somebody who has the database.
    pub(crate) async fn forger(&self) -> Forger {
        match &self.own {
            Some(own) => Forger::of(own).await,
            None => Forger::of_file(&self.directory.path().join(FILE)).await,
        }
    }
}

/// The body as JSON.
pub(crate) async fn json(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// A header as text; empty if it is not there.
pub(crate) fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// The text of a secret that a test made.
#[expect(clippy::disallowed_methods, reason = "tests use the credentials they made")]
pub(crate) fn open(secret: &Secret) -> &str {
    secret.expose()
}
