//! What an instance is doing: its rows and the data path's counters, as of one look.

use std::net::IpAddr;

use netns_ebpf_common::counters::{EndpointCounters, Hook, PublishCounters};
use netns_ebpf_common::verdict::Kind;
use serde::Serialize;

use super::{FabricError, Instance, InstanceError, KernelFabric, NetworkView, PodView, PublishView};
use crate::datapath::DatapathError;
use crate::store::UplinkRow;
use crate::topology::Nat;

/// What an instance is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The instance.
    pub instance: String,
    /// Named namespace that is its host; absent for the real one.
    pub host_netns: Option<String>,
    /// The interfaces to the LAN.
    pub uplinks: Vec<UplinkStatus>,
    /// Ports SNAT may hand out.
    pub snat_ports: String,
    /// Idle times after which flows are forgotten.
    pub nat: Nat,
    /// Whether processes of the host reach published ports by its own and loopback addresses, and cannot bind them.
    pub host_sockets: bool,
    /// Networks, by id.
    pub networks: Vec<NetworkStatus>,
    /// Pods, in the order they were made.
    pub pods: Vec<PodStatus>,
    /// Published ports.
    pub publishes: Vec<PublishStatus>,
    /// Packets by hook and way out.
    pub verdicts: Vec<HookStatus>,
    /// Reasons for which packets were dropped; those that never occurred are left out.
    pub drops: Vec<DropStatus>,
}

/// An uplink as the data path knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UplinkStatus {
    /// Name.
    pub name: String,
    /// Source addresses of masqueraded packets.
    pub addresses: Vec<IpAddr>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether the data path knows it: false while the interface is away.
    pub attached: bool,
}

/// A network and the host's side of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkStatus {
    /// The network.
    #[serde(flatten)]
    pub network: NetworkView,
    /// Those of its SNAT addresses the host has at present.
    pub snat_address_live: Vec<IpAddr>,
}

/// A pod with its counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodStatus {
    /// The pod.
    #[serde(flatten)]
    pub pod: PodView,
    /// Its packets, from its own side.
    pub counters: PodCounters,
}

/// A pod's packets; a GSO packet counts once, with its full length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PodCounters {
    /// Sent, dropped ones included.
    pub tx_packets: u64,
    /// Bytes of those.
    pub tx_bytes: u64,
    /// Received.
    pub rx_packets: u64,
    /// Bytes of those.
    pub rx_bytes: u64,
    /// Sent and dropped.
    pub tx_dropped: u64,
    /// For the pod and dropped.
    pub rx_dropped: u64,
}

/// A published port with its counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishStatus {
    /// The publish.
    #[serde(flatten)]
    pub publish: PublishView,
    /// New flows.
    pub flows: u64,
    /// Packets of the LAN's clients towards the pod.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// A hook's packets by way out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct HookStatus {
    /// The program.
    pub hook: &'static str,
    /// Up the stack, untouched.
    pub pass: u64,
    /// Into a pod.
    pub peer: u64,
    /// Out of an uplink.
    pub neigh: u64,
    /// To the host's own sockets.
    pub host: u64,
    /// Answered, or from the host to a pod.
    pub out: u64,
    /// Dropped, those answered with an ICMP error included: over all hooks the sum of the drops by reason.
    pub drop: u64,
}

/// Drops for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DropStatus {
    /// The reason's number.
    pub number: u8,
    /// Its name.
    pub reason: &'static str,
    /// Packets.
    pub packets: u64,
    /// What it means and what to look at.
    pub explain: &'static str,
}

impl Instance<KernelFabric> {
    /// What the instance is doing. Takes no lock.
    ///
    /// # Errors
    ///
    /// It is not up, or its maps cannot be read.
    pub fn status(&self) -> Result<Status, InstanceError> {
        let not_up = || InstanceError::NotUp(self.dirs().name().to_owned());
        let state = self.state()?.ok_or_else(not_up)?;
        let row = state.instance.clone().ok_or_else(not_up)?;
        let datapath = self.fabric().host().datapath();
        let read = |e: DatapathError| FabricError::step("read the data path", e);
        let known = datapath.uplinks().map_err(read)?;
        let uplinks = row.uplinks.iter().map(|UplinkRow { name, ifindex }| {
            let entry = known.iter().find(|(index, _)| index == ifindex).map(|(_, uplink)| *uplink);
            let addresses = entry.into_iter().flat_map(|u| [IpAddr::from(u.addr4), IpAddr::from(u.addr6)]);
            UplinkStatus {
                name: name.clone(),
                addresses: addresses.filter(|a| !a.is_unspecified()).collect(),
                mtu: entry.map_or(0, |u| u.mtu_bytes),
                attached: entry.is_some(),
            }
        });
        let pods = state.pod_views().into_iter().map(|pod| {
            let EndpointCounters { tx_packets, tx_bytes, rx_packets, rx_bytes, tx_dropped, rx_dropped } =
                datapath.endpoint_counters(pod.slot)?;
            let counters = PodCounters { tx_packets, tx_bytes, rx_packets, rx_bytes, tx_dropped, rx_dropped };
            Ok(PodStatus { pod, counters })
        });
        let publishes = state.publish_views().into_iter().map(|publish| {
            let PublishCounters { flows, packets, bytes, host_flows } = datapath.publish_counters(publish.index)?;
            Ok(PublishStatus { publish, flows: flows + host_flows, packets, bytes })
        });
        let networks = state.network_views().into_iter().map(|network| {
            let snat_address_live = datapath.snat_addresses(u16::try_from(network.id).unwrap_or(0))?;
            Ok(NetworkStatus { network, snat_address_live })
        });
        let networks = networks.collect::<Result<_, _>>();
        let (pods, publishes) = (pods.collect::<Result<_, _>>(), publishes.collect::<Result<_, _>>());
        let drops = datapath.drops().map_err(read)?.into_iter().filter(|d| d.packets > 0).map(|d| DropStatus {
            number: d.reason as u8,
            reason: d.reason.as_str(),
            packets: d.packets,
            explain: d.reason.explain().trim(),
        });
        Ok(Status {
            instance: self.dirs().name().to_owned(),
            host_netns: row.host_netns,
            uplinks: uplinks.collect(),
            snat_ports: row.host.snat_ports.to_string(),
            nat: row.nat,
            host_sockets: datapath.has_socket_hooks(),
            networks: networks.map_err(read)?,
            pods: pods.map_err(read)?,
            publishes: publishes.map_err(read)?,
            drops: drops.collect(),
            verdicts: self.verdicts().map_err(read)?,
        })
    }

    fn verdicts(&self) -> Result<Vec<HookStatus>, DatapathError> {
        let counts = self.fabric().host().datapath().verdicts()?;
        let of = |hook: Hook, kind| {
            counts.iter().filter(|c| c.hook == hook && c.kind == kind).map(|c| c.packets).sum::<u64>()
        };
        Ok(Hook::ALL
            .into_iter()
            .map(|hook| HookStatus {
                hook: hook.as_str(),
                pass: of(hook, Kind::Pass),
                peer: of(hook, Kind::Peer),
                neigh: of(hook, Kind::Neigh),
                host: of(hook, Kind::Host),
                out: of(hook, Kind::Out),
                drop: Kind::ALL.into_iter().filter(|kind| kind.is_drop()).map(|kind| of(hook, kind)).sum(),
            })
            .collect())
    }
}
