//! Reading the book on from where it was read last.
//!
//! The place is kept per stream and moves in the transaction that raises what was found, so that over a crash nothing is
//! missed and nothing is raised twice.

use super::{guessing, incidents, networks, reads};
use crate::{
    app::{App, Error},
    model::{Alarm, Rule},
    store::alarms::{self, Piece, SeenEvent},
};

/// How many events are read at a time.
const BATCH: i64 = 20_000;

impl App {
    /// Reads a piece of each stream that has grown. Tells whether there may be more. A stream that cannot be read does not
    /// keep the rules from the others.
    pub(super) async fn read_on(&self) -> Result<bool, Error> {
        let mut more = false;
        let mut result = Ok(());
        let grown = alarms::grown(&mut self.store.read().await?).await?;
        for piece in grown {
            let Some(piece) = piece else {
                self.raise(malformed("a stream")).await;
                continue;
            };
            let end = piece.to.min(piece.from.saturating_add(BATCH));
            match self.judge(Piece { to: end, ..piece }).await {
                Ok(()) => more |= end < piece.to,
                Err(error) => result = Err(error),
            }
        }
        result.map(|()| more)
    }

    async fn judge(&self, piece: Piece) -> Result<(), Error> {
        // What is written stays as it is, so it can be read before the one writer is asked for.
        let mut db = self.store.read().await?;
        let (events, reads) = (alarms::events(&mut db, piece).await?, alarms::reads(&mut db, piece).await?);
        drop(db);
        let rows = events.len() + reads.len();
        let events: Vec<_> = events.into_iter().flatten().collect();
        let reads: Vec<_> = reads.into_iter().flatten().collect();
        let mut work = self.book.begin().await?;
        if !alarms::advance(&mut work, piece).await? {
            return Ok(());
        }
        let mut found: Vec<_> = events.iter().filter_map(incidents::alarm).collect();
        if events.len() + reads.len() < rows {
            found.push(malformed("an event"));
        }
        found.extend(guessing::alarms(&mut work, &events).await?);
        found.extend(networks::alarms(&mut work, &events, &reads).await?);
        found.extend(reads::alarms(&mut work, &reads).await?);
        for alarm in &found {
            self.raise_in(&mut work, alarm).await?;
        }
        Ok(work.commit().await?)
    }

    /// Whether the rules, or the checkpoints, claim to have read further than the book goes, which would keep them from what
    /// is to come. Then they go on from its end.
    pub(super) async fn look_at_places(&self) -> Result<(), Error> {
        if !alarms::is_ahead(&mut self.store.read().await?).await? {
            return Ok(());
        }
        let mut work = self.book.begin().await?;
        alarms::set_back(&mut work).await?;
        let summary = "the rules or the checkpoints were made to pass over events of the book";
        self.raise_in(&mut work, &Alarm::new(Rule::ForgedBook, "places", summary)).await?;
        Ok(work.commit().await?)
    }

    /// Forgets what no rule looks at any more.
    pub(in crate::app) async fn forget_seen(&self) -> Result<(), Error> {
        let now = self.now();
        let mut tx = self.store.begin().await?;
        let (marks, networks) = (guessing::forget_before(now), networks::forget_before(now));
        alarms::forget(&mut tx, marks, networks, reads::forget_before(now)).await?;
        Ok(tx.commit().await?)
    }
}

/// A row that Keydesk has not written like this.
fn malformed(what: &str) -> Alarm {
    let summary = format!("{what} of the book has a form in which Keydesk writes none, and is not looked at");
    Alarm::new(Rule::ForgedBook, what, summary)
}

impl SeenEvent {
    /// The principal as alarms name it: `user:alice`, `service_account:ci`, or the actor where it is none.
    pub(super) fn who(&self) -> String {
        match &self.principal_kind {
            Some(kind) => format!("{kind}:{}", self.actor),
            None => self.actor.clone(),
        }
    }
}
