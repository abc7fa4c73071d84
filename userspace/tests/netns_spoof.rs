//! Nothing leaves a pod with an address it was not given, and nothing a pod says changes what others believe.

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use common::frame::Tap;
use common::packet::{
    BROADCAST, arp, ethernet, ipv4, ipv4_with_options, ipv6, link_local, neighbour_advertisement, router_advertisement,
    udp, udp6,
};
use common::pods::{BLUE, GATEWAY, GREEN, RED};
use common::traffic::direct;
use common::{Isolated, isolated};

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// In every frame a test sends and must not see again.
const MARK: &[u8] = b"this frame must reach nobody";

/// Three pods, and eyes and hands on two of them.
struct Scene<'a> {
    here: &'a Isolated,
    red: Tap,
    blue: Tap,
    mac: [u8; 6],
    gateway: [u8; 6],
}

impl<'a> Scene<'a> {
    /// Blue knows its gateway already, so that its neighbour table changes only if somebody changes it.
    fn new(here: &'a Isolated) -> Self {
        here.pods();
        here.flows(&direct(BLUE, GREEN, BLUE, 63));
        here.flows(&direct(BLUE, RED, BLUE, 63));
        let (mac, gateway) = (here.mac("red", "eth0"), here.gateway_mac("red"));
        Self { here, red: here.tap("red"), blue: here.tap("blue"), mac, gateway }
    }

    /// Sends a frame as red: it must be dropped for this reason, reach blue in no form, and change nothing blue knows.
    #[track_caller]
    fn refused(&self, reason: &str, what: &str, frame: &[u8]) {
        let before = self.here.neighbours("blue");
        self.here.drops_more(reason, what, || self.red.send(frame));
        // The drop is counted after the frame would have been delivered: what is not there now never comes.
        let needle = if frame.windows(MARK.len()).any(|w| w == MARK) { MARK } else { &frame[12..] };
        let reached = self.blue.find(Duration::ZERO, |f| f.windows(needle.len()).any(|w| w == needle));
        assert!(reached.is_none(), "{what}: reached blue as {reached:02x?}");
        assert_eq!(self.here.neighbours("blue"), before, "{what}: blue's neighbours changed");
    }
}

#[test]
fn foreign_addresses_are_dropped_and_counted() {
    isolated(|here| {
        let s = Scene::new(here);
        let datagram = udp(1000, 2000, MARK);
        let from = |src| ipv4(src, BLUE.v4, UDP, &datagram);
        let from6 = |src| ipv6(src, BLUE.v6, UDP, 64, &udp6(src, BLUE.v6, 1000, 2000, MARK));
        let send = |ethertype, packet: &[u8]| ethernet(s.gateway, s.mac, ethertype, packet);

        let foreign_mac = ethernet(s.gateway, [2, 0, 0, 0, 0, 9], IPV4, &from(RED.v4));
        s.refused("source-mac", "a foreign MAC", &foreign_mac);
        let foreign_mac = ethernet(s.gateway, here.mac("green", "eth0"), IPV6, &from6(RED.v6));
        s.refused("source-mac", "another pod's MAC", &foreign_mac);

        for (src, what) in [
            (GREEN.v4, "another pod's IPv4 address"),
            (GATEWAY.v4, "the gateway's IPv4 address"),
            (Ipv4Addr::new(198, 51, 100, 1), "an IPv4 address of the world"),
            (Ipv4Addr::UNSPECIFIED, "no IPv4 address"),
            (Ipv4Addr::LOCALHOST, "127.0.0.1"),
            (Ipv4Addr::BROADCAST, "255.255.255.255"),
        ] {
            s.refused("source-address", what, &send(IPV4, &from(src)));
        }
        for (src, what) in [
            (GREEN.v6, "another pod's IPv6 address"),
            (GATEWAY.v6, "the gateway's IPv6 address"),
            ("2001:db8:99::1".parse().expect("an address"), "an IPv6 address of the world"),
            (Ipv6Addr::LOCALHOST, "::1"),
            (link_local([2, 0, 0, 0, 0, 9]), "another link-local address"),
        ] {
            s.refused("source-address", what, &send(IPV6, &from6(src)));
        }
        // The same frames with red's own addresses pass: what was refused above was refused for its source.
        for (ethertype, packet) in [(IPV4, from(RED.v4)), (IPV6, from6(RED.v6))] {
            s.red.send(&send(ethertype, &packet));
            let reached = s.blue.find(Duration::from_secs(2), |f| f.windows(MARK.len()).any(|w| w == MARK));
            assert!(reached.is_some(), "red's own datagram did not reach blue");
        }
    });
}

#[test]
fn foreign_claims_of_addresses_reach_nobody() {
    isolated(|here| {
        let s = Scene::new(here);
        let nobody = [0; 6];
        let blue_mac = here.mac("blue", "eth0");
        let claim = |operation, address: Ipv4Addr, dst: [u8; 6]| {
            ethernet(dst, s.mac, ARP, &arp(operation, (s.mac, address), (nobody, BLUE.v4)))
        };
        s.refused("arp-spoof", "an ARP reply for green", &claim(2, GREEN.v4, blue_mac));
        s.refused("arp-spoof", "a broadcast ARP reply for the gateway", &claim(2, GATEWAY.v4, BROADCAST));
        s.refused("arp-spoof", "an ARP request in green's name", &claim(1, GREEN.v4, BROADCAST));
        let gratuitous = arp(1, (s.mac, GREEN.v4), (nobody, GREEN.v4));
        s.refused("arp-spoof", "a gratuitous ARP for green", &ethernet(BROADCAST, s.mac, ARP, &gratuitous));
        let other_hardware = arp(1, ([2, 0, 0, 0, 0, 9], RED.v4), (nobody, BLUE.v4));
        s.refused("arp-spoof", "an ARP with another MAC inside", &ethernet(BROADCAST, s.mac, ARP, &other_hardware));

        let own = link_local(s.mac);
        for (target, what) in [(GREEN.v6, "green"), (GATEWAY.v6, "the gateway"), (BLUE.v6, "blue itself")] {
            let unicast = neighbour_advertisement(RED.v6, BLUE.v6, target, s.mac);
            let text = format!("a neighbour advertisement for {what}");
            s.refused("ndp-spoof", &text, &ethernet(blue_mac, s.mac, IPV6, &unicast));
            let multicast = neighbour_advertisement(own, ALL_NODES, target, s.mac);
            s.refused("ndp-spoof", &(text + " to all"), &ethernet(ALL_NODES_MAC, s.mac, IPV6, &multicast));
        }
        // After all that, blue still talks to the real ones.
        here.flows(&direct(BLUE, GREEN, BLUE, 63));
        here.flows(&direct(BLUE, GATEWAY, BLUE, 64));
    });
}

#[test]
fn a_pod_is_nobodys_router() {
    isolated(|here| {
        let s = Scene::new(here);
        let routes = here.ip("-n blue -6 route");
        let own = link_local(s.mac);
        for (dst, mac) in [(ALL_NODES, ALL_NODES_MAC), (BLUE.v6, here.mac("blue", "eth0"))] {
            let advert = ethernet(mac, s.mac, IPV6, &router_advertisement(own, dst, s.mac));
            s.refused("router-advertisement", "a router advertisement", &advert);
        }
        assert_eq!(here.ip("-n blue -6 route"), routes);
    });
}

#[test]
fn what_is_no_plain_unicast_ip_reaches_nobody() {
    isolated(|here| {
        let s = Scene::new(here);
        let datagram = udp(1000, 2000, MARK);
        let send = |packet: &[u8]| ethernet(s.gateway, s.mac, IPV4, packet);
        let tagged = [&[0, 5, 8, 0][..], &ipv4(RED.v4, BLUE.v4, UDP, &datagram)].concat();
        s.refused("unknown-ethertype", "a VLAN tag", &ethernet(s.gateway, s.mac, VLAN, &tagged));

        let broadcast = ipv4(RED.v4, Ipv4Addr::BROADCAST, UDP, &datagram);
        s.refused("multicast", "a broadcast", &ethernet(BROADCAST, s.mac, IPV4, &broadcast));
        s.refused("multicast", "a multicast", &send(&ipv4(RED.v4, Ipv4Addr::new(224, 0, 0, 251), UDP, &datagram)));
        let multicast = ipv6(RED.v6, ALL_NODES, UDP, 64, &udp6(RED.v6, ALL_NODES, 1000, 2000, MARK));
        s.refused("multicast", "an IPv6 multicast", &ethernet(ALL_NODES_MAC, s.mac, IPV6, &multicast));
        s.refused("martian", "a datagram to 127.0.0.1", &send(&ipv4(RED.v4, Ipv4Addr::LOCALHOST, UDP, &datagram)));

        let mut source_route = vec![131, 7, 4];
        source_route.extend_from_slice(&BLUE.v4.octets());
        source_route.push(0);
        let routed = ipv4_with_options(RED.v4, BLUE.v4, UDP, &source_route, &datagram);
        s.refused("source-route", "a source route", &send(&routed));

        let mut lying = ipv4(RED.v4, BLUE.v4, UDP, &datagram);
        lying[0] = 0x4f;
        s.refused("malformed", "a header length that lies", &send(&lying[..40]));
        let mut long = ipv4(RED.v4, BLUE.v4, UDP, &datagram);
        long[2..4].copy_from_slice(&1400_u16.to_be_bytes());
        s.refused("malformed", "a total length that lies", &send(&long));
    });
}
