//! Endpoint-independent mappings (RFC 4787 section 4.1): a pod's address and port are one of the host's whoever it talks to.
//!
//! A mapping is two entries of the flow table, as a flow is, with nobody at the other end (`-` is unspecified, port 0):
//!
//! ```text
//! inside   (network, pod:port -> -)    becomes  host:port -> -     TO_UPLINK
//! outside  (host, - -> host:port)      becomes  - -> pod:port      to the pod's slot
//! ```
//!
//! The outside entry is the claim on the port, among mappings; a flow towards somebody claims the port towards him besides, as
//! every flow does. The inside entry counts the flows whose source it is, in the field a flow keeps acknowledgements in, and is
//! stamped by the pod's packets, not by those that come in (RFC 4787 REQ-6).

use crate::family::Address;
use crate::flow::{FlowKey, FlowTuple, is_idle};
use crate::state::TimeoutClass;
use crate::{Port, abi, proto};

/// A flow stamps its mapping when the clock passes a multiple of this, about 69 seconds: a look-up then and not per packet.
const STAMP_NS: u64 = 1 << STAMP_SHIFT;
const STAMP_SHIFT: u32 = 36;

/// Writes the key of the inside entry for packets of this tuple's source; in place, as the programs' stack is short.
#[inline(always)]
pub fn set_inside_key<A: Address>(key: &mut FlowKey<A>, zone: u16, proto: u8, tuple: &FlowTuple<A>) {
    key.tuple.dst = A::default();
    key.tuple.dport = Port::default();
    aim_inside_key(key, zone, proto, tuple);
}

/// The same over another such key, whose far end is unspecified already.
#[inline(always)]
pub fn aim_inside_key<A: Address>(key: &mut FlowKey<A>, zone: u16, proto: u8, tuple: &FlowTuple<A>) {
    key.tuple.src.set(&tuple.src);
    key.tuple.sport = tuple.sport;
    key.zone = zone;
    key.proto = proto;
    key._pad = 0;
}

/// Writes the key of the outside entry for packets to this tuple's destination.
#[inline(always)]
pub fn set_outside_key<A: Address>(key: &mut FlowKey<A>, proto: u8, tuple: &FlowTuple<A>) {
    key.tuple.src = A::default();
    key.tuple.sport = Port::default();
    aim_outside_key(key, proto, tuple);
}

/// The same over another such key, whose far end is unspecified already.
#[inline(always)]
pub fn aim_outside_key<A: Address>(key: &mut FlowKey<A>, proto: u8, tuple: &FlowTuple<A>) {
    key.tuple.dst.set(&tuple.dst);
    key.tuple.dport = tuple.dport;
    key.zone = abi::ZONE_HOST;
    key.proto = proto;
    key._pad = 0;
}

/// Whether a packet of a flow that was last seen at `last_seen_ns` stamps its mapping.
#[inline(always)]
pub const fn stamps(last_seen_ns: u64, now_ns: u64) -> bool {
    last_seen_ns >> STAMP_SHIFT != now_ns >> STAMP_SHIFT
}

/// The timer of a mapping without flows: UDP's and ICMP's own; TCP's is the transitory one, as no connection is left.
#[inline(always)]
pub const fn timeout_class(proto: u8) -> TimeoutClass {
    match proto {
        proto::TCP => TimeoutClass::TcpTransitory,
        proto::ICMP | proto::ICMPV6 => TimeoutClass::Icmp,
        _ => TimeoutClass::Udp,
    }
}

/// Whether a mapping's time is over: without flows when it was idle for longer than `timeout_ns`.
///
/// One that counts flows lives on, but not for ever, should a count ever be lost: no longer than any flow does without a packet,
/// for which `longest_ns` is the timer, and for what the stamps lag behind.
#[inline(always)]
pub const fn is_expired(last_seen_ns: u64, flows: u32, now_ns: u64, timeout_ns: u64, longest_ns: u64) -> bool {
    let limit_ns = if flows == 0 { timeout_ns } else { longest_ns.saturating_add(2 * STAMP_NS) };
    is_idle(last_seen_ns, now_ns, limit_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Addr4;
    use crate::flow::FlowEntry;

    const POD: (Addr4, Port) = (Addr4([10, 0, 0, 2]), Port::new(5000));
    const HOST: (Addr4, Port) = (Addr4([192, 0, 2, 1]), Port::new(20_000));
    const PEER: (Addr4, Port) = (Addr4([198, 51, 100, 7]), Port::new(53));

    #[test]
    fn both_entries_point_at_each_other_and_are_found_by_any_flow() {
        let tuple =
            |src: (Addr4, Port), dst: (Addr4, Port)| FlowTuple { src: src.0, dst: dst.0, sport: src.1, dport: dst.1 };
        let nobody = (Addr4::UNSPECIFIED, Port::default());
        let (mut inside, mut outside) = (FlowKey::default(), FlowKey::default());
        set_inside_key(&mut inside, 3, proto::UDP, &tuple(POD, PEER));
        set_outside_key(&mut outside, proto::UDP, &tuple(PEER, HOST));
        let entry = |to, peer_zone| FlowEntry { to, peer_zone, ..FlowEntry::default() };
        assert_eq!(entry(tuple(HOST, nobody), abi::ZONE_HOST).peer_key(proto::UDP), outside);
        assert_eq!(entry(tuple(nobody, POD), 3).peer_key(proto::UDP), inside);
        // An echo's identifier is a port on the asking side only.
        let mut echo = FlowKey::default();
        set_inside_key(&mut echo, 3, proto::ICMP, &tuple(POD, (PEER.0, Port::default())));
        assert_eq!(echo.tuple, inside.tuple);
    }

    #[test]
    fn a_mapping_outlives_its_flows_by_its_timer() {
        assert!(!is_expired(1000, 0, 1100, 100, 500));
        assert!(is_expired(1000, 0, 1101, 100, 500));
        assert!(!is_expired(1000, 1, 1101, 100, 500), "it has a flow");
        assert!(!is_expired(1000, 1, 1500 + 2 * STAMP_NS, 100, 500));
        assert!(is_expired(1000, 1, 1501 + 2 * STAMP_NS, 100, 500), "no flow lives that long without a stamp");
        assert!(!is_expired(1000, u32::MAX, u64::MAX, 100, u64::MAX));
    }

    #[test]
    fn a_flow_that_goes_on_stamps_its_mapping_now_and_then() {
        assert!(!stamps(STAMP_NS, 2 * STAMP_NS - 1));
        assert!(stamps(STAMP_NS - 1, STAMP_NS));
        assert!(stamps(0, 5 * STAMP_NS));
    }

    #[test]
    fn timers() {
        assert_eq!(timeout_class(proto::TCP), TimeoutClass::TcpTransitory);
        assert_eq!(timeout_class(proto::UDP), TimeoutClass::Udp);
        assert_eq!(timeout_class(proto::ICMP), TimeoutClass::Icmp);
        assert_eq!(timeout_class(proto::ICMPV6), TimeoutClass::Icmp);
    }
}
