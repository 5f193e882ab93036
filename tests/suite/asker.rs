//! Somebody who asks the desk with a credential, and what the specification says of the answers.

use keydesk::model::Role;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::desk::{Desk, PASSWORD, header, json, open};

/// Every scope that can be asked for.
pub(crate) const ALL: &str = "llm-keys:read llm-keys:write audit:read admin";

/// Asks with one credential, as `Authorization: Bearer`.
pub(crate) struct Asker<'d> {
    pub(crate) desk: &'d Desk,
    pub(crate) credential: String,
}

impl<'d> Asker<'d> {
    pub(crate) fn new(desk: &'d Desk, credential: impl Into<String>) -> Self {
        Self { desk, credential: credential.into() }
    }

    /// The first admin, with every scope.
    pub(crate) async fn admin(desk: &'d Desk) -> Self {
        Self::new(desk, desk.token_of("admin", PASSWORD, ALL).await)
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let method: Method = method.parse().unwrap();
        let url = format!("{}{path}", self.desk.url);
        let mut request = self.desk.http.request(method, url).bearer_auth(&self.credential);
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.unwrap()
    }

    /// The status, and the body if there is one.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = Some(body).filter(|body| !body.is_null());
        let response = self.send(method, path, body.as_ref()).await;
        let status = response.status().as_u16();
        let bytes = response.bytes().await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, Value::Null).await
    }

    /// What must be there.
    pub(crate) async fn must_get(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// A change, with the version that is current or another one.
    pub(crate) async fn patch(&self, path: &str, if_match: &str, body: &Value) -> Response {
        let url = format!("{}{path}", self.desk.url);
        let request = self.desk.http.patch(url).bearer_auth(&self.credential).header("if-match", if_match);
        request.json(body).send().await.unwrap()
    }

    /// The whole list at `path`, in pages of `limit`: each is full but the last.
    pub(crate) async fn walk(&self, path: &str, limit: usize) -> Vec<Value> {
        let mut items = Vec::new();
        let mut after = String::new();
        loop {
            let join = if path.contains('?') { '&' } else { '?' };
            let page = self.must_get(&format!("{path}{join}limit={limit}{after}")).await;
            let found = page["items"].as_array().unwrap();
            items.extend(found.iter().cloned());
            let Some(next) = page["next"].as_str() else {
                assert!(found.len() <= limit);
                return items;
            };
            assert_eq!(found.len(), limit, "{path}");
            after = format!("&after={}", next.replace('/', "%2F"));
        }
    }
}

impl Desk {
    /// An access token with this scope.
    pub(crate) async fn token_of(&self, user: &str, password: &str, scope: &str) -> String {
        self.tokens_of(user, password, scope).await["access_token"].as_str().unwrap().to_owned()
    }

    /// What the token endpoint answers.
    pub(crate) async fn tokens_of(&self, user: &str, password: &str, scope: &str) -> Value {
        let form = [("grant_type", "password"), ("username", user), ("password", password), ("scope", scope)];
        let response = self.token_request(&form).await;
        assert_eq!(response.status(), 200, "{user} {scope}");
        json(response).await
    }

    /// A desk with one of everything: users `admin`, `alice`, `audrey`, the account `robot`, a project `research` with a
    /// key of `openai`.
    pub(crate) async fn furnished() -> Self {
        let desk = Self::open().await;
        desk.add_user("alice", Role::Member, &["default"]).await;
        desk.add_user("audrey", Role::Auditor, &[]).await;
        desk.add_account("robot", &["default"]).await;
        desk.add_project("research").await;
        desk.set_key("research", "openai", "sk-proj-CANARY0123456789").await;
        desk
    }
}

/// The generated specification.
pub(crate) struct Spec(Value);

/// An operation of it.
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) described: Value,
}

impl Spec {
    pub(crate) fn new() -> Self {
        Self(serde_json::from_str(&keydesk::http::spec_json()).unwrap())
    }

    pub(crate) fn operations(&self) -> Vec<Operation> {
        let paths = self.0["paths"].as_object().unwrap().iter();
        let operations = paths.flat_map(|(path, item)| {
            item.as_object().unwrap().iter().map(move |(method, described)| Operation {
                id: described["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase(),
                path: path.clone(),
                described: described.clone(),
            })
        });
        operations.collect()
    }

    /// All schemas, by name.
    pub(crate) fn schemas(&self) -> &serde_json::Map<String, Value> {
        self.0["components"]["schemas"].as_object().unwrap()
    }

    /// What a schema says, wherever that is written: a named one with a description of its own is `allOf` that one.
    pub(crate) fn resolved<'s>(&'s self, schema: &'s Value) -> &'s Value {
        match schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str()) {
            Some(name) => &self.schemas()[name.rsplit('/').next().unwrap()],
            None => schema,
        }
    }

    /// The schema of an operation's JSON body.
    pub(crate) fn body<'s>(&'s self, operation: &'s Operation) -> Option<&'s Value> {
        let schema = &operation.described["requestBody"]["content"]["application/json"]["schema"];
        (!schema.is_null()).then(|| self.resolved(schema))
    }

    /// The example of an operation's JSON body, or the first of several.
    pub(crate) fn example(operation: &Operation) -> Option<&Value> {
        let content = operation.described["requestBody"]["content"].get("application/json")?;
        let examples = content["examples"].as_object();
        content.get("example").or_else(|| Some(&examples?.values().next()?["value"]))
    }

    /// The answer is one that the specification announces: its status, its media type, the fields of its body.
    pub(crate) fn check(&self, operation: &Operation, status: u16, media_type: &str, body: &Value) {
        let id = &operation.id;
        let described = &operation.described["responses"][status.to_string()];
        assert!(described.is_object(), "{id}: {status} is not in the specification: {body}");
        let content = &described["content"];
        assert_eq!(content.is_null(), body.is_null(), "{id} {status}: {body}");
        if !content.is_null() {
            assert!(content[media_type].is_object(), "{id} {status} is {media_type}");
            self.check_value(&content[media_type]["schema"], body, &format!("{id} {status}"));
        }
    }

    fn check_value(&self, schema: &Value, value: &Value, place: &str) {
        let schema = self.resolved(schema);
        if value.is_null() {
            assert_eq!(schema["nullable"], true, "{place} is null");
            return;
        }
        let fits = match schema["type"].as_str() {
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64(),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            _ => true,
        };
        assert!(fits, "{place} is {value}, not {}", schema["type"]);
        for item in value.as_array().into_iter().flatten() {
            self.check_value(&schema["items"], item, place);
        }
        let Some(properties) = schema["properties"].as_object() else { return };
        for (name, field) in value.as_object().unwrap() {
            assert!(properties.contains_key(name), "{place}: the field {name} is not in the specification");
            self.check_value(&properties[name], field, &format!("{place} {name}"));
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(
                !value[name.as_str().unwrap()].is_null()
                    || properties[name.as_str().unwrap()]["nullable"] == true
            );
            assert!(
                value.as_object().unwrap().contains_key(name.as_str().unwrap()),
                "{place}: {name} is missing"
            );
        }
    }
}

/// The media type and body of a response.
pub(crate) async fn content(response: Response) -> (u16, String, Value) {
    let (status, media_type) = (response.status().as_u16(), header(&response, "content-type").to_owned());
    let bytes = response.bytes().await.unwrap();
    (status, media_type, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// An API key of a principal, made by the operator.
pub(crate) async fn api_key(desk: &Desk, owner: &str, scope: &str) -> String {
    let new = keydesk::app::api_keys::NewKey { scope: Some(scope.parse().unwrap()), ..Default::default() };
    let issued =
        desk.app.issue_api_key(&crate::desk::operator(), &owner.parse().unwrap(), new).await.unwrap();
    open(&issued.api_key).to_owned()
}

/// The body that only holds `role`.
pub(crate) fn role(role: &str) -> Value {
    json!({ "role": role })
}
