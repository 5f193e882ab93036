//! `POST /token` (RFC 6749).
//!
//! The form is read by hand: poem-openapi's accepts a body of any size, takes the last of repeated parameters, and answers
//! a wrong content type in plain text.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use poem::{
    Request, RequestBody, Result,
    http::{HeaderMap, HeaderValue, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions, Object, OpenApi,
    registry::{MetaMediaType, MetaRequest, Registry},
    types::{Example, Type},
};

use super::{
    Group,
    credential::{Public, app},
    edge::origin,
    error::OAuthError,
    payload::JsonBody,
};
use crate::{
    app::{Error, token::TokenRequest},
    secret::Secret,
};

const FORM: &str = "application/x-www-form-urlencoded";
/// A longer form is not read: no parameter of ours needs more.
const MAX_BODY: usize = 16 * 1024;
/// How long a client may take to send its form.
const BODY_DEADLINE: Duration = Duration::from_secs(15);
const PARAMETERS: [&str; 6] = ["grant_type", "username", "password", "scope", "client_id", "client_secret"];

/// What `POST /token` takes.
#[derive(Object)]
#[oai(rename = "TokenRequest", example)]
struct TokenRequestSchema {
    /// `password` for a person, `client_credentials` for a service account.
    #[oai(validator(pattern = "^(password|client_credentials)$"))]
    grant_type: String,
    /// The user's name, for the grant `password`.
    #[oai(skip_serializing_if_is_none)]
    username: Option<String>,
    /// The user's password, for the grant `password`.
    #[oai(skip_serializing_if_is_none)]
    password: Option<String>,
    /// Space-separated scopes; `llm-keys:read` when absent.
    #[oai(skip_serializing_if_is_none)]
    scope: Option<String>,
    /// The service account, unless it is named in `Authorization: Basic`.
    #[oai(skip_serializing_if_is_none)]
    client_id: Option<String>,
    /// Its secret, likewise.
    #[oai(skip_serializing_if_is_none)]
    client_secret: Option<String>,
}

impl Example for TokenRequestSchema {
    fn example() -> Self {
        Self {
            grant_type: "password".to_owned(),
            username: Some("alice".to_owned()),
            password: Some("correct horse battery staple".to_owned()),
            scope: Some("llm-keys:read".to_owned()),
            client_id: None,
            client_secret: None,
        }
    }
}

/// An access token (RFC 6749 §5.1).
#[derive(Object)]
#[oai(example)]
struct TokenResponse {
    /// A signed JWT (RFC 9068), to be sent as `Authorization: Bearer …`.
    access_token: String,
    /// Always `Bearer`.
    token_type: String,
    /// For how many seconds it is valid.
    expires_in: i64,
    /// What it allows, space-separated.
    scope: String,
}

impl Example for TokenResponse {
    fn example() -> Self {
        Self {
            access_token: "eyJhbGciOiJFZERTQSIsInR5cCI6ImF0K2p3dCJ9.eyJ…".to_owned(),
            token_type: "Bearer".to_owned(),
            expires_in: 600,
            scope: "llm-keys:read".to_owned(),
        }
    }
}

#[derive(ApiResponse)]
enum TokenAnswer {
    /// An access token.
    #[oai(status = 200)]
    Issued(
        JsonBody<TokenResponse>,
        /// Always `no-store`.
        #[oai(header = "Cache-Control")]
        String,
    ),
}

/// The token endpoint.
pub(super) struct TokenApi;

#[OpenApi]
impl TokenApi {
    /// Get an access token
    ///
    /// The token endpoint of RFC 6749, for the grants `password` (people) and `client_credentials` (service accounts). The
    /// body is a form. A service account authenticates with `Authorization: Basic` or with `client_id` and `client_secret`
    /// in the form; a person needs no client.
    #[oai(path = "/token", method = "post", operation_id = "issueToken", tag = "Group::Tokens")]
    async fn token(
        &self,
        _anybody: Public,
        request: &Request,
        form: Form,
    ) -> Result<TokenAnswer, OAuthError> {
        let issued = app(request).issue_token(form.0, origin(request)).await?;
        #[expect(clippy::disallowed_methods, reason = "the token goes to whom it was issued")]
        let body = serde_json::json!({
            "access_token": issued.access_token.expose(),
            "token_type": "Bearer",
            "expires_in": issued.expires_in,
            "scope": issued.scope.to_string(),
        });
        Ok(TokenAnswer::Issued(JsonBody::of(&body), "no-store".to_owned()))
    }
}

/// The form of a token request.
struct Form(TokenRequest);

impl<'a> ApiExtractor<'a> for Form {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        TokenRequestSchema::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = vec![MetaMediaType { content_type: FORM, schema: TokenRequestSchema::schema_ref() }];
        Some(MetaRequest { description: None, content, required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> Result<Self> {
        Ok(read_form(request, body).await.map(Self).map_err(OAuthError)?)
    }
}

async fn read_form(request: &Request, body: &mut RequestBody) -> Result<TokenRequest, Error> {
    if !is_form(request.headers()) {
        return Err(invalid("the body must be a form: Content-Type application/x-www-form-urlencoded"));
    }
    let query = request.uri().query().unwrap_or_default();
    if query.split('&').any(|pair| PARAMETERS.contains(&pair.split('=').next().unwrap_or_default())) {
        return Err(invalid("parameters belong in the body, not in the address"));
    }
    let body = body.take().map_err(|_| invalid("the body is missing"))?.into_bytes_limit(MAX_BODY);
    let bytes = match tokio::time::timeout(BODY_DEADLINE, body).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return Err(invalid("the body is longer than 16 KiB, or broke off")),
        Err(_) => return Err(invalid("the body took too long to arrive")),
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| invalid("the body is not a form in UTF-8"))?;
    let mut form = parse_form(text)?;
    authenticate_by_header(request.headers(), &mut form)?;
    Ok(form)
}

fn is_form(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let media_type = values.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    values.next().is_none() && essence.eq_ignore_ascii_case(FORM)
}

/// RFC 6749 §3.2: an empty parameter is absent, an unknown one is ignored, none may come twice.
fn parse_form(text: &str) -> Result<TokenRequest, Error> {
    let mut form = TokenRequest::default();
    let mut seen = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        let Some(parameter) = PARAMETERS.into_iter().find(|parameter| *parameter == name) else { continue };
        if seen.contains(&parameter) {
            return Err(Error::Invalid(format!("the parameter {parameter} comes more than once")));
        }
        seen.push(parameter);
        if parameter != "password" && value.chars().any(char::is_control) {
            return Err(Error::Invalid(format!("the parameter {parameter} has control characters")));
        }
        if !value.is_empty() {
            set(&mut form, parameter, value);
        }
    }
    Ok(form)
}

fn set(form: &mut TokenRequest, parameter: &str, value: String) {
    match parameter {
        "grant_type" => form.grant_type = Some(value),
        "username" => form.username = Some(value),
        "password" => form.password = Some(Secret::new(value)),
        "scope" => form.scope = Some(value),
        "client_id" => form.client_id = Some(value),
        _ => form.client_secret = Some(Secret::new(value)),
    }
}

/// One component of a form: `+` is a space, `%xx` is a byte, the whole is UTF-8.
fn decode(component: &str) -> Result<String, Error> {
    let malformed = || invalid("the form is not well-formed");
    let bytes = component.as_bytes();
    for (i, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        let digits = bytes.get(i + 1..i + 3).ok_or_else(malformed)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(malformed());
        }
    }
    let spaced = component.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| malformed())
}

/// RFC 6749 §2.3.1: `Authorization: Basic` with the form-encoded id and secret. Swagger UI sends an empty pair when it has
/// no client, which is none. One way to authenticate per request (§2.3).
fn authenticate_by_header(headers: &HeaderMap, form: &mut TokenRequest) -> Result<(), Error> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(()) };
    if values.next().is_some() {
        return Err(invalid("the header Authorization comes more than once"));
    }
    let (id, secret) = basic(value).ok_or(Error::InvalidClient)?;
    if id.is_empty() && secret.is_empty() {
        return Ok(());
    }
    if form.client_secret.is_some() {
        return Err(invalid("the client authenticates both by header and in the body"));
    }
    if form.client_id.as_ref().is_some_and(|named| *named != id) {
        return Err(invalid("the header and the body name different clients"));
    }
    form.client_id = Some(id);
    form.client_secret = Some(secret).filter(|secret| !secret.is_empty());
    Ok(())
}

fn basic(value: &HeaderValue) -> Option<(String, Secret)> {
    let value = value.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    let decoded = STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let decoded = zeroize::Zeroizing::new(String::from_utf8(decoded).ok()?);
    let (id, secret) = decoded.split_once(':')?;
    Some((decode(id).ok()?, Secret::new(decode(secret).ok()?)))
}

fn invalid(detail: &str) -> Error {
    Error::Invalid(detail.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_decoded_strictly() {
        let form =
            parse_form("grant_type=password&username=a%40b&scope=&unknown=%31&password=p%2B+q").unwrap();
        assert_eq!((form.username.as_deref(), form.scope), (Some("a@b"), None));
        #[expect(clippy::disallowed_methods, reason = "the test reads what it wrote")]
        let password = form.password.unwrap().expose().to_owned();
        assert_eq!(password, "p+ q");
        for bad in [
            "scope=a&scope=b",
            "scope=&scope=",
            "username=%",
            "username=%4",
            "username=%zz",
            "username=%ff",
            "username=a%00",
            "scope=a%0d%0ab",
        ] {
            assert!(parse_form(bad).is_err(), "{bad}");
        }
    }
}
