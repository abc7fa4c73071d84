//! Published ports: from the LAN, from pods (hairpin), refused, drained; and everything that is the host's own.

mod common;
#[macro_use]
mod prog;

use std::net::IpAddr;
use std::time::Duration;

use netns::datapath::{Hook, PublishPorts};
use netns_ebpf_common::publish::Publish;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::*;

/// A client's packet to a published port, what the pod gets, and the flow.
fn published(b: &Bench, v: Version, to: Place, l4: L4, (id, pod, port): (u32, Pod, u16)) -> (Packet, Packet, Pair) {
    let (sport, _) = l4.ports();
    let sent = from_lan(CLIENT.ip(v), to.ip(v), l4);
    let got = sent.translated((CLIENT.ip(v), sport), (pod.ip(v), port)).delivered(pod);
    let flow = Pair::new(0, &sent, pod.network, &got, Target::Slot(pod.slot), Target::Uplink(b.uplink));
    (sent, got, flow.owned(pod.slot).published(id))
}

/// The pod's answer and what leaves.
fn answered(v: Version, from: (Pod, Place), l4: L4, as_port: u16) -> (Packet, Packet) {
    let (_, dport) = l4.ports();
    let sent = prog::from_pod(from.0, CLIENT.ip(v), l4);
    let left = sent.translated((from.1.ip(v), as_port), (CLIENT.ip(v), dport)).sent_on();
    (sent, left)
}

both!(
    fn published_ports_lead_to_their_pods(b, v) {
        // To, transport, publish and backend, the host's port.
        let rows = [
            (HOST, tcp(40_000, 8080, flag::SYN), (WEB, BLUE, 80)),
            (HOST, udp(40_000, 5353), (DNS, BLUE, 53)),
            (HOST2, udp(40_000, 5353), (DNS, BLUE, 53)),
            (HOST, tcp(40_000, 9000, flag::SYN), (RANGE, BLUE, 7000)),
            (HOST2, tcp(40_000, 9001, flag::SYN), (RANGE, BLUE, 7001)),
            (HOST, tcp(40_000, 9003, flag::SYN), (RANGE, BLUE, 7003)),
            (HOST, tcp(40_000, 8443, flag::SYN), (SMALL, GREEN, 443)),
            (HOST, tcp(40_000, 8081, flag::SYN), (ABROAD, YELLOW, 80)),
            // In SNAT's own range of ports, from the client's side.
            (HOST, tcp(25_000, 8080, flag::SYN), (WEB, BLUE, 80)),
            // A gateway's address is the host's as well.
            (GATEWAY, udp(40_000, 5353), (DNS, BLUE, 53)),
        ];
        for (to, l4, (id, pod, port)) in rows {
            b.datapath().delete_flows(|_| true).expect("delete");
            let is_tcp = matches!(l4, L4::Tcp { .. });
            let (sport, host_port) = l4.ports();
            println!("{} port {host_port}", to.ip(v));
            let (sent, got, flow) = published(b, v, to, l4, (id, pod, port));
            b.lan_sends(&sent, &Want::peer(pod, &got).publish_opens(id).flows([&flow]));
            // Once more, along the flow.
            b.lan_sends(&sent, &Want::peer(pod, &got).publish(id).flows([&flow]));
            let answer = if is_tcp { tcp(port, sport, flag::SYN | flag::ACK) } else { udp(port, sport) };
            let (sent, left) = answered(v, (pod, to), answer, host_port);
            let state = if is_tcp { State::Answered } else { State::Established };
            b.pod_sends(pod, &sent, &Want::neigh(&left).flows([&flow.state(state)]));
        }
    }
);

both!(
    fn a_published_connection_from_handshake_to_its_end(b, v) {
        let (sent, got, flow) = published(b, v, HOST, tcp(40_000, 8080, flag::SYN), (WEB, BLUE, 80));
        b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(WEB).flows([&flow]));
        let client = |flags, state| {
            let (sent, got, _) = published(b, v, HOST, tcp(40_000, 8080, flags), (WEB, BLUE, 80));
            b.lan_sends(&sent, &Want::peer(BLUE, &got).publish(WEB).flows([&flow.state(state)]));
        };
        let pod = |flags, state| {
            let (sent, left) = answered(v, (BLUE, HOST), tcp(80, 40_000, flags), 8080);
            b.pod_sends(BLUE, &sent, &Want::neigh(&left).flows([&flow.state(state)]));
        };
        pod(flag::SYN | flag::ACK, State::Answered);
        client(flag::ACK, State::Established);
        pod(flag::ACK, State::Assured);
        pod(flag::ACK | flag::FIN, State::ReplyFin);
        client(flag::ACK | flag::FIN, State::Closed);
        pod(flag::ACK, State::Closed);
        // The client opens another from the same port: a new flow of the publish.
        b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(WEB).flows([&flow]));
        // Without a number of its own and without the client's a reset ends nothing.
        pod(flag::RST, State::Opening);
        pod(flag::RST | flag::ACK, State::Reset);
    }
);

both!(
    fn the_clients_port_gives_way_only_to_another_flow_of_the_pod(b, v) {
        // Two of the host's addresses lead one client's one port to one port of the pod: it must tell them apart.
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_000));
        let (first, got, flow) = published(b, v, HOST, udp(40_000, 5353), (DNS, BLUE, 53));
        b.lan_sends(&first, &Want::peer(BLUE, &got).publish_opens(DNS).flows([&flow]));
        let second = from_lan(CLIENT.ip(v), HOST2.ip(v), udp(40_000, 5353));
        let second_got = second.translated((CLIENT.ip(v), 20_000), (BLUE.ip(v), 53)).delivered(BLUE);
        let second_flow = Pair::new(0, &second, 1, &second_got, Target::Slot(BLUE.slot), Target::Uplink(b.uplink))
            .owned(BLUE.slot)
            .published(DNS);
        let want = Want::peer(BLUE, &second_got).publish_opens(DNS).flows([&flow, &second_flow]);
        b.lan_sends(&second, &want);
        // Each answer leaves from the address its question came to.
        for (port, from, flows) in [
            (40_000, HOST, [flow.state(State::Established), second_flow]),
            (20_000, HOST2, [flow.state(State::Established), second_flow.state(State::Established)]),
        ] {
            let sent = prog::from_pod(BLUE, CLIENT.ip(v), udp(53, port));
            let left = sent.translated((from.ip(v), 5353), (CLIENT.ip(v), 40_000)).sent_on();
            b.pod_sends(BLUE, &sent, &Want::neigh(&left).flows(&flows));
        }
    }
);

both!(
    fn a_loopback_publish_is_not_the_lans(b, v) {
        for (to, port) in [(HOST, 6001), (HOST2, 6001), (HOST, 6000)] {
            let sent = from_lan(CLIENT.ip(v), to.ip(v), tcp(40_000, port, flag::SYN));
            b.lan_sends(&sent, &Want::pass(&sent));
        }
        let sent = from_lan(CLIENT.ip(v), LOOPBACK.ip(v), tcp(40_000, 6000, flag::SYN));
        b.lan_sends(&sent, &Want::drop(DropReason::Martian));
        // Nor another pod's.
        let sent = prog::from_pod(RED, HOST.ip(v), tcp(1000, 6001, flag::SYN));
        b.pod_sends(RED, &sent, &Want::host(&sent));
    }
);

both!(
    fn an_exact_address_goes_before_any(b, v) {
        let addr = if v == V4 { IpAddr::from(HOST.v4) } else { HOST.v6.into() };
        let ports = PublishPorts { addr: Some(addr), proto: 17, host_first: 5353, pod_first: 5300, count: 1 };
        let exact = Publish { slot: GREEN.slot, flags: Publish::ACTIVE, owner: 77 };
        b.datapath().put_publish(SMALL + 90, &exact, &ports).expect("publish");
        let (sent, got, flow) = published(b, v, HOST, udp(40_000, 5353), (SMALL + 90, GREEN, 5300));
        let meta = Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() };
        let out = b.run(Hook::FromUplink, meta, &sent.bytes());
        assert_eq!((out.action, out.frame), (7, got.bytes()));
        let (sent, got, other) = published(b, v, HOST2, udp(40_000, 5353), (DNS, BLUE, 53));
        b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(DNS).flows([&flow, &other]));
        assert!(b.datapath().remove_publish(SMALL + 90, 77, &ports).expect("remove"));
    }
);

both!(
    fn a_draining_publish_keeps_its_flows_and_takes_no_new(b, v) {
        let (sent, got, flow) = published(b, v, HOST, udp(40_000, 5353), (DNS, BLUE, 53));
        b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(DNS).flows([&flow]));
        b.configure_publish(DNS, |p| p.flags = 0);
        b.lan_sends(&sent, &Want::peer(BLUE, &got).publish(DNS).flows([&flow]));
        let new = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_001, 5353));
        b.lan_sends(&new, &Want::drop(DropReason::Draining));
        let hairpin = prog::from_pod(RED, HOST.ip(v), udp(1000, 5353));
        b.pod_sends(RED, &hairpin, &Want::drop(DropReason::Draining));
    }
);

both!(
    fn a_moved_publish_leads_new_flows_elsewhere(b, v) {
        let (old, old_got, old_flow) = published(b, v, HOST, udp(40_000, 5353), (DNS, BLUE, 53));
        b.lan_sends(&old, &Want::peer(BLUE, &old_got).publish_opens(DNS).flows([&old_flow]));
        b.configure_publish(DNS, |p| p.slot = GREEN.slot);
        let (new, new_got, new_flow) = published(b, v, HOST, udp(40_001, 5353), (DNS, GREEN, 53));
        b.lan_sends(&new, &Want::peer(GREEN, &new_got).publish_opens(DNS).flows([&old_flow, &new_flow]));
        b.lan_sends(&old, &Want::peer(BLUE, &old_got).publish(DNS));
    }
);

both!(
    fn a_backend_that_is_gone_is_counted(b, v) {
        let (sent, got, flow) = published(b, v, HOST, udp(40_000, 5353), (DNS, BLUE, 53));
        b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(DNS).flows([&flow]));
        b.remove(BLUE);
        b.lan_sends(&sent, &Want::drop(DropReason::BackendGone));
        let new = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_001, 5353));
        b.lan_sends(&new, &Want::drop(DropReason::BackendGone));
        let hairpin = prog::from_pod(RED, HOST.ip(v), udp(1000, 5353));
        b.pod_sends(RED, &hairpin, &Want::drop(DropReason::BackendGone));
    }
);

both!(
    fn a_backend_without_the_family_is_none(b, v) {
        let mut endpoint = b.datapath().endpoint(BLUE.slot).expect("read").expect("blue");
        match v {
            V4 => endpoint.addr4 = Default::default(),
            V6 => endpoint.addr6 = Default::default(),
        }
        b.datapath().put_endpoint(BLUE.slot, &endpoint).expect("change");
        let sent = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_001, 5353));
        b.lan_sends(&sent, &Want::drop(DropReason::BackendGone));
    }
);

both!(
    fn the_middle_of_an_unknown_published_connection_is_the_hosts(b, v) {
        for flags in [flag::ACK, flag::RST, flag::FIN | flag::ACK, flag::SYN | flag::ACK] {
            let sent = from_lan(CLIENT.ip(v), HOST.ip(v), tcp(40_000, 8080, flags));
            b.lan_sends(&sent, &Want::pass(&sent));
            // From a pod too: it may be the host's own connection from that port, which is older than the publish.
            let sent = prog::from_pod(RED, HOST.ip(v), tcp(1000, 8080, flags));
            b.pod_sends(RED, &sent, &Want::host(&sent));
        }
    }
);

both!(
    fn a_client_no_pod_can_answer_is_left_to_the_host(b, v) {
        let nobodys: &[&str] = match v {
            V4 => &["0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1"],
            V6 => &["::", "ff02::1", "fe80::20", "febf::1", "::ffff:192.0.2.20"],
        };
        for src in nobodys {
            for l4 in [tcp(40_000, 8080, flag::SYN), udp(40_000, 5353)] {
                let sent = from_lan(src.parse().expect("an address"), HOST.ip(v), l4);
                b.lan_sends(&sent, &Want::pass(&sent));
            }
        }
    }
);

both!(
    fn a_client_is_told_of_hops_and_mtu(b, v) {
        let header = if v == V4 { 28 } else { 48 };
        let macs = (prog::ROUTER_MAC, prog::UPLINK_MAC);
        let last = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 5353)).hops(1);
        let error = originated(Problem::TimeExceeded, HOST.ip(v), &last, macs);
        b.lan_sends(&last, &Want::reject(DropReason::HopLimit, &error).rx_dropped(BLUE));
        let big = from_lan(CLIENT.ip(v), HOST2.ip(v), udp(40_000, 5353).with_payload(1401 - header));
        let error = originated(Problem::TooBig(POD_MTU), HOST.ip(v), &big, macs);
        b.lan_sends(&big, &Want::reject(DropReason::TooBig, &error).rx_dropped(BLUE));
        // In a flow that is there.
        let (sent, got, flow) = published(b, v, HOST2, udp(40_000, 5353), (DNS, BLUE, 53));
        b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(DNS).flows([&flow]));
        b.lan_sends(&big, &Want::reject(DropReason::TooBig, &error).rx_dropped(BLUE));
    }
);

both!(
    fn hairpin_to_another_pod_and_back(b, v) {
        for (to, l4, (id, port), host_port) in [
            (HOST, tcp(1000, 8080, flag::SYN), (WEB, 80), 8080),
            (HOST2, udp(25_000, 5353), (DNS, 53), 5353),
            (GATEWAY, udp(25_001, 5353), (DNS, 53), 5353),
        ] {
            b.datapath().delete_flows(|_| true).expect("delete");
            let (sport, _) = l4.ports();
            let is_tcp = matches!(l4, L4::Tcp { .. });
            b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_000));
            let sent = prog::from_pod(RED, to.ip(v), l4.clone());
            let got = sent.translated((to.ip(v), 20_000), (BLUE.ip(v), port)).delivered(BLUE);
            let flow = Pair::new(1, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Slot(RED.slot))
                .owned(RED.slot)
                .published(id);
            b.pod_sends(RED, &sent, &Want::peer(BLUE, &got).hairpin_opens(id).flows([&flow]));
            let answer = if is_tcp { tcp(port, 20_000, flag::SYN | flag::ACK) } else { udp(port, 20_000) };
            let sent = prog::from_pod(BLUE, to.ip(v), answer);
            let got = sent.translated((to.ip(v), host_port), (RED.ip(v), sport)).delivered(RED);
            let state = if is_tcp { State::Answered } else { State::Established };
            b.pod_sends(BLUE, &sent, &Want::peer(RED, &got).flows([&flow.state(state)]));
        }
    }
);

both!(
    fn hairpin_to_itself_and_back(b, v) {
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_000));
        let sent = prog::from_pod(BLUE, HOST.ip(v), tcp(1000, 8080, flag::SYN));
        let got = sent.translated((HOST.ip(v), 20_000), (BLUE.ip(v), 80)).delivered(BLUE);
        let flow = Pair::new(1, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Slot(BLUE.slot))
            .owned(BLUE.slot)
            .published(WEB);
        b.pod_sends(BLUE, &sent, &Want::peer(BLUE, &got).hairpin_opens(WEB).flows([&flow]));
        let sent = prog::from_pod(BLUE, HOST.ip(v), tcp(80, 20_000, flag::SYN | flag::ACK));
        let got = sent.translated((HOST.ip(v), 8080), (BLUE.ip(v), 1000)).delivered(BLUE);
        b.pod_sends(BLUE, &sent, &Want::peer(BLUE, &got).flows([&flow.state(State::Answered)]));
    }
);

both!(
    fn hairpin_across_networks(b, v) {
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_000));
        // From network 1, and from network 3, whose subnets are the same and which has no way to the host.
        for pod in [RED, TWIN] {
            b.datapath().delete_flows(|_| true).expect("delete");
            let sent = prog::from_pod(pod, HOST.ip(v), tcp(1000, 8081, flag::SYN));
            let got = sent.translated((HOST.ip(v), 20_000), (YELLOW.ip(v), 80)).delivered(YELLOW);
            let flow =
                Pair::new(pod.network, &sent, 2, &got, Target::Slot(YELLOW.slot), Target::Slot(pod.slot))
                    .owned(pod.slot)
                    .published(ABROAD);
            b.pod_sends(pod, &sent, &Want::peer(YELLOW, &got).hairpin_opens(ABROAD).flows([&flow]));
            let sent = prog::from_pod(YELLOW, HOST.ip(v), tcp(80, 20_000, flag::SYN | flag::ACK));
            let got = sent.translated((HOST.ip(v), 8081), (pod.ip(v), 1000)).delivered(pod);
            b.pod_sends(YELLOW, &sent, &Want::peer(pod, &got).flows([&flow.state(State::Answered)]));
        }
    }
);

both!(
    fn hairpin_is_told_of_hops_and_mtu(b, v) {
        let header = if v == V4 { 40 } else { 60 };
        let macs = (RED.mac, RED.gateway_mac());
        let last = prog::from_pod(RED, HOST.ip(v), tcp(1000, 8443, flag::SYN)).hops(1);
        let error = originated(Problem::TimeExceeded, GATEWAY.ip(v), &last, macs);
        b.pod_sends(RED, &last, &Want::reject_to(RED, DropReason::HopLimit, &error));
        let big = prog::from_pod(RED, HOST.ip(v), tcp(1000, 8443, flag::SYN).with_payload(1301 - header));
        let error = originated(Problem::TooBig(GREEN_MTU), GATEWAY.ip(v), &big, macs);
        b.pod_sends(RED, &big, &Want::reject_to(RED, DropReason::TooBig, &error));
    }
);

both!(
    fn the_hosts_own_traffic_is_untouched(b, v) {
        let about_own = Packet::new(HOST.ip(v), SERVER.ip(v), udp(1000, 53)).ip_bytes();
        let rows = [
            (CLIENT, HOST, tcp(40_000, 22, flag::SYN)),
            (CLIENT, HOST, tcp(40_000, 22, flag::ACK)),
            (CLIENT, HOST, tcp(40_000, 22, flag::RST)),
            (CLIENT, HOST2, tcp(40_000, 8080, flag::SYN)),
            (CLIENT, HOST, udp(40_000, 8080)),
            (CLIENT, HOST, tcp(40_000, 5353, flag::SYN)),
            (CLIENT, HOST, tcp(40_000, 8999, flag::SYN)),
            (CLIENT, HOST, tcp(40_000, 9004, flag::SYN)),
            (SERVER, HOST, udp(53, 20_000)),
            (SERVER, HOST, echo(false, 7)),
            (CLIENT, HOST, echo(true, 7)),
            (CLIENT, HOST, L4::Raw { proto: 132, bytes: vec![0x5a; 40] }),
            (CLIENT, HOST, L4::Raw { proto: 50, bytes: vec![0x5a; 40] }),
            (ROUTER, HOST, Problem::PortUnreachable.quoting(v, &about_own)),
            (CLIENT, HOST, L4::Icmp { kind: 13, code: 0, rest: [0; 4], body: vec![0; 12] }),
            // Not the host's at all: its forwarding, if any, is its own business.
            (CLIENT, SERVER, tcp(40_000, 8080, flag::SYN)),
            (CLIENT, NOBODY, udp(40_000, 5353)),
        ];
        for (src, dst, l4) in rows {
            println!("{} to {}: {l4:?}", src.ip(v), dst.ip(v));
            for hops in [64, 1] {
                let sent = from_lan(src.ip(v), dst.ip(v), l4.clone()).hops(hops);
                b.lan_sends(&sent, &Want::pass(&sent));
            }
        }
        let groups = match v {
            V4 => ["224.0.0.251", "255.255.255.255", "240.0.0.1", "0.0.0.0"],
            V6 => ["ff02::1", "ff02::fb", "fe80::1", "::"],
        };
        for dst in groups {
            let sent = from_lan(CLIENT.ip(v), dst.parse().expect("address"), udp(40_000, 5353));
            b.lan_sends(&sent, &Want::pass(&sent));
        }
        // Neighbour discovery on the LAN's link.
        if v == V6 {
            let l4 = L4::Icmp { kind: 135, code: 0, rest: [0; 4], body: HOST.v6.octets().to_vec() };
            let sent = from_lan(CLIENT.ip(v), HOST.ip(v), l4).hops(255);
            b.lan_sends(&sent, &Want::pass(&sent));
        }
    }
);

both!(
    fn loopback_addresses_never_come_from_the_lan(b, v) {
        let others: &[&str] = if v == V4 { &["127.0.0.1", "127.0.0.2", "127.255.255.255"] } else { &["::1"] };
        for address in others {
            let address: IpAddr = address.parse().expect("address");
            for l4 in [udp(40_000, 5353), tcp(40_000, 6000, flag::SYN), echo(true, 7)] {
                let sent = from_lan(address, HOST.ip(v), l4.clone());
                b.lan_sends(&sent, &Want::drop(DropReason::Martian));
                let sent = from_lan(CLIENT.ip(v), address, l4);
                b.lan_sends(&sent, &Want::drop(DropReason::Martian));
            }
        }
    }
);

both!(
    fn nothing_reaches_a_pods_address_from_the_lan(b, v) {
        for pod in [RED, YELLOW] {
            for l4 in [udp(40_000, 53), tcp(40_000, 80, flag::SYN), tcp(40_000, 80, flag::ACK), echo(true, 7)] {
                let sent = from_lan(CLIENT.ip(v), pod.ip(v), l4);
                b.lan_sends(&sent, &Want::drop(DropReason::NotPublished).rx_dropped(pod));
            }
        }
    }
);

both!(
    fn a_published_flow_whose_time_is_over_is_opened_anew(b, v) {
        let (sent, got, flow) = published(b, v, HOST, udp(40_000, 5353), (DNS, BLUE, 53));
        b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(DNS).flows([&flow]));
        b.configure(|c| c.timeout_ns = [1_000_000; 4]);
        b.wait(Duration::from_millis(20));
        b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(DNS).flows([&flow]));
    }
);

both!(
    fn udp_without_a_checksum_stays_without(b, v) {
        // IPv6 allows it to tunnels only (RFC 6935); whoever gets it says what it thinks of it, the program makes none up.
        let bare = |sport, dport| L4::Udp { sport, dport, checksum: false, payload: vec![1, 2, 3] };
        let (sent, got, flow) = published(b, v, HOST, bare(40_000, 5353), (DNS, BLUE, 53));
        b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(DNS).flows([&flow]));
        let (sent, left) = answered(v, (BLUE, HOST), bare(53, 40_000), 5353);
        let flow = flow.state(State::Established);
        b.pod_sends(BLUE, &sent, &Want::neigh(&left).flows([&flow]));

        let sent = prog::from_pod(RED, HOST.ip(v), bare(20_001, 5353));
        let got = sent.translated((HOST.ip(v), 20_001), (BLUE.ip(v), 53)).delivered(BLUE);
        let hairpin = Pair::new(1, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Slot(RED.slot));
        let hairpin = hairpin.owned(RED.slot).published(DNS);
        b.pod_sends(RED, &sent, &Want::peer(BLUE, &got).hairpin_opens(DNS).flows([&flow, &hairpin]));
    }
);

both!(
    fn pieces_of_a_clients_datagram_reach_the_pod(b, v) {
        let sent = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 5353).with_payload(64));
        let got = sent.translated((CLIENT.ip(v), 40_000), (BLUE.ip(v), 53)).delivered(BLUE);
        let flow = Pair::new(0, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Uplink(b.uplink))
            .owned(BLUE.slot)
            .published(DNS);
        let ([first, later], [first_got, later_got]) = (sent.in_two(5, 32), got.in_two(5, 32));
        b.lan_sends(&first, &Want::peer(BLUE, &first_got).publish_opens(DNS).flows([&flow]));
        b.lan_sends(&later, &Want::peer(BLUE, &later_got).publish(DNS).flows([&flow]));
    }
);

#[test]
fn frames_that_are_no_ip_are_the_hosts() {
    bench(|b| {
        for ethertype in [[8, 6], [0x81, 0], [0x88, 0xcc], [0x88, 0x47], [0, 0x10]] {
            let mut frame = from_lan(CLIENT.ip(V4), HOST.ip(V4), udp(40_000, 5353)).bytes();
            frame[12..14].copy_from_slice(&ethertype);
            b.lan_sends_bytes(&frame, &Want::pass_bytes(&frame));
        }
    });
}
