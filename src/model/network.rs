//! Networks from which something may be used: an address, or an address and a prefix length.
//!
//! An IPv4 address is the same in either of its forms, `192.0.2.1` and `::ffff:192.0.2.1`, in a list as on the wire.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};

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
        source.parse().is_ok_and(|address| self.contains_address(address))
    }

    /// Whether `address` is in the network.
    pub fn contains_address(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether it is all there is: every IPv4 or every IPv6 address.
    pub fn is_everything(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

/// The network in the form in which addresses are compared.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else { return network };
    let v4 = mapped.addr().to_ipv4_mapped().zip(mapped.prefix_len().checked_sub(96));
    v4.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok()).map_or(network, IpNet::from)
}

/// The network around an address, of so many bits for IPv4 and IPv6: `192.0.2.0/24`. A whole address is written without its
/// length. `None` for what is not an address.
pub fn around(source: &str, v4_bits: u8, v6_bits: u8) -> Option<String> {
    let address = source.parse::<IpAddr>().ok()?.to_canonical();
    let bits = if address.is_ipv4() { v4_bits } else { v6_bits };
    let network = IpNet::new(address, bits).ok()?.trunc();
    Some(if bits == network.max_prefix_len() { address.to_string() } else { network.to_string() })
}

/// What counts as one source: an IPv4 address, or the /64 of an IPv6 address, in which whoever has one has all of them.
pub fn one_source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let network =
            text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| NetworkError)?;
        Ok(Self(canonical(network).trunc()))
    }
}

/// From where something may be used: from anywhere, or from within some networks. "From nowhere" cannot be said; that is
/// what shutting out and revoking are for.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Networks(Option<Vec<Network>>);

/// So many networks are a mistake.
pub const MOST_NETWORKS: usize = 100;

/// Not a number of networks that anything can be bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("name from 1 to {MOST_NETWORKS} networks; to allow it from anywhere, name no list at all")]
pub struct NetworksError;

impl Networks {
    /// Everywhere.
    pub const ANYWHERE: Self = Self(None);

    /// Within `networks` only.
    pub fn within(networks: Vec<Network>) -> Result<Self, NetworksError> {
        if (1..=MOST_NETWORKS).contains(&networks.len()) {
            Ok(Self(Some(networks)))
        } else {
            Err(NetworksError)
        }
    }

    /// Whether `source`, an address as text, is among them.
    pub fn cover(&self, source: &str) -> bool {
        self.0.as_ref().is_none_or(|some| some.iter().any(|network| network.contains(source)))
    }

    /// The networks, unless it is anywhere.
    pub fn list(&self) -> Option<&[Network]> {
        self.0.as_deref()
    }
}

/// `anywhere`, or the networks.
impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(networks) = &self.0 else { return f.write_str("anywhere") };
        let texts: Vec<_> = networks.iter().map(Network::to_string).collect();
        f.write_str(&texts.join(", "))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn both_forms_of_an_ipv4_address_are_one() {
        for list in ["192.0.2.0/24", "::ffff:192.0.2.0/120", "::ffff:c000:200/120"] {
            assert_eq!(network(list).to_string(), "192.0.2.0/24", "{list}");
            for source in ["192.0.2.9", "::ffff:192.0.2.9", "::ffff:c000:209"] {
                assert!(network(list).contains(source), "{source} in {list}");
            }
            for source in ["192.0.3.9", "::192.0.2.9", "2001:db8::1", "local", ""] {
                assert!(!network(list).contains(source), "{source} in {list}");
            }
        }
    }

    #[test]
    fn an_address_alone_is_a_network_of_one() {
        assert_eq!(network("192.0.2.1").to_string(), "192.0.2.1/32");
        assert_eq!(network("2001:db8::1").to_string(), "2001:db8::1/128");
        assert_eq!(network("::ffff:192.0.2.1").to_string(), "192.0.2.1/32");
        assert!(network("::/0").is_everything() && network("0.0.0.0/0").is_everything());
        assert!(!network("::/1").is_everything());
    }

    #[test]
    fn neighbours_in_a_network_are_one_source() {
        let of = |text: &str| one_source(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn no_networks_at_all_cannot_be_said() {
        assert_eq!(Networks::within(vec![]), Err(NetworksError));
        assert_eq!(Networks::within(vec![network("::1"); MOST_NETWORKS + 1]), Err(NetworksError));
        let some = Networks::within(vec![network("192.0.2.0/24"), network("::1")]).unwrap();
        assert_eq!(some.to_string(), "192.0.2.0/24, ::1/128");
        assert!(some.cover("192.0.2.1") && some.cover("::1") && !some.cover("::2") && !some.cover("local"));
        assert!(Networks::ANYWHERE.cover("local"));
        assert_eq!(
            serde_json::to_string(&[&some, &Networks::ANYWHERE]).unwrap(),
            "[[\"192.0.2.0/24\",\"::1/128\"],null]"
        );
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "*",
            "all",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "::/129",
            "fe80::1%eth0",
            "[::1]",
            "10.0.0.1:80",
            "010.0.0.1",
            "10.0.0.0/8 ",
            "::ffff:10.0.0.0/ 120",
            "localhost",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
        }
    }
}
