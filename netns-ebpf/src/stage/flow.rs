//! The flow table: finding a packet's flow, and what the packet does to it.

use netns_ebpf_common::family::Family;
use netns_ebpf_common::flow::{self, FlowEntry, FlowFlags, FlowKey, FlowTuple};
use netns_ebpf_common::hdr::tcp::flag;
use netns_ebpf_common::mapping::stamps;
use netns_ebpf_common::parse::{IcmpKind, L4, Parsed};
use netns_ebpf_common::proto;
use netns_ebpf_common::publish::Publish;
use netns_ebpf_common::state::State;
use netns_ebpf_common::tcp::{self, Fit};
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps, FlowRef};
use crate::packet::now_ns;
use crate::stage::mapping;

/// Whether a flow can be made of this packet's protocol.
#[inline(always)]
pub fn is_trackable<A>(p: &Parsed<A>) -> bool {
    match p.l4 {
        L4::Tcp | L4::Udp | L4::Sctp => true,
        L4::Icmp => matches!(p.icmp, IcmpKind::EchoRequest | IcmpKind::EchoReply),
        // Only the first fragment says what this is; its protocol is enough, as `fragment::track` found its ports.
        L4::LaterFragment => {
            matches!(p.proto, proto::TCP | proto::UDP | proto::SCTP | proto::ICMP | proto::ICMPV6)
        }
        L4::Other => false,
    }
}

/// Whether this packet may open a flow: everything but the middle of a TCP connection, an echo reply nobody asked for, and a
/// later fragment.
#[inline(always)]
pub fn may_open<A>(p: &Parsed<A>) -> bool {
    match p.l4 {
        L4::Tcp => p.tcp.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN,
        L4::Udp | L4::Sctp => true,
        L4::Icmp => matches!(p.icmp, IcmpKind::EchoRequest),
        L4::LaterFragment | L4::Other => false,
    }
}

/// Refuses a TCP segment whose flags no end sends together: it is nobody's, and no connection's.
#[inline(always)]
pub fn check_flags<A>(p: &Parsed<A>) -> Result<(), DropReason> {
    if matches!(p.l4, L4::Tcp) && !p.tcp.has_valid_flags() {
        return Err(DropReason::TcpFlags);
    }
    Ok(())
}

/// The live flow a packet belongs to, its state advanced by the packet if that fits. One that does not is passed on all the same:
/// the end host judges for itself, and answers with an ACK of its own.
///
/// `None` if there is none, its time is over, or it has ended and the packet is a SYN that asks for a new one.
#[inline(never)]
pub fn find<F: FamilyMaps>(zone: u16, p: &Parsed<<F as Family>::Addr>) -> Option<FlowRef<F>> {
    let OnStack(ref key) = OnStack(FlowKey::new(zone, p.proto, p.tuple));
    let flow = FlowRef::<F>::find(key)?;
    if flow.flags().has(FlowFlags::MAPPING) {
        // The two entries of a mapping have no far end: no packet is theirs.
        return None;
    }
    if matches!(p.l4, L4::Icmp) && p.is_icmp(IcmpKind::EchoRequest) != flow.is_original() {
        // With identifier 0 a request and a reply have the same tuple.
        return None;
    }
    let now = now_ns();
    if is_expired(flow, p.proto, now) || is_orphan(flow, p.proto) {
        flow.remove_both(key);
        return None;
    }
    match p.l4 {
        L4::Tcp => advance_tcp(flow, key, p, now),
        // The first fragment was judged for all of them.
        L4::LaterFragment if p.proto == proto::TCP => Some(flow),
        _ => {
            let before = flow.state();
            let state = before.after_datagram(flow.is_original());
            if state as u8 != before as u8 {
                set_both(flow, p.proto, state);
            }
            // RFC 4787 REQ-6: inbound packets need not refresh a mapping; outbound ones must. Each direction has its own
            // clock here and the flow lives while either runs.
            touch(flow, key, now);
            Some(flow)
        }
    }
}

/// Notes a packet in this direction, now and then in the pod's mapping too.
#[inline(always)]
fn touch<F: FamilyMaps>(flow: FlowRef<F>, key: &FlowKey<F::Addr>, now: u64) {
    if flow.flags().has(FlowFlags::MAPPED) && stamps(flow.last_seen_ns(), now) {
        mapping::stamp::<F>(key, now);
    }
    flow.touch(now);
}

/// The compiler reads a key by words of 8 bytes, which the kernel refuses of a stack where they are not aligned.
#[repr(align(8))]
pub struct OnStack<T>(pub T);

#[inline(always)]
fn advance_tcp<F: FamilyMaps>(
    flow: FlowRef<F>,
    key: &FlowKey<F::Addr>,
    p: &Parsed<F::Addr>,
    now: u64,
) -> Option<FlowRef<F>> {
    const CHANGES: u8 = flag::SYN | flag::FIN | flag::RST;
    let own = flow.numbers();
    // An ordinary segment of an open connection is judged by what its own direction has shown.
    let fit = if p.tcp.flags & CHANGES == 0 && matches!(flow.state(), State::Assured) && own.is_near(&p.tcp) {
        flow.move_numbers(&own.moved(&p.tcp));
        Fit::Yes
    } else {
        let fit = judge(flow, key.proto, p);
        // Not in there, where the stack is deep. One that has ended, or half of it, is queued once.
        if matches!(fit, Fit::Yes) && flow.state().may_rest() {
            let _queued = flow.queue_ended(key.proto);
        }
        fit
    };
    match fit {
        Fit::Yes => touch(flow, key, now),
        Fit::No => {}
        Fit::Anew => return None,
    }
    Some(flow)
}

/// Judges a segment by what both directions have shown. Out of line: what it takes of the stack is not to be had below.
#[inline(never)]
fn judge<F: FamilyMaps>(flow: FlowRef<F>, proto: u8, p: &Parsed<F::Addr>) -> Fit {
    if !p.tcp.has_valid_flags() {
        return Fit::No;
    }
    let Some(peer) = flow.peer(proto) else { return Fit::No };
    let (mut sender, mut receiver) = (flow.numbers(), peer.numbers());
    let before = flow.state();
    let mut state = before;
    let fit = tcp::judge(&mut state, flow.is_original(), &mut sender, &mut receiver, &p.tcp);
    flow.set_numbers(&sender);
    if p.tcp.flags & flag::SYN != 0 && matches!(fit, Fit::Yes) {
        peer.set_numbers(&receiver);
    }
    if state as u8 != before as u8 {
        flow.set_state(state);
        peer.set_state(state);
    }
    fit
}

/// The flow an ICMP error is about, found by the reverse of the quoted tuple; errors neither refresh nor end it.
#[inline(always)]
pub fn find_quoted<F: FamilyMaps>(zone: u16, proto: u8, quoted: &FlowTuple<F::Addr>) -> Option<FlowRef<F>> {
    let flow = FlowRef::<F>::find(&FlowKey::new(zone, proto, quoted.reverse()))?;
    if flow.flags().has(FlowFlags::MAPPING) {
        return None;
    }
    if is_expired(flow, proto, now_ns()) || is_orphan(flow, proto) { None } else { Some(flow) }
}

/// How long a flow of this state may be idle.
#[inline(always)]
pub fn timeout_ns(state: State, proto: u8) -> u64 {
    maps::timeout_ns(state.timeout_class(proto))
}

/// How long both directions have been idle.
#[inline(always)]
pub fn idle_ns<F: FamilyMaps>(flow: FlowRef<F>, proto: u8, now: u64) -> u64 {
    let peer_seen_ns = flow.peer(proto).map_or(0, FlowRef::last_seen_ns);
    now.saturating_sub(flow.last_seen_ns().max(peer_seen_ns))
}

/// Whether a flow counts as absent: the pod it is accounted to or leads to is gone, or both directions have been idle for too long. The
/// other entry is looked at only if this one has.
#[inline(always)]
pub fn is_expired<F: FamilyMaps>(flow: FlowRef<F>, proto: u8, now: u64) -> bool {
    if is_of_gone(flow) {
        return true;
    }
    let timeout_ns = timeout_ns(flow.state(), proto);
    let peer_last_seen_ns = || flow.peer(proto).map(FlowRef::last_seen_ns);
    flow::is_expired(flow.last_seen_ns(), peer_last_seen_ns, now, timeout_ns)
}

/// Whether a pod is gone that the flow's own entry names. Out of line: the verifier forgets how it came out.
#[inline(never)]
fn is_of_gone<F: FamilyMaps>(flow: FlowRef<F>) -> bool {
    let (owner, target) = (flow.owner_slot(), flow.target());
    maps::rests(owner) || !target.is_uplink() && maps::rests(target.id)
}

/// Whether what only a published flow has is gone: the publish, if it is no connection, or the pod that answers a pod, which the
/// other entry alone names.
#[inline(never)]
fn is_orphan<F: FamilyMaps>(flow: FlowRef<F>, proto: u8) -> bool {
    let published = flow.publish();
    if published == FlowEntry::<F::Addr>::NO_OWNER {
        return false;
    }
    if !matches!(proto, proto::TCP | proto::SCTP) && maps::publish(published).is_some_and(Publish::is_resting) {
        return true;
    }
    if flow.flags().has(FlowFlags::INCOMING) || flow.is_original() {
        return false;
    }
    flow.peer(proto).is_some_and(|original| maps::rests(original.target().id))
}

/// The same of a flow or a mapping.
#[inline(always)]
pub fn is_over<F: FamilyMaps>(entry: FlowRef<F>, proto: u8, now: u64) -> bool {
    if entry.flags().has(FlowFlags::MAPPING) {
        return mapping::is_expired(entry, proto, now);
    }
    is_expired(entry, proto, now)
}

#[inline(always)]
fn set_both<F: FamilyMaps>(flow: FlowRef<F>, proto: u8, state: State) {
    flow.set_state(state);
    if let Some(peer) = flow.peer(proto) {
        peer.set_state(state);
    }
}
