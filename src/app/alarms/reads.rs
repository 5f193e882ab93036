//! An unusual number of key reads, against the principal's own past: more in an hour than five times its busiest hour of the
//! last fourteen days, and more than twenty. Who has no past yet is given a hundred.

use std::collections::{BTreeMap, HashMap};

use super::memory::{Memory, make_room};
use crate::{
    app::Error,
    model::{Alarm, Id, Rule, Timestamp},
    store::{
        Connection, Tx,
        alarms::{self, SeenReads},
    },
};

const TIMES: i64 = 5;
const FEWEST: i64 = 20;
const WITHOUT_PAST: i64 = 100;
/// Fourteen days.
const PAST: i64 = 14 * 24;

/// So many reads in an hour are usual after an hour with `most`.
fn limit(most: Option<i64>) -> i64 {
    most.map_or(WITHOUT_PAST, |most| FEWEST.max(most.saturating_mul(TIMES)))
}

/// Looks up the past of those who have read, as far as it is not remembered: once an hour for each.
pub(super) async fn look_back(
    db: &mut Connection,
    groups: &[SeenReads],
    memory: &mut Memory,
) -> Result<(), Error> {
    let first = groups.iter().map(|group| group.hour).min();
    memory.busiest.retain(|(_, hour), _| first.is_none_or(|first| *hour >= first));
    // Before and not in between: what is looked up here is needed for this piece.
    make_room(&mut memory.busiest, groups.len());
    let mut unknown: Vec<_> = groups.iter().map(|group| (group.principal_id, group.hour)).collect();
    unknown.retain(|hour| !memory.busiest.contains_key(hour));
    unknown.sort_unstable();
    unknown.dedup();
    for (principal, hour, most) in alarms::most_reads(db, unknown, PAST).await? {
        memory.busiest.insert((principal, hour), most);
    }
    Ok(())
}

/// What these reads are worth together with those before.
pub(super) async fn alarms(
    tx: &mut Tx,
    groups: &[SeenReads],
    memory: &mut Memory,
) -> Result<Vec<Alarm>, Error> {
    let mut counted: BTreeMap<(Id, i64), (i64, &SeenReads)> = BTreeMap::new();
    for group in groups {
        counted.entry((group.principal_id, group.hour)).or_insert((0, group)).0 += group.reads;
    }
    let new = counted.iter().map(|((principal, hour), (new, _))| (*principal, *hour, *new)).collect();
    let mut crossing = Vec::new();
    for (principal, hour, reads) in alarms::add_reads(tx, new).await? {
        let Some((new, group)) = counted.get(&(principal, hour)) else { continue };
        // Only when the limit is crossed: the window alone would tell it again in the middle of the next hour.
        let crosses = move |limit: i64| reads > limit && reads - new <= limit;
        let may_cross = match memory.busiest.get(&(principal, hour)) {
            // The past only grows: this may be less than it is by now, and never more.
            Some(most) => crosses(limit(Some(*most))),
            None => crosses(FEWEST) || crosses(WITHOUT_PAST),
        };
        if may_cross {
            crossing.push(((principal, hour), reads, group, crosses));
        }
    }
    let asked = crossing.iter().map(|(hour, ..)| *hour).collect();
    let past = alarms::most_reads(tx, asked, PAST).await?;
    let past: HashMap<_, _> =
        past.into_iter().map(|(principal, hour, most)| ((principal, hour), most)).collect();
    let mut found = Vec::new();
    for (hour, reads, group, crosses) in crossing {
        // What this transaction sees may never come to be: it is looked up again.
        memory.busiest.remove(&hour);
        let most = past.get(&hour).copied();
        if crosses(limit(most)) {
            let who = &group.who;
            let past = most
                .map_or("no past to compare with".to_owned(), |most| format!("at most {most} in any before"));
            let summary = format!("{who} read keys {reads} times within an hour, and {past}");
            found.push(Alarm::new(Rule::UnusualKeyReads, who, summary).in_request(&group.request_id));
        }
    }
    Ok(found)
}

/// Hours before this one are not looked at.
pub(super) fn forget_before(now: Timestamp) -> i64 {
    now.seconds().div_euclid(3600) - PAST
}
