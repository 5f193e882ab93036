//! Alarms when many principals do something at once, or several processes look: the rules find what they would find if everybody
//! came alone.

use std::time::Duration;

use crate::{
    alarms::{raised, read_often, subjects, watch},
    asker::api_key,
    desk::{Desk, START},
    forger::Forger,
};

const HOUR: i64 = START / 3600;

/// Key reads of so many principals from one address, as another process would have written them: each reads so many times
/// in the same hour.
async fn reads_of_others(forger: &mut Forger, stream: u8, hour: i64, source: &str, who: i64, times: i64) {
    let (stream, begin, count) = (format!("unhex('{stream:032x}')"), hour * 3_600_000_000, who * times);
    let events = format!(
        "with recursive numbers (n) as (select 0 union all select n + 1 from numbers where n + 1 < {count}) \
        insert into audit_events (id, stream, seq, at, action, outcome, actor, principal_id, principal_kind, source, request_id) \
        select randomblob(16), {stream}, n + 1, {begin} + n, 'llm_keys.read', 'allowed', 'tool-' || (n % {who}), \
        unhex('00000000000000000000000000' || (100000 + n % {who})), 'service_account', '{source}', 'req-' || n from numbers; \
        insert into audit_streams (stream, seq) values ({stream}, {count})"
    );
    forger.run(&events).await;
}

async fn count(desk: &Desk, what: &'static str) -> i64 {
    desk.forger().await.number(what).await
}

#[tokio::test]
async fn what_thousands_do_at_once_is_found_for_each_of_them_and_once() {
    let desk = Desk::open().await;
    let mut first = watch(&desk).await;
    let mut forger = desk.forger().await;
    // More than are looked at in a piece, and than fit in a statement.
    reads_of_others(&mut forger, 1, HOUR - 1, "192.0.2.1", 2_100, 1).await;
    first.round().await;
    assert_eq!(count(&desk, "select count(*) from alarm_reads where reads = 1").await, 2_100);
    assert_eq!(count(&desk, "select count(*) from alarm_networks").await, 2_100);
    assert_eq!(count(&desk, "select count(*) from audit_streams where watched <> seq").await, 0);
    assert_eq!(raised(&desk, "new_network").await.len(), 0, "the first is no news");

    reads_of_others(&mut forger, 2, HOUR, "198.51.100.1", 300, 20).await;
    first.round().await;
    assert_eq!(raised(&desk, "unusual_key_reads").await.len(), 0, "twenty are never unusual");
    let mut networks = subjects(&desk, "new_network").await;
    networks.sort_unstable();
    let mut expected: Vec<_> =
        (0..300).map(|n| format!("service_account:tool-{n} from 198.51.100.0/24")).collect();
    expected.sort_unstable();
    assert_eq!(networks, expected);

    // Another process begins with nothing remembered, and looks at what comes next.
    let mut second = watch(&desk).await;
    reads_of_others(&mut forger, 3, HOUR, "198.51.100.2", 300, 1).await;
    second.round().await;
    first.round().await;
    let unusual = raised(&desk, "unusual_key_reads").await;
    assert_eq!(unusual.len(), 300);
    let told = unusual.iter().find(|alarm| alarm.subject == "service_account:tool-299").unwrap();
    let expected = "service_account:tool-299 read keys 21 times within an hour, and at most 1 in any before";
    assert_eq!(told.summary, expected);
    reads_of_others(&mut forger, 4, HOUR, "198.51.100.2", 300, 5).await;
    first.round().await;
    second.round().await;
    assert_eq!(raised(&desk, "unusual_key_reads").await.len(), 300, "once");
    assert_eq!(raised(&desk, "new_network").await.len(), 300, "once");
    assert_eq!(count(&desk, "select count(*) from alarm_reads where reads = 26").await, 300);
}

/// Nothing is remembered of a transaction that failed.
#[tokio::test]
async fn what_could_not_be_written_is_found_again() {
    let desk = Desk::open().await;
    let mut watch = watch(&desk).await;
    let mut forger = desk.forger().await;
    reads_of_others(&mut forger, 1, HOUR, "192.0.2.1", 2, 15).await;
    watch.round().await;
    forger.refuse("insert", "outbox", "not now").await;
    reads_of_others(&mut forger, 2, HOUR, "198.51.100.1", 2, 90).await;
    for _ in 0..2 {
        watch.round().await;
    }
    assert_eq!(count(&desk, "select count(*) from audit_streams where watched < seq").await, 1);
    forger.allow().await;
    watch.round().await;
    let each = ["service_account:tool-0", "service_account:tool-1"];
    assert_eq!(subjects(&desk, "unusual_key_reads").await, each);
    let from = |who: &str| format!("{who} from 198.51.100.0/24");
    assert_eq!(subjects(&desk, "new_network").await, each.map(from));
}

/// What another process has counted meanwhile is part of the past.
#[tokio::test]
async fn the_past_is_looked_up_again_before_somebody_is_told() {
    let desk = Desk::furnished().await;
    let key = api_key(&desk, "alice", "llm-keys:read").await;
    let mut watch = watch(&desk).await;
    let read = async |times| read_often(&desk, &key, times).await;
    read(1).await;
    watch.round().await;
    desk.clock.advance(Duration::from_hours(1));
    read(15).await;
    watch.round().await;
    let more = "update alarm_reads set reads = 7 where reads = 1";
    desk.forger().await.run(more).await;
    for (times, alarms) in [(6, 0), (14, 0), (1, 1), (10, 1)] {
        read(times).await;
        watch.round().await;
        assert_eq!(raised(&desk, "unusual_key_reads").await.len(), alarms, "five times seven");
    }
}

/// Of a principal fifty networks are remembered: of those that were seen last at the same time, the first by name.
#[tokio::test]
async fn a_network_that_was_forgotten_is_news_again() {
    let desk = Desk::open().await;
    let mut watch = watch(&desk).await;
    let mut forger = desk.forger().await;
    for n in 0..=51 {
        reads_of_others(&mut forger, n, HOUR, &format!("10.0.{n}.1"), 1, 1).await;
    }
    watch.round().await;
    assert_eq!(count(&desk, "select count(*) from alarm_networks").await, 50);
    assert_eq!(raised(&desk, "new_network").await.len(), 51);
    desk.clock.advance(Duration::from_hours(2));
    for (stream, source, alarms) in [(60, "10.0.7.9", 51), (61, "10.0.9.9", 52)] {
        reads_of_others(&mut forger, stream, HOUR, source, 1, 1).await;
        watch.round().await;
        assert_eq!(raised(&desk, "new_network").await.len(), alarms, "{source}");
    }
}
