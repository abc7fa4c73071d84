//! TC ingress on an uplink: replies to pods, mappings, published ports, and everything that is the host's own.
//!
//! Compiled twice: for devices with Ethernet headers (`L3_OFF` is their length) and for those without a link layer (0). There
//! a packet that is a pod's gets an Ethernet header ([`take`]), and from then on both are the same.

use netns_ebpf_common::Mac;
use netns_ebpf_common::abi::ZONE_HOST;
use netns_ebpf_common::area::lan_area;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::{Address, Family, Scope, V4, V6, is_loopback};
use netns_ebpf_common::flow::{FlowEntry, FlowFlags, FlowKey};
use netns_ebpf_common::hdr::Frame;
use netns_ebpf_common::hdr::eth::{ETH_LEN, EthHdr, ethertype};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::opening::{Opening, Plan, Ports};
use netns_ebpf_common::parse::{Fragment, IcmpKind, Parsed};
use netns_ebpf_common::publish::Publish;
use netns_ebpf_common::verdict::{DropReason, Kind, Next, Verdict};

use crate::maps::{self, FamilyMaps, FlowRef};
use crate::packet::{MARK_HAIRPIN, MARK_HOSTS, Packet, USUAL_HEADERS_BYTES, now_ns};
use crate::path::{may_go_on, out_of_line};
use crate::report;
use crate::rewrite;
use crate::stage::fragment::{self, Piece};
use crate::stage::icmp_error::{self, Answer, ErrorFormat, Problem};
use crate::stage::opening::{self, border};
use crate::stage::{deliver, flow, mapping, parse, publish, related};

/// Runs the hook.
#[inline(always)]
pub fn run<const L3_OFF: usize>(pkt: &mut Packet) -> Verdict {
    let verdict = link_layer::<L3_OFF>(pkt).unwrap_or_else(Verdict::drop);
    // A pod's packet that was sent back to a pod that is not there any more is not the host's: it has the host's own source.
    if matches!(verdict.kind(), Kind::Pass) && pkt.has_mark(MARK_HAIRPIN) {
        return Verdict::drop(DropReason::NoFlow);
    }
    verdict
}

/// What there is to do below IP.
#[inline(always)]
fn link_layer<const L3_OFF: usize>(pkt: &mut Packet) -> Result<Verdict, DropReason> {
    // 1. The EtherType picks the family. What is neither is the host's.
    // A tagged frame is a VLAN device's of the host, not the uplink's; one for another station is nobody's here, and one for all
    // stations the host's to judge.
    if pkt.is_tagged() || L3_OFF != 0 && !pkt.is_to_this_host() && !pkt.has_mark(MARK_HAIRPIN) {
        return Ok(Verdict::PASS);
    }
    if pkt.has_mark(MARK_HOSTS) {
        pkt.set_mark(0);
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
    out_of_line(|| {
        // 2. The packet is taken apart. What cannot be is the host's to judge: its own traffic never changes.
        let Ok(p) = parse::at::<F, L3_OFF>(pkt) else { return Ok(Verdict::PASS) };

        // 3. Loopback addresses are dropped, and multicast is the host's. The former never come from a wire.
        if is_loopback(&p.tuple.src) || is_loopback(&p.tuple.dst) {
            return Err(DropReason::Martian);
        }
        if !matches!(F::scope(&p.tuple.dst), Scope::Unicast) {
            return Ok(Verdict::PASS);
        }

        // 4. An ICMP error about a flow is translated.
        if p.is_icmp(IcmpKind::Error) {
            return Ok(error_of_flow::<F, L3_OFF>(pkt, p));
        }

        // 5. A fragment gets the ports of the first one, or waits for it.
        if !matches!(p.fragment, Fragment::Whole)
            && let Some(verdict) = piece::<F>(pkt, p).ended()
        {
            return Ok(verdict);
        }

        // 6. A packet of a flow goes along it. Replies to pods come before published ports, or those would swallow them.
        if flow::is_trackable(p)
            && let Some(flow) = flow::find::<F>(ZONE_HOST, p)
        {
            flow::check_flags(p)?;
            if border::yields_to_host::<F>(pkt, p, flow) {
                return Ok(Verdict::PASS);
            }
            if p.is_icmp(IcmpKind::EchoReply) && matches!(p.fragment, Fragment::Whole) {
                copy_to_host(pkt, flow.owner_slot())?;
            }
            take::<F, L3_OFF>(pkt, p)?;
            return Ok(along_flow::<F>(pkt, p, flow));
        }

        // 7. For a mapping or a published port a flow is planned. Anything else is the host's.
        let o = maps::opening::<F>()?;
        if let Some(verdict) = to_pod::<F, L3_OFF>(pkt, p, o).ended() {
            return Ok(verdict);
        }

        // 8. The planned flow is opened, and the packet goes along it.
        match opening::open::<F, false>(pkt, p, o) {
            Ok(flow) => Ok(along_flow::<F>(pkt, p, flow)),
            Err(reason) => {
                report::count_endpoint_rx_drop(o.plan.owner_slot);
                Err(reason)
            }
        }
    })
}

/// Whether this packet may open a flow from the LAN: a pod's answer has to reach the sender. A link-local address means nothing
/// beyond the link (RFC 4291 section 2.5.6): what comes from one is the host's.
#[inline(always)]
fn may_open<F: Family>(p: &Parsed<F::Addr>) -> bool {
    flow::may_open(p) && matches!(F::scope(&p.tuple.src), Scope::Unicast)
}

/// A pod's answer may have the identifier of a ping of the host's own, which has no socket that could be looked up: the host sees
/// every answer, and ignores those that are not its. Of one in pieces it would wait for the rest, take up memory and complain to
/// the sender in the end, so it sees none of that.
///
/// Rationed for each pod, as errors are: another program may take the mark off, by which a copy is known.
#[inline(always)]
fn copy_to_host(pkt: &mut Packet, slot: u32) -> Result<(), DropReason> {
    if pkt.has_mark(MARK_HAIRPIN) || !maps::area(slot)?.may_copy(now_ns()) {
        return Ok(());
    }
    pkt.set_mark(MARK_HOSTS);
    // The queue of packets that come in may be full: a ping is lost, as if on the wire.
    let _lost = pkt.clone_to_ingress(pkt.ifindex());
    pkt.set_mark(0);
    // The copy may have moved the packet's memory.
    pkt.pull(USUAL_HEADERS_BYTES)
}

/// To a pod, by its mapping or a published port, or up to the host.
#[inline(never)]
fn to_pod<F: FamilyMaps + ErrorFormat, const L3_OFF: usize>(
    pkt: &mut Packet,
    p: &mut Parsed<<F as Family>::Addr>,
    o: &mut Opening<<F as Family>::Addr>,
) -> Next {
    may_go_on(|| {
        if maps::has_mappings()
            && may_open::<F>(p)
            && let Some(outside) = mapping::at::<F>(p.proto, &p.tuple)
        {
            if border::is_hosts_own::<F>(pkt, p, false) {
                return Ok(Next::end(Verdict::PASS));
            }
            let (endpoint, network) = deliver::live_endpoint(outside.target().id)?;
            if network.flags & Network::OPEN_TO_ALL != 0 {
                border::check_source::<F>(pkt, network, p)?;
                return to_mapping::<F, L3_OFF>(pkt, p, o, outside, endpoint);
            }
            if publish::find::<F>(p).is_none() {
                // No answer either, which would end a simultaneous open (RFC 5382 REQ-4).
                report::count_endpoint_rx_drop(outside.target().id);
                return Err(DropReason::Filtered);
            }
        }
        to_published::<F, L3_OFF>(pkt, p, o)
    })
}

/// To the pod that has a mapping at the destination: with endpoint-independent filtering whoever sends to it opens a flow.
#[inline(always)]
fn to_mapping<F: FamilyMaps, const L3_OFF: usize>(
    pkt: &mut Packet,
    p: &mut Parsed<<F as Family>::Addr>,
    o: &mut Opening<<F as Family>::Addr>,
    outside: FlowRef<F>,
    endpoint: &Endpoint,
) -> Result<Next, DropReason> {
    let (inner, to) = (outside.to(), &mut o.flow.entry.to);
    to.src.set(&p.tuple.src);
    to.sport = p.tuple.sport;
    to.dst.set(&inner.dst);
    to.dport = inner.dport;
    o.plan = Plan::arriving(pkt.ifindex(), outside.target().id, endpoint.network as u16);
    o.plan.peer_flags = FlowFlags::MAPPED;
    if pkt.has_mark(MARK_HAIRPIN) {
        // Another pod's packet: the answers come back in here, too.
        o.plan.peer_flags = o.plan.peer_flags.with(FlowFlags::HAIRPIN);
    }
    take::<F, L3_OFF>(pkt, p)?;
    Ok(Next::GO_ON)
}

/// To a published port; the client's address is kept.
#[inline(always)]
fn to_published<F: FamilyMaps + ErrorFormat, const L3_OFF: usize>(
    pkt: &mut Packet,
    p: &mut Parsed<<F as Family>::Addr>,
    o: &mut Opening<<F as Family>::Addr>,
) -> Result<Next, DropReason> {
    // Not to the host: nobody comes straight to a pod's address; the rest is the host's to refuse or forward.
    if !maps::is_host_addr::<F>(p.tuple.dst) {
        // Addresses of networks the host has routes to are also listed under the zone of the host.
        return match maps::slot_by_addr::<F>(ZONE_HOST as u32, p.tuple.dst) {
            Some(slot) => {
                report::count_endpoint_rx_drop(slot);
                Err(DropReason::NotPublished)
            }
            None => Ok(Next::end(Verdict::PASS)),
        };
    }
    // The middle of a connection nobody knows is the host's, which has no socket there and resets it.
    let Some(found) = publish::find::<F>(p) else { return Ok(Next::end(Verdict::PASS)) };
    if found.publish.flags & Publish::LOOPBACK != 0 || !may_open::<F>(p) {
        return Ok(Next::end(Verdict::PASS));
    }
    if border::is_hosts_own::<F>(pkt, p, true) {
        return Ok(Next::end(Verdict::PASS));
    }
    let publish::Backend { slot, endpoint } = publish::backend::<F>(p, &found)?;
    let network = maps::network(endpoint.network).ok_or(DropReason::BackendGone)?;
    border::check_source::<F>(pkt, network, p)?;
    take::<F, L3_OFF>(pkt, p)?;
    if let Some(problem) = deliver::problem(pkt, p, endpoint.mtu_bytes) {
        report::count_endpoint_rx_drop(slot);
        return Ok(Next::end(reject::<F>(pkt, p, problem)));
    }
    o.flow.entry.to.set(&p.tuple);
    o.flow.entry.to.dst.set(F::endpoint_addr(endpoint));
    o.flow.entry.to.dport = found.port.pod_port;
    o.plan = Plan::arriving(pkt.ifindex(), slot, endpoint.network as u16);
    o.plan.publish = found.id;
    o.plan.ports = Ports::Prefer;
    Ok(Next::GO_ON)
}

/// What becomes of a fragment: its way ends, or it goes on with the ports filled in.
///
/// One that comes early for an address of the host waits as well, as nobody knows yet whose it is. It does not go up the stack
/// meanwhile: what is a pod's would stay there until it times out, and soon use up the memory for the host's own.
#[inline(never)]
fn piece<F: FamilyMaps>(pkt: &Packet, p: &mut Parsed<<F as Family>::Addr>) -> Next {
    may_go_on(|| {
        let area = lan_area(&p.tuple.src);
        let outcome = match fragment::track::<F>(pkt, area, ZONE_HOST, p) {
            Ok(Piece::Known) => return Ok(Next::GO_ON),
            Ok(Piece::Awaited) => fragment::replay::<F>(pkt, area),
            Ok(Piece::Early)
                if maps::is_host_addr::<F>(p.tuple.dst)
                    || maps::slot_by_addr::<F>(ZONE_HOST as u32, p.tuple.dst).is_some() =>
            {
                fragment::hold::<F>(pkt, area)
            }
            Ok(Piece::Early) => return Ok(Next::end(Verdict::PASS)),
            Err(reason) if is_ours::<F>(p) => return Err(reason),
            Err(_) => return Ok(Next::end(Verdict::PASS)),
        };
        match outcome {
            Ok(()) => Ok(Next::end(Verdict::HELD)),
            // The host puts together what it gets, in any order.
            Err(_) if maps::is_host_addr::<F>(p.tuple.dst) => Ok(Next::end(Verdict::PASS)),
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
        && deliver::live_endpoint(outside.target().id)
            .is_ok_and(|(_, network)| network.flags & Network::OPEN_TO_ALL != 0)
    {
        return true;
    }
    maps::is_host_addr::<F>(p.tuple.dst)
        && publish::find::<F>(p).is_some_and(|found| found.publish.flags & Publish::LOOPBACK == 0)
}

/// The packet is not the stack's any more: one without a link layer gets an Ethernet header.
#[inline(always)]
fn take<F: Family, const L3_OFF: usize>(pkt: &mut Packet, p: &mut Parsed<F::Addr>) -> Result<(), DropReason> {
    if L3_OFF == 0 {
        pkt.grow_l2(ETH_LEN)?;
        // The stack knows it already; who looks at the frame in the pod does not.
        pkt.write(0, EthHdr::new(Mac([0; 6]), Mac([0; 6]), F::ETHERTYPE))?;
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
    out_of_line(|| {
        let (to, target, flags, published) = (flow.to(), flow.target(), flow.flags(), flow.publish());
        if target.is_uplink() {
            return Err(DropReason::NoFlow);
        }
        let slot = target.id;
        let (endpoint, network) = deliver::live_endpoint(slot)?;
        if let Some(problem) = deliver::problem(pkt, p, endpoint.mtu_bytes) {
            report::count_endpoint_rx_drop(slot);
            return Ok(reject::<F>(pkt, p, problem));
        }
        if pkt.has_mark(MARK_HAIRPIN) {
            pkt.adopt()?;
        }
        if published != FlowEntry::<F::Addr>::NO_OWNER {
            maps::count_published(published, pkt.len_bytes());
        }
        if flags.has(FlowFlags::TRANSLATED) {
            rewrite::translate::<F>(pkt, p, to)?;
        }
        deliver::to_endpoint::<F>(pkt, p, slot, endpoint, network)
    })
}

/// An ICMP error from the LAN; one about no flow of ours is the host's.
#[inline(never)]
fn error_of_flow<F: FamilyMaps, const L3_OFF: usize>(pkt: &mut Packet, p: &mut Parsed<<F as Family>::Addr>) -> Verdict {
    out_of_line(|| {
        let Ok(mut related) = related::find::<F>(pkt, ZONE_HOST, p) else { return Ok(Verdict::PASS) };
        let target = related.flow.target();
        if target.is_uplink() {
            return Err(DropReason::IcmpUnrelated);
        }
        if p.hop_limit <= 1 {
            return Err(DropReason::HopLimit);
        }
        let (endpoint, network) = deliver::live_endpoint(target.id)?;
        take::<F, L3_OFF>(pkt, p)?;
        related.shift(rewrite::L3_OFF - L3_OFF);
        if pkt.has_mark(MARK_HAIRPIN) {
            pkt.adopt()?;
        }
        // The error's own source stays: it is the router that made it.
        related::translate::<F>(pkt, p, &mut related, &p.tuple.src)?;
        deliver::to_endpoint::<F>(pkt, p, target.id, endpoint, network)
    })
}

/// Drops the packet and answers it from the address it was sent to.
#[inline(never)]
fn reject<F: FamilyMaps + ErrorFormat>(pkt: &mut Packet, p: &Parsed<<F as Family>::Addr>, problem: Problem) -> Verdict {
    out_of_line(|| {
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
        if pkt.has_mark(MARK_HAIRPIN) {
            // The sender is a pod, whose packet came back in here: so does the error, marked as that is.
            return Ok(Verdict::reject_host(problem.reason(), ifindex));
        }
        Ok(Verdict::reject(problem.reason(), ifindex))
    })
}
