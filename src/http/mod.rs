//! HTTP: from the wire to an operation and back.

use std::{future::Future, io, sync::Arc};

use tokio::net::TcpListener;

use crate::app::App;

/// The OpenAPI document as JSON, as it is served and committed.
pub fn spec_json() -> String {
    String::new()
}

/// The same as YAML.
pub fn spec_yaml() -> String {
    String::new()
}

/// Serves the desk on `listener` until `shutdown` completes, then finishes the requests it has accepted.
pub async fn serve(_listener: TcpListener, _app: Arc<App>, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    shutdown.await;
    Ok(())
}
