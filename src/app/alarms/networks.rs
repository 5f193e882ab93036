//! A principal seen from a new network: its first success from a /24 (IPv4) or /64 (IPv6) from which it has not come in the
//! last ninety days. The very first network of a principal is no news.

use std::{collections::BTreeMap, time::Duration};

use super::tail::before;
use crate::{
    app::Error,
    model::{Alarm, Rule, Timestamp, network},
    store::{
        Tx,
        alarms::{self, SeenEvent},
    },
};

const REMEMBERED: Duration = Duration::from_hours(90 * 24);
/// How many networks of a principal are remembered.
const MOST: i64 = 50;
/// How precisely it is remembered when a network was last seen.
const PRECISION: Duration = Duration::from_hours(1);

/// What these events are worth together with what was seen before.
pub(super) async fn alarms(tx: &mut Tx, events: &[SeenEvent]) -> Result<Vec<Alarm>, Error> {
    let mut seen: BTreeMap<_, &SeenEvent> = BTreeMap::new();
    for event in events.iter().filter(|event| event.outcome == "allowed") {
        if let (Some(principal), Some(network)) = (event.principal_id, network::around(&event.source, 24, 64))
        {
            seen.insert((principal, network), event);
        }
    }
    let mut found = Vec::new();
    for ((principal, network), event) in seen {
        let known = alarms::networks(tx, principal).await?;
        let last = known.iter().find(|(other, _)| *other == network).map(|(_, last)| *last);
        if last.is_none_or(|last| last < before(event.at, PRECISION)) {
            alarms::remember_network(tx, principal, &network, event.at, MOST).await?;
        }
        let is_new = last.is_none_or(|last| last < before(event.at, REMEMBERED));
        if is_new && !known.is_empty() {
            let who = event.who();
            let summary =
                format!("{who} came from {network} for the first time in ninety days ({})", event.source);
            let alarm = Alarm::new(Rule::NewNetwork, format!("{who} from {network}"), summary);
            found.push(alarm.in_request(&event.request_id));
        }
    }
    Ok(found)
}

/// Networks seen last before this are new again.
pub(super) fn forget_before(now: Timestamp) -> Timestamp {
    before(now, REMEMBERED)
}
