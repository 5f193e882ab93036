//! The outbox: messages to webhooks, kept in the database until they are delivered or given up.
//!
//! A message is put in by the transaction that makes what it tells. An attempt is counted before it is made, so that a
//! crash in the middle, or a database that cannot take down the success, leads to one more copy after a wait and never to a
//! flood; the identifier is the same each time, so that receivers can drop copies. Ten attempts over sixteen hours, then a
//! message is given up and the book says so.

use std::time::Duration;

use super::{App, Error, book::Work};
use crate::{
    model::{Action, Alarm, AuditEvent, Id, Origin, Rule, Timestamp},
    store::outbox::{self, MessageRow, State},
};

/// How long to wait after each attempt; after one more than these are, a message is given up.
const WAITS: [Duration; 9] = [
    Duration::from_secs(30),
    Duration::from_mins(1),
    Duration::from_mins(5),
    Duration::from_mins(15),
    Duration::from_mins(30),
    Duration::from_hours(1),
    Duration::from_hours(2),
    Duration::from_hours(4),
    Duration::from_hours(8),
];
/// So many failed attempts of a checkpoint, six minutes of them, are an alarm: without it nobody would hear of the outage
/// before the hours are over.
const WORRYING: usize = 4;
/// How many are handed to the sender at a time.
const ROUND: i64 = 20;

/// Where messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// `alerts.webhook_url`.
    Alarms,
    /// `audit.checkpoint_webhook_url`.
    Checkpoints,
}

impl Destination {
    /// The name in the database and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alarms => "alarms",
            Self::Checkpoints => "checkpoints",
        }
    }

    /// For how long finished messages are remembered. Checkpoints are in their file as well.
    const fn remembered(self) -> Duration {
        match self {
            Self::Alarms => Duration::from_hours(30 * 24),
            Self::Checkpoints => Duration::from_hours(24),
        }
    }
}

/// A message that is to be sent now.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its identifier, the same at every attempt.
    pub id: Id,
    /// What it says, in JSON.
    pub body: String,
    /// What it is about, for the log and the book.
    about: String,
    /// Which attempt this is, from 1.
    attempt: usize,
    /// When this attempt is made.
    pub sent_at: Timestamp,
}

/// What a receiver made of a message: its status, or why there is none or not a good one. Neither holds a secret.
pub type Delivery = Result<String, String>;

/// When the attempt after attempt number `made` is due.
pub(super) fn next_attempt(made: usize, now: Timestamp) -> Timestamp {
    now.plus(WAITS[made.saturating_sub(1).min(WAITS.len() - 1)])
}

impl App {
    /// A message that was just made: waiting, if it has somewhere to go.
    pub(super) fn new_message(&self, destination: Destination, body: String) -> MessageRow {
        let now = self.now();
        let goes = self.settings.destinations.contains(&destination);
        MessageRow {
            id: self.new_id(),
            destination: destination.as_str().to_owned(),
            rule: None,
            subject: None,
            body,
            state: if goes { State::Waiting } else { State::Kept }.as_str().to_owned(),
            attempts: 0,
            next_attempt_at: goes.then_some(now),
            finished_at: None,
            answer: None,
            last_error: None,
            created_at: now,
        }
    }

    /// What is to be sent now. Each attempt is counted already.
    pub async fn take_due(&self, destination: Destination) -> Vec<Outgoing> {
        if destination == Destination::Alarms {
            // At once: where these are, the database is what does not work.
            let taken = self.unwritten.take_due(self.now()).await;
            if !taken.is_empty() {
                return taken;
            }
        }
        self.claim_due(destination).await.unwrap_or_else(|error| {
            // The book's own failure is told elsewhere, and this comes again in a second.
            tracing::debug!(%error, "cannot look what is to be sent");
            Vec::new()
        })
    }

    async fn claim_due(&self, destination: Destination) -> Result<Vec<Outgoing>, Error> {
        let now = self.now();
        let horizon = now.plus(WAITS[WAITS.len() - 1]);
        let mut db = self.store.read().await?;
        let due = outbox::due(&mut db, destination.as_str(), now, horizon, ROUND).await?;
        drop(db);
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let mut claimed = Vec::new();
        let mut work = self.book.begin().await?;
        for row in due {
            let message = Outgoing::of(&row, now);
            if message.attempt > WAITS.len() + 1 {
                // The process ended during the last attempt.
                self.give_up(&mut work, &message, row.last_error.unwrap_or_default()).await?;
            } else if outbox::claim(&mut work, row.id, row.attempts, next_attempt(message.attempt, now))
                .await?
            {
                claimed.push(message);
            }
        }
        work.commit().await?;
        Ok(claimed)
    }

    /// Writes down what became of an attempt.
    pub async fn record_delivery(&self, message: &Outgoing, delivery: Delivery) -> Result<(), Error> {
        if let Err(error) = &delivery {
            tracing::warn!(webhook_id = %message.id, attempt = message.attempt, error, "a webhook message was not delivered");
        }
        let Some(delivery) = self.unwritten.record(message.id, delivery, self.now()).await else {
            return Ok(());
        };
        let mut work = self.book.begin().await?;
        match delivery {
            Ok(answer) => {
                outbox::finish(&mut work, message.id, State::Delivered, Some(answer), None, self.now())
                    .await?;
            }
            Err(error) if message.attempt > WAITS.len() => self.give_up(&mut work, message, error).await?,
            Err(error) => {
                outbox::note_error(&mut work, message.id, &error).await?;
                self.worry_about(&mut work, message).await?;
            }
        }
        Ok(work.commit().await?)
    }

    async fn give_up(&self, work: &mut Work, message: &Outgoing, error: String) -> Result<(), Error> {
        let origin = Origin { source: "local".to_owned(), request_id: format!("msg_{}", message.id) };
        let event = AuditEvent::by_desk(&origin, Action::WebhookGiveUp).on(&message.about).failed(&error);
        work.record(event).await?;
        self.worry_about(work, message).await?;
        let (id, now) = (message.id, self.now());
        outbox::finish(work, id, State::GivenUp, None, Some(error).filter(|error| !error.is_empty()), now)
            .await?;
        Ok(())
    }

    /// A checkpoint that does not arrive is an alarm: a forger may be who keeps it from arriving.
    async fn worry_about(&self, work: &mut Work, message: &Outgoing) -> Result<(), Error> {
        if message.about == Destination::Checkpoints.as_str() && message.attempt >= WORRYING {
            let summary = "checkpoints of the book do not arrive at audit.checkpoint_webhook_url";
            let alarm = Alarm::new(Rule::CheckpointFailure, "checkpoint_webhook", summary);
            self.raise_in(work, &[alarm]).await?;
        }
        Ok(())
    }

    /// Forgets messages that were finished long ago, a batch at a time. Tells how many.
    pub(super) async fn forget_messages(&self, limit: i64) -> Result<u64, Error> {
        let now = self.now();
        let mut forgotten = 0;
        let mut tx = self.store.begin().await?;
        for destination in [Destination::Alarms, Destination::Checkpoints] {
            let before = now.minus(destination.remembered());
            let rows = outbox::forget_older(&mut tx, destination.as_str(), before, limit).await?;
            forgotten = rows.max(forgotten);
        }
        tx.commit().await?;
        Ok(forgotten)
    }
}

impl Outgoing {
    /// The next attempt of a message.
    pub(super) fn of(row: &MessageRow, now: Timestamp) -> Self {
        let about = row.rule.as_ref().map_or_else(|| row.destination.clone(), |rule| format!("alarm:{rule}"));
        let attempt = usize::try_from(row.attempts).unwrap_or(0) + 1;
        Self { id: row.id, body: row.body.clone(), about, attempt, sent_at: now }
    }

    /// Which attempt this is, from 1.
    pub(super) const fn attempt(&self) -> usize {
        self.attempt
    }
}
