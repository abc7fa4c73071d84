//! `netns run` mends what somebody changes while it watches.

mod common;

use std::fs;
use std::time::Duration;

use common::pods::{BLUE, RED, TOPOLOGY, server, uplink};
use common::traffic::direct;
use common::{BPFFS, isolated, wait_until};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn what_is_changed_is_mended_without_a_verb() {
    isolated(|here| {
        here.lan();
        let before = here.snapshot();
        let file = here.file("topology.toml", TOPOLOGY).display().to_string();
        let mut run = here.netns_background(["run", "--config", &file]);
        run.wait_for_output("green", SOON);
        let link = |hook: &str| format!("{BPFFS}/netns-ebpf/default/links/{hook}");
        let harms: [(&str, &dyn Fn()); 6] = [
            ("a host veth gone", &|| drop(here.ip("link del nn0"))),
            ("a gateway device gone", &|| drop(here.ip("link del nngw1"))),
            ("a namespace gone", &|| drop(here.ip("netns del blue"))),
            ("addresses gone inside", &|| drop(here.ip("-n red addr flush dev eth0 scope global"))),
            ("a socket hook detached", &|| {
                drop(here.tool("bpftool", &format!("link detach pinned {}", link("cgroup-connect4"))));
            }),
            ("reserved ports overwritten", &|| {
                fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "5000").expect("overwrite the reserved ports");
            }),
        ];
        for (what, harm) in harms {
            let healthy = || here.netns(["status"]).status == 0;
            wait_until(&format!("before {what}"), SOON, healthy);
            harm();
            wait_until(what, SOON, healthy);
            let mut cases = direct(RED, server(), uplink(), 63);
            cases.extend(direct(RED, BLUE, RED, 63));
            here.flows(&cases);
        }
        fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "20000-32767").expect("give our own back");
        run.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(run.finish(SOON).status, 0);
        fs::remove_file("/run/topology.toml").expect("remove the file");
        before.assert_unchanged("after the run");
    });
}
