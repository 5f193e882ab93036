//! `keydesk serve`: the server, from an empty directory to the last request.
//!
//! The order is what makes a failed start harmless: everything that can be refused is refused (configuration, secrets
//! in the environment, another server on this desk, a port in use) before the first thing is made.

use std::{fs, io, net::SocketAddr, os::unix::fs::DirBuilderExt as _, sync::Arc};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{
    alerts,
    banner::{AdminPassword, Banner},
    desk,
    failure::Failure,
};
use crate::{
    app::{
        App, Settings,
        alarms::Watch,
        desk::{Location, write_private_file},
    },
    config::{Config, Environment, Secrets},
    crypto::{SystemEntropy, generate_password, password::normalise},
    http,
    model::{Action, Caller, PrincipalName},
    secret::Secret,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen, instead of 127.0.0.1:8000; port 0 is any free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) listen: Option<SocketAddr>,
}

/// `keydesk serve`.
pub(super) async fn run(config: &Config, environment: Environment) -> Result<(), Failure> {
    let mut secrets = environment.secrets()?;
    drop(environment);
    secrets.found.check()?;
    let endpoints = alerts::endpoints(config, secrets.webhook_key.take())?;
    let location = desk::location(config);
    check_admin_password(config, &location, &secrets)?;
    let _lock = location.lock()?;
    let listener = bind(config.listen, "--listen").await?;
    let address = listener.local_addr().map_err(|error| Failure::because("cannot listen", &error))?;
    let metrics = match config.metrics_listen {
        Some(address) => Some(bind(address, "metrics.listen").await?),
        None => None,
    };
    let issuer = config.public_url.clone().unwrap_or_else(|| format!("http://{address}"));
    let settings = desk::settings(config, issuer.clone());
    let caller = desk::caller();
    let admin = if location.exists() {
        None
    } else {
        Some(first_start(config, &location, &settings, &caller, secrets.admin_password.take()).await?)
    };
    let app = location.open(settings, desk::surroundings()).await?;
    app.ensure_signing_key(&caller).await?;
    let imported = app.import(&caller, &secrets.found).await?;
    drop(secrets);
    app.record_lifecycle(&caller, Action::ServerStart).await?;
    if config.public_url.is_none() && address.ip().is_unspecified() {
        tracing::warn!("server.public_url is not set: clients will be told that the issuer is {issuer}");
    }
    let signals = Signals::register().map_err(|error| Failure::because("cannot receive signals", &error))?;
    Banner { config, location: &location, address, issuer: &issuer, admin, imported: &imported }.print();
    tracing::info!(server.address = %address, "serving");
    let app = Arc::new(app);
    if let Some(metrics) = metrics {
        let address = metrics.local_addr().map_err(|error| Failure::because("cannot listen", &error))?;
        tracing::info!(metrics.address = %address, "serving /metrics");
        // To the very end, so that the end can be watched.
        tokio::spawn(http::serve_metrics(metrics, Arc::clone(&app)));
    }
    tokio::spawn(Watch::new(Arc::clone(&app)).run());
    for endpoint in endpoints {
        tokio::spawn(endpoint.run(Arc::clone(&app)));
    }
    until_stopped(listener, app, &caller, signals).await
}

async fn until_stopped(
    listener: TcpListener,
    app: Arc<App>,
    caller: &Caller,
    signals: Signals,
) -> Result<(), Failure> {
    let served = http::serve(listener, Arc::clone(&app), stop_signal(Arc::clone(&app), signals)).await;
    let written = app.record_lifecycle(caller, Action::ServerStop).await;
    app.close().await;
    tracing::info!("stopped");
    served.map_err(|error| Failure::because("the server stopped", &error))?;
    Ok(written?)
}

/// Before anything is made: the password that the first admin would get.
fn check_admin_password(config: &Config, location: &Location, secrets: &Secrets) -> Result<(), Failure> {
    let Some(password) = secrets.admin_password.as_ref().filter(|_| !location.exists()) else {
        return Ok(());
    };
    let checked = config.password_policy.check(&admin_name()?, &normalise(password));
    checked.map_err(|error| Failure::because("KEYDESK_ADMIN_PASSWORD cannot be used", &error))
}

fn admin_name() -> Result<PrincipalName, Failure> {
    "admin".parse().map_err(|error| Failure::because("admin", &error))
}

async fn bind(address: SocketAddr, setting: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Failure::Failed(format!(
            "another program listens on {address} already; stop it, or choose another address with {setting}"
        )),
        _ => Failure::because(format_args!("cannot listen on {address}"), &error),
    })
}

/// Makes the desk, and tells where the admin's password is.
#[expect(clippy::disallowed_methods, reason = "the generated password is left where the operator finds it")]
async fn first_start(
    config: &Config,
    location: &Location,
    settings: &Settings,
    caller: &Caller,
    given: Option<Secret>,
) -> Result<AdminPassword, Failure> {
    let (password, told) = if let Some(password) = given {
        (password, AdminPassword::Given)
    } else {
        let password = generate_password(config.password_policy.min_length, &SystemEntropy);
        let copy = Secret::new(password.expose());
        let told = AdminPassword::on_terminal(copy).or_else(|copy| leave_in_file(config, &copy))?;
        (password, told)
    };
    location.initialise(caller, settings.clone(), desk::surroundings(), password).await?;
    Ok(told)
}

/// Writes the password down before the desk is made: a desk whose admin nobody knows would be of no use.
#[expect(
    clippy::disallowed_methods,
    reason = "there is no terminal, so the password is left in a private file"
)]
fn leave_in_file(config: &Config, password: &Secret) -> Result<AdminPassword, Failure> {
    let path = config.data_dir.join("admin-password");
    let write = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data_dir)?;
        match fs::remove_file(&path) {
            // Left by a first start that did not come to its end.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        write_private_file(&path, &format!("{}\n", password.expose()))
    };
    write().map_err(|error| Failure::because(format_args!("cannot write {}", path.display()), &error))?;
    Ok(AdminPassword::File(path))
}

/// What stops a server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn register() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Completes at the first signal; the second one ends the process at once.
async fn stop_signal(app: Arc<App>, mut signals: Signals) {
    signals.next().await;
    app.start_draining();
    tracing::info!("stopping: finishing the requests that are under way; a second signal stops at once");
    tokio::spawn(async move {
        signals.next().await;
        std::process::exit(1);
    });
}
