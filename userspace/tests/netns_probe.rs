//! The probes of `--check` themselves, on plain cables and a router made with `ip`: they pass where a kernel forwards
//! as it should, and name what is wrong where it does not.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use common::{Isolated, isolated};
use netns::check::{self, Case, Family, Places, Probe, Report, Site, Target};

const fn site(name: &'static str, place: &'static str, subnet: u8, host: u8) -> Site {
    let v6 = Ipv6Addr::new(0xfd00, subnet as u16, 0, 0, 0, 0, 0, host as u16);
    Site { name, place, v4: Ipv4Addr::new(10, subnet, 0, host), v6 }
}

const RED: Site = site("red", "red", 1, 10);
const BLUE: Site = site("blue", "blue", 2, 10);
const GATEWAY: Site = site("gateway", "host", 1, 1);
const NOBODY: Site = site("nobody", "host", 1, 99);

/// Two namespaces behind a third that routes between them.
fn routed(here: &Isolated) -> Places {
    // A router whose link-local addresses are still tentative cannot ask for neighbours.
    let no_dad = |namespace: &str| {
        here.ip(&format!("netns add {namespace}"));
        here.ip(&format!("-n {namespace} link set lo up"));
        here.tool("ip", &format!("netns exec {namespace} sysctl -qw net.ipv6.conf.default.accept_dad=0"));
    };
    no_dad("host");
    here.tool("ip", "netns exec host sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    for (pod, subnet) in [("red", 1), ("blue", 2)] {
        no_dad(pod);
        here.ip(&format!("-n host link add {pod} type veth peer name eth0 netns {pod}"));
        for (namespace, device, host) in [("host", pod, 1), (pod, "eth0", 10)] {
            here.ip(&format!("-n {namespace} addr add 10.{subnet}.0.{host}/24 dev {device}"));
            here.ip(&format!("-n {namespace} addr add fd00:{subnet}::{host:x}/64 dev {device} nodad"));
            here.ip(&format!("-n {namespace} link set {device} up"));
        }
        here.ip(&format!("-n {pod} -4 route add default via 10.{subnet}.0.1"));
        here.ip(&format!("-n {pod} -6 route add default via fd00:{subnet}::1"));
    }
    Places::open([("host", "host"), ("red", "red"), ("blue", "blue")]).expect("open the namespaces")
}

fn both(from: Site, to: Site, probe: impl Fn(Family) -> Probe) -> Vec<Case> {
    Family::ALL.into_iter().map(|family| Case { path: "test", from, to, family, probe: probe(family) }).collect()
}

fn udp(seen_as: IpAddr, bytes: usize, hop_limit: u8) -> Probe {
    Probe::Udp { bytes, target: Target::Direct, seen_as, hop_limit }
}

fn tcp(seen_as: IpAddr, bytes: usize) -> Probe {
    Probe::Tcp { bytes, target: Target::Direct, seen_as }
}

/// All three are BLUE's machine.
fn mapped(seen_as: Site) -> impl Fn(Family) -> Probe {
    move |f| Probe::Mapped { also: BLUE.ip(f), stranger: BLUE.ip(f), seen_as: seen_as.ip(f) }
}

#[track_caller]
fn assert_ok(report: &Report) {
    assert!(report.ok, "{report}");
}

/// Every row fails, and says so in these words.
#[track_caller]
fn assert_fails(report: &Report, words: &[&str]) {
    assert!(!report.ok);
    for row in &report.rows {
        let reason = row.reason.as_deref().unwrap_or("ok");
        for word in words {
            assert!(reason.contains(word), "{word:?} is not in the reason {reason:?}\n{report}");
        }
    }
}

#[test]
fn all_probes_pass_over_a_router() {
    isolated(|here| {
        let places = routed(here);
        let mut cases = both(RED, BLUE, |f| tcp(RED.ip(f), 100));
        cases.extend(both(RED, BLUE, |f| tcp(RED.ip(f), 4 << 20)));
        cases.extend(both(RED, BLUE, |f| udp(RED.ip(f), 512, 63)));
        cases.extend(both(RED, GATEWAY, |f| udp(RED.ip(f), 0, 64)));
        cases.extend(both(RED, BLUE, |f| Probe::Echo { seen_as: Some(RED.ip(f)) }));
        cases.extend(both(RED, GATEWAY, |_| Probe::Echo { seen_as: None }));
        cases.extend(both(RED, BLUE, |f| Probe::Trace { hops: vec![GATEWAY.ip(f), BLUE.ip(f)] }));
        cases.extend(both(RED, NOBODY, |_| Probe::HostUnreachable));
        cases.extend(both(RED, BLUE, mapped(RED)));
        assert_ok(&check::run(&places, &cases));
    });
}

#[test]
fn a_smaller_way_out_is_reported_with_its_mtu() {
    isolated(|here| {
        let places = routed(here);
        here.ip("-n host link set blue mtu 1300");
        here.ip("-n blue link set eth0 mtu 1300");
        let big = |mtu_bytes| move |f| Probe::TooBig { bytes: 1400, router: GATEWAY.ip(f), mtu_bytes };
        assert_ok(&check::run(&places, &both(RED, BLUE, big(1300))));
    });
    isolated(|here| {
        let places = routed(here);
        here.ip("-n host link set blue mtu 1300");
        let wrong = both(RED, BLUE, |f| Probe::TooBig { bytes: 1400, router: GATEWAY.ip(f), mtu_bytes: 1299 });
        assert_fails(&check::run(&places, &wrong), &["TooBig with MTU 1300", "not TooBig with MTU 1299"]);
    });
}

#[test]
fn a_translated_source_is_seen() {
    isolated(|here| {
        let places = routed(here);
        here.tool("ip", "netns exec host nft add table inet t");
        here.tool("ip", "netns exec host nft add chain inet t c { type nat hook postrouting priority 100 ; }");
        here.tool("ip", "netns exec host nft add rule inet t c oifname blue masquerade");
        let gateway = site("gateway", "host", 2, 1);
        let mut cases = both(RED, BLUE, |f| tcp(gateway.ip(f), 100));
        cases.extend(both(RED, BLUE, |f| udp(gateway.ip(f), 100, 63)));
        cases.extend(both(RED, BLUE, |f| Probe::Echo { seen_as: Some(gateway.ip(f)) }));
        assert_ok(&check::run(&places, &cases));

        let mut cases = both(RED, BLUE, |f| tcp(RED.ip(f), 100));
        cases.extend(both(RED, BLUE, |f| udp(RED.ip(f), 100, 63)));
        cases.extend(both(RED, BLUE, |f| Probe::Echo { seen_as: Some(RED.ip(f)) }));
        assert_fails(&check::run(&places, &cases), &["blue sees the packets come from"]);
        // Nobody gets in who was not asked.
        assert_fails(&check::run(&places, &both(RED, BLUE, mapped(gateway))), &["receive from", "nothing came"]);
    });
}

#[test]
fn a_port_of_two_pods_is_told_from_that_of_one() {
    const OTHER: Site = site("other", "blue", 2, 11);
    isolated(|here| {
        let places = routed(here);
        here.tool("ip", "netns exec host nft add table inet t");
        here.tool("ip", "netns exec host nft add chain inet t c { type nat hook prerouting priority -100 ; }");
        here.ip("-n blue addr add 10.2.0.11/24 dev eth0");
        here.ip("-n blue addr add fd00:2::b/64 dev eth0 nodad");
        for (family, to, other) in [("ip", "10.2.0.10", "10.2.0.11"), ("ip6", "fd00:2::a", "fd00:2::b")] {
            let both = format!("numgen inc mod 2 map {{ 0 : {to}, 1 : {other} }}");
            for (port, to) in [(8080, to), (8081, &both)] {
                let rule = format!("tcp dport {port} dnat {family} to {to}");
                here.tool("ip", &format!("netns exec host nft add rule inet t c {rule}"));
            }
        }
        let shared = |port| {
            move |f| Probe::Shared {
                at: SocketAddr::new(GATEWAY.ip(f), port),
                pod_port: port,
                with: OTHER,
                seen_as: RED.ip(f),
            }
        };
        assert_ok(&check::run(&places, &both(RED, BLUE, shared(8081))));
        let report = check::run(&places, &both(RED, BLUE, shared(8080)));
        assert_fails(&report, &["none of 64 connections", "has reached other"]);
    });
}

#[test]
fn failures_say_what_is_wrong() {
    isolated(|here| {
        let places = routed(here);
        assert_fails(
            &check::run(&places, &both(RED, BLUE, |f| udp(RED.ip(f), 10, 64))),
            &["hop limit at blue is 63, not 64"],
        );
        let hops = |f| Probe::Trace { hops: vec![RED.ip(f), BLUE.ip(f)] };
        assert_fails(&check::run(&places, &both(RED, BLUE, hops)), &["TimeExceeded from", "not TimeExceeded from"]);
        assert_fails(
            &check::run(&places, &both(RED, BLUE, |_| Probe::Closed { target: Target::Direct })),
            &["blue was reached by"],
        );
        assert_fails(
            &check::run(&places, &both(RED, BLUE, |_| Probe::HostUnreachable)),
            &["should be host-unreachable"],
        );

        let stranger = Site { place: "nowhere", ..BLUE };
        assert_fails(&check::run(&places, &both(RED, stranger, |f| tcp(RED.ip(f), 1))), &["nowhere"]);
    });
}

#[test]
fn a_cut_cable_ends_every_probe_soon() {
    isolated(|here| {
        let places = routed(here);
        here.ip("-n host link set blue down");
        let started = std::time::Instant::now();
        let mut cases = both(RED, BLUE, |f| tcp(RED.ip(f), 100));
        cases.extend(both(RED, BLUE, |f| udp(RED.ip(f), 100, 63)));
        cases.extend(both(RED, BLUE, |f| Probe::Echo { seen_as: Some(RED.ip(f)) }));
        cases.extend(both(RED, BLUE, |f| Probe::Trace { hops: vec![GATEWAY.ip(f), BLUE.ip(f)] }));
        let report = check::run(&places, &cases);
        assert_eq!(report.passed, 0, "{report}");
        assert!(started.elapsed().as_secs() < 8, "{report}");
    });
}

#[test]
fn a_clean_host_is_told_from_one_with_bridge_firewall_or_forwarding() {
    isolated(|here| {
        here.ip("netns add host");
        let places = Places::open([("host", "host")]).expect("open the namespace");
        let cases = both(GATEWAY, GATEWAY, |_| Probe::HostState);
        assert_ok(&check::run(&places, &cases));

        here.ip("-n host link add br0 type bridge");
        assert_fails(&check::run(&places, &cases), &["bridge", "br0"]);
        here.ip("-n host link del br0");

        here.tool("ip", "netns exec host nft add table inet t");
        assert_fails(&check::run(&places, &cases), &["1 nftables tables"]);
        here.tool("ip", "netns exec host nft delete table inet t");

        here.tool("ip", "netns exec host sysctl -qw net.ipv4.ip_forward=1");
        assert_fails(&check::run(&places, &cases), &["ip_forward is 1"]);
        here.tool("ip", "netns exec host sysctl -qw net.ipv4.ip_forward=0");
        assert_ok(&check::run(&places, &cases));
    });
}
