//! Every reason to drop a packet, given once: a reason nothing produces would be a counter that lies.

mod common;
#[macro_use]
mod prog;

use netns::datapath::Hook;
use netns_ebpf_common::network::Network;
use netns_ebpf_common::publish::Publish;
use netns_ebpf_common::verdict::DropReason;
use prog::want::{counters, growth};
use prog::*;

/// What only a kernel in trouble produces, a helper that refuses an edit; and what no test-run makes, a checksum left to the device
/// (`netns_offload.rs` does).
const NOT_BY_A_PACKET: [DropReason; 2] = [DropReason::Internal, DropReason::ChecksumOffload];

/// Makes the program give a reason; `None` for those no packet can.
fn provoke(b: &Bench, v: Version, reason: DropReason) -> Option<()> {
    let pod = Meta { ifindex: RED.ifindex(), ..Meta::default() };
    let lan = Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() };
    let host = Meta { ifindex: gateway_ifindex(1), ..Meta::default() };
    let red = |dst: Place, l4| from_pod(RED, dst.ip(v), l4);
    let send = |p: &Packet| drop(b.run(Hook::FromPod, pod, &p.bytes()));
    let from_client =
        |dst: Place, l4| drop(b.run(Hook::FromUplink, lan, &from_lan(CLIENT.ip(v), dst.ip(v), l4).bytes()));
    let datagram = || red(BLUE.at, udp(1000, 53));
    let arp = |operation: u8, sender: [u8; 4], target: [u8; 4]| {
        let mac = RED.mac;
        let frame =
            [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &mac, &sender, &[0; 6], &target].concat();
        drop(b.run(Hook::FromPod, pod, &frame));
    };
    match reason {
        DropReason::Malformed => {
            let mut frame = datagram().bytes();
            frame[14] = 0;
            b.run(Hook::FromPod, pod, &frame);
        }
        DropReason::UnknownEtherType => {
            let mut frame = datagram().bytes();
            frame[12] = 0x81;
            b.run(Hook::FromPod, pod, &frame);
        }
        DropReason::SourceMac => send(&Packet { eth_src: BLUE.mac, ..datagram() }),
        DropReason::SourceAddress => send(&Packet { src: GREEN.ip(v), ..datagram() }),
        DropReason::ArpSpoof => arp(2, BLUE.at.v4.octets(), GATEWAY.v4.octets()),
        DropReason::UnknownNeighbour => arp(1, RED.at.v4.octets(), SERVER.v4.octets()),
        DropReason::NdpSpoof => {
            let l4 = L4::Icmp { kind: 136, code: 0, rest: [0x20, 0, 0, 0], body: BLUE.at.v6.octets().to_vec() };
            send(&from_pod(RED, GREEN.ip(V6), l4).hops(255));
        }
        DropReason::RouterAdvertisement => {
            let kind = if v == V4 { 5 } else { 134 };
            send(&red(BLUE.at, L4::Icmp { kind, code: 0, rest: [0; 4], body: vec![0; 32] }));
        }
        DropReason::NeighbourNoise => {
            let l4 = L4::Icmp { kind: 133, code: 0, rest: [0; 4], body: Vec::new() };
            send(&from_pod(RED, BLUE.ip(V6), l4));
        }
        DropReason::Multicast => {
            let group = if v == V4 { "224.0.0.1" } else { "ff02::1" };
            send(&from_pod(RED, group.parse().expect("address"), udp(1000, 53)));
        }
        DropReason::Martian => send(&red(LOOPBACK, udp(1000, 53))),
        DropReason::NoEndpoint => drop(b.run(Hook::FromPod, lan, &datagram().bytes())),
        DropReason::UnknownAddress => send(&red(NOBODY, udp(1000, 53))),
        DropReason::HopLimit => send(&datagram().hops(1)),
        DropReason::TooBig => send(&red(GREEN.at, udp(1000, 53).with_payload(1400))),
        DropReason::NoRoute => send(&red(NOWHERE, udp(1000, 53))),
        DropReason::NoHostAccess => {
            let meta = Meta { ifindex: TWIN.ifindex(), ..Meta::default() };
            b.run(Hook::FromPod, meta, &from_pod(TWIN, HOST.ip(v), udp(1000, 53)).bytes());
        }
        DropReason::NoUplinkAddress => send(&red(BARE_SIDE, udp(1000, 53))),
        DropReason::PortsExhausted => {
            b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_000));
            send(&red(SERVER, udp(1000, 53)));
            send(&red(SERVER, udp(1001, 53)));
        }
        DropReason::FlowTableFull => {
            b.configure(|c| c.flows = 1);
            send(&red(SERVER, udp(20_000, 53)));
            // In use, or it would give its place to the next one.
            b.run(Hook::FromUplink, lan, &from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000)).bytes());
            send(&red(SERVER, udp(20_000, 53)));
            send(&red(SERVER, udp(20_001, 53)));
        }
        DropReason::FlowLimit => {
            for port in 20_000..=20_000 + FLOWS as u16 / 2 {
                send(&red(SERVER, udp(port, 53)));
                // In use, or it would give its place to the next one.
                b.run(Hook::FromUplink, lan, &from_lan(SERVER.ip(v), HOST.ip(v), udp(53, port)).bytes());
                send(&red(SERVER, udp(port, 53)));
            }
        }
        DropReason::TcpFlags => send(&red(SERVER, tcp(1000, 80, flag::SYN | flag::FIN))),
        DropReason::NoFlow => send(&red(SERVER, tcp(1000, 80, flag::ACK))),
        DropReason::UnknownProtocol => send(&red(SERVER, L4::Raw { proto: 47, bytes: vec![0; 12] })),
        DropReason::Fragment => {
            // One more than there is room for.
            for id in 0..65 {
                let [_, later] = from_lan(CLIENT.ip(v), RED.ip(v), udp(1000, 53)).in_two(id, 8);
                b.run(Hook::FromUplink, lan, &later.bytes());
            }
        }
        DropReason::FragmentOverlap => {
            let [first, _] = red(SERVER, udp(1000, 53)).in_two(1, 8);
            send(&first);
            send(&first);
        }
        DropReason::ExtensionHeader => {
            let mut p = from_pod(RED, BLUE.ip(V6), udp(1000, 53));
            p.extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0]); 9];
            send(&p);
        }
        DropReason::Filtered => {
            b.configure_network(1, |n| n.flags |= Network::ENDPOINT_INDEPENDENT);
            b.datapath().set_mappings(true).expect("settings");
            send(&red(SERVER, udp(20_000, 53)));
            from_client(HOST, udp(1000, 20_000));
        }
        DropReason::NotPublished => from_client(RED.at, udp(1000, 53)),
        DropReason::NotFromHost => {
            let meta = Meta { ingress_ifindex: b.uplink, ..host };
            b.run(Hook::FromHost, meta, &from_host(1, CLIENT.ip(v), RED.ip(v), udp(1000, 53)).bytes());
        }
        DropReason::Draining => {
            b.configure_publish(DNS, |p| p.flags = 0);
            from_client(HOST, udp(1000, 5353));
        }
        DropReason::NotAllowed => {
            b.configure_publish(DNS, |p| p.flags |= Publish::RESTRICTED);
            from_client(HOST, udp(1000, 5353));
        }
        DropReason::BackendGone => {
            b.remove(BLUE);
            from_client(HOST, udp(1000, 5353));
        }
        DropReason::IcmpUnrelated => {
            let about = Packet::new(SERVER.ip(v), RED.ip(v), udp(53, 1000)).ip_bytes();
            send(&red(SERVER, Problem::PortUnreachable.quoting(v, &about)));
        }
        DropReason::SourceRoute => {
            let mut p = datagram();
            match v {
                V4 => p.options = vec![131, 7, 4, 1, 2, 3, 4, 0],
                V6 => p.extensions = vec![(43, vec![0; 8])],
            }
            send(&p);
        }
        DropReason::Internal | DropReason::ChecksumOffload => return None,
    }
    Some(())
}

both!(
    fn every_reason_is_given_by_some_packet(b, v) {
        for &reason in DropReason::ALL {
            b.reset();
            let before = counters(b);
            let given = provoke(b, v, reason).is_some();
            assert_eq!(given, !NOT_BY_A_PACKET.contains(&reason), "{reason:?}");
            let grown = growth(&before, &counters(b));
            let dropped: Vec<_> = grown.keys().filter_map(|k| k.strip_prefix("drop ")).collect();
            let wanted = if given { vec![reason.as_str()] } else { Vec::new() };
            assert_eq!(dropped, wanted, "{reason:?}: {grown:?}");
        }
    }
);
