//! Rules about single events: each of these is worth an alarm by itself.

use crate::{
    model::{Action, Alarm, Rule},
    store::alarms::SeenEvent,
};

/// What people and machines do for themselves: a refusal there says nothing of administration.
const OWN: [Action; 12] = [
    Action::BookProbe,
    Action::CredentialVerify,
    Action::LlmKeysRead,
    Action::OwnRead,
    Action::RefreshTokenReuse,
    Action::RequestAdmit,
    Action::SessionRevoke,
    Action::TokenIntrospect,
    Action::TokenIssue,
    Action::TokenRefresh,
    Action::TokenRevoke,
    Action::AlarmRaise,
];

/// The alarm that this event is worth, if any.
pub(super) fn alarm(event: &SeenEvent) -> Option<Alarm> {
    let (who, source) = (event.who(), &event.source);
    let reason = event.reason.as_deref().unwrap_or_default();
    let is = |action: Action| event.action == action.as_str();
    let object = event.object.as_deref().unwrap_or("something");
    let alarm = if is(Action::RefreshTokenReuse) {
        let summary =
            format!("a spent refresh token of {who} came back from {source}; the session was ended");
        Alarm::new(Rule::RefreshTokenReuse, who, summary)
    } else if event.outcome == "failed" && reason == "not_authentic" {
        let summary = format!("a sealed key of {object} does not open; {who} was not given it");
        Alarm::new(Rule::BrokenSeal, object, summary)
    } else if is(Action::AuditVerify) && event.outcome == "failed" {
        Alarm::new(Rule::ForgedBook, "book", format!("the book does not stand up to verification: {reason}"))
    } else if is_refused(&event.outcome, reason) && !OWN.into_iter().any(is) {
        let summary = format!("{who} at {source} tried {} on {object} and may not", event.action);
        Alarm::new(Rule::DeniedAdministration, who, summary)
    } else {
        return None;
    };
    Some(alarm.in_request(&event.request_id))
}

/// Whether the asker lacked the permission, before or in the course of the operation.
fn is_refused(outcome: &str, reason: &str) -> bool {
    outcome == "denied" || (outcome == "failed" && reason == "forbidden")
}
