//! Chooses the source port of a new flow and claims it, in one step, by inserting the reply's entry.

use netns_ebpf_common::Port;
use netns_ebpf_common::family::Family;
use netns_ebpf_common::flow::{FlowKey, proto};
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps, FlowRef, InsertError, OpeningFlow};
use crate::packet::{self, Packet, now_ns};
use crate::stage::flow;

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

/// How often the search goes on after a port turned out to be a host socket's.
const SOCKET_RETRIES: u32 = 16;

/// State of a search, on the stack as `bpf_loop` wants it.
#[repr(C)]
struct Search {
    min: u32,
    span: u32,
    start: u32,
    outcome: u32,
}

const SEARCHING: u32 = 0;
const CLAIMED: u32 = 1;
const FULL: u32 = 2;

/// Claims the reply's key for a source port, which it leaves in that key; `s.peer_key` and `s.peer_entry` are filled but for it.
///
/// Every port of the range is tried, so the last free one is found; the time is bounded by the range.
#[inline(never)]
pub fn claim<F: FamilyMaps>(pkt: &Packet, s: &mut OpeningFlow<F::Addr>, ports: Ports) -> Result<(), DropReason> {
    let own = s.peer_key.tuple.dport;
    let config = maps::host_config()?;
    let (min, max) = (u32::from(config.snat_port_min), u32::from(config.snat_port_max));
    let in_range = (min..=max).contains(&u32::from(own.get()));
    let try_own = match ports {
        Ports::Keep | Ports::Prefer => true,
        Ports::HostRange => in_range,
    };
    if try_own {
        match insert::<F>(&s.peer_key, s) {
            Ok(()) if !matches!(ports, Ports::HostRange) || !host_has::<F>(pkt, &s.peer_key) => return Ok(()),
            Ok(()) => FlowRef::<F>::remove(&s.peer_key),
            Err(InsertError::Full) => return Err(DropReason::FlowTableFull),
            // The same tuple is another live flow's: without translation there is nothing to tell them apart by.
            Err(InsertError::Exists) if matches!(ports, Ports::Keep) => return Err(DropReason::PortsExhausted),
            Err(InsertError::Exists) => {}
        }
    }
    let span = max.wrapping_sub(min).wrapping_add(1);
    if span == 0 || span > 0x1_0000 {
        return Err(DropReason::PortsExhausted);
    }
    let mut search = Search { min, span, start: packet::random() % span, outcome: SEARCHING };
    let mut left = span;
    for _ in 0..SOCKET_RETRIES {
        if left == 0 {
            break;
        }
        let tried = packet::repeat(left, try_port::<F>, &mut search) as u32;
        match search.outcome {
            CLAIMED => {
                if !matches!(ports, Ports::HostRange) || !host_has::<F>(pkt, &s.peer_key) {
                    return Ok(());
                }
                FlowRef::<F>::remove(&s.peer_key);
                search.outcome = SEARCHING;
                search.start = (search.start + tried) % span;
                left = left.saturating_sub(tried);
            }
            FULL => return Err(DropReason::FlowTableFull),
            _ => break,
        }
    }
    Err(DropReason::PortsExhausted)
}

/// One step of the search: claims the `i`-th port from the start, or goes on.
extern "C" fn try_port<F: FamilyMaps>(i: u32, search: *mut Search) -> i64 {
    const STOP: i64 = 1;
    const GO_ON: i64 = 0;
    #[expect(unsafe_code, reason = "the callback's argument")]
    // SAFETY: `packet::repeat` passes the `Search` on its caller's stack.
    let search = unsafe { &mut *search };
    let Ok(s) = maps::opening_flow::<F>() else { return STOP };
    // `claim` never asks with an empty range; the check keeps a division's panic out of the object.
    let Some(at) = search.start.wrapping_add(i).checked_rem(search.span) else { return STOP };
    let port = search.min.wrapping_add(at);
    s.peer_key.tuple.dport = Port::new(port as u16);
    search.outcome = match insert::<F>(&s.peer_key, s) {
        Ok(()) => CLAIMED,
        Err(InsertError::Full) => FULL,
        Err(InsertError::Exists) => return GO_ON,
    };
    STOP
}

/// Inserts the reply's entry; an entry in its way whose time is over makes room.
#[inline(always)]
fn insert<F: FamilyMaps>(key: &FlowKey<F::Addr>, s: &OpeningFlow<F::Addr>) -> Result<(), InsertError> {
    match FlowRef::<F>::insert(key, &s.peer_entry) {
        Err(InsertError::Exists) if flow::reap::<F>(key, now_ns()) => FlowRef::<F>::insert(key, &s.peer_entry),
        result => result,
    }
}

/// Whether a socket of the host would receive the replies: it listens on the port, or is connected from it to that peer.
///
/// This is what keeps a pod from taking a port that is somebody's already ("port shadow").
#[inline(always)]
fn host_has<F: Family>(pkt: &Packet, reply: &FlowKey<F::Addr>) -> bool {
    match reply.proto {
        proto::TCP => pkt.host_socket(true, &reply.tuple),
        proto::UDP => pkt.host_socket(false, &reply.tuple),
        _ => false,
    }
}
