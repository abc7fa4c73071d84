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

/// After this time nobody knows what came of the search of the last packet: the kernel forgets neighbours that are there, too.
const KNOWN_NS: u64 = 20_000_000_000;

/// Bit of a stamp: when the flow was last asked about, its neighbour was there. Stamps are even otherwise ([`now_ns`]).
const THERE: u64 = 1;

/// Whether a packet of an unanswered flow finds no neighbour, a search after one that went out without one: so the search it began was
/// in vain. Where the last one had a neighbour, or was long ago, this one goes out and begins a search; so does the one after a refusal.
#[inline(never)]
pub fn is_silent<F: FamilyMaps>(
    pkt: &Packet,
    network: &Network,
    p: &Parsed<<F as Family>::Addr>,
    flow: FlowRef<F>,
) -> bool {
    // A stream of datagrams nobody answers pays for no more.
    if !flow.is_original() || !flow.is_first_of_its_tick() {
        return false;
    }
    // Nothing has come back: the other entry has the time.
    let Some(reply) = flow.peer(p.proto) else { return false };
    let (now, asked) = (now_ns(), reply.stamp());
    let age_ns = now.saturating_sub(asked);
    if age_ns < SEARCH_NS {
        return false;
    }
    let is_there = !route::lacks_neighbour::<F>(pkt, network, p);
    let is_silent = !is_there && asked & THERE == 0 && age_ns <= KNOWN_NS;
    reply.set_stamp(match (is_there, is_silent) {
        (true, _) => now | THERE,
        // As long ago as makes the next packet search.
        (false, true) => now.saturating_sub(KNOWN_NS + 2),
        (false, false) => now,
    });
    is_silent
}
