//! Ports and table entries: which a flow gets, which it must not get, and what happens when there are none.

mod common;
#[macro_use]
mod prog;

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};

use netns::datapath::{Hook, PublishPorts};
use netns_ebpf_common::host::HostConfig;
use netns_ebpf_common::network::Network;
use netns_ebpf_common::publish::Publish;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::flows::{masqueraded, opens, pair, table};
use prog::*;

/// The one flow's port on the wire.
fn wire_port(b: &Bench) -> u16 {
    let table = table(b.datapath());
    let original: Vec<_> = table.iter().filter(|r| r.original).collect();
    assert_eq!(original.len(), 1, "{table:?}");
    original[0].to_sport
}

both!(
    fn a_port_outside_the_range_is_replaced_by_one_inside(b, v) {
        for l4 in [udp(1000, 53), tcp(1023, 80, flag::SYN), echo(true, 7), udp(19_999, 53), udp(32_768, 53)] {
            b.datapath().delete_flows(|_| true).expect("delete");
            let sent = from_pod(RED, SERVER.ip(v), l4.clone());
            // The port is the program's to choose: run once to learn it, then look at everything.
            let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
            assert_eq!(b.run(Hook::FromPod, meta, &sent.bytes()).action, 7);
            let port = wire_port(b);
            assert!(SNAT.contains(&port), "{port}");
            let (sent, left) = masqueraded(v, SERVER, l4, port);
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&pair(b, &sent, &left)]));
            let (sport, dport) = sent.l4.ports();
            let back = match &sent.l4 {
                L4::Tcp { .. } => tcp(dport, port, flag::SYN | flag::ACK),
                L4::Udp { .. } => udp(dport, port),
                _ => echo(false, port),
            };
            let reply = from_lan(SERVER.ip(v), HOST.ip(v), back);
            let got = reply.translated((SERVER.ip(v), dport), (RED.ip(v), sport)).delivered(RED);
            let state = if matches!(sent.l4, L4::Tcp { .. }) { State::Answered } else { State::Established };
            b.lan_sends(&reply, &Want::peer(RED, &got).flows([&pair(b, &sent, &left).state(state)]));
        }
    }
);

both!(
    fn a_clients_tcp_port_outside_the_range_is_kept_and_a_udp_one_is_not(b, v) {
        for port in [1024, 19_999, 32_768, 65_535] {
            b.datapath().delete_flows(|_| true).expect("delete");
            // An even one becomes the odd one behind it: the even ones are the host's to connect from.
            let (sent, left) = masqueraded(v, SERVER, tcp(port, 80, flag::SYN), port | 1);
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&pair(b, &sent, &left)]));
            assert_eq!(b.ports_counted(), [0, 0], "it is none of the range");
            let (_, at) = opens(b, v, RED, SERVER, udp(port, 80)).expect("a port");
            assert!(SNAT.contains(&at), "UDP {port} left as {at}");
            assert_eq!(b.ports_counted(), [4, 1]);
            // Another pod's connection from that port to that server.
            let (_, at) = opens(b, v, BLUE, SERVER, tcp(port, 80, flag::SYN)).expect("a port");
            assert!(SNAT.contains(&at), "{port} left as {at}");
        }
        // The host's own, and a published one.
        let any = if v == V4 { "0.0.0.0" } else { "::" };
        let _listens = TcpListener::bind((any, 40_001)).expect("bind");
        let (_, at) = opens(b, v, RED, SERVER, tcp(40_000, 80, flag::SYN)).expect("a port");
        assert!(SNAT.contains(&at), "40000 left as {at}");
        // Where the host takes odd ones it is the other way round.
        b.configure(|c| c.flags |= HostConfig::HOST_TAKES_ODD);
        let (_, at) = opens(b, v, RED, SERVER, tcp(8081, 80, flag::SYN)).expect("a port");
        assert!(SNAT.contains(&at), "8080 is published: 8081 left as {at}");
        let (_, at) = opens(b, v, RED, SERVER, tcp(50_001, 80, flag::SYN)).expect("a port");
        assert_eq!(at, 50_000);
    }
);

both!(
    fn two_pods_with_one_port_get_two(b, v) {
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_001));
        let (red, red_left) = masqueraded(v, SERVER, udp(20_000, 53), 20_000);
        b.pod_sends(RED, &red, &Want::neigh(&red_left).flows([&pair(b, &red, &red_left)]));
        let blue = from_pod(BLUE, SERVER.ip(v), udp(20_000, 53));
        let left = blue.translated((HOST.ip(v), 20_001), (SERVER.ip(v), 53)).sent_on();
        let blue_pair =
            Pair::new(1, &blue, 0, &left, Target::Uplink(b.uplink), Target::Slot(BLUE.slot)).owned(BLUE.slot);
        b.pod_sends(BLUE, &blue, &Want::neigh(&left).flows([&pair(b, &red, &red_left), &blue_pair]));
        // Towards another server the port is free: a mapping is per destination.
        let other = from_pod(BLUE, SERVER2.ip(v), udp(20_000, 53));
        let other_left = other.translated((HOST.ip(v), 20_000), (SERVER2.ip(v), 53)).sent_on();
        let other_pair =
            Pair::new(1, &other, 0, &other_left, Target::Uplink(b.uplink), Target::Slot(BLUE.slot)).owned(BLUE.slot);
        let all = [&pair(b, &red, &red_left), &blue_pair, &other_pair];
        b.pod_sends(BLUE, &other, &Want::neigh(&other_left).flows(all));
    }
);

both!(
    fn networks_with_one_subnet_both_reach_the_lan(b, v) {
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_001));
        // The same addresses, ports and destination: only the networks differ.
        let red = from_pod(RED, SERVER.ip(v), udp(20_000, 53));
        let red_left = red.translated((HOST.ip(v), 20_000), (SERVER.ip(v), 53)).sent_on();
        let red_pair = pair(b, &red, &red_left);
        b.pod_sends(RED, &red, &Want::neigh(&red_left).flows([&red_pair]));
        let twin = from_pod(TWIN, SERVER.ip(v), udp(20_000, 53));
        let twin_left = twin.translated((HOST.ip(v), 20_001), (SERVER.ip(v), 53)).sent_on();
        let twin_pair =
            Pair::new(3, &twin, 0, &twin_left, Target::Uplink(b.uplink), Target::Slot(TWIN.slot)).owned(TWIN.slot);
        b.pod_sends(TWIN, &twin, &Want::neigh(&twin_left).flows([&red_pair, &twin_pair]));
        for (pod, port) in [(RED, 20_000), (TWIN, 20_001)] {
            let reply = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, port));
            let got = reply.translated((SERVER.ip(v), 53), (pod.ip(v), 20_000)).delivered(pod);
            let state = |p: &Pair, answered: bool| if answered { p.state(State::Established) } else { *p };
            let all = [&state(&red_pair, true), &state(&twin_pair, pod == TWIN)];
            b.lan_sends(&reply, &Want::peer(pod, &got).flows(all));
        }
    }
);

both!(
    fn the_last_free_port_is_found_and_then_the_pod_is_told(b, v) {
        for ports in 1..=4_u16 {
            b.datapath().delete_flows(|_| true).expect("delete");
            b.end_back_off(v);
            b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_000 + ports - 1));
            let mut seen = BTreeSet::new();
            for i in 0..ports {
                let sent = from_pod(RED, SERVER.ip(v), udp(1000 + i, 53));
                let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
                assert_eq!(b.run(Hook::FromPod, meta, &sent.bytes()).action, 7, "port {i} of {ports}");
                seen.extend(table(b.datapath()).iter().filter(|r| r.original).map(|r| r.to_sport));
                assert_eq!(seen.len(), usize::from(i) + 1, "each flow has a port of its own: {seen:?}");
            }
            assert!(seen.iter().all(|p| (20_000..20_000 + ports).contains(p)), "{seen:?}");
            for l4 in [udp(999, 53), udp(20_000, 53)] {
                let sent = from_pod(RED, SERVER.ip(v), l4);
                let error = originated(Problem::Prohibited, GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
                b.pod_sends(RED, &sent, &Want::reject_to(RED, DropReason::PortsExhausted, &error));
            }
            // Another protocol has ports of its own.
            let sent = from_pod(RED, SERVER.ip(v), tcp(20_000, 53, flag::SYN));
            let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
            assert_eq!(b.run(Hook::FromPod, meta, &sent.bytes()).action, 7);
        }
    }
);

/// Of two ports a pod gets the free one, also when it asks for the other, and the next flow to the destination none.
#[track_caller]
fn gets_the_free_one_only(b: &Bench, v: Version, l4: &L4, free: u16, taken: u16) {
    for sport in [1000, taken] {
        b.datapath().delete_flows(|_| true).expect("delete");
        let (sent, left) = masqueraded(v, SERVER, l4.clone().with_ports(sport, 53), free);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&pair(b, &sent, &left)]));
    }
    let sent = from_pod(RED, SERVER.ip(v), l4.clone().with_ports(1001, 53));
    let error = originated(Problem::Prohibited, GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
    b.pod_sends(RED, &sent, &Want::reject_to(RED, DropReason::PortsExhausted, &error));
}

both!(
    fn a_port_of_the_hosts_own_is_never_given(b, v) {
        let any = if v == V4 { "0.0.0.0" } else { "::" };
        let bind = |port| format!("{}:{port}", if v == V4 { any.to_owned() } else { format!("[{any}]") });
        let _udp = UdpSocket::bind(bind(20_000)).expect("bind");
        let _tcp = TcpListener::bind(bind(20_001)).expect("bind");
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_001));
        for (l4, free, owned) in [(udp(1000, 53), 20_001, 20_000), (tcp(1000, 53, flag::SYN), 20_000, 20_001)] {
            gets_the_free_one_only(b, v, &l4, free, owned);
        }
    }
);

both!(
    fn a_published_port_is_never_given(b, v) {
        let publish = |id: u32, addr: Option<Place>, proto, port| {
            let declaration = Publish { slot: BLUE.slot, flags: Publish::ACTIVE, owner: id.into() };
            let addr = addr.map(|a| a.ip(v));
            let ports = PublishPorts { addr, proto, host_first: port, pod_first: 80, count: 1 };
            b.datapath().put_publish(id, &declaration, &ports).expect("publish");
            move || assert!(b.datapath().remove_publish(id, id.into(), &ports).expect("remove"))
        };
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_001));
        // At any address, at the uplink's; what is published elsewhere or for another transport does not matter.
        let undo = [
            publish(100, None, 17, 20_000),
            publish(101, Some(HOST), 6, 20_001),
            publish(102, Some(HOST2), 6, 20_000),
        ];
        for (l4, free, taken) in [(udp(1000, 53), 20_001, 20_000), (tcp(1000, 53, flag::SYN), 20_000, 20_001)] {
            gets_the_free_one_only(b, v, &l4, free, taken);
        }
        undo.into_iter().for_each(|undo| undo());
    }
);

both!(
    fn replies_go_before_published_ports(b, v) {
        let (sent, left) = masqueraded(v, SERVER, udp(20_000, 53), 20_000);
        let flow = pair(b, &sent, &left);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
        // Published later: the flow that has the port keeps it.
        let declaration = Publish { slot: BLUE.slot, flags: Publish::ACTIVE, owner: 100 };
        let ports = PublishPorts { addr: None, proto: 17, host_first: 20_000, pod_first: 80, count: 1 };
        b.datapath().put_publish(100, &declaration, &ports).expect("publish");
        let reply = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000));
        let got = reply.translated((SERVER.ip(v), 53), (RED.ip(v), 20_000)).delivered(RED);
        let flow = flow.state(State::Established);
        b.lan_sends(&reply, &Want::peer(RED, &got).flows([&flow]));
        let ask = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 20_000));
        let got = ask.translated((CLIENT.ip(v), 40_000), (BLUE.ip(v), 80)).delivered(BLUE);
        let published = Pair::new(0, &ask, 1, &got, Target::Slot(BLUE.slot), Target::Uplink(b.uplink));
        let published = published.owned(BLUE.slot).published(100);
        b.lan_sends(&ask, &Want::peer(BLUE, &got).flows([&flow, &published]));
        assert!(b.datapath().remove_publish(100, 100, &ports).expect("remove"));
    }
);

both!(
    fn two_flows_nothing_tells_apart_are_one_too_many(b, v) {
        // Neither network masquerades, and both have the pod's address.
        b.configure_network(1, |n| n.flags &= !Network::MASQUERADE);
        b.configure_network(3, |n| n.flags &= !Network::MASQUERADE);
        let sent = from_pod(RED, SERVER.ip(v), udp(1000, 53));
        let flow = pair(b, &sent, &sent);
        b.pod_sends(RED, &sent, &Want::neigh(&sent.sent_on()).flows([&flow]));
        let twin = from_pod(TWIN, SERVER.ip(v), udp(1000, 53));
        let error = originated(Problem::Prohibited, GATEWAY.ip(v), &twin, (TWIN.mac, TWIN.gateway_mac()));
        b.pod_sends(TWIN, &twin, &Want::reject_to(TWIN, DropReason::PortsExhausted, &error));
        let reply = from_lan(SERVER.ip(v), RED.ip(v), udp(53, 1000));
        b.lan_sends(&reply, &Want::peer(RED, &reply.delivered(RED)).flows([&flow.state(State::Established)]));
    }
);

both!(
    fn a_full_table_refuses_new_flows_and_keeps_the_old(b, v) {
        // The table in the kernel is smaller than the settings say: what they allow is refused by the table itself.
        b.configure(|c| c.flows = 10 * FLOWS);
        let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
        let (first, left) = masqueraded(v, SERVER, udp(20_000, 53), 20_000);
        b.pod_sends(RED, &first, &Want::neigh(&left).flows([&pair(b, &first, &left)]));
        for i in 1..FLOW_ENTRIES as u16 / 2 {
            let sent = from_pod(RED, SERVER.ip(v), udp(20_000 + i, 53)).bytes();
            assert_eq!(b.run(Hook::FromPod, meta, &sent).action, 7, "flow {i}");
        }
        assert_eq!(table(b.datapath()).len(), FLOW_ENTRIES as usize);
        for l4 in [udp(30_000, 53), udp(1000, 53), tcp(30_000, 80, flag::SYN), echo(true, 30_000)] {
            let sent = from_pod(RED, SERVER.ip(v), l4);
            b.pod_sends(RED, &sent, &Want::drop(DropReason::FlowTableFull));
        }
        b.pod_sends(RED, &first, &Want::neigh(&left));
        // With room for one entry only, the half that went in is taken back.
        b.remove_reply_entry(v);
        assert_eq!(table(b.datapath()).len(), FLOW_ENTRIES as usize - 1);
        let sent = from_pod(RED, SERVER.ip(v), udp(30_000, 53));
        b.pod_sends(RED, &sent, &Want::drop(DropReason::FlowTableFull));
        b.datapath().delete_flows(|r| r.original && r.sport == 20_005).expect("delete");
        let sent = sent.bytes();
        assert_eq!(b.run(Hook::FromPod, meta, &sent).action, 7, "there is room again");
        b.assert_accounts();
    }
);
