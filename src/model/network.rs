//! Networks from which something may be used: an address, or an address and a prefix length.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// A range of addresses, as CIDR (RFC 4632) writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

/// A text that is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address or a network such as 10.0.0.0/8 or 2001:db8::/32")]
pub struct NetworkError;

impl Network {
    /// Whether `source`, an address as text, is in the network. What is not an address is in none.
    pub fn contains(&self, source: &str) -> bool {
        source.parse::<IpAddr>().is_ok_and(|address| self.0.contains(&address.to_canonical()))
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let network =
            text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| NetworkError)?;
        Ok(Self(network.trunc()))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl serde::Serialize for Network {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
