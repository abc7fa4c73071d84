//! The kinds of rows as plain data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use netns_ebpf_common::Mac;
use serde::{Deserialize, Serialize};

use super::{Origin, Phase};
use crate::netns::NetnsId;
use crate::sysctl::PortSet;
use crate::topology::{Affinity, Allow, Host, Nat, Network, Publish};

/// The instance itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRow {
    /// Named namespace that is the host; `None`: the real one.
    pub host_netns: Option<String>,
    /// Which namespace that is, in words only good for comparing; empty when it was not recorded.
    pub host_id: String,
    /// `[host]` as declared.
    pub host: Host,
    /// `[nat]` as declared.
    pub nat: Nat,
    /// The uplinks in use; empty without a LAN.
    pub uplinks: Vec<UplinkRow>,
    /// Ports this instance added to the reserved ones, as a list of ranges, to be given back.
    pub reserved_ports: PortSet,
    /// Phase; the store keeps it beside the rest.
    #[serde(skip)]
    pub phase: Phase,
}

/// An uplink in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkRow {
    /// Name.
    pub name: String,
    /// Index when it was wired last.
    pub ifindex: u32,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRow {
    /// Id in the data path, 1 and up.
    pub id: u32,
    /// As declared.
    pub network: Network,
    /// MTU in use, in bytes.
    pub mtu_bytes: u32,
    /// Whether the host's routes lead to it; see `netns_ebpf_common::network::Network::HOST_ACCESS`.
    pub host_access: bool,
    /// Addresses pods left for the LAN with until the last change, and do not any more: what has one ends.
    #[serde(default)]
    pub snat_left: Vec<IpAddr>,
    /// The IPv4 address handed out last.
    pub last4: Option<Ipv4Addr>,
    /// The IPv6 address handed out last.
    pub last6: Option<Ipv6Addr>,
    /// Who asked for it.
    pub origin: Origin,
    /// Phase; the store keeps it beside the rest.
    #[serde(skip)]
    pub phase: Phase,
}

impl InstanceRow {
    /// Whether it has this uplink.
    pub fn has_uplink(&self, name: &str) -> bool {
        self.uplinks.iter().any(|u| u.name == name)
    }
}

impl NetworkRow {
    /// Remembers an address as the one handed out last.
    pub fn handed_out(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(a) => self.last4 = Some(a),
            IpAddr::V6(a) => self.last6 = Some(a),
        }
    }
}

/// Whose a pod's namespace is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Made by us, and deleted with the pod.
    #[default]
    Made,
    /// Somebody else's of the pod's name, as `ip netns` makes them.
    Named,
    /// Somebody else's, found at this path.
    Path(PathBuf),
    /// Somebody else's: that of this process, of a container runtime for one.
    Pid(i32),
}

/// A pod: a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRow {
    /// Never used twice.
    pub id: u64,
    /// Name, also of its namespace.
    pub name: String,
    /// Which namespace it is; `None` until it is made or adopted. One of the same name that is another is not the pod's.
    #[serde(default)]
    pub netns: Option<NetnsId>,
    /// The namespace's cookie, which the kernel gives to no other one: numbers of inodes are given again at once.
    #[serde(default)]
    pub cookie: Option<u64>,
    /// Whose it is.
    #[serde(default)]
    pub source: Source,
    /// Who asked for it.
    pub origin: Origin,
    /// Phase; the store keeps it beside the rest.
    #[serde(skip)]
    pub phase: Phase,
}

/// An attachment: one interface of a pod in one network. A pod may have several, also in one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentRow {
    /// Never used twice: the owner of its map entries.
    pub id: u64,
    /// Id of its pod.
    pub pod: u64,
    /// Id of its network.
    pub network: u32,
    /// Slot in the data path.
    pub slot: u32,
    /// Name of the interface in the pod.
    pub ifname: String,
    /// Its place among the pod's interfaces, which stays when others go: the default route of the lowest one leads.
    #[serde(default)]
    pub rank: u32,
    /// Link-layer address of that.
    #[serde(with = "mac")]
    pub mac: Mac,
    /// Index of its other end, in the host.
    pub ifindex: u32,
    /// IPv4 address.
    #[serde(default)]
    pub addr4: Option<Ipv4Addr>,
    /// IPv6 address.
    #[serde(default)]
    pub addr6: Option<Ipv6Addr>,
    /// Length of the prefix it has in the pod, of IPv4 and IPv6, in bits; `None`: that of the network's subnet. A network may grow
    /// without its pods' notice, as the gateway is their way to all of it.
    #[serde(default)]
    pub prefix_bits: [Option<u8>; 2],
    /// Who asked for it.
    pub origin: Origin,
    /// Phase; the store keeps it beside the rest.
    #[serde(skip)]
    pub phase: Phase,
}

impl AttachmentRow {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.addr4.map(IpAddr::V4).into_iter().chain(self.addr6.map(IpAddr::V6))
    }

    /// Length of the prefix an address has in the pod, where that is not the subnet's.
    pub const fn own_prefix_bits(&self, address: IpAddr) -> Option<u8> {
        self.prefix_bits[address.is_ipv6() as usize]
    }
}

/// Link-layer addresses as text.
mod mac {
    use netns_ebpf_common::Mac;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(mac: &Mac, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(mac)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Mac, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(|_| D::Error::custom(format!("{text:?} is no link-layer address")))
    }
}

/// How a publish is withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Withdrawal {
    /// TCP connections run on, all else ends.
    #[default]
    RunOn,
    /// TCP connections get a RST, all else ends.
    Reset,
}

/// A pod behind a published port: one of its attachments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendRow {
    /// Id of the attachment.
    pub attachment: u64,
    /// Its share of the new flows.
    pub weight: u32,
    /// It takes no new flows while others do; those it has go on.
    pub draining: bool,
}

/// A published port or range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishRow {
    /// Never used twice: the owner of its map entries.
    pub id: u64,
    /// Index in the data path's declarations.
    pub index: u32,
    /// As declared.
    pub publish: Publish,
    /// What it leads to, at least one.
    pub backends: Vec<BackendRow>,
    /// What keeps a client with one of them.
    #[serde(default)]
    pub affinity: Affinity,
    /// Who may come in.
    pub allow: Allow,
    /// It takes no new flows; those it has go on.
    #[serde(default)]
    pub draining: bool,
    /// What becomes of its connections when it is withdrawn.
    #[serde(default)]
    pub withdrawal: Withdrawal,
    /// Who asked for it.
    pub origin: Origin,
    /// Phase; the store keeps it beside the rest.
    #[serde(skip)]
    pub phase: Phase,
}

impl PublishRow {
    /// Whether it leads to this attachment.
    pub fn leads_to(&self, attachment: u64) -> bool {
        self.backends.iter().any(|b| b.attachment == attachment)
    }
}
