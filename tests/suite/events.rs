//! The book is complete: every operation and every command leaves the event that this table says, done or refused. What
//! is not in the table fails the test.

use std::collections::BTreeSet;

use reqwest::Response;
use serde_json::{Value, json};

use crate::{
    asker::{Asker, Spec, api_key},
    desk::{Desk, PASSWORD, header},
    support::Place,
};

/// How an operation is asked for, and the events of the answer. A look that is allowed leaves none; refused, it does.
struct Row {
    id: &'static str,
    method: &'static str,
    path: &'static str,
    body: Value,
    done: &'static [&'static str],
    refused: &'static str,
}

/// Operations that anybody may use and that hand nothing over.
const PUBLIC: [&str; 5] = [
    "getJwks",
    "getAuthorizationServerMetadata",
    "getProtectedResourceMetadata",
    "getHealth",
    "getReadiness",
];

#[expect(clippy::too_many_lines, reason = "it is a table")]
/// In an order in which each finds what it needs. `KEY` and `SESSION` are what was made or found before.
fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |id, method, path, body, done, refused| {
        rows.push(Row { id, method, path, body, done, refused });
    };
    let none = Value::Null;
    row("listLlmKeys", "GET", "/llm-keys", none.clone(), &["llm_keys.read"][..], "credential.verify");
    row("getLlmKey", "GET", "/llm-keys/openai", none.clone(), &["llm_keys.read"], "credential.verify");
    row("getMe", "GET", "/me", none.clone(), &[], "credential.verify");
    row("listMyApiKeys", "GET", "/me/api-keys", none.clone(), &[], "credential.verify");
    row(
        "createMyApiKey",
        "POST",
        "/me/api-keys",
        json!({"label": "x"}),
        &["api_key.issue"],
        "credential.verify",
    );
    row(
        "revokeMyApiKey",
        "DELETE",
        "/me/api-keys/KEY",
        none.clone(),
        &["api_key.revoke"],
        "credential.verify",
    );
    row("listMySessions", "GET", "/me/sessions", none.clone(), &[], "credential.verify");
    row(
        "endMySession",
        "DELETE",
        "/me/sessions/SESSION",
        none.clone(),
        &["session.revoke"],
        "credential.verify",
    );
    let bob = json!({"name": "bob", "password": PASSWORD, "projects": ["default"]});
    row("createUser", "POST", "/admin/users", bob, &["grant.set", "user.create"], "user.create");
    row("listUsers", "GET", "/admin/users", none.clone(), &[], "admin.read");
    row("getUser", "GET", "/admin/users/bob", none.clone(), &[], "admin.read");
    row(
        "updateUser",
        "PATCH",
        "/admin/users/bob",
        json!({"role": "auditor"}),
        &["principal.update"],
        "principal.update",
    );
    let password = json!({"password": "another set of good words"});
    row(
        "setUserPassword",
        "PUT",
        "/admin/users/bob/password",
        password,
        &["user.set_password"],
        "user.set_password",
    );
    row(
        "resetUserPassword",
        "POST",
        "/admin/users/bob/password-reset",
        none.clone(),
        &["user.set_password"],
        "user.set_password",
    );
    row("createUserApiKey", "POST", "/admin/users/bob/api-keys", json!({}), &["api_key.issue"], "admin.read");
    row("listUserApiKeys", "GET", "/admin/users/bob/api-keys", none.clone(), &[], "admin.read");
    row(
        "revokeUserApiKey",
        "DELETE",
        "/admin/users/bob/api-keys/KEY",
        none.clone(),
        &["api_key.revoke"],
        "admin.read",
    );
    row("deleteUser", "DELETE", "/admin/users/bob", none.clone(), &["principal.delete"], "principal.delete");
    let ci = json!({"name": "ci", "projects": ["default"]});
    let made = &["api_key.issue", "grant.set", "service_account.create"];
    row("createServiceAccount", "POST", "/admin/service-accounts", ci, made, "service_account.create");
    row("listServiceAccounts", "GET", "/admin/service-accounts", none.clone(), &[], "admin.read");
    row("getServiceAccount", "GET", "/admin/service-accounts/ci", none.clone(), &[], "admin.read");
    let disabled = json!({"disabled": true});
    row(
        "updateServiceAccount",
        "PATCH",
        "/admin/service-accounts/ci",
        disabled,
        &["principal.disable"],
        "principal.disable",
    );
    row(
        "rotateClientSecret",
        "POST",
        "/admin/service-accounts/ci/secret",
        json!({}),
        &["client_secret.rotate"],
        "client_secret.rotate",
    );
    row(
        "createServiceAccountApiKey",
        "POST",
        "/admin/service-accounts/ci/api-keys",
        json!({}),
        &["api_key.issue"],
        "admin.read",
    );
    row(
        "listServiceAccountApiKeys",
        "GET",
        "/admin/service-accounts/ci/api-keys",
        none.clone(),
        &[],
        "admin.read",
    );
    row(
        "revokeServiceAccountApiKey",
        "DELETE",
        "/admin/service-accounts/ci/api-keys/KEY",
        none.clone(),
        &["api_key.revoke"],
        "admin.read",
    );
    row(
        "deleteServiceAccount",
        "DELETE",
        "/admin/service-accounts/ci",
        none.clone(),
        &["principal.delete"],
        "principal.delete",
    );
    row(
        "createProject",
        "POST",
        "/admin/projects",
        json!({"name": "search"}),
        &["project.create"],
        "project.create",
    );
    row("listProjects", "GET", "/admin/projects", none.clone(), &[], "admin.read");
    row("getProject", "GET", "/admin/projects/search", none.clone(), &[], "admin.read");
    let key = json!({"key": "sk-proj-0123456789abcdef"});
    row(
        "setProviderKey",
        "PUT",
        "/admin/projects/search/keys/openai",
        key,
        &["provider_key.set"],
        "provider_key.set",
    );
    row("listProviderKeys", "GET", "/admin/projects/search/keys", none.clone(), &[], "admin.read");
    row("getProviderKey", "GET", "/admin/projects/search/keys/openai", none.clone(), &[], "admin.read");
    row(
        "deleteProviderKey",
        "DELETE",
        "/admin/projects/search/keys/openai",
        none.clone(),
        &["provider_key.delete"],
        "provider_key.delete",
    );
    row(
        "setGrant",
        "PUT",
        "/admin/projects/search/grants/alice",
        json!({"providers": null}),
        &["grant.set"],
        "grant.set",
    );
    row("listGrants", "GET", "/admin/projects/search/grants", none.clone(), &[], "admin.read");
    row(
        "deleteGrant",
        "DELETE",
        "/admin/projects/search/grants/alice",
        none.clone(),
        &["grant.remove"],
        "grant.remove",
    );
    row(
        "deleteProject",
        "DELETE",
        "/admin/projects/search",
        none.clone(),
        &["project.delete"],
        "project.delete",
    );
    row("listAuditEvents", "GET", "/admin/audit-events", none.clone(), &[], "audit.read");
    row("listSigningKeys", "GET", "/admin/signing-keys", none.clone(), &[], "admin.read");
    row(
        "rotateSigningKey",
        "POST",
        "/admin/signing-keys",
        json!({}),
        &["signing_key.create"],
        "signing_key.create",
    );
    let passwords = json!({"old_password": PASSWORD, "new_password": "yet another set of words"});
    row("changeMyPassword", "PUT", "/me/password", passwords, &["user.set_password"], "credential.verify");
    rows
}

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
async fn ask(asker: &Asker<'_>, row: &Row, path: &str) -> Response {
    match row.method {
        "PATCH" => asker.patch(path, "*", &row.body).await,
        method => asker.send(method, path, Some(&row.body).filter(|body| !body.is_null())).await,
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
    for row in table() {
        let session = if row.path.contains("SESSION") { oldest_session(&admin).await } else { String::new() };
        let path = row.path.replace("KEY", &key).replace("SESSION", &session);
        // Who shows nothing valid is refused before anybody looks what they want; who lacks the scope, after.
        let refused = if row.refused == "credential.verify" { &nobody } else { &alice };
        let refused = ask(refused, &row, &path).await;
        let expected = vec![(row.refused.to_owned(), "denied".to_owned())];
        let found = left(&desk, header(&refused, "x-request-id")).await;
        if found != expected {
            faults.push(format!("{} refused with {}: {found:?}", row.id, refused.status()));
        }
        let done = ask(&admin, &row, &path).await;
        let (status, request_id) = (done.status(), header(&done, "x-request-id").to_owned());
        let answer: Value = serde_json::from_slice(&done.bytes().await.unwrap()).unwrap_or(Value::Null);
        let expected: Vec<_> =
            row.done.iter().map(|action| ((*action).to_owned(), "allowed".to_owned())).collect();
        let found = left(&desk, &request_id).await;
        if !status.is_success() || found != expected {
            faults.push(format!("{} done with {status}: {found:?} {answer}", row.id));
        }
        if let Some(id) = answer["id"].as_str() {
            key = id.to_owned();
        }
        seen.insert(row.id);
    }
    assert!(faults.is_empty(), "{faults:#?}");
    let oauth = ["issueToken", "revokeToken", "introspectToken"];
    for operation in Spec::new().operations() {
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
    (&["project", "delete", "search"], "", &["project.delete"]),
    (&["service-account", "delete", "ci"], "", &["principal.delete"]),
    (&["user", "delete", "bob"], "", &["principal.delete"]),
];

/// Commands that do nothing at a desk, what has a test of its own, and the server, whose start and stop are in every book.
const ELSEWHERE: &[&str] = &["serve", "openapi", "config check", "completions", "alert test"];

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
