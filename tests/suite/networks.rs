//! Where a request comes from, and what follows from it.

use keydesk::{
    app::{Settings, api_keys::NewKey, principals::Patch},
    model::{Networks, Page, PrincipalKind, Role},
};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    asker::{ALL, Asker, Spec, api_key},
    desk::{Desk, PASSWORD, header, json, open, operator},
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
        assert_eq!(said, ("request.admit", "denied", Some("invalid_request"), "127.0.0.1"), "{list}");
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

/// Asks from an address, as the proxy says.
async fn ask(desk: &Desk, source: &str, credential: &str, path: &str) -> Response {
    let request = desk.get(path).header("x-forwarded-for", source).bearer_auth(credential);
    request.send().await.unwrap()
}

async fn token(desk: &Desk, source: &str, form: &[(&str, &str)]) -> (u16, Value) {
    let request = desk.http.post(format!("{}/token", desk.url)).form(form);
    let response = request.header("x-forwarded-for", source).send().await.unwrap();
    (response.status().as_u16(), json(response).await)
}

const INSIDE: &str = "192.0.2.5";
const OUTSIDE: &str = "198.51.100.5";

fn office() -> Networks {
    Networks::within(vec!["192.0.2.0/24".parse().unwrap()]).unwrap()
}

async fn bind(desk: &Desk, kind: PrincipalKind, name: &str, networks: Networks) {
    let patch = Patch { networks: Some(networks), ..Patch::default() };
    desk.app.update_principal(&operator(), kind, &name.parse().unwrap(), patch, None).await.unwrap();
}

/// Every way to use a credential of `alice` or `robot`: the status, the OAuth error if there is one, the book's reason.
async fn everything(desk: &Desk, source: &str, credentials: &Value) -> Vec<(u16, String)> {
    let text = |name: &str| credentials[name].as_str().unwrap();
    let mut seen = Vec::new();
    for credential in ["access_token", "api_key", "machine_token", "machine_key"] {
        let response = ask(desk, source, text(credential), "/llm-keys").await;
        let (status, media_type) = (response.status().as_u16(), header(&response, "content-type").to_owned());
        let event = desk.events_of(header(&response, "x-request-id")).await.remove(0);
        let body = json(response).await.to_string();
        if status != 200 {
            assert_eq!(media_type, "application/problem+json");
            assert!(!body.contains("CANARY"));
            assert_eq!((event.action.as_str(), event.source.as_str()), ("credential.verify", source));
            assert!(event.principal_id.is_some(), "the book knows whose it is");
        }
        seen.push((status, event.reason.unwrap_or_default()));
    }
    let basic = [("client_id", "robot"), ("client_secret", text("client_secret"))];
    for form in [
        vec![("grant_type", "password"), ("username", "alice"), ("password", PASSWORD)],
        [&[("grant_type", "client_credentials")][..], &basic].concat(),
        vec![("grant_type", "refresh_token"), ("refresh_token", text("refresh_token"))],
    ] {
        let (status, body) = token(desk, source, &form).await;
        seen.push((status, body["error"].as_str().unwrap_or_default().to_owned()));
    }
    let form = [&[("token", text("access_token"))][..], &basic].concat();
    let request = desk.http.post(format!("{}/introspect", desk.url)).form(&form);
    let response = request.header("x-forwarded-for", source).send().await.unwrap();
    let (status, body) = (response.status().as_u16(), json(response).await);
    seen.push((status, body["error"].as_str().unwrap_or_default().to_owned()));
    seen
}

/// Credentials of every kind, of the user `alice` and the account `robot`.
async fn credentials(desk: &Desk) -> Value {
    desk.add_user("alice", Role::Member, &["default"]).await;
    desk.set_key("default", "openai", "sk-proj-CANARY0123456789").await;
    let robot = desk.add_account("robot", &["default"]).await;
    let tokens = desk.tokens_of("alice", PASSWORD, "llm-keys:read").await;
    let secret = open(&robot.client_secret);
    let form = [("grant_type", "client_credentials"), ("client_id", "robot"), ("client_secret", secret)];
    let machine = json(desk.token_request(&form).await).await;
    json!({
        "access_token": tokens["access_token"],
        "refresh_token": tokens["refresh_token"],
        "api_key": api_key(desk, "alice", "llm-keys:read").await,
        "machine_token": machine["access_token"],
        "machine_key": open(&robot.token),
        "client_secret": secret,
    })
}

#[tokio::test]
async fn no_credential_of_any_kind_works_outside_its_principals_networks() {
    let desk = behind_a_proxy(|_| {}).await;
    let credentials = credentials(&desk).await;
    bind(&desk, PrincipalKind::User, "alice", office()).await;
    bind(&desk, PrincipalKind::ServiceAccount, "robot", office()).await;
    let rows = |list: [(u16, &str); 8]| list.map(|(status, why)| (status, why.to_owned())).to_vec();
    let elsewhere = [(403, "network"); 4];
    let elsewhere = [
        elsewhere.as_slice(),
        &[(400, "invalid_grant"), (401, "invalid_client"), (400, "invalid_grant"), (401, "invalid_client")],
    ];
    let elsewhere = rows(elsewhere.concat().try_into().unwrap());
    assert_eq!(everything(&desk, OUTSIDE, &credentials).await, elsewhere);
    assert_eq!(everything(&desk, "2001:db8::1", &credentials).await, elsewhere);
    // Nothing was used up outside: the same refresh token is good inside.
    assert_eq!(everything(&desk, INSIDE, &credentials).await, rows([(200, ""); 8]));
    let reasons: Vec<_> = desk.events().await.into_iter().filter(|event| event.source == OUTSIDE).collect();
    assert_eq!(reasons.len(), 8);
    assert!(
        reasons.iter().all(|event| event.outcome == "denied" && event.reason.as_deref() == Some("network"))
    );
    bind(&desk, PrincipalKind::User, "alice", Networks::ANYWHERE).await;
    let seen = everything(&desk, OUTSIDE, &credentials).await;
    assert_eq!((seen[0].0, seen[1].0, seen[2].0, seen[4].0), (200, 200, 403, 200), "in force at once");
}

#[tokio::test]
async fn a_login_from_elsewhere_looks_like_a_wrong_password() {
    let desk = behind_a_proxy(|_| {}).await;
    desk.add_user("alice", Role::Member, &[]).await;
    bind(&desk, PrincipalKind::User, "alice", office()).await;
    let mut answers = Vec::new();
    for (source, password) in [(OUTSIDE, PASSWORD), ("198.51.100.6", "not the password at all")] {
        let mut sequence = Vec::new();
        for _ in 0..7 {
            let form = [("grant_type", "password"), ("username", "alice"), ("password", password)];
            let request = desk.http.post(format!("{}/token", desk.url)).form(&form);
            let response = request.header("x-forwarded-for", source).send().await.unwrap();
            let mut headers = response.headers().clone();
            for varying in ["x-request-id", "date"] {
                headers.remove(varying);
            }
            sequence.push((response.status(), format!("{headers:?}"), response.text().await.unwrap()));
        }
        answers.push(sequence);
    }
    assert_eq!(answers[0], answers[1], "the same answers, and counted alike");
    assert_eq!(answers[0][6].0, 429);
}

#[tokio::test]
async fn an_api_key_is_bound_by_its_own_networks_and_by_its_owners() {
    let desk = behind_a_proxy(|_| {}).await;
    desk.add_user("alice", Role::Member, &["default"]).await;
    let issue = async |networks: &[&str]| {
        let sources = Networks::within(networks.iter().map(|text| text.parse().unwrap()).collect()).unwrap();
        let new = NewKey { sources, ..NewKey::default() };
        let issued = desk.app.issue_api_key(&operator(), &"alice".parse().unwrap(), new).await.unwrap();
        open(&issued.api_key).to_owned()
    };
    let both = issue(&["192.0.2.0/24", "198.51.100.0/24"]).await;
    let other = issue(&["198.51.100.0/24"]).await;
    let statuses = async || {
        let mut statuses = Vec::new();
        for (key, source) in [(&both, INSIDE), (&both, OUTSIDE), (&other, INSIDE), (&other, OUTSIDE)] {
            statuses.push(ask(&desk, source, key, "/me").await.status().as_u16());
        }
        statuses
    };
    assert_eq!(statuses().await, [200, 200, 403, 200]);
    bind(&desk, PrincipalKind::User, "alice", office()).await;
    assert_eq!(statuses().await, [200, 403, 403, 403]);
    desk.app.record_uses().await.unwrap();
    let keys = desk.app.api_keys(&operator(), None, &Page::all()).await.unwrap().items;
    let used = keys.iter().filter(|key| key.last_used_at.is_some()).count();
    assert_eq!((keys.len(), used), (2, 2));
}

/// Sends this and no more, and returns what is said until the desk hangs up.
async fn converse(desk: &Desk, request: &str) -> String {
    let mut connection = TcpStream::connect(desk.url.trim_start_matches("http://")).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    connection.read_to_string(&mut said).await.unwrap();
    said
}

#[tokio::test]
async fn from_outside_the_desks_networks_nothing_but_health_is_answered() {
    let desk = behind_a_proxy(|settings| settings.allow_from = office()).await;
    let admin =
        token(&desk, INSIDE, &[("grant_type", "password"), ("username", "admin"), ("password", PASSWORD)])
            .await;
    let admin = admin.1["access_token"].as_str().unwrap().to_owned();
    for path in [
        "/llm-keys",
        "/me",
        "/docs",
        "/openapi.json",
        "/.well-known/jwks.json",
        "/admin/users",
        "/nowhere",
        "/%68ealth",
    ] {
        let response = ask(&desk, OUTSIDE, &admin, path).await;
        assert_eq!(
            (response.status().as_u16(), header(&response, "content-type")),
            (403, "application/problem+json"),
            "{path}"
        );
        let event = desk.events_of(header(&response, "x-request-id")).await.remove(0);
        let said = (event.action.as_str(), event.reason.as_deref(), event.source.as_str());
        assert_eq!(said, ("request.admit", Some("network"), OUTSIDE), "{path}");
    }
    let (status, body) = token(&desk, OUTSIDE, &[("grant_type", "password")]).await;
    assert_eq!((status, &body["error"]), (403, &json!("access_denied")));
    for path in ["/health", "/health/ready"] {
        assert_eq!(ask(&desk, OUTSIDE, "", path).await.status(), 200, "{path}");
    }
    // That is all they hear: not what else is wrong, nor when they are done with a body that never comes.
    let announced = "Content-Length: 9\r\nContent-Type: application/x-www-form-urlencoded";
    let long = format!("X-Long: {}", "a".repeat(20_000));
    for (host, more) in [
        ("evil.example", "Accept: */*"),
        ("", "Accept: */*"),
        ("localhost", announced),
        ("localhost", "Content-Length: 999999"),
        ("localhost", "Content-Encoding: gzip"),
        ("localhost", &long),
    ] {
        let head =
            format!("POST /token HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: {OUTSIDE}\r\n{more}\r\n\r\n");
        let said = converse(&desk, &head).await;
        assert!(
            said.starts_with("HTTP/1.1 403 ") && said.contains("access_denied"),
            "{host} {more:.40}: {said}"
        );
        let (_, id) = said.split_once("x-request-id: ").unwrap();
        let event = desk.events_of(id.lines().next().unwrap()).await.remove(0);
        assert_eq!((event.action.as_str(), event.source.as_str()), ("request.admit", OUTSIDE));
    }
    assert_eq!(ask(&desk, INSIDE, &admin, "/me").await.status(), 200);
    // The proxy itself is not inside; nor is a stranger who says so without it.
    assert_eq!(desk.get("/me").bearer_auth(&admin).send().await.unwrap().status(), 403);
    let request = client_at("127.0.0.2").get(format!("{}/me", desk.url)).header("x-forwarded-for", INSIDE);
    assert_eq!(request.bearer_auth(&admin).send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn outside_the_networks_of_administration_no_admin_operation_is_done() {
    let desk = behind_a_proxy(|settings| settings.admin_allow_from = office()).await;
    let admin = desk.token_of("admin", PASSWORD, ALL).await;
    let spec = Spec::new();
    let mut refused = 0;
    for operation in spec.operations().iter().filter(|operation| operation.path.starts_with("/admin/")) {
        let path =
            operation.path.replace("{id}", "019a0000-0000-7000-8000-00000000ffff").replace(['{', '}'], "");
        let method: reqwest::Method = operation.method.parse().unwrap();
        let mut request = desk.http.request(method, format!("{}{path}", desk.url)).bearer_auth(&admin);
        request = request.header("if-match", "*").header("x-forwarded-for", OUTSIDE);
        if let Some(example) = Spec::example(operation) {
            request = request.json(example);
        }
        let response = request.send().await.unwrap();
        let id = header(&response, "x-request-id").to_owned();
        assert_eq!(response.status(), 403, "{}", operation.id);
        let event = desk.events_of(&id).await.remove(0);
        assert_eq!(
            (event.actor.as_str(), event.reason.as_deref()),
            ("admin", Some("network")),
            "{}",
            operation.id
        );
        refused += 1;
    }
    assert!(refused > 25, "{refused}");
    assert_eq!(ask(&desk, OUTSIDE, &admin, "/llm-keys").await.status(), 200, "keys are not administration");
    assert_eq!(ask(&desk, OUTSIDE, &admin, "/me").await.status(), 200);
    assert_eq!(ask(&desk, INSIDE, &admin, "/admin/users").await.status(), 200);
}

#[tokio::test]
async fn networks_are_set_over_http_and_nobody_shuts_themselves_out() {
    let desk = Desk::furnished().await;
    let admin = Asker::admin(&desk).await;
    let user = |name: &str| json!({"name": name, "password": PASSWORD, "networks": ["192.0.2.0/24", "2001:DB8::/32"]});
    let (status, made) = admin.ask("POST", "/admin/users", user("bob")).await;
    assert_eq!((status, &made["networks"]), (201, &json!(["192.0.2.0/24", "2001:db8::/32"])));
    let account = json!({"name": "ci", "networks": ["::ffff:192.0.2.1"]});
    assert_eq!(admin.ask("POST", "/admin/service-accounts", account).await.0, 201);
    assert_eq!(admin.must_get("/admin/service-accounts/ci").await["networks"], json!(["192.0.2.1/32"]));
    assert_eq!(admin.must_get("/admin/users/alice").await["networks"], json!(null));

    let patch = async |name: &str, body: Value| {
        let response = admin.patch(&format!("/admin/users/{name}"), "*", &body).await;
        (response.status().as_u16(), json(response).await)
    };
    let (status, changed) = patch("bob", json!({"networks": ["10.0.0.0/8"]})).await;
    assert_eq!((status, &changed["networks"], &changed["version"]), (200, &json!(["10.0.0.0/8"]), &json!(2)));
    let (status, changed) = patch("bob", json!({"role": "auditor"})).await;
    assert_eq!((status, &changed["networks"]), (200, &json!(["10.0.0.0/8"])), "what is left out stays");
    let (status, changed) = patch("bob", json!({"networks": null})).await;
    assert_eq!((status, &changed["networks"]), (200, &json!(null)));
    for (bad, why) in [
        (json!([]), "from 1 to 100 networks"),
        (json!(vec!["10.0.0.0/8"; 101]), "from 1 to 100 networks"),
        (json!(["10.0.0.0/33"]), "a network is not right"),
        (json!("10.0.0.0/8"), "wrong type"),
    ] {
        let (status, body) = patch("bob", json!({"networks": bad})).await;
        assert_eq!(status, 400, "{body}");
        assert!(body["detail"].as_str().unwrap().contains(why), "{body}");
    }
    let (status, body) =
        admin.ask("POST", "/admin/users", json!({"name": "x", "password": PASSWORD, "networks": []})).await;
    assert_eq!(status, 400, "{body}");
    let (status, body) = patch("admin", json!({"networks": ["192.0.2.0/24"]})).await;
    assert_eq!(status, 409);
    assert!(body["detail"].as_str().unwrap().contains("shut yourself out"), "{body}");
    assert_eq!(patch("admin", json!({"networks": ["127.0.0.0/8"]})).await.0, 200);
    let events = desk.events().await;
    let details: Vec<_> = events
        .iter()
        .filter(|event| event.action == "principal.update")
        .filter_map(|event| event.detail.as_deref())
        .collect();
    assert!(details.contains(&"from 10.0.0.0/8") && details.contains(&"from anywhere"), "{details:?}");
    let made = events
        .iter()
        .find(|event| event.object.as_deref() == Some("user:bob") && event.action == "user.create");
    assert_eq!(made.unwrap().detail.as_deref(), Some("member from 192.0.2.0/24, 2001:db8::/32"));
}

#[tokio::test]
async fn a_change_of_networks_moves_the_revision() {
    let desk = Desk::furnished().await;
    let mut forger = desk.forger().await;
    let mut revision = async || forger.number("select value from revision").await;
    let before = revision().await;
    bind(&desk, PrincipalKind::User, "alice", office()).await;
    assert_eq!(revision().await, before + 1);
}
