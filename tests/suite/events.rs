//! The book is complete: every operation and every command leaves the event that this table says, done or refused. What
//! is not in the table fails the test.

use std::collections::BTreeSet;

use reqwest::Response;
use serde_json::Value;

use crate::{
    asker::{Asker, Spec, api_key},
    desk::{Desk, PASSWORD, header},
    support::Place,
};

/// Operations that anybody may use and that hand nothing over.
const PUBLIC: [&str; 5] = [
    "getJwks",
    "getAuthorizationServerMetadata",
    "getProtectedResourceMetadata",
    "getHealth",
    "getReadiness",
];

/// Every operation with the body it is asked with, in an order in which each finds what it needs, and the events of the
/// answer: done, and refused. A look that is allowed leaves none; refused, it does.
const OPERATIONS: &[(&str, &str, &[&str], &str)] = &[
    ("listLlmKeys", "", &["llm_keys.read"], "credential.verify"),
    ("getLlmKey", "", &["llm_keys.read"], "credential.verify"),
    ("getMe", "", &[], "credential.verify"),
    ("listMyApiKeys", "", &[], "credential.verify"),
    ("createMyApiKey", r#"{"label": "x"}"#, &["api_key.issue"], "credential.verify"),
    ("revokeMyApiKey", "", &["api_key.revoke"], "credential.verify"),
    ("listMySessions", "", &[], "credential.verify"),
    ("endMySession", "", &["session.revoke"], "credential.verify"),
    (
        "createUser",
        r#"{"name": "bob", "password": "OURS", "projects": ["default"]}"#,
        &["grant.set", "user.create"],
        "user.create",
    ),
    ("listUsers", "", &[], "admin.read"),
    ("getUser", "", &[], "admin.read"),
    ("updateUser", r#"{"role": "auditor"}"#, &["principal.update"], "principal.update"),
    (
        "setUserPassword",
        r#"{"password": "another set of good words"}"#,
        &["user.set_password"],
        "user.set_password",
    ),
    ("resetUserPassword", "", &["user.set_password"], "user.set_password"),
    ("createUserApiKey", "{}", &["api_key.issue"], "admin.read"),
    ("listUserApiKeys", "", &[], "admin.read"),
    ("revokeUserApiKey", "", &["api_key.revoke"], "admin.read"),
    ("deleteUser", "", &["principal.delete"], "principal.delete"),
    (
        "createServiceAccount",
        r#"{"name": "ci", "projects": ["default"]}"#,
        &["api_key.issue", "grant.set", "service_account.create"],
        "service_account.create",
    ),
    ("listServiceAccounts", "", &[], "admin.read"),
    ("getServiceAccount", "", &[], "admin.read"),
    ("updateServiceAccount", r#"{"disabled": true}"#, &["principal.disable"], "principal.disable"),
    ("rotateClientSecret", "{}", &["client_secret.rotate"], "client_secret.rotate"),
    ("createServiceAccountApiKey", "{}", &["api_key.issue"], "admin.read"),
    ("listServiceAccountApiKeys", "", &[], "admin.read"),
    ("revokeServiceAccountApiKey", "", &["api_key.revoke"], "admin.read"),
    ("deleteServiceAccount", "", &["principal.delete"], "principal.delete"),
    ("createProject", r#"{"name": "search"}"#, &["project.create"], "project.create"),
    ("listProjects", "", &[], "admin.read"),
    ("getProject", "", &[], "admin.read"),
    ("setProviderKey", r#"{"key": "sk-proj-0123456789abcdef"}"#, &["provider_key.set"], "provider_key.set"),
    ("listProviderKeys", "", &[], "admin.read"),
    ("getProviderKey", "", &[], "admin.read"),
    ("deleteProviderKey", "", &["provider_key.delete"], "provider_key.delete"),
    ("setGrant", r#"{"providers": null}"#, &["grant.set"], "grant.set"),
    ("listGrants", "", &[], "admin.read"),
    ("deleteGrant", "", &["grant.remove"], "grant.remove"),
    ("deleteProject", "", &["project.delete"], "project.delete"),
    ("listAuditEvents", "", &[], "audit.read"),
    ("listSigningKeys", "", &[], "admin.read"),
    ("rotateSigningKey", "{}", &["signing_key.create"], "signing_key.create"),
    (
        "changeMyPassword",
        r#"{"old_password": "OURS", "new_password": "yet another set of words"}"#,
        &["user.set_password"],
        "credential.verify",
    ),
];

/// Who and what the paths of operations name, but for what was made or found before.
const NAMES: [(&str, &str); 5] = [
    ("{username}", "bob"),
    ("{name}", "ci"),
    ("{project}", "search"),
    ("{principal}", "alice"),
    ("{provider}", "openai"),
];

/// The events of one answer: action and outcome.
async fn left(desk: &Desk, request_id: &str) -> Vec<(String, String)> {
    let mut events: Vec<_> =
        desk.events_of(request_id).await.into_iter().map(|event| (event.action, event.outcome)).collect();
    events.sort();
    events
}

/// The oldest session of the asker.
async fn oldest_session(asker: &Asker<'_>) -> String {
    let list = asker.must_get("/me/sessions").await;
    list["items"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned()
}

/// Asks with the body of the row, in the way its method wants.
async fn ask(asker: &Asker<'_>, method: &str, path: &str, body: &Value) -> Response {
    match method {
        "PATCH" => asker.patch(path, "*", body).await,
        _ => asker.send(method, path, Some(body).filter(|body| !body.is_null())).await,
    }
}

#[tokio::test]
async fn every_operation_leaves_its_event() {
    let desk = Desk::furnished().await;
    desk.set_key("default", "openai", "sk-proj-0123456789abcdef").await;
    // A session that can be ended without ending the one that asks.
    desk.login("admin").await;
    let admin = Asker::admin(&desk).await;
    let nobody = Asker::new(&desk, "kd_ak_nonsense");
    let alice = Asker::new(&desk, api_key(&desk, "alice", "llm-keys:read").await);
    let (mut faults, mut seen, mut key) = (Vec::new(), BTreeSet::new(), String::new());
    let operations = Spec::new().operations();
    for &(id, body, done, refused) in OPERATIONS {
        let operation = operations.iter().find(|operation| operation.id == id).unwrap();
        let object = if id == "endMySession" { oldest_session(&admin).await } else { key.clone() };
        let mut path = operation.path.replace("{id}", &object);
        for (name, value) in NAMES {
            path = path.replace(name, value);
        }
        let body = serde_json::from_str(&body.replace("OURS", PASSWORD)).unwrap_or(Value::Null);
        // Who shows nothing valid is refused before anybody looks what they want; who lacks the scope, after.
        let asker = if refused == "credential.verify" { &nobody } else { &alice };
        let answer = ask(asker, &operation.method, &path, &body).await;
        let found = left(&desk, header(&answer, "x-request-id")).await;
        if found != [(refused.to_owned(), "denied".to_owned())] {
            faults.push(format!("{id} refused with {}: {found:?}", answer.status()));
        }
        let answer = ask(&admin, &operation.method, &path, &body).await;
        let (status, request_id) = (answer.status(), header(&answer, "x-request-id").to_owned());
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null);
        let expected: Vec<_> =
            done.iter().map(|action| ((*action).to_owned(), "allowed".to_owned())).collect();
        let found = left(&desk, &request_id).await;
        if !status.is_success() || found != expected {
            faults.push(format!("{id} done with {status}: {found:?} {answer}"));
        }
        if let Some(id) = answer["id"].as_str() {
            key = id.to_owned();
        }
        seen.insert(id);
    }
    assert!(faults.is_empty(), "{faults:#?}");
    let oauth = ["issueToken", "revokeToken", "introspectToken"];
    for operation in &operations {
        let id = operation.id.as_str();
        assert!(seen.contains(id) || PUBLIC.contains(&id) || oauth.contains(&id), "{id} is not in the table");
    }
}

#[tokio::test]
async fn the_oauth_endpoints_leave_their_events() {
    let desk = Desk::furnished().await;
    let robot = desk.add_account("machine", &["default"]).await;
    let secret = crate::desk::open(&robot.client_secret).to_owned();
    let refresh = desk.tokens_of("alice", PASSWORD, "").await["refresh_token"].as_str().unwrap().to_owned();
    let client = [("client_id", "machine"), ("client_secret", secret.as_str())];
    let password = [("grant_type", "password"), ("username", "alice"), ("password", PASSWORD)];
    let wrong = [("grant_type", "password"), ("username", "alice"), ("password", "wrong wrong wrong")];
    let stranger = [("grant_type", "password"), ("username", "nobody"), ("password", "wrong wrong wrong")];
    let token = ("token", refresh.as_str());
    let (of_client, of_refresh) = (("grant_type", "client_credentials"), ("grant_type", "refresh_token"));
    for (path, form, action, outcome) in [
        ("/token", password.to_vec(), "token.issue", "allowed"),
        ("/token", wrong.to_vec(), "token.issue", "denied"),
        ("/token", stranger.to_vec(), "token.issue", "denied"),
        ("/token", vec![of_client, client[0], client[1]], "token.issue", "allowed"),
        ("/token", vec![of_client, client[0], ("client_secret", "wrong")], "token.issue", "denied"),
        ("/token", vec![of_refresh, ("refresh_token", &refresh)], "token.refresh", "allowed"),
        ("/token", vec![of_refresh, ("refresh_token", "kd_rt_nonsense")], "token.refresh", "denied"),
        ("/token", vec![("grant_type", "nonsense")], "token.issue", "denied"),
        ("/revoke", vec![token], "token.revoke", "allowed"),
        ("/revoke", vec![token, client[0], ("client_secret", "wrong")], "token.revoke", "denied"),
        ("/introspect", vec![token], "token.introspect", "denied"),
    ] {
        let response = desk.http.post(format!("{}{path}", desk.url)).form(&form).send().await.unwrap();
        let found = left(&desk, header(&response, "x-request-id")).await;
        assert_eq!(
            found,
            [(action.to_owned(), outcome.to_owned())],
            "{path} {form:?}: {}",
            response.status()
        );
    }
    let admin = Asker::admin(&desk).await;
    let request = desk.http.post(format!("{}/introspect", desk.url)).bearer_auth(&admin.credential);
    let response = request.form(&[token]).send().await.unwrap();
    let found = left(&desk, header(&response, "x-request-id")).await;
    assert_eq!(found, [("token.introspect".to_owned(), "allowed".to_owned())]);
}

/// Every command with what it does, in an order in which each finds what it needs, and what it leaves in the book.
const COMMANDS: &[(&[&str], &str, &[&str])] = &[
    (&["user", "add", "bob", "--password-stdin"], PASSWORD, &["user.create"]),
    (&["user", "list"], "", &[]),
    (&["user", "show", "bob"], "", &[]),
    (&["user", "passwd", "bob", "--password-stdin"], "another set of words", &["user.set_password"]),
    (&["user", "reset-password", "bob"], "", &["user.set_password"]),
    (&["user", "unlock", "bob"], "", &["user.unlock"]),
    (&["user", "networks", "bob", "--anywhere"], "", &["principal.update"]),
    (&["user", "disable", "bob"], "", &["principal.disable"]),
    (&["user", "enable", "bob"], "", &["principal.enable"]),
    (&["service-account", "add", "ci"], "", &["api_key.issue", "service_account.create"]),
    (&["service-account", "list"], "", &[]),
    (&["service-account", "rotate-secret", "ci"], "", &["client_secret.rotate"]),
    (&["service-account", "networks", "ci", "--anywhere"], "", &["principal.update"]),
    (&["service-account", "disable", "ci"], "", &["principal.disable"]),
    (&["service-account", "enable", "ci"], "", &["principal.enable"]),
    (&["api-key", "add", "bob"], "", &["api_key.issue"]),
    (&["api-key", "list"], "", &[]),
    (&["api-key", "revoke", "KEY"], "", &["api_key.revoke"]),
    (&["project", "add", "search"], "", &["project.create"]),
    (&["project", "list"], "", &[]),
    (&["grant", "add", "bob", "search"], "", &["grant.set"]),
    (&["grant", "list"], "", &[]),
    (&["grant", "remove", "bob", "search"], "", &["grant.remove"]),
    (&["key", "set", "openai"], "sk-proj-0123456789abcdef", &["provider_key.set"]),
    (&["key", "list"], "", &[]),
    (&["key", "delete", "openai"], "", &["provider_key.delete"]),
    (&["signing-key", "list"], "", &[]),
    (&["signing-key", "rotate"], "", &["signing_key.create"]),
    (&["audit", "list"], "", &[]),
    (&["audit", "export"], "", &["audit.export"]),
    (&["audit", "verify"], "", &["audit.verify"]),
    (&["audit", "public-key"], "", &[]),
    (&["alert", "list"], "", &[]),
    (&["backup", "desk.backup"], "", &["desk.backup"]),
    (&["kek", "status"], "", &[]),
    (&["kek", "rotate"], "", &["data_key.rewrap", "data_key.rewrap"]),
    (&["project", "delete", "search"], "", &["project.delete"]),
    (&["service-account", "delete", "ci"], "", &["principal.delete"]),
    (&["user", "delete", "bob"], "", &["principal.delete"]),
];

/// Commands that do nothing at a desk, what has a test of its own, and the server, whose start and stop are in every book.
const ELSEWHERE: &[&str] = &[
    "serve",
    "openapi",
    "config check",
    "completions",
    "alert test",
    "restore",
    "migrate-store",
    "import",
    "man",
    "health",
    // They ask a desk over HTTP, which writes down what is asked of it that way.
    "login",
    "logout",
    "use",
    "whoami",
    "status",
    "get",
    "env",
    "run",
    "doctor",
    "passwd",
];

#[test]
fn every_command_leaves_its_event() {
    let place = Place::with_desk();
    let book = || place.json(&["audit", "list", "--limit", "100000"]).as_array().unwrap().clone();
    let starts: Vec<_> = book().iter().map(|event| event["action"].as_str().unwrap().to_owned()).collect();
    for action in ["desk.initialise", "server.start", "server.stop"] {
        assert!(starts.iter().any(|found| found == action), "{action}: {starts:?}");
    }
    let mut before = starts.len();
    for (arguments, stdin, expected) in COMMANDS {
        let key = || place.json(&["api-key", "list", "bob"])[0]["id"].as_str().unwrap().to_owned();
        let key = if arguments.contains(&"KEY") { key() } else { String::new() };
        let arguments: Vec<&str> =
            arguments.iter().map(|word| if *word == "KEY" { &*key } else { word }).collect();
        place.must_with(&arguments, stdin);
        let all = book();
        let mut new: Vec<_> =
            all[..all.len() - before].iter().map(|event| event["action"].as_str().unwrap()).collect();
        new.sort_unstable();
        assert_eq!(new, *expected, "{arguments:?}");
        assert!(
            all[..all.len() - before].iter().all(|event| event["actor"].as_str().unwrap().starts_with("os:"))
        );
        before = all.len();
    }
    for path in crate::cli::help::commands(&place) {
        let done = COMMANDS.iter().any(|(arguments, ..)| arguments.join(" ").starts_with(&path));
        assert!(done || ELSEWHERE.contains(&path.as_str()), "keydesk {path} is not in the table");
    }
}
