//! The table of configuration keys: one definition for parsing, error messages, `config check` and the README.

/// A configuration key.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file, with its table: `server.listen`.
    pub name: &'static str,
    /// What it is when nobody says anything.
    pub default: Default,
    /// What may stand in the file.
    pub kind: Kind,
    /// What is allowed.
    pub allowed: &'static str,
    /// What it is for.
    pub meaning: &'static str,
}

/// What a key is when nobody says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This text.
    Text(&'static str),
    /// Something that follows from other keys, in words.
    Derived(&'static str),
}

/// The TOML type of a key. In the environment everything is text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A boolean.
    Boolean,
    /// An integer.
    Integer,
    /// An array of strings; one string with commas will do, and is what the environment has.
    List,
}

impl Key {
    /// The variable that sets this key: `KEYDESK_SERVER__LISTEN`.
    pub fn variable(&self) -> String {
        format!("KEYDESK_{}", self.name.replace('.', "__").to_ascii_uppercase())
    }
}

/// Where the desk keeps its files.
pub const DATA_DIR: Key = Key {
    name: "data_dir",
    default: Default::Text("./keydesk-data"),
    kind: Kind::Text,
    allowed: "the path of a directory, which is created if need be",
    meaning: "KEK file and SQLite database",
};

/// Where the server listens.
pub const SERVER_LISTEN: Key = Key {
    name: "server.listen",
    default: Default::Text("127.0.0.1:8000"),
    kind: Kind::Text,
    allowed: "an IP address and a port, such as 127.0.0.1:8000 or [::1]:8000; port 0 is any free one",
    meaning: "where the server listens; an address that is not loopback needs TLS or server.insecure_listen",
};

/// The URL under which clients know the desk.
pub const SERVER_PUBLIC_URL: Key = Key {
    name: "server.public_url",
    default: Default::Derived("http:// or https:// and the address bound"),
    kind: Kind::Text,
    allowed: "a URL such as https://keys.example.com, without query, fragment or trailing slash",
    meaning: "the URL under which clients know the desk: the issuer of its tokens and the only host name accepted",
};

/// Whether keys may cross the network unencrypted.
pub const SERVER_INSECURE_LISTEN: Key = Key {
    name: "server.insecure_listen",
    default: Default::Text("false"),
    kind: Kind::Boolean,
    allowed: "true or false",
    meaning: "listen without TLS where other machines can reach it",
};

/// Whose word is taken for where a client is.
pub const SERVER_TRUSTED_PROXIES: Key = Key {
    name: "server.trusted_proxies",
    default: Default::Text("none"),
    kind: Kind::List,
    allowed: "none, or addresses and networks such as 127.0.0.1 or 10.0.0.0/8, but not everything",
    meaning: "proxies whose X-Forwarded-For says where a client is",
};

/// From where the desk answers at all.
pub const SERVER_ALLOW_FROM: Key = Key {
    name: "server.allow_from",
    default: Default::Text("anywhere"),
    kind: Kind::List,
    allowed: "anywhere, or 1 to 100 addresses and networks such as 10.0.0.0/8",
    meaning: "from where anybody is let in, but for /health and /health/ready",
};

/// From where the desk can be administered.
pub const ADMIN_ALLOW_FROM: Key = Key {
    name: "admin.allow_from",
    default: Default::Text("anywhere"),
    kind: Kind::List,
    allowed: "anywhere, or 1 to 100 addresses and networks such as 10.0.0.0/8",
    meaning: "from where the desk can be administered and its book be read over HTTP",
};

/// How long the server goes on accepting once it is told to stop.
pub const SERVER_DRAIN_DELAY: Key = Key {
    name: "server.drain_delay",
    default: Default::Text("1s"),
    kind: Kind::Text,
    allowed: "0s to 5m",
    meaning: "how long the server says that it is not ready, and still accepts, before it stops",
};

/// The certificate of the listener.
pub const TLS_CERT_FILE: Key = Key {
    name: "tls.cert_file",
    default: Default::Text("none"),
    kind: Kind::Text,
    allowed: "none or the path of a PEM file, together with tls.key_file",
    meaning: "the certificate chain with which the server speaks TLS; read again when it changes",
};

/// The private key of the certificate.
pub const TLS_KEY_FILE: Key = Key {
    name: "tls.key_file",
    default: Default::Text("none"),
    kind: Kind::Text,
    allowed: "none or the path of a PEM file that not everybody can read, together with tls.cert_file",
    meaning: "the private key of the certificate",
};

/// Who signs the certificates of clients.
pub const TLS_CLIENT_CA_FILE: Key = Key {
    name: "tls.client_ca_file",
    default: Default::Text("none"),
    kind: Kind::Text,
    allowed: "none or the path of a PEM file, together with tls.cert_file and tls.key_file",
    meaning: "if set, clients must show a certificate signed by one of these",
};

/// How many connections there may be.
pub const LIMITS_CONNECTIONS: Key = Key {
    name: "limits.connections",
    default: Default::Text("1024"),
    kind: Kind::Integer,
    allowed: "1 to 1000000",
    meaning: "how many connections there may be; fewer if the process may not have as many files open",
};

/// How many connections one source may have.
pub const LIMITS_CONNECTIONS_PER_SOURCE: Key = Key {
    name: "limits.connections_per_source",
    default: Default::Text("64"),
    kind: Kind::Integer,
    allowed: "1 to 1000000",
    meaning: "how many of them one address (IPv6: one /64) may have; not for loopback and trusted proxies",
};

/// The database.
pub const DATABASE_URL: Key = Key {
    name: "database.url",
    default: Default::Derived("sqlite://DATA_DIR/keydesk.db"),
    kind: Kind::Text,
    allowed: "sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE",
    meaning: "the database; DATABASE_URL is read too, if KEYDESK_DATABASE__URL is not set",
};

/// The file of the key-encryption key.
pub const KEK_FILE: Key = Key {
    name: "kek.file",
    default: Default::Derived("DATA_DIR/kek"),
    kind: Kind::Text,
    allowed: "the path of a file",
    meaning: "the key-encryption key: 32 bytes in base64, mode 0600 or 0400; of root and its own group also 0440, as systemd and Kubernetes hand it over",
};

/// The file of the key-encryption key before it.
pub const KEK_PREVIOUS_FILE: Key = Key {
    name: "kek.previous_file",
    default: Default::Derived("KEK_FILE.previous, if it is there"),
    kind: Kind::Text,
    allowed: "the path of a file",
    meaning: "the key-encryption key before the one in kek.file, until nothing is wrapped by it any more",
};

/// What access tokens are signed with.
pub const TOKEN_ALGORITHM: Key = Key {
    name: "token.algorithm",
    default: Default::Text("EdDSA"),
    kind: Kind::Text,
    allowed: "EdDSA, ES256 or RS256",
    meaning: "what access tokens are signed with, and the only algorithm accepted",
};

/// How long an access token lives.
pub const TOKEN_ACCESS_TTL: Key = Key {
    name: "token.access_ttl",
    default: Default::Text("10m"),
    kind: Kind::Text,
    allowed: "1m to 60m",
    meaning: "how long an access token lives",
};

/// How long a session lasts without being used.
pub const TOKEN_REFRESH_IDLE: Key = Key {
    name: "token.refresh_idle",
    default: Default::Text("7d"),
    kind: Kind::Text,
    allowed: "1m to 365d",
    meaning: "how long a session lasts without its refresh token being used",
};

/// How long a session lasts in any case.
pub const TOKEN_REFRESH_ABSOLUTE: Key = Key {
    name: "token.refresh_absolute",
    default: Default::Text("30d"),
    kind: Kind::Text,
    allowed: "1m to 365d",
    meaning: "how long a session lasts in any case",
};

/// The audience of access tokens.
pub const TOKEN_AUDIENCE: Key = Key {
    name: "token.audience",
    default: Default::Text("keydesk"),
    kind: Kind::Text,
    allowed: "1 to 255 printable ASCII characters without spaces",
    meaning: "the audience (aud) of access tokens",
};

/// Whether users may log in with a password.
pub const PASSWORD_ENABLED: Key = Key {
    name: "password.enabled",
    default: Default::Text("true"),
    kind: Kind::Boolean,
    allowed: "true or false",
    meaning: "whether users may log in with a password at the token endpoint",
};

/// The fewest bytes of a new password.
pub const PASSWORD_MIN_LENGTH: Key = Key {
    name: "password.min_length",
    default: Default::Text("15"),
    kind: Kind::Integer,
    allowed: "8 to 1024",
    meaning: "the fewest bytes of a new password",
};

/// Where Prometheus finds the metrics.
pub const METRICS_LISTEN: Key = Key {
    name: "metrics.listen",
    default: Default::Text("off"),
    kind: Kind::Text,
    allowed: "off, or an IP address and a port, such as 127.0.0.1:9464",
    meaning: "where Prometheus finds /metrics; an address that is not loopback needs server.insecure_listen",
};

/// Where alarms are posted to.
pub const ALERTS_WEBHOOK_URL: Key = Key {
    name: "alerts.webhook_url",
    default: Default::Text("off"),
    kind: Kind::Text,
    allowed: "an https:// URL, an http:// URL of a loopback address in alerts.allow_to, or off",
    meaning: "where alarms are posted to, signed with KEYDESK_ALERTS__WEBHOOK_SECRET",
};

/// In which form alarms are posted.
pub const ALERTS_FORMAT: Key = Key {
    name: "alerts.format",
    default: Default::Text("keydesk"),
    kind: Kind::Text,
    allowed: "keydesk or slack",
    meaning: "the form of alarms: our own JSON, or a text as Slack and its like take it",
};

/// Which addresses inside our own networks a webhook may have.
pub const ALERTS_ALLOW_TO: Key = Key {
    name: "alerts.allow_to",
    default: Default::Text("none"),
    kind: Kind::List,
    allowed: "none, or addresses and networks such as 127.0.0.1 or 10.0.0.0/8",
    meaning: "loopback, private and link-local networks in which webhooks may be; public addresses always may",
};

/// Where checkpoints of the book are posted to.
pub const AUDIT_CHECKPOINT_WEBHOOK_URL: Key = Key {
    name: "audit.checkpoint_webhook_url",
    default: Default::Text("off"),
    kind: Kind::Text,
    allowed: "an https:// URL, an http:// URL of a loopback address in alerts.allow_to, or off",
    meaning: "where checkpoints of the book are posted to",
};

/// Where checkpoints of the book are written to.
pub const AUDIT_CHECKPOINT_FILE: Key = Key {
    name: "audit.checkpoint_file",
    default: Default::Derived("DATA_DIR/audit.checkpoints"),
    kind: Kind::Text,
    allowed: "the path of a file",
    meaning: "where signed checkpoints of the book are appended, mode 0600",
};

/// For how long events are kept.
pub const AUDIT_RETENTION: Key = Key {
    name: "audit.retention",
    default: Default::Text("off"),
    kind: Kind::Text,
    allowed: "off, or 1d to 100y, such as 400d",
    meaning: "for how long the book keeps its events",
};

/// How often a principal may read keys.
pub const LIMITS_KEYS: Key = Key {
    name: "limits.keys",
    default: Default::Text("60/minute"),
    kind: Kind::Text,
    allowed: RATE,
    meaning: "how often a principal may read keys",
};

/// How often anybody may ask for a token, by source address.
pub const LIMITS_TOKEN: Key = Key {
    name: "limits.token",
    default: Default::Text("60/minute"),
    kind: Kind::Text,
    allowed: RATE,
    meaning: "how often anybody may ask for a token or revoke one, by source address",
};

/// How often a client may ask about tokens.
pub const LIMITS_INTROSPECT: Key = Key {
    name: "limits.introspect",
    default: Default::Text("600/minute"),
    kind: Kind::Text,
    allowed: RATE,
    meaning: "how often a client may ask about tokens",
};

const RATE: &str = "1 to 1000000 per second, minute, hour or day, such as 60/minute; or off";

/// Where traces are sent.
pub const TRACES_ENDPOINT: Key = Key {
    name: "traces.endpoint",
    default: Default::Text("off"),
    kind: Kind::Text,
    allowed: "off, or the URL of an OpenTelemetry collector (OTLP over HTTP), such as http://127.0.0.1:4318",
    meaning: "where traces are sent: one span per request, without secrets",
};

/// How the log is written.
pub const LOG_FORMAT: Key = Key {
    name: "log.format",
    default: Default::Text("text"),
    kind: Kind::Text,
    allowed: "text or json",
    meaning: "how the log on standard error is written",
};

/// How much is logged.
pub const LOG_LEVEL: Key = Key {
    name: "log.level",
    default: Default::Text("info"),
    kind: Kind::Text,
    allowed: "error, warn, info, debug or trace",
    meaning: "how much is logged; RUST_LOG refines it",
};

/// Every key, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    DATA_DIR,
    SERVER_LISTEN,
    SERVER_PUBLIC_URL,
    SERVER_INSECURE_LISTEN,
    SERVER_TRUSTED_PROXIES,
    SERVER_ALLOW_FROM,
    ADMIN_ALLOW_FROM,
    SERVER_DRAIN_DELAY,
    TLS_CERT_FILE,
    TLS_KEY_FILE,
    TLS_CLIENT_CA_FILE,
    LIMITS_CONNECTIONS,
    LIMITS_CONNECTIONS_PER_SOURCE,
    DATABASE_URL,
    KEK_FILE,
    KEK_PREVIOUS_FILE,
    TOKEN_ALGORITHM,
    TOKEN_ACCESS_TTL,
    TOKEN_REFRESH_IDLE,
    TOKEN_REFRESH_ABSOLUTE,
    TOKEN_AUDIENCE,
    PASSWORD_ENABLED,
    PASSWORD_MIN_LENGTH,
    LIMITS_KEYS,
    LIMITS_TOKEN,
    LIMITS_INTROSPECT,
    METRICS_LISTEN,
    ALERTS_WEBHOOK_URL,
    ALERTS_FORMAT,
    ALERTS_ALLOW_TO,
    AUDIT_CHECKPOINT_WEBHOOK_URL,
    AUDIT_CHECKPOINT_FILE,
    AUDIT_RETENTION,
    TRACES_ENDPOINT,
    LOG_FORMAT,
    LOG_LEVEL,
];

/// Keys whose values are secrets, so that their variables have a `…_FILE` form as well.
pub(super) const SECRET: &[&Key] = &[&DATABASE_URL, &ALERTS_WEBHOOK_URL, &AUDIT_CHECKPOINT_WEBHOOK_URL];

/// The one of `known` that is most like `typed`, for people who mistyped it.
pub(super) fn nearest(typed: &str, known: impl IntoIterator<Item = String>) -> String {
    known.into_iter().min_by_key(|name| distance(typed, name)).unwrap_or_default()
}

/// How many characters must be added, removed or replaced to make `b` out of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
