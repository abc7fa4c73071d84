use super::*;
use crate::{Addr4, Port};
use proptest::prelude::*;

fn tuple(n: u32) -> FlowTuple<Addr4> {
    let [a, b, c, d] = n.to_be_bytes();
    FlowTuple { src: Addr4([10, a, b, 1]), dst: Addr4([192, c, d, 2]), sport: Port([a, d]), dport: Port([b, c]) }
}

fn opening(plan: Plan, to: FlowTuple<Addr4>) -> Opening<Addr4> {
    let range = Range { min: 20_000, max: 32_767 };
    let mut o = Opening {
        plan,
        flow: Pair::default(),
        mapping: Pair::default(),
        candidate: FlowKey::default(),
        place: 0,
        best: FlowKey::default(),
        best_yields: Yield::NEVER,
        search: Search::default(),
        destination: Destination::default(),
        replaces: false,
        look: Look::default(),
    };
    o.search.reset(range, 0, true, true);
    o.search.counts = range;
    o.flow.entry.to = to;
    o
}

#[test]
fn plans_say_where_both_directions_go_and_who_pays() {
    let out = Plan::leaving(3, 7, 42);
    assert_eq!((out.target, out.peer_target), (Target::uplink(42), Target::pod(7)));
    assert_eq!((out.zone, out.peer_zone), (3, ZONE_HOST));
    assert_eq!(out.account(), Account { slot: 7, incoming: false });
    let into = Plan::arriving(42, 7, 3);
    assert_eq!((into.target, into.peer_target), (Target::pod(7), Target::uplink(42)));
    assert_eq!((into.zone, into.peer_zone), (ZONE_HOST, 3));
    assert_eq!(into.account(), Account { slot: 7, incoming: true });
    let hairpin = Plan::hairpin(3, 7, 9, 4, 11);
    assert_eq!((hairpin.target, hairpin.peer_target, hairpin.publish), (Target::pod(9), Target::pod(7), 11));
    assert_eq!(hairpin.account(), Account { slot: 7, incoming: false });
}

#[test]
fn ports_outside_the_range_are_kept_by_tcp_and_sctp_only() {
    let range = Range { min: 20_000, max: 32_767 };
    for (proto, port, kept) in [
        (proto::TCP, 45_678, true),
        (proto::TCP, 1023, false),
        (proto::TCP, 20_000, true),
        (proto::UDP, 45_678, false),
        (proto::UDP, 32_767, true),
        (proto::ICMP, 45_678, false),
        (proto::SCTP, 80, true),
    ] {
        assert_eq!(may_keep_port(proto, port, Ports::HostRange, range), kept, "{proto} {port}");
        assert_eq!(may_keep_port(proto, port, Ports::Pool, range), kept, "{proto} {port}");
        assert!(may_keep_port(proto, port, Ports::Prefer, range));
    }
}

#[test]
fn tcp_ports_outside_the_range_have_the_parity_the_host_does_not_take() {
    let range = Range { min: 20_000, max: 32_767 };
    let of = |proto, port, odd| preferred_port(proto, port, Ports::HostRange, range, odd);
    assert_eq!([45_678, 45_679, 65_535].map(|p| of(proto::TCP, p, false)), [45_679, 45_679, 65_535]);
    assert_eq!([45_678, 45_679, 65_535].map(|p| of(proto::TCP, p, true)), [45_678, 45_678, 65_534]);
    assert_eq!([20_000, 32_767, 1023].map(|p| of(proto::TCP, p, false)), [20_000, 32_767, 1023]);
    assert_eq!([of(proto::UDP, 45_678, false), of(proto::SCTP, 80, false)], [45_678, 80]);
    for ports in [Ports::Keep, Ports::Prefer, Ports::Mapped] {
        assert_eq!(preferred_port(proto::TCP, 45_678, ports, range, false), 45_678);
    }
}

proptest! {
    /// The two entries of a flow lead to each other, whatever it is translated to, and whatever port was claimed.
    #[test]
    fn each_entry_leads_to_the_other(seen: u32, to: u32, claimed: u16, slot in 0_u32..8192, zone in 1_u16..256) {
        for plan in [Plan::leaving(zone, slot, 5), Plan::arriving(5, slot, zone), Plan::hairpin(zone, slot, 1, 2, 3)] {
            let (seen, to) = (tuple(seen), tuple(to));
            let mut o = opening(plan, to);
            o.begin(proto::TCP, &seen, 99);
            o.flow.peer_key.tuple.dport = Port::new(claimed);
            o.finish();
            let f = &o.flow;
            prop_assert_eq!(f.entry.peer_key(proto::TCP), f.peer_key);
            prop_assert_eq!(f.peer_entry.peer_key(proto::TCP), f.key);
            prop_assert_eq!(f.key, FlowKey::new(plan.zone, proto::TCP, seen));
            prop_assert_eq!(f.entry.to, FlowTuple { sport: Port::new(claimed), ..to });
            prop_assert!(f.entry.is_original() && !f.peer_entry.is_original());
            prop_assert_eq!(f.entry.flags.has(FlowFlags::TRANSLATED), f.entry.to != seen);
            prop_assert_eq!((f.entry.target(), f.peer_entry.target()), (plan.target, plan.peer_target));
            prop_assert_eq!((f.entry.last_seen_ns, f.peer_entry.last_seen_ns), (99, 99));
        }
    }

    /// So do those of a mapping, and the flow it is made for can be given its port.
    #[test]
    fn a_mapping_is_found_from_both_sides(seen: u32, to: u32, claimed: u16, slot in 0_u32..8192, zone in 1_u16..256) {
        let (seen, to) = (tuple(seen), tuple(to));
        let mut o = opening(Plan::leaving(zone, slot, 5), to);
        o.plan.ports = Ports::HostRange;
        mapping::set_inside_key(&mut o.mapping.key, zone, proto::UDP, &seen);
        o.begin(proto::UDP, &seen, 99);
        o.begin_mapping(proto::UDP, &seen, 99);
        o.mapping.peer_key.tuple.dport = Port::new(claimed);
        o.finish_mapping();
        let m = &o.mapping;
        prop_assert_eq!(m.entry.peer_key(proto::UDP), m.peer_key);
        prop_assert_eq!(m.peer_entry.peer_key(proto::UDP), m.key);
        prop_assert_eq!((m.entry.to.src, m.entry.to.sport), (to.src, Port::new(claimed)));
        prop_assert_eq!(m.entry.flags.has(FlowFlags::PORT_COUNTED), (20_000..=32_767).contains(&claimed));
    }
}
