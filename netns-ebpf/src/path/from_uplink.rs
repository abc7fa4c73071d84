//! TC ingress on an uplink: replies to pods, published ports, and everything that is the host's own.

use netns_ebpf_common::abi::ZONE_HOST;
use netns_ebpf_common::family::{Address, Family, Scope, V4, V6};
use netns_ebpf_common::flow::{FlowEntry, FlowTuple};
use netns_ebpf_common::hdr::Frame;
use netns_ebpf_common::hdr::eth::{EthHdr, ethertype};
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
use crate::stage::{deliver, flow, fragment, publish, related};

/// Runs the hook.
#[inline(always)]
pub fn run(pkt: &mut Packet) -> Verdict {
    link_layer(pkt).unwrap_or_else(Verdict::Drop)
}

/// 1. The EtherType picks the family; what is neither is the host's.
#[inline(always)]
fn link_layer(pkt: &mut Packet) -> Result<Verdict, DropReason> {
    pkt.pull_headers()?;
    let Some(eth) = pkt.read::<EthHdr>(0) else { return Ok(Verdict::Pass) };
    match eth.ethertype() {
        ethertype::IPV4 => internet::<V4>(pkt, eth),
        ethertype::IPV6 => internet::<V6>(pkt, eth),
        _ => Ok(Verdict::Pass),
    }
}

/// The way of an IP packet.
#[inline(never)]
fn internet<F: FamilyMaps + ErrorFormat>(pkt: &mut Packet, eth: EthHdr) -> Result<Verdict, DropReason> {
    // 2. Take it apart. What cannot be is the host's to judge: its own traffic never changes.
    let Ok(mut p) = F::parse(pkt, rewrite::L3_OFF, pkt.len_bytes()) else { return Ok(Verdict::Pass) };

    // 3. Loopback addresses never come from a wire.
    if is_loopback::<F>(p.tuple.src) || is_loopback::<F>(p.tuple.dst) {
        return Err(DropReason::Martian);
    }
    if !matches!(F::scope(p.tuple.dst), Scope::Unicast) {
        return Ok(Verdict::Pass);
    }

    // 4. An error about a flow.
    if matches!(p.l4, L4::Icmp(IcmpKind::Error)) {
        return error_of_flow::<F>(pkt, &p);
    }

    // 5. A packet of a flow: replies to pods before published ports, or a published port would swallow them.
    if fragment::track::<F>(ZONE_HOST, &mut p).is_ok()
        && flow::is_trackable(&p)
        && let Some(flow) = flow::find::<F>(ZONE_HOST, &p)?
    {
        return along_flow::<F>(pkt, &p, eth, flow);
    }

    // 6. Not to the host: straight to a pod's address nobody comes; the rest is the host's to refuse or forward.
    if !maps::is_host_addr::<F>(p.tuple.dst) {
        // Addresses of networks the host has routes to are also listed under the zone of the host.
        return match maps::slot_by_addr::<F>(ZONE_HOST as u32, p.tuple.dst) {
            Some(slot) => {
                report::count_endpoint_rx_drop(slot);
                Err(DropReason::NotPublished)
            }
            None => Ok(Verdict::Pass),
        };
    }

    // 7. A published port.
    match publish::find::<F>(&p) {
        Some(found) => to_published::<F>(pkt, &p, eth, &found),
        None => Ok(Verdict::Pass),
    }
}

/// To the pod a flow leads to.
#[inline(never)]
fn along_flow<F: FamilyMaps + ErrorFormat>(
    pkt: &mut Packet,
    p: &Parsed<<F as Family>::Addr>,
    eth: EthHdr,
    flow: FlowRef<F>,
) -> Result<Verdict, DropReason> {
    let (to, slot, flags, published) = (flow.to(), flow.target(), flow.flags(), flow.publish());
    if flags & FlowEntry::<F::Addr>::TO_UPLINK != 0 {
        return Err(DropReason::NoFlow);
    }
    let (endpoint, network) = deliver::backend(slot)?;
    if let Some(problem) = deliver::problem(pkt, p, endpoint.mtu_bytes) {
        report::count_endpoint_rx_drop(slot);
        return reject::<F>(pkt, p, eth, problem);
    }
    if published != FlowEntry::<F::Addr>::NO_OWNER {
        let len_bytes = pkt.len_bytes();
        maps::with_publish_stats(published, |s| {
            s.packets += 1;
            s.bytes += len_bytes as u64;
        });
    }
    if flags & FlowEntry::<F::Addr>::TRANSLATED != 0 {
        rewrite::translate::<F>(pkt, p, &to)?;
    }
    deliver::to_endpoint::<F>(pkt, p, slot, endpoint, network)
}

/// A new flow to a published port; the client's address is kept.
#[inline(never)]
fn to_published<F: FamilyMaps + ErrorFormat>(
    pkt: &mut Packet,
    p: &Parsed<<F as Family>::Addr>,
    eth: EthHdr,
    found: &publish::Match,
) -> Result<Verdict, DropReason> {
    if found.publish.flags & Publish::LOOPBACK != 0 {
        return Ok(Verdict::Pass);
    }
    if found.publish.flags & Publish::ACTIVE == 0 {
        return Err(DropReason::Draining);
    }
    if !flow::may_open(p) {
        // The middle of a connection nobody knows: the host has no socket on the port and resets it.
        return Ok(Verdict::Pass);
    }
    let slot = found.publish.slot;
    let (endpoint, network) = deliver::backend(slot)?;
    let pod = F::endpoint_addr(endpoint);
    if pod.is_unspecified() {
        return Err(DropReason::BackendGone);
    }
    if let Some(problem) = deliver::problem(pkt, p, endpoint.mtu_bytes) {
        report::count_endpoint_rx_drop(slot);
        return reject::<F>(pkt, p, eth, problem);
    }
    let flow = flow::open::<F>(
        pkt,
        p,
        &Opening {
            zone: ZONE_HOST,
            peer_zone: endpoint.network as u16,
            to: FlowTuple { dst: pod, dport: found.port.pod_port, ..p.tuple },
            target: slot,
            to_uplink: false,
            peer_target: pkt.ifindex(),
            peer_to_uplink: true,
            owner_slot: slot,
            publish: found.id,
            ports: Ports::Prefer,
        },
    )?;
    let len_bytes = pkt.len_bytes();
    maps::with_publish_stats(found.id, |s| {
        s.flows += 1;
        s.packets += 1;
        s.bytes += len_bytes as u64;
    });
    rewrite::translate::<F>(pkt, p, &flow.to())?;
    deliver::to_endpoint::<F>(pkt, p, slot, endpoint, network)
}

/// An ICMP error from the LAN; one about no flow of ours is the host's.
#[inline(never)]
fn error_of_flow<F: FamilyMaps>(pkt: &mut Packet, p: &Parsed<<F as Family>::Addr>) -> Result<Verdict, DropReason> {
    let Ok(related) = related::find::<F>(pkt, ZONE_HOST, p) else { return Ok(Verdict::Pass) };
    let slot = related.flow.target();
    if related.flow.flags() & FlowEntry::<F::Addr>::TO_UPLINK != 0 {
        return Err(DropReason::IcmpUnrelated);
    }
    if p.hop_limit <= 1 {
        return Err(DropReason::HopLimit);
    }
    let (endpoint, network) = deliver::backend(slot)?;
    // The error's own source stays: it is the router that made it.
    related::translate::<F>(pkt, p, &related, p.tuple.src)?;
    deliver::to_endpoint::<F>(pkt, p, slot, endpoint, network)
}

/// Drops the packet and answers it from the address it was sent to.
#[inline(never)]
fn reject<F: FamilyMaps + ErrorFormat>(
    pkt: &mut Packet,
    p: &Parsed<<F as Family>::Addr>,
    eth: EthHdr,
    problem: Problem,
) -> Result<Verdict, DropReason> {
    let ifindex = pkt.ifindex();
    let src = match maps::uplink(ifindex) {
        Some(uplink) if !F::uplink_addr(uplink).is_unspecified() => F::uplink_addr(uplink),
        _ => p.tuple.dst,
    };
    let answer = Answer { problem, src, dst_mac: eth.src, src_mac: eth.dst };
    icmp_error::replace::<F>(pkt, p, &answer)?;
    Ok(Verdict::Reject(problem.reason(), ifindex))
}

/// 127/8 or `::1`.
#[inline(always)]
fn is_loopback<F: Family>(addr: F::Addr) -> bool {
    let first = addr.word(0);
    if F::Addr::WORDS == 1 {
        return first[0] == 127;
    }
    let high = u32::from_ne_bytes(first) | u32::from_ne_bytes(addr.word(1)) | u32::from_ne_bytes(addr.word(2));
    high == 0 && addr.word(3) == [0, 0, 0, 1]
}
