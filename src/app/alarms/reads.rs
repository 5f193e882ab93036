//! An unusual number of key reads, against the principal's own past: more in an hour than five times its busiest hour of the
//! last fourteen days, and more than twenty. Who has no past yet is given a hundred.

use std::collections::BTreeMap;

use crate::{
    app::Error,
    model::{Action, Alarm, Id, Rule, Timestamp},
    store::{
        Tx,
        alarms::{self, SeenEvent},
    },
};

const TIMES: i64 = 5;
const FEWEST: i64 = 20;
const WITHOUT_PAST: i64 = 100;
const HOUR: i64 = 3600;
/// Fourteen days.
const PAST: i64 = 14 * 24;

/// What these events are worth together with what was seen before.
pub(super) async fn alarms(tx: &mut Tx, events: &[SeenEvent]) -> Result<Vec<Alarm>, Error> {
    let mut counted: BTreeMap<(Id, i64), (i64, &SeenEvent)> = BTreeMap::new();
    let reads = events
        .iter()
        .filter(|event| event.action == Action::LlmKeysRead.as_str() && event.outcome == "allowed");
    for event in reads {
        let Some(principal) = event.principal_id else { continue };
        counted.entry((principal, hour(event.at))).or_insert((0, event)).0 += 1;
    }
    let mut found = Vec::new();
    for ((principal, hour), (new, event)) in counted {
        let reads = alarms::add_reads(tx, principal, hour, new).await?;
        if reads <= FEWEST {
            continue;
        }
        let most = alarms::most_reads(tx, principal, hour - PAST, hour).await?;
        let limit = most.map_or(WITHOUT_PAST, |most| FEWEST.max(most.saturating_mul(TIMES)));
        // Only when the limit is crossed: the window alone would tell it again in the middle of the next hour.
        if reads > limit && reads - new <= limit {
            let who = event.who();
            let past = most
                .map_or("no past to compare with".to_owned(), |most| format!("at most {most} in any before"));
            let summary = format!("{who} read keys {reads} times within an hour, and {past}");
            found.push(Alarm::new(Rule::UnusualKeyReads, who, summary).in_request(&event.request_id));
        }
    }
    Ok(found)
}

fn hour(at: Timestamp) -> i64 {
    at.seconds().div_euclid(HOUR)
}

/// Hours before this one are not looked at.
pub(super) fn forget_before(now: Timestamp) -> i64 {
    hour(now) - PAST
}
