//! Chooses the source port of a new flow and claims it, in one step, by inserting the reply's entry.

use core::marker::PhantomData;

use netns_ebpf_common::Port;
use netns_ebpf_common::flow::{FlowKey, proto};
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps, FlowRef, InsertError, OpeningFlow};
use crate::packet::{self, Packet, Steps, now_ns};
use crate::stage::{flow, publish};

/// How a flow gets its source port.
#[derive(Clone, Copy)]
pub enum Ports {
    /// As it is: nothing is translated.
    Keep,
    /// As it is if nobody has it towards this destination, else another of the range; the client's address stays.
    Prefer,
    /// One of the range, as it is if it lies in it and is free: the address is the host's, so its sockets are asked too.
    HostRange,
}

/// A search for a port, one candidate a step: the flow's own first if it is allowed, then the range from a random start.
struct Search<F> {
    /// First port of the range.
    min: u32,
    /// Ports in the range, not 0.
    span: u32,
    /// Where the search starts in the range.
    start: u32,
    /// The next candidate.
    next: u32,
    /// Ask the host's sockets too.
    ask_host: bool,
    outcome: Outcome,
    family: PhantomData<F>,
}

/// How a search ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It has not found a free port.
    None,
    /// The port in the reply's key is claimed.
    Claimed,
    /// The table has no room.
    Full,
}

impl<F: FamilyMaps> Steps for Search<F> {
    #[inline(always)]
    fn step(&mut self, pkt: &Packet) -> bool {
        let Ok(s) = maps::opening_flow::<F>() else { return true };
        if self.next != OWN {
            // `claim` never asks with an empty range; the check keeps a division's panic out of the object.
            let Some(at) = self.start.wrapping_add(self.next).checked_rem(self.span) else { return true };
            s.peer_key.tuple.dport = Port::new(self.min.wrapping_add(at) as u16);
        }
        self.next = self.next.wrapping_add(1);
        match insert::<F>(&s.peer_key, s) {
            Ok(()) if self.ask_host && host_has::<F>(pkt, &s.peer_key) => {
                FlowRef::<F>::remove(&s.peer_key);
            }
            Ok(()) => self.outcome = Outcome::Claimed,
            Err(InsertError::Full) => self.outcome = Outcome::Full,
            Err(InsertError::Exists) => {}
        }
        self.outcome != Outcome::None
    }
}

/// Candidate before the range: the port the reply's key already has. Counting on from it gives 0.
const OWN: u32 = u32::MAX;

/// Claims the reply's key for a source port, which it leaves in that key; `s.peer_key` and `s.peer_entry` are filled but for it.
///
/// Every port of the range is tried, so the last free one is found; the time is bounded by the range.
#[inline(never)]
pub fn claim<F: FamilyMaps>(pkt: &Packet, s: &mut OpeningFlow<F::Addr>) -> Result<(), DropReason> {
    let ports = s.plan.ports;
    let own = u32::from(s.peer_key.tuple.dport.get());
    let config = maps::host_config()?;
    let (min, max) = (u32::from(config.snat_port_min), u32::from(config.snat_port_max));
    let span = max.wrapping_sub(min).wrapping_add(1).clamp(1, 0x1_0000);
    let ask_host = matches!(ports, Ports::HostRange);
    let try_own = !ask_host || (min..=max).contains(&own);
    let steps = match ports {
        // Without translation there is nothing to tell two flows with one tuple apart by.
        Ports::Keep => 1,
        Ports::Prefer | Ports::HostRange => span + 1,
    };
    let mut search = Search::<F> {
        min,
        span,
        start: packet::random() & 0xffff,
        next: if try_own { OWN } else { 0 },
        ask_host,
        outcome: Outcome::None,
        family: PhantomData,
    };
    pkt.repeat(steps, &mut search);
    match search.outcome {
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

/// Whether the replies would be somebody's already: of a published port, or of a socket of the host that listens on the port or
/// is connected from it to that peer.
///
/// This is what keeps a pod from taking a port from others ("port shadow").
#[inline(always)]
fn host_has<F: FamilyMaps>(pkt: &Packet, reply: &FlowKey<F::Addr>) -> bool {
    if publish::port::<F>(reply.proto, reply.tuple.dst, reply.tuple.dport).is_some() {
        return true;
    }
    match reply.proto {
        proto::TCP => pkt.host_socket(true, &reply.tuple),
        proto::UDP => pkt.host_socket(false, &reply.tuple),
        _ => false,
    }
}
