//! Puts the worked examples into the specification.
//!
//! They stand beside the operations and not at the types, because one type means different things in different places: a
//! principal is a person here and a machine there. And they stand in one file, because they are one story (`examples.yaml`).

use std::collections::BTreeMap;

use poem::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

const STORY: &str = include_str!("examples.yaml");

/// The examples, as they are written down.
#[derive(Default, Deserialize)]
struct Examples {
    problems: BTreeMap<u16, String>,
    oauth_problems: BTreeMap<u16, (String, String)>,
    parameters: BTreeMap<String, Value>,
    operations: BTreeMap<String, OperationExamples>,
}

/// Those of one operation.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OperationExamples {
    parameters: BTreeMap<String, Value>,
    /// The only example of a body, or else `bodies`: several, each with a `summary` and a `value`.
    body: Option<Value>,
    bodies: Option<Value>,
    answers: BTreeMap<u16, Value>,
    problems: BTreeMap<u16, String>,
}

/// Adds them. What has no example stays without; the tests find it.
pub(super) fn add(document: &mut Value) {
    let mut examples: Examples = serde_yaml::from_str(STORY).unwrap_or_default();
    let paths = document["paths"].as_object_mut().into_iter().flat_map(serde_json::Map::values_mut);
    for operation in paths.filter_map(Value::as_object_mut).flat_map(serde_json::Map::values_mut) {
        let id = operation["operationId"].as_str().unwrap_or_default();
        let own = examples.operations.remove(id).unwrap_or_default();
        examples.add_to(operation, own);
    }
    let shared = document["components"]["responses"].as_object_mut().into_iter().flatten();
    for (name, response) in shared {
        let status = name.trim_start_matches(char::is_alphabetic).parse().unwrap_or_default();
        examples.add_problem(response, status, None);
    }
}

impl Examples {
    fn add_to(&self, operation: &mut Value, mut own: OperationExamples) {
        for parameter in members(operation, "/parameters") {
            let name = parameter["name"].as_str().unwrap_or_default();
            let example = own.parameters.remove(name).or_else(|| self.parameters.get(name).cloned());
            // What may be left out is given only where the operation itself says so: an example is sent when tried.
            if let Some(example) = example {
                parameter["example"] = example;
            }
        }
        for content in members(operation, "/requestBody/content") {
            if let Some(body) = own.body.take() {
                content["example"] = body;
            } else if let Some(bodies) = own.bodies.take() {
                content["examples"] = bodies;
            }
        }
        let responses = operation["responses"].as_object_mut().into_iter().flatten();
        for (status, response) in responses {
            let status = status.parse().unwrap_or_default();
            match own.answers.remove(&status) {
                Some(answer) => add_answer(response, &answer),
                None => self.add_problem(response, status, own.problems.get(&status)),
            }
        }
    }

    /// An error's body, whole: the text, and what goes with the status.
    fn add_problem(&self, response: &mut Value, status: u16, own: Option<&String>) {
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        if let Some(detail) = own.or_else(|| self.problems.get(&status))
            && response.pointer("/content/application~1problem+json").is_some()
        {
            add_answer(
                response,
                &json!({
                    "type": "about:blank",
                    "title": title,
                    "status": status,
                    "detail": detail,
                    "request_id": "req_01a2091f-8691-79e2-a869-0162b63afa84",
                }),
            );
        } else if let Some((error, description)) = self.oauth_problems.get(&status)
            && response.pointer("/content/application~1json").is_some()
        {
            add_answer(response, &json!({ "error": error, "error_description": description }));
        }
    }
}

fn add_answer(response: &mut Value, answer: &Value) {
    for content in members(response, "/content") {
        content["example"] = answer.clone();
    }
}

/// What is in an object or a list, if it is there: looking for it with an index would make it.
fn members<'v>(value: &'v mut Value, pointer: &str) -> Vec<&'v mut Value> {
    match value.pointer_mut(pointer) {
        Some(Value::Object(object)) => object.values_mut().collect(),
        Some(Value::Array(array)) => array.iter_mut().collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every word of the story is in the specification: nothing is misspelt, or of an operation that is gone.
    #[test]
    fn the_whole_story_is_told() {
        let story: Examples = serde_yaml::from_str(STORY).unwrap();
        let document: Value = serde_json::from_str(&crate::http::spec_json()).unwrap();
        let operations: BTreeMap<_, _> = document["paths"]
            .as_object()
            .into_iter()
            .flat_map(serde_json::Map::values)
            .filter_map(Value::as_object)
            .flat_map(serde_json::Map::values)
            .map(|operation| (operation["operationId"].as_str().unwrap(), operation))
            .collect();
        for (id, told) in &story.operations {
            let operation = operations[id.as_str()];
            for (name, value) in &told.parameters {
                let parameters = operation["parameters"].as_array().unwrap();
                let named = parameters.iter().find(|parameter| parameter["name"] == *name);
                assert_eq!(named.unwrap()["example"], *value, "{id} {name}");
            }
            let contents = operation["requestBody"]["content"].as_object().into_iter();
            for content in contents.flat_map(serde_json::Map::values) {
                assert!(told.body.is_some() != told.bodies.is_some(), "{id}");
                assert_eq!(
                    (content.get("example"), content.get("examples")),
                    (told.body.as_ref(), told.bodies.as_ref())
                );
            }
            let example = |status: &u16, media_type: &str| {
                &operation["responses"][status.to_string()]["content"][media_type]["example"]
            };
            for (status, answer) in &told.answers {
                assert_eq!(example(status, "application/json"), answer, "{id} {status}");
            }
            for (status, detail) in &told.problems {
                assert_eq!(example(status, "application/problem+json")["detail"], *detail, "{id} {status}");
            }
        }
    }
}
