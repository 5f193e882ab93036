//! `/admin`: what the command line can do, over HTTP.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use keydesk::model::Role;
use serde_json::{Value, json};

use crate::{
    asker::{ALL, Asker, Spec, content, role},
    desk::{Desk, PASSWORD, header, json, open},
};

#[tokio::test]
async fn a_user_is_made_changed_and_deleted() {
    let desk = Desk::furnished().await;
    let admin = Asker::admin(&desk).await;
    let body = json!({"name": "Bob", "password": PASSWORD, "projects": ["default"]});
    let response = admin.send("POST", "/admin/users", Some(&body)).await;
    assert_eq!((response.status().as_u16(), header(&response, "location")), (201, "/admin/users/bob"));
    assert_eq!(json(response).await["role"], "member");
    assert_eq!(admin.ask("POST", "/admin/users", body).await.0, 409);
    let bob = Asker::new(&desk, desk.login("bob").await);
    assert_eq!(bob.get("/llm-keys").await.0, 200);

    let response = admin.send("GET", "/admin/users/bob", None).await;
    let etag = header(&response, "etag").to_owned();
    assert_eq!(etag, "\"1\"");
    let response = admin.patch("/admin/users/bob", &etag, &json!({"disabled": true})).await;
    assert_eq!((response.status().as_u16(), header(&response, "etag")), (200, "\"2\""));
    assert!(json(response).await["disabled_at"].is_string());
    assert_eq!(bob.get("/llm-keys").await.0, 401, "at once");
    let stale = admin.patch("/admin/users/bob", &etag, &json!({"disabled": false})).await;
    assert_eq!(stale.status(), 412);
    assert_eq!(admin.ask("PATCH", "/admin/users/bob", role("admin")).await.0, 428);
    let any = admin.patch("/admin/users/bob", "*", &json!({"disabled": false, "role": "auditor"})).await;
    assert_eq!(json(any).await["role"], "auditor");
    assert_eq!(bob.get("/llm-keys").await.0, 401, "the session stays ended");
    let foreign = json!({"grant_types": ["client_credentials"]});
    assert_eq!(admin.patch("/admin/users/bob", "*", &foreign).await.status(), 409);

    let set = json!({"password": "another set of good words"});
    assert_eq!(admin.ask("PUT", "/admin/users/bob/password", set).await.0, 204);
    desk.token_of("bob", "another set of good words", "audit:read").await;
    assert_eq!(admin.ask("DELETE", "/admin/users/bob", Value::Null).await.0, 204);
    assert_eq!(admin.get("/admin/users/bob").await.0, 404);
    for absent in ["/admin/users/robot", "/admin/users/%2A", "/admin/service-accounts/alice"] {
        assert_eq!(admin.get(absent).await.0, 404, "{absent}");
    }
}

#[tokio::test]
async fn a_service_account_gets_its_credentials_once_and_rotates_them() {
    let desk = Desk::furnished().await;
    let admin = Asker::admin(&desk).await;
    let (status, made) =
        admin.ask("POST", "/admin/service-accounts", json!({"name": "ci", "projects": ["default"]})).await;
    assert_eq!((status, &made["client_id"], &made["type"]), (201, &json!("ci"), &json!("service_account")));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let grants = async |secret: &str, scope: &str| {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "ci"),
            ("client_secret", secret),
            ("scope", scope),
        ];
        desk.token_request(&form).await.status().as_u16()
    };
    let old = text(&made["client_secret"]);
    assert_eq!((grants(&old, "").await, grants(&old, "admin").await), (200, 400), "no more than its role");
    assert_eq!(Asker::new(&desk, text(&made["token"])).get("/llm-keys").await.0, 200);
    let rotate = "/admin/service-accounts/ci/secret";
    let (status, rotated) = admin.ask("POST", rotate, json!({"overlap_seconds": 60})).await;
    let new = text(&rotated["client_secret"]);
    assert_eq!((status, grants(&old, "").await, grants(&new, "").await), (200, 200, 200));
    desk.clock.advance(std::time::Duration::from_mins(1));
    assert_eq!((grants(&old, "").await, grants(&new, "").await), (401, 200));
    assert_eq!(admin.ask("POST", rotate, json!({"overlap_seconds": 31_536_001})).await.0, 400);
    assert_eq!(admin.ask("POST", rotate, json!({})).await.0, 200, "a day, unless it is said");

    let keys = "/admin/service-accounts/ci/api-keys";
    let (status, key) = admin.ask("POST", keys, json!({"label": "second"})).await;
    assert_eq!((status, admin.walk(keys, 1).await.len()), (201, 2));
    let one = format!("{keys}/{}", text(&key["id"]));
    assert_eq!(admin.ask("DELETE", &one.replace("/ci/", "/robot/"), Value::Null).await.0, 404);
    assert_eq!(admin.ask("DELETE", &format!("{keys}/x"), Value::Null).await.0, 404);
    assert_eq!(admin.ask("DELETE", &one, Value::Null).await.0, 204);
    assert_eq!(admin.ask("DELETE", &one, Value::Null).await.0, 409);
    assert_eq!(admin.ask("POST", keys, json!({"scope": "admin"})).await.0, 403, "more than its role");
    assert_eq!(admin.get("/admin/service-accounts/alice/api-keys").await.0, 404, "a user is no account");
    assert_eq!(admin.get("/admin/users/alice/api-keys").await.0, 200);
    assert_eq!(
        admin.patch("/admin/service-accounts/ci", "*", &json!({"disabled": true})).await.status(),
        200
    );
    assert_eq!(grants(&new, "").await, 401);
    assert_eq!(admin.ask("DELETE", "/admin/service-accounts/ci", Value::Null).await.0, 204);
}

#[tokio::test]
async fn projects_grants_and_provider_keys_decide_who_gets_what() {
    let desk = Desk::furnished().await;
    let admin = Asker::admin(&desk).await;
    assert_eq!(admin.ask("POST", "/admin/projects", json!({"name": "search"})).await.0, 201);
    assert_eq!(admin.ask("POST", "/admin/projects", json!({"name": "search"})).await.0, 409);
    let key = "/admin/projects/search/keys/openai";
    let set = |key: &str| json!({ "key": key });
    let (status, first) = admin.ask("PUT", key, set("sk-proj-FIRST0123456789")).await;
    assert_eq!((status, &first["version"], &first["env"]), (201, &json!(1), &json!("OPENAI_API_KEY")));
    let (status, second) = admin.ask("PUT", key, set("sk-proj-SECOND0123456789")).await;
    assert_eq!((status, &second["version"]), (200, &json!(2)));
    let (_, third) = admin.ask("PUT", key, set("sk-proj-FIRST0123456789")).await;
    let print = |key: &Value| key["fingerprint"].as_str().unwrap().to_owned();
    assert_eq!(print(&first).len(), 8);
    assert!(print(&first) == print(&third) && print(&first) != print(&second), "recognises a key");
    for masked in
        ["sk-...6789", "sk-proj-************6789", "****************", "<your key here>", "sk-your-api-key"]
    {
        assert_eq!(admin.ask("PUT", key, set(masked)).await.0, 409, "{masked}");
    }
    assert_eq!(admin.must_get(key).await["version"], 3, "what is refused changes nothing");

    let grant = "/admin/projects/search/grants/alice";
    for bad in
        [json!({}), json!({"providers": []}), json!({"providers": ["a b"]}), json!({"providers": "openai"})]
    {
        assert_eq!(admin.ask("PUT", grant, bad.clone()).await.0, 400, "{bad}");
    }
    assert_eq!(admin.ask("PUT", grant, json!({"providers": ["groq"]})).await.0, 204);
    let alice = Asker::new(&desk, desk.login("alice").await);
    assert_eq!(alice.must_get("/llm-keys?project=search").await, json!({}));
    assert_eq!(admin.ask("PUT", grant, json!({"providers": null})).await.0, 204);
    assert_eq!(
        alice.must_get("/llm-keys?project=search").await,
        json!({"openai": "sk-proj-FIRST0123456789"})
    );
    let grants = admin.must_get("/admin/projects/search/grants").await;
    assert_eq!(
        (&grants["items"][0]["principal"], &grants["items"][0]["providers"]),
        (&json!("alice"), &Value::Null)
    );
    assert_eq!(admin.ask("DELETE", "/admin/projects/search", Value::Null).await.0, 409, "not empty");
    assert_eq!(admin.ask("DELETE", grant, Value::Null).await.0, 204);
    assert_eq!(admin.ask("DELETE", grant, Value::Null).await.0, 404);
    assert_eq!(alice.get("/llm-keys?project=search").await.0, 403);
    assert_eq!(admin.ask("DELETE", key, Value::Null).await.0, 204);
    assert_eq!(admin.get(key).await.0, 404);
    assert_eq!(admin.ask("DELETE", "/admin/projects/search", Value::Null).await.0, 204);
    assert_eq!(admin.get("/admin/projects/search").await.0, 404);
}

#[tokio::test]
async fn a_provider_key_is_handed_out_until_it_expires() {
    let desk = Desk::furnished().await;
    let admin = Asker::admin(&desk).await;
    let alice = Asker::new(&desk, desk.login("alice").await);
    let (path, key) = ("/admin/projects/default/keys/openai", "sk-proj-SHORT0123456789");
    for lifetime in [json!(0), json!(-1), json!(3_153_600_001_i64), json!("60"), json!(1.5)] {
        let body = json!({"key": key, "expires_in": lifetime});
        assert_eq!(admin.ask("PUT", path, body.clone()).await.0, 400, "{body}");
    }
    let (status, set) = admin.ask("PUT", path, json!({"key": key, "expires_in": 60})).await;
    let expires_at = set["expires_at"].as_str().unwrap();
    assert!(status == 201 && expires_at.starts_with("2027-01-15T08:01:00."), "{expires_at}");
    assert_eq!(admin.must_get(path).await["expires_at"], set["expires_at"]);
    let shown = alice.must_get("/llm-keys/openai").await;
    assert_eq!((&shown["key"], &shown["expires_at"]), (&json!(key), &set["expires_at"]));
    desk.clock.advance(Duration::from_mins(1));
    assert_eq!(alice.get("/llm-keys/openai").await.0, 404);
    assert_eq!(alice.must_get("/llm-keys").await, json!({}));
    let (status, set) = admin.ask("PUT", path, json!({ "key": key })).await;
    assert_eq!((status, &set["version"], &set["expires_at"]), (200, &json!(2), &Value::Null));
    assert_eq!(alice.must_get("/llm-keys").await, json!({ "openai": key }));
}

#[tokio::test]
async fn nobody_does_what_their_scope_does_not_say() {
    let desk = Desk::furnished().await;
    let only = async |scope: &str| Asker::new(&desk, desk.token_of("admin", PASSWORD, scope).await);
    let (admin, writer, reader) =
        (only("admin").await, only("llm-keys:write").await, only("audit:read").await);
    let key = json!({"key": "sk-proj-OTHER0123456789"});
    let path = "/admin/projects/research/keys/openai";
    assert_eq!(admin.ask("PUT", path, key.clone()).await.0, 403, "an admin cannot swap keys by that alone");
    assert_eq!((admin.get(path).await.0, admin.get("/admin/audit-events").await.0), (403, 403));
    assert_eq!((writer.ask("PUT", path, key).await.0, writer.get("/admin/users").await.0), (200, 403));
    assert_eq!((reader.get("/admin/audit-events").await.0, reader.get("/admin/users").await.0), (200, 403));
    assert_eq!(reader.get("/llm-keys").await.0, 403);
}

#[tokio::test]
async fn the_last_admin_stays() {
    let desk = Desk::furnished().await;
    let admin = Asker::admin(&desk).await;
    for patch in [
        role("member"),
        json!({"disabled": true}),
        json!({"role": "auditor", "disabled": true}),
        json!({"grant_types": []}),
    ] {
        assert_eq!(admin.patch("/admin/users/admin", "*", &patch).await.status(), 409, "{patch}");
    }
    assert_eq!(admin.ask("DELETE", "/admin/users/admin", Value::Null).await.0, 409);
    desk.add_user("second", Role::Admin, &[]).await;
    let member = role("member");
    let (one, two) = tokio::join!(
        admin.patch("/admin/users/admin", "*", &member),
        admin.patch("/admin/users/second", "*", &member)
    );
    let mut statuses = [one.status().as_u16(), two.status().as_u16()];
    statuses.sort_unstable();
    // The second to come finds the other one gone, or finds itself no admin any more.
    assert!(statuses == [200, 409] || statuses == [200, 403], "{statuses:?}");
}

#[tokio::test]
async fn of_many_changes_to_one_version_exactly_one_happens() {
    let desk = Arc::new(Desk::furnished().await);
    let token = desk.token_of("admin", PASSWORD, ALL).await;
    let url = format!("{}/admin/users/alice", desk.url);
    let changes: Vec<_> = (0..64)
        .map(|i| {
            let body = role(["member", "auditor"][i % 2]);
            let request = desk.http.patch(&url).bearer_auth(&token).header("if-match", "\"1\"").json(&body);
            tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
        })
        .collect();
    let mut statuses = Vec::new();
    for change in changes {
        statuses.push(change.await.unwrap());
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 412).count(), 63, "{statuses:?}");
    assert_eq!(Asker::new(&desk, token).must_get("/admin/users/alice").await["version"], 2);
}

#[tokio::test]
async fn lists_are_walked_without_gaps_and_repeats() {
    let desk = Desk::furnished().await;
    let admin = Asker::admin(&desk).await;
    for i in 0..23 {
        desk.add_account(&format!("machine-{i}"), &["research"]).await;
        desk.add_project(&format!("project-{i}")).await;
        desk.set_key("research", &format!("provider-{i}"), &format!("sk-proj-CANARY0123{i:06}")).await;
        crate::asker::api_key(&desk, "robot", "llm-keys:read").await;
    }
    let until = desk.events().await[0].at;
    let lists = [
        ("/admin/service-accounts".to_owned(), "name", 24),
        ("/admin/users".to_owned(), "name", 3),
        ("/admin/projects".to_owned(), "name", 25),
        ("/admin/projects/research/keys".to_owned(), "provider", 24),
        ("/admin/projects/research/grants".to_owned(), "principal", 23),
        ("/admin/service-accounts/robot/api-keys".to_owned(), "id", 24),
        (format!("/admin/audit-events?until={until}"), "id", 0),
    ];
    for (path, key, count) in lists {
        let whole = admin.walk(&path, 1000).await;
        let names: BTreeSet<_> = whole.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect();
        assert_eq!(names.len(), whole.len(), "{path}");
        assert!(count == 0 || whole.len() == count, "{path}: {}", whole.len());
        for limit in [1, 7, whole.len()] {
            assert_eq!(admin.walk(&path, limit).await, whole, "{path} by {limit}");
        }
    }
    for bad in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=x",
        "limit=1&limit=2",
        "li%6Dit=1&limit=1",
        "offset=1",
        "after=a&after=b",
    ] {
        let (status, body) = admin.get(&format!("/admin/users?{bad}")).await;
        assert_eq!(status, 400, "{bad}: {body}");
    }
    for path in
        ["/admin/audit-events?after=x", "/admin/projects/research/keys?after=x", "/me/sessions?after=x"]
    {
        assert_eq!(admin.get(path).await.0, 400, "{path}");
    }
}

#[tokio::test]
async fn the_book_is_read_by_filter() {
    let desk = Desk::furnished().await;
    let auditor = Asker::new(&desk, desk.token_of("audrey", PASSWORD, "audit:read").await);
    Asker::new(&desk, desk.login("alice").await).get("/llm-keys").await;
    let all = auditor.walk("/admin/audit-events", 1000).await;
    for (filter, field, value) in [
        ("principal=alice", "actor", "alice"),
        ("action=llm_keys.read", "action", "llm_keys.read"),
        ("outcome=allowed", "outcome", "allowed"),
    ] {
        let found = auditor.walk(&format!("/admin/audit-events?{filter}"), 3).await;
        let expected: Vec<_> = all.iter().filter(|event| event[field] == value).cloned().collect();
        assert!(!found.is_empty() && found == expected, "{filter}");
    }
    let middle = all[all.len() / 2]["at"].as_str().unwrap().to_owned();
    let since = auditor.walk(&format!("/admin/audit-events?since={middle}"), 2).await;
    let until = auditor.walk(&format!("/admin/audit-events?until={middle}"), 2).await;
    assert_eq!([since, until].concat(), all);
    for bad in ["since=yesterday", "outcome=good", "actor=alice", "until="] {
        let (status, body) = auditor.get(&format!("/admin/audit-events?{bad}")).await;
        let name = bad.split('=').next().unwrap();
        let told = body["detail"].as_str().unwrap().contains(name) || name == "actor";
        assert!(status == 400 && told && !body.to_string().contains("yesterday"), "{bad}: {body}");
    }
}

#[tokio::test]
async fn signing_keys_rotate_without_a_false_refusal_and_at_once_in_an_emergency() {
    let desk = Desk::furnished().await;
    let admin = Asker::admin(&desk).await;
    let (code, next) = admin.ask("POST", "/admin/signing-keys", json!({})).await;
    assert_eq!((code, &next["state"]), (200, &json!("pre_activation")));
    assert_eq!(admin.ask("POST", "/admin/signing-keys", json!({"emergency": false})).await.0, 409);
    assert_eq!(admin.must_get("/admin/signing-keys").await["items"].as_array().unwrap().len(), 2);
    assert_eq!(admin.ask("POST", "/admin/signing-keys", json!({"emergency": true})).await.0, 200);
    assert_eq!(admin.get("/me").await.0, 401, "what was signed before is void");
    let states = Asker::admin(&desk).await.must_get("/admin/signing-keys").await;
    let states: Vec<_> = states["items"].as_array().unwrap().iter().map(|key| key["state"].clone()).collect();
    assert_eq!(states.iter().filter(|state| **state == "compromised").count(), 2, "{states:?}");
}

#[tokio::test]
async fn what_is_secret_goes_in_and_never_comes_out() {
    let desk = Desk::furnished().await;
    let admin = Asker::admin(&desk).await;
    let mut secrets = vec!["CANARY".to_owned(), PASSWORD.to_owned()];
    let machine = desk.add_account("machine", &["research"]).await;
    secrets.extend([open(&machine.client_secret).to_owned(), open(&machine.token).to_owned()]);
    for (method, path, body, field) in [
        ("POST", "/admin/users/alice/password-reset", Value::Null, "password"),
        ("POST", "/admin/service-accounts/robot/secret", json!({}), "client_secret"),
        ("POST", "/admin/service-accounts/robot/api-keys", json!({}), "api_key"),
        ("POST", "/me/api-keys", json!({}), "api_key"),
    ] {
        let (_, shown) = admin.ask(method, path, body).await;
        secrets.push(shown[field].as_str().unwrap().to_owned());
    }
    let spec = Spec::new();
    let mut asked = 0;
    for operation in spec.operations().iter().filter(|operation| operation.method == "GET") {
        if !operation.path.starts_with("/admin") && !operation.path.starts_with("/me") {
            continue;
        }
        let path = real(&operation.path, "");
        let (status, media_type, body) = content(admin.send("GET", &path, None).await).await;
        assert_eq!(status, 200, "{path}");
        spec.check(operation, status, &media_type, &body);
        let text = body.to_string();
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{path} shows {secret}");
        }
        asked += 1;
    }
    assert!(asked >= 15, "{asked}");
}

/// A path with names that there are.
pub(crate) fn real(template: &str, id: &str) -> String {
    let names = [
        ("{username}", "alice"),
        ("{name}", "robot"),
        ("{project}", "research"),
        ("{provider}", "openai"),
        ("{principal}", "alice"),
        ("{id}", id),
    ];
    names.iter().fold(template.to_owned(), |path, (name, value)| path.replace(name, value))
}

#[tokio::test]
async fn nobody_gives_what_their_token_lacks() {
    let desk = Desk::furnished().await;
    let token = desk.token_of("admin", PASSWORD, "admin").await;
    let admin = Asker::new(&desk, token);
    let key = json!({"label": "x", "scope": "admin llm-keys:write"});
    assert_eq!(admin.ask("POST", "/admin/users/admin/api-keys", key).await.0, 403);
    let plain = json!({"label": "x", "scope": "llm-keys:read"});
    assert_eq!(admin.ask("POST", "/admin/users/admin/api-keys", plain).await.0, 201);
    let new = json!({"name": "third", "password": "a set of good words", "role": "admin"});
    assert_eq!(admin.ask("POST", "/admin/users", new).await.0, 403);
    assert_eq!(admin.patch("/admin/users/alice", "*", &role("admin")).await.status(), 403);
    let robot = json!({"name": "third", "role": "auditor"});
    assert_eq!(admin.ask("POST", "/admin/service-accounts", robot).await.0, 403);
    assert_eq!(desk.events().await[0].outcome, "failed");
}

/// PostgreSQL knows no zero in a text.
#[tokio::test]
async fn a_zero_in_what_is_asked_for_is_nothing_that_is_there() {
    let desk = Desk::furnished().await;
    let admin = Asker::admin(&desk).await;
    for path in [
        "/admin/users?after=a%00b",
        "/admin/service-accounts?after=%00",
        "/admin/projects?after=%00",
        "/admin/projects/default/keys?after=%00",
        "/admin/projects/default/grants?after=%00",
        "/admin/audit-events?principal=ali%00ce",
        "/admin/audit-events?action=%00",
        "/llm-keys?project=%00",
        "/admin/users/a%00b",
    ] {
        let (status, body) = admin.get(path).await;
        assert!(status < 500, "{path}: {status} {body}");
    }
}
