//! A poem server that knows one answer: what `scripts/bench` compares the desk with.
//!
//! It has the same body and the same runtime as the desk, and nothing else: no TLS, no routes, no limits, no book. What a key
//! costs more than this is the price of the desk.
//!
//! `bare_poem PORT BODY` answers every request on `127.0.0.1:PORT` with the JSON text `BODY`.

#![expect(clippy::expect_used, reason = "a benchmark that cannot start has nothing to say")]

use poem::{Response, Server, endpoint::make_sync, http::header, listener::TcpListener};

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (port, body) = arguments.next().zip(arguments.next()).expect("usage: bare_poem PORT BODY");
    let body = hyper::body::Bytes::from(body);
    let answer =
        move |_| Response::builder().header(header::CONTENT_TYPE, "application/json").body(body.clone());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"));
    Server::new(listener).run(make_sync(answer)).await.expect("the port is free");
}
