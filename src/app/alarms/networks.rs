//! A principal seen from a new network: its first success from a /24 (IPv4) or /64 (IPv6) from which it has not come in the
//! last ninety days. The very first network of a principal is no news.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    app::Error,
    model::{Alarm, Rule, Timestamp, network},
    store::{
        Tx,
        alarms::{self, SeenEvent, SeenReads},
    },
};

const REMEMBERED: Duration = Duration::from_hours(90 * 24);
/// How many networks of a principal are remembered.
const MOST: i64 = 50;
/// How precisely it is remembered when a network was last seen.
const PRECISION: Duration = Duration::from_hours(1);

/// A success of a principal, as far as this rule looks at it.
struct Seen<'e> {
    who: String,
    source: &'e str,
    at: Timestamp,
    request_id: &'e str,
}

/// What these events are worth together with what was seen before.
pub(super) async fn alarms(
    tx: &mut Tx,
    events: &[SeenEvent],
    reads: &[SeenReads],
) -> Result<Vec<Alarm>, Error> {
    let events = events.iter().filter(|event| event.outcome == "allowed").filter_map(|event| {
        let SeenEvent { source, at, request_id, .. } = event;
        Some((event.principal_id?, Seen { who: event.who(), source, at: *at, request_id }))
    });
    let reads = reads.iter().map(|group| {
        let SeenReads { source, at, request_id, .. } = group;
        (group.principal_id, Seen { who: group.who.clone(), source, at: *at, request_id })
    });
    let mut seen: BTreeMap<_, Seen<'_>> = BTreeMap::new();
    for (principal, success) in events.chain(reads) {
        let at = success.at;
        if let Some(network) = network::around(success.source, 24, 64) {
            let first = seen.entry((principal, network)).or_insert(success);
            first.at = first.at.min(at);
        }
    }
    // In the order in which they came, or the first network of all could not be told.
    let mut seen: Vec<_> = seen.into_iter().collect();
    seen.sort_by_key(|(_, success)| success.at);
    let mut found = Vec::new();
    for ((principal, network), Seen { who, source, at, request_id }) in seen {
        let known = alarms::networks(tx, principal).await?;
        let last = known.iter().find(|(other, _)| *other == network).map(|(_, last)| *last);
        if last.is_none_or(|last| last < at.minus(PRECISION)) {
            alarms::remember_network(tx, principal, &network, at, MOST).await?;
        }
        let is_new = last.is_none_or(|last| last < at.minus(REMEMBERED));
        if is_new && !known.is_empty() {
            let summary = format!("{who} came from {network} for the first time in ninety days ({source})");
            let alarm = Alarm::new(Rule::NewNetwork, format!("{who} from {network}"), summary);
            found.push(alarm.in_request(request_id));
        }
    }
    Ok(found)
}

/// Networks seen last before this are new again.
pub(super) fn forget_before(now: Timestamp) -> Timestamp {
    now.minus(REMEMBERED)
}
