//! `netns link`: two namespaces and a cable, and nothing else.

mod common;

use std::fs;

use common::{Finished, Isolated, command, isolated};
use netns::netlink::Netlink;
use netns::netns::{Netns, NetnsName};
use netns::wiring::{Cable, CableEnd};
use serde_json::json;

fn netns(arguments: &str) -> Finished {
    command::run(env!("CARGO_BIN_EXE_netns"), arguments.split_whitespace())
}

#[track_caller]
fn reaches(from: &str, address: &str) {
    let ping = format!("netns exec {from} ping -q -c 1 -W 2 {address}");
    command::run("ip", ping.split_whitespace()).ok();
}

fn bare(here: &Isolated, names: &[&str]) {
    for name in names {
        here.ip(&format!("netns add {name}"));
    }
}

#[test]
fn two_bare_namespaces_reach_each_other_with_no_instance_up() {
    isolated(|here| {
        bare(here, &["red", "blue"]);
        let before = here.snapshot();
        let line = "link red blue --address 10.9.0.1/24,fd09::1/64 10.9.0.2/24,fd09::2/64";
        assert_eq!(
            netns(&format!("{line} -o json")).json(),
            json!({
                "changed": true,
                "a": {"namespace": "red", "ifname": "veth-blue", "addresses": ["10.9.0.1/24", "fd09::1/64"]},
                "b": {"namespace": "blue", "ifname": "veth-red", "addresses": ["10.9.0.2/24", "fd09::2/64"]},
            })
        );
        for (from, addresses) in [("red", ["10.9.0.2", "fd09::2"]), ("blue", ["10.9.0.1", "fd09::1"])] {
            for address in addresses {
                reaches(from, address);
            }
        }
        assert!(here.ip("-n red -d link show veth-blue").contains("veth"), "a plain pair");
        assert!(!fs::exists("/run/netns-ebpf").expect("look"), "no state");
        // Again, and from the other end: the same cable.
        assert_eq!(netns(&format!("{line} -o json")).json()["changed"], false);
        assert_eq!(netns("link blue red -o json").json()["changed"], false);
        // What is missing of it is made good, what is there besides stays.
        here.ip("-n red addr del 10.9.0.1/24 dev veth-blue");
        here.ip("-n blue addr add 10.8.0.2/24 dev veth-red");
        here.ip("-n blue link set veth-red down");
        assert_eq!(netns(&format!("{line} -o json")).json()["changed"], true);
        reaches("red", "10.9.0.2");
        assert!(here.ip("-n blue addr show veth-red").contains("10.8.0.2/24"));
        assert_eq!(netns("link red blue --delete -o json").json()["changed"], true);
        assert_eq!(netns("link red blue --delete -o json").json()["changed"], false);
        assert!(!here.ip("-n blue link").contains("veth"));
        before.assert_unchanged("after the cable is gone");
    });
}

/// The end that is set up first hears of the other one later, and loses what it sends until then.
#[test]
fn both_ends_send_when_the_cable_is_laid() {
    isolated(|here| {
        bare(here, &["red", "blue"]);
        let end = |name: &str, other: &str| CableEnd {
            netns: Netns::open_named(&NetnsName::new(name).expect("a name")).expect("open"),
            namespace: name.to_owned(),
            ifname: format!("veth-{other}"),
            addresses: vec!["fd09::1/64".parse().expect("an address")],
        };
        let cable = Cable::new([end("red", "blue"), end("blue", "red")]);
        let netlink = |name: &str| Netlink::in_netns(&end(name, "").netns).expect("netlink");
        let (red, blue) = (netlink("red"), netlink("blue"));
        for round in 0..100 {
            cable.lay(1500).expect("lay");
            for (place, name, ifname) in [(&red, "red", "veth-blue"), (&blue, "blue", "veth-red")] {
                let link = place.link_by_name(ifname).expect("look").expect("the end");
                assert!(link.running, "round {round}, {ifname}");
                let joined = here.inside(name, || fs::read_to_string("/proc/thread-self/net/igmp6"));
                let joined = joined.expect("groups");
                let is_own = |l: &str| l.contains(ifname) && l.contains("ff0200000000000000000001ff000001");
                assert!(joined.lines().any(is_own), "round {round}, {ifname}: {joined}");
            }
            cable.remove().expect("remove");
        }
    });
}

#[test]
fn the_host_may_be_an_end() {
    isolated(|here| {
        bare(here, &["red"]);
        // The kernel numbers a namespace whose interface has its peer here, for as long as it lives.
        here.ip("netns set red auto");
        let before = here.snapshot();
        netns("link red host --address 10.9.0.1/24,fd09::1/64 10.9.0.2/24,fd09::2/64").ok();
        for address in ["10.9.0.2", "fd09::2"] {
            reaches("red", address);
        }
        here.tool("ping", "-q -c 1 -W 2 10.9.0.1");
        here.tool("ping", "-q -c 1 -W 2 fd09::1");
        // Whoever is in there must not become the host's router.
        let accepts = fs::read_to_string("/proc/sys/net/ipv6/conf/veth-red/accept_ra").expect("a setting");
        assert_eq!(accepts.trim(), "0");
        netns("link . red --delete").ok();
        before.assert_unchanged("after the cable is gone");
        // A name is not guessed about.
        bare(here, &["host"]);
        netns("link red host").fails(2, &["B", "write ."]);
        netns("link red .").ok();
    });
}

#[test]
fn what_cannot_be_linked_is_refused_and_nothing_is_left() {
    isolated(|here| {
        bare(here, &["red", "blue", "a-very-long-name"]);
        here.ip("-n red link add taken type veth peer name other");
        let before = here.snapshot();
        for (line, words) in [
            ("link red red", ["B", "the same network namespace"]),
            ("link red a-very-long-name", ["--ifname", "15 bytes"]),
            ("link red blue --ifname taken x", ["--ifname", "\"taken\""]),
            ("link red blue --ifname x %d", ["--ifname", "\"%d\""]),
            ("link red blue --address 10.0.0.1 -", ["--address", "prefix length"]),
            ("link red blue --address - 224.0.0.1/4", ["--address", "224.0.0.1"]),
            ("link red ..", ["NAME", "\"..\""]),
        ] {
            netns(line).fails(2, &words);
        }
        netns("link red none").fails(1, &["\"none\""]);
        // Refused by the kernel half-way: what was made goes.
        here.inside("blue", || fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"))
            .expect("switch IPv6 off");
        netns("link red blue --address 10.9.0.1/24 fd09::2/64").fails(1, &["fd09::2/64"]);
        for name in ["red", "blue"] {
            assert!(!here.ip(&format!("-n {name} link")).contains("veth-"), "{name}");
        }
        before.assert_unchanged("after refusals");
        netns("link red a-very-long-name --ifname x y").ok();
    });
}

#[test]
fn pods_keep_their_network_beside_a_cable() {
    isolated(|here| {
        here.pods();
        bare(here, &["store"]);
        netns("link red store --address 10.9.0.1/24,fd09::1/64 10.9.0.2/24,fd09::2/64").ok();
        for address in ["10.9.0.2", "fd09::2", "10.244.0.20", "fd00:244::20", "192.0.2.1", "2001:db8:1::1"] {
            reaches("red", address);
        }
        // The pod takes its end along; the kernel takes a namespace apart in its own time.
        netns("del red").ok();
        let gone = || !here.ip("-n store link").contains("veth-red");
        common::wait_until("the cable to be gone", std::time::Duration::from_secs(20), gone);
    });
}
