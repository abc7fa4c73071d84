//! The border to the host's stack: what the kernel would have asked of a packet that a program takes away from it, or gives it.
//!
//! Asked when a flow is opened, of the kernel and not of a copy that may be old; packets of a flow pay nothing for it.

use netns_ebpf_common::abi::{IFINDEX_GATEWAY, MAX_NETWORKS, ZONE_HOST};
use netns_ebpf_common::family::Family;
use netns_ebpf_common::flow::FlowKey;
use netns_ebpf_common::hdr::tcp::flag;
use netns_ebpf_common::network::Network;
use netns_ebpf_common::parse::{L4, Parsed};
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps, FlowRef};
use crate::packet::{MARK_HAIRPIN, Packet};
use crate::stage::flow::OnStack;
use crate::stage::route::{self, Way};

/// Whether the packet's destination is the host's own at this moment: an address may have moved to another machine, and what is
/// given to the stack all the same would be forwarded there with a pod's source.
#[inline(never)]
pub fn is_hosts<F: FamilyMaps>(pkt: &Packet, network: &Network, p: &Parsed<<F as Family>::Addr>) -> bool {
    // Who asks has found it in the list.
    matches!(route::look_up::<F>(pkt, network, p.proto, &p.tuple.src, &p.tuple.dst), Way::Host | Way::Unknown)
}

/// Whether a packet from an uplink may open a flow to a pod of `network`, as far as its source goes: none comes from a wire with an
/// address of the host, of a pod or a gateway, with a broadcast address, or from where no answer reaches (what `fib_validate_source`
/// refuses whatever `rp_filter` says, and more). A pod's own packet may that has been sent back here.
#[inline(never)]
pub fn check_source<F: FamilyMaps>(
    pkt: &Packet,
    network: &Network,
    p: &Parsed<<F as Family>::Addr>,
) -> Result<(), DropReason> {
    if pkt.has_mark(MARK_HAIRPIN) {
        return Ok(());
    }
    let src = p.tuple.src;
    match route::look_up::<F>(pkt, network, p.proto, &p.tuple.dst, &src) {
        // Into a network of pods.
        Way::Out(ifindex) if ifindex.wrapping_sub(IFINDEX_GATEWAY) < MAX_NETWORKS => Err(DropReason::Martian),
        Way::Out(_) => Ok(()),
        Way::Host => Err(DropReason::Martian),
        // A route that forbids the answer.
        Way::Nowhere => Err(DropReason::NoRoute),
        // Then the lists have to do.
        Way::Unknown if is_listed::<F>(src) => Err(DropReason::Martian),
        Way::Unknown => Ok(()),
    }
}

/// Whether an address is one of the host's or a pod's, as far as that is known here.
#[inline(always)]
fn is_listed<F: FamilyMaps>(addr: <F as Family>::Addr) -> bool {
    maps::is_host_addr::<F>(addr) || maps::slot_by_addr::<F>(ZONE_HOST as u32, addr).is_some()
}

/// Whether a packet along a pod's flow is the answer to a SYN of the host's own: nobody tells us what the host opens by itself, and
/// it may choose the port of a connection of a pod that has ended, or was never answered. That is gone then.
#[inline(always)]
pub fn yields_to_host<F: FamilyMaps>(pkt: &Packet, p: &Parsed<<F as Family>::Addr>, flow: FlowRef<F>) -> bool {
    const SYN_ACK: u8 = flag::SYN | flag::ACK;
    // One that answers the pod has just brought its flow to another state.
    matches!(p.l4, L4::Tcp)
        && p.tcp.flags & SYN_ACK == SYN_ACK
        && matches!(flow.state(), State::Opening | State::Closed | State::Reset)
        && is_for_host::<F>(pkt, p, flow)
}

#[inline(never)]
fn is_for_host<F: FamilyMaps>(pkt: &Packet, p: &Parsed<<F as Family>::Addr>, flow: FlowRef<F>) -> bool {
    if !pkt.host_connects(&p.tuple) {
        return false;
    }
    let OnStack(ref key) = OnStack(FlowKey::new(ZONE_HOST, p.proto, p.tuple));
    flow.remove_both(key);
    true
}
