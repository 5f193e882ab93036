//! Which `Host` a request may name (RFC 9110 §7.2, RFC 9112 §3.2).
//!
//! A page of somebody else's whose name resolves to this desk must not get to talk to it (DNS rebinding), and no two programs
//! on the way may disagree about whom a request is for. So there is exactly one name, well formed, and it is ours.

use std::net::{IpAddr, SocketAddr};

use poem::http::{HeaderMap, StatusCode, Uri, Version, header};

use super::error::Refusal;

/// Where these are asked for, any well-formed name will do: probes come by the address of a container.
const FOR_PROBES: [&str; 2] = ["/health", "/health/ready"];

/// The names of this desk.
#[derive(Debug)]
pub(super) struct Hosts {
    /// The authority of the issuer, with its port.
    public: (String, u16),
    bound: IpAddr,
}

impl Hosts {
    /// Those of a desk that clients know by `issuer` and that listens on `bound`.
    pub(super) fn new(issuer: &str, bound: SocketAddr) -> Self {
        let (scheme, rest) = issuer.split_once("://").unwrap_or(("http", issuer));
        let default = if scheme == "https" { 443 } else { 80 };
        let authority = rest.split('/').next().unwrap_or_default();
        let (host, port) = parse(authority).unwrap_or_default();
        Self { public: (host, port.unwrap_or(default)), bound: bound.ip() }
    }

    /// Refuses a request that does not say once, in good form, that it is for this desk.
    pub(super) fn check(&self, version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut fields = headers.get_all(header::HOST).iter();
        let field = fields.next().map(|value| value.to_str().unwrap_or_default());
        let target = uri.authority().map(poem::http::uri::Authority::as_str);
        let malformed =
            || Refusal::new(StatusCode::BAD_REQUEST, "the request must name its host once, in good form");
        if fields.next().is_some() || (field.is_none() && version < Version::HTTP_2) {
            return Err(malformed());
        }
        let (Some(named), other) = (field.or(target), target) else { return Err(malformed()) };
        let host = parse(named).ok_or_else(malformed)?;
        if other.is_some_and(|other| parse(other).as_ref() != Some(&host)) {
            return Err(malformed());
        }
        if self.is_ours(&host) || FOR_PROBES.contains(&uri.path()) {
            return Ok(());
        }
        Err(Refusal::new(
            StatusCode::MISDIRECTED_REQUEST,
            "this desk does not go by that name; server.public_url says by which it does",
        ))
    }

    fn is_ours(&self, (host, port): &(String, Option<u16>)) -> bool {
        let (public, public_port) = &self.public;
        if host == public && port.unwrap_or(*public_port) == *public_port {
            return true;
        }
        let Some(address) = address(host) else { return host == "localhost" };
        // A desk that has no name of its own and listens everywhere goes by any address.
        let anywhere = address_of_nobody(public);
        address.is_loopback() || address == self.bound.to_canonical() || anywhere
    }
}

/// Whether a request names its host once, and by an address or as `localhost`: names of which nobody else can say where they
/// lead.
pub(super) fn is_an_address(headers: &HeaderMap) -> bool {
    let mut fields = headers.get_all(header::HOST).iter();
    let host = fields.next().and_then(|value| parse(value.to_str().ok()?));
    fields.next().is_none() && host.is_some_and(|(host, _)| host == "localhost" || address(&host).is_some())
}

fn address_of_nobody(host: &str) -> bool {
    address(host).is_some_and(|address| address.is_unspecified())
}

fn address(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// `host`, `host:port`, `[address]` or `[address]:port`, and nothing else: no user, no path, no blanks.
fn parse(authority: &str) -> Option<(String, Option<u16>)> {
    let at = match authority.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            rest[..end].parse::<std::net::Ipv6Addr>().ok()?;
            end + 2
        }
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(at);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if host.is_empty() || !(host.starts_with('[') || host.bytes().all(is_name)) {
        return None;
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok()?)
        }
        _ => return None,
    };
    Some((host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(hosts: &Hosts, uri: &str, fields: &[&str]) -> Option<u16> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::HOST, field.parse().unwrap());
        }
        let checked = hosts.check(Version::HTTP_11, &uri.parse().unwrap(), &headers);
        checked.err().map(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn a_desk_goes_by_its_public_name_and_by_loopback() {
        let hosts = Hosts::new("https://keys.example.com/desk", "192.0.2.7:8000".parse().unwrap());
        for good in [
            "keys.example.com",
            "KEYS.example.com:443",
            "localhost",
            "localhost:9",
            "127.0.0.1:8000",
            "[::1]:8000",
            "192.0.2.7:8000",
            "[::ffff:127.0.0.1]",
        ] {
            assert_eq!(status(&hosts, "/token", &[good]), None, "{good}");
        }
        for foreign in
            ["evil.example", "keys.example.com:80", "keys.example.com.evil.example", "10.0.0.1", "0.0.0.0"]
        {
            assert_eq!(status(&hosts, "/token", &[foreign]), Some(421), "{foreign}");
            assert_eq!(status(&hosts, "/health/ready", &[foreign]), None, "{foreign}");
        }
        for bad in [
            "",
            "a/#@b",
            "x/#@y",
            "user@localhost",
            "localhost:",
            "localhost:x",
            "a b",
            "[::1",
            "[x]",
            "localhost:99999",
        ] {
            assert_eq!(status(&hosts, "/health", &[bad]), Some(400), "{bad}");
        }
        assert_eq!(status(&hosts, "/health", &[]), Some(400));
        assert_eq!(status(&hosts, "/health", &["localhost", "localhost"]), Some(400));
        assert_eq!(status(&hosts, "http://evil.example/token", &["localhost"]), Some(400));
        assert_eq!(status(&hosts, "http://localhost/token", &["localhost"]), None);
    }

    #[test]
    fn a_desk_without_a_name_that_listens_everywhere_goes_by_any_address() {
        for everywhere in ["0.0.0.0:8000", "[::]:8000"] {
            let hosts = Hosts::new(&format!("http://{everywhere}"), everywhere.parse().unwrap());
            assert_eq!(status(&hosts, "/token", &["198.51.100.1:8000"]), None);
            assert_eq!(status(&hosts, "/token", &["[2001:db8::1]:8000"]), None);
            assert_eq!(status(&hosts, "/token", &["evil.example"]), Some(421));
        }
    }
}
