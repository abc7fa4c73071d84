//! TC ingress on the host end of a pod's veth.

use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::{Address, Family, Scope, V4, V6};
use netns_ebpf_common::flow::{FlowFlags, TargetKind};
use netns_ebpf_common::hdr::Frame;
use netns_ebpf_common::hdr::eth::{EthHdr, ethertype};
use netns_ebpf_common::host::Uplink;
use netns_ebpf_common::network::Network;
use netns_ebpf_common::opening::{Opening, Plan, Ports};
use netns_ebpf_common::parse::{Fragment, IcmpKind, L4, Parsed};
use netns_ebpf_common::proto;
use netns_ebpf_common::publish::Publish;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::{DropReason, Next, Verdict};

use crate::maps::{self, FamilyMaps, FlowRef};
use crate::packet::{Packet, USUAL_HEADERS_BYTES};
use crate::path::{may_go_on, out_of_line};
use crate::report;
use crate::rewrite;
use crate::stage::icmp_error::{self, Answer, ErrorFormat, Problem};
use crate::stage::opening::{self, border};
use crate::stage::{
    arp_reply, deliver, echo_reply, flow, fragment, mapping, ndp_reply, neighbour, parse, publish, related, route,
    source_check,
};

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
        return (Verdict::drop(DropReason::NoEndpoint), u32::MAX);
    };
    let Some(network) = maps::network(endpoint.network) else {
        return (Verdict::drop(DropReason::NoEndpoint), slot);
    };
    // What a program in the pod has noted on it is not the host's to go by.
    pkt.clear_notes();
    let sender = Sender { slot, endpoint, network, zone: endpoint.network as u16 };
    (link_layer(pkt, &sender).unwrap_or_else(Verdict::drop), slot)
}

/// What there is to do below IP.
#[inline(always)]
fn link_layer(pkt: &mut Packet, sender: &Sender) -> Result<Verdict, DropReason> {
    // 1. The frame is the pod's own.
    if pkt.is_tagged() {
        return Err(DropReason::UnknownEtherType);
    }
    pkt.pull(USUAL_HEADERS_BYTES)?;
    let eth: EthHdr = pkt.read(0).ok_or(DropReason::Malformed)?;
    source_check::mac(sender.endpoint, eth.src)?;

    // 2. The EtherType picks the family.
    match eth.ethertype() {
        ethertype::IPV4 => Ok(internet::<V4>(pkt, sender)),
        ethertype::IPV6 => Ok(internet::<V6>(pkt, sender)),
        ethertype::ARP => Ok(arp_reply::run(pkt, sender.endpoint, sender.network)),
        _ => Err(DropReason::UnknownEtherType),
    }
}

/// The way of an IP packet.
#[inline(never)]
fn internet<F: FromPod>(pkt: &mut Packet, sender: &Sender) -> Verdict {
    out_of_line(|| {
        // 3. The packet is taken apart. Nothing is believed that does not lie inside the frame.
        let p = parse::run::<F>(pkt)?;

        // 4. The source is the pod's, and no device will write over it.
        source_check::address::<F>(sender.endpoint, p)?;
        source_check::checksum(pkt, p)?;

        // 5. Neighbour discovery is answered here, as ARP is.
        if let L4::Icmp = p.l4
            && let Some(verdict) = F::neighbour_discovery(pkt, sender, p)
        {
            return Ok(verdict);
        }

        // 6. Destinations no packet is forwarded to are dropped.
        match F::scope(&p.tuple.dst) {
            Scope::Unicast => {}
            Scope::Multicast => return Err(DropReason::Multicast),
            Scope::LinkLocal | Scope::Martian => return Err(DropReason::Martian),
        }

        // 7. A pod of the network is reached by its address alone.
        let network = sender.network;
        if F::in_subnet(network, &p.tuple.dst) && p.tuple.dst != *F::gateway(network) {
            return to_pod::<F>(pkt, sender, p);
        }

        // 8. An ICMP error about a flow is translated.
        if p.is_icmp(IcmpKind::Error) {
            return Ok(error_of_flow::<F>(pkt, sender, p));
        }

        // 9. A fragment gets the ports of the first one, or waits for it.
        if !matches!(p.fragment, Fragment::Whole)
            && let Some(verdict) = fragment::from_pod::<F>(pkt, sender.slot, sender.zone, p).ended()
        {
            return Ok(verdict);
        }

        // 10. A packet of a flow goes along it.
        flow::check_flags(p)?;
        if flow::is_trackable(p)
            && let Some(flow) = flow::find::<F>(sender.zone, p)
        {
            return Ok(along_flow::<F>(pkt, sender, p, flow));
        }

        // 11. A new packet goes to the host, or a flow is planned for it.
        let o = maps::opening::<F>()?;
        if let Some(verdict) = plan::<F>(pkt, sender, p, o).ended() {
            return Ok(verdict);
        }

        // 12. The planned flow is opened, and the packet goes along it.
        match opening::open::<F, true>(pkt, p, o) {
            Ok(flow) => Ok(along_flow::<F>(pkt, sender, p, flow)),
            Err(DropReason::PortsExhausted) => Ok(reject::<F>(pkt, sender, p, Problem::PROHIBITED)),
            Err(DropReason::FlowLimit) => Ok(reject::<F>(pkt, sender, p, Problem::FLOW_LIMIT)),
            Err(reason) => Err(reason),
        }
    })
}

/// To a pod of the sender's network, by its address alone.
#[inline(always)]
fn to_pod<F: FromPod>(pkt: &mut Packet, sender: &Sender, p: &Parsed<F::Addr>) -> Result<Verdict, DropReason> {
    let live = match maps::slot_by_addr::<F>(sender.endpoint.network, p.tuple.dst) {
        Some(slot) => maps::endpoint(slot).map(|e| (slot, e)),
        None => None,
    };
    let Some((slot, endpoint)) = live else {
        return Ok(reject::<F>(pkt, sender, p, Problem::HOST_UNREACHABLE));
    };
    if p.is_icmp(IcmpKind::Error) {
        related::check_direct::<F>(pkt, p)?;
    }
    if let Some(problem) = deliver::problem(pkt, p, endpoint.mtu_bytes) {
        return Ok(reject::<F>(pkt, sender, p, problem));
    }
    deliver::to_endpoint::<F>(pkt, p, slot, endpoint, sender.network)
}

/// To where the packet's flow leads.
#[inline(never)]
fn along_flow<F: FromPod>(pkt: &mut Packet, sender: &Sender, p: &Parsed<F::Addr>, flow: FlowRef<F>) -> Verdict {
    out_of_line(|| {
        let (to, target, flags) = (flow.to(), flow.target(), flow.flags());
        match target.kind {
            TargetKind::Uplink => {
                let uplink = maps::uplink(target.id).ok_or(DropReason::NoRoute)?;
                if let Some(problem) = deliver::problem(pkt, p, uplink.mtu_bytes) {
                    return Ok(reject::<F>(pkt, sender, p, problem));
                }
                if matches!(flow.state(), State::Opening) && neighbour::is_silent::<F>(pkt, sender.network, p, flow) {
                    return Ok(reject::<F>(pkt, sender, p, Problem::HOST_UNREACHABLE));
                }
                if flags.has(FlowFlags::TRANSLATED) {
                    rewrite::translate::<F>(pkt, p, to)?;
                }
                deliver::to_uplink::<F>(pkt, p, target.id, flags)
            }
            TargetKind::Pod => {
                let (endpoint, network) = deliver::live_endpoint(target.id)?;
                if let Some(problem) = deliver::problem(pkt, p, endpoint.mtu_bytes) {
                    return Ok(reject::<F>(pkt, sender, p, problem));
                }
                rewrite::translate::<F>(pkt, p, to)?;
                deliver::to_endpoint::<F>(pkt, p, target.id, endpoint, network)
            }
        }
    })
}

/// To the host or to the LAN.
#[inline(never)]
fn plan<F: FromPod>(pkt: &mut Packet, sender: &Sender, p: &Parsed<F::Addr>, o: &mut Opening<F::Addr>) -> Next {
    if is_hosts::<F>(pkt, sender, p) { to_host::<F>(pkt, sender, p, o) } else { to_lan::<F>(pkt, sender, p, o) }
}

/// Whether the destination is an address of the host. Who is let in there asks the kernel, as a list may be old: an address that has
/// left the host is one of the LAN.
#[inline(always)]
fn is_hosts<F: FromPod>(pkt: &Packet, sender: &Sender, p: &Parsed<F::Addr>) -> bool {
    let network = sender.network;
    if p.tuple.dst != *F::gateway(network) && !maps::is_host_addr::<F>(p.tuple.dst) {
        return false;
    }
    network.flags & Network::HOST_ACCESS == 0 || border::is_hosts::<F>(pkt, network, p)
}

/// To an address of the host: the pod that has a mapping there, what is published there, else its sockets.
#[inline(never)]
fn to_host<F: FromPod>(pkt: &mut Packet, sender: &Sender, p: &Parsed<F::Addr>, o: &mut Opening<F::Addr>) -> Next {
    may_go_on(|| {
        if flow::may_open(p) {
            if maps::has_mappings()
                && let Some(outside) = mapping::at::<F>(p.proto, &p.tuple)
                && let Some(inside) = outside.peer(p.proto)
            {
                return to_mapping::<F>(sender, p, o, inside.target().id);
            }
            if let Some(found) = publish::find::<F>(p)
                && found.publish.flags & Publish::LOOPBACK == 0
            {
                return to_published::<F>(pkt, sender, p, o, &found);
            }
        }
        if sender.network.flags & Network::HOST_ACCESS != 0 {
            return Ok(Next::end(Verdict::host(sender.network.gateway_ifindex)));
        }
        if p.tuple.dst == *F::gateway(sender.network) && p.is_icmp(IcmpKind::EchoRequest) {
            return echo_reply::run::<F>(pkt, sender.endpoint, sender.network, p).map(Next::end);
        }
        Err(DropReason::NoHostAccess)
    })
}

/// Hairpin: to a pod by the address and port it has on the LAN, with those the sender has there (RFC 4787 REQ-9a): out as to the
/// LAN, and back in by the uplink, whose hook sees to the filter of the receiver.
#[inline(always)]
fn to_mapping<F: FromPod>(
    sender: &Sender,
    p: &Parsed<F::Addr>,
    o: &mut Opening<F::Addr>,
    ifindex: u32,
) -> Result<Next, DropReason> {
    let uplink = maps::uplink(ifindex).ok_or(DropReason::NoRoute)?;
    o.flow.entry.to.set(&p.tuple);
    o.plan = Plan::leaving(sender.zone, sender.slot, ifindex);
    o.plan.flags = FlowFlags::HAIRPIN;
    masquerade::<F>(sender, uplink, p.proto, o)?;
    Ok(Next::GO_ON)
}

/// Hairpin: to a pod by a published address, from that address (RFC 4787 REQ-9a), so that the answer comes back here
/// whichever pod it is, the sender itself included.
#[inline(always)]
fn to_published<F: FromPod>(
    pkt: &mut Packet,
    sender: &Sender,
    p: &Parsed<F::Addr>,
    o: &mut Opening<F::Addr>,
    found: &publish::Match,
) -> Result<Next, DropReason> {
    let publish::Backend { slot, endpoint } = publish::backend::<F>(p, found)?;
    if let Some(problem) = deliver::problem(pkt, p, endpoint.mtu_bytes) {
        return Ok(Next::end(reject::<F>(pkt, sender, p, problem)));
    }
    let to = &mut o.flow.entry.to;
    to.src.set(&p.tuple.dst);
    to.sport = p.tuple.sport;
    to.dst.set(F::endpoint_addr(endpoint));
    to.dport = found.port.pod_port;
    o.plan = Plan::hairpin(sender.zone, sender.slot, slot, endpoint.network as u16, found.id);
    Ok(Next::GO_ON)
}

/// To the LAN by the host's routes, with an address of the network's pool, or the uplink's, unless an exception keeps the
/// pod's.
#[inline(never)]
fn to_lan<F: FromPod>(pkt: &mut Packet, sender: &Sender, p: &Parsed<F::Addr>, o: &mut Opening<F::Addr>) -> Next {
    may_go_on(|| {
        if !flow::is_trackable(p) {
            return Err(DropReason::UnknownProtocol);
        }
        if !flow::may_open(p) {
            return Err(DropReason::NoFlow);
        }
        let ifindex = route::ifindex::<F>(pkt, sender.network, p);
        let Some(uplink) = maps::uplink(ifindex) else {
            return Ok(Next::end(reject::<F>(pkt, sender, p, Problem::NET_UNREACHABLE)));
        };
        if let Some(problem) = deliver::problem(pkt, p, uplink.mtu_bytes) {
            return Ok(Next::end(reject::<F>(pkt, sender, p, problem)));
        }
        o.flow.entry.to.set(&p.tuple);
        o.plan = Plan::leaving(sender.zone, sender.slot, ifindex);
        if sender.network.flags & Network::MASQUERADE != 0
            && !maps::is_no_masquerade::<F>(sender.endpoint.network, p.tuple.dst)
        {
            masquerade::<F>(sender, uplink, p.proto, o)?;
        }
        Ok(Next::GO_ON)
    })
}

/// Gives a planned flow an address of the network's pool, or the uplink's, and a mapping if the network has them. SCTP has none: its
/// ports are covered by its checksum, and one outside the range is the host's.
#[inline(always)]
fn masquerade<F: FamilyMaps>(
    sender: &Sender,
    uplink: &Uplink,
    proto: u8,
    o: &mut Opening<<F as Family>::Addr>,
) -> Result<(), DropReason> {
    let src = match maps::snat_pool::<F>(sender.endpoint.network) {
        Some(pool) => {
            o.plan.ports = Ports::Pool;
            o.plan.flags = o.plan.flags.with(FlowFlags::POOLED);
            pool.addr(sender.slot).ok_or(DropReason::NoUplinkAddress)?
        }
        None => {
            o.plan.ports = Ports::HostRange;
            *F::uplink_addr(uplink)
        }
    };
    if src.is_unspecified() {
        return Err(DropReason::NoUplinkAddress);
    }
    o.flow.entry.to.src = src;
    if sender.network.flags & Network::ENDPOINT_INDEPENDENT != 0 && proto != proto::SCTP {
        o.plan.flags = o.plan.flags.with(FlowFlags::MAPPED);
    }
    Ok(())
}

/// An ICMP error a pod sends about a flow; about anything else only the host may hear, if it has sent that to the pod.
#[inline(never)]
fn error_of_flow<F: FromPod>(pkt: &mut Packet, sender: &Sender, p: &Parsed<F::Addr>) -> Verdict {
    out_of_line(|| {
        let mut related = match related::find_received::<F>(pkt, sender.zone, p) {
            Ok(related) => related,
            Err(reason) => {
                if sender.network.flags & Network::HOST_ACCESS != 0 && is_hosts::<F>(pkt, sender, p) {
                    related::check_direct::<F>(pkt, p)?;
                    return Ok(Verdict::host(sender.network.gateway_ifindex));
                }
                return Err(reason);
            }
        };
        // No error about an error (RFC 1122 section 3.2.2).
        if p.hop_limit <= 1 {
            return Err(DropReason::HopLimit);
        }
        let (to, target, flags) = (related.flow.to(), related.flow.target(), related.flow.flags());
        match target.kind {
            TargetKind::Uplink => {
                related::translate::<F>(pkt, p, &mut related, &to.src)?;
                deliver::to_uplink::<F>(pkt, p, target.id, flags)
            }
            TargetKind::Pod => {
                let (endpoint, network) = deliver::live_endpoint(target.id)?;
                related::translate::<F>(pkt, p, &mut related, &to.src)?;
                deliver::to_endpoint::<F>(pkt, p, target.id, endpoint, network)
            }
        }
    })
}

/// Drops the packet and answers it with an error from the gateway.
#[inline(never)]
fn reject<F: FromPod>(pkt: &mut Packet, sender: &Sender, p: &Parsed<F::Addr>, problem: Problem) -> Verdict {
    out_of_line(|| {
        let answer = Answer {
            problem,
            area: sender.slot,
            src: F::gateway(sender.network),
            dst_mac: sender.endpoint.mac,
            src_mac: sender.network.mac,
        };
        icmp_error::replace::<F>(pkt, p, &answer)?;
        report::count_endpoint_rx(sender.slot, pkt.len_bytes());
        Ok(Verdict::reject(problem.reason(), sender.endpoint.ifindex))
    })
}

/// What the families have different at this hook.
trait FromPod: Family + FamilyMaps + ErrorFormat {
    /// The verdict on a neighbour-discovery message; `None` if it is none.
    fn neighbour_discovery(pkt: &mut Packet, sender: &Sender, p: &Parsed<Self::Addr>) -> Option<Verdict>;
}

impl FromPod for V4 {
    /// IPv4's neighbours are found by ARP. Redirects are a router's business.
    #[inline(always)]
    fn neighbour_discovery(_: &mut Packet, _: &Sender, p: &Parsed<Self::Addr>) -> Option<Verdict> {
        p.is_icmp(IcmpKind::Redirect).then_some(Verdict::drop(DropReason::RouterAdvertisement))
    }
}

impl FromPod for V6 {
    #[inline(always)]
    fn neighbour_discovery(pkt: &mut Packet, sender: &Sender, p: &Parsed<Self::Addr>) -> Option<Verdict> {
        match p.icmp {
            IcmpKind::NeighbourSolicit
            | IcmpKind::NeighbourAdvert
            | IcmpKind::RouterSolicit
            | IcmpKind::RouterAdvert
            | IcmpKind::Redirect => Some(ndp_reply::run(pkt, sender.endpoint, sender.network, p)),
            _ => None,
        }
    }
}
