//! Datagrams in pieces, through source NAT and published ports, by real sockets and in any order.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use common::lan::SERVER;
use common::packet::{ethernet, ipv4};
use common::pods::{BLUE, GATEWAY, RED, TOPOLOGY, client, far, server, uplink};
use common::traffic::both;
use common::{Isolated, isolated, wait_until};
use netns::check::{Case, Family, Order, Probe, Site, Target};

/// Rounds of shuffled pieces; more by `NETNS_TEST_ROUNDS`.
const ROUNDS: u64 = 3;
/// How long an answer may take that takes microseconds.
const PATIENCE: Duration = Duration::from_secs(3);

fn rounds() -> u64 {
    std::env::var("NETNS_TEST_ROUNDS").map_or(ROUNDS, |n| n.parse().expect("NETNS_TEST_ROUNDS: a number"))
}

/// Every way with fragments in it, for datagrams of a size.
fn ways(bytes: usize, order: Order) -> Vec<Case> {
    let direct =
        |seen_as: Site| move |f| Probe::Pieces { bytes, target: Target::Direct, seen_as: seen_as.ip(f), order };
    let published = |seen_as: Site| {
        move |f| {
            let target = Target::Published { at: SocketAddr::new(uplink().ip(f), 8080), pod_port: 80 };
            Probe::Pieces { bytes, target, seen_as: seen_as.ip(f), order }
        }
    };
    [
        both(RED, server(), direct(uplink())),
        both(BLUE, far(), direct(uplink())),
        both(client(), RED, published(client())),
        both(far(), RED, published(far())),
        both(BLUE, RED, published(uplink())),
        both(RED, RED, published(uplink())),
        both(RED, BLUE, direct(RED)),
        both(RED, GATEWAY, direct(RED)),
        both(GATEWAY, RED, direct(GATEWAY)),
    ]
    .concat()
}

#[test]
fn pieces_arrive_in_any_order() {
    isolated(|here| {
        here.pods();
        let seed = u64::from(std::process::id()) + 1;
        println!("seed {seed}");
        for bytes in [8_000, 60_000] {
            for order in [Order::Forward, Order::Reverse] {
                one_by_one(here, &ways(bytes, order));
            }
            for round in 0..rounds() {
                one_by_one(here, &ways(bytes, Order::Shuffled(seed + round)));
            }
        }
        assert_eq!(here.drops("fragment"), 0);
        assert_eq!(here.drops("fragment-overlap"), 0);
        assert!(held(here) > 1000, "the pieces came in order: {}", held(here));
    });
}

/// Packets put aside so far.
fn held(here: &Isolated) -> u64 {
    let status = here.status();
    let hooks = status["verdicts"].as_array().unwrap_or_else(|| panic!("no verdicts in {status:#}"));
    hooks.iter().filter_map(|hook| hook["held"].as_u64()).sum()
}

/// One datagram at a time: that of 60 kB has more pieces than half of a sender's share of what may wait.
fn one_by_one(here: &Isolated, cases: &[Case]) {
    for case in cases {
        here.flows(std::slice::from_ref(case));
    }
}

#[test]
fn pings_of_64_kilobytes_pass() {
    isolated(|here| {
        here.pods();
        let before = pieces_to_the_host();
        for address in SERVER {
            here.ip(&format!("netns exec red ping -q -c 3 -i 0.2 -W 3 -s 65000 {address}"));
        }
        // Those it got would wait there for the rest, and the server would hear of it after 30 seconds.
        assert_eq!(pieces_to_the_host(), before, "the pod's answers in pieces went up the host's stack");
    });
}

/// Fragments of either family that the host's stack was to put together.
fn pieces_to_the_host() -> u64 {
    let read = |path| std::fs::read_to_string(path).expect("read what the stack counts");
    let text = read("/proc/thread-self/net/snmp");
    let mut lines = text.lines().filter(|l| l.starts_with("Ip:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let ipv4 = pairs.find(|(name, _)| *name == "ReasmReqds").expect("ReasmReqds").1.to_owned();
    let text = read("/proc/thread-self/net/snmp6");
    let ipv6 = text.lines().find_map(|l| l.strip_prefix("Ip6ReasmReqds")).expect("Ip6ReasmReqds").to_owned();
    [ipv4, ipv6].iter().map(|n| n.trim().parse::<u64>().expect("a number")).sum()
}

/// Answers each datagram with the same.
fn echo(here: &Isolated, place: &str, at: SocketAddr) {
    let socket = here.inside(place, || UdpSocket::bind(at).expect("bind"));
    thread::spawn(move || {
        let mut block = vec![0; 65_536];
        while let Ok((n, peer)) = socket.recv_from(&mut block) {
            let _ = socket.send_to(&block[..n], peer);
        }
    });
}

/// Datagrams the kernel cuts, each answered in pieces, from many sockets at once: none may get another's pieces.
#[test]
fn thousands_of_datagrams_pass_at_once() {
    const SOCKETS: u32 = 8;
    const EACH: u32 = 250;
    isolated(|here| {
        here.pods();
        for family in Family::ALL {
            let published = SocketAddr::new(uplink().ip(family), 8080);
            let at_server = SocketAddr::new(server().ip(family), 7000);
            echo(here, "red", SocketAddr::new(RED.ip(family), 80));
            echo(here, "lan", at_server);
            for (from, aim) in [(BLUE, at_server), (client(), published)] {
                let sockets = (0..SOCKETS).map(|_| {
                    let bind = || UdpSocket::bind(SocketAddr::new(from.ip(family), 0)).expect("bind");
                    let socket = here.inside(from.place, bind);
                    socket.set_read_timeout(Some(PATIENCE)).expect("time-out");
                    socket
                });
                let sockets: Vec<UdpSocket> = sockets.collect();
                thread::scope(|scope| {
                    for (i, socket) in (0..).zip(&sockets) {
                        scope.spawn(move || converse(socket, aim, i, EACH, &format!("{family:?} from {}", from.name)));
                    }
                });
            }
        }
    });
}

/// Not by connected sockets: those count IPv4 identifications each for itself, from a random number on, so two would use the same
/// ones at times, and whoever puts their pieces together could not tell them apart (RFC 6864 section 4.3).
fn converse(socket: &UdpSocket, aim: SocketAddr, who: u32, datagrams: u32, case: &str) {
    let mut block = vec![0; 9000];
    for n in 0..datagrams {
        let mark = (u64::from(who) << 32 | u64::from(n)).to_be_bytes();
        let sent = mark.repeat(1000);
        socket.send_to(&sent, aim).unwrap_or_else(|e| panic!("{case}, socket {who}: send {n}: {e}"));
        let (got, peer) =
            socket.recv_from(&mut block).unwrap_or_else(|e| panic!("{case}, socket {who}: answer {n}: {e}"));
        assert_eq!(peer, aim, "{case}, socket {who}: answer {n}");
        assert!(block[..got] == sent, "{case}, socket {who}: answer {n} is another's");
    }
}

#[test]
fn a_piece_too_large_to_wait_is_dropped() {
    isolated(|here| {
        here.lan();
        for (name, place) in [("up0", None), ("lan0", Some("lan"))] {
            let namespace = place.map_or(String::new(), |place| format!("-n {place} "));
            here.ip(&format!("{namespace}link set {name} mtu 10000"));
        }
        here.up(TOPOLOGY).ok();
        here.flows(&both(RED, server(), |f| Probe::Echo { seen_as: Some(uplink().ip(f)) }));
        let red = here.tap("red");
        let (gateway, mac) = (here.gateway_mac("red"), here.mac("red", "eth0"));
        let IpAddr::V4(to) = server().ip(Family::V4) else { panic!("an IPv4 address") };
        let later = |bytes: usize| {
            let mut packet = ipv4(RED.v4, to, 17, &vec![0; bytes]);
            packet[6..8].copy_from_slice(&[0x20, 8]);
            ethernet(gateway, mac, 0x0800, &packet)
        };
        here.drops_more("fragment", "a later piece of 9304 bytes", || red.send(&later(9304)));
        let before = here.drops("fragment");
        red.send(&later(9192));
        wait_until("the piece is put aside", PATIENCE, || held(here) == 1);
        assert_eq!(here.drops("fragment"), before);
    });
}
