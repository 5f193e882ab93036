//! Where a client is: the one address that the book, the throttle, the allow-lists, the limits and the log all use.
//!
//! It is the address of the TCP connection, and no header changes that, unless the connection comes from a proxy that the
//! operator trusts. Then it is the right-most address of `X-Forwarded-For` that is not itself a trusted proxy: each proxy
//! adds at the right whom it was asked by, so what stands left of there was written by a stranger and is not read. Headers
//! that proxies pass on as they come (`Forwarded`, `X-Real-IP`, `X_Forwarded_For`, those of content networks) never count.
//!
//! A trusted proxy whose list cannot be read is refused instead of guessed at: taking the proxy's own address would let
//! whoever can spoil the list stand where the proxy stands.

use std::net::{IpAddr, SocketAddr};

use poem::http::{HeaderMap, HeaderName};

use crate::{
    app::{App, Error, Settings},
    model::Origin,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// More trusted proxies in a row than anybody has.
const MOST_HOPS: usize = 32;

/// The client of a request, in the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// Where it is, as far as that is known.
    pub(super) address: IpAddr,
    /// Whether that is known.
    located: bool,
}

impl Client {
    /// The client of a request that came over a connection from `peer`.
    pub(super) fn of(peer: SocketAddr, headers: &HeaderMap, settings: &Settings) -> Self {
        let peer = peer.ip().to_canonical();
        let found = locate(peer, headers, |address| settings.trusts_proxy(address));
        Self { address: found.unwrap_or(peer), located: found.is_some() }
    }

    /// The origin of its request.
    pub(super) fn origin(self, request_id: &str) -> Origin {
        Origin { source: self.address.to_string(), request_id: request_id.to_owned() }
    }

    /// Why a request to `path` is refused unread: it is from nobody knows where, or from where none is answered.
    pub(super) fn objection(self, app: &App, path: &str) -> Option<Error> {
        // Health is for everybody: who asks is a supervisor, and there is nothing to get.
        if matches!(path, "/health" | "/health/ready") {
            return None;
        }
        if self.located {
            return (!app.answers(&self.address.to_string())).then_some(Error::Elsewhere);
        }
        tracing::warn!(
            proxy = %self.address,
            "a trusted proxy sent an X-Forwarded-For that is no list of addresses, and was refused"
        );
        Some(Error::Invalid(
            "the proxy in front of the desk sends an X-Forwarded-For that cannot be read; nothing was done"
                .to_owned(),
        ))
    }
}

/// The address of the client behind `peer`; `None` if a trusted proxy says something that cannot be read.
fn locate(peer: IpAddr, headers: &HeaderMap, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    if !is_trusted(peer) {
        return Some(peer);
    }
    let mut nearest = peer;
    let lines = headers.get_all(X_FORWARDED_FOR).iter().collect::<Vec<_>>();
    let entries = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for (hops, entry) in entries.enumerate() {
        nearest = address(entry)?;
        if !is_trusted(nearest) {
            return Some(nearest);
        }
        if hops == MOST_HOPS {
            return None;
        }
    }
    // Nobody but proxies: the request began at the furthest, as a proxy's own health checks do.
    Some(nearest)
}

/// One entry: an address, which may carry a port as some proxies write it. Names, `unknown`, zones and quotes are refused.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry.trim_ascii()).ok()?;
    if text.contains('%') {
        return None;
    }
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = text.parse().ok().or_else(bracketed).or_else(with_port)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Network;

    /// Where a request from `peer` with these `X-Forwarded-For` lines is from, behind the proxies that are trusted below.
    fn from(peer: &str, lines: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, poem::http::HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let trusted: [Network; 2] = ["10.0.0.0/8", "2001:db8::/64"].map(|network| network.parse().unwrap());
        let is_trusted = |address| trusted.iter().any(|network| network.contains_address(address));
        let found = locate(peer.parse::<IpAddr>().unwrap().to_canonical(), &headers, is_trusted);
        found.map(|address| address.to_string())
    }

    #[test]
    fn the_right_most_address_that_is_no_proxy_is_the_client() {
        let thousand = vec!["192.0.2.66"; 1000].join(",");
        let spoofed = format!("{thousand}, 192.0.2.1");
        for (peer, lines, expected) in [
            // Strangers are where they are, whatever they say.
            ("192.0.2.9", &["198.51.100.1"][..], "192.0.2.9"),
            ("192.0.2.9", &["garbage"], "192.0.2.9"),
            ("::ffff:192.0.2.9", &[], "192.0.2.9"),
            // One proxy, several, several lines.
            ("10.0.0.1", &["192.0.2.1"], "192.0.2.1"),
            ("::ffff:10.0.0.1", &["192.0.2.1"], "192.0.2.1"),
            ("2001:db8::5", &["2001:db8:0:1::1"], "2001:db8:0:1::1"),
            ("10.0.0.1", &["192.0.2.1, 10.0.0.2,10.0.0.3"], "192.0.2.1"),
            ("10.0.0.1", &["198.51.100.1", "192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            ("10.0.0.1", &["192.0.2.1", "10.0.0.2", "10.0.0.3"], "192.0.2.1"),
            ("10.0.0.1", &["198.51.100.1, 192.0.2.1"], "192.0.2.1"),
            // What stands left of the client is a stranger's word.
            ("10.0.0.1", &["garbage, 10.0.0.9, 192.0.2.1"], "192.0.2.1"),
            ("10.0.0.1", &[&spoofed], "192.0.2.1"),
            // Forms.
            ("10.0.0.1", &["192.0.2.1:4711"], "192.0.2.1"),
            ("10.0.0.1", &["[2001:db8:1::1]:443"], "2001:db8:1::1"),
            ("10.0.0.1", &["[2001:db8:1::1]"], "2001:db8:1::1"),
            ("10.0.0.1", &["::ffff:192.0.2.1"], "192.0.2.1"),
            ("10.0.0.1", &["\t192.0.2.1 "], "192.0.2.1"),
            ("10.0.0.1", &["192.0.2.1, ::ffff:10.0.0.2"], "192.0.2.1"),
            // Nobody but proxies.
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.7, 10.0.0.2"], "10.0.0.7"),
        ] {
            assert_eq!(from(peer, lines).as_deref(), Some(expected), "{peer} {lines:?}");
        }
    }

    #[test]
    fn what_a_proxy_says_and_nobody_can_read_is_refused() {
        let hops = vec!["10.0.0.2"; 1000].join(",");
        for line in [
            "",
            " ",
            "garbage",
            "unknown",
            "_hidden",
            "192.0.2.1,",
            "192.0.2.1, ,10.0.0.2",
            "192.0.2.1 10.0.0.2",
            "fe80::1%eth0",
            "fe80::1%1",
            "[fe80::1%1]:80",
            "192.0.2.1:",
            "192.0.2.1:99999",
            "192.0.2.1:-1",
            "192.0.2",
            "192.0.2.1.5",
            "192.0.2.001",
            "0xc0.0.2.1",
            "3221225985",
            "\"192.0.2.1\"",
            "for=192.0.2.1",
            "[192.0.2.1]",
            "2001:db8:1::1]",
            "[2001:db8:1::1",
            "[2001:db8:1::1]x",
            "::ffff:192.0.2.999",
            "192.0.2.1, unknown",
            "192.0.2.1; 10.0.0.2",
            "ünï",
            "192.0.2.1/32",
            &hops,
        ] {
            assert_eq!(from("10.0.0.1", &[line]), None, "{line}");
        }
    }
}
