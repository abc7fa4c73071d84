//! The LAN's side: what it reaches, what it does not, and what leaves for it.

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use common::frame::Tap;
use common::packet::{ethernet, ipv4, ipv6, tcp, udp, udp6};
use common::pods::{BLUE, GATEWAY, GREEN, RED, client, far, server, site, uplink};
use common::traffic::{both, closed, direct, published};
use common::{isolated, wait_until};
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

/// A tagged frame is a VLAN device's of the host: neither a published port's nor a flow's, whatever is in it.
#[test]
fn tagged_frames_at_the_uplink_are_left_alone() {
    isolated(|here| {
        here.pods();
        let lan = here.inside("lan", || Tap::open("lan0"));
        let red = here.tap("red");
        let (host_mac, lan_mac) = (here.own_mac("up0"), here.mac("lan", "lan0"));
        let packets = |payload: &[u8]| {
            let datagram = udp6(client().v6, uplink().v6, 40_000, 8080, payload);
            [
                (0x0800_u16, ipv4(client().v4, uplink().v4, 17, &udp(40_000, 8080, payload))),
                (0x86dd, ipv6(client().v6, uplink().v6, 17, 64, &datagram)),
            ]
        };
        let has = |payload: &'static [u8]| move |f: &[u8]| f.windows(payload.len()).any(|w| w == payload);
        let uplink_row = || {
            let status = here.status();
            let hooks = status["verdicts"].as_array().expect("verdicts").clone();
            hooks.into_iter().find(|h| h["hook"] == "from_uplink").expect("from_uplink")
        };
        for tag in [0x8100_u16, 0x88a8] {
            let before = uplink_row();
            for (ethertype, packet) in packets(MARK) {
                let tagged = [&[0, 5][..], &ethertype.to_be_bytes(), &packet].concat();
                lan.send(&ethernet(host_mac, lan_mac, tag, &tagged));
            }
            wait_until("both frames pass", Duration::from_secs(5), || {
                uplink_row()["pass"].as_u64() >= before["pass"].as_u64().map(|n| n + 2)
            });
            assert_eq!(uplink_row()["drop"], before["drop"]);
        }
        // Without a tag they arrive, behind whatever came before.
        for (ethertype, packet) in packets(b"this one has no tag") {
            lan.send(&ethernet(host_mac, lan_mac, ethertype, &packet));
            let mut tagged = None;
            let arrived = red.find(Duration::from_secs(5), |f| {
                tagged = tagged.take().or_else(|| has(MARK)(f).then(|| f.to_vec()));
                has(b"this one has no tag")(f)
            });
            assert!(arrived.is_some(), "{ethertype:#x} reaches red");
            assert_eq!(tagged, None, "a tagged one reached red");
        }
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
