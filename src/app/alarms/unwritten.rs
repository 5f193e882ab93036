//! Alarms that could not be written down, because what is wrong is that nothing can be written: they go out from memory, as
//! far as that can be promised, and are written down when it works again.

use tokio::sync::{Mutex, MutexGuard};

use super::within;
use crate::{
    app::outbox::{Delivery, Outgoing, next_attempt},
    model::{Alarm, Id, Timestamp},
    store::outbox::{MessageRow, State},
};

/// More different things than can be wrong at a time.
const MOST: usize = 100;

/// What is not written down yet.
#[derive(Debug, Default)]
pub(in crate::app) struct Unwritten(Mutex<Vec<(Alarm, MessageRow)>>);

impl Unwritten {
    /// Puts an alarm in, unless it was within its window.
    pub(super) async fn add(&self, alarm: Alarm, message: MessageRow) {
        let mut all = self.0.lock().await;
        let told = |(other, row): &(Alarm, MessageRow)| {
            (other.rule, &other.subject) == (alarm.rule, &alarm.subject)
                && within(alarm.rule.window(), row.created_at, message.created_at)
        };
        if all.len() < MOST && !all.iter().any(told) {
            tracing::warn!(rule = alarm.rule.as_str(), subject = alarm.subject, "alarm: {}", alarm.summary);
            all.push((alarm, message));
        }
    }

    pub(super) async fn lock(&self) -> MutexGuard<'_, Vec<(Alarm, MessageRow)>> {
        self.0.lock().await
    }

    /// What is to be sent now, with its attempt counted.
    pub(in crate::app) async fn take_due(&self, now: Timestamp) -> Vec<Outgoing> {
        let mut all = self.0.lock().await;
        let due = all.iter_mut().filter(|(_, row)| row.next_attempt_at.is_some_and(|at| at <= now));
        due.map(|(_, row)| {
            let message = Outgoing::of(row, now);
            row.attempts += 1;
            row.next_attempt_at = Some(next_attempt(message.attempt(), now));
            message
        })
        .collect()
    }

    /// Notes what became of an attempt; gives it back if the message is not one of these.
    pub(in crate::app) async fn record(
        &self,
        id: Id,
        delivery: Delivery,
        now: Timestamp,
    ) -> Option<Delivery> {
        let mut all = self.0.lock().await;
        let Some((_, row)) = all.iter_mut().find(|(_, row)| row.id == id) else { return Some(delivery) };
        match delivery {
            Ok(answer) => {
                State::Delivered.as_str().clone_into(&mut row.state);
                row.next_attempt_at = None;
                row.finished_at = Some(now);
                row.answer = Some(answer);
            }
            Err(error) => row.last_error = Some(error),
        }
        None
    }
}
