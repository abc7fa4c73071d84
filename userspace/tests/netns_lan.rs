//! The LAN's side: what it reaches, what it does not, and what leaves for it.

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use common::frame::Tap;
use common::isolated;
use common::packet::{ethernet, ipv4, ipv6, tcp, udp, udp6};
use common::pods::{BLUE, GATEWAY, GREEN, RED, client, far, server, site, uplink};
use common::traffic::{both, closed, direct, published};
use netns::check::{Probe, Target};

const MARK: &[u8] = b"this datagram must reach nobody";

#[test]
fn pods_reach_the_lan_with_the_hosts_address_and_the_lan_reaches_published_ports() {
    isolated(|here| {
        here.pods();
        let mut cases = direct(RED, server(), uplink(), 63);
        cases.extend(direct(BLUE, far(), uplink(), 63));
        cases.extend(published(client(), RED, uplink(), 8080, 80, client()));
        cases.extend(published(far(), RED, uplink(), 9010, 7010, far()));
        cases.extend(closed(client(), RED, uplink(), 9011, 7011));
        here.flows(&cases);
    });
}

#[test]
fn a_pods_own_address_is_not_reachable_from_the_lan() {
    isolated(|here| {
        here.pods();
        // Even for a LAN that knows the way.
        here.ip("-n lan -4 route add 10.244.0.0/24 via 192.0.2.2");
        here.ip("-n lan -6 route add fd00:244::/64 via 2001:db8:1::2");
        here.drops_more("not-published", "connecting to a pod from the LAN", || {
            here.flows(&both(client(), RED, |_| Probe::Closed { target: Target::Direct }));
        });
        // Nor is what listens on the gateway's address, which is the host's: that is for the host's firewall to say,
        // but no pod behind it answers.
        here.flows(&both(client(), GREEN, |_| Probe::Closed { target: Target::Direct }));
    });
}

#[test]
fn martians_from_the_lan_reach_neither_host_nor_pod() {
    isolated(|here| {
        here.pods();
        let lan = here.inside("lan", || Tap::open("lan0"));
        let red = here.tap("red");
        let (host_mac, lan_mac) = (here.own_mac("up0"), here.mac("lan", "lan0"));
        let send = |ethertype, packet: &[u8]| lan.send(&ethernet(host_mac, lan_mac, ethertype, packet));
        let published4 = site("published", "host", common::lan::UPLINK).v4;
        let published6 = site("published", "host", common::lan::UPLINK).v6;
        here.drops_more("martian", "from 127.0.0.1 to a published port", || {
            send(0x0800, &ipv4(Ipv4Addr::LOCALHOST, published4, 17, &udp(1, 8080, MARK)));
        });
        here.drops_more("martian", "to 127.0.0.1", || {
            send(0x0800, &ipv4(client().v4, Ipv4Addr::LOCALHOST, 17, &udp(1, 8080, MARK)));
        });
        here.drops_more("martian", "from ::1 to a published port", || {
            let datagram = udp6(Ipv6Addr::LOCALHOST, published6, 1, 8080, MARK);
            send(0x86dd, &ipv6(Ipv6Addr::LOCALHOST, published6, 17, 64, &datagram));
        });
        let reached = red.find(Duration::ZERO, |f| f.windows(MARK.len()).any(|w| w == MARK));
        assert!(reached.is_none(), "reached red as {reached:02x?}");
    });
}

#[test]
fn the_hosts_own_traffic_is_as_it_was() {
    isolated(|here| {
        here.lan();
        let host = uplink();
        let mut cases = direct(host, server(), host, 64);
        cases.extend(direct(server(), host, server(), 64));
        here.ip("netns add red");
        here.ip("netns add blue");
        here.ip("netns add green");
        here.flows(&cases);
        for pod in ["red", "blue", "green"] {
            here.ip(&format!("netns del {pod}"));
        }
        here.up(common::pods::TOPOLOGY).ok();
        here.flows(&cases);
        here.flows(&direct(GATEWAY, RED, GATEWAY, 64));
    });
}

#[test]
fn an_unsolicited_segment_in_the_middle_of_no_connection_is_dropped_silently() {
    isolated(|here| {
        here.pods();
        here.flows(&direct(RED, server(), uplink(), 63));
        let red = here.tap("red");
        let lan = here.inside("lan", || Tap::open("lan0"));
        let packet = ipv4(RED.v4, server().v4, 6, &tcp(RED.v4, server().v4, 5555, 80, 0x10));
        let gateway = here.gateway_mac("red");
        here.drops_more("no-flow", "an ACK without a connection", || {
            red.send(&ethernet(gateway, here.mac("red", "eth0"), 0x0800, &packet));
        });
        let port = 5555_u16.to_be_bytes();
        assert!(lan.find(Duration::ZERO, |f| f.get(34..36) == Some(&port[..])).is_none(), "it left for the LAN");
    });
}
