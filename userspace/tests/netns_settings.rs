//! Settings and mounts of the host that others change.

mod common;

use common::isolated;
use common::pods::{RED, TOPOLOGY, server, uplink};
use common::traffic::{both, direct};
use netns::check::Probe;
use serde_json::{Value, json};

/// Families the gateway device does not forward, by status.
fn lost(status: &Value) -> Value {
    status["networks"][0]["not_forwarding"].clone()
}

#[test]
fn pods_have_the_lan_back_after_the_host_stopped_forwarding() {
    isolated(|here| {
        here.pods();
        let cases = direct(RED, server(), uplink(), 63);
        let verbs: [(&str, &[&str]); 3] = [
            ("up with the same file", &["up", "-f", "/run/topology.toml"]),
            ("another pod", &["add", "later"]),
            ("a publish", &["publish", "add", "red", "8081:81/tcp"]),
        ];
        for (what, verb) in verbs {
            here.flows(&cases);
            assert_eq!(lost(&here.status()), json!([]), "{what}");
            for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
                here.tool("sysctl", &format!("-qw {key}=1"));
                here.tool("sysctl", &format!("-qw {key}=0"));
            }
            // As it is named, so it is.
            assert_eq!(lost(&here.status()), json!(["IPv4", "IPv6"]), "{what}");
            let told = here.netns(["status"]);
            assert_eq!(told.status, 3, "{}", told.report());
            let shown = told.stdout;
            assert!(
                ["IPv4", "IPv6"].iter().all(|f| shown.contains(&format!("its gateway device does not forward {f}"))),
                "{shown}"
            );
            let probe = both(RED, server(), |_| Probe::Echo { seen_as: None });
            assert!(
                probe.iter().all(|case| !here.traffic(std::slice::from_ref(case)).ok),
                "the kernel names no route now"
            );
            here.netns(verb.iter().copied()).ok();
            assert_eq!(lost(&here.status()), json!([]), "{what}");
            here.flows(&cases);
            let own = here.tool("sysctl", "-n net.ipv4.ip_forward net.ipv6.conf.all.forwarding");
            assert_eq!(own.split_whitespace().collect::<Vec<_>>(), ["0", "0"], "the host's own stays off");
        }
    });
}

#[test]
fn a_network_without_ipv6_does_not_miss_it() {
    isolated(|here| {
        here.lan();
        let topology = TOPOLOGY.lines().map(|line| match line.split_once(", \"fd00") {
            Some((v4, _)) => format!("{v4}]\n"),
            None => format!("{line}\n"),
        });
        here.up(&topology.collect::<String>()).ok();
        for value in [1, 0] {
            here.tool("sysctl", &format!("-qw net.ipv6.conf.all.forwarding={value}"));
        }
        assert_eq!(lost(&here.status()), json!([]));
    });
}

#[test]
fn a_cgroup_hierarchy_hidden_by_another_mount_is_passed_by() {
    isolated(|here| {
        here.lan();
        here.tool("mount", "-t sysfs sysfs /sys");
        std::fs::create_dir("/run/cg2").expect("a directory");
        here.tool("mount", "-t cgroup2 cgroup2 /run/cg2");
        here.up(TOPOLOGY).ok();
        assert_eq!(here.status()["host_sockets"], json!(true));
    });
}
