//! What is counted and measured, for Prometheus.
//!
//! One [`Metrics`] belongs to one desk. Its methods are named after what happened, so that nobody else knows the name of a
//! metric or a label. Every label has a small, fixed set of values: routes as templates, methods that everybody knows,
//! status codes. Nothing a stranger sends becomes a label, so the number of series does not grow with what they send.
//!
//! What is a state rather than an event (ages, sizes, what is ready) is not kept here: a scrape asks for it, see [`State`].

mod page;
mod process;

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
        info::Info,
    },
    registry::{Registry, Unit},
};

pub use page::{CONTENT_TYPE, State};

/// From a quick read to the longest wait for a password, in seconds.
const REQUEST_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// From a solid-state disk to one in trouble, in seconds.
const COMMIT_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The counts and measurements of a desk. A clone counts into the same.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    requests: Family<Request, Counter>,
    latency: Family<Route, Histogram, Seconds>,
    in_flight: Gauge,
    connections: Gauge,
    passwords_waiting: Gauge,
    password_wait: Histogram,
    password_hash: Histogram,
    commit: Histogram,
    batch: Histogram,
    commit_failures: Counter,
    turned_away: Family<Reason, Counter>,
    key_reads: Family<Outcome, Counter>,
    lookups: Family<Cache, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: Arc<str>,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cache {
    cache: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        histogram(REQUEST_BUCKETS)
    }
}

/// Why a request was turned away before it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// Too many passwords were waiting to be hashed.
    Busy,
    /// Too many attempts had failed before.
    Throttled,
    /// More requests than the limit allows.
    RateLimited,
}

/// What became of a request for provider keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRead {
    /// Keys left, and the book says so.
    Handed,
    /// The asker had them already.
    Unchanged,
    /// Refused: not granted, or nothing there for this asker.
    Denied,
    /// The desk could not: the database or the book cannot be used.
    Failed,
}

/// What is remembered between requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// That the signature of an access token is right.
    Signature,
    /// Whose a credential is.
    Asker,
    /// Which keys a grant opens.
    Handout,
}

/// Something that counts as long as it is there.
#[derive(Debug)]
pub struct Present(Gauge);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let mut inner = Inner {
            registry: Registry::with_prefix("keydesk"),
            requests: Family::default(),
            latency: Family::new_with_constructor(Seconds),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            passwords_waiting: Gauge::default(),
            password_wait: histogram(REQUEST_BUCKETS),
            password_hash: histogram(REQUEST_BUCKETS),
            commit: histogram(COMMIT_BUCKETS),
            batch: histogram(BATCH_BUCKETS),
            commit_failures: Counter::default(),
            turned_away: Family::default(),
            key_reads: Family::default(),
            lookups: Family::default(),
        };
        inner.register();
        // What has not happened yet is 0, not missing: the first time must show as an increase.
        for reason in [TurnedAway::Busy, TurnedAway::Throttled, TurnedAway::RateLimited] {
            drop(inner.turned_away.get_or_create(&reason.label()));
        }
        for outcome in [KeyRead::Handed, KeyRead::Unchanged, KeyRead::Denied, KeyRead::Failed] {
            drop(inner.key_reads.get_or_create(&outcome.label()));
        }
        for lookup in [Lookup::Signature, Lookup::Asker, Lookup::Handout] {
            for hit in [true, false] {
                drop(inner.lookups.get_or_create(&lookup.label(hit)));
            }
        }
        Self(Arc::new(inner))
    }

    /// A request was answered. `route` is a template, never a path.
    pub fn request(&self, route: &Arc<str>, method: &'static str, status: u16, took: Duration) {
        let route = || Arc::clone(route);
        self.0.requests.get_or_create(&Request { route: route(), method, status }).inc();
        self.0.latency.get_or_create(&Route { route: route() }).observe(took.as_secs_f64());
    }

    /// A request is being answered, as long as the result is kept.
    pub fn request_begins(&self) -> Present {
        present(&self.0.in_flight)
    }

    /// A connection is open, as long as the result is kept.
    pub fn connection_opens(&self) -> Present {
        present(&self.0.connections)
    }

    /// A password waits or is being hashed, as long as the result is kept.
    pub fn password_waits(&self) -> Present {
        present(&self.0.passwords_waiting)
    }

    /// A password was hashed after it had waited for its turn.
    pub fn password_hashed(&self, waited: Duration, took: Duration) {
        self.0.password_wait.observe(waited.as_secs_f64());
        self.0.password_hash.observe(took.as_secs_f64());
    }

    /// Events are durably in the book.
    #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
    pub fn events_committed(&self, events: usize, took: Duration) {
        self.0.commit.observe(took.as_secs_f64());
        self.0.batch.observe(events as f64);
    }

    /// Events could not be written.
    pub fn events_lost(&self) {
        self.0.commit_failures.inc();
    }

    /// A request was turned away.
    pub fn turned_away(&self, reason: TurnedAway) {
        self.0.turned_away.get_or_create(&reason.label()).inc();
    }

    /// Something was looked for in memory, and was or was not there.
    pub fn looked_up(&self, lookup: Lookup, hit: bool) {
        self.0.lookups.get_or_create(&lookup.label(hit)).inc();
    }

    /// Somebody asked for provider keys.
    pub fn key_read(&self, outcome: KeyRead) {
        self.0.key_reads.get_or_create(&outcome.label()).inc();
    }
}

impl TurnedAway {
    fn label(self) -> Reason {
        let reason = match self {
            Self::Busy => "busy",
            Self::Throttled => "throttled",
            Self::RateLimited => "rate_limited",
        };
        Reason { reason }
    }
}

impl Lookup {
    fn label(self, hit: bool) -> Cache {
        let cache = match self {
            Self::Signature => "signature",
            Self::Asker => "asker",
            Self::Handout => "handout",
        };
        Cache { cache, result: if hit { "hit" } else { "miss" } }
    }
}

impl KeyRead {
    fn label(self) -> Outcome {
        let outcome = match self {
            Self::Handed => "handed",
            Self::Unchanged => "unchanged",
            Self::Denied => "denied",
            Self::Failed => "failed",
        };
        Outcome { outcome }
    }
}

impl Inner {
    /// The names. The library ends counters in `_total`, the units it is given, and the sentences.
    fn register(&mut self) {
        let registry = &mut self.registry;
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program that runs", version);
        registry.register("http_requests", "Requests answered", self.requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "From the request's headers to the answer's",
            Unit::Seconds,
            self.latency.clone(),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests that are being answered",
            self.in_flight.clone(),
        );
        registry.register("http_connections", "Open connections", self.connections.clone());
        registry.register(
            "password_queue",
            "Passwords that wait or are being hashed",
            self.passwords_waiting.clone(),
        );
        registry.register_with_unit(
            "password_queue_duration",
            "How long a password waited to be hashed",
            Unit::Seconds,
            self.password_wait.clone(),
        );
        registry.register_with_unit(
            "password_hash_duration",
            "How long hashing a password took",
            Unit::Seconds,
            self.password_hash.clone(),
        );
        registry.register_with_unit(
            "audit_commit_duration",
            "How long it took to make a batch of events durable",
            Unit::Seconds,
            self.commit.clone(),
        );
        registry.register("audit_batch_events", "How many events shared a commit", self.batch.clone());
        registry.register(
            "audit_commit_failures",
            "Batches of events that could not be written; what they were about did not happen",
            self.commit_failures.clone(),
        );
        registry.register(
            "turned_away",
            "Requests refused because there was too much to do, too many failures before, or too many requests",
            self.turned_away.clone(),
        );
        registry.register("key_reads", "Requests for provider keys", self.key_reads.clone());
        registry.register(
            "cache_lookups",
            "What was looked for in memory before the database was asked",
            self.lookups.clone(),
        );
    }
}

fn histogram(buckets: &[f64]) -> Histogram {
    Histogram::new(buckets.iter().copied())
}

fn present(gauge: &Gauge) -> Present {
    gauge.inc();
    Present(gauge.clone())
}
