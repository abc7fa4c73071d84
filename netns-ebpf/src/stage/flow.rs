//! The flow table: finding a packet's flow, keeping it alive, opening new ones.

use netns_ebpf_common::family::Family;
use netns_ebpf_common::flow::{FlowEntry, FlowKey, FlowTuple, State, TimeoutClass, proto, rst_acceptable, tcp_flag};
use netns_ebpf_common::parse::{IcmpKind, L4, Parsed};
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps, FlowRef, InsertError};
use crate::packet::{Packet, now_ns};
use crate::stage::port::{self, Ports};

/// Whether a flow can be made of this packet's protocol.
#[inline(always)]
pub fn is_trackable<A>(p: &Parsed<A>) -> bool {
    match p.l4 {
        L4::Tcp | L4::Udp => true,
        L4::Icmp(kind) => matches!(kind, IcmpKind::EchoRequest | IcmpKind::EchoReply),
        // Only the first fragment says what this is; its protocol is enough, as `fragment::track` found its ports.
        L4::LaterFragment => {
            p.proto == proto::TCP || p.proto == proto::UDP || p.proto == proto::ICMP || p.proto == proto::ICMPV6
        }
        L4::Other => false,
    }
}

/// Whether this packet may open a flow: everything but the middle of a TCP connection, an echo reply nobody asked for, and a
/// later fragment.
#[inline(always)]
pub fn may_open<A>(p: &Parsed<A>) -> bool {
    match p.l4 {
        L4::Tcp => p.tcp.flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST | tcp_flag::FIN) == tcp_flag::SYN,
        L4::Udp => true,
        L4::Icmp(kind) => matches!(kind, IcmpKind::EchoRequest),
        L4::LaterFragment | L4::Other => false,
    }
}

/// The live flow a packet belongs to, its state advanced by the packet.
///
/// `None` if there is none, its time is over, or the packet is a SYN that opens the connection anew.
#[inline(never)]
pub fn find<F: FamilyMaps>(zone: u16, p: &Parsed<<F as Family>::Addr>) -> Result<Option<FlowRef<F>>, DropReason> {
    let key = FlowKey::new(zone, p.proto, p.tuple);
    let Some(flow) = FlowRef::<F>::find(&key) else { return Ok(None) };
    let now = now_ns();
    if is_expired(flow, p.proto, now) {
        remove(flow, &key);
        return Ok(None);
    }
    match p.l4 {
        L4::Tcp => advance_tcp(flow, &key, p, now),
        _ => {
            let state = flow.state().after_datagram(flow.is_original());
            if state as u8 != flow.state() as u8 {
                set_both(flow, p.proto, state);
            }
            // RFC 4787 REQ-6: inbound packets need not refresh a mapping; outbound ones must. Each direction has its own
            // clock here and the flow lives while either runs.
            flow.touch(now);
            Ok(Some(flow))
        }
    }
}

#[inline(always)]
fn advance_tcp<F: FamilyMaps>(
    flow: FlowRef<F>,
    key: &FlowKey<F::Addr>,
    p: &Parsed<F::Addr>,
    now: u64,
) -> Result<Option<FlowRef<F>>, DropReason> {
    const CHANGES: u8 = tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST;
    let state = flow.state();
    let flags = p.tcp.flags;
    if flags & CHANGES != 0 || state as u8 != State::Established as u8 {
        let opens = flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN;
        if opens && flow.is_original() && state.restarts_on_syn() {
            remove(flow, key);
            return Ok(None);
        }
        if flags & tcp_flag::RST != 0 {
            let (ack, window) = match FlowRef::<F>::find(&flow.peer_key(key.proto)) {
                Some(peer) => peer.ack_window(),
                None => (0, 0),
            };
            // Passed on all the same: the end host judges for itself, and answers with a challenge ACK if it is none.
            if !rst_acceptable(p.tcp.seq, ack, window << 14) {
                return Ok(Some(flow));
            }
        }
        let next = state.after_tcp(flow.is_original(), flags);
        if next as u8 != state as u8 {
            set_both(flow, key.proto, next);
        }
    }
    if flags & tcp_flag::ACK != 0 {
        flow.set_ack_window(p.tcp.ack, u32::from(p.tcp.window));
    }
    flow.touch(now);
    Ok(Some(flow))
}

/// The flow an ICMP error is about, found by the reverse of the quoted tuple; errors neither refresh nor end it.
#[inline(always)]
pub fn find_quoted<F: FamilyMaps>(zone: u16, proto: u8, quoted: &FlowTuple<F::Addr>) -> Option<FlowRef<F>> {
    let flow = FlowRef::<F>::find(&FlowKey::new(zone, proto, quoted.reverse()))?;
    if is_expired(flow, proto, now_ns()) { None } else { Some(flow) }
}

/// Whether both directions have been idle for too long. The other entry is looked at only if this one has.
#[inline(always)]
fn is_expired<F: FamilyMaps>(flow: FlowRef<F>, proto: u8, now: u64) -> bool {
    let timeout = maps::timeout_ns(flow.state().timeout_class(proto));
    if is_idle(flow.last_seen_ns(), now, timeout) {
        return match FlowRef::<F>::find(&flow.peer_key(proto)) {
            Some(peer) => is_idle(peer.last_seen_ns(), now, timeout),
            None => true,
        };
    }
    false
}

#[inline(always)]
fn is_idle(last_seen_ns: u64, now: u64, timeout_ns: u64) -> bool {
    // Another CPU may have stamped the entry a tick ahead of us.
    now > last_seen_ns && now - last_seen_ns > timeout_ns
}

/// Removes both directions.
#[inline(always)]
fn remove<F: FamilyMaps>(flow: FlowRef<F>, key: &FlowKey<F::Addr>) {
    let peer_key = flow.peer_key(key.proto);
    FlowRef::<F>::remove(&peer_key);
    FlowRef::<F>::remove(key);
}

#[inline(always)]
fn set_both<F: FamilyMaps>(flow: FlowRef<F>, proto: u8, state: State) {
    flow.set_state(state);
    if let Some(peer) = FlowRef::<F>::find(&flow.peer_key(proto)) {
        peer.set_state(state);
    }
}

/// A flow about to be opened.
pub struct Opening<A> {
    /// Zone of the opener.
    pub zone: u16,
    /// Zone of the other side.
    pub peer_zone: u16,
    /// What the opener's tuple becomes; the source port may still change, as `ports` says.
    pub to: FlowTuple<A>,
    /// Where the opener's packets go: slot, or ifindex with `to_uplink`.
    pub target: u32,
    /// `target` is an uplink.
    pub to_uplink: bool,
    /// Where the replies go: slot or ifindex.
    pub peer_target: u32,
    /// `peer_target` is an uplink.
    pub peer_to_uplink: bool,
    /// Slot whose limit the flow counts against.
    pub owner_slot: u32,
    /// Publish it came in by, or `FlowEntry::NO_OWNER`.
    pub publish: u32,
    /// How the source port is chosen.
    pub ports: Ports,
}

/// Inserts both directions of a new flow; what the packet becomes is in the entry returned.
///
/// The reply's entry goes first and claims the port: if the opener's entry cannot follow, the claim is taken back, so the two
/// come together or not at all. If another CPU opened the same flow meanwhile, its entry is the one used.
#[inline(never)]
pub fn open<F: FamilyMaps>(
    pkt: &Packet,
    p: &Parsed<<F as Family>::Addr>,
    opening: &Opening<F::Addr>,
) -> Result<FlowRef<F>, DropReason> {
    let now = now_ns();
    let s = maps::scratch::<F>()?;
    let translated = |to: &FlowTuple<F::Addr>| if *to == p.tuple { 0 } else { FlowEntry::<F::Addr>::TRANSLATED };
    let uplink_flag = |yes: bool| if yes { FlowEntry::<F::Addr>::TO_UPLINK } else { 0 };

    s.key = FlowKey::new(opening.zone, p.proto, p.tuple);
    s.peer_key = FlowKey::new(opening.peer_zone, p.proto, opening.to.reverse());
    s.peer_entry = FlowEntry {
        last_seen_ns: now,
        to: p.tuple.reverse(),
        target: opening.peer_target,
        peer_zone: opening.zone,
        flags: uplink_flag(opening.peer_to_uplink) | FlowEntry::<F::Addr>::TRANSLATED,
        state: State::Opening as u8,
        ack: 0,
        window: 0,
        owner_slot: opening.owner_slot,
        publish: opening.publish,
    };
    let sport = port::claim::<F>(pkt, s, opening.ports)?;
    s.entry = FlowEntry {
        last_seen_ns: now,
        to: FlowTuple { sport, ..opening.to },
        target: opening.target,
        peer_zone: opening.peer_zone,
        flags: uplink_flag(opening.to_uplink) | FlowEntry::<F::Addr>::ORIGINAL,
        state: State::Opening as u8,
        ack: 0,
        window: 0,
        owner_slot: opening.owner_slot,
        publish: opening.publish,
    };
    s.entry.flags |= translated(&s.entry.to);
    match FlowRef::<F>::insert(&s.key, &s.entry) {
        Ok(()) => {}
        Err(InsertError::Exists) => FlowRef::<F>::remove(&s.peer_key),
        Err(InsertError::Full) => {
            FlowRef::<F>::remove(&s.peer_key);
            return Err(DropReason::FlowTableFull);
        }
    }
    FlowRef::find(&s.key).ok_or(DropReason::FlowTableFull)
}

/// Takes an entry of the other direction's key away if its flow's time is over; says whether the key is free now.
#[inline(always)]
pub fn reap<F: FamilyMaps>(key: &FlowKey<F::Addr>, now: u64) -> bool {
    match FlowRef::<F>::find(key) {
        Some(flow) if is_expired(flow, key.proto, now) => {
            remove(flow, key);
            true
        }
        Some(_) => false,
        None => true,
    }
}

const _: () = assert!(TimeoutClass::Icmp as usize == 3);
