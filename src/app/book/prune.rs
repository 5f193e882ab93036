//! Retention: what is older than `audit.retention` is removed from the book, but never without a trace.
//!
//! Only the beginning of a stream is removed, only behind a checkpoint that stands in the file, and in the place of what is
//! removed comes a signed record from which the chain goes on. The removal is an event itself.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    app::{App, Error},
    crypto::statement::Statement,
    model::{Action, AuditEvent, Caller, Id, Timestamp, chain::Pruning},
    store::{audit_checkpoints, audit_events, audit_streams},
};

/// How many events one transaction removes, so that nobody waits long for it.
const BATCH: i64 = 1_000;

impl App {
    /// Removes what is older than the book's retention.
    pub async fn prune_book(&self) -> Result<(), Error> {
        let Some(retention) = self.settings.audit.retention else { return Ok(()) };
        while self.prune_batch(before(self.now(), retention)).await? {}
        Ok(())
    }

    /// Removes some events from before `cutoff`, and tells whether there may be more.
    async fn prune_batch(&self, cutoff: Timestamp) -> Result<bool, Error> {
        let mut work = self.book.begin().await?;
        let rows = audit_checkpoints::checkpoints(&mut work).await?;
        let Some(checkpoint) = rows.last().filter(|row| row.filed_at.is_some()).map(|row| row.seq) else {
            return Ok(false);
        };
        let old = audit_events::older_than(&mut work, cutoff, BATCH).await?;
        let mut ends: BTreeMap<Id, i64> = BTreeMap::new();
        for (stream, seq) in old {
            let end = ends.entry(stream).or_default();
            *end = seq.max(*end);
        }
        let (mut removed, mut streams) = (0, 0);
        for (stream, end) in ends {
            let anchored = audit_streams::anchored(&mut work, stream).await?;
            let Some(head) = audit_events::prunable(&mut work, stream, end.min(anchored), cutoff).await?
            else {
                continue;
            };
            let pruning = Pruning { head, iat: self.now().seconds(), checkpoint };
            let jws = self.keyring.audit().signer().sign(Statement::Pruning, &pruning);
            audit_checkpoints::put_pruning(&mut work, stream, head.seq, jws.map_err(Error::internal)?)
                .await?;
            removed += audit_events::delete_up_to(&mut work, head).await?;
            streams += 1;
        }
        if removed == 0 {
            return Ok(false);
        }
        let caller = Caller::operating_system("keydesk", self.new_request_id());
        let what = format!("{removed} events of {streams} streams, written before {cutoff}");
        work.record(AuditEvent::by(&caller, Action::AuditPrune).on("audit_events").detail(what)).await?;
        work.commit().await?;
        Ok(true)
    }
}

fn before(now: Timestamp, retention: Duration) -> Timestamp {
    let micros = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.micros().saturating_sub(micros))
}
