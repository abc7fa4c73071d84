//! Endpoint-independent mapping and filtering (RFC 4787): one port of the host for a pod's port, whoever it talks to.

mod common;
#[macro_use]
mod prog;

use std::net::{IpAddr, UdpSocket};

use netns::datapath::{Hook, PublishPorts};
use netns_ebpf_common::publish::Publish;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::mapping::{TCP, UDP, independent, leaves, opened, range, reaches, sends};
use prog::*;

both!(
    fn rfc4787_req_1_a_port_is_the_same_for_all_destinations(b, v) {
        independent(b, false);
        // Blue has the port red would keep, towards one destination; an address-dependent mapping would keep it to others.
        let blue_at = (HOST.ip(v), 20_000);
        let m = |flows| Pair::mapping(b, v, UDP, (BLUE, 20_000), blue_at, flows);
        let blue = sends(b, v, BLUE, SERVER, udp(20_000, 53), blue_at, &[m(1)]);
        range(b, 20_000..=20_002);
        let red_at = (HOST.ip(v), 20_002);
        let mut flows = vec![m(1), blue];
        for (n, (to, dport)) in [(SERVER, 53), (SERVER2, 53), (SERVER, 54), (CLIENT, 9)].into_iter().enumerate() {
            let mapping = Pair::mapping(b, v, UDP, (RED, 20_000), red_at, n as u32 + 1);
            let table: Vec<_> = flows.iter().copied().chain([mapping]).collect();
            flows.push(sends(b, v, RED, to, udp(20_000, dport), red_at, &table));
        }
        // Another port of red is another mapping, with a port of its own though the destinations differ (REQ-3).
        let other = Pair::mapping(b, v, UDP, (RED, 1), (HOST.ip(v), 20_001), 1);
        let table: Vec<_> =
            flows.iter().copied().chain([other, Pair::mapping(b, v, UDP, (RED, 20_000), red_at, 4)]).collect();
        sends(b, v, RED, KEPT_NOT, udp(1, 53), (HOST.ip(v), 20_001), &table);
    }
);

/// A destination nothing else here uses.
const KEPT_NOT: Place = ROUTER;

both!(
    fn rfc4787_req_3_no_two_mappings_have_one_port(b, v) {
        independent(b, false);
        range(b, 20_000..=20_001);
        let at = |port| (HOST.ip(v), port);
        let red = Pair::mapping(b, v, UDP, (RED, 20_000), at(20_000), 1);
        let one = sends(b, v, RED, SERVER, udp(20_000, 53), at(20_000), &[red]);
        let blue = Pair::mapping(b, v, UDP, (BLUE, 20_000), at(20_001), 1);
        let two = sends(b, v, BLUE, SERVER2, udp(20_000, 53), at(20_001), &[red, one, blue]);
        // None is left, wherever to.
        let sent = from_pod(GREEN, CLIENT.ip(v), udp(20_000, 53));
        let error = originated(Problem::Prohibited, GATEWAY.ip(v), &sent, (GREEN.mac, GREEN.gateway_mac()));
        b.pod_sends(GREEN, &sent, &Want::reject_to(GREEN, DropReason::PortsExhausted, &error));
        // Other protocols have ports of their own.
        let tcp_red = Pair::mapping(b, v, TCP, (RED, 20_000), at(20_000), 1);
        sends(b, v, RED, SERVER, tcp(20_000, 80, flag::SYN), at(20_000), &[red, one, blue, two, tcp_red]);
    }
);

both!(
    fn rfc5508_req_1_an_echo_identifier_is_the_same_for_all_destinations(b, v) {
        independent(b, false);
        let proto = if v == V4 { 1 } else { 58 };
        let (blue_at, red_at) = ((HOST.ip(v), 20_000), (HOST.ip(v), 20_002));
        range(b, 20_000..=20_002);
        let mut table = vec![Pair::mapping(b, v, proto, (BLUE, 20_000), blue_at, 1)];
        table.push(sends(b, v, BLUE, SERVER, echo(true, 20_000), blue_at, &table));
        for (n, to) in [SERVER, SERVER2].into_iter().enumerate() {
            let mapping = Pair::mapping(b, v, proto, (RED, 20_000), red_at, n as u32 + 1);
            let all: Vec<_> = table.iter().copied().chain([mapping]).collect();
            table.push(sends(b, v, RED, to, echo(true, 20_000), red_at, &all));
        }
    }
);

both!(
    fn rfc5382_req_1_tcp_too(b, v) {
        independent(b, false);
        range(b, 20_000..=20_002);
        let (blue_at, red_at) = ((HOST.ip(v), 20_000), (HOST.ip(v), 20_002));
        let mut table = vec![Pair::mapping(b, v, TCP, (BLUE, 20_000), blue_at, 1)];
        table.push(sends(b, v, BLUE, SERVER, tcp(20_000, 80, flag::SYN), blue_at, &table));
        for (n, to) in [SERVER, SERVER2].into_iter().enumerate() {
            let mapping = Pair::mapping(b, v, TCP, (RED, 20_000), red_at, n as u32 + 1);
            let all: Vec<_> = table.iter().copied().chain([mapping]).collect();
            table.push(sends(b, v, RED, to, tcp(20_000, 80, flag::SYN), red_at, &all));
        }
        // An uninvited SYN gets no answer: one would end the open that comes from inside (RFC 5382 REQ-4).
        let sent = from_lan(CLIENT.ip(v), HOST.ip(v), tcp(4000, 20_002, flag::SYN));
        b.lan_sends(&sent, &Want::drop(DropReason::Filtered).rx_dropped(RED));
        // The middle of a connection nobody knows is the host's, as ever.
        let sent = from_lan(CLIENT.ip(v), HOST.ip(v), tcp(4000, 20_002, flag::ACK));
        b.lan_sends(&sent, &Want::pass(&sent));
        let sent = from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, 20_000, flag::SYN | flag::ACK));
        let got = sent.translated((SERVER.ip(v), 80), (BLUE.ip(v), 20_000)).delivered(BLUE);
        table[1] = table[1].state(State::Answered);
        table.push(Pair::mapping(b, v, TCP, (RED, 20_000), red_at, 2));
        b.lan_sends(&sent, &Want::peer(BLUE, &got).flows(&table));
    }
);

both!(
    fn rfc4787_req_8_filtering_by_address_and_port(b, v) {
        independent(b, false);
        let at = (HOST.ip(v), 20_000);
        let mapping = Pair::mapping(b, v, UDP, (RED, 20_000), at, 1);
        let flow = sends(b, v, RED, SERVER, udp(20_000, 53), at, &[mapping]);
        let table = [mapping, flow.state(State::Established)];
        reaches(b, v, (SERVER, 53), at, (RED, 20_000), &table);
        for (from, port) in [(SERVER, 54), (SERVER2, 53), (CLIENT, 20_000)] {
            let sent = from_lan(from.ip(v), at.0, udp(port, at.1));
            b.lan_sends(&sent, &Want::drop(DropReason::Filtered).rx_dropped(RED));
        }
        // A port without a mapping is the host's.
        let sent = from_lan(SERVER2.ip(v), at.0, udp(53, 20_001));
        b.lan_sends(&sent, &Want::pass(&sent));
    }
);

both!(
    fn rfc4787_req_8_open_filtering_lets_anybody_in(b, v) {
        independent(b, true);
        let at = (HOST.ip(v), 20_000);
        let mapping = |flows| Pair::mapping(b, v, UDP, (RED, 20_000), at, flows);
        let mut table = vec![mapping(1)];
        table.push(sends(b, v, RED, SERVER, udp(20_000, 53), at, &table));
        for (n, from) in [(SERVER, 54), (SERVER2, 53), (CLIENT, 20_000)].into_iter().enumerate() {
            table[0] = mapping(n as u32 + 2);
            table.push(opened(b, v, from, at, (RED, 20_000)));
            reaches(b, v, from, at, (RED, 20_000), &table);
            // Again, along the flow.
            reaches(b, v, from, at, (RED, 20_000), &table);
            // And what red answers leaves with its port.
            let sent = from_pod(RED, from.0.ip(v), udp(20_000, from.1));
            let left = sent.translated(at, (from.0.ip(v), from.1)).sent_on();
            let last = table.len() - 1;
            table[last] = table[last].state(State::Established);
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows(&table));
        }
        // TCP's and UDP's mappings are two, and an echo request is the host's.
        let sent = from_lan(CLIENT.ip(v), at.0, tcp(4000, at.1, flag::SYN));
        b.lan_sends(&sent, &Want::pass(&sent));
        let sent = from_lan(CLIENT.ip(v), at.0, echo(true, at.1));
        b.lan_sends(&sent, &Want::pass(&sent));
    }
);

both!(
    fn somebody_may_connect_to_an_open_mapping(b, v) {
        independent(b, true);
        let at = (HOST.ip(v), 20_000);
        let mapping = |flows| Pair::mapping(b, v, TCP, (RED, 20_000), at, flows);
        let flow = sends(b, v, RED, SERVER, tcp(20_000, 80, flag::SYN), at, &[mapping(1)]);
        let sent = from_lan(CLIENT.ip(v), at.0, tcp(4000, at.1, flag::SYN));
        let got = sent.translated((CLIENT.ip(v), 4000), (RED.ip(v), 20_000)).delivered(RED);
        let new = Pair::new(0, &sent, 1, &got, Target::Slot(RED.slot), Target::Uplink(b.uplink)).owned(RED.slot);
        b.lan_sends(&sent, &Want::peer(RED, &got).flows([&mapping(2), &flow, &new]));
        let sent = from_pod(RED, CLIENT.ip(v), tcp(20_000, 4000, flag::SYN | flag::ACK));
        let left = sent.translated(at, (CLIENT.ip(v), 4000)).sent_on();
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&mapping(2), &flow, &new.state(State::Answered)]));
    }
);

both!(
    fn nobody_is_no_sender(b, v) {
        independent(b, true);
        let at = (HOST.ip(v), 20_000);
        let mapping = Pair::mapping(b, v, UDP, (RED, 20_000), at, 1);
        let flow = sends(b, v, RED, SERVER, udp(20_000, 53), at, &[mapping]);
        // The very key of the outside entry.
        let sent = from_lan(NOBODY_AT_ALL.ip(v), at.0, udp(0, at.1));
        b.lan_sends(&sent, &Want::pass(&sent).flows([&mapping, &flow]));
        let sent = from_lan(NOBODY_AT_ALL.ip(v), at.0, udp(53, at.1));
        b.lan_sends(&sent, &Want::pass(&sent));
    }
);

both!(
    fn the_ports_of_mappings_are_no_other_networks(b, v) {
        independent(b, false);
        range(b, 20_000..=20_001);
        let at = |port| (HOST.ip(v), port);
        let mapping = Pair::mapping(b, v, UDP, (RED, 20_000), at(20_000), 1);
        let flow = sends(b, v, RED, SERVER, udp(20_000, 53), at(20_000), &[mapping]);
        // Network 3 has no mappings; towards another destination the port would be free.
        let twin = sends(b, v, TWIN, SERVER2, udp(20_000, 53), at(20_001), &[mapping, flow]);
        // A port another network's flow has towards the first destination is not made a mapping...
        let table = [mapping, flow, twin];
        let sent = from_pod(BLUE, SERVER2.ip(v), udp(20_001, 53));
        let error = originated(Problem::Prohibited, GATEWAY.ip(v), &sent, (BLUE.mac, BLUE.gateway_mac()));
        b.pod_sends(BLUE, &sent, &Want::reject_to(BLUE, DropReason::PortsExhausted, &error));
        // ... but one it has towards a later one only is, and gives way there to the next free port.
        range(b, 20_000..=20_003);
        let blue = |flows| Pair::mapping(b, v, UDP, (BLUE, 20_001), at(20_001), flows);
        let all: Vec<_> = table.into_iter().chain([blue(1)]).collect();
        let first = sends(b, v, BLUE, SERVER, udp(20_001, 53), at(20_001), &all);
        let all: Vec<_> = all.into_iter().chain([first]).collect();
        sends(b, v, BLUE, SERVER2, udp(20_001, 53), at(20_003), &all);
    }
);

both!(
    fn a_port_of_the_hosts_own_or_published_is_no_mappings(b, v) {
        independent(b, false);
        let any = if v == V4 { "0.0.0.0" } else { "::" };
        let _held = UdpSocket::bind((any, 20_000)).expect("bind");
        let declaration = Publish { slot: BLUE.slot, flags: Publish::ACTIVE, owner: 100 };
        let ports = PublishPorts { addr: None, proto: UDP, host_first: 20_002, pod_first: 80, count: 1 };
        b.datapath().put_publish(100, &declaration, &ports).expect("publish");
        // Of six ports five are for mappings.
        range(b, 20_000..=20_005);
        let at = (HOST.ip(v), 20_004);
        let mapping = Pair::mapping(b, v, UDP, (RED, 20_000), at, 1);
        sends(b, v, RED, SERVER, udp(20_000, 53), at, &[mapping]);
        assert!(b.datapath().remove_publish(100, 100, &ports).expect("remove"));
    }
);

both!(
    fn a_port_published_later_is_the_publishs_for_whom_the_filter_forbids(b, v) {
        let at = (HOST.ip(v), 20_000);
        let declaration = Publish { slot: BLUE.slot, flags: Publish::ACTIVE, owner: 100 };
        let ports = PublishPorts { addr: None, proto: UDP, host_first: 20_000, pod_first: 80, count: 1 };
        for open in [false, true] {
            b.reset();
            independent(b, open);
            let mapping = |flows| Pair::mapping(b, v, UDP, (RED, 20_000), at, flows);
            let flow = sends(b, v, RED, SERVER, udp(20_000, 53), at, &[mapping(1)]);
            b.datapath().put_publish(100, &declaration, &ports).expect("publish");
            if open {
                let new = opened(b, v, (CLIENT, 40_000), at, (RED, 20_000));
                reaches(b, v, (CLIENT, 40_000), at, (RED, 20_000), &[mapping(2), flow, new]);
            } else {
                let new = opened(b, v, (CLIENT, 40_000), at, (BLUE, 80)).published(100);
                reaches(b, v, (CLIENT, 40_000), at, (BLUE, 80), &[mapping(1), flow, new]);
            }
            assert!(b.datapath().remove_publish(100, 100, &ports).expect("remove"));
        }
    }
);

both!(
    fn a_mapping_has_an_address_of_the_pool_and_keeps_it(b, v) {
        independent(b, false);
        // The programs know both for the host's.
        let pool = [HOST2.ip(v), HOST.ip(v)];
        b.set_snat_pool(1, &pool, &pool);
        let at = (HOST2.ip(v), 20_000);
        let mapping = |flows| Pair::mapping(b, v, UDP, (RED, 20_000), at, flows);
        let one = sends(b, v, RED, SERVER, udp(20_000, 53), at, &[mapping(1)]);
        // Where the pool changes, a mapping stays while the host has its address.
        b.set_snat_pool(1, &pool, &pool[1..]);
        let two = sends(b, v, RED, SERVER2, udp(20_000, 53), at, &[mapping(2), one]);
        // Without the address it ends, and the next flow gets another.
        let left: Vec<_> = [HOST, GATEWAY, GATEWAY2].iter().map(|p| (p.ip(v), b.uplink)).collect();
        b.datapath().sync_host_addresses(&left).expect("host addresses");
        let now_at = (HOST.ip(v), 20_000);
        let new = Pair::mapping(b, v, UDP, (RED, 20_000), now_at, 1);
        sends(b, v, RED, CLIENT, udp(20_000, 53), now_at, &[one, two, new]);
    }
);

both!(
    fn the_exhausted_ports_of_one_address_are_found_at_the_next_for_mappings_too(b, v) {
        independent(b, false);
        let pool = [HOST2.ip(v), HOST.ip(v)];
        b.set_snat_pool(1, &pool, &pool);
        range(b, 20_000..=20_000);
        let first = Pair::mapping(b, v, UDP, (RED, 1000), (HOST2.ip(v), 20_000), 1);
        let one = sends(b, v, RED, SERVER, udp(1000, 53), (HOST2.ip(v), 20_000), &[first]);
        let second = Pair::mapping(b, v, UDP, (RED, 1001), (HOST.ip(v), 20_000), 1);
        sends(b, v, RED, SERVER2, udp(1001, 53), (HOST.ip(v), 20_000), &[first, one, second]);
    }
);

both!(
    fn what_keeps_its_source_has_no_mapping(b, v) {
        independent(b, false);
        let kept = from_pod(RED, KEPT.ip(v), udp(20_000, 53));
        let flow = Pair::new(1, &kept, 0, &kept, Target::Uplink(b.uplink), Target::Slot(RED.slot)).owned(RED.slot);
        b.pod_sends(RED, &kept, &Want::neigh(&kept.sent_on()).flows([&flow]));
        // Nor has another network's pod.
        sends(b, v, TWIN, SERVER, udp(20_000, 53), (HOST.ip(v), 20_000), &[flow]);
    }
);

both!(
    fn an_error_about_a_mapped_flow_reaches_its_pod(b, v) {
        independent(b, false);
        let at = (HOST.ip(v), 20_000);
        let mapping = Pair::mapping(b, v, UDP, (RED, 20_000), at, 1);
        let flow = sends(b, v, RED, SERVER, udp(20_000, 53), at, &[mapping]);
        let quote = |src: (IpAddr, u16)| Packet::new(src.0, SERVER.ip(v), udp(src.1, 53)).ip_bytes();
        let error = from_lan(ROUTER.ip(v), at.0, Problem::PortUnreachable.quoting(v, &quote(at)));
        let mut got = error.clone();
        got.dst = RED.ip(v);
        got.l4 = Problem::PortUnreachable.quoting(v, &quote((RED.ip(v), 20_000)));
        b.lan_sends(&error, &Want::peer(RED, &got.delivered(RED)).flows([&mapping, &flow]));
        // One that quotes the mapping's own key is about nothing.
        let nothing = Packet::new(at.0, NOBODY_AT_ALL.ip(v), udp(at.1, 0)).ip_bytes();
        let error = from_lan(ROUTER.ip(v), at.0, Problem::PortUnreachable.quoting(v, &nothing));
        b.lan_sends(&error, &Want::pass(&error));
    }
);

both!(
    fn many_first_packets_at_once_make_one_mapping(b, v) {
        independent(b, false);
        // Blue has the port red would keep, so that it has to be searched for.
        let blue_at = (HOST.ip(v), 20_000);
        let blue = Pair::mapping(b, v, UDP, (BLUE, 20_000), blue_at, 1);
        sends(b, v, BLUE, SERVER, udp(20_000, 53), blue_at, &[blue]);
        let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
        const THREADS: u16 = 4;
        const EACH: u16 = 12;
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || {
                    for n in 0..EACH {
                        let sent = from_pod(RED, SERVER2.ip(v), udp(20_000, 1000 * (thread + 1) + n)).bytes();
                        assert_eq!(b.run(Hook::FromPod, meta, &sent).action, 7, "datagram {n} of {thread}");
                    }
                });
            }
        });
        let flows = b.datapath().flows().expect("flows");
        let mappings: Vec<_> = flows.iter().filter(|r| r.mapping.is_some() && r.owner_slot == Some(RED.slot)).collect();
        assert_eq!(mappings.len(), 2, "{mappings:?}");
        let inside = mappings.iter().find(|r| r.to_sport != 0).expect("the inside entry");
        assert_eq!(inside.mapping, Some(u32::from(THREADS * EACH)));
        let of_red: Vec<_> = flows.iter().filter(|r| r.original && r.owner_slot == Some(RED.slot)).collect();
        assert_eq!(of_red.len(), usize::from(THREADS * EACH));
        assert!(of_red.iter().all(|r| (r.to_src, r.to_sport) == (inside.to_src, inside.to_sport)), "{of_red:?}");
        // They all leave it.
        b.datapath().delete_flows(|r| r.original && r.owner_slot == Some(RED.slot)).expect("delete");
        let flows = b.datapath().flows().expect("flows");
        assert_eq!(flows.iter().filter_map(|r| r.mapping).sum::<u32>(), 1, "blue's alone");
    }
);

both!(
    fn by_an_uplink_with_another_address_a_flow_has_no_mapping(b, v) {
        independent(b, false);
        let at = (HOST.ip(v), 20_000);
        let mapping = Pair::mapping(b, v, UDP, (RED, 20_000), at, 1);
        let first = sends(b, v, RED, SERVER, udp(20_000, 53), at, &[mapping]);
        b.set_uplink_address(b.bare, HOST2);
        let (sent, left, _) = leaves(b, v, RED, BARE_SIDE, udp(20_000, 53), (HOST2.ip(v), 20_000));
        let other = Pair::new(1, &sent, 0, &left, Target::Uplink(b.bare), Target::Slot(RED.slot)).owned(RED.slot);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&mapping, &first, &other]));
        // With a pool the address is the network's, whatever the way.
        let pool = [HOST.ip(v)];
        b.set_snat_pool(1, &pool, &pool);
        let (sent, left, _) = leaves(b, v, RED, BARE_SIDE, udp(20_000, 54), at);
        let pooled = Pair::new(1, &sent, 0, &left, Target::Uplink(b.bare), Target::Slot(RED.slot)).owned(RED.slot);
        let mapping = Pair::mapping(b, v, UDP, (RED, 20_000), at, 2);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&mapping, &first, &other, &pooled]));
    }
);
