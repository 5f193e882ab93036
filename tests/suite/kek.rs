//! Several processes wrap data keys by another key-encryption key at once.

use std::{fs, os::unix::fs::PermissionsExt as _};

use keydesk::app::{App, kek::Files};

use crate::desk::{Desk, operator};

/// How many data keys are wrapped by the current key, by the previous one, and by another, as far as the process knows.
async fn seen_by(app: &App) -> [String; 3] {
    let page = app.metrics_page().await;
    ["current", "previous", "other"].map(|kek| {
        let line = format!("keydesk_data_keys{{kek=\"{kek}\"}} ");
        page.lines().find_map(|found| found.strip_prefix(&line)).unwrap().to_owned()
    })
}

#[tokio::test]
async fn each_data_key_is_wrapped_once() {
    let desk = Desk::open_still(|_| {}).await;
    assert_eq!(seen_by(&desk.app).await, ["2", "0", "0"]);
    let kek = &desk.location.kek.current;
    fs::rename(kek, Files::usual_previous(kek)).unwrap();
    fs::write(kek, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n").unwrap();
    fs::set_permissions(kek, fs::Permissions::from_mode(0o600)).unwrap();
    let (one, other, caller) = (desk.open_again(1).await, desk.open_again(2).await, operator());
    assert_eq!(seen_by(&one).await, ["0", "2", "0"]);
    let (by_one, by_other) = tokio::join!(one.rewrap_data_keys(&caller), other.rewrap_data_keys(&caller));
    assert_eq!(by_one.unwrap() + by_other.unwrap(), 2);
    let events = desk.events().await;
    assert_eq!(events.iter().filter(|event| event.action == "data_key.rewrap").count(), 2);
    assert_eq!(
        (seen_by(&one).await, seen_by(&other).await),
        (["2", "0", "0"].map(str::to_owned), ["2", "0", "0"].map(str::to_owned))
    );
    // Who knew only the old key has what it needs, and tells that its next start needs the new one.
    assert_eq!(seen_by(&desk.app).await, ["0", "0", "2"]);
    desk.set_key("default", "openai", "sk-proj-CANARY0123456789").await;
    assert_eq!(one.rewrap_data_keys(&caller).await.unwrap(), 0);
}
