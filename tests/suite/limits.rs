//! How often somebody may ask, what they are told of it, and what the book says.

use std::{collections::BTreeMap, time::Duration};

use keydesk::{
    app::{Settings, limits::Limits},
    model::Role,
};
use reqwest::{RequestBuilder, Response};

use crate::{
    asker::{Spec, api_key},
    desk::{Desk, PASSWORD, header, json, open},
};

fn limits(keys: &str, token: &str, introspect: &str) -> impl Fn(&mut Settings) {
    let [keys, token, introspect] = [keys, token, introspect].map(|rate| rate.parse().ok());
    move |settings| {
        settings.limits = Limits { keys, token, introspect };
        settings.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    }
}

async fn said(request: RequestBuilder) -> (u16, String, String, String) {
    let response = request.send().await.unwrap();
    let text = |name: &str| header(&response, name).to_owned();
    (response.status().as_u16(), text("ratelimit-policy"), text("ratelimit"), text("retry-after"))
}

fn row(status: u16, policy: &str, limit: &str, retry: &str) -> (u16, String, String, String) {
    (status, policy.to_owned(), limit.to_owned(), retry.to_owned())
}

/// Has what was counted written down, and gives the lines of which `select` says true; they must stand for `total` requests.
async fn counted(
    desk: &Desk,
    total: u64,
    select: impl Fn(&keydesk::model::audit::RecordedEvent) -> bool,
) -> usize {
    desk.app.record_shed().await.unwrap();
    let events: Vec<_> = desk.events().await.into_iter().filter(&select).collect();
    let requests = |event: &keydesk::model::audit::RecordedEvent| -> u64 {
        let detail = event.detail.as_deref().unwrap_or("1");
        detail.split(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(events.iter().map(requests).sum::<u64>(), total);
    events.len()
}

#[tokio::test]
async fn every_answer_of_a_key_read_says_what_is_left() {
    let desk = Desk::open_still(limits("60/minute", "off", "off")).await;
    desk.set_key("default", "openai", "sk-proj-CANARY0123456789").await;
    desk.add_user("alice", Role::Member, &["default"]).await;
    let key = api_key(&desk, "alice", "llm-keys:read").await;
    let get = |path: &str| desk.get(path).bearer_auth(&key);
    let policy = "\"keys\";q=60;w=60";
    let first = get("/llm-keys").send().await.unwrap();
    let etag = header(&first, "etag").to_owned();
    assert_eq!(
        (header(&first, "ratelimit-policy"), header(&first, "ratelimit")),
        (policy, "\"keys\";r=59;t=1")
    );
    for (request, status, left) in [
        (get("/llm-keys").header("if-none-match", &etag), 304, 58),
        (get("/llm-keys/openai"), 200, 57),
        (get("/llm-keys/groq"), 404, 56),
        (get("/llm-keys?project=nowhere"), 403, 55),
        (get("/llm-keys?project=a&project=b"), 400, 54),
        (desk.get("/llm-keys").header("x-api-key", &key), 200, 53),
        (desk.get("/llm-keys").bearer_auth(desk.login("alice").await), 200, 52),
    ] {
        assert_eq!(said(request).await, row(status, policy, &format!("\"keys\";r={left};t=1"), ""));
    }
    assert_eq!(said(desk.get("/llm-keys")).await, row(401, "", "", ""), "nobody has a quota");
    assert_eq!(said(get("/me")).await, row(200, "", "", ""), "not limited");
    assert_eq!(said(get("/llm-keys").header("x-service-account", "robot")).await.0, 401);
    desk.clock.advance(Duration::from_secs(4));
    assert_eq!(said(get("/llm-keys")).await, row(200, policy, "\"keys\";r=55;t=1", ""));
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back_and_nobody_else_notices() {
    let desk = Desk::open_still(limits("5/minute", "off", "off")).await;
    desk.set_key("default", "openai", "sk-proj-CANARY0123456789").await;
    for user in ["alice", "bob"] {
        desk.add_user(user, Role::Member, &["default"]).await;
    }
    let (alice, bob) =
        (api_key(&desk, "alice", "llm-keys:read").await, api_key(&desk, "bob", "llm-keys:read").await);
    let policy = "\"keys\";q=5;w=60";
    for left in [4, 3, 2, 1, 0] {
        let expected = row(200, policy, &format!("\"keys\";r={left};t=12"), "");
        assert_eq!(said(desk.get("/llm-keys").bearer_auth(&alice)).await, expected);
    }
    for _ in 0..45 {
        let response = desk.get("/llm-keys").bearer_auth(&alice).send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), header(&response, "content-type")),
            (429, "application/problem+json")
        );
        assert_eq!(
            (header(&response, "retry-after"), header(&response, "ratelimit")),
            ("12", "\"keys\";r=0;t=12")
        );
        assert!(!response.text().await.unwrap().contains("CANARY"));
    }
    for left in [4, 3, 2] {
        let expected = row(200, policy, &format!("\"keys\";r={left};t=12"), "");
        assert_eq!(said(desk.get("/llm-keys").bearer_auth(&bob)).await, expected);
    }
    desk.clock.advance(Duration::from_secs(12));
    assert_eq!(
        said(desk.get("/llm-keys").bearer_auth(&alice)).await,
        row(200, policy, "\"keys\";r=0;t=12", "")
    );
    let lines = counted(&desk, 45, |event| event.reason.as_deref() == Some("rate_limited")).await;
    assert_eq!(lines, 1, "for 45 refusals");
    let events = desk.events().await;
    let event = events.iter().find(|event| event.reason.as_deref() == Some("rate_limited")).unwrap();
    assert_eq!(
        (event.actor.as_str(), event.action.as_str(), event.outcome.as_str()),
        ("alice", "llm_keys.read", "denied")
    );
}

#[tokio::test]
async fn requests_for_tokens_are_limited_by_source_before_anything_is_read() {
    let desk = Desk::open_still(limits("off", "3/minute", "off")).await;
    let post = |source: &str| {
        let request = desk.http.post(format!("{}/token", desk.url)).header("x-forwarded-for", source);
        request.form(&[("grant_type", "password"), ("username", "admin"), ("password", PASSWORD)])
    };
    let policy = "\"token\";q=3;w=60";
    for (source, left) in
        [("192.0.2.1", 2), ("192.0.2.1", 1), ("2001:db8::1", 2), ("2001:db8::2", 1), ("2001:db8:0:1::1", 2)]
    {
        assert_eq!(
            said(post(source)).await,
            row(200, policy, &format!("\"token\";r={left};t=20"), ""),
            "{source}"
        );
    }
    let malformed =
        desk.http.post(format!("{}/token", desk.url)).header("x-forwarded-for", "192.0.2.1").body("x");
    assert_eq!(said(malformed).await, row(400, policy, "\"token\";r=0;t=20", ""));
    let hashed = || async {
        let page = desk.app.metrics_page().await;
        let line = page.lines().find(|line| line.starts_with("keydesk_password_hash_duration_seconds_count"));
        line.unwrap().to_owned()
    };
    let before = hashed().await;
    let refused = post("192.0.2.1").send().await.unwrap();
    assert_eq!((refused.status().as_u16(), header(&refused, "content-type")), (429, "application/json"));
    assert_eq!(
        (header(&refused, "retry-after"), header(&refused, "ratelimit")),
        ("20", "\"token\";r=0;t=20")
    );
    assert_eq!(json(refused).await["error"], "temporarily_unavailable");
    assert_eq!(hashed().await, before, "no password was looked at");
    assert_eq!(said(post("192.0.2.2")).await.0, 200);
    desk.clock.advance(Duration::from_secs(20));
    assert_eq!(said(post("192.0.2.1")).await.0, 200);
    counted(&desk, 1, |event| event.reason.as_deref() == Some("rate_limited") && event.source == "192.0.2.1")
        .await;
}

#[tokio::test]
async fn a_revocation_counts_as_a_request_for_a_token() {
    let desk = Desk::open_still(limits("off", "3/minute", "off")).await;
    let revoke = |token: &str| {
        let request = desk.http.post(format!("{}/revoke", desk.url)).header("x-forwarded-for", "192.0.2.1");
        request.form(&[("token", token)])
    };
    let form = [("grant_type", "password"), ("username", "admin"), ("password", PASSWORD)];
    let login =
        desk.http.post(format!("{}/token", desk.url)).header("x-forwarded-for", "192.0.2.1").form(&form);
    let token = json(login.send().await.unwrap()).await["refresh_token"].as_str().unwrap().to_owned();
    let policy = "\"token\";q=3;w=60";
    assert_eq!(said(revoke("kd_rt_unknown")).await, row(200, policy, "\"token\";r=1;t=20", ""));
    assert_eq!(said(revoke("")).await, row(400, policy, "\"token\";r=0;t=20", ""));
    let refused = revoke(&token).send().await.unwrap();
    let id = header(&refused, "x-request-id").to_owned();
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (429, "20"));
    assert_eq!(json(refused).await["error"], "temporarily_unavailable");
    counted(&desk, 1, |event| {
        event.action == "token.revoke" && event.reason.as_deref() == Some("rate_limited")
    })
    .await;
    assert!(desk.events_of(&id).await.iter().all(|event| event.outcome == "denied"));
    desk.clock.advance(Duration::from_secs(20));
    assert_eq!(said(revoke(&token)).await, row(200, policy, "\"token\";r=0;t=20", ""));
}

#[tokio::test]
async fn questions_about_tokens_are_limited_by_client() {
    let desk = Desk::open_still(limits("off", "off", "2/minute")).await;
    let (one, two) = (desk.add_account("one", &[]).await, desk.add_account("two", &[]).await);
    let ask = |name: &str, secret: &str| {
        let request = desk.http.post(format!("{}/introspect", desk.url)).basic_auth(name, Some(secret));
        request.form(&[("token", "x")])
    };
    let policy = "\"introspect\";q=2;w=60";
    for (status, left, wait) in [(200, "r=1;t=30", ""), (200, "r=0;t=30", ""), (429, "r=0;t=30", "30")] {
        let expected = row(status, policy, &format!("\"introspect\";{left}"), wait);
        assert_eq!(said(ask("one", open(&one.client_secret))).await, expected);
    }
    assert_eq!(said(ask("two", open(&two.client_secret))).await.0, 200);
    assert_eq!(said(ask("one", "wrong")).await, row(401, "", "", ""), "nobody has a quota");
}

#[tokio::test]
async fn health_documentation_and_discovery_are_not_limited_and_off_is_off() {
    let desk = Desk::open_still(limits("1/day", "1/day", "1/day")).await;
    for path in ["/health", "/health/ready", "/docs", "/openapi.json", "/.well-known/jwks.json"] {
        for _ in 0..3 {
            assert_eq!(said(desk.get(path)).await, row(200, "", "", ""), "{path}");
        }
    }
    let desk = Desk::open().await;
    let token = desk.login("admin").await;
    for _ in 0..100 {
        assert_eq!(said(desk.get("/llm-keys").bearer_auth(&token)).await, row(200, "", "", ""));
    }
}

#[test]
fn the_specification_tells_of_the_limits() {
    let mut limited = BTreeMap::new();
    for operation in Spec::new().operations() {
        for (status, response) in operation.described["responses"].as_object().unwrap() {
            let headers = &response["headers"];
            if headers["RateLimit"].is_object() && headers["RateLimit-Policy"].is_object() {
                limited.entry(operation.id.clone()).or_insert_with(Vec::new).push(status.clone());
            }
        }
    }
    assert_eq!(
        limited.keys().collect::<Vec<_>>(),
        ["getLlmKey", "introspectToken", "issueToken", "listLlmKeys", "revokeToken"]
    );
    assert!(
        limited
            .values()
            .all(|statuses| statuses.contains(&"429".to_owned()) && statuses.contains(&"200".to_owned()))
    );
}

#[tokio::test]
async fn strangers_cannot_fill_the_book_and_every_refusal_is_counted() {
    let desk = Desk::open_still(limits("off", "off", "off")).await;
    let request = |number: usize, source: &str| {
        let request = desk.get("/llm-keys").header("x-forwarded-for", source);
        match number % 4 {
            0 => request,
            1 => request.bearer_auth("junk"),
            2 => request.header("x-api-key", "kd_ak_junk"),
            _ => request.header("authorization", "Bearer"),
        }
    };
    let noisy = |event: &keydesk::model::audit::RecordedEvent| {
        event.source == "192.0.2.66" && event.outcome == "denied"
    };
    for number in 0..200 {
        assert_eq!(request(number, "192.0.2.66").send().await.unwrap().status(), 401);
    }
    let lines = counted(&desk, 200, noisy).await;
    assert_eq!(lines, 60 + 3, "for 200 refusals of three kinds");
    // Somebody else has a line of their own, at once.
    let response: Response = request(0, "192.0.2.1").send().await.unwrap();
    assert_eq!(desk.events_of(header(&response, "x-request-id")).await.len(), 1);
    desk.clock.advance(Duration::from_mins(1));
    let response = request(1, "192.0.2.66").send().await.unwrap();
    assert_eq!(desk.events_of(header(&response, "x-request-id")).await.len(), 1, "the quota is whole again");
}

#[tokio::test]
async fn many_strangers_together_cannot_fill_the_book_either() {
    let desk = Desk::open_still(limits("off", "off", "off")).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let request = desk.get("/llm-keys");
        tasks.spawn(async move {
            for number in 0..300 {
                let source = format!("198.51.{}.{}", task * 2 + number / 200, number % 200);
                let request = request.try_clone().unwrap().header("x-forwarded-for", source);
                assert_eq!(request.send().await.unwrap().status(), 401);
            }
        });
    }
    tasks.join_all().await;
    desk.app.record_shed().await.unwrap();
    let events = desk.events().await;
    let alone = events.iter().filter(|event| event.reason.as_deref() == Some("credential_missing"));
    assert_eq!(alone.count(), 600 + 8, "a minute's quota, and a few by name");
    let rest = events.iter().filter(|event| event.reason.as_deref() == Some("refused: 592 requests"));
    assert_eq!(rest.count(), 1);
}
