//! Alarms: what raises one, how often, and what becomes of its message.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use keydesk::{
    app::{
        alarms::{RaisedAlarm, Watch},
        outbox::Destination,
    },
    model::{Action, Role, Timestamp},
    store::audit_events::Filter,
};
use serde_json::Value;

use crate::{
    asker::{Asker, api_key},
    desk::{Desk, PASSWORD, json, operator},
    engine,
};

const WRONG: &str = "not the password at all";

/// A watch that has seen what there is already.
pub(crate) async fn watch(desk: &Desk) -> Watch {
    let mut watch = Watch::new(Arc::clone(&desk.app));
    watch.round().await;
    watch
}

/// The alarms of a rule, oldest first.
pub(crate) async fn raised(desk: &Desk, rule: &str) -> Vec<RaisedAlarm> {
    let mut found = desk.app.alarms(&operator(), 1000).await.unwrap();
    found.retain(|alarm| alarm.rule == rule);
    found.reverse();
    found
}

pub(crate) async fn subjects(desk: &Desk, rule: &str) -> Vec<String> {
    raised(desk, rule).await.into_iter().map(|alarm| alarm.subject).collect()
}

/// A login attempt from an address of this machine.
async fn login_from(desk: &Desk, source: &str, user: &str, password: &str) -> reqwest::Response {
    let client = reqwest::Client::builder().local_address(Some(source.parse().unwrap())).build().unwrap();
    let form = [("grant_type", "password"), ("username", user), ("password", password)];
    client.post(format!("{}/token", desk.url)).form(&form).send().await.unwrap()
}

/// Reads keys so many times.
pub(crate) async fn read_often(desk: &Desk, key: &str, times: usize) {
    for _ in 0..times {
        assert_eq!(desk.get("/llm-keys").bearer_auth(key).send().await.unwrap().status(), 200);
    }
}

async fn read_from(desk: &Desk, source: &str, key: &str) -> u16 {
    let client = reqwest::Client::builder().local_address(Some(source.parse().unwrap())).build().unwrap();
    let request = client.get(format!("{}/llm-keys", desk.url)).bearer_auth(key);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn many_users_from_one_source_are_one_alarm_per_hour_across_a_restart() {
    let desk = Desk::open().await;
    let mut first = watch(&desk).await;
    for i in 0..9 {
        login_from(&desk, "127.0.0.9", &format!("user{i}"), WRONG).await;
    }
    first.round().await;
    assert_eq!(raised(&desk, "password_spraying").await.len(), 0, "nine are people who mistype");
    for i in 9..14 {
        login_from(&desk, "127.0.0.9", &format!("user{i}"), WRONG).await;
        first.round().await;
    }
    assert_eq!(subjects(&desk, "password_spraying").await, ["source:127.0.0.9"]);
    let mut second = watch(&desk).await;
    login_from(&desk, "127.0.0.9", "one-more", WRONG).await;
    second.round().await;
    assert_eq!(raised(&desk, "password_spraying").await.len(), 1, "told within the hour");
    desk.clock.advance(Duration::from_mins(61));
    for i in 20..30 {
        login_from(&desk, "127.0.0.9", &format!("user{i}"), WRONG).await;
    }
    second.round().await;
    assert_eq!(raised(&desk, "password_spraying").await.len(), 2, "an hour later it is news again");
}

#[tokio::test]
async fn one_user_from_many_sources_is_an_alarm() {
    let desk = Desk::open().await;
    let mut watch = watch(&desk).await;
    for i in 1..=10 {
        login_from(&desk, &format!("127.8.0.{i}"), "admin", WRONG).await;
    }
    watch.round().await;
    assert_eq!(subjects(&desk, "password_spraying").await, ["user:admin"]);
}

#[tokio::test]
async fn a_spent_refresh_token_that_comes_back_is_an_alarm_that_says_where_to_look() {
    let desk = Desk::open().await;
    let mut watch = watch(&desk).await;
    let first = desk.tokens_of("admin", PASSWORD, "llm-keys:read").await;
    let spent = first["refresh_token"].as_str().unwrap();
    let exchange = [("grant_type", "refresh_token"), ("refresh_token", spent)];
    assert_eq!(desk.token_request(&exchange).await.status(), 200);
    desk.clock.advance(Duration::from_secs(11));
    let response = desk.token_request(&exchange).await;
    let request_id = crate::desk::header(&response, "x-request-id").to_owned();
    watch.round().await;
    assert_eq!(subjects(&desk, "refresh_token_reuse").await, ["user:admin"]);
    let events = desk.events_of(&request_id).await;
    let told = events.iter().find(|event| event.action == "alarm.raise").unwrap();
    assert_eq!((told.actor.as_str(), told.object.as_deref()), ("keydesk", Some("alarm:refresh_token_reuse")));
    assert!(told.detail.as_deref().unwrap().contains("came back from 127.0.0.1"), "{told:?}");
}

#[tokio::test]
async fn a_new_network_is_news_and_the_first_one_is_not() {
    let desk = Desk::furnished().await;
    let key = api_key(&desk, "alice", "llm-keys:read").await;
    let mut watch = watch(&desk).await;
    for (source, alarms) in
        [("127.0.0.1", 0), ("127.0.0.77", 0), ("127.0.5.1", 1), ("127.0.5.2", 1), ("127.0.0.1", 1)]
    {
        read_from(&desk, source, &key).await;
        watch.round().await;
        assert_eq!(raised(&desk, "new_network").await.len(), alarms, "{source}");
    }
    assert_eq!(subjects(&desk, "new_network").await, ["user:alice from 127.0.5.0/24"]);
    desk.clock.advance(Duration::from_hours(91 * 24));
    read_from(&desk, "127.0.0.1", &key).await;
    watch.round().await;
    assert_eq!(raised(&desk, "new_network").await.len(), 2, "after ninety days it is new again");
}

#[tokio::test]
async fn key_reads_are_compared_with_the_principal_s_own_past() {
    let desk = Desk::furnished().await;
    let key = api_key(&desk, "alice", "llm-keys:read").await;
    let mut watch = watch(&desk).await;
    let read = async |times| read_often(&desk, &key, times).await;
    read(30).await;
    watch.round().await;
    assert_eq!(raised(&desk, "unusual_key_reads").await.len(), 0, "who has no past is given a hundred");
    desk.clock.advance(Duration::from_hours(1));
    read(150).await;
    watch.round().await;
    assert_eq!(raised(&desk, "unusual_key_reads").await.len(), 0, "five times thirty");
    read(1).await;
    watch.round().await;
    assert_eq!(subjects(&desk, "unusual_key_reads").await, ["user:alice"]);
    desk.clock.advance(Duration::from_hours(15 * 24));
    read(101).await;
    watch.round().await;
    assert_eq!(raised(&desk, "unusual_key_reads").await.len(), 2, "the past is forgotten after a fortnight");
}

#[tokio::test]
async fn who_tries_to_administer_and_may_not_is_told_of() {
    let desk = Desk::furnished().await;
    let mut watch = watch(&desk).await;
    let alice = Asker::new(&desk, desk.login("alice").await);
    assert_eq!(alice.get("/llm-keys?project=research").await.0, 403, "no grant: that is not administration");
    watch.round().await;
    assert_eq!(raised(&desk, "denied_administration").await.len(), 0);
    assert_eq!(alice.get("/admin/users").await.0, 403);
    assert_eq!(alice.get("/admin/audit-events").await.0, 403);
    watch.round().await;
    assert_eq!(subjects(&desk, "denied_administration").await, ["user:alice"]);
}

#[tokio::test]
async fn a_sealed_key_that_was_changed_is_told_of() {
    let desk = Desk::furnished().await;
    desk.set_key("default", "openai", "sk-proj-CANARY0123456789").await;
    let mut watch = watch(&desk).await;
    let update = "update provider_key_versions set sealed = zeroblob(80)";
    desk.forger().await.run(update).await;
    let key = api_key(&desk, "alice", "llm-keys:read").await;
    assert_eq!(desk.get("/llm-keys").bearer_auth(&key).send().await.unwrap().status(), 500);
    watch.round().await;
    assert_eq!(subjects(&desk, "broken_seal").await, ["project:default"]);
}

#[tokio::test]
async fn a_book_that_was_changed_is_told_of_when_it_is_verified() {
    let desk = Desk::furnished().await;
    let mut watch = watch(&desk).await;
    desk.app.verify_book(&operator(), &[], |_, _| {}).await.unwrap();
    watch.round().await;
    assert_eq!(raised(&desk, "forged_book").await.len(), 0);
    let forge =
        "update audit_events set actor = 'nobody' where action = 'user.create' and object = 'user:alice'";
    let mut forger = desk.forger().await;
    forger.unguard().await;
    forger.run(forge).await;
    desk.app.verify_book(&operator(), &[], |_, _| {}).await.unwrap();
    watch.round().await;
    let alarms = raised(&desk, "forged_book").await;
    assert!(alarms.len() == 1 && alarms[0].severity == "critical", "{alarms:?}");
}

/// Who can write the database cannot blind the rules with a row that they cannot read.
#[tokio::test]
async fn a_malformed_event_is_told_of_and_what_comes_behind_it_is_read() {
    let desk = Desk::furnished().await;
    let mut watch = watch(&desk).await;
    let alice = Asker::new(&desk, desk.login("alice").await);
    let key = api_key(&desk, "alice", "llm-keys:read").await;
    assert_eq!(desk.get("/llm-keys").bearer_auth(&key).send().await.unwrap().status(), 200);
    let forge = "update audit_events set principal_id = unhex('0102030405') where principal_id is not null";
    let mut forger = desk.forger().await;
    forger.unguard().await;
    forger.run(forge).await;
    assert_eq!(alice.get("/admin/users").await.0, 403);
    watch.round().await;
    assert_eq!(subjects(&desk, "forged_book").await, ["an event"]);
    assert_eq!(subjects(&desk, "denied_administration").await, ["user:alice"]);
    watch.round().await;
    assert_eq!(raised(&desk, "forged_book").await.len(), 1, "once");
}

#[tokio::test]
async fn rules_that_were_made_to_pass_over_the_book_are_set_back_and_that_is_told_of() {
    let desk = Desk::furnished().await;
    let alice = Asker::new(&desk, desk.login("alice").await);
    let forge = "update audit_streams set watched = 9000000000000000000, anchored = 9000000000000000000";
    desk.forger().await.run(forge).await;
    let mut watch = watch(&desk).await;
    assert_eq!(subjects(&desk, "forged_book").await, ["places"]);
    assert_eq!(alice.get("/admin/users").await.0, 403);
    watch.round().await;
    assert_eq!(subjects(&desk, "denied_administration").await, ["user:alice"]);
    let ahead = "select count(*) from audit_streams where watched > seq or anchored > seq";
    assert_eq!(desk.forger().await.number(ahead).await, 0);
}

#[tokio::test]
async fn what_is_about_to_expire_is_told_of_once_a_day() {
    let desk = Desk::furnished().await;
    let set = serde_json::json!({"key": "sk-proj-CANARY0123456789", "expires_in": 13 * 86_400});
    let admin = Asker::admin(&desk).await;
    assert_eq!(admin.ask("PUT", "/admin/projects/research/keys/openai", set).await.0, 200);
    for _ in 0..3 {
        watch(&desk).await;
    }
    let alarms = raised(&desk, "provider_key_expiry").await;
    assert_eq!(alarms.len(), 1);
    assert_eq!(alarms[0].subject, "provider_key:research/openai");
    assert!(alarms[0].summary.contains("expires in 13 days"), "{}", alarms[0].summary);
    desk.clock.advance(Duration::from_hours(24));
    watch(&desk).await;
    assert_eq!(raised(&desk, "provider_key_expiry").await.len(), 2);
}

#[tokio::test]
async fn a_certificate_is_told_of_before_it_expires_and_when_its_successor_is_of_no_use() {
    let desk = Desk::open().await;
    let days = |days: i64| Timestamp::from_micros((crate::desk::START + days * 86_400) * 1_000_000);
    desk.app.serve_with_certificate_until(days(15));
    let mut first = watch(&desk).await;
    assert_eq!(raised(&desk, "certificate_expiry").await.len(), 0);
    desk.app.serve_with_certificate_until(days(10));
    watch(&desk).await;
    let alarms = raised(&desk, "certificate_expiry").await;
    assert!(alarms.len() == 1 && alarms[0].summary.contains("expires in 10 days"), "{alarms:?}");
    desk.app.refuse_certificate();
    first.round().await;
    first.round().await;
    assert_eq!(subjects(&desk, "certificate_refused").await, ["certificate"]);
}

#[tokio::test]
async fn a_signing_key_that_does_not_open_any_more_is_told_of() {
    let desk = Desk::open().await;
    let update = "update signing_keys set sealed = zeroblob(120)";
    desk.forger().await.run(update).await;
    watch(&desk).await;
    assert_eq!(subjects(&desk, "broken_seal").await, ["signing_keys"]);
}

#[tokio::test]
async fn a_clock_that_was_set_is_told_of() {
    let desk = Desk::open().await;
    let mut watch = watch(&desk).await;
    desk.clock.advance(Duration::from_mins(4));
    watch.round().await;
    assert_eq!(raised(&desk, "clock_jump").await.len(), 0);
    desk.clock.advance(Duration::from_mins(6));
    watch.round().await;
    let alarms = raised(&desk, "clock_jump").await;
    assert!(alarms.len() == 1 && alarms[0].summary.contains("went forward by 6 minutes"), "{alarms:?}");
}

/// Ten attempts over sixteen hours, then an event.
#[tokio::test]
async fn a_message_is_tried_ten_times_at_growing_intervals_and_then_given_up() {
    let desk = Desk::open_with(|settings| settings.destinations = vec![Destination::Alarms]).await;
    desk.app.raise_test_alarm(&operator()).await.unwrap();
    let mut ids = Vec::new();
    for wait in [0, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 28800] {
        if wait > 0 {
            desk.clock.advance(Duration::from_secs(wait - 1));
            assert_eq!(desk.app.take_due(Destination::Alarms).await.len(), 0, "before {wait} s have passed");
            desk.clock.advance(Duration::from_secs(1));
        }
        let due = desk.app.take_due(Destination::Alarms).await;
        assert_eq!(due.len(), 1, "after {wait} s");
        assert_eq!(
            desk.app.take_due(Destination::Alarms).await.len(),
            0,
            "an attempt is counted before it is made"
        );
        ids.push(due[0].id);
        desk.app.record_delivery(&due[0], Err("the receiver answered 500".to_owned())).await.unwrap();
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "the same message every time");
    desk.clock.advance(Duration::from_hours(24));
    assert_eq!(desk.app.take_due(Destination::Alarms).await.len(), 0);
    let alarm = &raised(&desk, "test").await[0];
    assert_eq!((alarm.state.as_str(), alarm.attempts), ("given_up", 10));
    let filter = Filter { action: Some(Action::WebhookGiveUp.as_str().to_owned()), ..Filter::default() };
    let events =
        desk.app.audit_events(&operator(), filter, &keydesk::model::Page::all()).await.unwrap().items;
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].object.as_deref(), events[0].reason.as_deref()),
        (Some("alarm:test"), Some("the receiver answered 500"))
    );
}

/// Each checkpoint tells of what was written since the one before, so that none takes another's place.
#[tokio::test]
async fn every_checkpoint_is_tried_ten_times_and_one_that_does_not_arrive_is_told_of() {
    let desk = Desk::open_with(|settings| settings.destinations = vec![Destination::Checkpoints]).await;
    desk.app.keep_checkpoints(true).await.unwrap();
    desk.add_user("alice", Role::Member, &[]).await;
    desk.app.keep_checkpoints(true).await.unwrap();
    let mut tried: BTreeMap<String, usize> = BTreeMap::new();
    let mut first = Vec::new();
    for wait in [0, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 28800] {
        desk.clock.advance(Duration::from_secs(wait));
        for message in desk.app.take_due(Destination::Checkpoints).await {
            *tried.entry(message.id.to_string()).or_default() += 1;
            let refused = Err("the receiver answered 500".to_owned());
            desk.app.record_delivery(&message, refused).await.unwrap();
        }
        if wait == 0 {
            first = tried.keys().cloned().collect();
        }
        let is_told = subjects(&desk, "checkpoint_failure").await.contains(&"checkpoint_webhook".to_owned());
        assert_eq!(is_told, wait >= 300, "after {wait} s more");
        desk.add_user(&format!("after-{wait}"), Role::Member, &[]).await;
        desk.app.keep_checkpoints(true).await.unwrap();
    }
    assert!(first.len() >= 2, "{tried:?}");
    assert!(first.iter().all(|id| tried[id] == 10), "{tried:?}");
    let filter = Filter { action: Some(Action::WebhookGiveUp.as_str().to_owned()), ..Filter::default() };
    let events =
        desk.app.audit_events(&operator(), filter, &keydesk::model::Page::all()).await.unwrap().items;
    assert_eq!(events.len(), first.len());
    assert!(events.iter().all(|event| event.object.as_deref() == Some("checkpoints")), "{events:?}");
}

#[tokio::test]
async fn a_message_that_was_delivered_is_not_sent_again() {
    let desk = Desk::open_with(|settings| settings.destinations = vec![Destination::Alarms]).await;
    desk.app.raise_test_alarm(&operator()).await.unwrap();
    let due = desk.app.take_due(Destination::Alarms).await;
    let body: Value = serde_json::from_str(&due[0].body).unwrap();
    assert_eq!((&body["type"], &body["data"]["rule"]), (&"alarm.raised".into(), &"test".into()));
    desk.app.record_delivery(&due[0], Ok("204 No Content".to_owned())).await.unwrap();
    desk.clock.advance(Duration::from_hours(24));
    assert_eq!(desk.app.take_due(Destination::Alarms).await.len(), 0);
    let alarm = &raised(&desk, "test").await[0];
    assert_eq!((alarm.state.as_str(), alarm.answer.as_deref()), ("delivered", Some("204 No Content")));
}

#[tokio::test]
async fn a_clock_that_is_set_back_makes_no_message_wait_longer() {
    let desk = Desk::open_with(|settings| settings.destinations = vec![Destination::Alarms]).await;
    desk.clock.advance(Duration::from_hours(48));
    desk.app.raise_test_alarm(&operator()).await.unwrap();
    desk.clock.set_back(Duration::from_hours(48));
    assert_eq!(desk.app.take_due(Destination::Alarms).await.len(), 1);
}

#[tokio::test]
async fn without_a_webhook_alarms_are_in_the_book_and_nothing_is_due() {
    let desk = Desk::open().await;
    desk.app.raise_test_alarm(&operator()).await.unwrap();
    assert_eq!(desk.app.take_due(Destination::Alarms).await.len(), 0);
    assert_eq!(raised(&desk, "test").await[0].state, "kept");
    desk.add_user("alice", Role::Member, &[]).await;
}

/// What has happened before this version came is the past.
#[tokio::test]
async fn an_upgrade_raises_no_alarm_about_what_was_in_the_book() {
    let desk = Desk::furnished().await;
    let alice = Asker::new(&desk, desk.login("alice").await);
    assert_eq!(alice.get("/admin/users").await.0, 403);
    let migration = match engine::server() {
        None => include_str!("../../migrations/sqlite/0005_alarms.sql"),
        // The tables are the program's own.
        Some(_) => concat!("set role keydesk;", include_str!("../../migrations/postgres/0005_alarms.sql")),
    };
    let undo = "drop table outbox; drop index audit_streams_to_watch; alter table audit_streams drop column watched; drop table alarm_marks; drop table alarm_networks; \
                drop table alarm_reads;";
    desk.forger().await.run(&format!("{undo}{migration}")).await;
    let mut watch = watch(&desk).await;
    assert_eq!(raised(&desk, "denied_administration").await.len(), 0);
    assert_eq!(alice.get("/admin/users").await.0, 403);
    watch.round().await;
    assert_eq!(raised(&desk, "denied_administration").await.len(), 1, "but what happens now is news");
    let answer = json(desk.get("/health").send().await.unwrap()).await;
    assert_eq!(answer["status"], "healthy");
}
