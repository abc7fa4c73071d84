//! The next hop of a flow nobody answers: the kernel's own error about it, when it finds none, goes to the host, whose address the
//! packet has by then. So the pod is told here.

use netns_ebpf_common::family::Family;
use netns_ebpf_common::network::Network;
use netns_ebpf_common::parse::Parsed;

use crate::maps::{FamilyMaps, FlowRef};
use crate::packet::{Packet, now_ns};
use crate::stage::route;

/// How long the kernel looks for a neighbour: three times, a second apart (`mcast_solicit` and `retrans_time_ms` of its defaults).
const SEARCH_NS: u64 = 3_000_000_000;

/// Bit of a stamp: what was last asked about the flow was answered with an error. Stamps are even otherwise ([`now_ns`]).
const TOLD: u64 = 1;

/// Whether a packet of an unanswered flow finds no neighbour, a search after the flow was opened or after this was last asked. The next
/// packet goes out in any case, however late it is, and makes the kernel search again.
#[inline(never)]
pub fn is_silent<F: FamilyMaps>(
    pkt: &Packet,
    network: &Network,
    p: &Parsed<<F as Family>::Addr>,
    flow: FlowRef<F>,
) -> bool {
    if !flow.is_original() {
        return false;
    }
    // Nothing has come back: the other entry has the time.
    let Some(reply) = flow.peer(p.proto) else { return false };
    let (now, asked) = (now_ns(), reply.stamp());
    if asked & TOLD != 0 {
        reply.touch(now);
        return false;
    }
    if now.saturating_sub(asked) < SEARCH_NS {
        return false;
    }
    let is_silent = route::lacks_neighbour::<F>(pkt, network, p);
    reply.touch(if is_silent { now | TOLD } else { now });
    is_silent
}
