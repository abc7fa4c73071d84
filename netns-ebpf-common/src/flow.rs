//! Flows: one key per direction, both pointing at each other, and the rules of their life.
//!
//! A flow is two entries of one map. Each is found by the tuple of a packet as it arrives in a zone, and says what the
//! tuple becomes and where the packet goes. The entry of the other direction needs no pointer: its key is the reverse
//! of the translated tuple in the other zone ([`FlowEntry::peer_key`]).
//!
//! A data packet touches its own entry only. Packets that change the connection (SYN, FIN, RST, first reply) touch
//! both, so the two never disagree for longer than one such packet.

use crate::hdr::PortPair;
use crate::plain;
use crate::{Addr4, Addr6, Port};

/// IP protocol numbers the data path translates.
pub mod proto {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

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

impl<A> FlowKey<A> {
    /// A key with its padding in order.
    #[inline(always)]
    pub const fn new(zone: u16, proto: u8, tuple: FlowTuple<A>) -> Self {
        Self { tuple, zone, proto, _pad: 0 }
    }
}

/// One direction of a flow.
///
/// Concurrency: everything but [`Self::state`], [`Self::last_seen_ns`], [`Self::ack`], [`Self::window`] and
/// [`Self::publish`] is constant from insertion to removal; those are single aligned words any CPU may store, where a lost
/// race costs one refresh, not correctness.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowEntry<A> {
    /// Time of the last packet in this direction, `CLOCK_MONOTONIC`.
    pub last_seen_ns: u64,
    /// The tuple after translation.
    pub to: FlowTuple<A>,
    /// Endpoint slot or uplink ifindex, by [`FlowEntry::TO_UPLINK`].
    pub target: u32,
    /// Zone of the other direction's key.
    pub peer_zone: u16,
    /// Bits of [`FlowEntry::TO_UPLINK`] and the like.
    pub flags: u8,
    /// Connection state: a [`State`] as `u8`, the same in both entries.
    pub state: u8,
    /// TCP: the last acknowledgement number this direction sent.
    pub ack: u32,
    /// TCP: the last window this direction advertised, unscaled.
    pub window: u32,
    /// Endpoint slot the flow is accounted to.
    pub owner_slot: u32,
    /// Publish id the flow came in by, or [`FlowEntry::NO_OWNER`]; set to that when the publish goes.
    pub publish: u32,
    /// Padding, zero.
    pub _pad: u32,
}

impl<A: Copy> FlowEntry<A> {
    /// The target is an uplink's ifindex; else an endpoint slot.
    pub const TO_UPLINK: u8 = 1;
    /// This is the direction of the packet that opened the flow.
    pub const ORIGINAL: u8 = 1 << 1;
    /// Addresses or ports change; without it the packet passes as it is (but for hop limit and link layer).
    pub const TRANSLATED: u8 = 1 << 2;
    /// With [`Self::ORIGINAL`]: opened to a pod from outside, and accounted so.
    pub const INCOMING: u8 = 1 << 3;
    /// One of the two entries of a mapping: see [`crate::mapping`].
    pub const MAPPING: u8 = 1 << 4;
    /// The key's source has a mapping, which counts this flow.
    pub const MAPPED: u8 = 1 << 5;
    /// With [`Self::TO_UPLINK`]: the destination is an address of the host behind which a pod is, so the packet comes back in by
    /// the uplink at once (RFC 4787 REQ-9).
    pub const TURNS_BACK: u8 = 1 << 6;
    /// A CPU is taking the entry out; set by atomic operations only.
    pub const ENDING: u8 = 1 << 7;
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
        self.flags & Self::ORIGINAL != 0
    }
}

/// Where a connection stands; the numbers are stored in maps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Opened, no reply seen. For UDP and ICMP queries: unreplied.
    Opening = 0,
    /// TCP: the reply's SYN was seen. Not used by others.
    Answered = 1,
    /// TCP: handshake done; others: replied.
    Established = 2,
    /// The opener sent FIN.
    OriginalFin = 3,
    /// The other side sent FIN.
    ReplyFin = 4,
    /// Both sent FIN.
    Closed = 5,
    /// An acceptable RST was seen (RFC 7857 section 2.2: wait, do not remove at once).
    Reset = 6,
}

/// TCP flag bits as in the 14th byte of the header.
pub mod tcp_flag {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// Which idle timer applies; index into [`crate::host::HostConfig::timeout_ns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutClass {
    /// TCP before the handshake is done and after it was closed (RFC 5382 REQ-5: at least 4 minutes).
    TcpTransitory = 0,
    /// TCP established or half-closed (RFC 5382 REQ-5: at least 2 hours 4 minutes).
    TcpEstablished = 1,
    /// UDP (RFC 4787 REQ-5: at least 2 minutes, 5 recommended), and SCTP, whose associations are not followed.
    Udp = 2,
    /// ICMP queries (RFC 5508 REQ-1: at least 60 seconds).
    Icmp = 3,
}

impl State {
    /// From a map's byte; an unknown one reads as [`State::Opening`], the shortest-lived.
    #[inline(always)]
    pub const fn from_u8(v: u8) -> Self {
        match v {
            1 => Self::Answered,
            2 => Self::Established,
            3 => Self::OriginalFin,
            4 => Self::ReplyFin,
            5 => Self::Closed,
            6 => Self::Reset,
            _ => Self::Opening,
        }
    }

    /// The state after a TCP segment with `flags` from the opener (`original`) or the other side.
    ///
    /// An out-of-window RST must not reach this function: see [`rst_acceptable`].
    #[inline(always)]
    pub const fn after_tcp(self, original: bool, flags: u8) -> Self {
        use State::*;
        if flags & tcp_flag::RST != 0 {
            return Reset;
        }
        let syn = flags & tcp_flag::SYN != 0;
        let fin = flags & tcp_flag::FIN != 0;
        match (self, original) {
            (Opening, false) if syn => Answered,
            (Opening, _) => Opening,
            (Answered, true) if flags & tcp_flag::ACK != 0 => {
                if fin {
                    OriginalFin
                } else {
                    Established
                }
            }
            (Answered, _) => Answered,
            (Established, true) if fin => OriginalFin,
            (Established, false) if fin => ReplyFin,
            (OriginalFin, false) if fin => Closed,
            (ReplyFin, true) if fin => Closed,
            // RFC 7857 section 2.2: a segment that is no RST shows that the flow lives on.
            (Reset, _) if !syn => Established,
            (s, _) => s,
        }
    }

    /// The state after a packet of a protocol without connections.
    #[inline(always)]
    pub const fn after_datagram(self, original: bool) -> Self {
        if original { self } else { State::Established }
    }

    /// Whether a SYN of the opener starts the entry anew instead of belonging to it.
    #[inline(always)]
    pub const fn restarts_on_syn(self) -> bool {
        matches!(self, Self::Closed | Self::Reset | Self::OriginalFin | Self::ReplyFin)
    }

    /// Whether a flow opened to a pod gives its place to a newer one when the pod's account is at its limit: TCP that is being
    /// opened or was closed, anything else that was never answered. A client that has completed its handshake is safe.
    #[inline(always)]
    pub const fn gives_way(self, proto: u8) -> bool {
        match proto {
            proto::TCP => matches!(self.timeout_class(proto), TimeoutClass::TcpTransitory),
            _ => matches!(self, Self::Opening),
        }
    }

    /// The idle timer that applies.
    #[inline(always)]
    pub const fn timeout_class(self, proto: u8) -> TimeoutClass {
        match proto {
            proto::TCP => match self {
                Self::Established | Self::OriginalFin | Self::ReplyFin => TimeoutClass::TcpEstablished,
                _ => TimeoutClass::TcpTransitory,
            },
            proto::ICMP | proto::ICMPV6 => TimeoutClass::Icmp,
            _ => TimeoutClass::Udp,
        }
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

/// Whether a RST with sequence number `seq` may close the flow: it must lie in the window the other side last
/// advertised (RFC 5961 section 3.2 is stricter at the end host; a middle box cannot know the exact edge).
///
/// `peer_ack` and `peer_window` are what the receiver of the RST last sent; a flow whose other side has sent nothing yet
/// (`peer_ack` 0 and `peer_window` 0) accepts any. Windows are unscaled here, so the largest scale (RFC 7323: 14) is assumed for
/// one that is not 0; sequence arithmetic is modulo 2^32.
#[inline(always)]
pub const fn rst_acceptable(seq: u32, peer_ack: u32, peer_window: u32) -> bool {
    if peer_ack == 0 && peer_window == 0 {
        return true;
    }
    seq.wrapping_sub(peer_ack) <= peer_window
}

plain!(FlowTuple<Addr4 | Addr6> { src, dst, sport, dport }: size 12 | 36, align 4);
plain!(FlowKey<Addr4 | Addr6> { tuple, zone, proto, _pad }: size 16 | 40, align 4);
plain!(FlowEntry<Addr4 | Addr6> {
    last_seen_ns, to, target, peer_zone, flags, state, ack, window, owner_slot, publish, _pad
}: size 48 | 72, align 8);

#[cfg(test)]
mod tests {
    use super::State::*;
    use super::tcp_flag::{ACK, FIN, RST, SYN};
    use super::*;
    use proptest::prelude::*;

    const STATES: [State; 7] = [Opening, Answered, Established, OriginalFin, ReplyFin, Closed, Reset];

    /// Every state, after each kind of segment: from the opener, then from the other side.
    #[test]
    fn tcp_states() {
        let kinds = [SYN, SYN | ACK, ACK, FIN | ACK, RST];
        let rows = [
            // SYN, SYN+ACK, ACK, FIN+ACK, RST
            (Opening, [Opening, Opening, Opening, Opening, Reset], [Answered, Answered, Opening, Opening, Reset]),
            (
                Answered,
                [Answered, Established, Established, OriginalFin, Reset],
                [Answered, Answered, Answered, Answered, Reset],
            ),
            (
                Established,
                [Established, Established, Established, OriginalFin, Reset],
                [Established, Established, Established, ReplyFin, Reset],
            ),
            (
                OriginalFin,
                [OriginalFin, OriginalFin, OriginalFin, OriginalFin, Reset],
                [OriginalFin, OriginalFin, OriginalFin, Closed, Reset],
            ),
            (ReplyFin, [ReplyFin, ReplyFin, ReplyFin, Closed, Reset], [ReplyFin, ReplyFin, ReplyFin, ReplyFin, Reset]),
            (Closed, [Closed, Closed, Closed, Closed, Reset], [Closed, Closed, Closed, Closed, Reset]),
            (Reset, [Reset, Reset, Established, Established, Reset], [Reset, Reset, Established, Established, Reset]),
        ];
        for (state, original, reply) in rows {
            for (i, flags) in kinds.into_iter().enumerate() {
                assert_eq!(state.after_tcp(true, flags), original[i], "{state:?}, the opener's {flags:#04x}");
                assert_eq!(state.after_tcp(false, flags), reply[i], "{state:?}, the other side's {flags:#04x}");
            }
        }
    }

    #[test]
    fn datagrams_establish_by_their_reply() {
        assert_eq!((Opening.after_datagram(true), Opening.after_datagram(false)), (Opening, Established));
        assert_eq!((Established.after_datagram(true), Established.after_datagram(false)), (Established, Established));
    }

    #[test]
    fn states_survive_the_map() {
        for state in STATES {
            assert_eq!(State::from_u8(state as u8), state);
        }
        assert_eq!(State::from_u8(200), Opening);
    }

    #[test]
    fn only_ended_connections_restart() {
        let restart: std::vec::Vec<_> = STATES.into_iter().filter(|s| s.restarts_on_syn()).collect();
        assert_eq!(restart, [OriginalFin, ReplyFin, Closed, Reset]);
    }

    #[test]
    fn half_open_and_ended_flows_give_way() {
        let of = |proto| STATES.into_iter().filter(move |s| s.gives_way(proto)).collect::<std::vec::Vec<_>>();
        assert_eq!(of(proto::TCP), [Opening, Answered, Closed, Reset]);
        assert_eq!(of(proto::UDP), [Opening]);
        assert_eq!(of(proto::ICMP), [Opening]);
    }

    #[test]
    fn timers() {
        use TimeoutClass::*;
        for (state, class) in STATES.into_iter().zip([
            TcpTransitory,
            TcpTransitory,
            TcpEstablished,
            TcpEstablished,
            TcpEstablished,
            TcpTransitory,
            TcpTransitory,
        ]) {
            assert_eq!(state.timeout_class(proto::TCP), class, "{state:?}");
            assert_eq!(state.timeout_class(proto::UDP), Udp);
            assert_eq!(state.timeout_class(proto::SCTP), Udp);
            assert_eq!(state.timeout_class(proto::ICMP), Icmp);
            assert_eq!(state.timeout_class(proto::ICMPV6), Icmp);
        }
    }

    #[test]
    fn resets_are_judged_by_the_window() {
        for (seq, ack, window, acceptable) in [
            (12345, 0, 0, true),
            (1000, 1000, 500, true),
            (1500, 1000, 500, true),
            (1501, 1000, 500, false),
            (999, 1000, 500, false),
            (5, u32::MAX - 4, 20, true),
            (20, u32::MAX - 4, 20, false),
            (1000, 1000, 0, true),
            (1001, 1000, 0, false),
        ] {
            assert_eq!(rst_acceptable(seq, ack, window), acceptable, "{seq} with {ack} and {window}");
        }
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
