//! Reading the book on from where it was read last.
//!
//! The place is kept per stream and moves in the transaction that raises what was found, so that over a crash nothing is
//! missed and nothing is raised twice.

use super::{guessing, incidents, memory::Memory, networks, reads};
use crate::{
    app::{App, Error},
    model::{Alarm, Rule},
    store::{
        Connection,
        alarms::{self, Piece, SeenEvent, SeenReads},
    },
};

/// How many events are read at a time: each piece costs a commit...
const BATCH: i64 = 20_000;
/// ...and how many rows they may make, where key reads of a principal are one: each costs time within the transaction, for which
/// key reads wait.
const ROWS: i64 = 2_000;

/// What the rules look at in a piece.
struct Seen {
    events: Vec<Option<SeenEvent>>,
    reads: Vec<Option<SeenReads>>,
}

impl App {
    /// Reads a piece of each stream that has grown. Tells whether there may be more. A stream that cannot be read does not
    /// keep the rules from the others.
    pub(super) async fn read_on(&self, memory: &mut Memory) -> Result<bool, Error> {
        let mut more = false;
        let mut result = Ok(());
        let grown = alarms::grown(&mut self.store.read().await?).await?;
        for piece in grown {
            let Some(piece) = piece else {
                self.raise(malformed("a stream")).await;
                continue;
            };
            let end = piece.to.min(piece.from.saturating_add(BATCH));
            match self.judge(Piece { to: end, ..piece }, memory).await {
                Ok(end) => more |= end < piece.to,
                Err(error) => result = Err(error),
            }
        }
        result.map(|()| more)
    }

    /// Tells up to where it was judged.
    async fn judge(&self, piece: Piece, memory: &mut Memory) -> Result<i64, Error> {
        // What is written stays as it is, so it can be read before the one writer is asked for.
        let mut db = self.store.read().await?;
        let (piece, Seen { events, reads }) = see(&mut db, piece).await?;
        let rows = events.len() + reads.len();
        let events: Vec<_> = events.into_iter().flatten().collect();
        let reads: Vec<_> = reads.into_iter().flatten().collect();
        reads::look_back(&mut db, &reads, memory).await?;
        drop(db);
        let mut work = self.book.begin().await?;
        if !alarms::advance(&mut work, piece).await? {
            return Ok(piece.to);
        }
        let mut found: Vec<_> = events.iter().filter_map(incidents::alarm).collect();
        if events.len() + reads.len() < rows {
            found.push(malformed("an event"));
        }
        found.extend(guessing::alarms(&mut work, &events).await?);
        let mut networks = networks::alarms(&mut work, &events, &reads, memory).await?;
        found.append(&mut networks.alarms);
        found.extend(reads::alarms(&mut work, &reads, memory).await?);
        self.raise_in(&mut work, &found).await?;
        work.commit().await?;
        networks.remember(memory);
        Ok(piece.to)
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
        self.raise_in(&mut work, &[Alarm::new(Rule::ForgedBook, "places", summary)]).await?;
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

/// Reads a piece, or as much of it as does not make too many rows.
async fn see(db: &mut Connection, mut piece: Piece) -> Result<(Piece, Seen), Error> {
    loop {
        let seen = Seen { events: alarms::events(db, piece).await?, reads: alarms::reads(db, piece).await? };
        let rows = i64::try_from(seen.events.len() + seen.reads.len()).unwrap_or(i64::MAX);
        let length = piece.to - piece.from;
        if rows <= ROWS || length <= 1 {
            return Ok((piece, seen));
        }
        piece.to = piece.from + (length * ROWS / rows).max(1);
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
