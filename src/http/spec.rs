//! The OpenAPI document: what poem-openapi generates, with what it cannot say put right.
//!
//! It writes `3.0.0` and header names in capitals, and leaves out that an operation needs no credential or that every
//! response has an `X-Request-Id`. The result depends on nothing but the code, so that it can be committed and compared.

mod examples;

use poem_openapi::{OpenApi, OpenApiService, Webhook};
use serde_json::{Value, json};

use super::{error::description, form::FORM, quota::LIMITED};

/// The document.
pub(super) fn document<T: OpenApi, W: Webhook>(service: &OpenApiService<T, W>) -> Value {
    let mut document: Value = serde_json::from_str(&service.spec()).unwrap_or_default();
    document["openapi"] = json!("3.0.3");
    order_tags(&mut document);
    order_schemes(&mut document);
    close_bodies(&mut document);
    require_nullable(&mut document);
    mend_properties(&mut document);
    let paths = document["paths"].as_object_mut().into_iter().flat_map(serde_json::Map::values_mut);
    for operation in paths.filter_map(Value::as_object_mut).flat_map(serde_json::Map::values_mut) {
        let security = &mut operation["security"];
        if security.is_null() || *security == json!([{}]) {
            *security = json!([]);
        }
        let limited = operation["operationId"].as_str().is_some_and(|id| LIMITED.contains(&id));
        let responses =
            operation["responses"].as_object_mut().into_iter().flat_map(serde_json::Map::values_mut);
        for response in responses {
            mend_headers(response);
            if limited {
                describe_limit(&mut response["headers"]);
            }
        }
    }
    add_refusals(&mut document);
    examples::add(&mut document);
    document
}

/// The statuses with which the edge may answer in place of any operation, and those of a body.
const REFUSALS: [u16; 5] = [400, 414, 421, 431, 503];
const REFUSALS_OF_BODIES: [u16; 3] = [408, 413, 415];

/// Adds what the edge may answer to each operation that does not say it already, in the form that its errors have. What a path
/// answers to a method that it does not have (405) is no operation's answer, and cannot be written down.
fn add_refusals(document: &mut Value) {
    for (family, media_type) in
        [("Problem", "application/problem+json"), ("OAuthProblem", "application/json")]
    {
        for status in REFUSALS.into_iter().chain(REFUSALS_OF_BODIES) {
            let schema = json!({ "$ref": format!("#/components/schemas/{family}") });
            let mut response = json!({ "description": description(status), "content": { media_type: { "schema": schema } } });
            if status == 503 {
                let after = "After how many seconds to try again.";
                let header =
                    json!({ "description": after, "required": true, "schema": { "type": "string" } });
                response["headers"] = json!({ "Retry-After": header });
            }
            mend_headers(&mut response);
            document["components"]["responses"][format!("{family}{status}")] = response;
        }
    }
    let paths = document["paths"].as_object_mut().into_iter().flat_map(serde_json::Map::values_mut);
    for operation in paths.filter_map(Value::as_object_mut).flat_map(serde_json::Map::values_mut) {
        let takes_form = !operation["requestBody"]["content"][FORM].is_null();
        let family = if takes_form { "OAuthProblem" } else { "Problem" };
        // A generated client knows one form of error per operation: where the operation has its own, as readiness has, that is it.
        let responses = operation["responses"].as_object().into_iter().flatten();
        let mut errors = responses.filter(|(status, _)| status.starts_with(['4', '5']));
        let of_family = json!({ "$ref": format!("#/components/schemas/{family}") });
        let is_of_family = |response: &Value| {
            response["content"]
                .as_object()
                .into_iter()
                .flatten()
                .all(|(_, content)| content["schema"] == of_family)
        };
        if !errors.all(|(_, response)| is_of_family(response)) {
            continue;
        }
        let of_bodies = REFUSALS_OF_BODIES.into_iter().filter(|_| !operation["requestBody"].is_null());
        let statuses: Vec<_> = REFUSALS.into_iter().chain(of_bodies).collect();
        let Some(responses) = operation["responses"].as_object_mut() else { continue };
        for status in statuses {
            let reference = json!({ "$ref": format!("#/components/responses/{family}{status}") });
            responses.entry(status.to_string()).or_insert(reference);
        }
        responses.sort_keys();
    }
}

/// Groups in the order in which they are first used, which is the order of a first visit.
fn order_tags(document: &mut Value) {
    let operations = document["paths"].as_object().into_iter().flat_map(serde_json::Map::values);
    let operations = operations.filter_map(Value::as_object).flat_map(serde_json::Map::values);
    let used: Vec<_> = operations.map(|operation| operation["tags"][0].clone()).collect();
    if let Some(tags) = document["tags"].as_array_mut() {
        tags.sort_by_key(|tag| used.iter().position(|name| *name == tag["name"]));
    }
}

/// What people log in with comes before what programs keep.
fn order_schemes(document: &mut Value) {
    let schemes = document["components"]["securitySchemes"].as_object_mut();
    if let Some((schemes, key)) =
        schemes.and_then(|schemes| schemes.remove("ApiKey").map(|key| (schemes, key)))
    {
        schemes.insert("ApiKey".to_owned(), key);
    }
}

/// JSON bodies have no fields but those described.
fn close_bodies(document: &mut Value) {
    let operations = document["paths"].as_object().into_iter().flat_map(serde_json::Map::values);
    let operations = operations.filter_map(Value::as_object).flat_map(serde_json::Map::values);
    let schemas = operations.filter_map(|operation| {
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str()
    });
    let names: Vec<_> = schemas.filter_map(|name| name.rsplit('/').next()).map(str::to_owned).collect();
    for name in names {
        document["components"]["schemas"][name]["additionalProperties"] = json!(false);
    }
}

/// What may be null is never left out, but for patches, where leaving out is leaving as it is.
fn require_nullable(document: &mut Value) {
    let schemas = document["components"]["schemas"].as_object_mut();
    let schemas = schemas.into_iter().flatten().filter(|(name, _)| !name.ends_with("Patch"));
    for (_, schema) in schemas {
        let properties = schema["properties"].as_object().into_iter().flatten();
        let nullable = properties.filter(|(_, property)| property["nullable"] == true);
        let nullable: Vec<_> = nullable.map(|(name, _)| json!(name)).collect();
        if nullable.is_empty() {
            continue;
        }
        let mut required = schema["required"].as_array().cloned().unwrap_or_default();
        required.extend(nullable);
        schema["required"] = Value::Array(required);
    }
}

/// For the sake of generated clients: what is called `…_at` is a moment (RFC 3339), which they show as their language's own
/// type, and a property of a named type is of that type and nothing else, where poem-openapi adds a second that says nothing.
fn mend_properties(document: &mut Value) {
    let schemas = document["components"]["schemas"].as_object_mut().into_iter().flatten();
    let properties =
        schemas.filter_map(|(_, schema)| schema.get_mut("properties")?.as_object_mut()).flatten();
    for (name, property) in properties {
        if name == "at" || name.ends_with("_at") {
            property["format"] = json!("date-time");
        }
        if let Some(parts) = property.get_mut("allOf").and_then(Value::as_array_mut) {
            parts.retain(|part| part.get("$ref").is_some());
        }
    }
}

fn mend_headers(response: &mut Value) {
    let generated = response["headers"].take();
    let mut headers = serde_json::Map::new();
    for (name, header) in generated.as_object().into_iter().flatten() {
        let mut header = header.clone();
        header.as_object_mut().map(|header| header.remove("deprecated"));
        headers.insert(canonical(name), header);
    }
    let request_id = json!({
        "description": "The identifier under which the request stands in the log and in the audit log.",
        "required": true,
        "schema": { "type": "string" },
    });
    headers.insert("X-Request-Id".to_owned(), request_id);
    response["headers"] = Value::Object(headers);
}

/// Not required: a limit can be off, and nothing is counted before it is known who asks.
fn describe_limit(headers: &mut Value) {
    for (name, description) in [
        ("RateLimit-Policy", "The limit: its name, `q` requests in `w` seconds."),
        ("RateLimit", "What is left of it: its name, `r` requests, and one more in `t` seconds."),
    ] {
        headers[name] =
            json!({ "description": description, "required": false, "schema": { "type": "string" } });
    }
}

/// `CACHE-CONTROL` as people write it.
fn canonical(name: &str) -> String {
    match name.to_ascii_uppercase().as_str() {
        "ETAG" => return "ETag".to_owned(),
        "WWW-AUTHENTICATE" => return "WWW-Authenticate".to_owned(),
        _ => {}
    }
    let word = |word: &str| {
        let (first, rest) = word.split_at(1.min(word.len()));
        first.to_ascii_uppercase() + &rest.to_ascii_lowercase()
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

/// As JSON, for people to read and for tools to compare.
pub(super) fn json(document: &Value) -> String {
    serde_json::to_string_pretty(document).unwrap_or_default() + "\n"
}

/// As YAML.
pub(super) fn yaml(document: &Value) -> String {
    serde_yaml::to_string(document).unwrap_or_default()
}
