//! Pods among themselves: forwarding, errors the gateway sends, who may say what.

mod common;
#[macro_use]
mod prog;

use std::net::IpAddr;

use netns_ebpf_common::verdict::DropReason;
use prog::*;

/// Every transport a pod may send another pod.
fn transports() -> Vec<(&'static str, L4)> {
    vec![
        ("TCP SYN", tcp(1000, 80, flag::SYN)),
        ("TCP in the middle", tcp(1000, 80, flag::ACK)),
        ("TCP RST", tcp(1000, 80, flag::RST)),
        ("UDP", udp(1000, 53)),
        ("UDP without checksum", L4::Udp { sport: 1000, dport: 53, checksum: false, payload: vec![1, 2, 3] }),
        ("echo request", echo(true, 7)),
        ("echo reply", echo(false, 7)),
        ("SCTP", L4::Raw { proto: 132, bytes: vec![0x5a; 40] }),
        ("GRE", L4::Raw { proto: 47, bytes: vec![0x5a; 4] }),
        ("no payload at all", L4::Raw { proto: 59, bytes: Vec::new() }),
    ]
}

both!(
    fn every_transport_reaches_a_pod_of_the_network(b, v) {
        for (what, l4) in transports() {
            println!("{what}");
            let sent = from_pod(RED, BLUE.ip(v), l4);
            b.pod_sends(RED, &sent, &Want::peer(BLUE, &sent.delivered(BLUE)));
        }
    }
);

both!(
    fn pieces_of_a_datagram_reach_a_pod_in_any_order(b, v) {
        let whole = from_pod(RED, BLUE.ip(v), udp(1000, 53).with_payload(64));
        let [first, later] = whole.in_two(77, 32);
        for piece in [&later, &first, &later, &first] {
            b.pod_sends(RED, piece, &Want::peer(BLUE, &piece.delivered(BLUE)));
        }
    }
);

both!(
    fn the_hop_limit_goes_down_by_one(b, v) {
        for hops in [2, 3, 64, 128, 255] {
            let sent = from_pod(RED, BLUE.ip(v), udp(1000, 53)).hops(hops);
            assert_eq!(sent.delivered(BLUE).hop_limit, hops - 1);
            b.pod_sends(RED, &sent, &Want::peer(BLUE, &sent.delivered(BLUE)));
        }
    }
);

both!(
    fn service_class_and_congestion_bits_stay(b, v) {
        for class in [0xb8, 1, 2, 3, 0xff] {
            let sent = Packet { class, ..from_pod(RED, BLUE.ip(v), tcp(1000, 80, flag::ACK)) };
            b.pod_sends(RED, &sent, &Want::peer(BLUE, &sent.delivered(BLUE)));
        }
    }
);

both!(
    fn the_last_hop_gets_time_exceeded_from_the_gateway(b, v) {
        for hops in [0, 1] {
            for l4 in [udp(1000, 33434), tcp(1000, 80, flag::SYN), echo(true, 7)] {
                let sent = from_pod(RED, BLUE.ip(v), l4).hops(hops);
                let error = originated(Problem::TimeExceeded, GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
                b.pod_sends(RED, &sent, &Want::reject_to(RED, DropReason::HopLimit, &error));
            }
        }
    }
);

both!(
    fn an_address_nobody_has_gets_host_unreachable(b, v) {
        let rows = [
            (udp(1000, 53), "a short datagram"),
            (udp(1000, 53).with_payload(1200), "one longer than what is quoted"),
            (udp(1000, 53).with_payload(33), "one of odd length"),
            (tcp(1000, 80, flag::SYN), "a SYN"),
            (tcp(1000, 80, flag::RST), "a RST"),
            (echo(true, 7), "an echo request"),
            (L4::Raw { proto: 132, bytes: vec![0x5a; 40] }, "SCTP"),
        ];
        for (l4, what) in rows {
            println!("{what}");
            let sent = from_pod(RED, NOBODY.ip(v), l4);
            let error = originated(Problem::HostUnreachable, GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
            b.pod_sends(RED, &sent, &Want::reject_to(RED, DropReason::UnknownAddress, &error));
        }
    }
);

both!(
    fn the_ends_of_the_subnet_are_addresses_nobody_has(b, v) {
        let ends = match v {
            V4 => ["10.244.0.0", "10.244.0.255"],
            V6 => ["fd00:244::", "fd00:244::ffff:ffff:ffff:ffff"],
        };
        for dst in ends {
            let sent = from_pod(RED, dst.parse().expect("address"), udp(1000, 53));
            let error = originated(Problem::HostUnreachable, GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
            b.pod_sends(RED, &sent, &Want::reject_to(RED, DropReason::UnknownAddress, &error));
        }
    }
);

both!(
    fn a_pod_reaches_itself(b, v) {
        let sent = from_pod(RED, RED.ip(v), udp(1000, 53));
        b.pod_sends(RED, &sent, &Want::peer(RED, &sent.delivered(RED)));
    }
);

both!(
    fn a_pod_that_is_gone_is_an_address_nobody_has(b, v) {
        b.remove(BLUE);
        let sent = from_pod(RED, BLUE.ip(v), udp(1000, 53));
        let error = originated(Problem::HostUnreachable, GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
        b.pod_sends(RED, &sent, &Want::reject_to(RED, DropReason::UnknownAddress, &error));
    }
);

both!(
    fn no_error_answers_an_error_or_a_later_piece(b, v) {
        let quoted = Packet::new(NOBODY.ip(v), RED.ip(v), udp(53, 1000)).ip_bytes();
        let error = from_pod(RED, NOBODY.ip(v), Problem::PortUnreachable.quoting(v, &quoted));
        b.pod_sends(RED, &error, &Want::drop(DropReason::UnknownAddress));
        let [_, later] = from_pod(RED, NOBODY.ip(v), udp(1000, 53).with_payload(64)).in_two(78, 32);
        b.pod_sends(RED, &later, &Want::drop(DropReason::UnknownAddress));
    }
);

both!(
    fn what_does_not_fit_gets_the_mtu(b, v) {
        let header = if v == V4 { 20 } else { 40 };
        // Green's MTU is 1300: the largest that fits, and one byte more.
        let fits = from_pod(RED, GREEN.ip(v), udp(1000, 53).with_payload(GREEN_MTU as usize - header - 8));
        assert_eq!(fits.ip_bytes().len(), 1300);
        b.pod_sends(RED, &fits, &Want::peer(GREEN, &fits.delivered(GREEN)));
        for l4 in [udp(1000, 53), tcp(1000, 80, flag::ACK), echo(true, 7)] {
            let sent = from_pod(RED, GREEN.ip(v), l4.with_payload(GREEN_MTU as usize + 1 - header - 8));
            let error = originated(Problem::TooBig(GREEN_MTU), GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
            b.pod_sends(RED, &sent, &Want::reject_to(RED, DropReason::TooBig, &error));
        }
    }
);

both!(
    fn gso_is_judged_by_its_segments(b, v) {
        let headers = if v == V4 { 40 } else { 60 };
        let sent = from_pod(RED, GREEN.ip(v), tcp(1000, 80, flag::ACK).with_payload(3000));
        let meta = |gso_size| Meta { ifindex: RED.ifindex(), gso_size, ..Meta::default() };
        let fits = meta(GREEN_MTU - headers);
        b.expect(netns::datapath::Hook::FromPod, fits, &sent.bytes(), &Want::peer(GREEN, &sent.delivered(GREEN)));
        let error = originated(Problem::TooBig(GREEN_MTU), GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
        let want = Want::reject_to(RED, DropReason::TooBig, &error);
        b.expect(netns::datapath::Hook::FromPod, meta(GREEN_MTU - headers + 1), &sent.bytes(), &want);
    }
);

both!(
    fn a_foreign_mac_is_dropped(b, v) {
        for mac in [BLUE.mac, [2, 0, 0, 0, 9, 9], [0xff; 6], [0; 6]] {
            let mut sent = from_pod(RED, BLUE.ip(v), udp(1000, 53));
            sent.eth_src = mac;
            b.pod_sends(RED, &sent, &Want::drop(DropReason::SourceMac));
        }
    }
);

both!(
    fn a_foreign_source_is_dropped(b, v) {
        let rows = [BLUE.at, NOBODY, GATEWAY, HOST, SERVER, YELLOW.at, LOOPBACK];
        let mut sources: Vec<_> = rows.iter().map(|p| p.ip(v)).collect();
        let odd = match v {
            V4 => ["0.0.0.0", "255.255.255.255", "224.0.0.1", "169.254.0.1"],
            V6 => ["::", "ff02::1", "fe80::1", "::ffff:10.244.0.10"],
        };
        sources.extend(odd.map(|a| a.parse::<IpAddr>().expect("address")));
        for src in sources {
            for dst in [BLUE.ip(v), SERVER.ip(v), GATEWAY.ip(v)] {
                for l4 in [udp(1000, 53), tcp(1000, 80, flag::SYN)] {
                    let mut sent = from_pod(RED, dst, l4);
                    sent.src = src;
                    println!("{src} to {dst}");
                    b.pod_sends(RED, &sent, &Want::drop(DropReason::SourceAddress));
                }
            }
        }
    }
);

both!(
    fn a_pod_without_the_family_sends_none_of_it(b, v) {
        let mut endpoint = b.datapath().endpoint(RED.slot).expect("read").expect("red");
        match v {
            V4 => endpoint.addr4 = Default::default(),
            V6 => endpoint.addr6 = Default::default(),
        }
        b.datapath().put_endpoint(RED.slot, &endpoint).expect("change");
        for src in [RED.ip(v), if v == V4 { "0.0.0.0".parse().expect("ip") } else { "::".parse().expect("ip") }] {
            let mut sent = from_pod(RED, BLUE.ip(v), udp(1000, 53));
            sent.src = src;
            b.pod_sends(RED, &sent, &Want::drop(DropReason::SourceAddress));
        }
    }
);

both!(
    fn destinations_no_packet_goes_to_are_dropped(b, v) {
        let rows: &[(&str, DropReason)] = match v {
            V4 => &[
                ("224.0.0.251", DropReason::Multicast),
                ("239.1.2.3", DropReason::Multicast),
                ("255.255.255.255", DropReason::Multicast),
                ("127.0.0.1", DropReason::Martian),
                ("127.255.0.9", DropReason::Martian),
                ("0.0.0.0", DropReason::Martian),
                ("0.1.2.3", DropReason::Martian),
                ("240.0.0.1", DropReason::Martian),
                ("255.255.255.254", DropReason::Martian),
            ],
            V6 => &[
                ("ff02::1", DropReason::Multicast),
                ("ff02::fb", DropReason::Multicast),
                ("ff05::2", DropReason::Multicast),
                ("::1", DropReason::Martian),
                ("::", DropReason::Martian),
                ("::ffff:198.51.100.7", DropReason::Martian),
                ("::10.244.0.20", DropReason::Martian),
                ("fe80::1", DropReason::Martian),
                ("febf::1", DropReason::Martian),
            ],
        };
        for (dst, reason) in rows {
            println!("{dst}");
            let sent = from_pod(RED, dst.parse().expect("address"), udp(1000, 53));
            b.pod_sends(RED, &sent, &Want::drop(*reason));
        }
    }
);

both!(
    fn a_frame_on_a_device_that_is_no_pods_is_dropped(b, v) {
        b.remove(RED);
        let sent = from_pod(RED, BLUE.ip(v), udp(1000, 53)).bytes();
        let meta = Meta { ifindex: b.uplink, ..Meta::default() };
        b.expect(netns::datapath::Hook::FromPod, meta, &sent, &Want::drop(DropReason::NoEndpoint));
        let (meta, before) = (Meta { ifindex: RED.ifindex(), ..Meta::default() }, prog::want::counters(b));
        assert_eq!(b.run(netns::datapath::Hook::FromPod, meta, &sent).action, 2);
        let grown = prog::want::growth(&before, &prog::want::counters(b));
        // Nobody's packets are on nobody's account.
        assert_eq!(grown.keys().collect::<Vec<_>>(), ["drop no-endpoint", "verdict from_pod drop"]);
    }
);

both!(
    fn redirects_reach_nobody(b, v) {
        let kind = if v == V4 { 5 } else { 137 };
        for dst in [BLUE.ip(v), SERVER.ip(v), GATEWAY.ip(v)] {
            let l4 = L4::Icmp { kind, code: 1, rest: [0; 4], body: vec![0; 40] };
            let sent = from_pod(RED, dst, l4).hops(255);
            b.pod_sends(RED, &sent, &Want::drop(DropReason::RouterAdvertisement));
        }
    }
);

#[test]
fn frames_of_other_types_are_dropped() {
    bench(|b| {
        for ethertype in [[0x81, 0x00], [0x88, 0xa8], [0x88, 0x47], [0x00, 0x10], [0x88, 0xcc], [0x88, 0x63], [0, 0]] {
            let mut frame = from_pod(RED, BLUE.ip(V4), udp(1000, 53)).bytes();
            frame[12..14].copy_from_slice(&ethertype);
            b.pod_sends_bytes(RED, &frame, &Want::drop(DropReason::UnknownEtherType));
        }
        // A tag in front of a packet that is right: nothing looks behind it.
        let inner = from_pod(RED, BLUE.ip(V4), udp(1000, 53)).bytes();
        let frame = [&inner[..12], &[0x81, 0, 0, 5], &inner[12..]].concat();
        b.pod_sends_bytes(RED, &frame, &Want::drop(DropReason::UnknownEtherType));
    });
}
