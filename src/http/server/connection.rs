//! One connection, from the handshake to its end.
//!
//! Which version of HTTP it speaks is settled before the first byte of a request (by ALPN, or HTTP/1.1 without TLS), so that
//! nothing has to be guessed and every phase has its deadline.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    Request,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{
    guest::{Guest, Open},
    places::Place,
    stream::Watched,
};
use crate::http::edge::{Connection, Edge};

/// hyper refuses longer headers by itself, with an empty answer; ours has words and is for what is a little too long.
const HTTP1_BUFFER: usize = 64 * 1024;
const HTTP1_FIELDS: usize = 256;
const HTTP2_HEADERS: u32 = 64 * 1024;
const HTTP2_STREAMS: u32 = 100;
const HTTP2_RESETS: usize = 20;
/// What a client may send ahead: as long as the longest body, and a few of them.
const HTTP2_STREAM_WINDOW: u32 = 64 * 1024;
const HTTP2_WINDOW: u32 = 256 * 1024;
const HTTP2_PING: Duration = Duration::from_secs(20);
const HTTP2_PONG: Duration = Duration::from_secs(10);
/// How long a client without a complete request may take, once the server stops, to send the rest of it or see that it is told
/// to go.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves one connection to its end. `stopping` turns true when the server stops.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    edge: Arc<Edge>,
    tls: Option<TlsAcceptor>,
    stopping: watch::Receiver<bool>,
) {
    // A small reply must not wait for a delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let guest = Arc::clone(&place.guest);
    if let Some(acceptor) = tls {
        // In a place of its own: all that TLS and HTTP/2 need would otherwise be kept free in every plain connection.
        Box::pin(secured(stream, acceptor, Connection { peer, secure: true, guest }, edge, stopping)).await;
    } else {
        http1(stream, Connection { peer, secure: false, guest }, edge, stopping).await;
    }
}

async fn secured(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    line: Connection,
    edge: Arc<Edge>,
    stopping: watch::Receiver<bool>,
) {
    let guest = &line.guest;
    let handshake = timeout_at(guest.deadline(), acceptor.accept(stream));
    let stream = tokio::select! {
        secured = handshake => match secured {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => return tracing::debug!("a TLS handshake took too long"),
        },
        () = guest.dismissed() => return,
        () = async { stopped(stopping.clone()).await; sleep(GOODBYE).await } => return,
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2(stream, line, edge, stopping).await;
    } else {
        http1(stream, line, edge, stopping).await;
    }
}

async fn http1<S>(stream: S, line: Connection, edge: Arc<Edge>, stopping: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let guest = Arc::clone(&line.guest);
    guest.welcome(false);
    let mut builder = http1::Builder::new();
    // The guest's deadline is the one for headers.
    builder.header_read_timeout(None).max_buf_size(HTTP1_BUFFER).max_headers(HTTP1_FIELDS);
    let stream = TokioIo::new(Watched { stream, guest: Arc::clone(&guest) });
    let service = service_fn(move |request| answer(Arc::clone(&edge), line.clone(), request));
    attend(builder.serve_connection(stream, service), &guest, stopping).await;
}

async fn http2<S>(stream: S, line: Connection, edge: Arc<Edge>, stopping: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let guest = Arc::clone(&line.guest);
    guest.welcome(true);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(HTTP2_HEADERS)
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_pending_accept_reset_streams(HTTP2_RESETS)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_WINDOW)
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PONG);
    let stream = TokioIo::new(Watched { stream, guest: Arc::clone(&guest) });
    let service = service_fn(move |request| answer(Arc::clone(&edge), line.clone(), request));
    attend(builder.serve_connection(stream, service), &guest, stopping).await;
}

async fn answer(
    edge: Arc<Edge>,
    line: Connection,
    request: Request<Incoming>,
) -> Result<
    hyper::Response<Answer<impl Body<Data = Bytes, Error: std::error::Error + Send + Sync>>>,
    Infallible,
> {
    let mut open = line.guest.request();
    let (response, rest) = edge.answer(request, &line).await;
    open.made();
    Ok(hyper::Response::from(response).map(|body| Answer { body: Box::pin(body), _open: open, _rest: rest }))
}

/// The body of an answer; its request is under way until the body has been taken.
struct Answer<B> {
    body: Pin<Box<B>>,
    _open: Open,
    _rest: Incoming,
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Drives a connection until it ends, its time is over, it is dismissed, or the server stops and it has no complete request.
async fn attend<C>(connection: C, guest: &Guest, stopping: watch::Receiver<bool>)
where
    C: GracefulConnection<Error: std::fmt::Display>,
{
    let mut connection = pin!(connection);
    let mut dismissed = pin!(guest.dismissed());
    let mut stopped = pin!(stopped(stopping));
    let mut leaving = None;
    let mut timer = pin!(sleep_until(guest.deadline()));
    poll_fn(|cx| {
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            if let Err(error) = result {
                tracing::debug!(%error, "a connection ended early");
            }
            return Poll::Ready(());
        }
        if dismissed.as_mut().poll(cx).is_ready() {
            tracing::debug!("a connection had to make room");
            return Poll::Ready(());
        }
        if leaving.is_none() && stopped.as_mut().poll(cx).is_ready() {
            leaving = Some(Instant::now() + GOODBYE);
            // hyper would close one whose first request is just about to come.
            if !guest.is_beginning() {
                connection.as_mut().graceful_shutdown();
            }
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
        }
        loop {
            let end = guest.deadline();
            let end = leaving.filter(|_| guest.is_waiting()).map_or(end, |leaving| end.min(leaving));
            if end <= Instant::now() {
                tracing::debug!("a connection's time was over");
                return Poll::Ready(());
            }
            // It mostly moves away; only when it has come nearer must the timer be set anew before it fires.
            if end < timer.deadline() {
                timer.as_mut().reset(end);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            timer.as_mut().reset(end);
        }
    })
    .await;
}
