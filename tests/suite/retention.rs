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
