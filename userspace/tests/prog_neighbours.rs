//! ARP and neighbour discovery: answered by the program with the gateway's MAC, believed from nobody.

mod common;
#[macro_use]
mod prog;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netns_ebpf_common::verdict::DropReason;
use netns_ebpf_common::{Addr6, Mac};
use prog::*;

const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// An ARP frame: link layer (destination, source), operation, sender, target.
#[derive(Clone)]
struct Arp {
    eth: ([u8; 6], [u8; 6]),
    kind: [u8; 6],
    operation: u16,
    sender: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
}

impl Arp {
    fn bytes(&self) -> Vec<u8> {
        let ends = |(mac, ip): ([u8; 6], Ipv4Addr)| [&mac[..], &ip.octets()].concat();
        [
            &self.eth.0[..],
            &self.eth.1,
            &[8, 6],
            &self.kind,
            &self.operation.to_be_bytes(),
            &ends(self.sender),
            &ends(self.target),
        ]
        .concat()
    }
}

/// Red asks who has an address.
fn red_asks(target: Ipv4Addr) -> Arp {
    Arp {
        eth: ([0xff; 6], RED.mac),
        kind: [0, 1, 8, 0, 6, 4],
        operation: REQUEST,
        sender: (RED.mac, RED.at.v4),
        target: ([0; 6], target),
    }
}

/// The answer: the gateway's MAC has it.
fn gateway_has(target: Ipv4Addr) -> Arp {
    Arp {
        eth: (RED.mac, RED.gateway_mac()),
        kind: [0, 1, 8, 0, 6, 4],
        operation: REPLY,
        sender: (RED.gateway_mac(), target),
        target: (RED.mac, RED.at.v4),
    }
}

#[test]
fn arp_for_every_address_of_the_subnet_is_answered_with_the_gateways_mac() {
    bench(|b| {
        for target in [GATEWAY.v4, BLUE.at.v4, GREEN.at.v4, NOBODY.v4] {
            b.pod_sends_bytes(RED, &red_asks(target).bytes(), &Want::out(gateway_has(target).bytes()));
            // As the kernel asks when an entry has become stale: to the gateway's MAC.
            let mut unicast = red_asks(target);
            unicast.eth.0 = RED.gateway_mac();
            unicast.target.0 = RED.gateway_mac();
            b.pod_sends_bytes(RED, &unicast.bytes(), &Want::out(gateway_has(target).bytes()));
        }
    });
}

#[test]
fn arp_with_padding_is_answered_all_the_same() {
    bench(|b| {
        let pad = |mut frame: Vec<u8>| {
            frame.resize(60, 0);
            frame
        };
        let want = Want::out(pad(gateway_has(GATEWAY.v4).bytes()));
        b.pod_sends_bytes(RED, &pad(red_asks(GATEWAY.v4).bytes()), &want);
    });
}

#[test]
fn arp_for_an_address_elsewhere_is_dropped() {
    bench(|b| {
        for target in [YELLOW.at.v4, GATEWAY2.v4, SERVER.v4, HOST.v4, Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST] {
            println!("{target}");
            b.pod_sends_bytes(RED, &red_asks(target).bytes(), &Want::drop(DropReason::UnknownNeighbour));
        }
    });
}

#[test]
fn arp_that_lies_is_dropped() {
    bench(|b| {
        type Change = fn(&mut Arp);
        let rows: [(&str, Change, DropReason); 13] = [
            ("an announcement of red's own address", |a| a.target.1 = RED.at.v4, DropReason::ArpSpoof),
            (
                "a gratuitous request for blue's",
                |a| (a.sender.1, a.target.1) = (BLUE.at.v4, BLUE.at.v4),
                DropReason::ArpSpoof,
            ),
            ("a request in blue's name", |a| a.sender.1 = BLUE.at.v4, DropReason::ArpSpoof),
            ("a request in the gateway's name", |a| a.sender.1 = GATEWAY.v4, DropReason::ArpSpoof),
            ("blue's MAC as sender", |a| a.sender.0 = BLUE.mac, DropReason::ArpSpoof),
            ("blue's MAC and address", |a| a.sender = (BLUE.mac, BLUE.at.v4), DropReason::ArpSpoof),
            ("a probe", |a| a.sender.1 = Ipv4Addr::UNSPECIFIED, DropReason::ArpSpoof),
            ("a reply for red's own address", |a| a.operation = REPLY, DropReason::ArpSpoof),
            ("a reply for the gateway's", |a| (a.operation, a.sender.1) = (REPLY, GATEWAY.v4), DropReason::ArpSpoof),
            ("reverse ARP", |a| a.operation = 3, DropReason::ArpSpoof),
            ("a foreign MAC on the frame", |a| a.eth.1 = BLUE.mac, DropReason::SourceMac),
            ("another hardware type", |a| a.kind[1] = 6, DropReason::Malformed),
            ("another address length", |a| a.kind[5] = 16, DropReason::Malformed),
        ];
        for (what, change, reason) in rows {
            println!("{what}");
            let mut arp = red_asks(GATEWAY.v4);
            change(&mut arp);
            b.pod_sends_bytes(RED, &arp.bytes(), &Want::drop(reason));
        }
    });
}

#[test]
fn arp_that_is_cut_short_is_dropped() {
    bench(|b| {
        let whole = red_asks(GATEWAY.v4).bytes();
        for length in 14..whole.len() {
            b.pod_sends_bytes(RED, &whole[..length], &Want::drop(DropReason::Malformed));
        }
    });
}

#[test]
fn a_pod_without_ipv4_gets_no_arp_answer() {
    bench(|b| {
        let mut endpoint = b.datapath().endpoint(RED.slot).expect("read").expect("red");
        endpoint.addr4 = Default::default();
        b.datapath().put_endpoint(RED.slot, &endpoint).expect("change");
        for sender in [RED.at.v4, Ipv4Addr::UNSPECIFIED] {
            let mut arp = red_asks(GATEWAY.v4);
            arp.sender.1 = sender;
            b.pod_sends_bytes(RED, &arp.bytes(), &Want::drop(DropReason::ArpSpoof));
        }
    });
}

/// The link-local address made from a MAC.
fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The solicited-node group of an address.
fn solicited_node(of: Ipv6Addr) -> Ipv6Addr {
    let o = of.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(o[13]), u16::from(o[14]) << 8 | u16::from(o[15]))
}

/// A message of neighbour discovery with a target and a link-layer option.
fn message(kind: u8, flags: u8, target: Ipv6Addr, option: Option<(u8, [u8; 6])>) -> L4 {
    let mut body = target.octets().to_vec();
    if let Some((kind, mac)) = option {
        body.extend([kind, 1]);
        body.extend(mac);
    }
    L4::Icmp { kind, code: 0, rest: [flags, 0, 0, 0], body }
}

/// Red asks who has an address.
fn red_solicits(target: Ipv6Addr) -> Packet {
    let l4 = message(135, 0, target, Some((1, RED.mac)));
    from_pod(RED, solicited_node(target).into(), l4).hops(255)
}

/// The answer: the gateway's MAC has it; solicited, override.
fn gateway_advertises(target: Ipv6Addr, to: IpAddr) -> Packet {
    let mut p = Packet::new(target.into(), to, message(136, 0x60, target, Some((2, RED.gateway_mac())))).hops(255);
    (p.eth_dst, p.eth_src) = (RED.mac, RED.gateway_mac());
    p
}

#[test]
fn solicitations_for_every_address_of_the_subnet_are_answered() {
    bench(|b| {
        let gateway_local = link_local(RED.gateway_mac());
        for target in [GATEWAY.v6, BLUE.at.v6, GREEN.at.v6, NOBODY.v6, gateway_local] {
            println!("{target}");
            let want = Want::out(gateway_advertises(target, RED.ip(V6)).bytes());
            b.pod_sends(RED, &red_solicits(target), &want);
            // Reachability is confirmed by a unicast, without the option.
            let mut probe = red_solicits(target);
            probe.dst = target.into();
            probe.l4 = message(135, 0, target, None);
            b.pod_sends(RED, &probe, &want);
            // From the pod's own link-local address.
            let mut from_local = red_solicits(target);
            from_local.src = link_local(RED.mac).into();
            let want = Want::out(gateway_advertises(target, link_local(RED.mac).into()).bytes());
            b.pod_sends(RED, &from_local, &want);
        }
    });
}

#[test]
fn solicitations_for_addresses_elsewhere_are_dropped() {
    bench(|b| {
        for target in [YELLOW.at.v6, GATEWAY2.v6, SERVER.v6, HOST.v6, link_local(BLUE.mac), Ipv6Addr::LOCALHOST] {
            println!("{target}");
            b.pod_sends(RED, &red_solicits(target), &Want::drop(DropReason::UnknownNeighbour));
        }
    });
}

#[test]
fn neighbour_discovery_that_lies_is_dropped() {
    bench(|b| {
        let all_nodes: IpAddr = "ff02::1".parse().expect("address");
        let to_all = |l4: L4| from_pod(RED, all_nodes, l4).hops(255);
        let with = |mut p: Packet, change: fn(&mut Packet)| {
            change(&mut p);
            p
        };
        let ask = || red_solicits(GATEWAY.v6);
        let ra = L4::Icmp { kind: 134, code: 0, rest: [64, 0, 7, 8], body: vec![0; 8] };
        let rs = L4::Icmp { kind: 133, code: 0, rest: [0; 4], body: vec![1, 1, 2, 0, 0, 0, 0, 0x10] };
        let mld = L4::Icmp { kind: 143, code: 0, rest: [0; 4], body: vec![0; 20] };
        let local_gateway: IpAddr = link_local(RED.gateway_mac()).into();
        let asks_with = |options: &[&[u8]]| {
            let mut p = ask();
            let L4::Icmp { kind, code, rest, body } = message(135, 0, GATEWAY.v6, None) else { unreachable!() };
            p.l4 = L4::Icmp { kind, code, rest, body: [&body[..], &options.concat()].concat() };
            p
        };
        let names = |mac: [u8; 6]| [&[1, 1][..], &mac].concat();
        let local = |p: Packet| with(p, |p| p.src = link_local(RED.mac).into());
        let unspecified = |p: Packet| with(p, |p| p.src = Ipv6Addr::UNSPECIFIED.into());
        let rows = [
            ("duplicate address detection", unspecified(ask()), DropReason::NeighbourNoise),
            (
                "a solicitation with blue's MAC",
                with(ask(), |p| p.l4 = message(135, 0, GATEWAY.v6, Some((1, BLUE.mac)))),
                DropReason::NdpSpoof,
            ),
            ("a solicitation in blue's name", with(ask(), |p| p.src = BLUE.ip(V6)), DropReason::SourceAddress),
            ("a solicitation for red itself", red_solicits(RED.at.v6), DropReason::NdpSpoof),
            ("a solicitation from afar", with(ask(), |p| p.hop_limit = 254), DropReason::Malformed),
            (
                "an advertisement of red's own address",
                to_all(message(136, 0x20, RED.at.v6, Some((2, RED.mac)))),
                DropReason::NdpSpoof,
            ),
            (
                "an advertisement of blue's",
                to_all(message(136, 0x20, BLUE.at.v6, Some((2, RED.mac)))),
                DropReason::NdpSpoof,
            ),
            (
                "an advertisement of the gateway's to blue",
                with(to_all(message(136, 0xe0, GATEWAY.v6, Some((2, RED.mac)))), |p| p.dst = BLUE.ip(V6)),
                DropReason::NdpSpoof,
            ),
            (
                "an advertisement from the link-local address",
                local(to_all(message(136, 0x20, GATEWAY.v6, Some((2, RED.mac))))),
                DropReason::NdpSpoof,
            ),
            ("a router advertisement", to_all(ra.clone()), DropReason::RouterAdvertisement),
            ("one from the link-local address", local(to_all(ra.clone())), DropReason::RouterAdvertisement),
            ("one from ::", unspecified(to_all(ra.clone())), DropReason::SourceAddress),
            ("one to blue", with(to_all(ra), |p| p.dst = BLUE.ip(V6)), DropReason::RouterAdvertisement),
            ("a router solicitation", to_all(rs.clone()), DropReason::NeighbourNoise),
            ("one from the link-local address", local(to_all(rs.clone())), DropReason::NeighbourNoise),
            ("one from ::", unspecified(to_all(rs)), DropReason::NeighbourNoise),
            ("a listener report", local(to_all(mld.clone())), DropReason::Multicast),
            ("one from ::", unspecified(to_all(mld.clone())), DropReason::Multicast),
            (
                "one from :: to blue",
                unspecified(with(to_all(mld.clone()), |p| p.dst = BLUE.ip(V6))),
                DropReason::SourceAddress,
            ),
            ("one from red's address", to_all(mld), DropReason::Multicast),
            ("multicast from the link-local address", local(to_all(udp(546, 547))), DropReason::Multicast),
            ("a datagram from it to blue", local(from_pod(RED, BLUE.ip(V6), udp(1, 2))), DropReason::SourceAddress),
            (
                "an echo request from it to the gateway",
                local(from_pod(RED, GATEWAY.ip(V6), echo(true, 7))),
                DropReason::SourceAddress,
            ),
            (
                "TCP from it to the LAN",
                local(from_pod(RED, SERVER.ip(V6), tcp(1, 2, flag::SYN))),
                DropReason::SourceAddress,
            ),
            (
                "an echo request from it to the gateway's",
                local(from_pod(RED, local_gateway, echo(true, 7))),
                DropReason::SourceAddress,
            ),
            ("multicast from ::", unspecified(to_all(udp(546, 547))), DropReason::SourceAddress),
            ("an option of no length", asks_with(&[&[14, 0, 0, 0, 0, 0, 0, 0]]), DropReason::Malformed),
            ("one behind a true one", asks_with(&[&names(RED.mac), &[14, 0, 0, 0, 0, 0, 0, 0]]), DropReason::Malformed),
            ("an option past the end", asks_with(&[&[14, 2, 0, 0, 0, 0, 0, 0]]), DropReason::Malformed),
            ("blue's MAC second", asks_with(&[&[14, 1, 0, 0, 0, 0, 0, 0], &names(BLUE.mac)]), DropReason::NdpSpoof),
        ];
        for (what, sent, reason) in rows {
            println!("{what}");
            b.pod_sends(RED, &sent, &Want::drop(reason));
        }
    });
}

#[test]
fn a_solicitation_cut_short_is_dropped() {
    bench(|b| {
        let whole = red_solicits(GATEWAY.v6);
        let L4::Icmp { body, .. } = &whole.l4 else { unreachable!() };
        for length in 0..body.len() {
            let mut cut = whole.clone();
            cut.l4 = L4::Icmp { kind: 135, code: 0, rest: [0; 4], body: body[..length].to_vec() };
            // At 16 the target is whole, and only the option is missing.
            let want = if length == 16 {
                Want::out(gateway_advertises(GATEWAY.v6, RED.ip(V6)).bytes())
            } else {
                Want::drop(DropReason::Malformed)
            };
            println!("{length}");
            b.pod_sends(RED, &cut, &want);
        }
    });
}

#[test]
fn the_link_local_address_is_the_one_the_programs_mean() {
    assert_eq!(Ipv6Addr::from(Addr6::link_local(Mac(RED.mac))), link_local(RED.mac));
}
