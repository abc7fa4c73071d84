//! What changes at a bad moment: a pod's root is in the way, a pod moves while it is known by its former gateway, one comes to a network
//! that grows, and whoever changes it is killed.

mod common;

use std::fs;
use std::path::Path;

use common::killed::killed_at;
use common::pods::{BLUE, GATEWAY, GREEN, RED, TOPOLOGY, server, uplink};
use common::traffic::direct;
use common::{BPFFS, Isolated, isolated};

/// [`TOPOLOGY`] without its last pod.
fn two_pods() -> String {
    TOPOLOGY.split("[[pod]]\nname = \"green\"").next().expect("what is before it").to_owned()
}

/// The kinds of differences `status` names.
fn kinds(here: &Isolated) -> Vec<String> {
    let status = here.status();
    let differences = status["differences"].as_array().cloned().unwrap_or_default();
    differences.iter().map(|d| d["kind"].as_str().expect("a word").to_owned()).collect()
}

#[test]
fn a_pods_root_in_the_way_keeps_nobody_else_from_anything() {
    isolated(|here| {
        here.pods();
        here.netns(["exec", "red", "--", "sh", "-c"].iter().copied().chain([
            "ip link set eth0 down; ip link set eth0 name wan; ip link set wan up; ip link add eth0 type veth peer name y0",
        ]))
        .ok();
        assert!(kinds(here).contains(&"device-in-the-way".to_owned()));
        let moved = TOPOLOGY
            .replace("[\"10.244.0.10\", \"fd00:244::10\"]", "[\"10.244.0.77\", \"fd00:244::77\"]")
            .replace("[host]", "[host]\nmtu = 1400");
        here.up(&moved).ok();
        assert!(kinds(here).contains(&"device-in-the-way".to_owned()), "it is still said");
        // Others' verbs do what they do, and so does one about that pod.
        here.netns(["add", "azul"]).ok();
        here.netns(["publish", "add", "blue", "8443:443"]).ok();
        here.netns(["del", "azul"]).ok();
        here.flows(&direct(BLUE, GREEN, BLUE, 63));
        // When the way is free all of it is as the file says.
        here.ip("-n red link del eth0");
        here.netns(["repair"]).ok();
        assert_eq!(kinds(here), [""; 0]);
        let shown = here.ip("-n red -br addr show dev eth0");
        assert!(shown.contains("10.244.0.77/24") && !shown.contains("10.244.0.10"), "{shown}");
        assert!(shown.contains("fd00:244::77/64") && !shown.contains("fd00:244::10"), "{shown}");
        here.tool("ping", "-c 1 -W 2 10.244.0.77");
        here.netns(["del", "red"]).ok();
    });
}

#[test]
fn a_pod_that_moves_knows_its_new_gateway() {
    isolated(|here| {
        here.pods();
        here.flows(&direct(GATEWAY, RED, GATEWAY, 64));
        here.up(&TOPOLOGY.replace("\"pods\"", "\"cells\"")).ok();
        // At once, though the pod had found out the former gateway's link-layer address.
        for address in ["10.244.0.10", "fd00:244::10"] {
            here.tool("ping", &format!("-c 1 -W 1 {address}"));
        }
        here.flows(&direct(RED, server(), uplink(), 63));
        assert_eq!(kinds(here), [""; 0]);
    });
}

#[test]
fn a_pod_that_comes_to_a_network_that_changes_is_wired_as_that_is_then() {
    let green = "[[pod]]\nname = \"green\"\nnetwork = \"pods\"\n";
    let changes: [(&str, &str, String, &str); 4] = [
        ("a larger subnet", "10.244.0.0/24", "10.244.0.0/16".to_owned(), "address = [\"10.244.7.7\"]\n"),
        ("another gateway", "10.244.0.0/24", "10.240.0.0/12".to_owned(), ""),
        ("another MTU", "masquerade = true", "masquerade = true\nmtu = 1400".to_owned(), ""),
        ("IPv6", "[\"10.244.0.0/24\"]", "[\"10.244.0.0/24\", \"fd00:244::/64\"]".to_owned(), ""),
    ];
    for (what, from, to, address) in changes {
        isolated(move |here| {
            here.lan();
            let before = match what {
                "IPv6" => two_pods()
                    .replace(", \"fd00:244::/64\"", "")
                    .replace(", \"fd00:244::10\"", "")
                    .replace(", \"fd00:244::20\"", ""),
                _ => two_pods(),
            };
            here.up(&before).ok();
            let after = before.replace(from, &to);
            assert_ne!(before, after, "{what}");
            here.up(&format!("{after}{green}{address}publish = [\"8443:443\"]\n")).ok();
            assert_eq!(kinds(here), [""; 0], "{what}");
            here.netns(["exec", "green", "--", "ping", "-c", "1", "-W", "2", "192.0.2.2"]).ok();
            here.netns(["exec", "green", "--", "ping", "-c", "1", "-W", "2", "10.244.0.10"]).ok();
            if what == "another MTU" {
                assert!(here.ip("-n green link show eth0").contains("mtu 1400"));
            }
            if what == "IPv6" {
                here.netns(["exec", "green", "--", "ping", "-c", "1", "-W", "2", "2001:db8:1::2"]).ok();
            }
            assert!(here.netns(["publish", "list"]).ok().contains("8443"), "{what}");
        });
    }
}

#[test]
fn what_a_killed_verb_left_is_said() {
    isolated(|here| {
        here.pods();
        let netns = env!("CARGO_BIN_EXE_netns");
        let steps = {
            let whole = killed_at(netns, &["down"], None);
            here.up(TOPOLOGY).ok();
            whole.steps
        };
        killed_at(netns, &["down"], Some(steps / 2));
        assert_eq!(here.netns(["status"]).status, 3);
        assert_eq!(kinds(here), ["unfinished"]);
        here.netns(["down"]).ok();
        // A change that was cut off.
        here.up(TOPOLOGY).ok();
        let changed = TOPOLOGY.replace("masquerade = true", "masquerade = true\nmtu = 1400");
        let file = here.file("changed.toml", &changed).display().to_string();
        let mut told = 0;
        for step in (0..40).map(|n| n * 4) {
            let killed = killed_at(netns, &["up", "-f", &file], Some(step));
            let found = kinds(here);
            if found.iter().any(|kind| kind == "unfinished") {
                told += 1;
                let repaired = here.netns(["repair", "-o", "json"]).json();
                let mended = repaired["mended"].as_array().expect("a list");
                assert!(mended.iter().any(|d| d["kind"] == "unfinished"), "{repaired:#}");
            }
            assert!(!kinds(here).iter().any(|kind| kind == "unfinished"));
            if killed.finished.status == 0 {
                break;
            }
            here.up(TOPOLOGY).ok();
        }
        assert!(told > 0, "none of the steps is one at which something is unfinished");
    });
}

#[test]
fn directories_of_pins_are_made_again() {
    isolated(|here| {
        here.pods();
        for gone in [&["links"][..], &["progs"], &["maps"], &["maps", "progs"]] {
            for name in gone {
                fs::remove_dir_all(Path::new(BPFFS).join("netns-ebpf/default").join(name)).expect("remove the pins");
            }
            assert_ne!(kinds(here), [""; 0], "{gone:?}");
            here.netns(["repair"]).ok();
            assert_eq!(kinds(here), [""; 0], "{gone:?}");
            here.flows(&direct(RED, server(), uplink(), 63));
        }
    });
}
