//! Routes, flags, settings of the kernel and pins that somebody changed or took away are seen and mended.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::drift::{Mender, all_flows, differences, harmed, slot};
use common::pods::{BLUE, GATEWAY, RED};
use common::traffic::direct;
use common::{BPFFS, Isolated, isolated};
use serde_json::Value;

fn ip(here: &Isolated, words: &str) {
    here.ip(words);
}

#[test]
fn routes_of_a_pod() {
    isolated(|here| {
        here.pods();
        let before = ["-n red route", "-n red -6 route show dev eth0"].map(|words| here.ip(words));
        harmed(here, "subnet's route gone", "routes-gone", Mender::Repair, || {
            ip(here, "-n red route del 10.244.0.0/24");
        });
        harmed(here, "subnet's IPv6 route gone", "routes-gone", Mender::Up, || {
            ip(here, "-n red -6 route del fd00:244::/64 dev eth0");
        });
        harmed(here, "default route changed", "routes-gone", Mender::Repair, || {
            ip(here, "-n red route replace default via 10.244.0.99");
        });
        harmed(here, "IPv6 default route changed", "routes-gone", Mender::RepairPod("red"), || {
            ip(here, "-n red -6 route replace default via fd00:244::99 dev eth0");
        });
        harmed(here, "all routes gone", "routes-gone", Mender::Up, || {
            ip(here, "-n red route flush table main");
            ip(here, "-n red -6 route flush dev eth0");
        });
        let sorted = |text: &str| {
            let mut lines: Vec<&str> = text.lines().map(|l| l.split(" proto").next().expect("a part")).collect();
            lines.sort_unstable();
            lines.join("\n")
        };
        let after = ["-n red route", "-n red -6 route show dev eth0"].map(|words| here.ip(words));
        assert_eq!(sorted(&after[0]), sorted(&before[0]));
        assert!(after[1].contains("fd00:244::/64") && after[1].contains("default via fd00:244::1"), "{}", after[1]);
    });
}

/// From the host to a pod, by the host's own routes.
fn from_host(here: &Isolated) {
    here.flows(&direct(GATEWAY, RED, GATEWAY, 64));
}

#[test]
fn routes_of_the_host() {
    isolated(|here| {
        here.pods();
        let words = ["route show dev nngw1", "-6 route show dev nngw1"];
        let before = words.map(|words| here.ip(words));
        harmed(here, "subnet's route gone", "routes-gone", Mender::Repair, || ip(here, "route del 10.244.0.0/24"));
        from_host(here);
        harmed(here, "subnet's IPv6 route gone", "routes-gone", Mender::Up, || {
            ip(here, "-6 route del fd00:244::/64 dev nngw1");
        });
        from_host(here);
        assert_eq!(words.map(|words| here.ip(words)), before);
        harmed(here, "subnet's route changed", "routes-gone", Mender::Repair, || {
            ip(here, "route replace 10.244.0.0/24 dev up0");
        });
        from_host(here);
        assert!(here.ip("route show dev up0").contains("10.244.0.0/24"), "somebody else's stays");
        ip(here, "route del 10.244.0.0/24 dev up0");
        // With the address goes the route, as if the kernel had made it.
        ip(here, "addr del 10.244.0.1/24 dev nngw1");
        assert_eq!(here.ip("route show dev nngw1"), "");
        here.netns(["repair"]).ok();
        assert_eq!(words.map(|words| here.ip(words)), before);
        // A more particular one is not ours to take away.
        for (route, named) in [("10.244.0.10/32", "10.244.0.10/32"), ("fd00:244::10/128", "fd00:244::10/128")] {
            ip(here, &format!("route add {route} dev up0"));
            let found = differences(here, 3, route);
            let led = found.iter().find(|d| d["kind"] == "led-elsewhere").unwrap_or_else(|| panic!("{found:#?}"));
            assert_eq!(led["mendable"], false);
            assert!(led["message"].as_str().is_some_and(|m| m.contains(named) && m.contains("up0")), "{led}");
            assert_eq!(here.netns(["repair"]).status, 3);
            ip(here, &format!("route del {route} dev up0"));
        }
        assert_eq!(differences(here, 0, "after"), Vec::<Value>::new());
    });
}

#[test]
fn flags_and_masters() {
    isolated(|here| {
        here.pods();
        let veth = slot(here, "red");
        ip(here, "link add name theirs type bridge");
        ip(here, "-n red link add name theirs type bridge");
        for (i, device) in [veth.as_str(), "nngw1", "nngw1p"].into_iter().enumerate() {
            let mender = if i % 2 == 0 { Mender::Repair } else { Mender::Up };
            harmed(here, &format!("{device} resolves neighbours"), "neighbours", mender, || {
                ip(here, &format!("link set {device} arp on"));
            });
            harmed(here, &format!("{device} on a bridge"), "port", mender, || {
                ip(here, &format!("link set {device} master theirs"));
            });
        }
        harmed(here, "the pod's resolves none", "neighbours", Mender::Repair, || {
            ip(here, "-n red link set eth0 arp off");
        });
        harmed(here, "the pod's on a bridge", "port", Mender::RepairPod("red"), || {
            ip(here, "-n red link set eth0 master theirs");
        });
        from_host(here);
    });
}

#[test]
fn settings_that_keep_a_pod_in() {
    isolated(|here| {
        here.pods();
        let veth = slot(here, "red");
        let write = |key: &str, value: &str| {
            fs::write(Path::new("/proc/sys/net").join(key), value).unwrap_or_else(|e| panic!("write {key}: {e}"));
        };
        let settings = [
            (format!("ipv4/conf/{veth}/forwarding"), "1"),
            (format!("ipv4/conf/{veth}/rp_filter"), "0"),
            (format!("ipv6/conf/{veth}/disable_ipv6"), "0"),
            ("ipv4/conf/nngw1/rp_filter".to_owned(), "1"),
            ("ipv4/conf/nngw1/send_redirects".to_owned(), "1"),
            ("ipv6/conf/nngw1/accept_ra".to_owned(), "2"),
            ("ipv6/conf/nngw1/disable_ipv6".to_owned(), "1"),
        ];
        for (i, (key, value)) in settings.iter().enumerate() {
            let mender = if i % 2 == 0 { Mender::Repair } else { Mender::Up };
            harmed(here, key, "setting", mender, || write(key, value));
            assert_ne!(fs::read_to_string(Path::new("/proc/sys/net").join(key)).expect("read").trim(), *value, "{key}");
        }
        // The kernel takes the host's own switch to be one for every device.
        harmed(here, "the host forwards", "setting", Mender::Repair, || write("ipv4/ip_forward", "1"));
        assert_eq!(fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{veth}/forwarding")).expect("read").trim(), "0");
        write("ipv4/ip_forward", "0");
        here.netns(["repair"]).ok();
        from_host(here);
    });
}

fn pins(dir: &str) -> Vec<PathBuf> {
    let dir = fs::read_dir(format!("{BPFFS}/netns-ebpf/default/{dir}")).expect("read the pins");
    let mut pins: Vec<_> = dir.map(|e| e.expect("an entry").path()).collect();
    pins.sort();
    pins
}

fn remove(pins: impl IntoIterator<Item = PathBuf>) {
    pins.into_iter().for_each(|pin| fs::remove_file(&pin).unwrap_or_else(|e| panic!("unpin {}: {e}", pin.display())));
}

#[test]
fn links_whose_pins_were_removed() {
    isolated(|here| {
        here.pods();
        for (i, pin) in pins("links").into_iter().enumerate() {
            let name = pin.display().to_string();
            let kind = if name.contains("cgroup-") { "socket-hooks-detached" } else { "program-detached" };
            let mender = if i % 2 == 0 { Mender::Repair } else { Mender::Up };
            harmed(here, &name, kind, mender, || remove([pin]));
        }
        harmed(here, "all links", "program-detached", Mender::Repair, || remove(pins("links")));
    });
}

/// What is attached holds programs and maps: they get their names back, and their flows go on.
#[test]
fn maps_and_programs_whose_pins_were_removed() {
    isolated(|here| {
        here.pods();
        all_flows(here);
        let mut one = here.inside(RED.name, || std::net::TcpListener::bind((RED.v4, 7001)).expect("listen"));
        let client = here.inside("lan", || std::net::TcpStream::connect("192.0.2.2:9001").expect("connect"));
        let before = (pins("maps"), pins("progs"));
        for (i, name) in ["maps/FLOWS4", "maps/ENDPOINTS", "progs/from_pod", "progs/connect4"].into_iter().enumerate() {
            let mender = if i % 2 == 0 { Mender::Repair } else { Mender::Up };
            harmed(here, name, "pins-gone", mender, || {
                remove([PathBuf::from(BPFFS).join("netns-ebpf/default").join(name)]);
            });
        }
        harmed(here, "all maps", "pins-gone", Mender::Repair, || remove(pins("maps")));
        // Nothing else holds these two.
        let attached = |pin: &PathBuf| !["sweep", "from_uplink_l3"].iter().any(|name| pin.ends_with(name));
        harmed(here, "programs and maps", "pins-gone", Mender::Repair, || {
            remove(pins("progs").into_iter().filter(attached).chain(pins("maps")));
        });
        assert_eq!((pins("maps"), pins("progs")), before);
        speaks(&mut one, &client);
        // What lived by its pin alone is made anew, and everything with it.
        harmed(here, "a program nobody runs", "pins-gone", Mender::Repair, || {
            remove([PathBuf::from(BPFFS).join("netns-ebpf/default/progs/sweep")]);
        });
        assert_eq!((pins("maps"), pins("progs")), before);
        here.flows(&direct(BLUE, RED, BLUE, 63));
    });
}

/// The connection is the one it was.
fn speaks(server: &mut std::net::TcpListener, mut client: &std::net::TcpStream) {
    use std::io::{Read, Write};
    let (mut stream, _) = server.accept().expect("accept");
    client.write_all(b"still here").expect("write");
    let mut block = [0; 10];
    stream.read_exact(&mut block).expect("read");
    assert_eq!(&block, b"still here");
}
