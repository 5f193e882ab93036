//! Checkpoints and retention: what is kept, what is removed, and what remains to be checked afterwards.

use std::{fs, time::Duration};

use keydesk::app::{App, Report};
use keydesk::model::Action;

use crate::desk::{Desk, json, operator};

const DAY: Duration = Duration::from_hours(24);

async fn keeping(retention: Duration) -> Desk {
    Desk::open_with(|settings| settings.audit.retention = Some(retention)).await
}

async fn verify(app: &App) -> Report {
    app.verify_book(&operator(), &[], |_, _| {}).await.unwrap()
}

async fn write_events(desk: &Desk, count: usize) {
    for _ in 0..count {
        desk.app.record_lifecycle(&operator(), Action::ServerStart).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_old_is_removed_and_the_rest_stays_whole() {
    let desk = keeping(400 * DAY).await;
    write_events(&desk, 1_200).await;
    let before = desk.events().await.len();
    desk.app.prune_book().await.unwrap();
    assert_eq!(desk.events().await.len(), before, "nothing is old");

    desk.clock.advance(390 * DAY);
    write_events(&desk, 5).await;
    desk.app.keep_checkpoints(true).await.unwrap();
    desk.clock.advance(20 * DAY);
    desk.app.prune_book().await.unwrap();

    let left = desk.events().await;
    let actions: Vec<&str> = left.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(actions.iter().filter(|action| **action == "audit.prune").count(), 2, "a transaction each");
    assert_eq!(left.len(), 7, "{actions:?}");
    let removal = left.iter().find(|event| event.action == "audit.prune").unwrap();
    assert!(removal.detail.as_ref().unwrap().contains("events of"), "{removal:?}");
    let report = verify(&desk.app).await;
    assert!(report.whole, "{report:?}");
    assert_eq!(usize::try_from(report.pruned).unwrap(), before);

    // The chain goes on, and what was pruned once is not pruned again.
    desk.app.prune_book().await.unwrap();
    assert!(verify(&desk.app).await.whole);
    assert_eq!(desk.events().await.len(), 9, "two verifications");
}

#[tokio::test]
async fn without_a_checkpoint_in_the_file_nothing_is_removed() {
    let desk = Desk::open_with(|settings| {
        settings.audit.retention = Some(DAY);
        settings.audit.checkpoint_file.push("in/a/place/that/is/not/there");
    })
    .await;
    write_events(&desk, 3).await;
    desk.clock.advance(3 * DAY);
    let before = desk.events().await.len();
    desk.app.keep_checkpoints(true).await.unwrap();
    desk.app.prune_book().await.unwrap();
    assert_eq!(desk.events().await.len(), before);
    let ready = desk.get("/health/ready").send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert_eq!(json(ready).await["checks"]["checkpoints"], "failing");

    // The file's directory is made: everything is caught up with.
    let file = &desk.app.settings().audit.checkpoint_file;
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    desk.app.keep_checkpoints(false).await.unwrap();
    assert_eq!(json(desk.get("/health/ready").send().await.unwrap()).await["checks"]["checkpoints"], "ok");
    assert!(!fs::read_to_string(file).unwrap().is_empty());
    assert!(verify(&desk.app).await.whole);
}

#[tokio::test]
async fn a_checkpoint_comes_after_a_minute_or_a_thousand_events_and_never_without_news() {
    let desk = Desk::open().await;
    let file = desk.app.settings().audit.checkpoint_file.clone();
    let lines = || fs::read_to_string(&file).unwrap_or_default().lines().count();
    desk.app.keep_checkpoints(true).await.unwrap();
    let first = lines();
    desk.app.keep_checkpoints(true).await.unwrap();
    assert_eq!(lines(), first, "nothing has happened");
    write_events(&desk, 1).await;
    desk.app.keep_checkpoints(false).await.unwrap();
    assert_eq!(lines(), first, "not yet");
    desk.clock.advance(Duration::from_mins(1));
    desk.app.keep_checkpoints(false).await.unwrap();
    assert_eq!(lines(), first + 1);
    write_events(&desk, 999).await;
    desk.app.keep_checkpoints(false).await.unwrap();
    assert_eq!(lines(), first + 1, "999 are not a thousand");
    write_events(&desk, 1).await;
    desk.app.keep_checkpoints(false).await.unwrap();
    assert_eq!(lines(), first + 2);
    let report = verify(&desk.app).await;
    assert!(report.whole && report.checkpoint == Some(i64::try_from(first).unwrap() + 2), "{report:?}");
}

/// Runs SQL that the triggers would refuse, as somebody does who has the database.
async fn forge(desk: &Desk, sql: &str) {
    let mut forger = desk.forger().await;
    let rule = forger.unguard().await;
    forger.run(sql).await;
    forger.run(&rule).await;
}

#[tokio::test]
async fn what_was_made_to_look_old_is_not_removed_but_told_of() {
    for sql in [
        "update audit_events set at = 0 where seq <= 5",
        "update audit_events set at = 0, mac = null where seq <= 5",
        "update audit_events set at = 0; update audit_events set actor = 'mallory' where seq = 7",
        "update audit_events set at = 0; update audit_streams set anchored = 1000000",
        "update audit_events set mac = null, at = 0; update audit_streams set mac = null, seal = null",
        "insert into audit_prunings (stream, seq, jws) select stream, 3, 'x' from audit_events where seq = 3; \
         update audit_events set at = 0",
    ] {
        let desk = keeping(400 * DAY).await;
        write_events(&desk, 20).await;
        desk.app.keep_checkpoints(true).await.unwrap();
        forge(&desk, sql).await;
        let before = desk.events().await.len();
        desk.app.prune_book().await.unwrap();
        assert!(desk.events().await.len() >= before, "{sql}: something was removed");
        let alarms = desk.app.alarms(&operator(), 10).await.unwrap();
        assert_eq!(
            alarms.iter().map(|alarm| alarm.rule.as_str()).collect::<Vec<_>>(),
            ["forged_book"],
            "{sql}"
        );
        assert!(!verify(&desk.app).await.whole, "{sql}");
        desk.app.prune_book().await.unwrap();
        assert_eq!(desk.app.alarms(&operator(), 10).await.unwrap().len(), 1, "{sql}: told of once");
    }
}

#[tokio::test]
async fn one_stream_that_cannot_be_pruned_does_not_keep_the_others() {
    let desk = keeping(DAY).await;
    write_events(&desk, 1_100).await;
    desk.app.keep_checkpoints(true).await.unwrap();
    desk.clock.advance(3 * DAY);
    // A stream that nobody wrote, older than all others and longer than what is removed at a time.
    let insert = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 1100) \
                  insert into audit_events (id, stream, seq, at, action, outcome, actor, source, request_id) \
                  select randomblob(16), zeroblob(16), i, 0, 'x', 'allowed', 'mallory', 'local', 'r' from n";
    forge(&desk, insert).await;
    desk.app.prune_book().await.unwrap();
    let left = desk.events().await;
    assert!(left.iter().all(|event| event.action != "server.start"), "{}", left.len());
    assert_eq!(left.iter().filter(|event| event.actor == "mallory").count(), 1_100);
}

/// Makes of what was written so far what a version without a chain would have left.
const BEFORE_THE_CHAIN: &str = "update audit_events set mac = null, heads = null; \
    update audit_streams set mac = null, seal = null, carried = 0, anchored = seq; delete from audit_checkpoints";

#[tokio::test]
async fn what_is_older_than_the_chain_can_be_removed_and_the_rest_stays_whole() {
    for is_later in [false, true] {
        let desk = keeping(400 * DAY).await;
        forge(&desk, BEFORE_THE_CHAIN).await;
        if is_later {
            // The clock was wrong: the last of it seems to be younger than the chain.
            let update = "update audit_events set at = at + 86400000000 where seq = (select max(seq) from audit_events)";
            forge(&desk, update).await;
        }
        let old = desk.events().await.len();
        write_events(&desk, 5).await;
        desk.app.keep_checkpoints(true).await.unwrap();
        desk.clock.advance(400 * DAY + DAY / 2);
        desk.app.prune_book().await.unwrap();
        let left = desk.events().await;
        assert!(left.len() < old + 5 && left.iter().any(|event| event.action == "audit.prune"), "{left:?}");
        let chained = left.iter().filter(|event| event.action == "server.start").count();
        assert_eq!(
            chained,
            if is_later { 5 } else { 0 },
            "its first event is needed as long as old ones are there"
        );
        desk.clock.advance(DAY);
        desk.app.prune_book().await.unwrap();
        assert!(
            desk.events().await.iter().all(|event| event.mac.is_some() && event.action != "server.start")
        );
        assert_eq!(desk.app.alarms(&operator(), 10).await.unwrap().len(), 0);
        let report = verify(&desk.app).await;
        assert!(report.whole, "{report:?}");
    }
}

#[tokio::test]
async fn a_forgery_that_is_found_when_a_checkpoint_is_made_is_an_alarm() {
    let desk = Desk::open().await;
    write_events(&desk, 1).await;
    desk.app.keep_checkpoints(true).await.unwrap();
    assert_eq!(desk.app.alarms(&operator(), 10).await.unwrap().len(), 0);
    write_events(&desk, 1).await;
    forge(&desk, "update audit_streams set seal = zeroblob(32)").await;
    desk.app.keep_checkpoints(true).await.unwrap();
    let alarms = desk.app.alarms(&operator(), 10).await.unwrap();
    assert!(alarms.len() == 1 && alarms[0].rule == "forged_book", "{alarms:?}");
    assert!(alarms[0].summary.contains("its head was forged"), "{alarms:?}");

    desk.clock.advance(2 * DAY);
    fs::write(&desk.app.settings().audit.checkpoint_file, "").unwrap();
    write_events(&desk, 1).await;
    desk.app.keep_checkpoints(true).await.unwrap();
    let alarms = desk.app.alarms(&operator(), 10).await.unwrap();
    assert!(alarms.len() == 2 && alarms[0].rule == "forged_book", "{alarms:?}");
    assert!(alarms[0].summary.contains("does not end with"), "{alarms:?}");
}
