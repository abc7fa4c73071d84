//! Endpoint-independent mappings: whose a port of the host is, and how long.

use netns_ebpf_common::family::Family;
use netns_ebpf_common::flow::{FlowKey, FlowTuple};
use netns_ebpf_common::mapping;
use netns_ebpf_common::state::TimeoutClass;

use crate::maps::{self, FamilyMaps, FlowRef};
use crate::packet::now_ns;

/// The live mapping a packet is sent to: its outside entry, which leads to the pod.
#[inline(always)]
pub fn at<F: FamilyMaps>(proto: u8, tuple: &FlowTuple<<F as Family>::Addr>) -> Option<FlowRef<F>> {
    let outside = maps::mapping_at::<F>(proto, tuple)?;
    if is_expired(outside, proto, now_ns()) { None } else { Some(outside) }
}

/// Stamps the mapping of a flow's entry with this key.
#[inline(always)]
pub fn stamp<F: FamilyMaps>(key: &FlowKey<<F as Family>::Addr>, now: u64) {
    if let Some(inside) = maps::mapping_of::<F>(key) {
        inside.touch(now);
    }
}

/// Whether a mapping's time is over, by either of its entries, or its pod is gone; one without its inside entry is no pod's.
#[inline(always)]
pub fn is_expired<F: FamilyMaps>(entry: FlowRef<F>, proto: u8, now: u64) -> bool {
    if maps::rests(entry.owner_slot()) {
        return true;
    }
    let inside = if entry.target().is_uplink() { Some(entry) } else { entry.peer(proto) };
    let Some(inside) = inside else { return true };
    let timeout_ns = maps::timeout_ns(mapping::timeout_class(proto));
    let longest_ns = timeout_ns.max(maps::timeout_ns(TimeoutClass::TcpEstablished));
    mapping::is_expired(inside.last_seen_ns(), inside.mapped_flows(), now, timeout_ns, longest_ns)
}
