//! Against guessing: what is slowed, what is not, and that names nobody has are slowed alike.

use std::time::Duration;

use keydesk::model::Role;

use crate::desk::{Desk, PASSWORD, header};

async fn attempt(desk: &Desk, user: &str, password: &str) -> (u16, u64) {
    let form = [("grant_type", "password"), ("username", user), ("password", password)];
    let response = desk.token_request(&form).await;
    (response.status().as_u16(), header(&response, "retry-after").parse().unwrap_or(0))
}

const WRONG: &str = "not the password at all";

#[tokio::test]
async fn five_failures_are_free_and_then_the_wait_doubles() {
    let desk = Desk::open().await;
    for _ in 0..5 {
        assert_eq!(attempt(&desk, "admin", WRONG).await, (400, 0));
    }
    for wait in [1, 2, 4, 8] {
        let (status, told) = attempt(&desk, "admin", PASSWORD).await;
        assert_eq!(status, 429, "even with the right password");
        assert!((wait..=wait + 1).contains(&told), "told to wait {told} s, not {wait}");
        desk.clock.advance(Duration::from_secs(told));
        assert_eq!(attempt(&desk, "admin", WRONG).await, (400, 0));
    }
    desk.clock.advance(Duration::from_mins(15));
    assert_eq!(attempt(&desk, "admin", PASSWORD).await.0, 200, "forgotten after a quiet quarter of an hour");
}

#[tokio::test]
async fn a_success_wipes_the_slate() {
    let desk = Desk::open().await;
    for _ in 0..3 {
        for _ in 0..4 {
            assert_eq!(attempt(&desk, "admin", WRONG).await.0, 400);
        }
        assert_eq!(attempt(&desk, "admin", PASSWORD).await.0, 200);
    }
}

#[tokio::test]
async fn a_name_that_nobody_has_is_slowed_alike_in_any_spelling() {
    let desk = Desk::open().await;
    let mut sequences = Vec::new();
    for names in [["admin", "ADMIN"], ["nobody", "NoBody"]] {
        let mut sequence = Vec::new();
        for i in 0..8 {
            sequence.push(attempt(&desk, names[i % 2], WRONG).await);
        }
        sequences.push(sequence);
    }
    assert_eq!(sequences[0], sequences[1]);
    assert_eq!(sequences[0].iter().filter(|(status, _)| *status == 400).count(), 5);
}

#[tokio::test]
async fn a_source_that_sprays_is_closed_and_what_users_hold_goes_on() {
    let desk = Desk::open().await;
    desk.add_user("alice", Role::Member, &["default"]).await;
    let token = desk.login("alice").await;
    let mut statuses = Vec::new();
    for i in 0..40 {
        statuses.push(attempt(&desk, &format!("user{i}"), WRONG).await.0);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 400).count(), 30);
    assert_eq!(attempt(&desk, "alice", PASSWORD).await.0, 429, "from that source nobody logs in");
    assert_eq!(desk.get("/llm-keys").bearer_auth(&token).send().await.unwrap().status(), 200);
    desk.clock.advance(Duration::from_mins(15));
    assert_eq!(attempt(&desk, "alice", PASSWORD).await.0, 200);
}

#[tokio::test]
async fn many_right_logins_at_once_are_no_attack() {
    let desk = std::sync::Arc::new(Desk::open().await);
    for i in 0..40 {
        desk.add_user(&format!("user{i}"), Role::Member, &[]).await;
    }
    // As many as a source may fail, and more: different users behind one address, and one user many times.
    let logins: Vec<_> = (0..80)
        .map(|i| {
            let desk = std::sync::Arc::clone(&desk);
            let user = if i % 2 == 0 { format!("user{}", i / 2) } else { "admin".to_owned() };
            tokio::spawn(async move { attempt(&desk, &user, PASSWORD).await.0 })
        })
        .collect();
    for login in logins {
        let status = login.await.unwrap();
        assert!(status == 200 || status == 503, "right, or told that the queue is full: {status}");
    }
    for i in 0..40 {
        assert_eq!(attempt(&desk, &format!("user{i}"), PASSWORD).await.0, 200, "and nobody is locked out");
    }
}

#[tokio::test]
async fn a_hundred_failures_in_a_row_close_a_user_to_strangers_however_slowly_they_come() {
    let desk = Desk::open().await;
    for name in ["known", "stranger"] {
        desk.add_user(name, Role::Member, &[]).await;
    }
    desk.login("known").await;
    for name in ["known", "stranger"] {
        for _ in 0..100 {
            assert_eq!(attempt(&desk, name, WRONG).await.0, 400);
            desk.clock.advance(Duration::from_mins(16));
        }
    }
    // More than a quarter of an hour has passed since the last failure, and less than an hour.
    assert_eq!(attempt(&desk, "stranger", PASSWORD).await.0, 429, "never seen from here");
    assert_eq!(attempt(&desk, "known", PASSWORD).await.0, 200, "their usual place");
    desk.app.unlock_user(&crate::desk::operator(), &"stranger".parse().unwrap()).await.unwrap();
    assert_eq!(attempt(&desk, "stranger", PASSWORD).await.0, 200);
}
