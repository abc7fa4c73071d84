//! The declared topology as plain data.

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};

use super::{Adopt, Attachment, Nat, PodPublish, PortRange, Problem, SharedPublish};

/// Everything a topology file says. Serialises to the file's own form.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Topology {
    /// `[host]`.
    pub host: Host,
    /// `[nat]`.
    pub nat: Nat,
    /// `[[network]]`, in file order: of two with overlapping subnets the first has the host's routes.
    #[serde(rename = "network")]
    pub networks: Vec<Network>,
    /// `[[pod]]`, in file order.
    #[serde(rename = "pod")]
    pub pods: Vec<Pod>,
    /// `[[publish]]`, in file order.
    #[serde(rename = "publish")]
    pub publishes: Vec<SharedPublish>,
}

impl Topology {
    /// Whether there is nothing in it that could be made: no network, and no pod.
    pub const fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.pods.is_empty()
    }
}

/// `[host]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// The interfaces to the LAN.
    pub uplink: Uplink,
    /// Ports SNAT may hand out.
    pub snat_ports: PortRange,
    /// MTU of every network that names none, in bytes; `None`: the uplink's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

impl Host {
    /// Default of `snat_ports`: below the kernel's default `ip_local_port_range`.
    pub const DEFAULT_SNAT_PORTS: (u16, u16) = (20_000, 32_767);
}

impl Default for Host {
    fn default() -> Self {
        let (start, end) = Self::DEFAULT_SNAT_PORTS;
        #[expect(clippy::expect_used, reason = "two constants in order")]
        let snat_ports = PortRange::new(start, end).expect("the default range is a range");
        Self { uplink: Uplink::Auto, snat_ports, mtu: None }
    }
}

/// How the interfaces to the LAN are chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Uplink {
    /// Every interface that has a default route, of either family.
    #[default]
    Auto,
    /// No LAN.
    None,
    /// These interfaces, at least one.
    Named(Vec<String>),
}

impl Uplink {
    /// From the file's word; an interface called `auto` or `none` cannot be named.
    pub fn from_word(word: &str) -> Self {
        match word {
            "auto" => Self::Auto,
            "none" => Self::None,
            name => Self::Named(vec![name.to_owned()]),
        }
    }

    /// From the file's list of names; an empty one means none.
    pub fn from_list(names: Vec<String>) -> Self {
        if names.is_empty() { Self::None } else { Self::Named(names) }
    }
}

/// The word, or the names separated by blanks.
impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Named(names) => f.write_str(&names.join(" ")),
        }
    }
}

/// Reads what [`Display`](fmt::Display) writes.
impl FromStr for Uplink {
    type Err = Infallible;

    fn from_str(s: &str) -> Result<Self, Infallible> {
        let names: Vec<String> = s.split_whitespace().map(str::to_owned).collect();
        Ok(match names.as_slice() {
            [word] => Self::from_word(word),
            _ => Self::from_list(names),
        })
    }
}

impl Serialize for Uplink {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Named(names) if names.len() > 1 => names.serialize(s),
            word => s.collect_str(word),
        }
    }
}

/// `[[network]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Unique name.
    pub name: String,
    /// At most one per family, at least one.
    pub subnets: Vec<IpNet>,
    /// Pods leave for the LAN with an address of the host.
    pub masquerade: bool,
    /// Which ones; those of a family are a pool. A family that is not here: the uplink's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snat_address: Vec<IpAddr>,
    /// Whether a pod's port is the same port of the host whoever it talks to.
    #[serde(default)]
    pub mapping: Behaviour,
    /// Who reaches a pod by such a port.
    #[serde(default)]
    pub filtering: Behaviour,
    /// Destinations that pods reach with their own address all the same. Empty: none.
    pub no_masquerade: Vec<IpNet>,
    /// MTU in bytes; `None`: the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

impl Network {
    /// The IPv4 subnet.
    pub fn subnet4(&self) -> Option<ipnet::Ipv4Net> {
        self.subnets.iter().find_map(|n| if let IpNet::V4(n) = n { Some(*n) } else { None })
    }

    /// Whether it has IPv4, and IPv6.
    pub fn families(&self) -> (bool, bool) {
        (self.subnet4().is_some(), self.subnet6().is_some())
    }

    /// The IPv6 subnet.
    pub fn subnet6(&self) -> Option<ipnet::Ipv6Net> {
        self.subnets.iter().find_map(|n| if let IpNet::V6(n) = n { Some(*n) } else { None })
    }
}

/// What source NAT tells peers of a pod apart by (RFC 4787 sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behaviour {
    /// Their address and port.
    #[default]
    AddressAndPortDependent,
    /// Nothing.
    EndpointIndependent,
}

impl Behaviour {
    /// The file's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AddressAndPortDependent => "address-and-port-dependent",
            Self::EndpointIndependent => "endpoint-independent",
        }
    }
}

impl FromStr for Behaviour {
    type Err = Problem;

    fn from_str(s: &str) -> Result<Self, Problem> {
        [Self::AddressAndPortDependent, Self::EndpointIndependent]
            .into_iter()
            .find(|b| b.as_str() == s)
            .ok_or(Problem::Behaviour)
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `[[pod]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pod {
    /// Unique name, also of its namespace.
    pub name: String,
    /// Somebody else's namespace that it is; `None`: one is made, and deleted with the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adopt>,
    /// Its first interface: ports lead to it, and what its processes send leaves by it unless they say otherwise.
    #[serde(flatten)]
    pub first: Attachment,
    /// Published ports. Empty: none.
    pub publish: Vec<PodPublish>,
    /// Its other interfaces.
    #[serde(rename = "attachment", skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<Attachment>,
}
