//! The outermost layer: what is true of every request and every response.
//!
//! Each request gets an identifier and a task of its own. The task runs to its end even when the client has gone, so that
//! a unit of work is never cut in the middle, and a panic in it becomes a 500 that takes nothing else along. Each response
//! gets the identifier, the security headers, and `Cache-Control: no-store` unless its handler knows better.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use hyper::body::Incoming;
use poem::{
    Addr, Endpoint, IntoResponse, Request, Response,
    endpoint::BoxEndpoint,
    http::{HeaderName, HeaderValue, Method, StatusCode, header, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};

use super::{error, peer::Client};
use crate::{app::App, metrics::Metrics, model::Origin};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// All routes, with what surrounds them.
pub(super) struct Edge {
    routes: Arc<BoxEndpoint<'static>>,
    app: Arc<App>,
    table: Vec<(Arc<str>, Vec<Method>)>,
    no_route: Arc<str>,
}

/// The identifier of the request at hand.
#[derive(Clone)]
struct RequestId(String);

impl Edge {
    /// Surrounds `routes`; `document` says which paths have which methods.
    pub(super) fn new(routes: BoxEndpoint<'static>, app: Arc<App>, document: &serde_json::Value) -> Self {
        let paths = document["paths"].as_object().into_iter().flatten();
        let methods = |operations: &serde_json::Value| {
            operations
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(name, _)| name.to_uppercase().parse().ok())
                .collect()
        };
        let mut table: Vec<_> =
            paths.map(|(path, operations)| (Arc::from(path.as_str()), methods(operations))).collect();
        table.extend(super::docs::PATHS.iter().map(|path| (Arc::from(*path), vec![Method::GET])));
        Self { routes: Arc::new(routes), app, table, no_route: Arc::from("none") }
    }

    /// Where connections are counted.
    pub(super) fn metrics(&self) -> &Metrics {
        self.app.metrics()
    }

    /// Answers a request.
    pub(super) async fn answer(&self, request: hyper::Request<Incoming>, peer: SocketAddr) -> Response {
        let (begun, _in_flight) = (Instant::now(), self.app.metrics().request_begins());
        let request_id = self.app.new_request_id();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let remote = RemoteAddr(Addr::SocketAddr(peer));
        let client = Client::of(peer, request.headers(), self.app.settings());
        let mut request = Request::from((request, LocalAddr::default(), remote, Scheme::HTTP));
        request.extensions_mut().insert(RequestId(request_id.clone()));
        request.extensions_mut().insert(client);

        let (routes, app) = (Arc::clone(&self.routes), Arc::clone(&self.app));
        let answer = tokio::spawn(async move {
            client.check(&app, &request).await?;
            routes.call(request).await.map(IntoResponse::into_response)
        });
        let mut response = match answer.await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => error::render(error, &request_id),
            Err(_) => error::render_panic(&request_id),
        };
        let route = self.table.iter().find(|(template, _)| matches(template, &path));
        if let (StatusCode::METHOD_NOT_ALLOWED, Some((_, methods))) = (response.status(), route) {
            response.headers_mut().insert(header::ALLOW, allow(methods));
        }
        finish(&mut response, &request_id);
        // The template, never the path: people paste secrets into addresses.
        let route = route.map_or(&self.no_route, |(template, _)| template);
        self.app.metrics().request(route, known(&method), response.status().as_u16(), begun.elapsed());
        tracing::info!(
            request_id,
            method = known(&method),
            route = &**route,
            status = response.status().as_u16(),
            client = %client.address,
            micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            "request"
        );
        response
    }
}

/// Where a request came from.
pub(super) fn origin(request: &Request) -> Origin {
    let client = request.extensions().get::<Client>();
    let source = client.map_or_else(|| "unknown".to_owned(), |client| client.address.to_string());
    let request_id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    Origin { source, request_id }
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
fn allow(methods: &[Method]) -> HeaderValue {
    let mut names: Vec<_> = methods.iter().map(Method::as_str).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static(""))
}

/// A method's name, if it is one that everybody knows: what strangers invent does not go into the log.
fn known(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|name| *name == method.as_str()).unwrap_or("other")
}

fn finish(response: &mut Response, request_id: &str) {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(X_REQUEST_ID, value);
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
