//! Chooses the source port of a new flow and claims it, in one step, by inserting the reply's entry.

use core::marker::PhantomData;

use netns_ebpf_common::Port;
use netns_ebpf_common::flow::{FlowKey, proto};
use netns_ebpf_common::port::candidate;
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps, FlowRef, InsertError, OpeningFlow};
use crate::packet::{self, Packet, Steps, now_ns};
use crate::stage::{flow, mapping, publish};

/// How a flow gets its source port.
#[derive(Clone, Copy)]
pub enum Ports {
    /// As it is: nothing is translated.
    Keep,
    /// As it is if nobody has it towards this destination, else another of the range; the client's address stays.
    Prefer,
    /// One of the range, as it is if it lies in it and is free: the address is the host's, so its sockets are asked too.
    HostRange,
    /// The same, of the pool of the opener's network: its next address when one has no port left towards the destination.
    Pool,
    /// That of the opener's mapping, in the range or not; as with [`Self::HostRange`] if another flow has it towards this very
    /// destination.
    Mapped,
}

/// What a port is searched for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// A flow: [`maps::opening_flow`].
    Flow,
    /// A mapping: [`maps::opening_mapping`], for the flow of [`maps::opening_flow`], towards whose destination the port must be
    /// free too.
    Mapping,
}

#[inline(always)]
fn opening<F: FamilyMaps>(claim: Claim) -> Result<&'static mut OpeningFlow<F::Addr>, DropReason> {
    match claim {
        Claim::Flow => maps::opening_flow::<F>(),
        Claim::Mapping => maps::opening_mapping::<F>(),
    }
}

/// A search for a port, one candidate a step: the flow's own first if it is allowed, then the range; with a pool, the same
/// again for each further address.
#[repr(C)]
pub struct Search {
    /// Where the search starts in the range.
    start: u32,
    /// The next candidate: 0 is the flow's own, then the range's.
    next: u32,
    /// The first candidate of an address: 1 if the flow's own port is not allowed.
    first: u32,
    /// The last one: ports in the range.
    last: u32,
    /// Addresses left to search, the present one included.
    addrs: u32,
    /// How far the present address is in the pool from the opener's own.
    addr: u32,
    /// First port of the range.
    min: u16,
    /// Last port of the range.
    max: u16,
    /// The flow's own port.
    own: u16,
    /// Ask the host's sockets too.
    ask_host: bool,
    outcome: Outcome,
}

/// How a search ended.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Outcome {
    /// It has not found a free port.
    None,
    /// The port in the reply's key is claimed.
    Claimed,
    /// The table has no room.
    Full,
}

/// The search in working memory.
struct Candidates<F> {
    claim: Claim,
    family: PhantomData<F>,
}

impl<F: FamilyMaps> Steps for Candidates<F> {
    #[inline(always)]
    fn step(&mut self, pkt: &Packet) -> bool {
        let Ok(s) = opening::<F>(self.claim) else { return true };
        if s.search.next > s.search.last {
            s.search.addrs = s.search.addrs.wrapping_sub(1);
            s.search.addr = s.search.addr.wrapping_add(1);
            if s.search.addrs == 0 {
                return true;
            }
            let Some(pool) = maps::snat_pool::<F>(u32::from(s.plan.zone)) else { return true };
            let Some(addr) = pool.addr(s.plan.owner_slot.wrapping_add(s.search.addr)) else { return true };
            s.peer_key.tuple.dst = addr;
            s.search.next = s.search.first;
        }
        let port = match s.search.next.checked_sub(1) {
            None => s.search.own,
            Some(i) => match candidate(s.search.min, s.search.max, s.search.own, s.search.start, i) {
                Some(port) => port,
                None => return true,
            },
        };
        s.peer_key.tuple.dport = Port::new(port);
        s.search.next = s.search.next.wrapping_add(1);
        match insert::<F>(&s.peer_key, s) {
            Ok(()) if s.search.ask_host && is_somebodys::<F>(pkt, s, self.claim) => {
                FlowRef::<F>::remove(&s.peer_key);
            }
            Ok(()) => s.search.outcome = Outcome::Claimed,
            Err(InsertError::Full) => s.search.outcome = Outcome::Full,
            Err(InsertError::Exists) => {}
        }
        s.search.outcome != Outcome::None
    }
}

/// Claims the reply's key of what is opened for a source port, which it leaves in that key; the key and its entry are filled but
/// for it.
///
/// Every port of the range is tried, with every address of a pool, so the last free one is found; the time is bounded by both.
#[inline(never)]
pub fn claim<F: FamilyMaps>(pkt: &Packet, claim: Claim) -> Result<(), DropReason> {
    let s = opening::<F>(claim)?;
    let ports = s.plan.ports;
    let may_be_exhausted = matches!((claim, ports), (Claim::Flow, Ports::HostRange | Ports::Pool));
    if may_be_exhausted && maps::is_exhausted::<F>(s.set_destination(), now_ns()) {
        return Err(DropReason::PortsExhausted);
    }
    let own = s.peer_key.tuple.dport.get();
    let config = maps::host_config()?;
    let (min, max) = (config.snat_port_min, config.snat_port_max);
    let ask_host = !matches!(ports, Ports::Keep | Ports::Prefer);
    // SCTP's checksum covers its ports: its flows keep theirs, wherever they lie.
    let is_fixed = s.peer_key.proto == proto::SCTP;
    let try_own =
        is_fixed || matches!(ports, Ports::Keep | Ports::Prefer | Ports::Mapped) || (min..=max).contains(&own);
    let last = match ports {
        _ if is_fixed => 0,
        // Without translation there is nothing to tell two flows with one tuple apart by.
        Ports::Keep => 0,
        _ => u32::from(max).wrapping_sub(u32::from(min)).wrapping_add(1),
    };
    let addrs = match ports {
        Ports::Pool => maps::snat_pool::<F>(u32::from(s.plan.zone)).map_or(1, |pool| pool.count),
        _ => 1,
    };
    let first = u32::from(!try_own);
    s.search = Search {
        start: packet::random() & 0xffff,
        next: first,
        first,
        last,
        addrs,
        addr: 0,
        min,
        max,
        own,
        ask_host,
        outcome: Outcome::None,
    };
    let steps = last.wrapping_add(1).wrapping_mul(addrs);
    pkt.repeat(steps, &mut Candidates::<F> { claim, family: PhantomData });
    // Asked for again: the steps have changed it.
    match opening::<F>(claim)?.search.outcome {
        Outcome::Claimed => Ok(()),
        Outcome::Full => Err(DropReason::FlowTableFull),
        Outcome::None => Err(DropReason::PortsExhausted),
    }
}

/// Inserts the reply's entry; an entry in its way whose time is over makes room.
#[inline(always)]
fn insert<F: FamilyMaps>(key: &FlowKey<F::Addr>, s: &OpeningFlow<F::Addr>) -> Result<(), InsertError> {
    match FlowRef::<F>::insert(key, &s.peer_entry) {
        Err(InsertError::Exists) if flow::reap::<F>(key, now_ns()) => FlowRef::<F>::insert(key, &s.peer_entry),
        result => result,
    }
}

/// Whether a candidate that is claimed is to be left to somebody else.
#[inline(always)]
fn is_somebodys<F: FamilyMaps>(pkt: &Packet, s: &OpeningFlow<F::Addr>, claim: Claim) -> bool {
    if host_has::<F>(pkt, &s.peer_key) {
        return true;
    }
    match claim {
        Claim::Mapping => mapping::is_taken_towards_destination::<F>(&s.peer_key),
        // Its own mapping's port is the first candidate.
        Claim::Flow if matches!(s.plan.ports, Ports::Mapped) && s.search.next == 1 => false,
        Claim::Flow => maps::has_mappings() && mapping::at::<F>(s.peer_key.proto, &s.peer_key.tuple).is_some(),
    }
}

/// Whether the replies would be somebody's already: of a published port, of a socket of the host that listens on the port or
/// is connected from it to that peer, or of another NAT of the host.
///
/// This is what keeps a pod from taking a port from others ("port shadow").
#[inline(always)]
fn host_has<F: FamilyMaps>(pkt: &Packet, reply: &FlowKey<F::Addr>) -> bool {
    if publish::port::<F>(reply.proto, reply.tuple.dst, reply.tuple.dport).is_some() {
        return true;
    }
    match reply.proto {
        proto::TCP => pkt.host_socket(true, &reply.tuple) || pkt.host_conntrack(proto::TCP, &reply.tuple),
        proto::UDP => pkt.host_socket(false, &reply.tuple) || pkt.host_conntrack(proto::UDP, &reply.tuple),
        // The kernel has no look-up for SCTP's, and none for ICMP's.
        _ => false,
    }
}
