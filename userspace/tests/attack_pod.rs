//! Root in a pod, with any frame, against the pods beside it, the host and the machine's time.

mod attack;
mod common;
#[macro_use]
mod prog;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use attack::attacker::segment;
use attack::{Aftermath, Attacker, SERVICE, flows, honest, nobody};
use common::frame::Tap;
use common::pods::{BLUE, GATEWAY, GREEN, RED, TOPOLOGY, far, server, uplink};
use common::{Isolated, isolated, who};
use netns::check::{Family, Probe, Site, Target};
use prog::{L4, Packet, echo, flag, udp};
use socket2::{Domain, Socket, Type};

/// Honest askers, at the same time.
const ASKERS: usize = 30;
/// How long an answer may take that takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// A port in the range of SNAT.
const SHARED: u16 = 26_000;

fn service(family: Family) -> SocketAddr {
    SocketAddr::new(server().ip(family), SERVICE)
}

/// Red asks one server from more ports than there are; blue and green ask it as well.
#[test]
fn a_pod_that_takes_all_ports_it_gets_leaves_some_to_others() {
    isolated(|here| {
        here.pods();
        honest::lan_server(here, SERVICE);
        let (red, aftermath) = (Attacker::in_pod(here, RED), Aftermath::new());
        let mut left = Vec::new();
        for family in Family::ALL {
            let ask = |port| red.frame(RED.ip(family), server().ip(family), udp(port, SERVICE));
            red.send(&(20_000..34_000).map(ask).collect::<Vec<_>>());
            honest::has_read_all(here, service(family));
            let answered = [BLUE, GREEN].map(|pod| honest::asks(here, pod, service(family), ASKERS, PATIENCE));
            println!("{family:?}: {answered:?} of {ASKERS} questions of blue and green are answered");
            left.push(answered);
        }
        assert_eq!(left, [[ASKERS; 2]; 2]);
        aftermath.finds_nothing();
    });
}

/// Two pods of a network with endpoint-independent mappings, beside that of [`TOPOLOGY`].
const CONES: &str = r#"
[[network]]
name = "cones"
subnets = ["10.246.0.0/24", "fd00:246::/64"]
mapping = "endpoint-independent"

[[pod]]
name = "hub"
network = "cones"
address = ["10.246.0.10", "fd00:246::10"]

[[pod]]
name = "spoke"
network = "cones"
address = ["10.246.0.20", "fd00:246::20"]
"#;

fn cone(name: &'static str, last: u8, last6: u16) -> Site {
    let v6 = Ipv6Addr::new(0xfd00, 0x246, 0, 0, 0, 0, 0, last6);
    Site { name, place: name, v4: Ipv4Addr::new(10, 246, 0, last), v6 }
}

/// Hub makes mappings of all the ports it gets; its neighbour gets some, and so do pods of a network that has nothing to do with
/// mappings.
#[test]
fn mappings_of_one_pod_leave_ports_to_all_others() {
    isolated(|here| {
        here.lan();
        here.up(&format!("{TOPOLOGY}{CONES}")).ok();
        honest::lan_server(here, SERVICE);
        let (hub, spoke) = (cone("hub", 10, 0x10), cone("spoke", 20, 0x20));
        // The gateway of its network answers like any other.
        here.inside(hub.name, || {
            UdpSocket::bind("0.0.0.0:0").and_then(|s| s.send_to(b"who", (server().v4, SERVICE))).expect("send")
        });
        let (attacker, aftermath) = (Attacker::in_pod(here, hub), Aftermath::new());
        let mut left = Vec::new();
        for family in Family::ALL {
            let map = |port| attacker.frame(hub.ip(family), server().ip(family), udp(port, SERVICE));
            attacker.send(&(20_000..=32_767).map(map).collect::<Vec<_>>());
            honest::has_read_all(here, service(family));
            let answered = [spoke, BLUE].map(|pod| honest::asks(here, pod, service(family), ASKERS, PATIENCE));
            println!("{family:?}: {answered:?} of {ASKERS} questions of spoke and blue are answered");
            left.push(answered);
        }
        assert_eq!(left, [[ASKERS; 2]; 2]);
        aftermath.finds_nothing();
    });
}

/// All ports towards one server are taken; then one connection is ended and opened again and another one is wanted, over and over.
#[test]
fn a_flood_of_the_dearest_packets_goes_as_fast_as_another() {
    isolated(|here| {
        here.pods();
        let (red, aftermath) = (Attacker::in_pod(here, RED), Aftermath::new());
        let mut slow = Vec::new();
        for family in Family::ALL {
            let frame = |to, port, flags| red.frame(RED.ip(family), to, segment((port, 81), flags, 1, 0, &[]));
            let dead = nobody(family, 1);
            red.send(&(1000..1000 + 12_768).map(|port| frame(dead, port, flag::SYN)).collect::<Vec<_>>());
            let again = |n: u16| {
                [frame(dead, 1000, flag::RST), frame(dead, 1000, flag::SYN), frame(dead, 40_000 + n, flag::SYN)]
            };
            let dear: Vec<_> = (0..1000).flat_map(again).collect();
            let ordinary: Vec<_> = (0..3000).map(|n| frame(nobody(family, 100 + n), 20_000, flag::SYN)).collect();
            slow.push(attack::relative_rate(&red, family, &dear, &ordinary));
        }
        assert!(slow.iter().all(|ratio| *ratio >= 0.2), "{slow:.3?}");
        aftermath.finds_nothing();
    });
}

/// Errors of a pod about packets it never got: unreachable (port), and too big, quoting what `from` sent to `to`.
fn errors(red: &Attacker, family: Family, from: IpAddr, to: IpAddr, quoted: &[L4], receiver: IpAddr) -> Vec<Vec<u8>> {
    let kinds = match family {
        Family::V4 => [(3, 3, [0; 4]), (3, 4, [0, 0, 2, 0x28])],
        Family::V6 => [(1, 4, [0; 4]), (2, 0, [0, 0, 5, 0])],
    };
    let all = kinds.iter().flat_map(|kind| quoted.iter().map(move |q| (*kind, q)));
    let frame = |((kind, code, rest), l4): (_, &L4)| {
        let body = Packet::new(from, to, l4.clone()).ip_bytes();
        red.frame(RED.ip(family), receiver, L4::Icmp { kind, code, rest, body })
    };
    all.map(frame).collect()
}

/// A route's MTU, if an error made it smaller.
fn learnt_mtu(here: &Isolated, place: &str, to: IpAddr) -> Option<String> {
    let told = here.ip(&format!("{place} route get {to}"));
    told.split_once(" mtu ").map(|(_, mtu)| mtu.split_whitespace().next().unwrap_or_default().to_owned())
}

#[test]
fn forged_errors_reach_neither_a_neighbour_nor_the_host() {
    isolated(|here| {
        here.pods();
        honest::lan_server(here, SERVICE);
        let (red, aftermath) = (Attacker::in_pod(here, RED), Aftermath::new());
        let mut harm = Vec::new();
        for family in Family::ALL {
            let (own, peer) = (BLUE.ip(family), server().ip(family));
            let victim = who::datagrams(here, BLUE, service(family));
            assert_eq!(who::asked(&victim, PATIENCE).as_deref(), Some("lan"), "before the attack");
            let port = victim.local_addr().expect("own").port();
            red.send(&errors(&red, family, own, peer, &[udp(port, SERVICE), echo(false, 7)], own));
            if let Some(error) = victim.take_error().expect("ask") {
                harm.push(format!("{family:?}: blue's socket: {error}"));
            }
            assert_eq!(who::asked(&victim, PATIENCE).as_deref(), Some("lan"), "blue asks again");
            if let Some(mtu) = learnt_mtu(here, "-n blue", peer) {
                harm.push(format!("{family:?}: blue's route to the server: mtu {mtu}"));
            }
            // The host's own packets, by each of its addresses.
            let peer = far().ip(family);
            for own in [uplink().ip(family), GATEWAY.ip(family)] {
                red.send(&errors(&red, family, own, peer, &[udp(5555, 53), echo(false, 7)], own));
            }
            if let Some(mtu) = learnt_mtu(here, "", peer) {
                harm.push(format!("{family:?}: the host's route to a far machine: mtu {mtu}"));
            }
        }
        // Errors about the receiver's own packets to the very sender do arrive.
        here.flows(&common::traffic::both(BLUE, RED, |_| Probe::Refused { target: Target::Direct }));
        here.flows(&common::traffic::both(GATEWAY, RED, |_| Probe::Refused { target: Target::Direct }));
        assert!(harm.is_empty(), "{harm:#?}");
        aftermath.finds_nothing();
    });
}

/// A process of the host binds a port that a pod's flow has: either it does not get it, or the answers to its own questions.
#[test]
fn a_port_the_host_binds_is_the_hosts() {
    isolated(|here| {
        here.pods();
        let aftermath = Aftermath::new();
        honest::lan_server(here, SERVICE);
        let mut unanswered = Vec::new();
        for family in Family::ALL {
            let pods =
                here.inside(BLUE.name, || UdpSocket::bind(SocketAddr::new(BLUE.ip(family), SHARED)).expect("bind"));
            pods.connect(service(family)).expect("connect");
            assert_eq!(who::asked(&pods, PATIENCE).as_deref(), Some("lan"));
            let nobodys: IpAddr =
                if family == Family::V4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            for own in [uplink().ip(family), nobodys] {
                let Ok(hosts) = UdpSocket::bind(SocketAddr::new(own, SHARED)) else { continue };
                hosts.connect(service(family)).expect("connect");
                if who::asked(&hosts, who::SILENCE).is_none() {
                    unanswered.push(format!("{own}, port {SHARED}"));
                }
            }
        }
        assert!(unanswered.is_empty(), "the host asks, a pod is answered: {unanswered:?}");
        aftermath.finds_nothing();
    });
}

/// A pod's pings have an identifier; the host's own with that identifier are answered all the same, and the pod's go on.
#[test]
fn the_hosts_pings_are_answered_whatever_identifiers_pods_use() {
    isolated(|here| {
        here.pods();
        let aftermath = Aftermath::new();
        let mut unanswered = Vec::new();
        for family in Family::ALL {
            let to = server().ip(family);
            let ping = |id| common::command::run("ping", format!("-n -c 2 -i 0.2 -W 1 -e {id} {to}").split(' '));
            here.inside(BLUE.name, || ping(SHARED).ok());
            let proto = if family == Family::V4 { 1 } else { 58 };
            let table = flows();
            let of_blue = table.iter().find(|r| r.original && r.proto == proto && r.dst == to).expect("blue's flow");
            let host = ping(of_blue.to_sport);
            if host.status != 0 {
                unanswered.push(format!("{family:?}: the host's {}: {}", of_blue.to_sport, host.stdout.trim()));
            }
            here.inside(BLUE.name, || ping(SHARED).ok());
        }
        assert!(unanswered.is_empty(), "{unanswered:#?}");
        aftermath.finds_nothing();
    });
}

/// An address moves from the host to another machine while no verb runs; what pods send to it has the host's source, or stays.
#[test]
fn an_address_that_left_the_host_is_not_sent_private_sources() {
    isolated(|here| {
        const MOVING: [(&str, u8); 2] = [("192.0.2.9", 24), ("2001:db8:1::9", 64)];
        here.lan();
        for (address, length) in MOVING {
            here.ip(&format!("addr add {address}/{length} dev up0"));
        }
        here.up(TOPOLOGY).ok();
        let aftermath = Aftermath::new();
        let lan = here.inside("lan", || Tap::open("lan0"));
        let mut left = Vec::new();
        for ((address, length), family) in MOVING.into_iter().zip(Family::ALL) {
            let to = SocketAddr::new(address.parse().expect("an address"), SERVICE);
            let socket = who::datagrams(here, BLUE, to);
            socket.send(b"while it is the host's").expect("send");
            here.ip(&format!("addr del {address}/{length} dev up0"));
            here.ip(&format!("-n lan addr add {address}/{length} dev lan0"));
            // A flow of old, and a new one.
            let new = who::datagrams(here, BLUE, to);
            for socket in [&socket, &new] {
                let _ = socket.take_error();
                let _ = socket.send(b"when it is another machine's");
            }
            let private = match BLUE.ip(family) {
                IpAddr::V4(a) => a.octets().to_vec(),
                IpAddr::V6(a) => a.octets().to_vec(),
            };
            let at = if family == Family::V4 { 26 } else { 22 };
            let seen = lan.find(Duration::from_millis(500), |f| f.get(at..at + private.len()) == Some(&private[..]));
            left.extend(seen.map(|frame| format!("{family:?}: {frame:02x?}")));
        }
        assert!(left.is_empty(), "on the LAN with a pod's own source: {left:#?}");
        aftermath.finds_nothing();
    });
}

/// A port is published that a connection of the host to a pod has: it goes on, or the port is refused.
#[test]
fn publishing_a_port_ends_no_connection_of_the_host() {
    isolated(|here| {
        here.pods();
        let aftermath = Aftermath::new();
        let mut broken = Vec::new();
        for (family, port) in Family::ALL.into_iter().zip([45_000, 45_001]) {
            let at = SocketAddr::new(BLUE.ip(family), 80);
            let listener = here.inside(BLUE.name, || TcpListener::bind(at).expect("listen"));
            let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
            let near = Socket::new(domain, Type::STREAM, None).expect("a socket");
            near.bind(&SocketAddr::new(GATEWAY.ip(family), port).into()).expect("bind");
            near.connect_timeout(&at.into(), PATIENCE).expect("connect");
            let (mut near, mut far): (TcpStream, _) = (near.into(), listener.accept().expect("accept").0);
            near.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
            far.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
            let mut goes_on = || {
                let mut block = [0; 4];
                near.write_all(b"ping")?;
                far.read_exact(&mut block)?;
                far.write_all(b"pong")?;
                near.read_exact(&mut block)
            };
            goes_on().expect("before it is published");
            let published = here.netns(["publish", "add", "red", &format!("{port}:80/tcp")]);
            if let Err(e) = goes_on() {
                broken.push(format!("{family:?}: {e}, publish ended with {}", published.status));
            }
        }
        assert!(broken.is_empty(), "{broken:?}");
        aftermath.finds_nothing();
    });
}
