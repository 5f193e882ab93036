//! Where a request comes from, and what follows from it.

use keydesk::app::Settings;
use reqwest::{Client, Response};

use crate::{
    asker::Asker,
    desk::{Desk, PASSWORD, header, json},
};

/// A desk behind a proxy at 127.0.0.1, which is where the tests' own client is.
async fn behind_a_proxy(change: impl Fn(&mut Settings)) -> Desk {
    Desk::open_with(|settings| {
        settings.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
        change(settings);
    })
    .await
}

/// A client at another address of this machine.
fn client_at(address: &str) -> Client {
    Client::builder().local_address(address.parse::<std::net::IpAddr>().unwrap()).build().unwrap()
}

/// What the book says of where the request of `response` came from.
async fn source_of(desk: &Desk, response: &Response) -> String {
    let events = desk.events_of(header(response, "x-request-id")).await;
    events.first().unwrap_or_else(|| panic!("no event")).source.clone()
}

#[tokio::test]
async fn the_book_has_the_clients_own_address_whatever_it_says() {
    let desk = behind_a_proxy(|_| {}).await;
    let (proxy, stranger) = (client_at("127.0.0.1"), client_at("127.0.0.2"));
    for (client, headers, expected) in [
        (&stranger, &[("x-forwarded-for", "192.0.2.1")][..], "127.0.0.2"),
        (&stranger, &[("x-forwarded-for", "garbage")], "127.0.0.2"),
        (&proxy, &[], "127.0.0.1"),
        (&proxy, &[("x-forwarded-for", "192.0.2.1")], "192.0.2.1"),
        (&proxy, &[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-for", "192.0.2.1")], "192.0.2.1"),
        (&proxy, &[("X-Forwarded-For", "192.0.2.1, 127.0.0.1")], "192.0.2.1"),
        (&proxy, &[("x-forwarded-for", "::ffff:192.0.2.1")], "192.0.2.1"),
        (&proxy, &[("x-forwarded-for", "[2001:db8::1]:4711")], "2001:db8::1"),
        (&proxy, &[("forwarded", "for=192.0.2.1")], "127.0.0.1"),
        (&proxy, &[("x-real-ip", "192.0.2.1")], "127.0.0.1"),
        (&proxy, &[("cf-connecting-ip", "192.0.2.1")], "127.0.0.1"),
        (&proxy, &[("true-client-ip", "192.0.2.1")], "127.0.0.1"),
        (&proxy, &[("x_forwarded_for", "192.0.2.1")], "127.0.0.1"),
        (&proxy, &[("x-client-ip", "192.0.2.7"), ("x-forwarded-for", "192.0.2.1")], "192.0.2.1"),
    ] {
        let mut request = client.get(format!("{}/llm-keys", desk.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 401, "{headers:?}");
        assert_eq!(source_of(&desk, &response).await, expected, "{headers:?}");
    }
}

#[tokio::test]
async fn a_list_that_nobody_can_read_is_refused_with_the_proxys_address_in_the_book() {
    let desk = behind_a_proxy(|_| {}).await;
    let admin = Asker::admin(&desk).await;
    let hops = vec!["127.0.0.1"; 500].join(",");
    for list in ["", "garbage", "unknown", "fe80::1%eth0", "192.0.2.1:99999", "192.0.2.1,", &hops] {
        let get = |path: &str| desk.get(path).header("x-forwarded-for", list).bearer_auth(&admin.credential);
        let response = get("/me").send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), header(&response, "content-type")),
            (400, "application/problem+json")
        );
        let event = desk.events_of(header(&response, "x-request-id")).await.remove(0);
        let said =
            (event.action.as_str(), event.outcome.as_str(), event.reason.as_deref(), event.source.as_str());
        assert_eq!(said, ("request.locate", "denied", Some("invalid_request"), "127.0.0.1"), "{list}");
        let body = json(response).await;
        assert!(body["detail"].as_str().unwrap().contains("X-Forwarded-For"), "{body}");
        assert_eq!(get("/health").send().await.unwrap().status(), 200, "health is for everybody");
        let form = [("grant_type", "password"), ("username", "admin"), ("password", PASSWORD)];
        let request = desk.http.post(format!("{}/token", desk.url)).form(&form);
        assert_eq!(request.header("x-forwarded-for", list).send().await.unwrap().status(), 400, "{list}");
    }
}

#[tokio::test]
async fn guesses_are_counted_where_the_guesser_is() {
    let desk = behind_a_proxy(|_| {}).await;
    let attempt = async |source: &str, password: &str| {
        let form = [("grant_type", "password"), ("username", "admin"), ("password", password)];
        let request = desk.http.post(format!("{}/token", desk.url)).form(&form);
        request.header("x-forwarded-for", source).send().await.unwrap().status().as_u16()
    };
    for i in 0..5 {
        // Another address each time, as the guesser says; the proxy knows better.
        assert_eq!(attempt(&format!("198.51.100.{i}, 192.0.2.66"), "not the password at all").await, 400);
    }
    assert_eq!(attempt("198.51.100.99, 192.0.2.66", PASSWORD).await, 429);
    assert_eq!(attempt("192.0.2.1", PASSWORD).await, 200, "another client of the same proxy");
}
