//! What an instance is doing: its rows and the data path's counters, as of one look.

use std::collections::HashMap;
use std::net::IpAddr;

use netns_ebpf_common::counters::{EndpointCounters, Hook, PublishCounters};
use netns_ebpf_common::verdict::Kind;
use serde::Serialize;

use super::{
    DifferenceView, Instance, InstanceError, KernelPlatform, NetworkView, Object, Op, PlatformError, PodView,
    PublishView,
};
use crate::datapath::{DatapathError, FlowCount};
use crate::store::{State, UplinkRow};
use crate::topology::Nat;

/// Pods named for a destination no port is left towards.
const TALKERS: usize = 3;

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
    /// Idle times after which flows are forgotten, and how many there may be.
    pub nat: Nat,
    /// How many there are.
    pub flows: FlowTotals,
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
    /// Destinations towards which flows were refused for want of a port, the most refusals first.
    pub exhausted: Vec<ExhaustedStatus>,
    /// What is not as the rows say.
    pub differences: Vec<DifferenceView>,
}

fn read_error(e: DatapathError) -> PlatformError {
    PlatformError::new(Op::Read, Object::Datapath, e)
}

/// Flows in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct FlowTotals {
    /// Of IPv4.
    pub ipv4: u64,
    /// Of IPv6.
    pub ipv6: u64,
}

/// A pod's flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PodFlows {
    /// IPv4 flows it opened.
    pub ipv4_opened: u64,
    /// IPv4 flows opened to it by published ports.
    pub ipv4_incoming: u64,
    /// IPv6 flows it opened.
    pub ipv6_opened: u64,
    /// IPv6 flows opened to it by published ports.
    pub ipv6_incoming: u64,
}

impl PodFlows {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.ipv4_opened + self.ipv4_incoming + self.ipv6_opened + self.ipv6_incoming
    }
}

/// Flows of a pod that were refused, by the reason of the drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PodRefusals {
    /// It has all the flows it may have.
    pub flow_limit: u64,
    /// The table is full.
    pub flow_table_full: u64,
    /// No port is left towards the destination.
    pub ports_exhausted: u64,
}

/// A destination towards which no port was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExhaustedStatus {
    /// The network the refused flows were to come from; its id where it is gone.
    pub network: String,
    /// IP protocol number.
    pub proto: u8,
    /// Address.
    pub address: IpAddr,
    /// Port; 0 for ICMP.
    pub port: u16,
    /// Flows refused.
    pub refused: u64,
    /// Who has the most flows there now.
    pub talkers: Vec<Talker>,
}

/// A pod and its flows towards a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Talker {
    /// The pod; its slot where it is gone.
    pub pod: String,
    /// Flows.
    pub flows: usize,
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
    /// Families its gateway device does not forward, because somebody switched the host's forwarding off: its pods reach nothing
    /// of the LAN by them until the next verb.
    pub not_forwarding: Vec<&'static str>,
}

/// A pod with its counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodStatus {
    /// The pod.
    #[serde(flatten)]
    pub pod: PodView,
    /// Its packets, from its own side.
    pub counters: PodCounters,
    /// Its flows.
    pub flows: PodFlows,
    /// Its flows that were refused.
    pub refused: PodRefusals,
}

impl PodStatus {
    /// Adds what one of its interfaces has counted.
    fn add(&mut self, c: &EndpointCounters, [v4, v6]: [FlowCount; 2]) {
        self.counters.tx_packets += c.tx_packets;
        self.counters.tx_bytes += c.tx_bytes;
        self.counters.rx_packets += c.rx_packets;
        self.counters.rx_bytes += c.rx_bytes;
        self.counters.tx_dropped += c.tx_dropped;
        self.counters.rx_dropped += c.rx_dropped;
        self.refused.flow_limit += c.refused_limit;
        self.refused.flow_table_full += c.refused_table;
        self.refused.ports_exhausted += c.refused_ports;
        self.flows.ipv4_opened += v4.opened;
        self.flows.ipv4_incoming += v4.incoming;
        self.flows.ipv6_opened += v6.opened;
        self.flows.ipv6_incoming += v6.incoming;
    }
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
    /// To the host's own sockets, or back in by the uplink to another pod's mapping.
    pub host: u64,
    /// Answered, or from the host to a pod.
    pub out: u64,
    /// Dropped, those answered with an ICMP error included: over all hooks the sum of the drops by reason.
    pub drop: u64,
    /// Put aside until the first fragment of their datagram came by; they count again then.
    pub held: u64,
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

impl Instance<KernelPlatform> {
    /// What the instance is doing. Takes no lock. Reads the flow table if ports were wanting somewhere.
    ///
    /// # Errors
    ///
    /// It is not up, or its maps cannot be read.
    pub fn status(&self) -> Result<Status, InstanceError> {
        let differences = self.differences()?.iter().map(Into::into).collect::<Vec<DifferenceView>>();
        let mut status = if differences.iter().any(|d| matches!(d.kind, "not-loaded" | "pins-gone")) {
            self.without_datapath()?
        } else {
            self.counters()?
        };
        status.differences = differences;
        if !status.differences.is_empty() && status.verdicts.is_empty() {
            // Without maps there is nothing to read.
            return Ok(status);
        }
        let state = self.state()?.ok_or_else(|| InstanceError::NotUp(self.dirs().name().to_owned()))?;
        status.exhausted = self.exhausted(&state).map_err(read_error)?;
        Ok(status)
    }

    /// [`Self::status`] without what takes a look at the flow table.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn counters(&self) -> Result<Status, InstanceError> {
        let not_up = || InstanceError::NotUp(self.dirs().name().to_owned());
        let state = self.state()?.ok_or_else(not_up)?;
        let row = state.instance.clone().ok_or_else(not_up)?;
        self.is_here(&row)?;
        let datapath = self.platform().host().datapath();
        let read = |e: DatapathError| read_error(e);
        let known = datapath.uplinks().map_err(read)?;
        let [ipv4, ipv6] = datapath.flow_totals().map_err(read)?;
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
            let (counters, flows, refused) = Default::default();
            let mut its = PodStatus { pod, counters, flows, refused };
            for slot in its.pod.attachments.iter().map(|a| a.slot).collect::<Vec<_>>() {
                its.add(&datapath.endpoint_counters(slot)?, datapath.flow_counts(slot)?);
            }
            Ok(its)
        });
        let publishes = state.publish_views().into_iter().map(|publish| {
            let PublishCounters { flows, packets, bytes } = datapath.publish_counters(publish.index)?;
            Ok(PublishStatus { publish, flows: flows.get(), packets, bytes })
        });
        let networks = state.network_views().into_iter().map(|network| {
            let id = u16::try_from(network.id).unwrap_or(0);
            let snat_address_live = datapath.snat_addresses(id).map_err(read)?;
            let forwarding = self.platform().host().not_forwarding(id);
            let not_forwarding = forwarding.map_err(|e| PlatformError::new(Op::Read, Object::Host, e))?;
            Ok(NetworkStatus { network, snat_address_live, not_forwarding })
        });
        let networks = networks.collect::<Result<_, PlatformError>>()?;
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
            flows: FlowTotals { ipv4, ipv6 },
            host_sockets: datapath.has_socket_hooks(),
            networks,
            pods: pods.map_err(read)?,
            publishes: publishes.map_err(read)?,
            drops: drops.collect(),
            verdicts: self.verdicts().map_err(read)?,
            exhausted: Vec::new(),
            differences: Vec::new(),
        })
    }

    /// What is left to say of an instance whose programs and maps are gone.
    fn without_datapath(&self) -> Result<Status, InstanceError> {
        let not_up = || InstanceError::NotUp(self.dirs().name().to_owned());
        let state = self.state()?.ok_or_else(not_up)?;
        let row = state.instance.clone().ok_or_else(not_up)?;
        let away = |u: &UplinkRow| UplinkStatus { name: u.name.clone(), addresses: vec![], mtu: 0, attached: false };
        let network = |network| NetworkStatus { network, snat_address_live: vec![], not_forwarding: vec![] };
        let pod = |pod| PodStatus {
            pod,
            counters: PodCounters::default(),
            flows: PodFlows::default(),
            refused: PodRefusals::default(),
        };
        let publish = |publish| PublishStatus { publish, flows: 0, packets: 0, bytes: 0 };
        Ok(Status {
            instance: self.dirs().name().to_owned(),
            host_netns: row.host_netns.clone(),
            uplinks: row.uplinks.iter().map(away).collect(),
            snat_ports: row.host.snat_ports.to_string(),
            nat: row.nat,
            flows: FlowTotals::default(),
            host_sockets: false,
            networks: state.network_views().into_iter().map(network).collect(),
            pods: state.pod_views().into_iter().map(pod).collect(),
            publishes: state.publish_views().into_iter().map(publish).collect(),
            verdicts: Vec::new(),
            drops: Vec::new(),
            exhausted: Vec::new(),
            differences: Vec::new(),
        })
    }

    fn exhausted(&self, state: &State) -> Result<Vec<ExhaustedStatus>, DatapathError> {
        let datapath = self.platform().host().datapath();
        let exhausted = datapath.exhausted_ports()?;
        if exhausted.is_empty() {
            return Ok(Vec::new());
        }
        // Ports are those of an address of the host: flows of every network take them.
        let mut talkers: HashMap<(u8, IpAddr, u16), HashMap<u32, usize>> =
            exhausted.iter().map(|e| ((e.proto, e.addr, e.port), HashMap::new())).collect();
        datapath.visit_flows(|flow| {
            if let (true, Some(slot)) = (flow.original && flow.target_uplink.is_some(), flow.owner_slot)
                && let Some(here) = talkers.get_mut(&(flow.proto, flow.to_dst, flow.to_dport))
            {
                *here.entry(slot).or_default() += 1;
            }
        })?;
        let pod = |slot: u32| {
            let row = state.attachments.iter().find(|a| a.slot == slot).and_then(|a| state.pod_of(a.id));
            row.map_or_else(|| format!("slot {slot}"), |p| p.name.clone())
        };
        let network = |id: u16| {
            let row = state.networks.iter().find(|n| n.id == u32::from(id));
            row.map_or_else(|| id.to_string(), |n| n.network.name.clone())
        };
        Ok(exhausted
            .into_iter()
            .map(|e| {
                let here = talkers.get(&(e.proto, e.addr, e.port)).into_iter().flatten();
                let mut talkers: Vec<_> = here.map(|(slot, n)| Talker { pod: pod(*slot), flows: *n }).collect();
                talkers.sort_by(|a, b| b.flows.cmp(&a.flows).then_with(|| a.pod.cmp(&b.pod)));
                talkers.truncate(TALKERS);
                ExhaustedStatus {
                    network: network(e.network),
                    proto: e.proto,
                    address: e.addr,
                    port: e.port,
                    refused: e.refused,
                    talkers,
                }
            })
            .collect())
    }

    fn verdicts(&self) -> Result<Vec<HookStatus>, DatapathError> {
        let counts = self.platform().host().datapath().verdicts()?;
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
                held: of(hook, Kind::Held),
                drop: Kind::ALL.into_iter().filter(|kind| kind.is_drop()).map(|kind| of(hook, kind)).sum(),
            })
            .collect())
    }
}
