//! Uplinks without a link layer: tun devices, as VPNs and point-to-point links are.

mod common;

use std::net::{SocketAddr, UdpSocket};

use common::observer::{PATIENCE, Talk, at, flows, serve};
use common::packet::{checksum, ipv4, ipv6, udp, udp6};
use common::pods::{BLUE, GATEWAY, GREEN, RED, TOPOLOGY, server, site, uplink};
use common::traffic::{both, closed, direct, published};
use common::tun::Tunnel;
use common::{Isolated, isolated, wait_until};
use netns::check::{Family, Order, Probe, Site, Target};

/// The tunnel's addresses: the host's, and those of the machine at its other end.
const NEAR: [&str; 2] = ["203.0.113.2", "2001:db8:2::2"];
const OTHER_END: [&str; 2] = ["203.0.113.1", "2001:db8:2::1"];
/// Behind that machine.
const BEHIND: [&str; 2] = ["198.51.100.9", "2001:db8:fffe::9"];
const MTU: u32 = 1400;

fn near() -> Site {
    site("host", "host", NEAR)
}

fn other_end() -> Site {
    site("wan", "wan", OTHER_END)
}

fn behind() -> Site {
    site("behind", "wan", BEHIND)
}

/// The uplink `tun0`, at whose other end is the namespace `wan`, which routes nothing but what it has.
fn tunnel(here: &Isolated) -> Tunnel {
    here.ip("netns add wan");
    let no_dad = "-qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0";
    here.tool("sysctl", no_dad);
    here.ip(&format!("netns exec wan sysctl {no_dad}"));
    let tunnel = Tunnel::new(here, "tun0", "wan", "wan0");
    here.ip("-n wan link set lo up");
    for (place, dev, [v4, v6]) in [("", "tun0", NEAR), ("-n wan", "wan0", OTHER_END)] {
        here.ip(&format!("{place} link set {dev} mtu {MTU} up"));
        here.ip(&format!("{place} addr add {v4}/24 dev {dev}"));
        here.ip(&format!("{place} addr add {v6}/64 dev {dev} nodad"));
    }
    here.ip(&format!("-n wan addr add {}/32 dev lo", BEHIND[0]));
    here.ip(&format!("-n wan addr add {}/128 dev lo nodad", BEHIND[1]));
    tunnel
}

fn topology(uplink: &str, more: &str) -> String {
    TOPOLOGY.replace("uplink = \"up0\"", &format!("uplink = {uplink}\n{more}"))
}

#[test]
fn a_tunnel_is_an_uplink_as_any_other() {
    isolated(|here| {
        let tunnel = tunnel(here);
        here.ip(&format!("route add default via {} dev tun0", OTHER_END[0]));
        here.ip(&format!("-6 route add default via {} dev tun0", OTHER_END[1]));
        // The host's own traffic, before and after.
        let mut own = direct(near(), other_end(), near(), 64);
        own.extend(direct(other_end(), near(), other_end(), 64));
        let places = ["red", "blue", "green"];
        for pod in places {
            here.ip(&format!("netns add {pod}"));
        }
        here.flows(&own);
        for pod in places {
            here.ip(&format!("netns del {pod}"));
        }
        here.file("topology.toml", "");
        let before = here.snapshot();
        here.up(&topology("\"auto\"", "")).ok();
        assert_eq!(here.status()["uplinks"][0]["name"], "tun0");
        assert_eq!(here.status()["networks"][0]["mtu"], MTU);
        here.flows(&own);

        let mut cases = direct(RED, other_end(), near(), 63);
        cases.extend(direct(BLUE, behind(), near(), 63));
        cases.extend(published(other_end(), RED, near(), 9000, 7000, other_end()));
        cases.extend(published(behind(), RED, near(), 9001, 7001, behind()));
        cases.extend(closed(other_end(), RED, near(), 9011, 7011));
        here.flows(&cases);
        // Pieces that wait have no link layer either.
        let pieces = |target, seen_as| Probe::Pieces { bytes: 5000, target, seen_as, order: Order::Reverse };
        here.flows(&both(RED, other_end(), |f| pieces(Target::Direct, near().ip(f))));
        let at = |f| Target::Published { at: SocketAddr::new(near().ip(f), 8080), pod_port: 80 };
        here.flows(&both(behind(), RED, |f| pieces(at(f), behind().ip(f))));
        here.ip("-n wan -4 route add 10.244.0.0/24 dev wan0");
        here.ip("-n wan -6 route add fd00:244::/64 dev wan0");
        here.drops_more("not-published", "connecting to a pod from the tunnel", || {
            here.flows(&both(other_end(), GREEN, |_| Probe::Closed { target: Target::Direct }));
        });
        for packet in tunnel.left() {
            let source = match packet[0] >> 4 {
                4 => packet[12..16] == near().v4.octets(),
                _ => packet[8..24] == near().v6.octets() || packet[8..10] == [0xfe, 0x80] || packet[8..24] == [0; 16],
            };
            assert!(source, "left with a source that is not the host's: {packet:02x?}");
        }
        assert_ne!(here.status()["verdicts"][3]["peer"], 0, "{:#}", here.status()["verdicts"]);
        here.netns(["down"]).ok();
        here.file("topology.toml", "");
        before.assert_unchanged("after down");
        here.flows(&both(near(), other_end(), |f| Probe::Echo { seen_as: Some(near().ip(f)) }));
    });
}

/// Gives an IPv4 packet this hop limit.
fn set_ttl(packet: &mut [u8], ttl: u8) {
    packet[8] = ttl;
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn errors_come_in_and_go_out_by_a_tunnel() {
    isolated(|here| {
        let tunnel = tunnel(here);
        here.ip(&format!("route add default via {} dev tun0", OTHER_END[0]));
        here.ip(&format!("-6 route add default via {} dev tun0", OTHER_END[1]));
        here.up(&topology("\"tun0\"", "mtu = 1500")).ok();
        // Ours to pods: what is too big for the tunnel.
        here.flows(&both(RED, behind(), |f| Probe::TooBig { bytes: 1450, router: GATEWAY.ip(f), mtu_bytes: MTU }));
        for family in Family::ALL {
            // From the other end, translated back: nobody listens there.
            let Talk::Datagrams(socket) = Talk::datagrams(here, RED, at(behind(), family, 9)) else { unreachable!() };
            socket.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
            socket.send(b"who").expect("send");
            let refused = socket.recv(&mut [0; 16]).expect_err("nobody is there");
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{family:?}");

            // Ours to a client at the other end: the hop limit runs out.
            let before = tunnel.left().len();
            let datagram = |hops| match family {
                Family::V4 => {
                    let mut packet = ipv4(behind().v4, near().v4, 17, &udp(1234, 8080, b"far away"));
                    set_ttl(&mut packet, hops);
                    packet
                }
                Family::V6 => {
                    let datagram = udp6(behind().v6, near().v6, 1234, 8080, b"far away");
                    ipv6(behind().v6, near().v6, 17, hops, &datagram)
                }
            };
            here.drops_more("hop-limit", "a datagram at its last hop", || tunnel.comes_in(&datagram(1)));
            let is_error = |packet: &Vec<u8>| match family {
                Family::V4 => packet[0] == 0x45 && packet[9] == 1 && packet[20] == 11,
                Family::V6 => packet[0] >> 4 == 6 && packet[6] == 58 && packet[40] == 3,
            };
            wait_until("time exceeded", PATIENCE, || tunnel.left().iter().skip(before).any(is_error));
            let error = tunnel.left().into_iter().skip(before).find(is_error).expect("there");
            let (source, quote) = match family {
                Family::V4 => (error[12..16] == near().v4.octets(), &error[28..]),
                Family::V6 => (error[8..24] == near().v6.octets(), &error[48..]),
            };
            assert!(source, "from the address of the tunnel: {error:02x?}");
            let sent = datagram(1);
            // Behind it a word for whoever finishes the datagram's checksum.
            let quoted = quote.len() - 4;
            assert_eq!(quote[..quoted], sent[..sent.len() & !3], "it quotes what came");
        }
    });
}

#[test]
fn a_tunnel_beside_a_lan() {
    isolated(|here| {
        here.lan();
        let tunnel = tunnel(here);
        here.ip(&format!("route add {}/32 via {} dev tun0", BEHIND[0], OTHER_END[0]));
        here.ip(&format!("-6 route add {}/128 via {} dev tun0", BEHIND[1], OTHER_END[1]));
        let file = topology(r#"["up0", "tun0"]"#, "");
        here.up(&file).ok();
        let mut cases = direct(RED, server(), uplink(), 63);
        cases.extend(direct(RED, behind(), near(), 63));
        cases.extend(published(server(), RED, uplink(), 9000, 7000, server()));
        cases.extend(published(behind(), RED, near(), 9001, 7001, behind()));
        here.flows(&cases);
        // It goes, as VPNs do, and comes back as another device.
        Family::ALL.into_iter().for_each(|f| serve(here, "wan", at(behind(), f, 7)));
        let mut talks = Family::ALL.map(|f| (f, Talk::datagrams(here, RED, at(behind(), f, 7))));
        for (f, talk) in &mut talks {
            assert_eq!(talk.seen_as(PATIENCE), Some(near().ip(*f)));
        }
        drop(tunnel);
        here.ip("netns del wan");
        here.up(&file).ok();
        assert_eq!(here.status()["uplinks"][1]["attached"], false);
        let near_addresses = [near().v4.into(), std::net::IpAddr::from(near().v6)];
        assert!(flows().iter().all(|f| !near_addresses.contains(&f.to_src)), "{:#?}", flows());
        let _tunnel = self::tunnel(here);
        here.ip(&format!("route add {}/32 via {} dev tun0", BEHIND[0], OTHER_END[0]));
        here.ip(&format!("-6 route add {}/128 via {} dev tun0", BEHIND[1], OTHER_END[1]));
        here.up(&file).ok();
        Family::ALL.into_iter().for_each(|f| serve(here, "wan", at(behind(), f, 7)));
        for (f, talk) in &mut talks {
            assert_eq!(talk.seen_as(PATIENCE), Some(near().ip(*f)), "{f:?}");
        }
    });
}

#[test]
fn pods_reach_each_other_by_their_mappings_on_a_tunnel_too() {
    isolated(|here| {
        let _tunnel = tunnel(here);
        here.ip(&format!("route add default via {} dev tun0", OTHER_END[0]));
        here.ip(&format!("-6 route add default via {} dev tun0", OTHER_END[1]));
        let keys = "masquerade = true\nmapping = \"endpoint-independent\"\nfiltering = \"endpoint-independent\"";
        here.up(&topology("\"auto\"", "").replacen("masquerade = true", keys, 1)).ok();
        for family in Family::ALL {
            let bind = |site: Site, port| {
                let socket = here.inside(site.place, || UdpSocket::bind(at(site, family, port))).expect("bind");
                socket.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
                socket
            };
            let (server, red, blue) = (bind(other_end(), 3478), bind(RED, 25_000), bind(BLUE, 25_001));
            let mut block = [0; 16];
            let mut seen = |pod: &UdpSocket| {
                pod.send_to(b"who", at(other_end(), family, 3478)).expect("send");
                server.recv_from(&mut block).expect("the pod's").1
            };
            let (red_at, blue_at) = (seen(&red), seen(&blue));
            assert_eq!([red_at, blue_at], [25_000, 25_001].map(|port| at(near(), family, port)));
            for (from, from_at, to, to_at) in [(&red, red_at, &blue, blue_at), (&blue, blue_at, &red, red_at)] {
                from.send_to(b"hello", to_at).expect("send");
                assert_eq!(to.recv_from(&mut block).expect("the other pod's"), (5, from_at));
            }
            // Somebody behind the tunnel whom red has not sent to.
            let stranger = bind(behind(), 4000);
            stranger.send_to(b"open", red_at).expect("send");
            assert_eq!(red.recv_from(&mut block).expect("the stranger's"), (4, at(behind(), family, 4000)));
        }
    });
}
