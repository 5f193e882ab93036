//! The two renderings of [`app::Error`]: RFC 6749 §5.2 at the OAuth endpoints, RFC 9457 everywhere else.
//!
//! An operation's error travels as it is to the edge, where the request's identifier is known and the cause is logged, and
//! gets its form only there. The framework's own errors (no such route, wrong method, a parameter that does not parse)
//! get the same form, with texts of ours: the framework's repeat what was sent.

use std::marker::PhantomData;

use poem::{
    Response,
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse, Object,
    error::ParseParamError,
    registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry},
    types::Type,
};

use crate::{app, model::Scope};

/// What went wrong (RFC 9457).
#[derive(Object)]
struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is (RFC 9457 §4.2.1).
    #[oai(rename = "type")]
    kind: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    status: i32,
    /// What happened and what to do, for a person. Never repeats what was sent.
    detail: String,
    /// The identifier under which the request stands in the log and in the book.
    request_id: String,
}

/// Why no token was issued (RFC 6749 §5.2).
#[derive(Object)]
struct OAuthProblem {
    /// `invalid_request`, `invalid_client`, `invalid_grant`, `unauthorized_client`, `unsupported_grant_type`,
    /// `invalid_scope`, `access_denied`, or `temporarily_unavailable`.
    error: String,
    /// The same for a person.
    error_description: String,
}

/// Which form an error takes.
#[derive(Clone, Copy, Debug)]
enum Form {
    OAuth,
    Problem,
}

impl Form {
    /// The form of errors at `path`.
    fn at(path: &str) -> Self {
        if matches!(path, "/token" | "/revoke" | "/introspect") { Self::OAuth } else { Self::Problem }
    }
}

/// An operation's error on its way to the edge.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
struct Travelling {
    error: app::Error,
    form: Form,
}

/// The statuses with which an operation may answer instead of its result.
pub(super) trait Answers: Send + Sync + 'static {
    /// The statuses, ascending.
    const STATUSES: &'static [u16];
}

/// An error in the form of RFC 9457, for an operation that may answer `A`.
pub(super) struct ApiError<A>(app::Error, PhantomData<fn() -> A>);

impl<A> From<app::Error> for ApiError<A> {
    fn from(error: app::Error) -> Self {
        Self(error, PhantomData)
    }
}

impl<A> From<ApiError<A>> for poem::Error {
    fn from(ApiError(error, _): ApiError<A>) -> Self {
        travel(error, Form::Problem)
    }
}

/// An error in the form of RFC 6749 §5.2, for an operation that may answer `A`.
pub(super) struct OAuthError<A>(app::Error, PhantomData<fn() -> A>);

impl<A> From<app::Error> for OAuthError<A> {
    fn from(error: app::Error) -> Self {
        Self(error, PhantomData)
    }
}

impl<A> From<OAuthError<A>> for poem::Error {
    fn from(OAuthError(error, _): OAuthError<A>) -> Self {
        oauth_problem(error)
    }
}

/// An error of a form's extractor.
pub(super) fn oauth_problem(error: app::Error) -> poem::Error {
    travel(error, Form::OAuth)
}

/// An error that is found before a request reaches its route.
pub(super) fn in_form_of(path: &str, error: app::Error) -> poem::Error {
    travel(error, Form::at(path))
}

fn travel(error: app::Error, form: Form) -> poem::Error {
    let status = status(&error);
    poem::Error::new(Travelling { error, form }, status)
}

/// An error of the credential extractor.
pub(super) fn problem(error: app::Error) -> poem::Error {
    travel(error, Form::Problem)
}

fn status(error: &app::Error) -> StatusCode {
    use app::Error as E;
    match error {
        E::CredentialMissing | E::CredentialInvalid | E::InvalidClient => StatusCode::UNAUTHORIZED,
        E::InsufficientScope(_) | E::Forbidden(_) | E::Elsewhere => StatusCode::FORBIDDEN,
        E::NotFound(_) => StatusCode::NOT_FOUND,
        E::Conflict(_) => StatusCode::CONFLICT,
        E::Changed => StatusCode::PRECONDITION_FAILED,
        E::TooMany { .. } | E::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
        E::Busy | E::Stale | E::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        E::Internal(_) | E::Refused(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// A request that is not looked at, or not answered, by any operation.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    detail: &'static str,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, detail: &'static str) -> Self {
        Self { status, detail }
    }

    /// Gives it its final form.
    pub(super) fn render(&self, path: &str, request_id: &str) -> Response {
        let unavailable = self.status == StatusCode::SERVICE_UNAVAILABLE;
        let mut response = match Form::at(path) {
            Form::OAuth if unavailable => oauth_body(self.status, "temporarily_unavailable", self.detail),
            Form::OAuth => oauth_body(self.status, "invalid_request", self.detail),
            Form::Problem => problem_response(self.status, self.detail, request_id),
        };
        if unavailable {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Gives an error its final form.
pub(super) fn render(error: poem::Error, request_id: &str) -> Response {
    if error.is_from_response() {
        return error.into_response();
    }
    let status = error.status();
    let Some(Travelling { error, form }) = error.downcast_ref::<Travelling>() else {
        let parameter = error.downcast_ref::<ParseParamError>();
        let detail = parameter.map(|error| format!("the parameter {} is not what it can be", error.name));
        return problem_response(status, detail.as_deref().unwrap_or(framework_detail(status)), request_id);
    };
    if let Some(cause) = error.cause() {
        tracing::error!(request_id, cause = %Chain(cause), "{error}");
    }
    let mut response = match form {
        Form::OAuth => oauth_response(status, error),
        Form::Problem => problem_response(status, &error.to_string(), request_id),
    };
    if let Some(challenge) = challenge(error) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if let app::Error::TooMany { retry_after } | app::Error::RateLimited { retry_after } = error {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*retry_after));
    }
    response
}

/// A panic in a handler: the cause is in the log, with nothing but its place.
pub(super) fn render_panic(request_id: &str) -> Response {
    problem_response(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the desk made a mistake; it is in the log",
        request_id,
    )
}

/// RFC 6750 §3: no error code when no credential was sent.
fn challenge(error: &app::Error) -> Option<&'static str> {
    match error {
        app::Error::InvalidClient => Some("Basic realm=\"keydesk\", charset=\"UTF-8\""),
        app::Error::CredentialMissing => Some("Bearer realm=\"keydesk\""),
        app::Error::CredentialInvalid => Some(
            "Bearer realm=\"keydesk\", error=\"invalid_token\", error_description=\"the credential is not valid\"",
        ),
        app::Error::InsufficientScope(scope) => Some(insufficient_scope(*scope)),
        _ => None,
    }
}

fn insufficient_scope(scope: Scope) -> &'static str {
    match scope {
        Scope::LlmKeysRead => {
            "Bearer realm=\"keydesk\", error=\"insufficient_scope\", scope=\"llm-keys:read\""
        }
        Scope::LlmKeysWrite => {
            "Bearer realm=\"keydesk\", error=\"insufficient_scope\", scope=\"llm-keys:write\""
        }
        Scope::AuditRead => "Bearer realm=\"keydesk\", error=\"insufficient_scope\", scope=\"audit:read\"",
        Scope::Admin => "Bearer realm=\"keydesk\", error=\"insufficient_scope\", scope=\"admin\"",
        Scope::PasswordChange => "Bearer realm=\"keydesk\", error=\"insufficient_scope\"",
    }
}

fn oauth_response(status: StatusCode, error: &app::Error) -> Response {
    let code = match error {
        app::Error::Busy
        | app::Error::Unavailable(_)
        | app::Error::TooMany { .. }
        | app::Error::RateLimited { .. } => "temporarily_unavailable",
        app::Error::Internal(_) | app::Error::Refused(_) => "server_error",
        app::Error::Elsewhere => "access_denied",
        other => other.code(),
    };
    oauth_body(status, code, &error.to_string())
}

fn oauth_body(status: StatusCode, code: &str, description: &str) -> Response {
    let body = serde_json::json!({ "error": code, "error_description": printable(description) });
    json_response(status, "application/json", &body)
}

/// RFC 6749 §5.2 allows printable ASCII without quotes and backslashes.
fn printable(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' '..='!' | '#'..='[' | ']'..='~') { c } else { '\'' }).collect()
}

fn problem_response(status: StatusCode, detail: &str, request_id: &str) -> Response {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
        "request_id": request_id,
    });
    json_response(status, "application/problem+json", &body)
}

fn json_response(status: StatusCode, media_type: &'static str, body: &serde_json::Value) -> Response {
    Response::builder().status(status).header(header::CONTENT_TYPE, media_type).body(body.to_string())
}

fn framework_detail(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "there is no such resource; /docs lists those there are",
        StatusCode::METHOD_NOT_ALLOWED => "this resource does not have this method; see the Allow header",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "the body has the wrong media type",
        StatusCode::PRECONDITION_REQUIRED => {
            "say with If-Match which version you have read: the ETag you were given with it"
        }
        status if status.is_server_error() => "the desk made a mistake; it is in the log",
        _ => "the request is malformed",
    }
}

/// An error with all its causes.
struct Chain<'a>(&'a (dyn std::error::Error + Send + Sync));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

fn meta<P: Type>(statuses: &[u16], media_type: &'static str) -> MetaResponses {
    let content = || vec![MetaMediaType { content_type: media_type, schema: P::schema_ref() }];
    let responses = statuses.iter().map(|status| MetaResponse {
        description: description(*status),
        status: Some(*status),
        status_range: None,
        content: content(),
        headers: headers(*status),
    });
    MetaResponses { responses: responses.collect() }
}

/// What a status says, whatever the operation.
pub(super) fn description(status: u16) -> &'static str {
    match status {
        400 => "The request breaks a rule; the body says which.",
        401 => "No credential, or one that is not valid.",
        403 => "The credential lacks the scope, there is no grant, or it is not allowed from your network.",
        404 => "There is no such thing, as far as you may know.",
        408 => "The body took longer than 15 seconds.",
        409 => "The state of things does not allow it; the body says why.",
        412 => "It has changed since you read it.",
        413 => "The body is longer than 64 KiB.",
        414 => "The address is longer than 8 KiB.",
        415 => "The body is not `application/json`.",
        421 => "The `Host` is none by which this desk goes.",
        428 => "The header `If-Match` is missing.",
        429 => "Too many requests, or too many failed attempts; try again after `Retry-After` seconds.",
        431 => "The headers are longer than 16 KiB, or more than 64.",
        500 => "The desk found something wrong with its own data, or made a mistake.",
        503 => "The desk cannot do this now. Nothing was handed over; try again after `Retry-After` seconds.",
        _ => "An error.",
    }
}

fn headers(status: u16) -> Vec<MetaHeader> {
    let header = |name: &str, description: &str| MetaHeader {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        required: true,
        deprecated: false,
        schema: <String as Type>::schema_ref(),
    };
    match status {
        401 => vec![header("WWW-Authenticate", "How to authenticate (RFC 6750 §3, RFC 7617).")],
        429 | 503 => vec![header("Retry-After", "After how many seconds to try again.")],
        _ => vec![],
    }
}

impl<A: Answers> ApiResponse for ApiError<A> {
    fn meta() -> MetaResponses {
        meta::<Problem>(A::STATUSES, "application/problem+json")
    }

    fn register(registry: &mut Registry) {
        Problem::register(registry);
    }
}

impl<A: Answers> ApiResponse for OAuthError<A> {
    fn meta() -> MetaResponses {
        meta::<OAuthProblem>(A::STATUSES, "application/json")
    }

    fn register(registry: &mut Registry) {
        OAuthProblem::register(registry);
    }
}
