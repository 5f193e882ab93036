//! Alarms: rules over the book and over the state of the desk, told to people.
//!
//! A rule looks at what happened and says that somebody should hear of it. That is an event in the book (`alarm.raise`) and
//! a message in the outbox, in one transaction; the same rule about the same subject is told once per window, also across
//! a restart. If the database cannot be written, which is an alarm itself, the message waits in memory and goes out from
//! there.

mod guessing;
mod incidents;
mod memory;
mod networks;
mod reads;
mod state;
mod tail;
mod unwritten;
mod watch;

use std::{collections::HashMap, slice, time::Duration};

pub(super) use unwritten::Unwritten;
pub use watch::Watch;

use super::{App, Error, book::Work, outbox::Destination};
use crate::{
    model::{Action, Alarm, AuditEvent, Caller, Id, Origin, Rule, Scope, Timestamp},
    store::outbox::{self, MessageRow},
};

/// An alarm as it is shown, with what became of its message.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RaisedAlarm {
    /// When.
    pub at: Timestamp,
    /// Its identifier; `msg_` and this is the identifier of the message.
    pub id: Id,
    /// Why.
    pub rule: String,
    /// How bad it is.
    pub severity: String,
    /// About what.
    pub subject: String,
    /// What happened.
    pub summary: String,
    /// `waiting`, `delivered`, `given_up`, or `kept` where no webhook was configured.
    pub state: String,
    /// How often it was sent.
    pub attempts: i64,
    /// When it is sent next.
    pub next_attempt_at: Option<Timestamp>,
    /// What the receiver answered.
    pub answer: Option<String>,
    /// Why the last failed attempt failed.
    pub last_error: Option<String>,
}

impl App {
    /// Raises an alarm, unless it was raised within its window. Where the database cannot be written, the alarm goes out
    /// all the same. Tells whether it could be written.
    pub(super) async fn raise(&self, alarm: Alarm) -> bool {
        let written = async {
            let mut work = self.book.begin().await?;
            self.raise_in(&mut work, slice::from_ref(&alarm)).await?;
            Ok::<_, Error>(work.commit().await?)
        };
        match written.await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "an alarm cannot be written down; it goes out from memory");
                let message = self.alarm_message(&alarm);
                self.unwritten.add(alarm, message).await;
                false
            }
        }
    }

    /// The same as part of a transaction, with as many alarms as were found: something that concerns everybody can be one for
    /// each principal.
    pub(super) async fn raise_in(&self, work: &mut Work, alarms: &[Alarm]) -> Result<(), Error> {
        let asked = alarms.iter().map(|alarm| (alarm.rule.as_str(), alarm.subject.clone())).collect();
        let last = outbox::last_alarms(work, asked).await?;
        let mut last: HashMap<_, _> =
            last.into_iter().map(|(rule, subject, at)| ((rule, subject), at)).collect();
        let mut messages = Vec::new();
        for alarm in alarms {
            let now = self.now();
            let last = last.insert((alarm.rule.as_str().to_owned(), alarm.subject.clone()), now);
            if last.is_some_and(|last| within(alarm.rule.window(), last, now)) {
                continue;
            }
            record_alarm(work, AuditEvent::by_desk(&origin_of(alarm), Action::AlarmRaise), alarm).await?;
            messages.push(self.alarm_message(alarm));
            tracing::warn!(rule = alarm.rule.as_str(), subject = alarm.subject, "alarm: {}", alarm.summary);
        }
        Ok(outbox::insert(work, messages).await?)
    }

    /// Writes down what went out from memory.
    pub(super) async fn write_down_alarms(&self) -> Result<(), Error> {
        let mut unwritten = self.unwritten.lock().await;
        if unwritten.is_empty() {
            return Ok(());
        }
        let mut work = self.book.begin().await?;
        for (alarm, _) in unwritten.iter() {
            let event = AuditEvent::by_desk(&origin_of(alarm), Action::AlarmRaise);
            record_alarm(&mut work, event, alarm).await?;
        }
        outbox::insert(&mut work, unwritten.iter().map(|(_, message)| message.clone()).collect()).await?;
        work.commit().await?;
        unwritten.clear();
        Ok(())
    }

    fn alarm_message(&self, alarm: &Alarm) -> MessageRow {
        let mut message = self.new_message(Destination::Alarms, String::new());
        let body = serde_json::json!({
            "type": "alarm.raised",
            "timestamp": message.created_at,
            "data": {
                "rule": alarm.rule.as_str(),
                "severity": alarm.rule.severity().as_str(),
                "subject": alarm.subject,
                "summary": alarm.summary,
                "advice": alarm.rule.advice(),
                "request_id": alarm.request_id,
                "desk": self.settings.issuer,
            },
        });
        message.body = body.to_string();
        message.rule = Some(alarm.rule.as_str().to_owned());
        message.subject = Some(alarm.subject.clone());
        message
    }

    /// Raises an alarm about nothing, to see whether it arrives. Needs `admin`.
    pub async fn raise_test_alarm(&self, caller: &Caller) -> Result<Id, Error> {
        let event = AuditEvent::by(caller, Action::AlarmRaise);
        self.authorise(caller, Scope::Admin, &event.clone().on("alarm:test")).await?;
        let summary = format!("{} tries whether alarms arrive; they do", caller.name);
        let alarm = Alarm::new(Rule::Test, "test", summary).in_request(&caller.origin.request_id);
        let message = self.alarm_message(&alarm);
        let id = message.id;
        let mut work = self.book.begin().await?;
        record_alarm(&mut work, event, &alarm).await?;
        outbox::insert(&mut work, vec![message]).await?;
        work.commit().await?;
        Ok(id)
    }

    /// The newest alarms, newest first. Needs `audit:read`.
    pub async fn alarms(&self, caller: &Caller, limit: i64) -> Result<Vec<RaisedAlarm>, Error> {
        self.require(caller, Scope::AuditRead, Action::AuditRead, "alarms").await?;
        let rows = outbox::newest_alarms(&mut self.store.read().await?, limit).await?;
        Ok(rows.into_iter().map(RaisedAlarm::from).collect())
    }

    /// One alarm. Needs `audit:read`.
    pub async fn alarm(&self, caller: &Caller, id: Id) -> Result<RaisedAlarm, Error> {
        self.require(caller, Scope::AuditRead, Action::AuditRead, "alarms").await?;
        let row = outbox::find(&mut self.store.read().await?, id).await?;
        row.map(RaisedAlarm::from).ok_or_else(|| Error::NotFound("there is no such alarm".to_owned()))
    }
}

/// Whether `last` is less than `window` away from `now`: in the past or, after a clock was set back, in the future.
fn within(window: Duration, last: Timestamp, now: Timestamp) -> bool {
    u128::from(now.micros().abs_diff(last.micros())) < window.as_micros()
}

async fn record_alarm(work: &mut Work, event: AuditEvent, alarm: &Alarm) -> Result<(), Error> {
    let event =
        event.on(format!("alarm:{}", alarm.rule)).detail(format!("{}: {}", alarm.subject, alarm.summary));
    Ok(work.record(event).await?)
}

fn origin_of(alarm: &Alarm) -> Origin {
    let request_id = alarm.request_id.clone().unwrap_or_else(|| "alarm".to_owned());
    Origin { source: "local".to_owned(), request_id }
}

impl From<MessageRow> for RaisedAlarm {
    fn from(row: MessageRow) -> Self {
        let body: serde_json::Value = serde_json::from_str(&row.body).unwrap_or_default();
        let said = |name: &str| body["data"][name].as_str().unwrap_or_default().to_owned();
        Self {
            at: row.created_at,
            id: row.id,
            rule: row.rule.unwrap_or_default(),
            severity: said("severity"),
            subject: row.subject.unwrap_or_default(),
            summary: said("summary"),
            state: row.state,
            attempts: row.attempts,
            next_attempt_at: row.next_attempt_at,
            answer: row.answer,
            last_error: row.last_error,
        }
    }
}
