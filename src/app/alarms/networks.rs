//! A principal seen from a new network: its first success from a /24 (IPv4) or /64 (IPv6) from which it has not come in the
//! last ninety days. The very first network of a principal is no news.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::memory::{Memory, make_room};
use crate::{
    app::Error,
    model::{Alarm, Id, Rule, Timestamp, network},
    store::{
        Tx,
        alarms::{self, SeenEvent, SeenReads},
    },
};

const REMEMBERED: Duration = Duration::from_hours(90 * 24);
/// How many networks of a principal are remembered.
const MOST: u8 = 50;
/// How precisely it is remembered when a network was last seen.
const PRECISION: Duration = Duration::from_hours(1);

/// A success of a principal, as far as this rule looks at it.
struct Seen<'e> {
    who: String,
    source: &'e str,
    at: Timestamp,
    request_id: &'e str,
}

/// What the rule has found.
pub(super) struct Found {
    pub(super) alarms: Vec<Alarm>,
    /// What can be remembered once it is in the database.
    seen: Vec<(Id, String, Timestamp)>,
}

impl Found {
    /// Remembers it.
    pub(super) fn remember(self, memory: &mut Memory) {
        make_room(&mut memory.seen, self.seen.len());
        memory.seen.extend(self.seen.into_iter().map(|(principal, network, at)| ((principal, network), at)));
    }
}

/// What these events are worth together with what was seen before.
pub(super) async fn alarms(
    tx: &mut Tx,
    events: &[SeenEvent],
    reads: &[SeenReads],
    memory: &mut Memory,
) -> Result<Found, Error> {
    let news: Vec<_> = successes(events, reads)
        .into_iter()
        .filter(|(place, success)| memory.seen.get(place).is_none_or(|last| is_long_ago(*last, success.at)))
        .collect();
    // Within the transaction, because other processes judge other streams: which network of a principal is the first, only one
    // of them can say.
    let principals: BTreeSet<_> = news.iter().map(|((principal, _), _)| *principal).collect();
    let mut known: BTreeMap<Id, BTreeMap<String, Timestamp>> = BTreeMap::new();
    for (principal, network, at) in alarms::networks(tx, principals.into_iter().collect()).await? {
        known.entry(principal).or_default().insert(network, at);
    }
    let (mut found, mut new, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for ((principal, network), Seen { who, source, at, request_id }) in news {
        let known = known.entry(principal).or_default();
        let last = known.get(&network).copied();
        if last.is_none_or(|last| last < at.minus(REMEMBERED)) && !known.is_empty() {
            let summary = format!("{who} came from {network} for the first time in ninety days ({source})");
            let alarm = Alarm::new(Rule::NewNetwork, format!("{who} from {network}"), summary);
            found.push(alarm.in_request(request_id));
        }
        if let Some(last) = last.filter(|last| !is_long_ago(*last, at)) {
            seen.push((principal, network, last));
        } else {
            known.insert(network.clone(), at);
            new.push((principal, network, at));
        }
    }
    alarms::remember_networks(tx, new.clone()).await?;
    seen.append(&mut new);
    for (principal, known) in known.into_iter().filter(|(_, known)| known.len() > usize::from(MOST)) {
        alarms::forget_networks(tx, principal, MOST.into()).await?;
        // The database says which are left.
        seen.retain(|(other, ..)| *other != principal);
        for network in known.into_keys() {
            memory.seen.remove(&(principal, network));
        }
    }
    Ok(Found { alarms: found, seen })
}

/// Who was seen where, and the first success there, in the order in which they came: or the first network of all could not be
/// told.
fn successes<'e>(events: &'e [SeenEvent], reads: &'e [SeenReads]) -> Vec<((Id, String), Seen<'e>)> {
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
    let mut seen: Vec<_> = seen.into_iter().collect();
    seen.sort_by_key(|(_, success)| success.at);
    seen
}

/// Whether what was seen then has to be noted again.
fn is_long_ago(last: Timestamp, at: Timestamp) -> bool {
    last < at.minus(PRECISION)
}

/// Networks seen last before this are new again.
pub(super) fn forget_before(now: Timestamp) -> Timestamp {
    now.minus(REMEMBERED)
}
