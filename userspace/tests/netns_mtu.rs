//! Packets of every size: a narrow link somewhere on the LAN, and packets no link could carry in one piece.

mod common;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use common::frame::Tap;
use common::pods::{BLUE, RED, client, server, uplink};
use common::traffic::both;
use common::{Isolated, isolated};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netns::check::{self, Case, Family, Probe, Site, Target};
use netns::netlink::Socket;

/// Several seconds for a transfer of milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
const BULK_BYTES: usize = 4 << 20;

/// A machine two routers away, between which the MTU is 1280.
const END: Site = Site {
    name: "end",
    place: "end",
    v4: Ipv4Addr::new(198, 51, 102, 2),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 2),
};

/// Makes [`END`] and the way there: the LAN's server is the first router.
fn narrow_way(here: &Isolated) {
    for place in ["mid", "end"] {
        here.ip(&format!("netns add {place}"));
        here.ip(&format!("-n {place} link set lo up"));
        here.ip(&format!(
            "netns exec {place} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0"
        ));
    }
    here.ip("link add narrow0 mtu 1280 netns lan type veth peer name narrow1 mtu 1280 netns mid");
    here.ip("link add wide0 netns mid type veth peer name wide1 netns end");
    for (place, device, addresses) in [
        ("lan", "narrow0", ["198.51.101.1/24", "2001:db8:a::1/64"]),
        ("mid", "narrow1", ["198.51.101.2/24", "2001:db8:a::2/64"]),
        ("mid", "wide0", ["198.51.102.1/24", "2001:db8:b::1/64"]),
        ("end", "wide1", ["198.51.102.2/24", "2001:db8:b::2/64"]),
    ] {
        let [v4, v6] = addresses;
        here.ip(&format!("-n {place} addr add {v4} dev {device}"));
        here.ip(&format!("-n {place} addr add {v6} dev {device} nodad"));
        here.ip(&format!("-n {place} link set {device} up"));
    }
    for place in ["lan", "mid"] {
        here.ip(&format!("netns exec {place} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"));
    }
    for (place, to, via) in [
        ("lan", "198.51.102.0/24", "198.51.101.2"),
        ("lan", "2001:db8:b::/64", "2001:db8:a::2"),
        ("mid", "default", "198.51.101.1"),
        ("mid", "default", "2001:db8:a::1"),
        ("end", "default", "198.51.102.1"),
        ("end", "default", "2001:db8:b::1"),
    ] {
        let family = if via.contains(':') { "-6" } else { "-4" };
        here.ip(&format!("{family} -n {place} route add {to} via {via}"));
    }
}

fn published(from: Site, port: u16, pod_port: u16) -> Vec<Case> {
    both(from, RED, |f| {
        let target = Target::Published { at: SocketAddr::new(uplink().ip(f), port), pod_port };
        Probe::Tcp { bytes: BULK_BYTES, target, seen_as: from.ip(f) }
    })
}

/// What a pod's kernel knows of the way to [`END`], in each family.
fn knows(here: &Isolated, pod: Site) -> [bool; 2] {
    Family::ALL.map(|f| here.ip(&format!("-n {} route get {}", pod.name, END.ip(f))).contains("mtu 1280"))
}

/// Each in a set-up of its own: [`END`] remembers what it has learnt, and asks for smaller segments next time.
fn finds_out(pod: Site, cases: fn() -> Vec<Case>) {
    isolated(move |here| {
        here.pods();
        narrow_way(here);
        let end = netns::netns::NetnsName::new("end").expect("a name");
        let places = here.places().with("end", netns::netns::Netns::open_named(&end).expect("open"));
        assert_eq!(knows(here, pod), [false; 2]);
        let report = check::run(&places, &cases());
        assert!(report.ok, "{report}");
        assert_eq!(knows(here, pod), [true; 2], "the router's word has reached the pod");
    });
}

#[test]
fn a_narrow_link_behind_source_nat_is_found_out() {
    finds_out(BLUE, || {
        both(BLUE, END, |f| Probe::Tcp { bytes: BULK_BYTES, target: Target::Direct, seen_as: uplink().ip(f) })
    });
}

#[test]
fn a_narrow_link_before_a_published_port_is_found_out() {
    finds_out(RED, || published(END, 8080, 80));
}

/// Lets TCP make packets of up to this size on every device (BIG TCP: kernel 5.19, for IPv4 6.3).
fn allow_big_packets(here: &Isolated, bytes: u32) {
    let host = here.ip("-o link show type veth");
    let devices = host.lines().filter_map(|line| line.split(": ").nth(1)).filter_map(|name| name.split('@').next());
    let devices: Vec<_> = devices.filter(|name| name.starts_with("nn") || *name == "up0").collect();
    assert!(devices.len() >= 4, "{host}");
    set_big(&devices, bytes);
    for (place, device) in [("lan", "lan0"), ("red", "eth0"), ("blue", "eth0")] {
        here.inside(place, || set_big(&[device], bytes));
    }
}

/// By netlink: not every `ip` knows IPv4's sizes.
fn set_big(devices: &[&str], bytes: u32) {
    let mut socket = Socket::open(NETLINK_ROUTE).expect("netlink");
    for device in devices {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName((*device).to_owned()),
            LinkAttribute::GsoMaxSize(bytes),
            LinkAttribute::GroMaxSize(bytes),
            LinkAttribute::GsoIpv4MaxSize(bytes),
            LinkAttribute::GroIpv4MaxSize(bytes),
        ];
        socket.request(0, RouteNetlinkMessage::SetLink(message)).unwrap_or_else(|e| panic!("{device}: {e}"));
    }
}

#[test]
fn packets_larger_than_64_kilobytes_go_everywhere() {
    /// What a frame of 64 KiB and its headers does not have.
    const BIG: usize = 65_650;
    isolated(|here| {
        here.pods();
        allow_big_packets(here, 185_000);
        let direct = |from, to, seen_as: Site| {
            both(from, to, |f| Probe::Tcp { bytes: 4 * BULK_BYTES, target: Target::Direct, seen_as: seen_as.ip(f) })
        };
        let ways = [
            ("pod to pod", "blue", "eth0", direct(RED, BLUE, RED)),
            ("pod to LAN", "lan", "lan0", direct(RED, server(), uplink())),
            ("LAN to published", "red", "eth0", published(client(), 8080, 80)),
        ];
        for (what, place, device, cases) in ways {
            for case in cases {
                let tap = here.inside(place, || Tap::open(device));
                let ethertype = if case.family == Family::V4 { [8, 0] } else { [0x86, 0xdd] };
                let big = thread::scope(|scope| {
                    let watch = || tap.find(PATIENCE, |frame| frame.len() > BIG && frame[12..14] == ethertype);
                    let watch = scope.spawn(watch);
                    here.flows(std::slice::from_ref(&case));
                    watch.join().expect("watch")
                });
                assert!(big.is_some(), "{what}, {:?}: no packet was larger than 64 KiB", case.family);
            }
        }
        assert_eq!(here.drops("too-big"), 0, "their segments fit");
    });
}
