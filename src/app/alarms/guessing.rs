//! Password spraying: many users tried from one source, or one user from many; and plain guessing, which the throttle turns
//! away unseen.

use std::time::Duration;

use crate::{
    app::Error,
    model::{Action, Alarm, Rule, Timestamp, network},
    store::{
        Tx,
        alarms::{self, SeenEvent},
        outbox,
    },
};

/// So many different users of one source, or sources of one user, are an attack...
const MANY: i64 = 10;
/// ...within this time.
const WINDOW: Duration = Duration::from_mins(10);
/// So many attempts turned away within a second, or seconds with such attempts within the window, are too.
const TURNED_AWAY: i64 = 10;

/// A credential that was wrong, as opposed to a request that was.
const WRONG: [&str; 6] = [
    "wrong_password",
    "unknown_user",
    "disabled",
    "expired_password",
    "password_grant_off",
    "wrong_client_secret",
];

/// How many requests an event says were throttled.
fn throttled(event: &SeenEvent) -> Option<i64> {
    event.reason.as_deref()?.strip_prefix("throttled: ")?.split(' ').next()?.parse().ok()
}

/// What these events are worth together with what was seen before.
pub(super) async fn alarms(tx: &mut Tx, events: &[SeenEvent]) -> Result<Vec<Alarm>, Error> {
    let mut found = Vec::new();
    for event in
        events.iter().filter(|event| event.action == Action::TokenIssue.as_str() && event.outcome == "denied")
    {
        let since = event.at.minus(WINDOW);
        let wrong = event.reason.as_deref().is_some_and(|reason| WRONG.contains(&reason));
        if let (true, Some(source)) = (wrong, network::around(&event.source, 32, 64)) {
            let (who, actor) = (event.who(), &event.actor);
            let users = alarms::mark(tx, "spray_source", &source, actor, event.at, since).await?;
            if users >= MANY {
                let summary =
                    format!("{users} different users failed to log in from {source} within ten minutes");
                let alarm = Alarm::new(Rule::PasswordSpraying, format!("source:{source}"), summary);
                found.push(alarm.in_request(&event.request_id));
            }
            let sources = alarms::mark(tx, "spray_user", actor, &source, event.at, since).await?;
            if sources >= MANY {
                let summary =
                    format!("logins as {who} failed from {sources} different sources within ten minutes");
                found.push(Alarm::new(Rule::PasswordSpraying, who, summary).in_request(&event.request_id));
            }
        } else if let Some(count) = throttled(event) {
            let second = event.at.seconds().to_string();
            let seconds = alarms::mark(tx, "throttled", "logins", &second, event.at, since).await?;
            let sprayed = outbox::last_alarm(tx, Rule::PasswordSpraying.as_str()).await?;
            // Where spraying is told, this would say the same again.
            let is_told = sprayed
                .is_some_and(|last| super::within(Rule::PasswordSpraying.window(), last, event.at))
                || found.iter().any(|alarm: &Alarm| alarm.rule == Rule::PasswordSpraying);
            if count.max(seconds) >= TURNED_AWAY && !is_told {
                let summary = "login attempts keep coming although they are turned away";
                found.push(Alarm::new(Rule::PasswordGuessing, "logins", summary));
            }
        }
    }
    Ok(found)
}

/// Older marks are not counted.
pub(super) fn forget_before(now: Timestamp) -> Timestamp {
    now.minus(WINDOW)
}
