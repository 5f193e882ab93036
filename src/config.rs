//! Configuration: what was typed becomes what was checked.
//!
//! Four layers, each over the one before: defaults, the file `keydesk.toml`, the environment, flags. `layers.rs`
//! gathers them as text that remembers where it came from; [`load`] checks the text and makes the [`Config`] that the
//! rest of the program runs on. Nothing else ever sees a raw value, and a key that nobody knows is an error.
//!
//! `Config` holds no secrets. Those come from the environment alone, see [`Environment::secrets`]. Error messages name
//! the place and the key but do not repeat the value: people paste secrets into the wrong line.

mod alerts;
mod environment;
pub mod keys;
mod layers;
mod networks;
mod secrets;
mod url;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

pub use alerts::Alerts;
pub use environment::Environment;
pub use keys::{KEYS, Key};
pub use layers::{Flags, Source, Value};
pub use secrets::Secrets;

use crate::{
    app::{desk::Database, kek, limits::Limits},
    crypto::jwt::Algorithm,
    model::{Network, Networks, PasswordPolicy, Rate, password::MAX_PASSWORD_BYTES},
};
use layers::Layers;

/// A configuration that cannot be used: one line that says where, which key, what is wrong and what is allowed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// Where the desk keeps its files.
    pub data_dir: PathBuf,
    /// Where the server listens.
    pub listen: SocketAddr,
    /// The URL under which clients know the desk; `None` is `http://` and the address actually bound.
    pub public_url: Option<String>,
    /// Proxies whose word is taken for where a client is.
    pub trusted_proxies: Vec<Network>,
    /// From where the desk answers at all.
    pub allow_from: Networks,
    /// From where it can be administered.
    pub admin_allow_from: Networks,
    /// How long the server goes on accepting once it is told to stop.
    pub drain_delay: Duration,
    /// TLS, if the server speaks it.
    pub tls: Option<Tls>,
    /// How many connections there may be.
    pub connections: usize,
    /// How many of them one source may have.
    pub connections_per_source: usize,
    /// How often somebody may ask.
    pub limits: Limits,
    /// The database.
    pub database: Database,
    /// The files of the key-encryption key.
    pub kek: kek::Files,
    /// Access tokens.
    pub token: Token,
    /// Whether users may log in with a password at the token endpoint.
    pub password_enabled: bool,
    /// What may be a password.
    pub password_policy: PasswordPolicy,
    /// Where Prometheus finds the metrics, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Alarms and webhooks.
    pub alerts: Alerts,
    /// The file to which checkpoints of the book are appended.
    pub checkpoint_file: PathBuf,
    /// For how long the book keeps its events; `None`: for ever.
    pub retention: Option<Duration>,
    /// The collector of traces, if there is one.
    pub traces_endpoint: Option<String>,
    /// The log.
    pub log: Log,
    /// Every key as text, and where it came from: what `keydesk config check` shows.
    pub values: Vec<Value>,
}

/// TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate chain.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// Who signs the certificates that clients must show.
    pub client_ca_file: Option<PathBuf>,
}

/// Access tokens.
#[derive(Debug)]
pub struct Token {
    /// What they are signed with.
    pub algorithm: Algorithm,
    /// How long they live.
    pub access_ttl: Duration,
    /// How long a session lasts without being used.
    pub refresh_idle: Duration,
    /// How long a session lasts in any case.
    pub refresh_absolute: Duration,
    /// For whom they are meant.
    pub audience: String,
}

/// The log.
#[derive(Debug)]
pub struct Log {
    /// One line of text or one JSON object per event.
    pub format: LogFormat,
    /// The least important level that is logged.
    pub level: &'static str,
    /// `RUST_LOG`: refines the level for parts of the program.
    pub refine: Option<String>,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Config {
    /// The issuer of a server that is bound to `address`.
    pub fn issuer(&self, address: SocketAddr) -> String {
        self.public_url.clone().unwrap_or_else(|| format!("{}://{address}", scheme(self.tls.is_some())))
    }
}

/// Gathers the layers and checks them.
pub fn load(flags: &Flags, environment: &Environment) -> Result<Config, Error> {
    let mut layers = Layers::gather(flags, environment)?;
    let data_dir = layers.path(&keys::DATA_DIR)?;
    let tls = tls(&layers)?;
    let listen = listen(&layers, tls.is_some())?;
    let metrics_listen = metrics_listen(&layers)?;
    let public_url = public_url(&mut layers, listen, tls.is_some())?;
    let database = database(&mut layers, &data_dir)?;
    let kek = kek_files(&mut layers, &data_dir)?;
    let token = Token {
        algorithm: layers
            .checked(&keys::TOKEN_ALGORITHM, |text| text.parse().or(wrong("is not one of them")))?,
        access_ttl: layers.checked(&keys::TOKEN_ACCESS_TTL, access_ttl)?,
        refresh_idle: layers.checked(&keys::TOKEN_REFRESH_IDLE, session_length)?,
        refresh_absolute: layers.checked(&keys::TOKEN_REFRESH_ABSOLUTE, session_length)?,
        audience: layers.checked(&keys::TOKEN_AUDIENCE, audience)?,
    };
    let min_length = layers.checked(&keys::PASSWORD_MIN_LENGTH, min_length)?;
    layers.derive(&keys::AUDIT_CHECKPOINT_FILE, data_dir.join("audit.checkpoints").display());
    let checkpoint_file = layers.path(&keys::AUDIT_CHECKPOINT_FILE)?;
    let retention = layers.checked(&keys::AUDIT_RETENTION, retention)?;
    let log = Log {
        format: layers.checked(&keys::LOG_FORMAT, log_format)?,
        level: layers.checked(&keys::LOG_LEVEL, log_level)?,
        refine: environment.text("RUST_LOG")?,
    };
    let alerts = Alerts::load(&mut layers)?;
    environment.refuse_empty(&keys::SERVER_ALLOW_FROM)?;
    environment.refuse_empty(&keys::ADMIN_ALLOW_FROM)?;
    Ok(Config {
        data_dir,
        listen,
        public_url,
        trusted_proxies: layers.checked(&keys::SERVER_TRUSTED_PROXIES, networks::proxies)?,
        limits: Limits {
            keys: layers.checked(&keys::LIMITS_KEYS, rate)?,
            token: layers.checked(&keys::LIMITS_TOKEN, rate)?,
            introspect: layers.checked(&keys::LIMITS_INTROSPECT, rate)?,
        },
        allow_from: layers.checked(&keys::SERVER_ALLOW_FROM, networks::allowed)?,
        admin_allow_from: layers.checked(&keys::ADMIN_ALLOW_FROM, networks::allowed)?,
        drain_delay: layers.checked(&keys::SERVER_DRAIN_DELAY, drain_delay)?,
        tls,
        connections: layers.checked(&keys::LIMITS_CONNECTIONS, connections)?,
        connections_per_source: layers.checked(&keys::LIMITS_CONNECTIONS_PER_SOURCE, connections)?,
        database,
        kek,
        token,
        password_enabled: layers.checked(&keys::PASSWORD_ENABLED, boolean)?,
        password_policy: PasswordPolicy { min_length },
        metrics_listen,
        alerts,
        checkpoint_file,
        retention,
        traces_endpoint: layers.checked(&keys::TRACES_ENDPOINT, traces_endpoint)?,
        log,
        values: layers.into_values(),
    })
}

/// What is wrong with a text, for [`Layers::checked`].
fn wrong<T>(what: impl Into<String>) -> Result<T, String> {
    Err(what.into())
}

/// Certificate and key come together, and client certificates only with them.
fn tls(layers: &Layers) -> Result<Option<Tls>, Error> {
    let file = |key| layers.checked(key, optional_path);
    let [cert_file, key_file, client_ca_file] =
        [file(&keys::TLS_CERT_FILE)?, file(&keys::TLS_KEY_FILE)?, file(&keys::TLS_CLIENT_CA_FILE)?];
    let lone = |key| layers.checked(key, |_| wrong("is of no use alone"));
    match (cert_file, key_file, client_ca_file) {
        (Some(cert_file), Some(key_file), client_ca_file) => {
            Ok(Some(Tls { cert_file, key_file, client_ca_file }))
        }
        (None, None, None) => Ok(None),
        (Some(_), None, _) => lone(&keys::TLS_CERT_FILE),
        (None, Some(_), _) => lone(&keys::TLS_KEY_FILE),
        (None, None, Some(_)) => lone(&keys::TLS_CLIENT_CA_FILE),
    }
}

fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "" => wrong("is empty"),
        "none" => Ok(None),
        path => Ok(Some(PathBuf::from(path))),
    }
}

fn drain_delay(text: &str) -> Result<Duration, String> {
    let Ok(delay) = humantime::parse_duration(text) else { return wrong("is not a length of time") };
    if delay <= Duration::from_mins(5) { Ok(delay) } else { wrong("is too long") }
}

fn connections(text: &str) -> Result<usize, String> {
    let Ok(number) = text.parse() else { return wrong("is not a whole number") };
    if (1..=1_000_000).contains(&number) { Ok(number) } else { wrong("is too small or too large") }
}

fn listen(layers: &Layers, tls: bool) -> Result<SocketAddr, Error> {
    let insecure = layers.checked(&keys::SERVER_INSECURE_LISTEN, boolean)?;
    layers.checked(&keys::SERVER_LISTEN, |text| {
        let Ok(address) = text.parse::<SocketAddr>() else { return wrong("is not an IP address and a port") };
        if !tls && !insecure && !address.ip().to_canonical().is_loopback() {
            return wrong(
                "can be reached from other machines, and without TLS keys would cross the network readable. Set \
                 tls.cert_file and tls.key_file, put a TLS proxy on this machine in front of it, or set \
                 server.insecure_listen = true if the network between is yours alone",
            );
        }
        Ok(address)
    })
}

/// Metrics say who is busy with what, and travel without TLS.
fn metrics_listen(layers: &Layers) -> Result<Option<SocketAddr>, Error> {
    let insecure = layers.checked(&keys::SERVER_INSECURE_LISTEN, boolean)?;
    layers.checked(&keys::METRICS_LISTEN, |text| match text.parse::<SocketAddr>() {
        _ if text == "off" => Ok(None),
        Ok(address) if insecure || address.ip().to_canonical().is_loopback() => Ok(Some(address)),
        Ok(_) => wrong(
            "can be reached from other machines, and metrics are served without TLS and to anybody; set \
             server.insecure_listen = true if the network between is yours alone",
        ),
        Err(_) => wrong("is neither off nor an IP address and a port"),
    })
}

/// The default cannot be told before the port is bound, so `None` stands for it; the text shown is what it will be like.
fn public_url(layers: &mut Layers, listen: SocketAddr, tls: bool) -> Result<Option<String>, Error> {
    if layers.is_given(&keys::SERVER_PUBLIC_URL) {
        layers.checked(&keys::SERVER_PUBLIC_URL, url::public).map(Some)
    } else {
        layers.derive(&keys::SERVER_PUBLIC_URL, format_args!("{}://{listen}", scheme(tls)));
        Ok(None)
    }
}

/// What the addresses of the server begin with.
fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// Of a URL with a password only the rest is shown.
fn database(layers: &mut Layers, data_dir: &Path) -> Result<Database, Error> {
    if !layers.is_given(&keys::DATABASE_URL) {
        let path = data_dir.join("keydesk.db");
        layers.derive(&keys::DATABASE_URL, format_args!("sqlite://{}", path.display()));
        return Ok(Database::File(path));
    }
    let found = layers.checked(&keys::DATABASE_URL, database_of)?;
    if let Database::Server(server) = &found {
        layers.show_instead(&keys::DATABASE_URL, format!("postgres://… ({server})"));
    }
    Ok(found)
}

/// A previous key-encryption key that nobody names may be there or not.
fn kek_files(layers: &mut Layers, data_dir: &Path) -> Result<kek::Files, Error> {
    layers.derive(&keys::KEK_FILE, data_dir.join("kek").display());
    let current = layers.path(&keys::KEK_FILE)?;
    let is_given = layers.is_given(&keys::KEK_PREVIOUS_FILE);
    layers.derive(&keys::KEK_PREVIOUS_FILE, kek::Files::usual_previous(&current).display());
    let previous = layers.path(&keys::KEK_PREVIOUS_FILE)?;
    Ok(kek::Files { current, previous: is_given.then_some(previous) })
}

/// The database that a URL names.
pub fn database_of(url: &str) -> Result<Database, String> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        url.parse().map(Database::Server).map_err(str::to_owned)
    } else {
        sqlite_path(url).map(Database::File)
    }
}

fn sqlite_path(url: &str) -> Result<PathBuf, String> {
    match url.strip_prefix("sqlite://") {
        Some(path) if path.contains('?') => wrong("has options after a '?', and none is known"),
        Some(path) if path.is_empty() || path.ends_with('/') || path == ":memory:" => {
            wrong("does not name a file")
        }
        Some(path) => Ok(PathBuf::from(path)),
        None => wrong("is not a database URL that is known"),
    }
}

fn access_ttl(text: &str) -> Result<Duration, String> {
    length(text, Duration::from_hours(1))
}

fn session_length(text: &str) -> Result<Duration, String> {
    length(text, Duration::from_hours(365 * 24))
}

/// A length of time from a minute to `most`.
fn length(text: &str, most: Duration) -> Result<Duration, String> {
    let Ok(length) = humantime::parse_duration(text) else { return wrong("is not a length of time") };
    if (Duration::from_mins(1)..=most).contains(&length) {
        Ok(length)
    } else {
        wrong("is too short or too long")
    }
}

/// `off` or a length of time from a day to a century.
fn retention(text: &str) -> Result<Option<Duration>, String> {
    if text == "off" {
        return Ok(None);
    }
    let Ok(length) = humantime::parse_duration(text) else {
        return wrong("is neither off nor a length of time");
    };
    if (Duration::from_hours(24)..=Duration::from_hours(24 * 36_525)).contains(&length) {
        Ok(Some(length))
    } else {
        wrong("is too short or too long")
    }
}

fn audience(text: &str) -> Result<String, String> {
    let fine = !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fine { Ok(text.to_owned()) } else { wrong("cannot be an audience") }
}

fn min_length(text: &str) -> Result<usize, String> {
    let Ok(length) = text.parse() else { return wrong("is not a whole number") };
    if (8..=MAX_PASSWORD_BYTES).contains(&length) { Ok(length) } else { wrong("is too small or too large") }
}

fn rate(text: &str) -> Result<Option<Rate>, String> {
    if text == "off" { Ok(None) } else { text.parse().map(Some).or(wrong("is not a rate")) }
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().or(wrong("is neither"))
}

fn traces_endpoint(text: &str) -> Result<Option<String>, String> {
    if text == "off" { Ok(None) } else { url::public(text).map(Some) }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => wrong("is neither"),
    }
}

fn log_level(text: &str) -> Result<&'static str, String> {
    let found = ["error", "warn", "info", "debug", "trace"].into_iter().find(|level| *level == text);
    found.ok_or_else(|| "is not one of them".to_owned())
}

#[cfg(test)]
mod tests;
