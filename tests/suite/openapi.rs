//! The specification: committed as it is generated, complete, the same as the one served.

use std::{env, fs, path::Path};

use serde_json::Value;

use crate::desk::Desk;

/// Compares with the committed file; `UPDATE_OPENAPI=1 cargo test openapi` rewrites it.
fn assert_committed(name: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi").join(name);
    if env::var_os("UPDATE_OPENAPI").is_some() {
        fs::write(&path, generated).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "openapi/{name} is not what the code says; UPDATE_OPENAPI=1 cargo test openapi"
    );
}

#[test]
fn the_committed_specification_is_the_generated_one() {
    assert_committed("keydesk.json", &keydesk::http::spec_json());
    assert_committed("keydesk.yaml", &keydesk::http::spec_yaml());
}

#[tokio::test]
async fn the_served_specification_is_the_generated_one() {
    let desk = Desk::open().await;
    let served = desk.get("/openapi.json").send().await.unwrap().text().await.unwrap();
    assert_eq!(served, keydesk::http::spec_json());
    let served = desk.get("/openapi.yaml").send().await.unwrap().text().await.unwrap();
    assert_eq!(served, keydesk::http::spec_yaml());
}

fn operations(document: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |(method, op)| (path, method, op)))
}

#[test]
fn every_operation_is_described() {
    let document: Value = serde_json::from_str(&keydesk::http::spec_json()).unwrap();
    for (path, method, operation) in operations(&document) {
        for field in ["operationId", "summary", "description"] {
            assert!(
                operation[field].as_str().is_some_and(|text| !text.is_empty()),
                "{method} {path} has no {field}"
            );
        }
        assert_eq!(operation["tags"].as_array().unwrap().len(), 1, "{method} {path}");
        assert!(operation["security"].is_array(), "{method} {path}");
        for (status, response) in operation["responses"].as_object().unwrap() {
            let shared = response["$ref"].as_str().map(|name| document.pointer(&name[1..]).unwrap());
            let response = shared.unwrap_or(response);
            assert!(!response["description"].as_str().unwrap().is_empty(), "{method} {path} {status}");
            assert!(response["headers"]["X-Request-Id"].is_object(), "{method} {path} {status}");
        }
    }
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(schemes["OAuth2"]["flows"]["password"]["tokenUrl"], "/token");
    assert_eq!(schemes["ApiKey"]["name"], "X-API-Key");
}

/// A client in another language knows one form of error per operation, and names its types after the schemas: two of the same
/// name in one language, or one without a name, would be put right by hand in every language.
#[test]
fn clients_can_be_generated_from_it() {
    let document: Value = serde_json::from_str(&keydesk::http::spec_json()).unwrap();
    for (path, method, operation) in operations(&document) {
        let mut errors = Vec::new();
        for (status, response) in operation["responses"].as_object().unwrap() {
            let shared = response["$ref"].as_str().map(|name| document.pointer(&name[1..]).unwrap());
            for (_, content) in shared.unwrap_or(response)["content"].as_object().into_iter().flatten() {
                let name = content["schema"]["$ref"].as_str();
                let name =
                    name.unwrap_or_else(|| panic!("{method} {path} {status}: a schema without a name"));
                if status.starts_with(['4', '5']) {
                    errors.push(name);
                }
            }
        }
        errors.dedup();
        assert!(errors.len() <= 1, "{method} {path} has several forms of error: {errors:?}");
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        // In Go `NewGrant` is what makes a `Grant`.
        assert!(name.strip_prefix("New").is_none_or(|rest| !schemas.contains_key(rest)), "{name}");
        for (property, schema) in schema["properties"].as_object().into_iter().flatten() {
            assert!(schema["enum"].is_null(), "{name}.{property}: these words have no name");
            let moment = property == "at" || property.ends_with("_at");
            assert_eq!(schema["format"] == "date-time", moment, "{name}.{property}");
        }
    }
}
