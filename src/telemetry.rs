//! What the server tells about its work: the log on standard error, and traces for those who collect them.
//!
//! Nobody can make the log tell a secret, whatever they set: our own lines never hold one, and the libraries that see requests
//! and answers pass are held to what they say of themselves (see [`may_be_logged`]). A line never contains a control
//! character that came from outside, and a reader who stops reading stops nobody (see [`lines`]). A panic is logged as the
//! place where it happened and nothing else, because a panic message can quote what the program was working on.

mod lines;
pub mod traces;

use std::{
    io::{self, Write as _},
    panic::PanicHookInfo,
    time::Duration,
};

use tracing::{Level, Metadata, dispatcher, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    filter::{FilterExt as _, FilterFn},
    fmt::layer,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat};
use lines::Queue;
use traces::Traces;

/// How long the end of the program waits for what is not written or sent yet.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `RUST_LOG` is not a filter.
    #[error("RUST_LOG is not a log filter, such as debug or keydesk=debug,sqlx=warn")]
    Filter,
    /// No thread could be started.
    #[error("cannot start the log: {0}")]
    Thread(#[from] io::Error),
    /// The exporter of traces could not be made.
    #[error("traces.endpoint cannot be used: {0}")]
    Traces(String),
}

/// The open log, and the traces if they are collected. Dropping it waits a moment for what is still under way.
#[derive(Debug)]
pub struct Telemetry {
    queue: Queue,
    traces: Option<Traces>,
}

/// Opens the log for the rest of the program, and has traces sent to the collector at `traces`.
pub fn init(log: &Log, traces: Option<&str>) -> Result<Telemetry, Error> {
    let directives =
        [Some(log.level), log.refine.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(",");
    let wanted = EnvFilter::builder().parse(directives).map_err(|_| Error::Filter)?;
    let allowed = FilterFn::new(may_be_logged).with_max_level_hint(LevelFilter::TRACE);
    let queue = Queue::start(io::stderr())?;
    let traces = traces.map(Traces::start).transpose()?;
    let lines = layer::<Registry>().with_ansi(false).with_writer(queue.clone());
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let mut layers = vec![lines.with_filter(wanted.and(allowed)).boxed()];
    // Not as a layer that may be none: that would have every span made, for nobody.
    layers.extend(traces.as_ref().map(|traces| traces.layer().boxed()));
    // The only failure is that there is a log already, which is as good.
    let _ = tracing_subscriber::registry().with(layers).try_init();
    Ok(Telemetry { queue, traces })
}

/// Whether a line may be logged at all, however much was asked for.
///
/// What libraries say at their lowest levels quotes what passes through them: headers, frames, addresses, in this version or
/// the next. So the levels below `info` are for our own lines, and for statements of the database, whose texts are fixed
/// and whose values are not printed. Spans are for [`traces`].
fn may_be_logged(line: &Metadata<'_>) -> bool {
    let lowest = if is_of(line, "keydesk") {
        Level::TRACE
    } else if is_of(line, "sqlx") {
        Level::DEBUG
    } else {
        Level::INFO
    };
    line.is_event() && *line.level() <= lowest
}

/// Whether something is said by the crate `name`.
fn is_of(line: &Metadata<'_>, name: &str) -> bool {
    line.target().strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = &self.traces {
            traces.flush();
        }
        self.queue.flush(PATIENCE);
    }
}

/// Makes every panic say only where it happened.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(report_panic));
}

fn report_panic(info: &PanicHookInfo<'_>) {
    let place =
        info.location().map_or_else(String::new, |place| format!("{}:{}", place.file(), place.line()));
    if dispatcher::has_been_set() {
        tracing::error!(place, "a bug in keydesk: the program panicked");
    } else {
        let _ = writeln!(io::stderr(), "keydesk: a bug: the program panicked at {place}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// Keeps the target and the level of every line that it gets.
    struct Listener(&'static Mutex<Vec<String>>);

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Listener {
        fn on_event(&self, line: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            let line = format!("{} {}", line.metadata().level(), line.metadata().target());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    #[test]
    fn libraries_cannot_be_made_to_quote_what_passes_through_them() {
        static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let everything = EnvFilter::new("trace,h2=trace,hyper=trace,[{headers}]=trace");
        let filter = everything.and(FilterFn::new(may_be_logged));
        let subscriber = tracing_subscriber::registry().with(Listener(&HEARD).with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(target: "h2::codec", headers = "CANARY");
            tracing::trace!(target: "hyper::proto", headers = "CANARY");
            tracing::trace!(target: "rustls", "CANARY");
            tracing::trace!(target: "sqlx::query", "CANARY");
            tracing::trace!(target: "keydeskish", "CANARY");
            tracing::debug!(target: "sqlx::query", "a statement");
            tracing::trace!(target: "keydesk::http", "ours");
            tracing::info!(target: "hyper", "about itself");
            assert!(tracing::info_span!("request").is_disabled(), "spans are for traces");
        });
        let heard = HEARD.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(*heard, ["DEBUG sqlx::query", "TRACE keydesk::http", "INFO hyper"]);
    }
}
