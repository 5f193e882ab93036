//! The public URL: an issuer identifier (RFC 8414 §2), compared as text by every client, so it has to be exact.

use super::wrong;

/// Checks a public URL and returns it as it is.
pub(super) fn public(url: &str) -> Result<String, String> {
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else {
        return wrong("does not begin with https:// or http://");
    };
    if url.contains(['?', '#']) {
        return wrong("has a query or a fragment");
    }
    if url.ends_with('/') {
        return wrong("ends with a slash");
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    // A user or password would be published in every token; quotes and blanks would break the lines we print.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%+/".contains(&byte);
    if !path.bytes().all(plain) || path.starts_with('/') || path.contains("//") {
        return wrong("has a path with characters that do not belong there");
    }
    if is_authority(authority) { Ok(url.to_owned()) } else { wrong("has no proper host name and port") }
}

/// `host`, `host:port`, `[address]` or `[address]:port`; lower case, because issuers are compared byte by byte.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
        Some(_) => return false,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0) && !port.starts_with('+');
    !host.is_empty()
        && host.bytes().all(plain)
        && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}
