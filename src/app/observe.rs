//! What Prometheus is told when it asks: what has been counted, and the state of the desk at this moment.

use std::time::Duration;

use super::{App, Error};
use crate::{
    metrics::{Metrics, State},
    model::Timestamp,
    store::{keys, provider_keys},
};

/// How long a scrape waits for the database before it goes on without what is in there.
const PATIENCE: Duration = Duration::from_secs(2);

impl App {
    /// Where everything that happens is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The page for Prometheus. It comes also when the database cannot be used: that is when it is read most.
    pub async fn metrics_page(&self) -> String {
        let mut state = State {
            events_waiting: self.book.waiting(),
            signing_key_activated_at: self.signing_keys.activated_at(self.now()).map(seconds),
            certificate_expires_at: self.certificate_expires_at().map(seconds),
            certificates_refused: self.certificates_refused(),
            ..State::default()
        };
        if let Some(disk) = self.disk() {
            (state.disk_bytes, state.disk_free_bytes) = (Some(disk.size), Some(disk.free));
        }
        let asked = tokio::time::timeout(PATIENCE, async {
            state.database_bytes = self.store.size().await.ok();
            let ready = self.readiness().await;
            state.ready = ready.into_iter().map(|check| (check.name, check.ok)).collect();
            self.observe_keys(&mut state).await
        });
        match asked.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a scrape goes without what is in the database"),
            Err(_) => state.ready = vec![("store", false)],
        }
        self.metrics.page(&state)
    }

    async fn observe_keys(&self, state: &mut State) -> Result<(), Error> {
        let mut db = self.store.read().await?;
        state.data_key_created_at = keys::oldest_data_key(&mut db).await?.map(seconds);
        state.data_keys = self.keks.count(&keys::data_keys(&mut db).await?).to_vec();
        let (oldest, expiry) = provider_keys::extremes(&mut db).await?;
        state.oldest_provider_key_set_at = oldest.map(seconds);
        state.next_provider_key_expires_at = expiry.map(seconds);
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact to the microsecond until the year 2255")]
fn seconds(moment: Timestamp) -> f64 {
    moment.micros() as f64 / 1e6
}
