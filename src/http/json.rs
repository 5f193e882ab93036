//! JSON bodies of requests: read strictly, answered in words of ours.
//!
//! poem-openapi's own reader takes a body of any size, the last of repeated fields and numbers for texts, and repeats in its
//! messages what was sent. Here serde reads the body into the type that the specification describes: unknown and repeated
//! fields and wrong types are refused, and a message names a field of ours at most.

use poem::{Request, RequestBody, Result, http::StatusCode};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaMediaType, MetaRequest, Registry},
    types::Type,
};
use serde::de::DeserializeOwned;

use super::{error::problem, form::has_media_type, schema::OURS};
use crate::app::Error;

const JSON: &str = "application/json";

/// A body that is a `T`, which must refuse unknown fields.
pub(super) struct Json<T>(pub(super) T);

impl<'a, T: DeserializeOwned + Type> ApiExtractor<'a> for Json<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = vec![MetaMediaType { content_type: JSON, schema: T::schema_ref() }];
        Some(MetaRequest { description: None, content, required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> Result<Self> {
        if !has_media_type(request.headers(), JSON) {
            return Err(poem::Error::from_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        // Whole and not too long: the edge has seen to that.
        let bytes = body.take()?.into_bytes().await?;
        parse(&bytes).map(Self).map_err(problem)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    // serde would also take an array of the fields' values.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::Invalid("the body must be a JSON object".to_owned()));
    }
    serde_json::from_slice(bytes).map_err(|error| Error::Invalid(explain(&error)))
}

/// What was wrong, without a word of what was sent: of serde's messages only the names of our own fields are used.
fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let field = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.split('`').next());
    if let Some(rest) = text.strip_prefix(OURS) {
        rest.rsplit_once(" at line ").map_or(rest, |(rule, _)| rule).to_owned()
    } else if let Some(field) = field("missing field `") {
        format!("the field {field} is missing")
    } else if let Some(field) = field("duplicate field `") {
        format!("the field {field} comes more than once")
    } else if text.starts_with("unknown field") {
        "the body has a field that is not one of its fields".to_owned()
    } else if error.is_data() {
        "a field has the wrong type".to_owned()
    } else {
        "the body is not well-formed JSON".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http::schema::{Word, nullable, present},
        model::Role,
        secret::Secret,
    };

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Body {
        password: Secret,
        #[serde(default, deserialize_with = "present")]
        role: Option<Word<Role>>,
        #[serde(deserialize_with = "nullable")]
        number: Option<u32>,
    }

    #[test]
    fn a_body_is_read_strictly_and_never_repeated() {
        assert!(parse::<Body>(br#" {"password": "x", "number": null} "#).is_ok());
        let cases = [
            (r#"{"password":"CANARY"}"#, "the field number is missing"),
            (
                r#"{"password":"CANARY","password":"CANARY","number":1}"#,
                "the field password comes more than once",
            ),
            (
                r#"{"password":"CANARY","number":1,"CANARY":1}"#,
                "the body has a field that is not one of its fields",
            ),
            (r#"{"password":"x","number":"CANARY"}"#, "a field has the wrong type"),
            (r#"{"password":["CANARY"],"number":1}"#, "a field has the wrong type"),
            (r#"{"password":"x","number":-1}"#, "a field has the wrong type"),
            (r#"{"password":"x","number":1,"role":null}"#, "a field has the wrong type"),
            (
                r#"{"password":"x","number":1,"role":"CANARY"}"#,
                "a role is not right: one of member, auditor, admin",
            ),
            (
                r#"{"password":"x","number":1,"role":"missing field `CANARY"}"#,
                "a role is not right: one of member, auditor, admin",
            ),
            (r#"["CANARY",null,1]"#, "the body must be a JSON object"),
            (r#"{"password":"CANARY","number":1} CANARY"#, "the body is not well-formed JSON"),
            (r#"{"password":"CANARY"#, "the body is not well-formed JSON"),
            ("", "the body must be a JSON object"),
        ];
        for (body, detail) in cases {
            assert_eq!(parse::<Body>(body.as_bytes()).unwrap_err().to_string(), detail, "{body}");
        }
        let deep = format!(r#"{{"password":{}"#, "[".repeat(50_000));
        assert!(parse::<Body>(deep.as_bytes()).is_err());
    }
}
