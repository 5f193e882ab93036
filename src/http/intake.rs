//! What a request must be before any of our code sees it, and its body, taken in whole.
//!
//! hyper has made sure that it is HTTP. Here it is held to measures of ours, which are far below hyper's, so that what is
//! a little too long is told so in words. A body is read to its end before the work begins: work never waits for a client.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use hyper::body::{Body as _, Bytes, Incoming};
use poem::http::{HeaderMap, StatusCode, Uri, header, request::Parts};

use super::{error::Refusal, server::guest::Guest};

const MAX_TARGET: usize = 8 * 1024;
const MAX_HEADERS: usize = 16 * 1024;
const MAX_FIELDS: usize = 64;
/// A longer body is not read: nothing of ours needs more.
const MAX_BODY: usize = 64 * 1024;
/// So much of a longer one is read and thrown away: many a client looks for no answer before it has sent everything.
const MAX_DISCARDED: usize = 1024 * 1024;
/// How long a client may take to send its body.
const BODY_DEADLINE: Duration = Duration::from_secs(15);

/// Refuses a request whose head is too long, or whose body is compressed.
pub(super) fn check(parts: &Parts) -> Result<(), Refusal> {
    if length(&parts.uri) > MAX_TARGET {
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, "the address is longer than 8 KiB"));
    }
    if parts.headers.len() > MAX_FIELDS || size(&parts.headers) > MAX_HEADERS {
        return Err(Refusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the headers are longer than 16 KiB, or more than 64",
        ));
    }
    if parts.headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body has a Content-Encoding: send it as it is",
        ));
    }
    Ok(())
}

/// The length of an address as it was sent, or a little less.
fn length(uri: &Uri) -> usize {
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    authority + uri.path_and_query().map_or(0, |target| target.as_str().len())
}

/// The bytes of a header block as it was sent.
fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

/// Reads a body to its end.
///
/// `expecting` says that the client sends it only when it is told to (RFC 9110 §10.1.1).
pub(super) async fn body(body: &mut Incoming, expecting: bool, guest: &Arc<Guest>) -> Result<Bytes, Refusal> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let enough = if expecting { MAX_BODY } else { MAX_DISCARDED };
    if body.size_hint().lower() > enough as u64 {
        return Err(too_long());
    }
    let _coming = guest.body();
    let read = async {
        let _turn = guest.turn().await;
        let (mut bytes, mut length) = (Vec::new(), 0);
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            let frame = frame.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the body broke off"))?;
            // Trailers say nothing to us.
            let Ok(data) = frame.into_data() else { continue };
            length += data.len();
            if length > enough {
                return Err(too_long());
            }
            if length <= MAX_BODY {
                bytes.extend_from_slice(&data);
            }
        }
        if length > MAX_BODY { Err(too_long()) } else { Ok(Bytes::from(bytes)) }
    };
    let late = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive");
    tokio::time::timeout(BODY_DEADLINE, read).await.map_err(late)?
}

fn too_long() -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 64 KiB")
}
