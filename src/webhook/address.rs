//! Which addresses may be posted to. A webhook must not become a way to reach what only this machine can reach: other
//! services on it, the network around it, the metadata service of a cloud.
//!
//! Names are looked up by us and only addresses that passed are connected to, so that a name cannot be public when it is
//! checked and private when it is used.

use std::{fmt, net::IpAddr};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use crate::model::Network;

/// Everything that is not a public address: this host, private, shared, link-local (with the metadata services), reserved,
/// multicast, and the IPv6 forms that hide an IPv4 address.
const OURS: [&str; 22] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "::/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2002::/16",
    "fc00::/7",
    "fe80::/9",
    "ff00::/8",
];

/// What decides.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// What is allowed although it is not public.
    pub(super) allow_to: Vec<Network>,
    /// Whether messages would cross the network readable: then only this machine's own addresses will do.
    pub(super) is_plain: bool,
}

/// An address that must not be posted to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    Inside(IpAddr),
    Plain(IpAddr),
    Unknown,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inside(address) => write!(
                f,
                "{address} is not a public address; if it is meant, list it in alerts.allow_to, for example as {address}"
            ),
            Self::Plain(address) => {
                write!(
                    f,
                    "{address} is another machine, and http:// would send messages readable; use https://"
                )
            }
            Self::Unknown => f.write_str("the name has no address"),
        }
    }
}

impl Guard {
    fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let address = address.to_canonical();
        let text = address.to_string();
        let is_ours = OURS.iter().any(|ours| ours.parse::<Network>().is_ok_and(|ours| ours.contains(&text)));
        if is_ours && !self.allow_to.iter().any(|allowed| allowed.contains(&text)) {
            Err(Refused::Inside(address))
        } else if self.is_plain && !address.is_loopback() {
            Err(Refused::Plain(address))
        } else {
            Ok(())
        }
    }

    /// Checks a host that is an address; names are checked when they are looked up.
    pub(super) fn check_host(&self, url: &Url) -> Result<(), Refused> {
        let host = url.host_str().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.parse().map_or(Ok(()), |address| self.check(address))
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let mut refused = Refused::Unknown;
            let mut fine = Vec::new();
            for address in found {
                match guard.check(address.ip()) {
                    Ok(()) => fine.push(address),
                    Err(why) => refused = why,
                }
            }
            if fine.is_empty() { Err(refused.into()) } else { Ok(Box::new(fine.into_iter()) as Addrs) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses(guard: &Guard, url: &str) -> Option<String> {
        guard.check_host(&Url::parse(url).unwrap()).err().map(|refused| refused.to_string())
    }

    #[test]
    fn addresses_inside_are_refused_in_every_spelling() {
        let guard = Guard { allow_to: Vec::new(), is_plain: false };
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0",
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.100.100.200",
            "224.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[::ffff:10.0.0.1]",
            "[::7f00:1]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:7f00:1::]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
        ] {
            assert!(refuses(&guard, &format!("https://{host}/")).is_some(), "{host}");
        }
        for host in ["1.1.1.1", "172.32.0.1", "[2606:4700::1111]", "[::ffff:1.1.1.1]"] {
            assert_eq!(refuses(&guard, &format!("https://{host}/")), None, "{host}");
        }
    }

    #[test]
    fn a_listed_network_is_allowed_and_plain_http_stays_on_this_machine() {
        let allow_to = vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/24".parse().unwrap()];
        let plain = Guard { allow_to: allow_to.clone(), is_plain: true };
        let tls = Guard { allow_to, is_plain: false };
        assert_eq!(refuses(&tls, "https://10.0.0.7/"), None);
        assert!(refuses(&tls, "https://10.0.1.7/").unwrap().contains("alerts.allow_to"));
        assert_eq!(refuses(&plain, "http://127.0.0.1:9/"), None);
        for other in ["http://10.0.0.7/", "http://1.1.1.1/"] {
            assert!(refuses(&plain, other).unwrap().contains("https://"), "{other}");
        }
    }

    #[tokio::test]
    async fn a_name_is_what_it_resolves_to() {
        let localhost = || "localhost".parse::<Name>().unwrap();
        let strict = Guard { allow_to: Vec::new(), is_plain: false };
        assert!(strict.resolve(localhost()).await.is_err());
        let open =
            Guard { allow_to: vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()], is_plain: true };
        assert!(open.resolve(localhost()).await.is_ok());
    }
}
