//! Accepting connections.
//!
//! poem's own server has no deadline for headers and spins when the process is out of file descriptors, so the loop is
//! ours. `places` decides who may come in, `guest` knows what each connection is doing, `connection` serves one.

mod connection;
pub(super) mod guest;
mod places;
mod stream;

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{Options, edge::Edge};
use places::Places;

/// How long accepted requests may take to finish once the server is told to stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// How long connections that waited to be accepted when the server was told to stop may wait for a place.
const LAST_CALL: Duration = Duration::from_millis(50);
/// How many of them there are at most.
const QUEUE: usize = 1024;
/// How long to wait when a connection cannot be accepted, for example because the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often to say so.
const COMPLAINTS: Duration = Duration::from_secs(1);
/// Descriptors that are not for connections: database, log, listeners, webhooks.
const RESERVE: usize = 40;

/// Serves until `shutdown` completes and the accepted requests are answered, or the drain deadline has passed.
pub(super) async fn run(
    listener: TcpListener,
    edge: Arc<Edge>,
    options: &Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut shutdown = pin!(shutdown);
    let places = Places::new(size(options.connections), options.connections_per_source);
    let (stop, stopping) = watch::channel(false);
    let mut complaint: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if complaint.is_none_or(|last| last.elapsed() >= COMPLAINTS) {
                    tracing::warn!(%error, "a connection could not be accepted; trying again");
                    complaint = Some(Instant::now());
                }
                places.dismiss(|_| true);
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        tokio::select! {
            biased;
            () = admit(accepted, &places, &edge, options, &stopping) => {}
            () = &mut shutdown => break,
        }
    }
    // Who has connected while the desk was there is not cut off by its going.
    let listener = listener.into_std()?;
    let waiting: Vec<_> = std::iter::from_fn(|| listener.accept().ok()).take(QUEUE).collect();
    drop(listener);
    let last_call = Instant::now() + LAST_CALL;
    for (stream, peer) in waiting {
        stream.set_nonblocking(true)?;
        let accepted = (TcpStream::from_std(stream)?, peer);
        let _ = timeout_at(last_call, admit(accepted, &places, &edge, options, &stopping)).await;
    }
    let _ = stop.send(true);
    if tokio::time::timeout(DRAIN_DEADLINE, places.empty()).await.is_err() {
        tracing::warn!("some requests did not finish in time and were cut");
    }
    Ok(())
}

/// Serves a new connection, if there is a place for it.
async fn admit(
    (stream, peer): (TcpStream, SocketAddr),
    places: &Arc<Places>,
    edge: &Arc<Edge>,
    options: &Options,
    stopping: &watch::Receiver<bool>,
) {
    let Some(place) = places.take(peer.ip(), edge.limits(peer.ip())).await else { return };
    let tls = options.tls.as_ref().map(|tls| tls.acceptor());
    let (edge, stopping) = (Arc::clone(edge), stopping.clone());
    let open = edge.metrics().connection_opens();
    tokio::spawn(async move {
        connection::serve(stream, peer, place, edge, tls, stopping).await;
        drop(open);
    });
}

/// How many connections to hold: fewer than the process may have files open, so that the database never lacks one.
fn size(wanted: usize) -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    let size = wanted.min(files.saturating_sub(RESERVE)).max(1);
    if size < wanted {
        tracing::warn!(
            connections = size,
            "limits.connections is {wanted}, but the process may have only {files} files open: raise the limit (ulimit -n)"
        );
    }
    size
}
