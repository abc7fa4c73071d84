//! Endpoint-independent mappings: finding a pod's, making it, and finding whose a port of the host is.

use netns_ebpf_common::Port;
use netns_ebpf_common::abi::ZONE_HOST;
use netns_ebpf_common::family::Family;
use netns_ebpf_common::flow::{FlowEntry, FlowKey, FlowTuple, TimeoutClass};
use netns_ebpf_common::mapping;
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps, FlowRef, InsertError};
use crate::packet::{Packet, now_ns};
use crate::stage::flow;
use crate::stage::port::{self, Claim, Ports};

/// Gives the flow that is planned the address and port of its source's mapping, which is made if there is none.
#[inline(always)]
pub fn obtain<F: FamilyMaps>(pkt: &Packet, p: &Parsed<<F as Family>::Addr>) -> Result<(), DropReason> {
    if find_own::<F>(p) { Ok(()) } else { make::<F>(pkt, p) }
}

/// Looks for the mapping; `false` if one is to be made.
///
/// The flow stays as it was planned where the uplink of its route has another address than the mapping, which is live as well:
/// nothing but the way out decides which of the two is right.
#[inline(never)]
fn find_own<F: FamilyMaps>(p: &Parsed<<F as Family>::Addr>) -> bool {
    let (Ok(s), Ok(m)) = (maps::opening_flow::<F>(), maps::opening_mapping::<F>()) else { return false };
    m.plan = s.plan;
    mapping::set_inside_key(&mut m.key, s.plan.zone, p.proto, &p.tuple);
    if let Some(inside) = FlowRef::<F>::find(&m.key) {
        let addr = inside.to().src;
        let live = !is_expired(inside, p.proto, now_ns()) && maps::is_host_addr::<F>(addr);
        if live && (addr == s.entry.to.src || matches!(s.plan.ports, Ports::Pool)) {
            return adopt::<F>(inside).is_ok();
        }
        if live {
            s.plan.flags &= !FlowEntry::<F::Addr>::MAPPED;
            return true;
        }
        inside.remove_both(&m.key);
    }
    false
}

/// Takes the mapping's address and port for the flow.
#[inline(always)]
fn adopt<F: FamilyMaps>(inside: FlowRef<F>) -> Result<(), DropReason> {
    let s = maps::opening_flow::<F>()?;
    s.entry.to.src = inside.to().src;
    s.entry.to.sport = inside.to().sport;
    s.plan.ports = Ports::Mapped;
    Ok(())
}

/// Makes it; [`find_own`] has put its key together.
#[inline(never)]
fn make<F: FamilyMaps>(pkt: &Packet, p: &Parsed<<F as Family>::Addr>) -> Result<(), DropReason> {
    let now = now_ns();
    let (s, m) = (maps::opening_flow::<F>()?, maps::opening_mapping::<F>()?);
    // The flow's replies, whose destination the candidates change.
    s.peer_key.tuple.src = p.tuple.dst;
    s.peer_key.tuple.dst = s.entry.to.src;
    s.peer_key.tuple.sport = p.tuple.dport;
    s.peer_key.tuple.dport = p.tuple.sport;

    m.entry.to.dst = F::Addr::default();
    m.entry.to.dport = Port::default();
    m.entry.target = s.plan.target;
    m.entry.peer_zone = ZONE_HOST;
    m.entry.flags = FlowEntry::<F::Addr>::MAPPING | FlowEntry::<F::Addr>::TO_UPLINK | FlowEntry::<F::Addr>::TRANSLATED;
    flow::set_common(&mut m.entry, &m.plan, now);

    mapping::set_outside_key(&mut m.peer_key, p.proto, &s.peer_key.tuple);
    m.peer_entry.to.src = F::Addr::default();
    m.peer_entry.to.dst = p.tuple.src;
    m.peer_entry.to.sport = Port::default();
    m.peer_entry.to.dport = p.tuple.sport;
    m.peer_entry.target = s.plan.owner_slot;
    m.peer_entry.peer_zone = s.plan.zone;
    m.peer_entry.flags = FlowEntry::<F::Addr>::MAPPING | FlowEntry::<F::Addr>::TRANSLATED;
    flow::set_common(&mut m.peer_entry, &m.plan, now);
    port::claim::<F>(pkt, Claim::Mapping)?;

    let m = maps::opening_mapping::<F>()?;
    m.entry.to.src = m.peer_key.tuple.dst;
    m.entry.to.sport = m.peer_key.tuple.dport;
    match FlowRef::<F>::insert(&m.key, &m.entry) {
        Ok(()) => {}
        // Another CPU made it meanwhile: that one is the pod's.
        Err(InsertError::Exists) => {
            FlowRef::<F>::remove(&m.peer_key);
        }
        Err(InsertError::Full) => {
            FlowRef::<F>::remove(&m.peer_key);
            return Err(DropReason::FlowTableFull);
        }
    }
    match FlowRef::<F>::find(&m.key) {
        Some(inside) => adopt::<F>(inside),
        None => Err(DropReason::FlowTableFull),
    }
}

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

/// Whether a mapping's time is over, by either of its entries; one without its inside entry is nobody's.
#[inline(always)]
pub fn is_expired<F: FamilyMaps>(entry: FlowRef<F>, proto: u8, now: u64) -> bool {
    let inside = if entry.flags() & FlowEntry::<F::Addr>::TO_UPLINK != 0 { Some(entry) } else { entry.peer(proto) };
    let Some(inside) = inside else { return true };
    let timeout_ns = maps::timeout_ns(mapping::timeout_class(proto));
    let longest_ns = timeout_ns.max(maps::timeout_ns(TimeoutClass::TcpEstablished));
    mapping::is_expired(inside.last_seen_ns(), inside.mapped_flows(), now, timeout_ns, longest_ns)
}

/// Whether the planned flow could not have the candidate that a mapping's outside `key` has: another flow has it towards this very
/// destination.
#[inline(always)]
pub fn is_taken_towards_destination<F: FamilyMaps>(key: &FlowKey<<F as Family>::Addr>) -> bool {
    let Ok(s) = maps::opening_flow::<F>() else { return true };
    s.peer_key.tuple.dst = key.tuple.dst;
    s.peer_key.tuple.dport = key.tuple.dport;
    s.peer_key.zone = ZONE_HOST;
    s.peer_key.proto = key.proto;
    s.peer_key._pad = 0;
    !flow::reap::<F>(&s.peer_key, now_ns())
}
