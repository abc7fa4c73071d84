//! The flow table: finding a packet's flow, keeping it alive, opening new ones.

use netns_ebpf_common::family::Family;
use netns_ebpf_common::flow::{FlowEntry, FlowKey, FlowTuple, State, TimeoutClass, proto, rst_acceptable, tcp_flag};
use netns_ebpf_common::mapping::stamps;
use netns_ebpf_common::parse::{IcmpKind, L4, Parsed};
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, Account, FamilyMaps, FlowRef, InsertError};
use crate::packet::{Packet, now_ns};
use crate::stage::port::{self, Claim, Ports};
use crate::stage::{account, mapping};

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
        L4::Tcp => p.tcp.flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST | tcp_flag::FIN) == tcp_flag::SYN,
        L4::Udp | L4::Sctp => true,
        L4::Icmp => matches!(p.icmp, IcmpKind::EchoRequest),
        L4::LaterFragment | L4::Other => false,
    }
}

/// The live flow a packet belongs to, its state advanced by the packet.
///
/// `None` if there is none, its time is over, or the packet is a SYN that opens the connection anew.
#[inline(never)]
pub fn find<F: FamilyMaps>(zone: u16, p: &Parsed<<F as Family>::Addr>) -> Option<FlowRef<F>> {
    let OnStack(ref key) = OnStack(FlowKey::new(zone, p.proto, p.tuple));
    let flow = FlowRef::<F>::find(key)?;
    if flow.flags() & FlowEntry::<F::Addr>::MAPPING != 0 {
        // The address of nobody is nobody's.
        return None;
    }
    let now = now_ns();
    if is_expired(flow, p.proto, now) {
        flow.remove_both(key);
        return None;
    }
    match p.l4 {
        L4::Tcp => advance_tcp(flow, key, p, now),
        _ => {
            let state = flow.state().after_datagram(flow.is_original());
            if state as u8 != flow.state() as u8 {
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
    if flow.flags() & FlowEntry::<F::Addr>::MAPPED != 0 && stamps(flow.last_seen_ns(), now) {
        mapping::stamp::<F>(key, now);
    }
    flow.touch(now);
}

/// The compiler reads a key by words of 8 bytes, which the kernel refuses of a stack where they are not aligned.
#[repr(align(8))]
struct OnStack<T>(T);

#[inline(always)]
fn advance_tcp<F: FamilyMaps>(
    flow: FlowRef<F>,
    key: &FlowKey<F::Addr>,
    p: &Parsed<F::Addr>,
    now: u64,
) -> Option<FlowRef<F>> {
    const CHANGES: u8 = tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST;
    let state = flow.state();
    let flags = p.tcp.flags;
    if flags & CHANGES != 0 || state as u8 != State::Established as u8 {
        let opens = flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN;
        if opens && flow.is_original() && state.restarts_on_syn() {
            flow.remove_both(key);
            return None;
        }
        if flags & tcp_flag::RST != 0 {
            let (ack, window) = match flow.peer(key.proto) {
                Some(peer) => peer.ack_window(),
                None => (0, 0),
            };
            // Passed on all the same: the end host judges for itself, and answers with a challenge ACK if it is none.
            if !rst_acceptable(p.tcp.seq, ack, window << 14) {
                return Some(flow);
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
    touch(flow, key, now);
    Some(flow)
}

/// The flow an ICMP error is about, found by the reverse of the quoted tuple; errors neither refresh nor end it.
#[inline(always)]
pub fn find_quoted<F: FamilyMaps>(zone: u16, proto: u8, quoted: &FlowTuple<F::Addr>) -> Option<FlowRef<F>> {
    let flow = FlowRef::<F>::find(&FlowKey::new(zone, proto, quoted.reverse()))?;
    if flow.flags() & FlowEntry::<F::Addr>::MAPPING != 0 {
        return None;
    }
    if is_expired(flow, proto, now_ns()) { None } else { Some(flow) }
}

/// Whether both directions have been idle for too long. The other entry is looked at only if this one has.
#[inline(always)]
pub fn is_expired<F: FamilyMaps>(flow: FlowRef<F>, proto: u8, now: u64) -> bool {
    let timeout_ns = maps::timeout_ns(flow.state().timeout_class(proto));
    let peer_last_seen_ns = || flow.peer(proto).map(FlowRef::last_seen_ns);
    netns_ebpf_common::flow::is_expired(flow.last_seen_ns(), peer_last_seen_ns, now, timeout_ns)
}

/// The same of a flow or a mapping.
#[inline(always)]
pub fn is_over<F: FamilyMaps>(entry: FlowRef<F>, proto: u8, now: u64) -> bool {
    if entry.flags() & FlowEntry::<F::Addr>::MAPPING != 0 {
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

/// What a new flow is, but for the tuple its packets get: the planner leaves both in [`maps::opening_flow`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Plan {
    /// Where the opener's packets go: slot, or ifindex with `TO_UPLINK` in `flags`.
    pub target: u32,
    /// Where the replies go: slot, or ifindex with `TO_UPLINK` in `peer_flags`.
    pub peer_target: u32,
    /// Slot the flow is accounted to.
    pub owner_slot: u32,
    /// Publish it came in by, or `FlowEntry::NO_OWNER`.
    pub publish: u32,
    /// Zone of the opener.
    pub zone: u16,
    /// Zone of the other side.
    pub peer_zone: u16,
    /// `FlowEntry::TO_UPLINK`, `TURNS_BACK`, `INCOMING`, and `MAPPED` to have a mapping, or 0.
    pub flags: u8,
    /// `FlowEntry::TO_UPLINK`, `TURNS_BACK`, and `MAPPED` to be counted in the one there is, or 0.
    pub peer_flags: u8,
    /// How the source port is chosen.
    pub ports: Ports,
    /// Padding, zero.
    pub _pad: u8,
}

impl Plan {
    /// Where the flow is counted.
    #[inline(always)]
    pub fn account<F: Family>(&self) -> Account {
        Account { slot: self.owner_slot, incoming: self.flags & FlowEntry::<F::Addr>::INCOMING != 0 }
    }
}

/// Opens a new flow: a place for it is taken, then both directions are inserted; [`opened`] finds it. One that `leaves` for the
/// LAN gets a mapping before, if it is to have one; a constant, so that a hook none leaves by has nothing of that in it.
///
/// # Errors
///
/// There is no place for it, no port or no memory; that is counted.
#[inline(always)]
pub fn open<F: FamilyMaps>(pkt: &Packet, p: &Parsed<<F as Family>::Addr>, leaves: bool) -> Result<(), DropReason> {
    let account = maps::opening_flow::<F>()?.plan.account::<F>();
    let mut opened = account::enter::<F>(pkt, account);
    if opened.is_ok() {
        if leaves && maps::opening_flow::<F>()?.plan.flags & FlowEntry::<F::Addr>::MAPPED != 0 {
            opened = mapping::obtain::<F>(pkt, p);
        }
        if opened.is_ok() {
            opened = insert::<F>(pkt, p);
        }
        if opened.is_err() {
            maps::leave::<F>(account);
        }
    }
    if let Err(reason) = opened {
        account::refused::<F>(reason);
    }
    opened
}

/// Inserts both directions.
///
/// The reply's entry goes first and claims the port: if the opener's entry cannot follow, the claim is taken back, so the two
/// come together or not at all. If another CPU opened the same flow meanwhile, its entry is the one used.
#[inline(never)]
fn insert<F: FamilyMaps>(pkt: &Packet, p: &Parsed<<F as Family>::Addr>) -> Result<(), DropReason> {
    let now = now_ns();
    let s = maps::opening_flow::<F>()?;
    s.key.tuple = p.tuple;
    set_key(&mut s.key, s.plan.zone, p.proto);
    s.peer_key.tuple.src = s.entry.to.dst;
    s.peer_key.tuple.dst = s.entry.to.src;
    s.peer_key.tuple.sport = s.entry.to.dport;
    s.peer_key.tuple.dport = s.entry.to.sport;
    set_key(&mut s.peer_key, s.plan.peer_zone, p.proto);

    s.peer_entry.to.src = p.tuple.dst;
    s.peer_entry.to.dst = p.tuple.src;
    s.peer_entry.to.sport = p.tuple.dport;
    s.peer_entry.to.dport = p.tuple.sport;
    s.peer_entry.target = s.plan.peer_target;
    s.peer_entry.peer_zone = s.plan.zone;
    s.peer_entry.flags = s.plan.peer_flags | FlowEntry::<F::Addr>::TRANSLATED;
    set_common(&mut s.peer_entry, &s.plan, now);
    port::claim::<F>(pkt, Claim::Flow)?;

    let s = maps::opening_flow::<F>()?;
    if s.peer_key.tuple.dst != s.entry.to.src || s.peer_key.tuple.dport != s.entry.to.sport {
        // Not the mapping's, then.
        s.plan.flags &= !FlowEntry::<F::Addr>::MAPPED;
    }
    s.entry.to.src = s.peer_key.tuple.dst;
    s.entry.to.sport = s.peer_key.tuple.dport;
    s.entry.target = s.plan.target;
    s.entry.peer_zone = s.plan.peer_zone;
    s.entry.flags = s.plan.flags | FlowEntry::<F::Addr>::ORIGINAL | FlowEntry::<F::Addr>::TRANSLATED;
    set_common(&mut s.entry, &s.plan, now);
    if s.entry.to == p.tuple {
        s.entry.flags &= !FlowEntry::<F::Addr>::TRANSLATED;
    }
    match FlowRef::<F>::insert(&s.key, &s.entry) {
        Ok(()) => {}
        Err(InsertError::Exists) => {
            FlowRef::<F>::remove(&s.peer_key);
            maps::leave::<F>(s.plan.account::<F>());
            return Ok(());
        }
        Err(InsertError::Full) => {
            FlowRef::<F>::remove(&s.peer_key);
            return Err(DropReason::FlowTableFull);
        }
    }
    if s.plan.flags & FlowEntry::<F::Addr>::MAPPED != 0 {
        maps::enter_mapping::<F>(&s.key);
    }
    if s.plan.peer_flags & FlowEntry::<F::Addr>::MAPPED != 0 {
        maps::enter_mapping::<F>(&s.peer_key);
    }
    maps::push_opened::<F>(&s.key);
    if s.plan.publish != FlowEntry::<F::Addr>::NO_OWNER {
        maps::count_flow(s.plan.publish);
    }
    Ok(())
}

/// The entry [`open`] has just made, or the one another CPU made in its place.
#[inline(always)]
pub fn opened<F: FamilyMaps>() -> Result<FlowRef<F>, DropReason> {
    FlowRef::find(&maps::opening_flow::<F>()?.key).ok_or(DropReason::FlowTableFull)
}

#[inline(always)]
fn set_key<A>(key: &mut FlowKey<A>, zone: u16, proto: u8) {
    key.zone = zone;
    key.proto = proto;
    key._pad = 0;
}

/// What both entries of a flow, or of a mapping, have alike.
#[inline(always)]
pub fn set_common<A>(entry: &mut FlowEntry<A>, plan: &Plan, now: u64) {
    entry.last_seen_ns = now;
    entry.state = State::Opening as u8;
    entry.ack = 0;
    entry.window = 0;
    entry.owner_slot = plan.owner_slot;
    entry.publish = plan.publish;
}

/// Takes an entry of the other direction's key away if its flow's time is over; says whether the key is free now.
#[inline(always)]
pub fn reap<F: FamilyMaps>(key: &FlowKey<F::Addr>, now: u64) -> bool {
    match FlowRef::<F>::find(key) {
        Some(flow) if is_over(flow, key.proto, now) => {
            flow.remove_both(key);
            true
        }
        Some(_) => false,
        None => true,
    }
}

const _: () = assert!(TimeoutClass::Icmp as usize == 3);
