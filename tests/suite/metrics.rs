//! `/metrics`: what happened is counted, what is is told, and nobody from outside can make it grow.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use keydesk::model::Role;
use reqwest::{Method, Response};
use tokio::net::TcpListener;

use crate::{
    desk::{Desk, START, header, open},
    engine,
};

/// Every series with its value.
type Series = BTreeMap<String, f64>;

/// Opens the listener for metrics and returns its address.
async fn listen(desk: &Desk) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(keydesk::http::serve_metrics(listener, Arc::clone(&desk.app)));
    url
}

async fn get(desk: &Desk, url: &str) -> Response {
    desk.http.get(url).send().await.unwrap()
}

async fn scrape(desk: &Desk, url: &str) -> Series {
    let response = get(desk, &format!("{url}/metrics")).await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    assert!(text.ends_with("\n# EOF\n"));
    let series = text.lines().filter(|line| !line.starts_with('#'));
    series
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[tokio::test]
async fn what_happens_is_counted() {
    let desk = Desk::open().await;
    desk.set_key("default", "openai", "sk-proj-CANARY0123456789").await;
    let robot = desk.add_account("robot", &["default"]).await;
    let url = listen(&desk).await;
    let before = scrape(&desk, &url).await;

    let read = || desk.get("/llm-keys").header("x-api-key", open(&robot.token));
    let etag = header(&read().send().await.unwrap(), "etag").to_owned();
    assert_eq!(read().header("if-none-match", etag).send().await.unwrap().status(), 304);
    let elsewhere = desk.get("/llm-keys?project=elsewhere").header("x-api-key", open(&robot.token));
    assert_eq!(elsewhere.send().await.unwrap().status(), 403);
    assert_eq!(
        desk.get("/llm-keys/sk-CANARY")
            .header("x-api-key", open(&robot.token))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
    desk.login("admin").await;
    for _ in 0..6 {
        let form = [("grant_type", "password"), ("username", "admin"), ("password", "wrong wrong wrong")];
        desk.token_request(&form).await;
    }
    assert_eq!(
        desk.http
            .request(Method::from_bytes(b"BREW").unwrap(), format!("{}/sk-CANARY", desk.url))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );

    let after = scrape(&desk, &url).await;
    let grown = |series: &str| {
        let of = |page: &Series| page.get(series).copied().unwrap_or_default();
        of(&after) - of(&before)
    };
    for (series, by) in [
        (r#"keydesk_http_requests_total{route="/llm-keys",method="GET",status="200"}"#, 1.0),
        (r#"keydesk_http_requests_total{route="/llm-keys",method="GET",status="304"}"#, 1.0),
        (r#"keydesk_http_requests_total{route="/llm-keys",method="GET",status="403"}"#, 1.0),
        (r#"keydesk_http_requests_total{route="/llm-keys/{provider}",method="GET",status="404"}"#, 1.0),
        (r#"keydesk_http_requests_total{route="/token",method="POST",status="200"}"#, 1.0),
        (r#"keydesk_http_requests_total{route="/token",method="POST",status="429"}"#, 1.0),
        (r#"keydesk_http_requests_total{route="none",method="other",status="404"}"#, 1.0),
        (r#"keydesk_http_request_duration_seconds_count{route="/llm-keys"}"#, 3.0),
        (r#"keydesk_http_request_duration_seconds_bucket{le="+Inf",route="/token"}"#, 7.0),
        (r#"keydesk_key_reads_total{outcome="handed"}"#, 1.0),
        (r#"keydesk_key_reads_total{outcome="unchanged"}"#, 1.0),
        (r#"keydesk_key_reads_total{outcome="denied"}"#, 2.0),
        (r#"keydesk_turned_away_total{reason="throttled"}"#, 1.0),
        ("keydesk_password_hash_duration_seconds_count", 6.0),
        ("keydesk_password_queue_duration_seconds_count", 6.0),
        ("keydesk_password_queue", 0.0),
        ("keydesk_audit_commit_failures_total", 0.0),
        ("keydesk_audit_queue", 0.0),
    ] {
        assert!((grown(series) - by).abs() < 1e-9, "{series} has grown by {}", grown(series));
    }
    assert!(grown("keydesk_audit_batch_events_sum") >= 4.0, "each refusal and handover is an event");
    assert!(after["keydesk_http_connections"] >= 1.0 && after["keydesk_http_requests_in_flight"] < 1.0);
    assert!(after["process_open_fds"] > 5.0 && after["process_resident_memory_bytes"] > 1e6);
}

#[tokio::test]
async fn the_state_is_told_as_it_is() {
    let desk = Desk::open().await;
    let url = listen(&desk).await;
    let empty = scrape(&desk, &url).await;
    assert!(!empty.contains_key("keydesk_provider_key_oldest_timestamp_seconds"), "there is none");
    desk.clock.advance(Duration::from_hours(1));
    desk.set_key("default", "openai", "sk-proj-CANARY0123456789").await;
    desk.clock.advance(Duration::from_hours(1));
    desk.set_key("default", "anthropic", "sk-ant-CANARY0123456789").await;
    let state = scrape(&desk, &url).await;
    #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
    let moment = |name: &str| state[&format!("keydesk_{name}_timestamp_seconds")] as i64 - START;
    assert_eq!(moment("signing_key_activated"), 0);
    assert_eq!(moment("data_key_created"), 0);
    assert_eq!(moment("provider_key_oldest"), 3600);
    for dependency in ["store", "audit", "signing_key", "draining"] {
        assert!(state[&format!("keydesk_ready{{dependency=\"{dependency}\"}}")] > 0.5, "{dependency}");
    }
    assert!(state["keydesk_database_size_bytes"] > 10_000.0);
    if engine::server().is_none() {
        assert!(state["keydesk_disk_free_bytes"] <= state["keydesk_disk_size_bytes"]);
    }
    assert!(state.contains_key(&format!("keydesk_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))));

    desk.app.close().await;
    let closed = scrape(&desk, &url).await;
    assert!(closed["keydesk_ready{dependency=\"store\"}"] < 0.5, "a scrape comes through without a database");
    assert!(!closed.contains_key("keydesk_data_key_created_timestamp_seconds"));
}

/// Ten thousand paths, methods, user names, agents and key ids that nobody has seen before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_cannot_make_series() {
    let desk = Arc::new(Desk::open().await);
    desk.add_user("alice", Role::Member, &["default"]).await;
    let url = listen(&desk).await;
    let flood = async |round: usize, requests: usize| {
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let desk = Arc::clone(&desk);
                tokio::spawn(async move {
                    for i in (task..requests).step_by(16) {
                        drop(stranger(&desk, round * 100_000 + i).await);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    };
    flood(1, 500).await;
    let before = scrape(&desk, &url).await;
    flood(2, 10_000).await;
    let after = scrape(&desk, &url).await;
    assert!(
        after.keys().eq(before.keys()),
        "{:?}",
        after.keys().filter(|name| !before.contains_key(*name)).collect::<Vec<_>>()
    );
    assert!(after.keys().all(|series| !series.contains("stranger") && !series.contains("alice")));
}

async fn stranger(desk: &Desk, i: usize) -> Response {
    let name = format!("stranger{i}");
    let path = |path: &str| format!("{}{path}", desk.url);
    let request = match i % 10 {
        0 => desk.http.post(path("/token")).form(&[
            ("grant_type", "password"),
            ("username", &name),
            ("password", &name),
        ]),
        1 => desk.http.get(path(&format!("/llm-keys/{name}"))),
        2 => desk.http.get(path(&format!("/admin/users/{name}"))),
        3 => {
            desk.http.request(Method::from_bytes(name.to_uppercase().as_bytes()).unwrap(), path("/llm-keys"))
        }
        4 => desk.http.get(path("/llm-keys")).header("x-api-key", &name),
        5 => desk.http.get(path("/llm-keys")).bearer_auth(format!("{name}.{name}.{name}")),
        6 => desk.http.get(path("/llm-keys")).header("x-service-account", &name).header("user-agent", &name),
        7 => desk.http.get(path(&format!("/{name}?{name}={name}"))),
        8 => desk.http.get(path("/health")).header("x-request-id", &name).header("host", &name),
        _ => desk.http.delete(path(&format!("/{name}/{name}"))),
    };
    request.send().await.unwrap()
}

#[tokio::test]
async fn metrics_have_a_port_of_their_own_and_nothing_else_on_it() {
    let desk = Desk::open().await;
    let url = listen(&desk).await;
    assert_eq!(desk.get("/metrics").send().await.unwrap().status(), 404);
    let response = get(&desk, &format!("{url}/metrics?name[]=a")).await;
    assert_eq!(
        header(&response, "content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert_eq!(
        (header(&response, "cache-control"), header(&response, "x-content-type-options")),
        ("no-store", "nosniff")
    );
    for path in ["/", "/llm-keys", "/health", "/metrics/", "//metrics"] {
        assert_eq!(get(&desk, &format!("{url}{path}")).await.status(), 404, "{path}");
    }
    let post = desk.http.post(format!("{url}/metrics")).body("x").send().await.unwrap();
    assert_eq!((post.status().as_u16(), header(&post, "allow")), (405, "GET, HEAD"));
    for (host, status) in [
        ("127.0.0.1:9464", 200),
        ("[::1]", 200),
        ("LOCALHOST:9", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("", 421),
    ] {
        let response = desk.http.get(format!("{url}/metrics")).header("host", host).send().await.unwrap();
        assert_eq!(response.status(), status, "a page of somebody else's whose name leads here: {host}");
        assert_eq!(response.text().await.unwrap().contains("keydesk_"), status == 200);
    }
    let head = desk.http.head(format!("{url}/metrics")).send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.text().await.unwrap().as_str()), (200, ""));
}
