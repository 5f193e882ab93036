//! Who may call what: every operation of the specification times every kind of asker.

use std::collections::BTreeSet;

use keydesk::model::{PrincipalKind, Role};
use serde_json::Value;

use crate::{
    asker::{ALL, Asker, Spec, api_key, content},
    desk::{Desk, PASSWORD, operator},
};

/// The columns of [`TABLE`].
const ASKERS: [&str; 10] = [
    "anonymous",
    "member",
    "auditor",
    "admin without the scope",
    "admin with all scopes",
    "service account",
    "token of a disabled user",
    "API key of a member",
    "one-time password",
    "refresh token as bearer",
];

/// `+` may, `x` is refused with 403, `-` is refused with 401. An operation that is not here fails the test.
const TABLE: &[(&str, &str)] = &[
    ("issueToken", "++++++++++"),
    ("revokeToken", "++++++++++"),
    ("getJwks", "++++++++++"),
    ("getAuthorizationServerMetadata", "++++++++++"),
    ("getProtectedResourceMetadata", "++++++++++"),
    ("getHealth", "++++++++++"),
    ("getReadiness", "++++++++++"),
    ("introspectToken", "-xxx+x-xx-"),
    ("listLlmKeys", "-+++++-+x-"),
    ("getLlmKey", "-+++++-+x-"),
    ("getMe", "-+++++-++-"),
    ("changeMyPassword", "-+++++-x+-"),
    ("listMyApiKeys", "-+++++-+x-"),
    ("createMyApiKey", "-+++++-xx-"),
    ("revokeMyApiKey", "-+++++-xx-"),
    ("listMySessions", "-+++++-+x-"),
    ("endMySession", "-+++++-xx-"),
    ("listUsers", "-xxx+x-xx-"),
    ("createUser", "-xxx+x-xx-"),
    ("getUser", "-xxx+x-xx-"),
    ("updateUser", "-xxx+x-xx-"),
    ("deleteUser", "-xxx+x-xx-"),
    ("setUserPassword", "-xxx+x-xx-"),
    ("resetUserPassword", "-xxx+x-xx-"),
    ("listUserApiKeys", "-xxx+x-xx-"),
    ("createUserApiKey", "-xxx+x-xx-"),
    ("revokeUserApiKey", "-xxx+x-xx-"),
    ("listServiceAccounts", "-xxx+x-xx-"),
    ("createServiceAccount", "-xxx+x-xx-"),
    ("getServiceAccount", "-xxx+x-xx-"),
    ("updateServiceAccount", "-xxx+x-xx-"),
    ("deleteServiceAccount", "-xxx+x-xx-"),
    ("rotateClientSecret", "-xxx+x-xx-"),
    ("listServiceAccountApiKeys", "-xxx+x-xx-"),
    ("createServiceAccountApiKey", "-xxx+x-xx-"),
    ("revokeServiceAccountApiKey", "-xxx+x-xx-"),
    ("listProjects", "-xxx+x-xx-"),
    ("createProject", "-xxx+x-xx-"),
    ("getProject", "-xxx+x-xx-"),
    ("deleteProject", "-xxx+x-xx-"),
    ("listProviderKeys", "-xxx+x-xx-"),
    ("getProviderKey", "-xxx+x-xx-"),
    ("setProviderKey", "-xxx+x-xx-"),
    ("deleteProviderKey", "-xxx+x-xx-"),
    ("listGrants", "-xxx+x-xx-"),
    ("setGrant", "-xxx+x-xx-"),
    ("deleteGrant", "-xxx+x-xx-"),
    ("listAuditEvents", "-x+x+x-xx-"),
    ("listSigningKeys", "-xxx+x-xx-"),
    ("rotateSigningKey", "-xxx+x-xx-"),
];

/// One credential for each column.
async fn credentials(desk: &Desk) -> Vec<String> {
    for (name, role) in [("gone", Role::Admin), ("forgetful", Role::Admin), ("boss", Role::Admin)] {
        desk.add_user(name, role, &["default"]).await;
    }
    for project in ["research", "default"] {
        for name in ["audrey", "robot"] {
            let (name, project) = (name.parse().unwrap(), project.parse().unwrap());
            desk.app.set_grant(&operator(), &name, &project, None).await.unwrap();
        }
    }
    let disabled = desk.token_of("gone", PASSWORD, ALL).await;
    desk.app.disable(&operator(), PrincipalKind::User, &"gone".parse().unwrap()).await.unwrap();
    let reset = desk.app.reset_password(&operator(), &"forgetful".parse().unwrap()).await.unwrap();
    let robot = desk.add_account("machine", &["default"]).await;
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "machine"),
        ("client_secret", crate::desk::open(&robot.client_secret)),
    ];
    let machine = crate::desk::json(desk.token_request(&form).await).await;
    let refresh = desk.tokens_of("boss", PASSWORD, ALL).await["refresh_token"].as_str().unwrap().to_owned();
    vec![
        String::new(),
        desk.token_of("alice", PASSWORD, "llm-keys:read").await,
        desk.token_of("audrey", PASSWORD, "llm-keys:read audit:read").await,
        desk.token_of("boss", PASSWORD, "llm-keys:read").await,
        desk.token_of("boss", PASSWORD, ALL).await,
        machine["access_token"].as_str().unwrap().to_owned(),
        disabled,
        api_key(desk, "alice", "llm-keys:read").await,
        desk.token_of("forgetful", crate::desk::open(&reset.password), "").await,
        refresh,
    ]
}

/// A path with names that nothing has: who may not know is refused before that is found out.
fn path(template: &str, filled: &str) -> String {
    let segments = template.split('/').map(|segment| match segment {
        "{id}" => "019a0000-0000-7000-8000-00000000ffff",
        "{provider}" if filled.is_empty() => "groq",
        _ if segment.starts_with('{') => filled,
        _ => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_operation_answers_every_asker_as_the_table_says() {
    let desk = Desk::furnished().await;
    let credentials = credentials(&desk).await;
    let spec = Spec::new();
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    for operation in spec.operations() {
        let row = TABLE.iter().find(|(id, _)| *id == operation.id);
        let row = row.unwrap_or_else(|| panic!("{} is not in the table", operation.id)).1;
        seen.insert(operation.id.clone());
        let public = operation.described["security"] == serde_json::json!([]);
        assert!(public != row.starts_with('-') || operation.id == "introspectToken", "{}", operation.id);
        for ((asker, credential), expected) in ASKERS.iter().zip(&credentials).zip(row.chars()) {
            for name in ["nobody", "%2A%20"] {
                let mut request = desk.http.request(
                    operation.method.parse().unwrap(),
                    format!("{}{}", desk.url, path(&operation.path, name)),
                );
                if !credential.is_empty() {
                    request = request.bearer_auth(credential);
                }
                request = request.header("if-match", "\"1\"");
                if let Some(example) = Spec::example(&operation) {
                    request = request.json(example);
                } else if operation.described["requestBody"]["content"].is_object() {
                    request = request.form(&[("token", "x"), ("grant_type", "x")]);
                }
                let (status, media_type, body) = content(request.send().await.unwrap()).await;
                spec.check(&operation, status, &media_type, &body);
                let got = match status {
                    401 => '-',
                    403 => 'x',
                    500.. => '!',
                    _ => '+',
                };
                if got != expected {
                    faults.push(format!("{} {asker} {name}: {status} {body}", operation.id));
                }
                if !operation.path.contains('{') {
                    break;
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    let listed: BTreeSet<_> = TABLE.iter().map(|(id, _)| (*id).to_owned()).collect();
    assert_eq!(seen, listed, "the table has rows of operations that are gone");
}

#[tokio::test]
async fn a_denied_look_is_in_the_book_like_a_denied_change() {
    let desk = Desk::furnished().await;
    let alice = Asker::new(&desk, desk.login("alice").await);
    let paths = [
        ("GET", "/admin/users", "admin.read"),
        ("GET", "/admin/users/admin", "admin.read"),
        ("GET", "/admin/users/%2A", "admin.read"),
        ("GET", "/admin/projects/research/keys", "admin.read"),
        ("GET", "/admin/projects/research/grants", "admin.read"),
        ("GET", "/admin/signing-keys", "admin.read"),
        ("GET", "/admin/audit-events", "audit.read"),
        ("DELETE", "/admin/users/admin", "principal.delete"),
        ("DELETE", "/admin/users/%2A", "principal.delete"),
        ("POST", "/admin/users/admin/password-reset", "user.set_password"),
    ];
    for (method, path, action) in paths {
        let response = alice.send(method, path, None).await;
        assert_eq!(response.status(), 403, "{path}");
        let id = crate::desk::header(&response, "x-request-id").to_owned();
        let events = desk.events_of(&id).await;
        assert_eq!(events.len(), 1, "{path}");
        let event = &events[0];
        assert_eq!((event.action.as_str(), event.outcome.as_str()), (action, "denied"), "{path}");
        assert_eq!((event.actor.as_str(), event.reason.as_deref()), ("alice", Some("insufficient_scope")));
        let body: Value = alice.get("/admin/users").await.1;
        assert!(!body.to_string().contains("alice"));
    }
}

#[tokio::test]
async fn who_may_not_cannot_tell_what_is_there() {
    let desk = Desk::furnished().await;
    let alice = Asker::new(&desk, desk.login("alice").await);
    let mut bodies = BTreeSet::new();
    for name in ["admin", "nobody", "robot", "...", "ADMIN", "%F0%9F%98%80"] {
        for path in [format!("/admin/users/{name}"), format!("/admin/service-accounts/{name}")] {
            let (status, mut body) = alice.get(&path).await;
            assert_eq!(status, 403, "{path}");
            body["request_id"] = Value::Null;
            bodies.insert(body.to_string());
        }
    }
    assert_eq!(bodies.len(), 1);
}
