//! `GET /metrics` for Prometheus, on a listener of its own.
//!
//! Never on the port that clients use: who may fetch keys need not see how busy the desk is, and a scrape must come through
//! when every connection there is taken. It has no routes, no credentials and no bodies, so it needs little care: few
//! connections, one request each, and a deadline for all of it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use poem::{
    Response,
    http::{Method, StatusCode, header},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::host;
use crate::{app::App, metrics::CONTENT_TYPE};

const MAX_CONNECTIONS: usize = 16;
/// How long a client may take to send its request.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// How long a connection lasts in any case; Prometheus gives up after ten seconds.
const DEADLINE: Duration = Duration::from_secs(15);
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// How long to wait when a connection cannot be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the metrics of `app` until it is dropped.
pub async fn serve(listener: TcpListener, app: Arc<App>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let app = Arc::clone(&app);
                tokio::spawn(async move {
                    converse(stream, app).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, app: Arc<App>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(hyper::Response::from(answer(&request, &app).await)) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .keep_alive(false)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if !matches!(tokio::time::timeout(DEADLINE, connection).await, Ok(Ok(()))) {
        tracing::debug!("a connection for metrics ended early");
    }
}

async fn answer(request: &Request<Incoming>, app: &App) -> Response {
    let response = Response::builder().header(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if !host::is_an_address(request.headers()) {
        return response.status(StatusCode::MISDIRECTED_REQUEST).body(
            "metrics are asked for by address, as in http://127.0.0.1:9464/metrics, or as localhost\n",
        );
    }
    match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET | &Method::HEAD) => response
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .header(header::CACHE_CONTROL, "no-store")
            .body(app.metrics_page().await),
        ("/metrics", _) => {
            response.status(StatusCode::METHOD_NOT_ALLOWED).header(header::ALLOW, "GET, HEAD").body("")
        }
        _ => response.status(StatusCode::NOT_FOUND).body("only /metrics is here\n"),
    }
}
