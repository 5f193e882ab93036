//! `GET /llm-keys` and `GET /llm-keys/{provider}`: who gets which keys, and that the book knows first.

use std::{collections::BTreeSet, time::Duration};

use keydesk::{
    app::api_keys::NewKey,
    model::{Page, PrincipalKind, Role},
};
use reqwest::Response;
use serde_json::{Value, json};

use crate::desk::{Desk, header, json, open, operator};

const OPENAI: &str = "sk-proj-CANARY0123456789";
const ANTHROPIC: &str = "sk-ant-api03-CANARY0123";

async fn stocked() -> Desk {
    let desk = Desk::open().await;
    desk.set_key("default", "openai", OPENAI).await;
    desk.set_key("default", "anthropic", ANTHROPIC).await;
    desk
}

async fn assert_problem(response: Response, status: u16, detail: &str) {
    assert_eq!(response.status(), status);
    assert_eq!(header(&response, "content-type"), "application/problem+json");
    assert_eq!(header(&response, "cache-control"), "no-store");
    let id = header(&response, "x-request-id").to_owned();
    let body = json(response).await;
    assert_eq!(body["status"], status);
    assert_eq!(body["request_id"], json!(id));
    assert!(body["detail"].as_str().unwrap().contains(detail), "{body}");
}

#[tokio::test]
async fn all_credentials_are_equal() {
    let desk = stocked().await;
    let robot = desk.add_account("robot", &["default"]).await;
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "robot"),
        ("client_secret", open(&robot.client_secret)),
    ];
    let token = json(desk.token_request(&form).await).await["access_token"].as_str().unwrap().to_owned();
    let key = open(&robot.token);
    let requests = [
        ("access_token", desk.get("/llm-keys").bearer_auth(&token)),
        ("api_key", desk.get("/llm-keys").bearer_auth(key)),
        ("api_key", desk.get("/llm-keys").header("authorization", format!("bearer {key}"))),
        ("api_key", desk.get("/llm-keys").bearer_auth(key).header("x-service-account", "robot")),
        ("api_key", desk.get("/llm-keys").bearer_auth(key).header("x-service-account", "")),
        ("api_key", desk.get("/llm-keys").header("x-api-key", key)),
    ];
    for (credential, request) in requests {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "vary"), "Authorization, X-API-Key");
        assert_eq!(header(&response, "cache-control"), "no-store");
        let id = header(&response, "x-request-id").to_owned();
        assert_eq!(json(response).await, json!({"openai": OPENAI, "anthropic": ANTHROPIC}));
        let events = desk.events_of(&id).await;
        assert_eq!(events.len(), 1, "one line in the book per handover");
        let event = &events[0];
        assert_eq!((event.action.as_str(), event.outcome.as_str()), ("llm_keys.read", "allowed"));
        assert_eq!((event.actor.as_str(), event.credential.as_deref()), ("robot", Some(credential)));
        assert_eq!(event.object.as_deref(), Some("project:default"));
        assert_eq!(event.version.as_deref(), Some("anthropic=1 openai=1"));
        assert_eq!(event.source, "127.0.0.1");
    }
}

#[tokio::test]
async fn one_key_comes_with_what_its_user_needs_to_know() {
    let desk = stocked().await;
    desk.set_key("default", "openai", "sk-proj-ROTATED0123456789").await;
    let token = desk.login("admin").await;
    let response = desk.get("/llm-keys/openai?project=default").bearer_auth(&token).send().await.unwrap();
    assert_eq!(
        json(response).await,
        json!({"provider": "openai", "project": "default", "key": "sk-proj-ROTATED0123456789", "version": 2,
               "mode": "static", "expires_at": null, "revocable": false, "env": "OPENAI_API_KEY"})
    );
    let missing = desk.get("/llm-keys/groq").bearer_auth(&token).send().await.unwrap();
    assert_problem(missing, 404, "no key of this provider").await;
}

#[tokio::test]
async fn a_request_shows_exactly_one_credential() {
    let desk = stocked().await;
    let robot = desk.add_account("robot", &["default"]).await;
    let key = open(&robot.token);
    let both = desk.get("/llm-keys").bearer_auth(key).header("x-api-key", key);
    let twice = desk.get("/llm-keys").header("x-api-key", key).header("x-api-key", key);
    let twice_bearer =
        desk.get("/llm-keys").bearer_auth(key).header("authorization", format!("Bearer {key}"));
    for request in [both, twice, twice_bearer] {
        assert_eq!(request.send().await.unwrap().status(), 400);
    }
    let none = desk.get("/llm-keys").send().await.unwrap();
    assert_eq!(
        header(&none, "www-authenticate"),
        "Bearer realm=\"keydesk\"",
        "no error code without a credential"
    );
    assert_problem(none, 401, "no credential").await;
}

#[tokio::test]
async fn what_is_not_a_credential_is_refused_alike() {
    let desk = stocked().await;
    let robot = desk.add_account("robot", &["default"]).await;
    desk.add_account("other", &["default"]).await;
    let key = open(&robot.token);
    let mistyped = format!("{}x", &key[..key.len() - 1]);
    let mut bodies = BTreeSet::new();
    for junk in [
        "x",
        "' OR '1'='1",
        "kd_ak_",
        "a.b.c",
        "eyJhbGciOiJub25lIn0.e30.",
        &mistyped,
        open(&robot.client_secret),
        &"x".repeat(5000),
    ] {
        for request in
            [desk.get("/llm-keys").bearer_auth(junk), desk.get("/llm-keys").header("x-api-key", junk)]
        {
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 401, "{junk}");
            assert!(header(&response, "www-authenticate").contains("error=\"invalid_token\""), "{junk}");
            let mut body = json(response).await;
            body["request_id"] = Value::Null;
            bodies.insert(body.to_string());
        }
    }
    let wrong_account =
        desk.get("/llm-keys").bearer_auth(key).header("x-service-account", "other").send().await.unwrap();
    assert_eq!(wrong_account.status(), 401);
    assert_eq!(bodies.len(), 1, "{bodies:#?}");
    let event = &desk.events().await[0];
    assert_eq!((event.action.as_str(), event.outcome.as_str()), ("credential.verify", "denied"));
    assert_eq!((event.actor.as_str(), event.reason.as_deref()), ("robot", Some("wrong_service_account")));
}

#[tokio::test]
async fn an_entity_tag_saves_the_handover_until_something_changes() {
    let desk = stocked().await;
    let token = desk.login("admin").await;
    let read = async |etag: &str| {
        let response =
            desk.get("/llm-keys").bearer_auth(&token).header("if-none-match", etag).send().await.unwrap();
        let (status, etag) = (response.status().as_u16(), header(&response, "etag").to_owned());
        assert_eq!(response.text().await.unwrap().is_empty(), status == 304);
        (status, etag)
    };
    let (status, first) = read("\"something else\"").await;
    assert_eq!(status, 200);
    assert!(!first.contains(OPENAI) && first.len() == 34);
    let before = desk.events().await.len();
    assert_eq!(read(&first).await, (304, first.clone()));
    assert_eq!(read(&format!("\"x\", W/{first}")).await, (304, first.clone()));
    assert_eq!(desk.events().await.len(), before, "no key left, so there is nothing to write down");
    desk.set_key("default", "openai", "sk-proj-ROTATED0123456789").await;
    let (status, second) = read(&first).await;
    assert_eq!(status, 200, "a new version");
    let only = BTreeSet::from(["openai".parse().unwrap()]);
    desk.app
        .set_grant(&operator(), &"admin".parse().unwrap(), &"default".parse().unwrap(), Some(&only))
        .await
        .unwrap();
    let (status, third) = read(&second).await;
    assert_eq!(status, 200, "another grant");
    assert!(first != second && second != third);
    desk.add_user("alice", Role::Member, &["default"]).await;
    let alice = desk.login("alice").await;
    let hers = desk.get("/llm-keys").bearer_auth(&alice).send().await.unwrap();
    assert!(
        ![first, second, third].contains(&header(&hers, "etag").to_owned()),
        "another principal, another tag"
    );
}

#[tokio::test]
async fn grants_decide_and_nothing_else_does() {
    let desk = stocked().await;
    desk.add_project("research").await;
    desk.set_key("research", "gemini", "AIzaCANARY0123456789").await;
    let providers = ["openai", "anthropic", "gemini"];
    let keys =
        |project: &str| if project == "default" { vec!["anthropic", "openai"] } else { vec!["gemini"] };
    // Every way of granting each project: not at all, all of it, or one provider.
    let shapes: Vec<Option<Option<&str>>> =
        [None, Some(None)].into_iter().chain(providers.map(|provider| Some(Some(provider)))).collect();
    for (i, (a, b)) in shapes.iter().flat_map(|a| shapes.iter().map(move |b| (*a, *b))).enumerate() {
        let name = format!("robot{i}");
        let key = desk.add_account(&name, &[]).await;
        let grants = [("default", a), ("research", b)];
        for (project, grant) in grants {
            let Some(grant) = grant else { continue };
            let some: Option<BTreeSet<_>> = grant.map(|provider| BTreeSet::from([provider.parse().unwrap()]));
            let (name, project) = (name.parse().unwrap(), project.parse().unwrap());
            desk.app.set_grant(&operator(), &name, &project, some.as_ref()).await.unwrap();
        }
        for (project, grant) in grants {
            let path = format!("/llm-keys?project={project}");
            let response = desk.get(&path).header("x-api-key", open(&key.token)).send().await.unwrap();
            let expected = grant.map(|only| {
                keys(project)
                    .into_iter()
                    .filter(|provider| only.is_none_or(|only| only == *provider))
                    .collect::<Vec<_>>()
            });
            match expected {
                None => assert_eq!(response.status(), 403, "{name} {project}"),
                Some(expected) => {
                    let body = json(response).await;
                    let got: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
                    assert_eq!(got, expected, "{name} {project}");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_project_is_found_or_asked_for() {
    let desk = stocked().await;
    for project in ["alpha", "beta"] {
        desk.add_project(project).await;
    }
    let get = async |key: &str, path: &str| desk.get(path).header("x-api-key", key).send().await.unwrap();
    let none = desk.add_account("none", &[]).await;
    assert_problem(get(open(&none.token), "/llm-keys").await, 403, "no grant on any project").await;
    let one = desk.add_account("one", &["alpha"]).await;
    assert_eq!(json(get(open(&one.token), "/llm-keys").await).await, json!({}));
    let several = desk.add_account("several", &["alpha", "beta"]).await;
    assert_problem(get(open(&several.token), "/llm-keys").await, 400, "?project=: alpha, beta").await;
    let with_default = desk.add_account("with-default", &["alpha", "default"]).await;
    assert_eq!(get(open(&with_default.token), "/llm-keys/openai").await.status(), 200);
    // A project that is there and one that is not look the same from outside.
    let mut bodies = Vec::new();
    for path in [
        "/llm-keys?project=beta",
        "/llm-keys?project=nowhere",
        "/llm-keys?project=%2F*",
        "/llm-keys/openai?project=beta",
    ] {
        let response = get(open(&one.token), path).await;
        assert_eq!(response.status(), 403);
        bodies.push(json(response).await["detail"].clone());
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    assert_eq!(get(open(&one.token), "/llm-keys?project=alpha&project=beta").await.status(), 400);
}

#[tokio::test]
async fn a_revocation_is_in_force_at_once() {
    let desk = stocked().await;
    let robot = desk.add_account("robot", &["default"]).await;
    let name = "robot".parse().unwrap();
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "robot"),
        ("client_secret", open(&robot.client_secret)),
    ];
    let token = json(desk.token_request(&form).await).await["access_token"].as_str().unwrap().to_owned();
    let statuses = async || {
        let token = desk.get("/llm-keys").bearer_auth(&token).send().await.unwrap().status().as_u16();
        let key = desk
            .get("/llm-keys")
            .header("x-api-key", open(&robot.token))
            .send()
            .await
            .unwrap()
            .status()
            .as_u16();
        (token, key, desk.token_request(&form).await.status().as_u16())
    };
    assert_eq!(statuses().await, (200, 200, 200));
    desk.app.disable(&operator(), PrincipalKind::ServiceAccount, &name).await.unwrap();
    assert_eq!(statuses().await, (401, 401, 401));
    desk.app.enable(&operator(), PrincipalKind::ServiceAccount, &name).await.unwrap();
    assert_eq!(statuses().await, (200, 200, 200));
    let key = desk.app.api_keys(&operator(), Some(&name), &Page::all()).await.unwrap().items[0].id;
    desk.app.revoke_api_key(&operator(), None, key).await.unwrap();
    assert_eq!(statuses().await, (200, 401, 200));
    desk.app.remove_grant(&operator(), &name, &"default".parse().unwrap()).await.unwrap();
    assert_eq!(statuses().await, (403, 401, 200));
    desk.app.delete(&operator(), PrincipalKind::ServiceAccount, &name).await.unwrap();
    assert_eq!(statuses().await, (401, 401, 401));
}

#[tokio::test]
async fn nothing_is_handed_over_after_the_change_that_forbids_it() {
    let desk = stocked().await;
    let robot = desk.add_account("robot", &["default"]).await;
    // Once before, so that the key's first use is written down already.
    desk.get("/llm-keys").header("x-api-key", open(&robot.token)).send().await.unwrap();
    // Somebody shuts the robot out, and takes a moment; meanwhile the robot asks and waits for the pen.
    let mut somebody = desk.forger().await;
    somebody.begin_change().await;
    somebody.run("update principals set disabled_at = 1 where name = 'robot'").await;
    somebody.bump_revision().await;
    let request = desk.get("/llm-keys").header("x-api-key", open(&robot.token));
    let asking = tokio::spawn(request.send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    somebody.run("commit").await;
    let response = asking.await.unwrap().unwrap();
    assert_eq!(response.status(), 401);
    let outcomes: Vec<_> =
        desk.events().await.into_iter().map(|event| (event.action, event.outcome)).take(1).collect();
    assert_eq!(outcomes, [("credential.verify".to_owned(), "denied".to_owned())]);
}

#[tokio::test]
async fn credentials_end_on_time() {
    let desk = stocked().await;
    let token = desk.login("admin").await;
    let name = "admin".parse().unwrap();
    let issued = desk
        .app
        .issue_api_key(
            &operator(),
            &name,
            NewKey { lifetime: Some(Duration::from_hours(1)), ..NewKey::default() },
        )
        .await
        .unwrap();
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    desk.clock.advance(Duration::from_secs(604));
    assert_eq!(status(desk.get("/llm-keys").bearer_auth(&token)).await, 200, "5 s of leeway");
    desk.clock.advance(Duration::from_secs(1));
    assert_eq!(status(desk.get("/llm-keys").bearer_auth(&token)).await, 401);
    assert_eq!(status(desk.get("/llm-keys").header("x-api-key", open(&issued.api_key))).await, 200);
    desk.clock.advance(Duration::from_hours(1));
    assert_eq!(status(desk.get("/llm-keys").header("x-api-key", open(&issued.api_key))).await, 401);
}

#[tokio::test]
async fn without_the_scope_there_are_no_keys() {
    let desk = stocked().await;
    let form = [
        ("grant_type", "password"),
        ("username", "admin"),
        ("password", crate::desk::PASSWORD),
        ("scope", "audit:read"),
    ];
    let token = json(desk.token_request(&form).await).await["access_token"].as_str().unwrap().to_owned();
    let response = desk.get("/llm-keys").bearer_auth(&token).send().await.unwrap();
    let challenge = "Bearer realm=\"keydesk\", error=\"insufficient_scope\", scope=\"llm-keys:read\"";
    assert_eq!(header(&response, "www-authenticate"), challenge);
    assert_problem(response, 403, "llm-keys:read").await;
    assert_eq!(desk.events().await[0].reason.as_deref(), Some("insufficient_scope"));
}

#[tokio::test]
async fn no_key_without_a_line_in_the_book() {
    let desk = stocked().await;
    let token = desk.login("admin").await;
    let mut forger = desk.forger().await;
    forger.refuse("insert", "audit_events", "disk full").await;
    for path in ["/llm-keys", "/llm-keys/openai"] {
        let response = desk.get(path).bearer_auth(&token).send().await.unwrap();
        assert_eq!(response.status(), 503);
        assert_eq!(header(&response, "retry-after"), "1");
        assert_eq!(header(&response, "content-type"), "application/problem+json");
        let body = response.text().await.unwrap();
        assert!(!body.contains("CANARY") && !body.contains("disk full"), "{body}");
    }
    let form = [("grant_type", "password"), ("username", "admin"), ("password", crate::desk::PASSWORD)];
    let refused = desk.token_request(&form).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(json(refused).await["error"], "temporarily_unavailable");
    let ready = desk.get("/health/ready").send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert_eq!(json(ready).await["checks"]["audit"], "failing");
    forger.allow().await;
    assert_eq!(
        desk.get("/llm-keys").bearer_auth(&token).send().await.unwrap().status(),
        200,
        "and recovers by itself"
    );
    assert_eq!(desk.get("/health/ready").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_sealed_key_that_was_tampered_with_is_not_handed_over() {
    let desk = stocked().await;
    let token = desk.login("admin").await;
    let swap = "update provider_key_versions set sealed = (select v.sealed from provider_key_versions v \
                where v.id <> provider_key_versions.id)";
    desk.forger().await.run(swap).await;
    let response = desk.get("/llm-keys").bearer_auth(&token).send().await.unwrap();
    assert_eq!(response.status(), 500);
    assert!(!response.text().await.unwrap().contains("CANARY"));
    assert_eq!(desk.events().await[0].reason.as_deref(), Some("not_authentic"));
}

#[tokio::test]
async fn the_book_is_only_ever_added_to() {
    let desk = stocked().await;
    let mut forger = desk.forger().await;
    for forgery in ["update audit_events set actor = 'x'", "delete from audit_events"] {
        let error = forger.attempt(forgery).await.unwrap_err().to_string();
        assert!(error.contains("audit events are never"), "{error}");
    }
    let newest = "select stream from audit_events order by at desc limit 1";
    let seqs =
        forger.numbers(&format!("select seq from audit_events where stream = ({newest}) order by seq")).await;
    assert_eq!(seqs, (1..=i64::try_from(seqs.len()).unwrap()).collect::<Vec<_>>());
}
