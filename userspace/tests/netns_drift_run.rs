//! `netns run` mends what somebody changes while it watches.

mod common;

use std::fs;
use std::time::Duration;

use common::lan::{SERVER, UPLINK};
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
        here.ip("netns add elsewhere");
        let sysctl = |key: &str, value: &str| {
            fs::write(format!("/proc/sys/net/{key}"), value).unwrap_or_else(|e| panic!("write {key}: {e}"));
        };
        let harms: [(&str, &dyn Fn()); 14] = [
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
            ("a host veth in another namespace", &|| drop(here.ip("link set nn0 netns elsewhere"))),
            ("a gateway device in another namespace", &|| drop(here.ip("link set nngw1 netns elsewhere"))),
            ("the host forwards for a moment", &|| {
                sysctl("ipv4/ip_forward", "1");
                sysctl("ipv4/ip_forward", "0");
            }),
            ("a route of the host gone", &|| drop(here.ip("route del 10.244.0.0/24"))),
            ("a map's pin removed", &|| {
                fs::remove_file(format!("{BPFFS}/netns-ebpf/default/maps/ENDPOINTS")).expect("unpin");
            }),
            ("a link's pin removed", &|| fs::remove_file(link("from_host-33554433")).expect("unpin")),
            ("a pod's filter gone", &|| drop(here.tool("tc", "qdisc del dev nn0 clsact"))),
            ("an uplink renamed", &|| {
                for words in ["link set up0 down", "link set up0 name wan", "link set wan up"] {
                    here.ip(words);
                }
                here.ip(&format!("addr add {}/64 dev wan nodad", UPLINK[1]));
                for via in SERVER {
                    here.ip(&format!("route add default via {via} dev wan"));
                }
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
        for words in ["netns del elsewhere", "link set wan down", "link set wan name up0", "link set up0 up"] {
            here.ip(words);
        }
        here.ip(&format!("addr add {}/64 dev up0 nodad", UPLINK[1]));
        for via in SERVER {
            here.ip(&format!("route add default via {via} dev up0"));
        }
        run.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(run.finish(SOON).status, 0);
        fs::remove_file("/run/topology.toml").expect("remove the file");
        before.assert_unchanged("after the run");
    });
}
