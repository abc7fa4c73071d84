//! Published ports: `[ADDRESS:]HOSTPORT[-END]:PODPORT[-END][/tcp|udp|sctp]`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use netns_ebpf_common::proto;
use serde::{Serialize, Serializer};

use super::Problem;

/// A transport protocol ports belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Proto {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => proto::TCP,
            Self::Udp => proto::UDP,
            Self::Sctp => proto::SCTP,
        }
    }

    /// The word in publish strings and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Ports from `start` to `end`, both included, neither 0, not reversed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    start: u16,
    end: u16,
}

impl PortRange {
    /// The range of these ports.
    ///
    /// # Errors
    ///
    /// Port 0, or a reversed range.
    pub fn new(start: u16, end: u16) -> Result<Self, Problem> {
        if start == 0 || end == 0 {
            return Err(Problem::PortRange("0".to_owned()));
        }
        if start > end {
            return Err(Problem::RangeReversed { start, end });
        }
        Ok(Self { start, end })
    }

    /// First port.
    pub const fn start(self) -> u16 {
        self.start
    }

    /// Last port.
    pub const fn end(self) -> u16 {
        self.end
    }

    /// Number of ports; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a range holds at least one port")]
    pub const fn len(self) -> u32 {
        self.end as u32 - self.start as u32 + 1
    }

    /// Every port, in order.
    pub fn iter(self) -> impl Iterator<Item = u16> + Clone {
        self.start..=self.end
    }

    /// Whether any port is in both.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.start == self.end { write!(f, "{}", self.start) } else { write!(f, "{}-{}", self.start, self.end) }
    }
}

impl FromStr for PortRange {
    type Err = Problem;

    fn from_str(s: &str) -> Result<Self, Problem> {
        match s.split_once('-') {
            Some((start, end)) => Self::new(port(start)?, port(end)?),
            None => port(s).and_then(|p| Self::new(p, p)),
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A port number; a number that is no port is told from text that is no number.
fn port(s: &str) -> Result<u16, Problem> {
    if s.is_empty() || !s.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Problem::Publish(format!("{s:?} is not a port")));
    }
    match s.parse::<u16>() {
        Ok(p) if p > 0 => Ok(p),
        _ => Err(Problem::PortRange(s.to_owned())),
    }
}

/// A port-forward declaration: host address and ports to a pod's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publish {
    /// Host address. `None`: every address of the host, both families; `0.0.0.0` or `::`: every one of that family.
    pub address: Option<IpAddr>,
    /// Host ports.
    pub host_ports: PortRange,
    /// The pod's ports, as many as [`Self::host_ports`].
    pub pod_ports: PortRange,
    /// Protocol.
    pub proto: Proto,
}

impl Publish {
    /// Whether it is reachable from the host itself only.
    pub fn is_loopback(&self) -> bool {
        self.address.is_some_and(|a| a.is_loopback())
    }

    /// Whether IPv4 packets can match.
    pub fn is_v4(&self) -> bool {
        self.address.is_none_or(|a| a.is_ipv4())
    }

    /// Whether IPv6 packets can match.
    pub fn is_v6(&self) -> bool {
        self.address.is_none_or(|a| a.is_ipv6())
    }

    /// The host addresses a look-up finds it under: unspecified stands for any.
    pub fn keys(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let both = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let address = self.address;
        both.into_iter().filter(move |_| address.is_none()).chain(address)
    }

    /// Whether some packet could match both: the rule two sockets obey when they bind.
    ///
    /// "Any address" and one address of the same family conflict on the same port and protocol, although the look-up
    /// would try the exact one first: such a pair is far more often a slip than a wish, and a host's own sockets
    /// would be refused as well.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.proto == other.proto
            && self.host_ports.overlaps(other.host_ports)
            && self.keys().any(|a| {
                other.keys().any(|b| a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified()))
            })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => {}
            Some(IpAddr::V4(a)) => write!(f, "{a}:")?,
            Some(IpAddr::V6(a)) => write!(f, "[{a}]:")?,
        }
        write!(f, "{}:{}/{}", self.host_ports, self.pod_ports, self.proto)
    }
}

impl Serialize for Publish {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl FromStr for Publish {
    type Err = Problem;

    fn from_str(s: &str) -> Result<Self, Problem> {
        let bad = |why: &str| Problem::Publish(why.to_owned());
        let (ports, proto) = match s.rsplit_once('/') {
            None => (s, Proto::Tcp),
            Some((p, "tcp")) => (p, Proto::Tcp),
            Some((p, "udp")) => (p, Proto::Udp),
            Some((p, "sctp")) => (p, Proto::Sctp),
            Some((_, other)) => return Err(Problem::Publish(format!("{other:?} is neither tcp, udp nor sctp"))),
        };
        let (rest, pod) = ports.rsplit_once(':').ok_or_else(|| bad("no `:` between host port and pod port"))?;
        let (address, host) = if let Some(v6) = rest.strip_prefix('[') {
            let (a, host) = v6.split_once("]:").ok_or_else(|| bad("`[` without `]:`"))?;
            let a: Ipv6Addr = a.parse().map_err(|_| Problem::Address(format!("{a:?} in brackets is not IPv6")))?;
            (Some(IpAddr::V6(a)), host)
        } else if let Some((a, host)) = rest.rsplit_once(':') {
            if a.contains(':') {
                return Err(bad("an IPv6 address must be in brackets"));
            }
            let a: Ipv4Addr = a.parse().map_err(|_| Problem::Address(format!("{a:?} is not IPv4")))?;
            (Some(IpAddr::V4(a)), host)
        } else {
            (None, rest)
        };
        if address.is_some_and(|a| a.is_multicast() || a == IpAddr::V4(Ipv4Addr::BROADCAST)) {
            return Err(Problem::Address("a port is published on a unicast address".to_owned()));
        }
        let (host_ports, pod_ports): (PortRange, PortRange) = (host.parse()?, pod.parse()?);
        if host_ports.len() != pod_ports.len() {
            return Err(Problem::RangeLength { host: host_ports.len(), pod: pod_ports.len() });
        }
        if proto == Proto::Sctp && host_ports != pod_ports {
            return Err(Problem::SctpPorts(format!("{host_ports}:{host_ports}/sctp")));
        }
        Ok(Self { address, host_ports, pod_ports, proto })
    }
}
