//! `keydesk serve`: the server, from an empty directory to the last request.
//!
//! The order is what makes a failed start harmless: everything that can be refused is refused (configuration, secrets
//! in the environment, another server on this desk, a port in use) before the first thing is made.

use std::{fs, io, net::SocketAddr, os::unix::fs::DirBuilderExt as _, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
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
        desk::{Location, create_private_directory, write_private_file},
        vital::vital,
    },
    config::{Config, Environment, Secrets},
    crypto::{SystemEntropy, generate_password, password::normalise},
    http::{
        self,
        tls::{Files, Tls},
    },
    model::{Action, Caller, Clock as _, PrincipalName, SystemClock},
    secret::Secret,
};

/// How much of an answer the operating system keeps for a client that does not read: nearly all answers fit, and a thousand
/// such clients do not use up its memory.
const SEND_BUFFER: u32 = 128 * 1024;
/// How many clients may wait to be accepted. When it overflows, honest ones wait for a second, as TCP has it.
const BACKLOG: u32 = 4096;

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
    let tls = load_tls(config)?;
    let location = desk::location(config);
    if !location.exists().await? {
        check_admin_password(config, &secrets)?;
    }
    let lock = location.lock().await?;
    let listener = bind(config.listen, "--listen")?;
    let address = listener.local_addr().map_err(|error| Failure::because("cannot listen", &error))?;
    let metrics = match config.metrics_listen {
        Some(address) => Some(bind(address, "metrics.listen")?),
        None => None,
    };
    let issuer = config.issuer(address);
    let settings = desk::settings(config, issuer.clone());
    let caller = desk::caller();
    let admin = if location.exists().await? {
        None
    } else {
        Some(first_start(config, &location, &settings, &caller, secrets.admin_password.take()).await?)
    };
    let app = location.open(settings, desk::surroundings()).await?;
    let _lock = lock.started();
    if let Some(directory) = config.checkpoint_file.parent() {
        create_private_directory(directory).map_err(|error| {
            Failure::because(format_args!("cannot create {}", directory.display()), &error)
        })?;
    }
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
        tokio::spawn(vital("metrics", http::serve_metrics(metrics, Arc::clone(&app))));
    }
    let upkeep = tokio::spawn(vital("upkeep", Arc::clone(&app).upkeep()));
    tokio::spawn(vital("alarms", Watch::new(Arc::clone(&app)).run()));
    for endpoint in endpoints {
        tokio::spawn(vital("webhook", endpoint.run(Arc::clone(&app))));
    }
    let options = http::Options {
        tls: tls.map(Arc::new),
        reload: Arc::clone(&signals.reload),
        connections: config.connections,
        connections_per_source: config.connections_per_source,
    };
    let stop = signals.stop(Arc::clone(&app), config.drain_delay);
    let serving = async {
        let served = http::serve(listener, Arc::clone(&app), options, stop).await;
        // Nothing is written behind the last event.
        upkeep.abort();
        served
    };
    until_stopped(serving, &app, &caller).await
}

/// The certificate, if the server is to speak TLS.
pub(super) fn load_tls(config: &Config) -> Result<Option<Tls>, Failure> {
    let Some(tls) = config.tls.clone() else { return Ok(None) };
    let files = Files { certificate: tls.cert_file, key: tls.key_file, client_ca: tls.client_ca_file };
    Tls::load(files, SystemClock.now()).map(Some).map_err(|error| Failure::Failed(error.to_string()))
}

async fn until_stopped(
    serving: impl Future<Output = io::Result<()>>,
    app: &App,
    caller: &Caller,
) -> Result<(), Failure> {
    let served = serving.await;
    let written = app.record_lifecycle(caller, Action::ServerStop).await;
    let anchored = app.keep_checkpoints(true).await;
    app.close().await;
    tracing::info!("stopped");
    served.map_err(|error| Failure::because("the server stopped", &error))?;
    written?;
    Ok(anchored?)
}

/// Before anything is made: the password that the first admin would get.
fn check_admin_password(config: &Config, secrets: &Secrets) -> Result<(), Failure> {
    let Some(password) = &secrets.admin_password else { return Ok(()) };
    let checked = config.password_policy.check(&admin_name()?, &normalise(password));
    checked.map_err(|error| Failure::because("KEYDESK_ADMIN_PASSWORD cannot be used", &error))
}

fn admin_name() -> Result<PrincipalName, Failure> {
    "admin".parse().map_err(|error| Failure::because("admin", &error))
}

fn bind(address: SocketAddr, setting: &str) -> Result<TcpListener, Failure> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| match error.kind() {
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

/// What a server is told by signals.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Notified at SIGHUP, which would end a process that does not listen to it.
    reload: Arc<Notify>,
}

impl Signals {
    fn register() -> io::Result<Self> {
        let reload = Arc::new(Notify::new());
        let (mut hangup, notify) = (signal(SignalKind::hangup())?, Arc::clone(&reload));
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                notify.notify_one();
            }
        });
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload,
        })
    }

    /// Completes when the server is to stop accepting: `delay` after the first SIGTERM, so that load balancers notice, or
    /// at once after Ctrl-C. The second signal ends the process.
    async fn stop(mut self, app: Arc<App>, delay: Duration) {
        let delay = tokio::select! {
            _ = self.terminate.recv() => delay,
            _ = self.interrupt.recv() => Duration::ZERO,
        };
        app.start_draining();
        tracing::info!("stopping: finishing the requests that are under way; a second signal stops at once");
        tokio::spawn(async move {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            std::process::exit(1);
        });
        tokio::time::sleep(delay).await;
    }
}
