//! `/me`: identity, password, API keys and sessions of the caller.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    asker::{Asker, api_key},
    desk::{Desk, PASSWORD, header, open, operator},
};

const NEW: &str = "a wholly different set of words";

#[tokio::test]
async fn everybody_can_find_out_who_they_are() {
    let desk = Desk::furnished().await;
    let alice = Asker::new(&desk, desk.login("alice").await);
    let mut me = alice.must_get("/me").await;
    assert_eq!(me["id"].take().as_str().unwrap().len(), 36);
    let expected = json!({"id": null, "kind": "user", "name": "alice", "role": "member", "credential": "access_token",
        "scope": "llm-keys:read", "grants": [{"project": "default", "providers": null}]});
    assert_eq!(me, expected);
    let machine = desk.add_account("machine", &[]).await;
    let me = Asker::new(&desk, open(&machine.token)).must_get("/me").await;
    assert_eq!((&me["kind"], &me["credential"]), (&json!("service_account"), &json!("api_key")));
}

#[tokio::test]
async fn changing_the_password_needs_the_old_one_and_ends_every_session() {
    let desk = Desk::furnished().await;
    let alice = Asker::new(&desk, desk.login("alice").await);
    let elsewhere = Asker::new(&desk, desk.login("alice").await);
    let change = |old: &str, new: &str| json!({"old_password": old, "new_password": new});
    for (old, new) in
        [("wrong wrong wrong wrong", NEW), (PASSWORD, "short"), (PASSWORD, "alicealicealicealice")]
    {
        let (status, body) = alice.ask("PUT", "/me/password", change(old, new)).await;
        assert_eq!(status, 409, "{old} {new}");
        assert!(!body.to_string().contains(old) && !body.to_string().contains(new));
    }
    assert_eq!(elsewhere.get("/me").await.0, 200);
    assert_eq!(alice.ask("PUT", "/me/password", change(PASSWORD, NEW)).await.0, 204);
    assert_eq!((alice.get("/me").await.0, elsewhere.get("/me").await.0), (401, 401));
    desk.token_of("alice", NEW, "").await;
    let event = &desk.events().await.into_iter().find(|event| event.action == "user.set_password").unwrap();
    assert_eq!((event.object.as_deref(), event.outcome.as_str()), (Some("user:alice"), "allowed"));
}

#[tokio::test]
async fn guessing_the_old_password_is_slowed_down() {
    let desk = Desk::furnished().await;
    let alice = Asker::new(&desk, desk.login("alice").await);
    let body = json!({"old_password": "wrong wrong wrong wrong", "new_password": NEW});
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let response = alice.send("PUT", "/me/password", Some(&body)).await;
        statuses.push(response.status().as_u16());
        assert_eq!(response.status() == 429, header(&response, "retry-after").parse::<u64>().is_ok());
    }
    assert_eq!(statuses, [409, 409, 409, 409, 409, 429]);
    let key = Asker::new(&desk, api_key(&desk, "alice", "llm-keys:read").await);
    assert_eq!(key.ask("PUT", "/me/password", body).await.0, 403, "an API key cannot even try");
}

#[tokio::test]
async fn a_one_time_password_opens_nothing_but_its_own_change() {
    let desk = Desk::furnished().await;
    let before = Asker::new(&desk, desk.login("alice").await);
    let admin = Asker::admin(&desk).await;
    let (status, reset) = admin.ask("POST", "/admin/users/alice/password-reset", Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!(before.get("/me").await.0, 401, "sessions end");
    let password = reset["password"].as_str().unwrap();
    let alice = Asker::new(&desk, desk.token_of("alice", password, "").await);
    assert_eq!(alice.must_get("/me").await["scope"], "password:change");
    for path in ["/llm-keys", "/me/api-keys", "/me/sessions"] {
        assert_eq!(alice.get(path).await.0, 403, "{path}");
    }
    assert_eq!(alice.ask("POST", "/me/api-keys", json!({})).await.0, 403);
    let key = Asker::new(&desk, api_key(&desk, "alice", "llm-keys:read").await);
    assert_eq!(key.get("/me/sessions").await.0, 200);
    let body = json!({"old_password": password, "new_password": NEW});
    assert_eq!(alice.ask("PUT", "/me/password", body).await.0, 204);
    let alice = Asker::new(&desk, desk.token_of("alice", NEW, "").await);
    assert_eq!(alice.get("/llm-keys").await.0, 200);
}

#[tokio::test]
async fn an_api_key_of_ones_own_is_shown_once_and_dies_at_once() {
    let desk = Desk::furnished().await;
    let alice = Asker::new(&desk, desk.login("alice").await);
    let body =
        json!({"label": "laptop", "expires_in": 3600, "scope": "llm-keys:read", "sources": ["127.0.0.0/8"]});
    let response = alice.send("POST", "/me/api-keys", Some(&body)).await;
    assert_eq!(response.status(), 201);
    let location = header(&response, "location").to_owned();
    let made = crate::desk::json(response).await;
    assert_eq!((&made["label"], &made["sources"]), (&json!("laptop"), &json!(["127.0.0.0/8"])));
    let key = Asker::new(&desk, made["api_key"].as_str().unwrap());
    assert_eq!(key.get("/llm-keys").await.0, 200);
    assert_eq!(key.ask("POST", "/me/api-keys", json!({})).await.0, 403, "a key cannot make keys");
    assert_eq!(key.ask("DELETE", &location, Value::Null).await.0, 403);
    let list = alice.must_get("/me/api-keys").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert!(!list.to_string().contains(&key.credential));
    let other = Asker::new(&desk, desk.login("audrey").await);
    assert_eq!(other.ask("DELETE", &location, Value::Null).await.0, 404, "somebody else's");
    for absent in ["/me/api-keys/x", "/me/api-keys/019a0000-0000-7000-8000-00000000ffff"] {
        assert_eq!(alice.ask("DELETE", absent, Value::Null).await.0, 404);
    }
    assert_eq!(alice.ask("DELETE", &location, Value::Null).await.0, 204);
    assert_eq!(key.get("/llm-keys").await.0, 401);
    assert_eq!(alice.ask("DELETE", &location, Value::Null).await.0, 409);
    let bad = [
        (json!({"scope": "admin"}), 403),
        (json!({"scope": "llm-keys:read audit:read"}), 403),
        (json!({"scope": "password:change"}), 400),
        (json!({"scope": ""}), 400),
        (json!({"expires_in": 0}), 400),
        (json!({"expires_in": 4_294_967_295_u32}), 400),
        (json!({"expires_in": 1.5}), 400),
        (json!({"sources": []}), 400),
        (json!({"sources": ["everywhere"]}), 400),
        (json!({"label": "x".repeat(101)}), 400),
        (json!({"label": null}), 400),
    ];
    for (body, status) in bad {
        assert_eq!(alice.ask("POST", "/me/api-keys", body.clone()).await.0, status, "{body}");
    }
}

#[tokio::test]
async fn a_key_ends_on_time_and_works_only_from_its_sources() {
    let desk = Desk::furnished().await;
    let alice = Asker::new(&desk, desk.login("alice").await);
    let make = async |body: Value| {
        let (_, made) = alice.ask("POST", "/me/api-keys", body).await;
        Asker::new(&desk, made["api_key"].as_str().unwrap())
    };
    let elsewhere = make(json!({"sources": ["192.0.2.0/24"]})).await;
    let short = make(json!({"expires_in": 60})).await;
    assert_eq!((elsewhere.get("/me").await.0, short.get("/me").await.0), (403, 200));
    desk.clock.advance(Duration::from_mins(1));
    assert_eq!(short.get("/me").await.0, 401);
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let desk = Desk::furnished().await;
    let one = Asker::new(&desk, desk.login("alice").await);
    desk.clock.advance(Duration::from_secs(1));
    let two = Asker::new(&desk, desk.login("alice").await);
    let sessions = two.walk("/me/sessions", 1).await;
    assert_eq!(sessions.len(), 2);
    let older = format!("/me/sessions/{}", sessions[1]["id"].as_str().unwrap());
    assert_eq!(sessions[1]["created_source"], "127.0.0.1");
    let other = Asker::new(&desk, desk.login("audrey").await);
    assert_eq!(other.ask("DELETE", &older, Value::Null).await.0, 404, "somebody else's");
    assert_eq!(two.ask("DELETE", &older, Value::Null).await.0, 204);
    assert_eq!((one.get("/me").await.0, two.get("/me").await.0), (401, 200));
    assert_eq!(two.ask("DELETE", &older, Value::Null).await.0, 404);
    let caller = keydesk::app::Presented::Bearer(keydesk::secret::Secret::new(two.credential.as_str()));
    let caller = desk.app.authenticate(Some(caller), None, operator().origin).await.unwrap();
    assert_eq!(caller.name, "alice");
}
