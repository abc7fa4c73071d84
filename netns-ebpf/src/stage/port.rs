//! Chooses the source port of a new flow and claims it, in one step, by inserting the reply's entry.

use aya_ebpf::bindings::{
    bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use netns_ebpf_common::Port;
use netns_ebpf_common::family::{Address, Family};
use netns_ebpf_common::flow::{FlowKey, proto};
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps, FlowRef, InsertError, Scratch};
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

/// Claims the reply's key for a source port and returns the port; `s.peer_key` and `s.peer_entry` are filled but for it.
///
/// Every port of the range is tried, so the last free one is found; the time is bounded by the range.
#[inline(never)]
pub fn claim<F: FamilyMaps>(pkt: &Packet, s: &mut Scratch<F::Addr>, ports: Ports) -> Result<Port, DropReason> {
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
            Ok(()) if !matches!(ports, Ports::HostRange) || !host_has::<F>(pkt, &s.peer_key) => return Ok(own),
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
                    return Ok(s.peer_key.tuple.dport);
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
    let Ok(s) = maps::scratch::<F>() else { return STOP };
    let port = search.min + (search.start + i) % search.span;
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
fn insert<F: FamilyMaps>(key: &FlowKey<F::Addr>, s: &Scratch<F::Addr>) -> Result<(), InsertError> {
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
    let tcp = reply.proto == proto::TCP;
    if !tcp && reply.proto != proto::UDP {
        return false;
    }
    let (src, dst) = (reply.tuple.src, reply.tuple.dst);
    let (sport, dport) = (u16::from_ne_bytes(reply.tuple.sport.0), u16::from_ne_bytes(reply.tuple.dport.0));
    let word = |a: &F::Addr, i: usize| u32::from_ne_bytes(a.word(i));
    if F::Addr::WORDS == 1 {
        let ipv4 =
            bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr: word(&src, 0), daddr: word(&dst, 0), sport, dport };
        let mut tuple = bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv4 } };
        pkt.host_socket(tcp, &mut tuple, 12)
    } else {
        let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: [word(&src, 0), word(&src, 1), word(&src, 2), word(&src, 3)],
            daddr: [word(&dst, 0), word(&dst, 1), word(&dst, 2), word(&dst, 3)],
            sport,
            dport,
        };
        let mut tuple = bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6 } };
        pkt.host_socket(tcp, &mut tuple, 36)
    }
}
