//! JSON bodies: nothing but the fields that the specification describes, and no echo of what is refused.

use std::collections::BTreeSet;

use serde_json::json;

use crate::{
    admin::real,
    asker::{Asker, Spec},
    desk::Desk,
};

/// Everything in the database but the book and what logins leave.
async fn state(desk: &Desk) -> String {
    let mut forger = desk.forger().await;
    let mut text = String::new();
    for table in [
        "revision",
        "principals",
        "client_secrets",
        "projects",
        "grants",
        "provider_keys",
        "provider_key_versions",
        "signing_keys",
    ] {
        text += &forger.contents(table).await;
    }
    text
}

/// Sends `body` to an operation as an admin who may.
async fn write(admin: &Asker<'_>, method: &str, path: &str, body: String) -> (u16, String) {
    let url = format!("{}{}", admin.desk.url, real(path, "019a0000-0000-7000-8000-00000000ffff"));
    let request = admin.desk.http.request(method.parse().unwrap(), url).bearer_auth(&admin.credential);
    let request = request.header("content-type", "application/json").header("if-match", "*").body(body);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_body_has_no_fields_but_its_own() {
    let desk = Desk::furnished().await;
    let admin = Asker::admin(&desk).await;
    let spec = Spec::new();
    let mut names: BTreeSet<String> =
        ["is_admin", "user_id", "password_hash", "sealed", "__proto__"].map(str::to_owned).into();
    for schema in spec.schemas().values() {
        names.extend(schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
    }
    let before = state(&desk).await;
    let mut bodies = 0;
    for operation in spec.operations() {
        let Some(schema) = spec.body(&operation) else { continue };
        assert_eq!(schema["additionalProperties"], false, "{}", operation.id);
        bodies += 1;
        let own = schema["properties"].as_object().unwrap();
        for name in names.iter().filter(|name| !own.contains_key(*name)) {
            let mut body = Spec::example(&operation).unwrap().clone();
            body[name.as_str()] = json!("x");
            let (status, text) = write(&admin, &operation.method, &operation.path, body.to_string()).await;
            assert_eq!(status, 400, "{} {name}: {text}", operation.id);
        }
    }
    assert!(bodies >= 12, "{bodies}");
    assert_eq!(state(&desk).await, before);
}

#[tokio::test]
async fn a_bad_body_is_refused_without_an_echo() {
    const CANARY: &str = "sk-CANARY-in-the-wrong-place";
    let desk = Desk::furnished().await;
    let admin = Asker::admin(&desk).await;
    let spec = Spec::new();
    let before = state(&desk).await;
    for operation in spec.operations() {
        let Some(schema) = spec.body(&operation) else { continue };
        let example = Spec::example(&operation).unwrap();
        let mut bodies = vec![
            String::new(),
            "null".to_owned(),
            json!(CANARY).to_string(),
            json!([CANARY]).to_string(),
            format!("{{\"{CANARY}\":1}}"),
            format!("{example}{CANARY}"),
            format!("{{\"{CANARY}"),
        ];
        for (name, property) in schema["properties"].as_object().unwrap() {
            let kind = &spec.resolved(property)["type"];
            let wrong = if kind == "string" { json!({ CANARY: [CANARY] }) } else { json!(CANARY) };
            for value in [wrong, json!([[CANARY]]), json!({ CANARY: 1 })] {
                let mut body = example.clone();
                body[name.as_str()] = value;
                bodies.push(body.to_string());
            }
            let value = if example[name].is_null() { json!(CANARY) } else { example[name].clone() };
            let twice = format!("{{\"{name}\":{value},\"{name}\":{value}}}");
            bodies.push(twice);
        }
        for body in bodies {
            let (status, text) = write(&admin, &operation.method, &operation.path, body.clone()).await;
            assert_eq!(status, 400, "{} {body}: {text}", operation.id);
            assert!(!text.contains("CANARY"), "{} {body}: {text}", operation.id);
        }
    }
    assert_eq!(state(&desk).await, before);
    let url = format!("{}/admin/users", desk.url);
    let send = async |kind: &str, body: String| {
        let request =
            desk.http.post(&url).bearer_auth(&admin.credential).header("content-type", kind).body(body);
        request.send().await.unwrap().status().as_u16()
    };
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        assert_eq!(send(kind, "{}".to_owned()).await, 415, "{kind}");
    }
    assert_eq!(send("application/json", format!("{{\"name\":\"{}\"}}", "x".repeat(70_000))).await, 413);
    assert_eq!(send("application/json; charset=utf-8", "{}".to_owned()).await, 400);
    for event in desk.events().await {
        assert!(!serde_json::to_string(&event).unwrap().contains("CANARY-in"));
    }
}
