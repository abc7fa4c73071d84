//! TC ingress on an uplink: replies to pods, published ports, and everything that is the host's own.
//!
//! Compiled twice: for devices with Ethernet headers (`L3_OFF` is their length) and for those without a link layer (0). There
//! a packet that is a pod's gets an Ethernet header ([`take`]), and from then on both are the same.

use netns_ebpf_common::abi::ZONE_HOST;
use netns_ebpf_common::area::lan_area;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::{Address, Family, Scope, V4, V6, is_loopback};
use netns_ebpf_common::flow::{FlowEntry, FlowKey};
use netns_ebpf_common::hdr::Frame;
use netns_ebpf_common::hdr::eth::{ETH_LEN, EthHdr, ethertype};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::parse::{Fragment, IcmpKind, Parsed};
use netns_ebpf_common::publish::Publish;
use netns_ebpf_common::verdict::{DropReason, Verdict};

use crate::maps::{self, FamilyMaps, FlowRef};
use crate::packet::{Packet, USUAL_HEADERS_BYTES};
use crate::path::settle;
use crate::report;
use crate::rewrite;
use crate::stage::flow::Plan;
use crate::stage::fragment::{self, Piece};
use crate::stage::icmp_error::{self, Answer, ErrorFormat, Problem};
use crate::stage::port::Ports;
use crate::stage::{deliver, flow, mapping, parse, publish, related};

/// Runs the hook.
#[inline(always)]
pub fn run<const L3_OFF: usize>(pkt: &mut Packet) -> Verdict {
    link_layer::<L3_OFF>(pkt).unwrap_or_else(Verdict::drop)
}

/// 1. The EtherType picks the family; what is neither is the host's.
#[inline(always)]
fn link_layer<const L3_OFF: usize>(pkt: &mut Packet) -> Result<Verdict, DropReason> {
    // A tagged frame is a VLAN device's of the host, not the uplink's.
    if pkt.is_tagged() {
        return Ok(Verdict::PASS);
    }
    pkt.pull(USUAL_HEADERS_BYTES)?;
    let ethertype = if L3_OFF == 0 {
        pkt.ethertype()
    } else {
        match pkt.read::<EthHdr>(0) {
            Some(eth) => eth.ethertype(),
            None => return Ok(Verdict::PASS),
        }
    };
    match ethertype {
        ethertype::IPV4 => Ok(internet::<V4, L3_OFF>(pkt)),
        ethertype::IPV6 => Ok(internet::<V6, L3_OFF>(pkt)),
        _ => Ok(Verdict::PASS),
    }
}

/// The way of an IP packet.
#[inline(never)]
fn internet<F: FamilyMaps + ErrorFormat, const L3_OFF: usize>(pkt: &mut Packet) -> Verdict {
    settle(|| {
        // 2. Take it apart. What cannot be is the host's to judge: its own traffic never changes.
        let Ok(p) = parse::at::<F, L3_OFF>(pkt) else { return Ok(Verdict::PASS) };

        // 3. Loopback addresses never come from a wire.
        if is_loopback(&p.tuple.src) || is_loopback(&p.tuple.dst) {
            return Err(DropReason::Martian);
        }
        if !matches!(F::scope(&p.tuple.dst), Scope::Unicast) {
            return Ok(Verdict::PASS);
        }

        // 4. An error about a flow.
        if p.is_icmp(IcmpKind::Error) {
            return Ok(error_of_flow::<F, L3_OFF>(pkt, p));
        }

        // 5. A piece of a datagram gets the ports of the first one, or waits for it.
        if !matches!(p.fragment, Fragment::Whole) {
            let verdict = piece::<F>(pkt, p);
            if verdict != fragment::GO_ON {
                return Ok(verdict);
            }
        }

        // 6. A packet of a flow: replies to pods before published ports, or a published port would swallow them.
        if flow::is_trackable(p)
            && let Some(flow) = flow::find::<F>(ZONE_HOST, p)
        {
            take::<L3_OFF, _>(pkt, p)?;
            return Ok(along_flow::<F>(pkt, p, flow));
        }

        // 7. To the mapping of a pod, or to a published port; the way ends there, or a flow is planned.
        let mut planned = Verdict::PASS;
        if maps::has_mappings() && may_open::<F>(p) {
            planned = to_mapping::<F, L3_OFF>(pkt, p);
        }
        if planned == Verdict::PASS {
            planned = to_published::<F, L3_OFF>(pkt, p);
        }
        if planned != PLANNED {
            return Ok(planned);
        }

        // 8. The planned flow is opened, and the packet goes along it.
        if let Err(reason) = flow::open::<F>(pkt, p, false) {
            report::count_endpoint_rx_drop(maps::opening_flow::<F>()?.plan.owner_slot);
            return Err(reason);
        }
        Ok(along_flow::<F>(pkt, p, flow::opened::<F>()?))
    })
}

/// A flow is planned, in working memory. Nothing from the LAN goes out as it is, so the verdict that says so is free to say this.
const PLANNED: Verdict = Verdict::out(0);

/// Whether this packet may open a flow from the LAN: a pod's answer has to reach the sender. A link-local address is nobody's beyond
/// the link (RFC 4291 section 2.5.6): what comes from one is the host's.
#[inline(always)]
fn may_open<F: Family>(p: &Parsed<F::Addr>) -> bool {
    flow::may_open(p) && matches!(F::scope(&p.tuple.src), Scope::Unicast)
}

/// A flow in by an uplink, to a pod of this slot, that is no publish's and keeps its source port.
#[inline(always)]
fn arriving<F: Family>(pkt: &Packet, slot: u32, endpoint: &Endpoint) -> Plan {
    Plan {
        zone: ZONE_HOST,
        peer_zone: endpoint.network as u16,
        target: slot,
        peer_target: pkt.ifindex(),
        owner_slot: slot,
        publish: FlowEntry::<F::Addr>::NO_OWNER,
        flags: FlowEntry::<F::Addr>::INCOMING,
        peer_flags: FlowEntry::<F::Addr>::TO_UPLINK,
        ports: Ports::Keep,
        _pad: 0,
    }
}

/// To the pod that has a mapping at the destination: with endpoint-independent filtering whoever sends to it opens a flow.
#[inline(never)]
fn to_mapping<F: FamilyMaps, const L3_OFF: usize>(pkt: &mut Packet, p: &mut Parsed<<F as Family>::Addr>) -> Verdict {
    settle(|| {
        let Some(outside) = mapping::at::<F>(p.proto, &p.tuple) else { return Ok(Verdict::PASS) };
        let slot = outside.target();
        let (endpoint, network) = deliver::backend(slot)?;
        if network.flags & Network::OPEN_TO_ALL == 0 {
            if publish::find::<F>(p).is_some() {
                return Ok(Verdict::PASS);
            }
            // No answer either, which would end a simultaneous open (RFC 5382 REQ-4).
            report::count_endpoint_rx_drop(slot);
            return Err(DropReason::Filtered);
        }
        let o = maps::opening_flow::<F>()?;
        let inner = outside.to();
        o.entry.to.src = p.tuple.src;
        o.entry.to.sport = p.tuple.sport;
        o.entry.to.dst = inner.dst;
        o.entry.to.dport = inner.dport;
        o.plan = arriving::<F>(pkt, slot, endpoint);
        o.plan.peer_flags |= FlowEntry::<F::Addr>::MAPPED;
        if maps::is_host_addr::<F>(p.tuple.src) {
            // Another pod's packet, which came back in here.
            o.plan.peer_flags |= FlowEntry::<F::Addr>::TURNS_BACK;
        }
        take::<L3_OFF, _>(pkt, p)?;
        Ok(PLANNED)
    })
}

/// To a published port; the client's address is kept.
#[inline(never)]
fn to_published<F: FamilyMaps + ErrorFormat, const L3_OFF: usize>(
    pkt: &mut Packet,
    p: &mut Parsed<<F as Family>::Addr>,
) -> Verdict {
    settle(|| {
        // Not to the host: straight to a pod's address nobody comes; the rest is the host's to refuse or forward.
        if !maps::is_host_addr::<F>(p.tuple.dst) {
            // Addresses of networks the host has routes to are also listed under the zone of the host.
            return match maps::slot_by_addr::<F>(ZONE_HOST as u32, p.tuple.dst) {
                Some(slot) => {
                    report::count_endpoint_rx_drop(slot);
                    Err(DropReason::NotPublished)
                }
                None => Ok(Verdict::PASS),
            };
        }
        // The middle of a connection nobody knows is the host's, which has no socket there and resets it.
        let Some(found) = publish::find::<F>(p) else { return Ok(Verdict::PASS) };
        if found.publish.flags & Publish::LOOPBACK != 0 || !may_open::<F>(p) {
            return Ok(Verdict::PASS);
        }
        let publish::Backend { slot, endpoint } = publish::backend::<F>(p, &found)?;
        take::<L3_OFF, _>(pkt, p)?;
        if let Some(problem) = deliver::problem(pkt, p, endpoint.mtu_bytes) {
            report::count_endpoint_rx_drop(slot);
            return Ok(reject::<F>(pkt, p, problem));
        }
        let o = maps::opening_flow::<F>()?;
        o.entry.to = p.tuple;
        o.entry.to.dst = *F::endpoint_addr(endpoint);
        o.entry.to.dport = found.port.pod_port;
        o.plan = arriving::<F>(pkt, slot, endpoint);
        o.plan.publish = found.id;
        o.plan.ports = Ports::Prefer;
        Ok(PLANNED)
    })
}

/// The verdict on a piece of a datagram, or [`fragment::GO_ON`].
///
/// One that comes early for an address of the host waits as well, as nobody knows yet whose it is. It does not go up the stack
/// meanwhile: what is a pod's would stay there until it times out, and soon use up the memory for the host's own.
#[inline(never)]
fn piece<F: FamilyMaps>(pkt: &Packet, p: &mut Parsed<<F as Family>::Addr>) -> Verdict {
    settle(|| {
        let area = lan_area(&p.tuple.src);
        let outcome = match fragment::track::<F>(pkt, area, ZONE_HOST, p) {
            Ok(Piece::Known) => return Ok(fragment::GO_ON),
            Ok(Piece::Awaited) => fragment::replay::<F>(pkt, area),
            Ok(Piece::Early)
                if maps::is_host_addr::<F>(p.tuple.dst)
                    || maps::slot_by_addr::<F>(ZONE_HOST as u32, p.tuple.dst).is_some() =>
            {
                fragment::hold::<F>(pkt, area)
            }
            Ok(Piece::Early) => return Ok(Verdict::PASS),
            Err(reason) if is_ours::<F>(p) => return Err(reason),
            Err(_) => return Ok(Verdict::PASS),
        };
        match outcome {
            Ok(()) => Ok(Verdict::HELD),
            // The host puts together what it gets, in any order.
            Err(_) if maps::is_host_addr::<F>(p.tuple.dst) => Ok(Verdict::PASS),
            Err(reason) => Err(reason),
        }
    })
}

/// Whether the packet belongs to a flow, a published port or a mapping that is open to it.
#[inline(always)]
fn is_ours<F: FamilyMaps>(p: &Parsed<<F as Family>::Addr>) -> bool {
    if FlowRef::<F>::find(&FlowKey::new(ZONE_HOST, p.proto, p.tuple)).is_some() {
        return true;
    }
    if maps::has_mappings()
        && let Some(outside) = mapping::at::<F>(p.proto, &p.tuple)
        && deliver::backend(outside.target()).is_ok_and(|(_, network)| network.flags & Network::OPEN_TO_ALL != 0)
    {
        return true;
    }
    maps::is_host_addr::<F>(p.tuple.dst)
        && publish::find::<F>(p).is_some_and(|found| found.publish.flags & Publish::LOOPBACK == 0)
}

/// The packet is no more the stack's: one without a link layer gets room for the pod's.
#[inline(always)]
fn take<const L3_OFF: usize, A>(pkt: &mut Packet, p: &mut Parsed<A>) -> Result<(), DropReason> {
    if L3_OFF == 0 {
        pkt.grow_l2(ETH_LEN)?;
        p.shift(ETH_LEN);
    }
    Ok(())
}

/// To the pod a flow leads to.
#[inline(never)]
fn along_flow<F: FamilyMaps + ErrorFormat>(
    pkt: &mut Packet,
    p: &Parsed<<F as Family>::Addr>,
    flow: FlowRef<F>,
) -> Verdict {
    settle(|| {
        let (to, slot, flags, published) = (flow.to(), flow.target(), flow.flags(), flow.publish());
        if flags & FlowEntry::<F::Addr>::TO_UPLINK != 0 {
            return Err(DropReason::NoFlow);
        }
        let (endpoint, network) = deliver::backend(slot)?;
        if let Some(problem) = deliver::problem(pkt, p, endpoint.mtu_bytes) {
            report::count_endpoint_rx_drop(slot);
            return Ok(reject::<F>(pkt, p, problem));
        }
        if pkt.is_others() && maps::is_host_addr::<F>(p.tuple.src) {
            pkt.adopt()?;
        }
        if published != FlowEntry::<F::Addr>::NO_OWNER {
            maps::count_published(published, pkt.len_bytes());
        }
        if flags & FlowEntry::<F::Addr>::TRANSLATED != 0 {
            rewrite::translate::<F>(pkt, p, to)?;
        }
        deliver::to_endpoint::<F>(pkt, p, slot, endpoint, network)
    })
}

/// An ICMP error from the LAN; one about no flow of ours is the host's.
#[inline(never)]
fn error_of_flow<F: FamilyMaps, const L3_OFF: usize>(pkt: &mut Packet, p: &mut Parsed<<F as Family>::Addr>) -> Verdict {
    settle(|| {
        let Ok(mut related) = related::find::<F>(pkt, ZONE_HOST, p) else { return Ok(Verdict::PASS) };
        let slot = related.flow.target();
        if related.flow.flags() & FlowEntry::<F::Addr>::TO_UPLINK != 0 {
            return Err(DropReason::IcmpUnrelated);
        }
        if p.hop_limit <= 1 {
            return Err(DropReason::HopLimit);
        }
        let (endpoint, network) = deliver::backend(slot)?;
        take::<L3_OFF, _>(pkt, p)?;
        related.shift(rewrite::L3_OFF - L3_OFF);
        // The error's own source stays: it is the router that made it.
        related::translate::<F>(pkt, p, &mut related, &p.tuple.src)?;
        deliver::to_endpoint::<F>(pkt, p, slot, endpoint, network)
    })
}

/// Drops the packet and answers it from the address it was sent to.
#[inline(never)]
fn reject<F: FamilyMaps + ErrorFormat>(pkt: &mut Packet, p: &Parsed<<F as Family>::Addr>, problem: Problem) -> Verdict {
    settle(|| {
        let ifindex = pkt.ifindex();
        let src = match maps::uplink(ifindex) {
            Some(uplink) if !F::uplink_addr(uplink).is_unspecified() => F::uplink_addr(uplink),
            _ => &p.tuple.dst,
        };
        // Zeros, which nobody sees, of a device without a link layer.
        let eth: EthHdr = pkt.read(0).ok_or(DropReason::Malformed)?;
        let area = lan_area(&p.tuple.src);
        let answer = Answer { problem, area, src, dst_mac: eth.src, src_mac: eth.dst };
        icmp_error::replace::<F>(pkt, p, &answer)?;
        if maps::is_host_addr::<F>(p.tuple.src) {
            // The sender is a pod, whose packet came back in here: so does the error.
            return Ok(Verdict::reject_host(problem.reason(), ifindex));
        }
        Ok(Verdict::reject(problem.reason(), ifindex))
    })
}
