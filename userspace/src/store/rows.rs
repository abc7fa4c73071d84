//! The rows as plain data.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Serialize;

use crate::topology::{Affinity, Allow, Host, Nat, Network, Publish};

/// Who asked for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The topology file: `up` with a file that no longer has it removes it.
    File,
    /// A verb: stays until a verb removes it.
    Verb,
}

/// How far a row has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Being made, or the maker was killed.
    Creating,
    /// Live.
    Ready,
    /// Being removed, or the remover was killed.
    Deleting,
    /// A publish that is being removed together with its TCP connections.
    Resetting,
    /// A publish whose declaration in the data path is to become what the row says; whoever finds it does that.
    Switching,
}

/// The instance itself.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    pub reserved_ports: String,
    /// Phase.
    pub phase: Phase,
}

/// An uplink in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkRow {
    /// Name.
    pub name: String,
    /// Index when it was wired last.
    pub ifindex: u32,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRow {
    /// Id in the data path, 1 and up.
    pub id: u32,
    /// As declared.
    pub network: Network,
    /// MTU in use, in bytes.
    pub mtu_bytes: u32,
    /// Whether the host's routes lead to it; see `netns_ebpf_common::network::Network::HOST_ACCESS`.
    pub host_access: bool,
    /// The IPv4 address handed out last.
    pub last4: Option<Ipv4Addr>,
    /// The IPv6 address handed out last.
    pub last6: Option<Ipv6Addr>,
    /// Who asked for it.
    pub origin: Origin,
    /// Phase.
    pub phase: Phase,
}

impl InstanceRow {
    /// Whether it has this uplink.
    pub fn has_uplink(&self, name: &str) -> bool {
        self.uplinks.iter().any(|u| u.name == name)
    }
}

/// Name and index; a name may have a colon nowhere.
impl fmt::Display for UplinkRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.ifindex)
    }
}

impl FromStr for UplinkRow {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (name, ifindex) = s.split_once(':').ok_or("no colon")?;
        Ok(Self { name: name.to_owned(), ifindex: ifindex.parse().map_err(|_| "no index")? })
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

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRow {
    /// Never used twice: the owner of its map entries.
    pub id: u64,
    /// Slot in the data path.
    pub slot: u32,
    /// Name, also of its namespace.
    pub name: String,
    /// Id of its network.
    pub network: u32,
    /// IPv4 address.
    pub addr4: Option<Ipv4Addr>,
    /// IPv6 address.
    pub addr6: Option<Ipv6Addr>,
    /// The namespace is not ours to delete: somebody else made one of this name first.
    pub foreign_netns: bool,
    /// Who asked for it.
    pub origin: Origin,
    /// Phase.
    pub phase: Phase,
}

impl PodRow {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.addr4.map(IpAddr::V4).into_iter().chain(self.addr6.map(IpAddr::V6))
    }
}

/// A pod behind a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendRow {
    /// Id of the pod.
    pub pod: u64,
    /// Its share of the new flows.
    pub weight: u32,
    /// It takes no new flows while others do; those it has go on.
    pub draining: bool,
}

/// A published port or range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRow {
    /// Never used twice: the owner of its map entries.
    pub id: u64,
    /// Index in the data path's declarations.
    pub index: u32,
    /// As declared.
    pub publish: Publish,
    /// The pods it leads to, at least one.
    pub backends: Vec<BackendRow>,
    /// What keeps a client with one of them.
    pub affinity: Affinity,
    /// Who may come in.
    pub allow: Allow,
    /// It takes no new flows; those it has go on.
    pub draining: bool,
    /// Who asked for it.
    pub origin: Origin,
    /// Phase.
    pub phase: Phase,
}

impl PublishRow {
    /// Whether it leads to this pod.
    pub fn leads_to(&self, pod: u64) -> bool {
        self.backends.iter().any(|b| b.pod == pod)
    }
}

/// Everything an instance holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The instance, when it is up or on its way.
    pub instance: Option<InstanceRow>,
    /// Networks, by id.
    pub networks: Vec<NetworkRow>,
    /// Pods, by id.
    pub pods: Vec<PodRow>,
    /// Publishes, by id.
    pub publishes: Vec<PublishRow>,
}

impl State {
    /// The pod of this name.
    pub fn pod(&self, name: &str) -> Option<&PodRow> {
        self.pods.iter().find(|p| p.name == name)
    }

    /// Name of the pod of this id.
    pub fn pod_name(&self, id: u64) -> &str {
        self.pods.iter().find(|p| p.id == id).map_or("", |p| p.name.as_str())
    }

    /// The network of this id.
    pub fn network(&self, id: u32) -> Option<&NetworkRow> {
        self.networks.iter().find(|n| n.id == id)
    }

    /// The network of this name.
    pub fn network_named(&self, name: &str) -> Option<&NetworkRow> {
        self.networks.iter().find(|n| n.network.name == name)
    }

    /// What leads to this pod.
    pub fn publishes_of(&self, pod: u64) -> impl Iterator<Item = &PublishRow> {
        self.publishes.iter().filter(move |p| p.leads_to(pod))
    }
}
