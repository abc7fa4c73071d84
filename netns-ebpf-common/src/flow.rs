//! Flows: one key per direction, both pointing at each other.
//!
//! A flow is two entries of one map. Each is found by the tuple of a packet as it arrives in a zone, and says what the
//! tuple becomes and where the packet goes. The entry of the other direction needs no pointer: its key is the reverse
//! of the translated tuple in the other zone ([`FlowEntry::peer_key`]).
//!
//! A data packet touches its own entry only. Packets that change the connection (SYN, FIN, RST, first reply) touch
//! both, so the two never disagree for longer than one such packet.

use crate::family::Address;
use crate::hdr::PortPair;
use crate::plain;
use crate::tcp::Numbers;
use crate::{Addr4, Addr6, Port};

/// A packet's addresses and ports.
///
/// For an ICMP query the identifier is the port on the asking side and the other port is 0, so that a reply's tuple is
/// the reverse of its request's.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowTuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
}

impl<A: Copy> FlowTuple<A> {
    /// Takes the ports of a header.
    #[inline(always)]
    pub const fn set_ports(&mut self, ports: PortPair) {
        self.sport = ports.src;
        self.dport = ports.dst;
    }

    /// The tuple of a packet going the other way.
    #[inline(always)]
    pub const fn reverse(self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport }
    }
}

impl<A: Address> FlowTuple<A> {
    /// Becomes `from`, in place.
    #[inline(always)]
    pub fn set(&mut self, from: &Self) {
        self.src.set(&from.src);
        self.dst.set(&from.dst);
        (self.sport, self.dport) = (from.sport, from.dport);
    }

    /// Becomes the tuple of a packet going the other way, in place.
    #[inline(always)]
    pub fn set_reverse(&mut self, of: &Self) {
        self.src.set(&of.dst);
        self.dst.set(&of.src);
        (self.sport, self.dport) = (of.dport, of.sport);
    }
}

/// Key of a flow entry: a tuple as seen in a zone. 16 bytes for IPv4.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowKey<A> {
    /// As the packet arrives.
    pub tuple: FlowTuple<A>,
    /// Network id, or [`crate::abi::ZONE_HOST`].
    pub zone: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Padding, zero.
    pub _pad: u8,
}

impl<A: Address> FlowKey<A> {
    /// Becomes `from`, in place.
    #[inline(always)]
    pub fn set(&mut self, from: &Self) {
        self.tuple.set(&from.tuple);
        (self.zone, self.proto, self._pad) = (from.zone, from.proto, 0);
    }
}

impl<A> FlowKey<A> {
    /// A key with its padding in order.
    #[inline(always)]
    pub const fn new(zone: u16, proto: u8, tuple: FlowTuple<A>) -> Self {
        Self { tuple, zone, proto, _pad: 0 }
    }
}

/// One direction of a flow.
///
/// Concurrency: everything but [`Self::state`], [`Self::last_seen_ns`], the numbers of a connection ([`Self::numbers`]),
/// [`Self::publish`], the places of its keys, [`FlowFlags::ENDING`] and [`FlowFlags::UNQUEUED`] is constant from insertion to removal; those are single aligned words any CPU may
/// store, where a lost race costs one refresh, not correctness.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowEntry<A> {
    /// Time of the last packet in this direction, `CLOCK_MONOTONIC`.
    pub last_seen_ns: u64,
    /// The tuple after translation.
    pub to: FlowTuple<A>,
    /// Where its packets go: what it is counts by [`Self::target_kind`].
    pub target_id: u32,
    /// What the direction is.
    pub flags: FlowFlags,
    /// Zone of the other direction's key.
    pub peer_zone: u16,
    /// A [`TargetKind`] as `u8`.
    pub target_kind: u8,
    /// Connection state: a [`crate::state::State`] as `u8`, the same in both entries.
    pub state: u8,
    /// TCP: [`Numbers::scale`].
    pub scale: u8,
    /// TCP: [`Numbers::seen`].
    pub seen: u8,
    /// TCP: [`Numbers::end`]. Of other protocols these numbers mean nothing, but for [`Self::ack`].
    pub end: u32,
    /// TCP: [`Numbers::ack`]. Of a mapping's inside entry: how many flows it counts.
    pub ack: u32,
    /// TCP: [`Numbers::edge`].
    pub edge: u32,
    /// TCP: [`Numbers::syn_end`].
    pub syn_end: u32,
    /// Endpoint slot the flow is accounted to: see [`wide`].
    pub owner_slot: u16,
    /// Publish id the flow came in by, or [`FlowEntry::NO_OWNER`]; set to that when the publish goes.
    pub publish: u16,
    /// Of the opener's entry: the place of its key in its account's queue, modulo 2^16. A key at another place is of a former flow
    /// between the same ends, or was put behind.
    pub queued_at: u16,
    /// The same in the ring of all flows.
    pub ring_at: u16,
}

/// A slot or an id of a publish as an entry has it, which is why an entry of IPv4 fits 128 bytes of the kernel's; the highest is none.
#[inline(always)]
pub const fn narrow(id: u32) -> u16 {
    const { assert!(crate::abi::MAX_ENDPOINTS < u16::MAX as u32) };
    const { assert!(crate::abi::MAX_PUBLISHES < u16::MAX as u32) };
    id as u16
}

/// The same as everywhere else.
#[inline(always)]
pub const fn wide(id: u16) -> u32 {
    if id == u16::MAX { u32::MAX } else { id as u32 }
}

impl<A: Copy> FlowEntry<A> {
    /// No publish.
    pub const NO_OWNER: u32 = u32::MAX;

    /// Key of the other direction's entry.
    #[inline(always)]
    pub const fn peer_key(&self, proto: u8) -> FlowKey<A> {
        FlowKey::new(self.peer_zone, proto, self.to.reverse())
    }

    /// Whether this is the opener's direction.
    #[inline(always)]
    pub const fn is_original(&self) -> bool {
        self.flags.has(FlowFlags::ORIGINAL)
    }

    /// Where its packets go.
    #[inline(always)]
    pub const fn target(&self) -> Target {
        Target { id: self.target_id, kind: TargetKind::from_u8(self.target_kind), _pad: [0; 3] }
    }

    /// Says where its packets go.
    #[inline(always)]
    pub const fn set_target(&mut self, target: Target) {
        self.target_id = target.id;
        self.target_kind = target.kind as u8;
    }

    /// What this direction of a connection has shown of itself.
    #[inline(always)]
    pub const fn numbers(&self) -> Numbers {
        Numbers {
            end: self.end,
            ack: self.ack,
            edge: self.edge,
            syn_end: self.syn_end,
            scale: self.scale,
            seen: self.seen,
        }
    }

    /// Notes it.
    #[inline(always)]
    pub const fn set_numbers(&mut self, n: &Numbers) {
        self.end = n.end;
        self.ack = n.ack;
        self.edge = n.edge;
        self.syn_end = n.syn_end;
        self.scale = n.scale;
        self.seen = n.seen;
    }
}

/// What a direction of a flow leads to.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// A pod, by its slot.
    Pod = 0,
    /// An uplink, by its ifindex.
    Uplink = 1,
}

impl TargetKind {
    /// From a map's byte.
    #[inline(always)]
    pub const fn from_u8(v: u8) -> Self {
        match v {
            1 => Self::Uplink,
            _ => Self::Pod,
        }
    }
}

/// Where packets of a flow go.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Slot or ifindex.
    pub id: u32,
    /// Which of them.
    pub kind: TargetKind,
    /// Padding, zero.
    pub _pad: [u8; 3],
}

impl Target {
    /// The pod in a slot.
    #[inline(always)]
    pub const fn pod(slot: u32) -> Self {
        Self { id: slot, kind: TargetKind::Pod, _pad: [0; 3] }
    }

    /// Out of an uplink.
    #[inline(always)]
    pub const fn uplink(ifindex: u32) -> Self {
        Self { id: ifindex, kind: TargetKind::Uplink, _pad: [0; 3] }
    }

    /// Whether it is an uplink.
    #[inline(always)]
    pub const fn is_uplink(self) -> bool {
        matches!(self.kind, TargetKind::Uplink)
    }
}

/// What a direction of a flow is: a set of the bits below.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFlags(u16);

impl FlowFlags {
    /// None.
    pub const NONE: Self = Self(0);
    /// The direction of the packet that opened the flow.
    pub const ORIGINAL: Self = Self(1);
    /// Addresses or ports change; without it the packet passes as it is (but for hop limit and link layer).
    pub const TRANSLATED: Self = Self(1 << 1);
    /// With [`Self::ORIGINAL`]: opened to a pod from outside, and accounted so.
    pub const INCOMING: Self = Self(1 << 2);
    /// One of the two entries of a mapping: see [`crate::mapping`].
    pub const MAPPING: Self = Self(1 << 3);
    /// The key's source has a mapping, which counts this flow.
    pub const MAPPED: Self = Self(1 << 4);
    /// Towards an uplink: the destination is an address of the host behind which a pod is, so the packet comes back in by the
    /// uplink at once (RFC 4787 REQ-9).
    pub const HAIRPIN: Self = Self(1 << 5);
    /// With [`Self::ORIGINAL`], or of a mapping's inside entry: its source port is one of the SNAT range, and counted among those
    /// in use ([`crate::port`]).
    pub const PORT_COUNTED: Self = Self(1 << 6);
    /// The address it leaves with is one of its network's pool.
    pub const POOLED: Self = Self(1 << 7);
    /// Of the opener's entry: it is in no account's queue. Set by atomic operations only.
    pub const UNQUEUED: Self = Self(1 << 14);
    /// A CPU is taking the entry out; set by atomic operations only.
    pub const ENDING: Self = Self(1 << 15);

    /// As a map has it.
    #[inline(always)]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether all of these are set.
    #[inline(always)]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// With these.
    #[inline(always)]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    /// Those of these that are set.
    #[inline(always)]
    pub const fn only(self, flags: Self) -> Self {
        Self(self.0 & flags.0)
    }

    /// Without these.
    #[inline(always)]
    pub const fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }
}

/// Whether a flow's time is over: both of its directions have been idle for longer than `timeout_ns`.
///
/// The one rule for the programs, which treat such a flow as absent, and for user space, which sweeps it. The other
/// direction's time is asked for only if this one's is over; `None` is a flow without its other half, which nothing keeps
/// alive.
#[inline(always)]
pub fn is_expired(
    last_seen_ns: u64,
    peer_last_seen_ns: impl FnOnce() -> Option<u64>,
    now_ns: u64,
    timeout_ns: u64,
) -> bool {
    if !is_idle(last_seen_ns, now_ns, timeout_ns) {
        return false;
    }
    match peer_last_seen_ns() {
        Some(seen) => is_idle(seen, now_ns, timeout_ns),
        None => true,
    }
}

#[inline(always)]
pub(crate) const fn is_idle(last_seen_ns: u64, now_ns: u64, timeout_ns: u64) -> bool {
    // Another CPU may have stamped the entry a tick ahead of us.
    now_ns > last_seen_ns && now_ns - last_seen_ns > timeout_ns
}

plain!(FlowTuple<Addr4 | Addr6> { src, dst, sport, dport }: size 12 | 36, align 4);
plain!(FlowKey<Addr4 | Addr6> { tuple, zone, proto, _pad }: size 16 | 40, align 4);
plain!(FlowFlags { 0 }: size 2, align 2);
plain!(FlowEntry<Addr4 | Addr6> {
    last_seen_ns, to, target_id, flags, peer_zone, target_kind, state, scale, seen, end, ack, edge, syn_end, owner_slot, publish,
    queued_at, ring_at
}: size 56 | 80, align 8);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flags_are_sets() {
        let both = FlowFlags::ORIGINAL.with(FlowFlags::HAIRPIN);
        assert!(both.has(FlowFlags::ORIGINAL) && both.has(FlowFlags::HAIRPIN) && both.has(FlowFlags::NONE));
        assert!(!both.has(FlowFlags::MAPPED) && !both.has(FlowFlags::ORIGINAL.with(FlowFlags::MAPPED)));
        assert_eq!(both.without(FlowFlags::ORIGINAL), FlowFlags::HAIRPIN);
    }

    #[test]
    fn targets_and_numbers_survive_the_entry() {
        let mut entry = FlowEntry::<Addr4>::default();
        for target in [Target::pod(7), Target::uplink(7)] {
            entry.set_target(target);
            assert_eq!(entry.target(), target);
        }
        let numbers = Numbers { end: 1, ack: 2, edge: 3, syn_end: 4, scale: 5, seen: 6 };
        entry.set_numbers(&numbers);
        assert_eq!(entry.numbers(), numbers);
    }

    #[test]
    fn a_flow_lives_while_either_direction_does() {
        let expired = |seen, peer, now| is_expired(seen, || peer, now, 100);
        assert!(!expired(1000, Some(0), 1100), "idle for exactly the time-out");
        assert!(expired(1000, Some(0), 1101));
        assert!(!expired(0, Some(1000), 1100), "the other direction keeps it");
        assert!(expired(0, Some(1000), 1101));
        assert!(expired(0, None, 101), "half a flow");
        assert!(!expired(2000, None, 1000), "stamped a tick ahead of this clock");
        assert!(!expired(0, Some(2000), 1000));
    }

    #[test]
    fn the_other_direction_is_asked_for_only_when_it_decides() {
        assert!(!is_expired(1000, || panic!("asked"), 1001, 100));
    }

    proptest! {
        #[test]
        fn both_directions_point_at_each_other(
            (src, dst, to_src, to_dst) in any::<([u8; 4], [u8; 4], [u8; 4], [u8; 4])>(),
            (sport, dport, to_sport, to_dport) in any::<(u16, u16, u16, u16)>(),
            (zone, peer_zone) in any::<(u16, u16)>(),
        ) {
            let tuple = |src, dst, sport, dport| FlowTuple {
                src: Addr4(src),
                dst: Addr4(dst),
                sport: Port::new(sport),
                dport: Port::new(dport),
            };
            let seen = tuple(src, dst, sport, dport);
            let to = tuple(to_src, to_dst, to_sport, to_dport);
            let original = FlowEntry { to, peer_zone, ..FlowEntry::default() };
            let reply = FlowEntry { to: seen.reverse(), peer_zone: zone, ..FlowEntry::default() };
            prop_assert_eq!(original.peer_key(6), FlowKey::new(peer_zone, 6, to.reverse()));
            prop_assert_eq!(reply.peer_key(6), FlowKey::new(zone, 6, seen));
            prop_assert_eq!(seen.reverse().reverse(), seen);
        }
    }
}
