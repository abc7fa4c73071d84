//! What somebody changes, deletes or detaches behind an instance's back is named by `status`, which exits 3, and mended by
//! `repair` and by `up`.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::drift::{Mender, all_flows, differences, harmed, slot};
use common::lan::{SERVER, UPLINK};
use common::{BPFFS, Isolated, isolated, wait_until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

#[test]
fn a_pods_cable() {
    isolated(|here| {
        here.pods();
        let veth = slot(here, "red");
        let ip = |words: &str| drop(here.ip(words));
        harmed(here, "host veth gone", "device-gone", Mender::Repair, || ip(&format!("link del {veth}")));
        harmed(here, "pod's end gone", "device-gone", Mender::RepairPod("red"), || ip("-n red link del eth0"));
        harmed(here, "host veth down", "device-down", Mender::Up, || ip(&format!("link set {veth} down")));
        harmed(here, "pod's end down", "device-down", Mender::Repair, || ip("-n red link set eth0 down"));
        harmed(here, "host veth renamed", "device-renamed", Mender::Repair, || {
            ip(&format!("link set {veth} down"));
            ip(&format!("link set {veth} name other"));
            ip("link set other up");
        });
        harmed(here, "pod's end renamed", "device-renamed", Mender::Up, || {
            ip("-n red link set eth0 down");
            ip("-n red link set eth0 name other");
        });
        harmed(here, "pod's end in another namespace", "device-gone", Mender::Repair, || {
            ip("-n red link set eth0 netns lan name theirs");
        });
    });
}

#[test]
fn a_pods_addresses_and_settings() {
    isolated(|here| {
        here.pods();
        let ip = |words: &str| drop(here.ip(words));
        harmed(here, "addresses flushed", "addresses-gone", Mender::Repair, || {
            ip("-n red addr flush dev eth0 scope global");
        });
        harmed(here, "one address gone", "addresses-gone", Mender::Up, || {
            ip("-n red addr del fd00:244::10/64 dev eth0");
        });
        harmed(here, "default route gone", "routes-gone", Mender::Repair, || ip("-n red route del default"));
        harmed(here, "IPv6 default route gone", "routes-gone", Mender::Up, || ip("-n red -6 route del default"));
        harmed(here, "MAC changed", "mac", Mender::Repair, || ip("-n red link set eth0 address 02:00:00:00:00:77"));
        harmed(here, "MTU changed", "mtu", Mender::Repair, || ip("-n red link set eth0 mtu 1300"));
    });
}

#[test]
fn a_pods_namespace() {
    isolated(|here| {
        here.pods();
        let ip = |words: &str| drop(here.ip(words));
        harmed(here, "namespace deleted", "namespace-gone", Mender::Repair, || ip("netns del red"));
        harmed(here, "namespace deleted, repaired by name", "namespace-gone", Mender::RepairPod("red"), || {
            ip("netns del red");
        });
        harmed(here, "namespace deleted, mended by up", "namespace-gone", Mender::Up, || ip("netns del red"));
        // A file is left where the name was, and nobody is in it.
        harmed(here, "name unmounted, and nobody inside", "namespace-gone", Mender::Repair, || {
            umount2("/run/netns/red", MntFlags::MNT_DETACH).expect("unmount the name");
        });
    });
}

/// Whoever is inside stays there, and the pod with him.
#[test]
fn a_namespace_that_lost_its_name() {
    isolated(|here| {
        here.pods();
        let inside = here.netns_background(["exec", "red", "--", "sleep", "600"]);
        let identity = || {
            use std::os::unix::fs::MetadataExt;
            fs::metadata("/run/netns/red").expect("a name").ino()
        };
        let before = identity();
        wait_until("somebody to be inside", std::time::Duration::from_secs(20), || {
            here.netns(["pids", "red"]).stdout.contains(&inside.pid().to_string())
        });
        for mender in [Mender::Repair, Mender::Up, Mender::RepairPod("red")] {
            harmed(here, "name unmounted", "name-gone", mender, || {
                umount2("/run/netns/red", MntFlags::MNT_DETACH).expect("unmount the name");
            });
            assert_eq!(identity(), before);
            harmed(here, "name deleted", "name-gone", mender, || drop(here.ip("netns del red")));
            assert_eq!(identity(), before);
        }
        // Its addresses went as well, which is seen only when it has its name back.
        here.ip("-n red addr flush dev eth0 scope global");
        here.ip("netns del red");
        here.netns(["repair"]).ok();
        assert_eq!(identity(), before);
        // Another name stands for it.
        here.ip(&format!("netns attach same {}", inside.pid()));
        drop(inside);
        here.ip("netns del red");
        here.netns(["repair"]).ok();
        assert_eq!(identity(), before);
        here.ip("netns del same");
        all_flows(here);
    });
}

#[test]
fn another_namespace_of_a_pods_name_is_neither_entered_nor_changed_nor_deleted() {
    isolated(|here| {
        here.pods();
        here.ip("netns del red");
        here.ip("netns add red");
        let identity = || {
            use std::os::unix::fs::MetadataExt;
            fs::metadata("/run/netns/red").map(|m| m.ino()).ok()
        };
        let (theirs, links) = (identity(), here.ip("-n red -o link show"));
        let found = differences(here, 3, "replaced");
        assert!(found.iter().any(|d| d["kind"] == "namespace-replaced" && d["mendable"] == false), "{found:#?}");
        let repaired = here.netns(["repair"]);
        assert_eq!(repaired.status, 3, "{}", repaired.report());
        assert!(repaired.stdout.contains("another namespace has its name"), "{}", repaired.report());
        here.netns(["up", "-f", "/run/topology.toml"]).ok();
        here.netns(["exec", "red", "--", "true"]).fails(1, &["is another one"]);
        let list = here.netns(["list", "-o", "json"]).json();
        let red = list.as_array().expect("a list").iter().find(|p| p["name"] == "red").expect("red");
        assert_eq!(red["present"], false);
        let untouched =
            |when: &str| assert_eq!((identity(), here.ip("-n red -o link show")), (theirs, links.clone()), "{when}");
        untouched("after the verbs");
        // Out of the way, the pod gets one of its own again.
        here.ip("netns del red");
        here.netns(["repair", "red"]).ok();
        all_flows(here);
        here.ip("netns del red");
        here.ip("netns add red");
        let theirs = identity();
        here.netns(["del", "red"]).ok();
        assert_eq!(identity(), theirs, "after del");
        here.netns(["down"]).ok();
        assert_eq!(identity(), theirs, "after down");
    });
}

#[test]
fn a_gateway_device() {
    isolated(|here| {
        here.pods();
        let ip = |words: &str| drop(here.ip(words));
        harmed(here, "gateway device gone", "device-gone", Mender::Repair, || ip("link del nngw1"));
        harmed(here, "gateway device down", "device-down", Mender::Up, || ip("link set nngw1 down"));
        harmed(here, "down and up again: its IPv6 address is lost", "addresses-gone", Mender::Repair, || {
            ip("link set nngw1 down");
            ip("link set nngw1 up");
        });
        harmed(here, "addresses flushed", "addresses-gone", Mender::Up, || ip("addr flush dev nngw1"));
        harmed(here, "an address more", "addresses-added", Mender::Repair, || ip("addr add 10.99.0.1/24 dev nngw1"));
        harmed(here, "renamed", "device-renamed", Mender::Repair, || {
            ip("link set nngw1 down");
            ip("link set nngw1 name other");
        });
        for family in ["ipv4/conf/nngw1/forwarding", "ipv6/conf/nngw1/forwarding"] {
            harmed(here, family, "not-forwarding", Mender::Repair, || {
                fs::write(Path::new("/proc/sys/net").join(family), "0").expect("switch forwarding off");
            });
        }
        harmed(here, "ip_forward toggled", "not-forwarding", Mender::Up, || {
            for value in ["1", "0"] {
                fs::write("/proc/sys/net/ipv4/ip_forward", value).expect("switch forwarding");
            }
        });
    });
}

#[test]
fn programs_that_were_detached() {
    isolated(|here| {
        here.pods();
        let veth = slot(here, "red");
        let off = |words: &str| drop(here.tool("tc", words));
        let join = format!("qdisc del dev {veth} clsact");
        harmed(here, "from_pod", "program-detached", Mender::Repair, || off(&join));
        harmed(here, "from_pod", "program-detached", Mender::Up, || off(&join));
        for (device, hook) in [("nngw1", "from_host"), ("up0", "from_uplink")] {
            harmed(here, hook, "program-detached", Mender::Repair, || detach(here, hook, device));
            harmed(here, hook, "program-detached", Mender::Up, || detach(here, hook, device));
        }
        let sockets: Vec<String> = links().into_iter().filter(|name| name.starts_with("cgroup-")).collect();
        assert_eq!(sockets.len(), 10, "{sockets:?}");
        for (i, pin) in sockets.iter().enumerate() {
            let mender = if i % 2 == 0 { Mender::Repair } else { Mender::Up };
            harmed(here, pin, "socket-hooks-detached", mender, || detach_pinned(here, pin));
        }
    });
}

/// Names of the pinned links.
fn links() -> Vec<String> {
    let dir = fs::read_dir(format!("{BPFFS}/netns-ebpf/default/links")).expect("read the links");
    dir.map(|e| e.expect("an entry").file_name().into_string().expect("a name")).collect()
}

fn here_index(device: &str) -> u32 {
    nix::net::if_::if_nametoindex(device).unwrap_or_else(|e| panic!("find {device}: {e}"))
}

fn detach(here: &Isolated, hook: &str, device: &str) {
    let index = here_index(device);
    detach_pinned(here, &format!("{hook}-{index}"));
}

/// Detaches a link; its pin stays.
fn detach_pinned(here: &Isolated, name: &str) {
    let pin = PathBuf::from(format!("{BPFFS}/netns-ebpf/default/links/{name}"));
    here.tool("bpftool", &format!("link detach pinned {}", pin.display()));
    assert!(pin.exists());
}

#[test]
fn what_is_the_hosts() {
    isolated(|here| {
        here.pods();
        let reserved = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        for mender in [Mender::Repair, Mender::Up] {
            harmed(here, "reserved ports overwritten", "ports-not-reserved", mender, || {
                fs::write(reserved, "5000").expect("overwrite the reserved ports");
            });
            assert_eq!(fs::read_to_string(reserved).expect("read").trim(), "5000,20000-32767");
        }
        for mender in [Mender::Repair, Mender::Up] {
            harmed(here, "bpffs unmounted and mounted again", "not-loaded", mender, || {
                umount2(BPFFS, MntFlags::MNT_DETACH).expect("unmount bpffs");
                mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700")).expect("mount bpffs");
            });
        }
    });
}

/// Gives an uplink back what it lost by being down for a moment.
fn readdress(here: &Isolated, uplink: &str) {
    here.ip(&format!("addr add {}/64 dev {uplink} nodad", UPLINK[1]));
    for via in SERVER {
        here.ip(&format!("route add default via {via} dev {uplink}"));
    }
}

#[test]
fn an_uplink() {
    isolated(|here| {
        here.pods();
        for (mender, from, to) in [(Mender::Repair, "up0", "wan"), (Mender::Up, "wan", "up0")] {
            // It is the same one, whatever it is called, and whoever has its name.
            harmed(here, "uplink renamed", "uplink-renamed", mender, || {
                here.ip(&format!("link set {from} down"));
                here.ip(&format!("link set {from} name {to}"));
                here.ip(&format!("link set {to} up"));
                here.ip(&format!("link add {from} type veth peer name theirs"));
                readdress(here, to);
            });
            assert_eq!(here.status()["uplinks"][0]["name"], to);
            here.ip(&format!("link del {from}"));
        }
        here.ip("link del up0");
        let found = differences(here, 3, "uplink gone");
        assert!(found.iter().any(|d| d["kind"] == "uplink-gone" && d["mendable"] == false), "{found:#?}");
        assert_eq!(here.netns(["repair"]).status, 3);
        here.plug_in();
        let found = differences(here, 3, "uplink anew");
        assert!(found.iter().any(|d| d["kind"] == "uplink-anew" && d["mendable"] == true), "{found:#?}");
        here.netns(["repair"]).ok();
        assert_eq!(differences(here, 0, "uplink back"), Vec::<Value>::new());
        all_flows(here);
    });
}

/// Cut from the host's switch for all devices of a family, which the kernel takes to be one for each.
#[test]
fn ipv6_forwarding_toggled() {
    isolated(|here| {
        here.pods();
        for mender in [Mender::Repair, Mender::Up] {
            harmed(here, "all/forwarding toggled", "not-forwarding", mender, || {
                for value in ["1", "0"] {
                    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", value).expect("switch forwarding");
                }
                // Which is the kernel's way with routes it was told of as a host.
                here.ip(&format!("-6 route replace default via {} dev up0", SERVER[1]));
            });
        }
    });
}

/// An uplink without a link layer has a program of its own.
#[test]
fn the_program_of_an_uplink_without_a_link_layer() {
    isolated(|here| {
        here.ip("tuntap add dev up0 mode tun");
        here.ip("link set up0 up");
        here.ip(&format!("addr add {}/24 dev up0", UPLINK[0]));
        here.ip("route add default dev up0");
        here.up(common::pods::TOPOLOGY).ok();
        for mender in [&["repair"][..], &["up", "-f", "/run/topology.toml"]] {
            assert_eq!(differences(here, 0, "before"), Vec::<Value>::new());
            detach(here, "from_uplink_l3", "up0");
            let found = differences(here, 3, "detached");
            assert!(found.iter().all(|d| d["kind"] == "program-detached"), "{found:#?}");
            here.netns(mender).ok();
        }
        assert_eq!(differences(here, 0, "after"), Vec::<Value>::new());
    });
}

/// An address that was replaced is one that is gone and one that is the pod's own affair.
#[test]
fn an_address_that_was_changed() {
    isolated(|here| {
        here.pods();
        harmed(here, "address changed", "addresses-gone", Mender::Repair, || {
            here.ip("-n red addr del 10.244.0.10/24 dev eth0");
            here.ip("-n red addr add 10.244.0.99/24 dev eth0");
        });
        harmed(here, "length of the prefix changed", "addresses-gone", Mender::Up, || {
            here.ip("-n red addr del fd00:244::10/64 dev eth0");
            here.ip("-n red addr add fd00:244::10/128 dev eth0 nodad");
        });
    });
}
