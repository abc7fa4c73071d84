//! The last steps of every forwarded packet: hop limit, size, link layer.

use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::Family;
use netns_ebpf_common::flow::FlowFlags;
use netns_ebpf_common::network::Network;
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::verdict::{DropReason, Verdict};

use crate::maps;
use crate::packet::{MARK_HAIRPIN, Packet};
use crate::report;
use crate::rewrite::{self, L3_OFF};
use crate::stage::icmp_error::Problem;

/// `GSO_BY_FRAGS` (kernel 4.8, commit ae7ef81ef000): segments of SCTP, each a chunk of its own length, which SCTP has cut to fit
/// its path.
const BY_FRAGS: usize = 0xffff;

/// Whether the packet, or each segment it will be cut into, fits.
#[inline(always)]
pub fn fits<A>(pkt: &Packet, p: &Parsed<A>, mtu_bytes: u32) -> bool {
    let mtu = mtu_bytes as usize;
    if pkt.len_bytes() - L3_OFF <= mtu {
        return true;
    }
    let gso = pkt.gso_size_bytes();
    gso == BY_FRAGS || gso != 0 && p.headers_len_bytes() + gso <= mtu
}

/// What forbids sending the packet on through something with this MTU.
#[inline(always)]
pub fn problem<A>(pkt: &Packet, p: &Parsed<A>, mtu_bytes: u32) -> Option<Problem> {
    if p.hop_limit <= 1 {
        return Some(Problem::HOP_LIMIT);
    }
    if !fits(pkt, p, mtu_bytes) {
        return Some(Problem::too_big(mtu_bytes));
    }
    None
}

/// Into a pod: the caller has seen that there is no [`problem`].
#[inline(always)]
pub fn to_endpoint<F: Family>(
    pkt: &mut Packet,
    p: &Parsed<F::Addr>,
    slot: u32,
    endpoint: &Endpoint,
    network: &Network,
) -> Result<Verdict, DropReason> {
    rewrite::decrement_hop_limit::<F>(pkt, p.hop_limit)?;
    rewrite::link_layer(pkt, endpoint.mac, network.mac)?;
    pkt.clear_notes();
    report::count_endpoint_rx(slot, pkt.len_bytes());
    Ok(Verdict::peer(endpoint.ifindex))
}

/// Out of an uplink; the kernel's neighbour table gives the link layer. What turns back (the flow's `flags` say so) comes in by it
/// instead, marked.
#[inline(always)]
pub fn to_uplink<F: Family>(
    pkt: &mut Packet,
    p: &Parsed<F::Addr>,
    ifindex: u32,
    flags: FlowFlags,
) -> Result<Verdict, DropReason> {
    rewrite::decrement_hop_limit::<F>(pkt, p.hop_limit)?;
    if flags.has(FlowFlags::HAIRPIN) {
        pkt.set_mark(MARK_HAIRPIN);
        return Ok(Verdict::host(ifindex));
    }
    Ok(Verdict::neigh(ifindex))
}

/// The live endpoint in a slot, and its network.
#[inline(always)]
pub fn live_endpoint(slot: u32) -> Result<(&'static Endpoint, &'static Network), DropReason> {
    let endpoint = maps::endpoint(slot).ok_or(DropReason::BackendGone)?;
    let network = maps::network(endpoint.network).ok_or(DropReason::BackendGone)?;
    Ok((endpoint, network))
}
