//! What is said of each request: one line in the log, one count, one span.
//!
//! Whatever becomes of a request, it is said once: when it is answered, or when its client has gone before. Nothing that a
//! stranger can choose is repeated: the route is a template, the method one that everybody knows, and who asks is named
//! only after they have proven it.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use poem::{
    Request,
    http::{HeaderMap, Method, StatusCode},
};
use tracing::{Span, field::Empty};

use super::peer::Client;
use crate::{
    app::{App, limits::Meter},
    metrics::Present,
    telemetry::traces,
};

/// What stands for the status when the client has gone before the answer; no response has it.
const CLIENT_GONE: u16 = 499;

/// A request that is being answered.
pub(super) struct Observed {
    app: Arc<App>,
    visit: Arc<Visit>,
    method: &'static str,
    route: Arc<str>,
    status: u16,
    begun: Instant,
    span: Span,
    _in_flight: Present,
}

/// What is known of a request besides what it says. It travels with it, and the handlers add to it.
pub(super) struct Visit {
    /// Under which identifier it is logged and answered.
    pub(super) request_id: String,
    /// Where it comes from.
    pub(super) client: Client,
    /// What the limits say of it.
    pub(super) meter: Meter,
    asked_by: OnceLock<String>,
}

impl Visit {
    /// The one of a request.
    #[expect(clippy::expect_used, reason = "`edge` puts it into every request")]
    pub(super) fn of(request: &Request) -> &Arc<Self> {
        request.extensions().get().expect("the request carries its visit")
    }

    /// Who asks is proven to be `name`. What was proven first stays.
    pub(super) fn is_by(&self, name: &str) {
        let _ = self.asked_by.set(name.to_owned());
    }
}

impl Observed {
    /// A request has come. `route` is the template that its path fits.
    pub(super) fn begin(
        app: &Arc<App>,
        (method, route): (&Method, Option<&Arc<str>>),
        client: Client,
        headers: &HeaderMap,
    ) -> Self {
        let request_id = app.new_request_id();
        let (method, template) = (known(method), route.map(|route| &**route));
        let span = tracing::info_span!(
            "request",
            otel.name = template.map_or_else(|| method.to_owned(), |route| format!("{method} {route}")),
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = method,
            http.route = template,
            http.response.status_code = Empty,
            error.type = Empty,
            client.address = %client.address,
            user.name = Empty,
            request.id = request_id,
        );
        traces::continue_trace(&span, headers.get("traceparent").and_then(|value| value.to_str().ok()));
        Self {
            app: Arc::clone(app),
            visit: Arc::new(Visit { request_id, client, meter: Meter::default(), asked_by: OnceLock::new() }),
            method,
            route: route.map_or_else(|| Arc::from("none"), Arc::clone),
            status: CLIENT_GONE,
            begun: Instant::now(),
            span,
            _in_flight: app.metrics().request_begins(),
        }
    }

    /// Under which identifier it is answered.
    pub(super) fn request_id(&self) -> &str {
        &self.visit.request_id
    }

    /// What is known of it.
    pub(super) fn visit(&self) -> Arc<Visit> {
        Arc::clone(&self.visit)
    }

    /// The span to work in.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// It has been answered.
    pub(super) fn answered(mut self, status: StatusCode) {
        self.status = status.as_u16();
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let (took, principal) = (self.begun.elapsed(), self.visit.asked_by.get().map(String::as_str));
        self.span.record("http.response.status_code", i64::from(self.status));
        self.span.record("user.name", principal);
        if self.status >= 500 {
            self.span.record("otel.status_code", "ERROR");
            self.span.record("error.type", tracing::field::display(self.status));
        }
        self.app.metrics().request(&self.route, self.method, self.status, took);
        tracing::info!(
            request_id = self.visit.request_id,
            client = %self.visit.client.address,
            principal,
            method = self.method,
            // The template, never the path: people paste secrets into addresses.
            route = &*self.route,
            status = self.status,
            micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "request"
        );
    }
}

/// A method's name, if it is one that everybody knows: what strangers invent is not repeated.
fn known(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|name| *name == method.as_str()).unwrap_or("other")
}
