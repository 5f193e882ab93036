//! The outermost layer: what is true of every request and every response.
//!
//! Each request gets an identifier. One that may change something gets a task of its own, which runs to its end even when
//! the client has gone, so that a unit of work is never cut in the middle. A panic becomes a 500 that takes nothing else
//! along. Each response gets the identifier, the security headers, and `Cache-Control: no-store` unless its handler knows
//! better.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, TryFutureExt as _};
use hyper::body::{Bytes, Incoming};
use poem::{
    Addr, Body, Endpoint, IntoResponse, Request, RequestParts, Response,
    endpoint::BoxEndpoint,
    http::{HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};

use tracing::Instrument as _;

use super::{
    error::{self, Refusal},
    host::Hosts,
    intake,
    observe::{Observed, Visit},
    peer::Client,
    quota,
    server::guest::Guest,
};
use crate::{
    app::{App, Error},
    metrics::Metrics,
    model::Origin,
};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long a client is kept waiting for an answer. The work goes on without it.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// All routes, with what surrounds them.
pub(super) struct Edge {
    routes: Arc<BoxEndpoint<'static>>,
    app: Arc<App>,
    hosts: Hosts,
    table: Vec<Known>,
}

/// A route that there is.
struct Known {
    template: Arc<str>,
    methods: Vec<Method>,
    /// The methods that take a body.
    bodies: Vec<Method>,
}

/// What a request has come over.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    /// Whether it came over TLS.
    pub(super) secure: bool,
    pub(super) guest: Arc<Guest>,
}

impl Edge {
    /// Surrounds `routes`; `document` says which paths have which methods.
    pub(super) fn new(
        routes: BoxEndpoint<'static>,
        app: Arc<App>,
        hosts: Hosts,
        document: &serde_json::Value,
    ) -> Self {
        let paths = document["paths"].as_object().into_iter().flatten();
        let mut table: Vec<_> = paths.map(|(path, operations)| Known::of(path, operations)).collect();
        let page = |path| Known { template: Arc::from(path), methods: vec![Method::GET], bodies: Vec::new() };
        table.extend(super::docs::paths().map(page));
        Self { routes: Arc::new(routes), app, hosts, table }
    }

    /// Where connections are counted.
    pub(super) fn metrics(&self) -> &Metrics {
        self.app.metrics()
    }

    /// Whether the number of connections from `address` is limited: not where one speaks for many.
    pub(super) fn limits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        !address.is_loopback() && !self.app.settings().trusts_proxy(address)
    }

    /// Answers a request. What is returned beside is what is left of its body, to be dropped with the end of the answer: a
    /// client that is still sending would otherwise be cut off before it has read that it need not.
    pub(super) async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        connection: &Connection,
    ) -> (Response, Incoming) {
        let (parts, mut body) = request.into_parts();
        let (method, version) = (parts.method.clone(), parts.version);
        let (uri, chunked) = (parts.uri.clone(), parts.headers.contains_key(header::TRANSFER_ENCODING));
        let path = uri.path();
        let route = self.table.iter().find(|route| matches(&route.template, path));
        let client = Client::of(connection.peer, &parts.headers, self.app.settings());
        let known = (&method, route.map(|route| &route.template));
        let observed = Observed::begin(&self.app, known, client, &parts.headers);
        let taken = match client.objection(&self.app, path) {
            Some(error) => Err(self.turn_away(path, client, error, &observed).await),
            None => self
                .take_in(parts, &mut body, route, connection)
                .await
                .map_err(|refusal| refusal.render(path, observed.request_id())),
        };
        let mut response = match taken {
            Ok(request) => self.work(request, path, &observed).await,
            Err(mut response) => {
                // What is left of the request is not read.
                close(&mut response, version);
                response
            }
        };
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(header::ALLOW, allow(route));
        }
        // Somebody on the way may have seen another end of a chunked body (RFC 9112 §6.1): nothing comes after one.
        if chunked || self.app.is_draining() {
            close(&mut response, version);
        }
        finish(&mut response, observed.request_id(), connection.secure);
        observed.answered(response.status());
        (response, body)
    }

    /// The request with its whole body, or why it is not one for us.
    async fn take_in(
        &self,
        parts: Parts,
        body: &mut Incoming,
        route: Option<&Known>,
        connection: &Connection,
    ) -> Result<Request, Refusal> {
        intake::check(&parts)?;
        self.hosts.check(parts.version, &parts.uri, &parts.headers)?;
        if matches!(parts.method, Method::TRACE | Method::CONNECT) {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "no resource has this method"));
        }
        let wanted = route.is_some_and(|route| route.bodies.contains(&parts.method));
        let expecting = parts.headers.contains_key(header::EXPECT);
        let bytes =
            if wanted { intake::body(body, expecting, &connection.guest).await? } else { Bytes::new() };
        let remote = RemoteAddr(Addr::SocketAddr(connection.peer));
        let scheme = if connection.secure { Scheme::HTTPS } else { Scheme::HTTP };
        let parts = RequestParts::from((parts, LocalAddr::default(), remote, scheme));
        Ok(Request::from_parts(parts, Body::from_bytes(bytes)))
    }

    /// Has the request answered by whoever answers such requests.
    async fn work(&self, mut request: Request, path: &str, observed: &Observed) -> Response {
        let visit = observed.visit();
        request.extensions_mut().insert(Arc::clone(&visit));
        let (routes, method) = (Arc::clone(&self.routes), request.method().clone());
        let work = async move { routes.call(request).await.map(IntoResponse::into_response) };
        let mut response = if method.is_safe() {
            here(work, path, observed).await
        } else {
            in_task(work, path, observed).await
        };
        quota::tell(&visit.meter, response.headers_mut());
        response
    }

    /// Refuses a request of which only its origin was looked at, and has that written down.
    async fn turn_away(&self, path: &str, client: Client, error: Error, observed: &Observed) -> Response {
        let app = Arc::clone(&self.app);
        let origin = client.origin(observed.request_id());
        let at = path.to_owned();
        let work = async move { Err(error::in_form_of(&at, app.turn_away(&origin, error).await)) };
        in_task(work, path, observed).await
    }
}

/// The answer of `work`, which goes on to its end whatever becomes of the client.
async fn in_task(
    work: impl Future<Output = poem::Result<Response>> + Send + 'static,
    path: &str,
    observed: &Observed,
) -> Response {
    let answer = tokio::spawn(work.instrument(observed.span()));
    let late = "this takes too long, and goes on by itself: look what became of it before you try again";
    answered(answer.map_err(drop), late, path, observed).await
}

/// The answer of `work` that changes nothing, and ends with its client. What it has handed to the book is written all the same.
/// A task of its own would cost as much as most of this work does.
async fn here(
    work: impl Future<Output = poem::Result<Response>> + Send + 'static,
    path: &str,
    observed: &Observed,
) -> Response {
    let answer = AssertUnwindSafe(Box::pin(work).instrument(observed.span())).catch_unwind();
    answered(answer.map_err(drop), "this takes too long; try again later", path, observed).await
}

/// The answer; a panic is one, too, and so is that none has come in time.
async fn answered(
    answer: impl Future<Output = Result<poem::Result<Response>, ()>>,
    late: &'static str,
    path: &str,
    observed: &Observed,
) -> Response {
    let request_id = observed.request_id();
    match tokio::time::timeout(REQUEST_DEADLINE, answer).await {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(error))) => error::render(error, request_id),
        Ok(Err(())) => error::render_panic(request_id),
        Err(_) => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, late).render(path, request_id),
    }
}

impl Known {
    /// A path of the document.
    fn of(path: &str, operations: &serde_json::Value) -> Self {
        let operations = || operations.as_object().into_iter().flatten();
        let method = |(name, _): (&String, _)| name.to_uppercase().parse().ok();
        let methods = operations().filter_map(method).collect();
        let takes_body = |(_, operation): &(_, &serde_json::Value)| !operation["requestBody"].is_null();
        let bodies = operations().filter(takes_body).filter_map(method).collect();
        Self { template: Arc::from(path), methods, bodies }
    }
}

/// Tells an HTTP/1.1 client that this is the last answer on its connection.
fn close(response: &mut Response, version: Version) {
    if version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Where a request came from.
pub(super) fn origin(request: &Request) -> Origin {
    let visit = Visit::of(request);
    visit.client.origin(&visit.request_id)
}

/// Whether `path` is one that `template` describes; `{name}` stands for one segment.
fn matches(template: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    let fits = template.split('/').all(|expected| {
        segments.next().is_some_and(|segment| {
            expected == segment
                || (expected.starts_with('{') && expected.ends_with('}') && !segment.is_empty())
        })
    });
    fits && segments.next().is_none()
}

/// RFC 9110 §10.2.1. GET brings HEAD with it.
fn allow(route: Option<&Known>) -> HeaderValue {
    let methods = route.into_iter().flat_map(|route| &route.methods);
    let mut names: Vec<_> = methods.map(Method::as_str).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static(""))
}

fn finish(response: &mut Response, request_id: &str, secure: bool) {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(X_REQUEST_ID, value);
    }
    if secure {
        let year = HeaderValue::from_static("max-age=31536000");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, year);
    }
    let defaults = [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in defaults {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_describe_whole_paths() {
        assert!(matches("/llm-keys", "/llm-keys") && matches("/llm-keys/{provider}", "/llm-keys/openai"));
        for other in ["/llm-keys/", "/llm-keys/a/b", "/LLM-KEYS/a", "//llm-keys", "/", ""] {
            assert!(!matches("/llm-keys/{provider}", other), "{other}");
        }
    }
}
