//! `/docs` (Swagger UI), `/redoc`, `/openapi.json`, `/openapi.yaml`: all from the binary, nothing from elsewhere.
//!
//! poem-openapi's pages are one HTML of more than a megabyte, copied for every request, with inline scripts. Here the same
//! scripts are files with an entity tag, so that browsers keep them and a strict content security policy holds.

use poem::{
    Endpoint, IntoResponse, Request, Response, Result, Route,
    endpoint::make_sync,
    get,
    http::{HeaderMap, StatusCode, header},
};
use poem_openapi::{OpenApi, OpenApiService, Webhook};
use serde_json::Value;

use super::spec;

/// The paths of this module.
pub(super) const PATHS: [&str; 10] = [
    "/openapi.json",
    "/openapi.yaml",
    "/docs",
    "/docs/swagger-ui.css",
    "/docs/swagger-ui.js",
    "/docs/start.css",
    "/docs/start.js",
    "/redoc",
    "/redoc/redoc.js",
    "/redoc/start.js",
];

const DOCS_HTML: &str = include_str!("docs/docs.html");
const DOCS_CSS: &str = include_str!("docs/docs.css");
const DOCS_JS: &str = include_str!("docs/docs.js");
const REDOC_HTML: &str = include_str!("docs/redoc.html");
const REDOC_JS: &str = include_str!("docs/redoc.js");

const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                           connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
/// Redoc writes its own style elements and searches in a worker made from a blob.
const REDOC_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                            connect-src 'self'; worker-src blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The routes of the documentation.
pub(super) fn routes<T, W>(service: &OpenApiService<T, W>, document: &Value) -> Route
where
    T: OpenApi + 'static,
    W: Webhook + 'static,
{
    let swagger = service.swagger_ui_html();
    let redoc = service.redoc_html();
    let css = between(&swagger, "<style charset=\"UTF-8\">", "</style>");
    let js = between(&swagger, "<script charset=\"UTF-8\">", "</script>\n</head>");
    let redoc_js = between(&redoc, "<script charset=\"UTF-8\">", "</script>\n  </head>");
    let (script, style, html) =
        ("text/javascript; charset=utf-8", "text/css; charset=utf-8", "text/html; charset=utf-8");
    Route::new()
        .at("/openapi.json", page("application/json", &spec::json(document), None))
        .at("/openapi.yaml", page("application/yaml", &spec::yaml(document), None))
        .at("/docs", page(html, DOCS_HTML, Some(DOCS_POLICY)))
        .at("/docs/swagger-ui.css", page(style, css, None))
        .at("/docs/swagger-ui.js", page(script, js, None))
        .at("/docs/start.css", page(style, DOCS_CSS, None))
        .at("/docs/start.js", page(script, DOCS_JS, None))
        .at("/redoc", page(html, REDOC_HTML, Some(REDOC_POLICY)))
        .at("/redoc/redoc.js", page(script, redoc_js, None))
        .at("/redoc/start.js", page(script, REDOC_JS, None))
}

/// The text between two marks; the whole if they are not there, which a test of the page would notice.
fn between<'t>(text: &'t str, start: &str, end: &str) -> &'t str {
    let after = text.split_once(start).map_or(text, |(_, after)| after);
    after.split_once(end).map_or(after, |(before, _)| before)
}

fn page(media_type: &'static str, body: &str, policy: Option<&'static str>) -> impl Endpoint + use<> {
    let body = hyper::body::Bytes::from(body.to_owned());
    let digest = crate::app::fingerprint(&body);
    let etag = format!("\"{digest}\"");
    get(make_sync(move |request: Request| -> Result<Response> {
        let mut response = Response::builder()
            .header(header::ETAG, &etag)
            .header(header::CACHE_CONTROL, "no-cache")
            .header(header::CONTENT_TYPE, media_type);
        if let Some(policy) = policy {
            response = response.header(header::CONTENT_SECURITY_POLICY, policy);
        }
        if shows(request.headers(), &etag) {
            return Ok(response.status(StatusCode::NOT_MODIFIED).finish());
        }
        Ok(response.body(body.clone()).into_response())
    }))
}

fn shows(headers: &HeaderMap, etag: &str) -> bool {
    headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == etag.as_bytes())
}
