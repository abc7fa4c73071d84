//! The border to the host's stack: what the kernel would have asked of a packet that a program takes away from it, or gives it.
//!
//! Asked when a flow is opened, of the kernel and not of a copy that may be old; packets of a flow pay nothing for it.

use netns_ebpf_common::abi::{IFINDEX_GATEWAY, MAX_NETWORKS, ZONE_HOST};
use netns_ebpf_common::family::Family;
use netns_ebpf_common::flow::FlowKey;
use netns_ebpf_common::hdr::eth::ethertype;
use netns_ebpf_common::hdr::tcp::flag;
use netns_ebpf_common::host::Uplink;
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
        Way::Out(ifindex) if ifindex != pkt.ifindex() && F::ETHERTYPE == ethertype::IPV4 && is_strict(pkt) => {
            Err(DropReason::Martian)
        }
        Way::Out(_) => Ok(()),
        Way::Host => Err(DropReason::Martian),
        // A route that forbids the answer.
        Way::Nowhere => Err(DropReason::NoRoute),
        // Then the lists have to do.
        Way::Unknown if is_listed::<F>(src) => Err(DropReason::Martian),
        Way::Unknown => Ok(()),
    }
}

/// Whether the host takes by this uplink only what it would answer by it.
#[inline(always)]
fn is_strict(pkt: &Packet) -> bool {
    maps::uplink(pkt.ifindex()).is_some_and(|uplink| uplink.flags & Uplink::STRICT_SOURCE != 0)
}

/// Whether an address is one of the host's or a pod's, as far as that is known here.
#[inline(always)]
fn is_listed<F: FamilyMaps>(addr: <F as Family>::Addr) -> bool {
    maps::is_host_addr::<F>(addr) || maps::slot_by_addr::<F>(ZONE_HOST as u32, addr).is_some()
}

/// Whether a packet to a pod that has opened a flow is for a socket of the host: nobody tells us what the host opens by itself, and it
/// may choose the port of a connection of a pod that has ended, or was never answered. Nor does the kernel show a pod's packet the
/// sockets that are bound to a device, as here it does. The flow is gone then.
///
/// Asked until the two have shown that they talk with each other: of TCP where the segment answers nothing the pod has sent, as one
/// that does has just brought the flow to another state; of UDP until the pod goes on.
#[inline(always)]
pub fn yields_to_host<F: FamilyMaps>(pkt: &Packet, p: &Parsed<<F as Family>::Addr>, flow: FlowRef<F>) -> bool {
    let state = flow.state();
    let asks = match p.l4 {
        L4::Tcp => matches!(state, State::Opening | State::Closed | State::Reset),
        L4::Udp => matches!(state, State::Established),
        _ => false,
    };
    asks && !flow.is_original() && is_for_host::<F>(pkt, p, flow)
}

/// Whether a packet that no flow of a pod is there for is the host's own, although a pod has its port towards others: of a socket of
/// the host, or of another NAT. Of published ports it is only one that is connected to the sender.
#[inline(never)]
pub fn is_hosts_own<F: FamilyMaps>(pkt: &Packet, p: &Parsed<<F as Family>::Addr>, published: bool) -> bool {
    if pkt.has_mark(MARK_HAIRPIN) {
        return false;
    }
    let tcp = match p.l4 {
        L4::Tcp => true,
        L4::Udp => false,
        _ => return false,
    };
    if published {
        return pkt.host_is_connected(tcp, &p.tuple);
    }
    pkt.host_socket(tcp, &p.tuple) || pkt.host_conntrack(p.proto, &p.tuple)
}

#[inline(never)]
fn is_for_host<F: FamilyMaps>(pkt: &Packet, p: &Parsed<<F as Family>::Addr>, flow: FlowRef<F>) -> bool {
    let tcp = matches!(p.l4, L4::Tcp);
    // Of TCP one that merely listens has a part in nothing but a SYN.
    let opens = !tcp || p.tcp.flags & (flag::SYN | flag::ACK) == flag::SYN;
    let is_hosts = if opens { pkt.host_socket(tcp, &p.tuple) } else { pkt.host_is_connected(tcp, &p.tuple) };
    if !is_hosts {
        return false;
    }
    let OnStack(ref key) = OnStack(FlowKey::new(ZONE_HOST, p.proto, p.tuple));
    flow.remove_both(key);
    true
}
