//! TC ingress on the host end of a pod's veth.

use netns_ebpf_common::abi::ZONE_HOST;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::{Address, Family, Scope, V4, V6};
use netns_ebpf_common::flow::{FlowEntry, FlowTuple};
use netns_ebpf_common::hdr::Frame;
use netns_ebpf_common::hdr::eth::{EthHdr, ethertype};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::parse::{IcmpKind, L4, Parsed};
use netns_ebpf_common::publish::Publish;
use netns_ebpf_common::verdict::{DropReason, Verdict};

use crate::maps::{self, FamilyMaps, FlowRef};
use crate::packet::Packet;
use crate::report;
use crate::rewrite;
use crate::stage::flow::Opening;
use crate::stage::icmp_error::{self, Answer, ErrorFormat, Problem};
use crate::stage::port::Ports;
use crate::stage::{arp_reply, deliver, echo_reply, flow, fragment, ndp_reply, publish, related, route, source_check};

/// The sending pod.
struct Sender {
    slot: u32,
    endpoint: &'static Endpoint,
    network: &'static Network,
    zone: u16,
}

/// Runs the hook; returns the verdict and the sender's slot.
#[inline(always)]
pub fn run(pkt: &mut Packet) -> (Verdict, u32) {
    let Some((slot, endpoint)) = maps::endpoint_by_ifindex(pkt.ifindex()) else {
        return (Verdict::Drop(DropReason::NoEndpoint), u32::MAX);
    };
    let Some(network) = maps::network(endpoint.network) else {
        return (Verdict::Drop(DropReason::NoEndpoint), slot);
    };
    let sender = Sender { slot, endpoint, network, zone: endpoint.network as u16 };
    (link_layer(pkt, &sender).unwrap_or_else(Verdict::Drop), slot)
}

/// 1. The frame is the pod's own; 2. its EtherType picks the family.
#[inline(always)]
fn link_layer(pkt: &mut Packet, sender: &Sender) -> Result<Verdict, DropReason> {
    pkt.pull_headers()?;
    let eth: EthHdr = pkt.read(0).ok_or(DropReason::Malformed)?;
    source_check::mac(sender.endpoint, eth.src)?;
    match eth.ethertype() {
        ethertype::IPV4 => internet::<V4>(pkt, sender),
        ethertype::IPV6 => internet::<V6>(pkt, sender),
        ethertype::ARP => arp_reply::run(pkt, sender.endpoint, sender.network),
        _ => Err(DropReason::UnknownEtherType),
    }
}

/// The way of an IP packet.
#[inline(never)]
fn internet<F: FromPod>(pkt: &mut Packet, sender: &Sender) -> Result<Verdict, DropReason> {
    // 3. Take it apart; nothing is believed that does not lie inside the frame.
    let mut p = F::parse(pkt, rewrite::L3_OFF, pkt.len_bytes())?;

    // 4. The source is the pod's.
    source_check::address::<F>(sender.endpoint, &p)?;

    // 5. Neighbour discovery is answered here, as ARP is.
    if let L4::Icmp(kind) = p.l4
        && let Some(verdict) = F::neighbour_discovery(pkt, sender, &p, kind)
    {
        return verdict;
    }

    // 6. Destinations no packet is forwarded to.
    match F::scope(p.tuple.dst) {
        Scope::Unicast => {}
        Scope::Multicast => return Err(DropReason::Multicast),
        Scope::LinkLocal | Scope::Martian => return Err(DropReason::Martian),
    }

    // 7. A pod of the same network.
    let network = sender.network;
    if F::in_subnet(network, p.tuple.dst) && p.tuple.dst != F::gateway(network) {
        return to_pod::<F>(pkt, sender, &p);
    }

    // 8. An error about a flow.
    if matches!(p.l4, L4::Icmp(IcmpKind::Error)) {
        return error_of_flow::<F>(pkt, sender, &p);
    }

    // 9. A packet of a flow, or the first of a new one.
    fragment::track::<F>(sender.zone, &mut p)?;
    if flow::is_trackable(&p)
        && let Some(flow) = flow::find::<F>(sender.zone, &p)?
    {
        return along_flow::<F>(pkt, sender, &p, flow);
    }

    // 10. The host: a port published there, or its own sockets.
    if p.tuple.dst == F::gateway(network) || maps::is_host_addr::<F>(p.tuple.dst) {
        return to_host::<F>(pkt, sender, &p);
    }

    // 11. The LAN.
    to_lan::<F>(pkt, sender, &p)
}

/// To a pod of the sender's network, by its address alone.
#[inline(always)]
fn to_pod<F: FromPod>(pkt: &mut Packet, sender: &Sender, p: &Parsed<F::Addr>) -> Result<Verdict, DropReason> {
    let live = match maps::slot_by_addr::<F>(sender.endpoint.network, p.tuple.dst) {
        Some(slot) => maps::endpoint(slot).map(|e| (slot, e)),
        None => None,
    };
    let Some((slot, endpoint)) = live else {
        return reject::<F>(pkt, sender, p, Problem::HostUnreachable);
    };
    if let Some(problem) = deliver::problem(pkt, p, endpoint.mtu_bytes) {
        return reject::<F>(pkt, sender, p, problem);
    }
    deliver::to_endpoint::<F>(pkt, p, slot, endpoint, sender.network)
}

/// To where the packet's flow leads.
#[inline(never)]
fn along_flow<F: FromPod>(
    pkt: &mut Packet,
    sender: &Sender,
    p: &Parsed<F::Addr>,
    flow: FlowRef<F>,
) -> Result<Verdict, DropReason> {
    let (to, target, flags) = (flow.to(), flow.target(), flow.flags());
    if flags & FlowEntry::<F::Addr>::TO_UPLINK != 0 {
        let uplink = maps::uplink(target).ok_or(DropReason::NoRoute)?;
        if let Some(problem) = deliver::problem(pkt, p, uplink.mtu_bytes) {
            return reject::<F>(pkt, sender, p, problem);
        }
        if flags & FlowEntry::<F::Addr>::TRANSLATED != 0 {
            rewrite::translate::<F>(pkt, p, &to)?;
        }
        return deliver::to_uplink::<F>(pkt, p, target);
    }
    let (endpoint, network) = deliver::backend(target)?;
    if let Some(problem) = deliver::problem(pkt, p, endpoint.mtu_bytes) {
        return reject::<F>(pkt, sender, p, problem);
    }
    rewrite::translate::<F>(pkt, p, &to)?;
    deliver::to_endpoint::<F>(pkt, p, target, endpoint, network)
}

/// To an address of the host: what is published there, else its sockets.
#[inline(never)]
fn to_host<F: FromPod>(pkt: &mut Packet, sender: &Sender, p: &Parsed<F::Addr>) -> Result<Verdict, DropReason> {
    if let Some(found) = publish::find::<F>(p)
        && found.publish.flags & Publish::LOOPBACK == 0
    {
        if found.publish.flags & Publish::ACTIVE == 0 {
            return Err(DropReason::Draining);
        }
        if !flow::may_open(p) {
            return Err(DropReason::NoFlow);
        }
        return to_published::<F>(pkt, sender, p, &found);
    }
    if sender.network.flags & Network::HOST_ACCESS != 0 {
        return Ok(Verdict::Host(sender.network.gateway_ifindex));
    }
    if p.tuple.dst == F::gateway(sender.network) && matches!(p.l4, L4::Icmp(IcmpKind::EchoRequest)) {
        return echo_reply::run::<F>(pkt, sender.endpoint, sender.network, p);
    }
    Err(DropReason::NoHostAccess)
}

/// Hairpin: to a pod by a published address, from that address (RFC 4787 REQ-9a), so that the answer comes back here
/// whichever pod it is, the sender itself included.
#[inline(never)]
fn to_published<F: FromPod>(
    pkt: &mut Packet,
    sender: &Sender,
    p: &Parsed<F::Addr>,
    found: &publish::Match,
) -> Result<Verdict, DropReason> {
    let (endpoint, network) = deliver::backend(found.publish.slot)?;
    let pod = F::endpoint_addr(endpoint);
    if pod.is_unspecified() {
        return Err(DropReason::BackendGone);
    }
    if let Some(problem) = deliver::problem(pkt, p, endpoint.mtu_bytes) {
        return reject::<F>(pkt, sender, p, problem);
    }
    let flow = flow::open::<F>(
        pkt,
        p,
        &Opening {
            zone: sender.zone,
            peer_zone: endpoint.network as u16,
            to: FlowTuple { src: p.tuple.dst, dst: pod, sport: p.tuple.sport, dport: found.port.pod_port },
            target: found.publish.slot,
            to_uplink: false,
            peer_target: sender.slot,
            peer_to_uplink: false,
            owner_slot: sender.slot,
            publish: found.id,
            ports: Ports::HostRange,
        },
    );
    let flow = match flow {
        Ok(flow) => flow,
        Err(DropReason::PortsExhausted) => return reject::<F>(pkt, sender, p, Problem::Prohibited),
        Err(reason) => return Err(reason),
    };
    maps::with_publish_stats(found.id, |s| s.flows += 1);
    rewrite::translate::<F>(pkt, p, &flow.to())?;
    deliver::to_endpoint::<F>(pkt, p, found.publish.slot, endpoint, network)
}

/// To the LAN by the host's routes, with the uplink's address unless an exception keeps the pod's.
#[inline(never)]
fn to_lan<F: FromPod>(pkt: &mut Packet, sender: &Sender, p: &Parsed<F::Addr>) -> Result<Verdict, DropReason> {
    if !flow::is_trackable(p) {
        return Err(DropReason::UnknownProtocol);
    }
    if !flow::may_open(p) {
        return Err(DropReason::NoFlow);
    }
    let Ok((ifindex, uplink)) = route::uplink::<F>(pkt, sender.network, p) else {
        return reject::<F>(pkt, sender, p, Problem::NetUnreachable);
    };
    if let Some(problem) = deliver::problem(pkt, p, uplink.mtu_bytes) {
        return reject::<F>(pkt, sender, p, problem);
    }
    let masquerade = sender.network.flags & Network::MASQUERADE != 0
        && !maps::is_no_masquerade::<F>(sender.endpoint.network, p.tuple.dst);
    let (src, ports) = if masquerade { (F::uplink_addr(uplink), Ports::HostRange) } else { (p.tuple.src, Ports::Keep) };
    if src.is_unspecified() {
        return Err(DropReason::NoUplinkAddress);
    }
    let flow = flow::open::<F>(
        pkt,
        p,
        &Opening {
            zone: sender.zone,
            peer_zone: ZONE_HOST,
            to: FlowTuple { src, ..p.tuple },
            target: ifindex,
            to_uplink: true,
            peer_target: sender.slot,
            peer_to_uplink: false,
            owner_slot: sender.slot,
            publish: FlowEntry::<F::Addr>::NO_OWNER,
            ports,
        },
    );
    let flow = match flow {
        Ok(flow) => flow,
        Err(DropReason::PortsExhausted) => return reject::<F>(pkt, sender, p, Problem::Prohibited),
        Err(reason) => return Err(reason),
    };
    if flow.flags() & FlowEntry::<F::Addr>::TRANSLATED != 0 {
        rewrite::translate::<F>(pkt, p, &flow.to())?;
    }
    deliver::to_uplink::<F>(pkt, p, ifindex)
}

/// An ICMP error a pod sends about a flow; about anything else only the host may hear.
#[inline(never)]
fn error_of_flow<F: FromPod>(pkt: &mut Packet, sender: &Sender, p: &Parsed<F::Addr>) -> Result<Verdict, DropReason> {
    let related = match related::find::<F>(pkt, sender.zone, p) {
        Ok(related) => related,
        Err(reason) => {
            let host = p.tuple.dst == F::gateway(sender.network) || maps::is_host_addr::<F>(p.tuple.dst);
            if host && sender.network.flags & Network::HOST_ACCESS != 0 {
                return Ok(Verdict::Host(sender.network.gateway_ifindex));
            }
            return Err(reason);
        }
    };
    let (to, target, flags) = (related.flow.to(), related.flow.target(), related.flow.flags());
    if flags & FlowEntry::<F::Addr>::TO_UPLINK != 0 {
        related::translate::<F>(pkt, p, &related, to.src)?;
        return deliver::to_uplink::<F>(pkt, p, target);
    }
    let (endpoint, network) = deliver::backend(target)?;
    related::translate::<F>(pkt, p, &related, to.src)?;
    deliver::to_endpoint::<F>(pkt, p, target, endpoint, network)
}

/// Drops the packet and answers it with an error from the gateway.
#[inline(never)]
fn reject<F: FromPod>(
    pkt: &mut Packet,
    sender: &Sender,
    p: &Parsed<F::Addr>,
    problem: Problem,
) -> Result<Verdict, DropReason> {
    let answer =
        Answer { problem, src: F::gateway(sender.network), dst_mac: sender.endpoint.mac, src_mac: sender.network.mac };
    icmp_error::replace::<F>(pkt, p, &answer)?;
    report::count_endpoint_rx(sender.slot, pkt.len_bytes());
    Ok(Verdict::Reject(problem.reason(), sender.endpoint.ifindex))
}

/// What the families have different at this hook.
trait FromPod: Family + FamilyMaps + ErrorFormat {
    /// The verdict on a neighbour-discovery message; `None` if it is none.
    fn neighbour_discovery(
        pkt: &mut Packet,
        sender: &Sender,
        p: &Parsed<Self::Addr>,
        kind: IcmpKind,
    ) -> Option<Result<Verdict, DropReason>>;
}

impl FromPod for V4 {
    /// IPv4's neighbours are found by ARP. Redirects are a router's business.
    #[inline(always)]
    fn neighbour_discovery(
        _: &mut Packet,
        _: &Sender,
        _: &Parsed<Self::Addr>,
        kind: IcmpKind,
    ) -> Option<Result<Verdict, DropReason>> {
        matches!(kind, IcmpKind::Redirect).then_some(Err(DropReason::RouterAdvertisement))
    }
}

impl FromPod for V6 {
    #[inline(always)]
    fn neighbour_discovery(
        pkt: &mut Packet,
        sender: &Sender,
        p: &Parsed<Self::Addr>,
        kind: IcmpKind,
    ) -> Option<Result<Verdict, DropReason>> {
        match kind {
            IcmpKind::NeighbourSolicit
            | IcmpKind::NeighbourAdvert
            | IcmpKind::RouterSolicit
            | IcmpKind::RouterAdvert
            | IcmpKind::Redirect => Some(ndp_reply::run(pkt, sender.endpoint, sender.network, p, kind)),
            _ => None,
        }
    }
}
