//! Accepting connections.
//!
//! poem's own server has no deadline for headers and spins when the process is out of file descriptors, so the loop is
//! ours: hyper with a timer, a cap on connections, a pause after an accept error.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::edge::Edge;

/// How long a client may take to send its request line and headers; also how long an idle connection is kept.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// How long accepted requests may take to finish once the server is told to stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait when a connection cannot be accepted, for example because the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const MAX_CONNECTIONS: usize = 1024;
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// Serves until `shutdown` completes and the accepted requests are answered, or the drain deadline has passed.
pub(super) async fn run(
    listener: TcpListener,
    edge: Arc<Edge>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut shutdown = pin!(shutdown);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(max_connections()));
    let builder = connection_builder();
    loop {
        if places.available_permits() == 0 {
            tracing::warn!("every connection is taken; new clients wait");
        }
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = &mut shutdown => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = connect(&builder, stream, peer, &edge);
        let open = edge.metrics().connection_opens();
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = watched.await {
                tracing::debug!(error, "a connection ended early");
            }
            drop((place, open));
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_DEADLINE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not finish in time and were cut");
    }
    Ok(())
}

/// HTTP/1.1 only, for now: hyper's deadline for headers does not hold while it finds out which version a client speaks.
fn connection_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(MAX_HEADER_BYTES);
    builder
}

/// How many connections to hold: fewer than the process may have files open, so that the database never lacks one.
fn max_connections() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    MAX_CONNECTIONS.min(files / 5 * 4).max(1)
}

fn connect(
    builder: &auto::Builder<TokioExecutor>,
    stream: TcpStream,
    peer: SocketAddr,
    edge: &Arc<Edge>,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = Box<dyn std::error::Error + Send + Sync>>
+ Send
+ 'static {
    // A small reply must not wait for a delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let edge = Arc::clone(edge);
    let service = service_fn(move |request: Request<Incoming>| {
        let edge = Arc::clone(&edge);
        async move { Ok::<_, Infallible>(hyper::Response::from(edge.answer(request, peer).await)) }
    });
    builder.serve_connection(TokioIo::new(stream), service).into_owned()
}
