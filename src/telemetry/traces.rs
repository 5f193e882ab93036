//! Traces: one span per request, with the waits inside it, for an OpenTelemetry collector.
//!
//! Code anywhere in the program opens spans with `tracing` and knows nothing of OpenTelemetry. The log takes no spans, so
//! that without a collector nobody is interested in them, and such a span is never made. Attributes are named one by one
//! and follow the semantic conventions; none is a secret, a path or a query.
//!
//! Spans leave in batches on a thread of their own. When the collector is away they are dropped: the desk never waits for
//! it, and the log says once that it is away and once that it is back.

use std::{
    fmt,
    future::{Future, ready},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{Link, SpanKind, TraceContextExt as _, TraceId, TraceState, TracerProvider as _},
};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingDecision, SamplingResult, SdkTracerProvider,
        ShouldSample, SpanData, SpanExporter,
    },
};
use tokio::runtime::Runtime;
use tracing::{Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, filter::FilterFn, registry::LookupSpan};

use super::Error;

/// How long the collector may take for a batch.
const DEADLINE: Duration = Duration::from_secs(3);
/// How often batches leave.
const INTERVAL: Duration = Duration::from_secs(1);

/// The way to the collector.
#[derive(Debug)]
pub(super) struct Traces(SdkTracerProvider);

impl Traces {
    /// Opens the way to the collector at `endpoint`, which is asked for the first time when there is a span.
    pub(super) fn start(endpoint: &str) -> Result<Self, Error> {
        let otlp = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .with_timeout(DEADLINE)
            .build()
            .map_err(|error| Error::Traces(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let exporter = Exporter { otlp, runtime, away: AtomicBool::new(false) };
        let batches = BatchConfigBuilder::default().with_scheduled_delay(INTERVAL).build();
        let resource = Resource::builder()
            .with_service_name("keydesk")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(Sampler::ParentBased(Box::new(RequestsOnly)))
            .with_resource(resource.build());
        Ok(Self(provider.build()))
    }

    /// What turns our spans into those of OpenTelemetry.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let is_ours = |line: &Metadata<'_>| line.is_span() && super::is_of(line, "keydesk");
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("keydesk"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(FilterFn::new(is_ours))
    }

    /// Sends what is not sent yet.
    pub(super) fn flush(&self) {
        let _ = self.0.shutdown_with_timeout(DEADLINE);
    }
}

/// Makes `span` a child of the client's own, if the client said which that is (W3C Trace Context, `traceparent`).
/// `tracestate` is not passed on: it may hold anything.
pub fn continue_trace(span: &Span, traceparent: Option<&str>) {
    struct Header<'h>(&'h str);
    impl Extractor for Header<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            (key == "traceparent").then_some(self.0)
        }

        fn keys(&self) -> Vec<&str> {
            vec!["traceparent"]
        }
    }
    if let Some(traceparent) = traceparent.filter(|_| !span.is_disabled()) {
        let parent =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Header(traceparent));
        // Fails only where there is no trace to continue.
        let _ = span.set_parent(parent);
    }
}

/// A trace begins with a request. What the desk does by itself every moment would drown them.
#[derive(Clone, Debug)]
struct RequestsOnly;

impl ShouldSample for RequestsOnly {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        _: TraceId,
        _: &str,
        kind: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let decision = if *kind == SpanKind::Server {
            SamplingDecision::RecordAndSample
        } else {
            SamplingDecision::Drop
        };
        let trace_state = parent
            .map_or_else(TraceState::default, |parent| parent.span().span_context().trace_state().clone());
        SamplingResult { decision, attributes: Vec::new(), trace_state }
    }
}

/// Sends batches on the thread that hands them over, and tells the log when the collector goes away or comes back.
struct Exporter {
    otlp: opentelemetry_otlp::SpanExporter,
    runtime: Runtime,
    away: AtomicBool,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}

impl SpanExporter for Exporter {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let sent = self.runtime.block_on(self.otlp.export(batch));
        match (&sent, self.away.swap(sent.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(%error, "the collector of traces does not take them; they are dropped until it does");
            }
            (Ok(()), true) => tracing::info!("the collector of traces takes them again"),
            _ => {}
        }
        ready(sent)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}
