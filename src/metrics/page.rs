//! The page that Prometheus reads: the counts, and the state at this moment.

use std::fmt;

use prometheus_client::{
    encoding::{
        EncodeGaugeValue,
        text::{encode_eof, encode_registry},
    },
    metrics::{
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::{Registry, Unit},
};

use super::{Metrics, process};

/// What [`Metrics::page`] writes: the newer of the two text formats that Prometheus reads.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The state of a desk at the moment of a scrape. What is not known, or is not there, is left out.
///
/// Moments are seconds since 1970, as Prometheus wants them: an age is `time()` less the moment.
#[derive(Debug, Default)]
pub struct State {
    /// How many events wait to be written in the book.
    pub events_waiting: usize,
    /// What the desk depends on, and whether it works.
    pub ready: Vec<(&'static str, bool)>,
    /// From when on the active signing key signs.
    pub signing_key_activated_at: Option<f64>,
    /// When the oldest data key was made.
    pub data_key_created_at: Option<f64>,
    /// How many data keys which KEK wraps.
    pub data_keys: Vec<(&'static str, usize)>,
    /// When the oldest current version of a provider key was set.
    pub oldest_provider_key_set_at: Option<f64>,
    /// When the next provider key expires.
    pub next_provider_key_expires_at: Option<f64>,
    /// When the TLS certificate expires.
    pub certificate_expires_at: Option<f64>,
    /// How often the certificate's files changed to what cannot be used.
    pub certificates_refused: u64,
    /// The size of the database.
    pub database_bytes: Option<u64>,
    /// What is free on the disk that holds it, for a program without privileges.
    pub disk_free_bytes: Option<u64>,
    /// The size of that disk.
    pub disk_bytes: Option<u64>,
}

impl Metrics {
    /// All of it as text. `state` is what is true at this moment.
    pub fn page(&self, state: &State) -> String {
        let mut page = String::new();
        let wrote = encode_registry(&mut page, &self.0.registry)
            .and_then(|()| encode_registry(&mut page, &state.registry()))
            .and_then(|()| encode_registry(&mut page, &process::registry()))
            .and_then(|()| encode_eof(&mut page));
        // Writing to a string does not fail.
        wrote.map_or_else(|fmt::Error| String::new(), |()| page)
    }
}

impl State {
    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("keydesk");
        let ready: Family<[(&str, &str); 1], Gauge> = Family::default();
        for (dependency, works) in &self.ready {
            ready.get_or_create(&[("dependency", *dependency)]).set(i64::from(*works));
        }
        registry.register("ready", "Whether what the desk depends on works: 1 or 0", ready);
        let data_keys: Family<[(&str, &str); 1], Gauge> = Family::default();
        for (kek, count) in &self.data_keys {
            data_keys.get_or_create(&[("kek", *kek)]).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
        registry.register(
            "data_keys",
            "Data-encryption keys by what wraps them: the current key-encryption key, the previous one, another one",
            data_keys,
        );
        registry.register(
            "audit_queue",
            "Events that wait to be written in the book; what is asked beyond 1024 is refused",
            ConstGauge::new(i64::try_from(self.events_waiting).unwrap_or(i64::MAX)),
        );
        registry.register(
            "certificate_reload_failures",
            "Changed certificate or key files that cannot be used; the ones before are served on",
            ConstCounter::new(self.certificates_refused),
        );
        let moments = [
            (
                "signing_key_activated_timestamp",
                "From when on the active signing key signs",
                self.signing_key_activated_at,
            ),
            (
                "data_key_created_timestamp",
                "When the oldest data-encryption key was made",
                self.data_key_created_at,
            ),
            (
                "provider_key_oldest_timestamp",
                "When the provider key that has not been rotated for longest was set",
                self.oldest_provider_key_set_at,
            ),
            (
                "provider_key_expiry_timestamp",
                "When the next provider key expires",
                self.next_provider_key_expires_at,
            ),
            (
                "certificate_expiry_timestamp",
                "When the certificate of the listener expires",
                self.certificate_expires_at,
            ),
        ];
        for (name, help, value) in moments {
            gauge(&mut registry, name, help, Unit::Seconds, value);
        }
        let sizes = [
            ("database_size", "The size of the database", self.database_bytes),
            ("disk_free", "What is free on the disk that holds the database", self.disk_free_bytes),
            ("disk_size", "The size of the disk that holds the database", self.disk_bytes),
        ];
        for (name, help, value) in sizes {
            gauge(&mut registry, name, help, Unit::Bytes, value);
        }
        registry
    }
}

/// Adds a gauge, if its value is known.
pub(super) fn gauge<T>(registry: &mut Registry, name: &str, help: &str, unit: Unit, value: Option<T>)
where
    T: EncodeGaugeValue + Copy + fmt::Debug + Send + Sync + 'static,
{
    if let Some(value) = value {
        registry.register_with_unit(name, help, unit, ConstGauge::new(value));
    }
}
