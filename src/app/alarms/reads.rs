//! An unusual number of key reads, against the principal's own past: more in an hour than five times its busiest hour of the
//! last fourteen days, and more than twenty. Who has no past yet is given a hundred.

use std::collections::BTreeMap;

use crate::{
    app::Error,
    model::{Alarm, Id, Rule, Timestamp},
    store::{
        Tx,
        alarms::{self, SeenReads},
    },
};

const TIMES: i64 = 5;
const FEWEST: i64 = 20;
const WITHOUT_PAST: i64 = 100;
/// Fourteen days.
const PAST: i64 = 14 * 24;

/// What these reads are worth together with those before.
pub(super) async fn alarms(tx: &mut Tx, groups: &[SeenReads]) -> Result<Vec<Alarm>, Error> {
    let mut counted: BTreeMap<(Id, i64), (i64, &SeenReads)> = BTreeMap::new();
    for group in groups {
        counted.entry((group.principal_id, group.hour)).or_insert((0, group)).0 += group.reads;
    }
    let mut found = Vec::new();
    for ((principal, hour), (new, group)) in counted {
        let reads = alarms::add_reads(tx, principal, hour, new).await?;
        if reads <= FEWEST {
            continue;
        }
        let most = alarms::most_reads(tx, principal, hour - PAST, hour).await?;
        let limit = most.map_or(WITHOUT_PAST, |most| FEWEST.max(most.saturating_mul(TIMES)));
        // Only when the limit is crossed: the window alone would tell it again in the middle of the next hour.
        if reads > limit && reads - new <= limit {
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
