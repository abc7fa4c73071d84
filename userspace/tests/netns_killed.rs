//! `kill -9` at each step of each verb: what the next verb finds is the old state or the new one, and nothing leaks.
//!
//! The steps are the system calls by which a verb changes what others can see, found by running it once under the tracer. The short
//! form takes some of them at random, `NETNS_TESTS=long` each of them.

mod common;
mod prog;

use std::collections::BTreeMap;
use std::path::Path;

use common::killed::killed_at;
use common::length::is_long;
use common::pods::TOPOLOGY;
use common::{Isolated, Snapshot, isolated};
use netns::datapath::Datapath;

/// Steps of a verb that the short form takes.
const SOME: usize = 8;

const PINS: &str = "/sys/fs/bpf/netns-ebpf/default";

/// Maps whose entries stand for something the instance has.
const HELD: [&str; 14] = [
    "ENDPOINT_ADDR4",
    "ENDPOINT_ADDR6",
    "PUBLISHED4",
    "PUBLISHED6",
    "BACKENDS",
    "ALLOW4",
    "ALLOW6",
    "NO_MASQ4",
    "NO_MASQ6",
    "SNAT_POOLS4",
    "SNAT_POOLS6",
    "UPLINKS",
    "HOST_ADDRS4",
    "HOST_ADDRS6",
];

/// What there is, without what is another number every time.
#[derive(PartialEq)]
struct World {
    machine: Snapshot,
    maps: BTreeMap<String, usize>,
    wanted: String,
}

impl World {
    fn of(here: &Isolated) -> Self {
        let mut maps = BTreeMap::new();
        if Path::new(PINS).exists() {
            for map in HELD {
                let text = here.tool("bpftool", &format!("-j map dump pinned {PINS}/maps/{map}"));
                let entries: serde_json::Value = serde_json::from_str(&text).expect("JSON of bpftool");
                maps.insert(map.to_owned(), entries.as_array().map_or(0, Vec::len));
            }
            let datapath = Datapath::open(Path::new(PINS)).expect("open the data path");
            let slots = (0..64).filter(|slot| datapath.endpoint(*slot).expect("a slot").is_some()).count();
            maps.insert("ENDPOINTS".to_owned(), slots);
            let networks = (0..64).filter(|id| datapath.network(*id).expect("a network").is_some()).count();
            maps.insert("NETWORKS".to_owned(), networks);
            let publishes = (0..64).filter(|id| datapath.publish(*id).expect("a publish").is_some()).count();
            maps.insert("PUBLISHES".to_owned(), publishes);
        }
        let wanted = here.netns(["export"]);
        let wanted = if wanted.status == 0 { wanted.stdout } else { String::new() };
        Self { machine: Snapshot::take(), maps, wanted }
    }

    fn diff(&self, later: &Self) -> String {
        let mut text = self.machine.diff(&later.machine);
        if self.maps != later.maps {
            text += &format!("maps: - {:?}\nmaps: + {:?}\n", self.maps, later.maps);
        }
        if self.wanted != later.wanted {
            text += &format!("export: - {}\nexport: + {}\n", self.wanted, later.wanted);
        }
        text
    }
}

/// The steps to try of so many.
fn chosen(steps: usize) -> Vec<usize> {
    if is_long() || steps <= SOME {
        return (0..steps).collect();
    }
    let mut random = prog::random::Numbers::new(std::process::id().into());
    // One of each part of the way, and the last.
    let mut chosen: Vec<usize> = (0..SOME - 1)
        .map(|part| {
            let (from, to) = (part * steps / SOME, (part + 1) * steps / SOME);
            from + random.below(to - from)
        })
        .collect();
    chosen.push(steps - 1);
    chosen
}

/// Kills a verb at its steps; `next` is run after each, `undo` brings back what was.
fn each_step(here: &Isolated, verb: &[&str], next: &[&str], undo: &[&[&str]]) {
    let netns = env!("CARGO_BIN_EXE_netns");
    let back = |when: &str| {
        for verb in undo {
            let done = here.netns(*verb);
            assert!(matches!(done.status, 0), "{when}: {}", done.report());
        }
    };
    let old = World::of(here);
    let whole = killed_at(netns, verb, None);
    let steps = whole.steps;
    whole.finished.ok();
    let new = World::of(here);
    assert!(old != new, "{verb:?} changes nothing");
    back("after the whole verb");
    let diff = old.diff(&World::of(here));
    assert!(diff.is_empty(), "{verb:?} and back:\n{diff}");
    let chosen = chosen(steps);
    println!("{verb:?}: {steps} steps, killed at {chosen:?}");
    for step in chosen {
        let killed = killed_at(netns, verb, Some(step));
        // The kernel may let one more thread end first; a verb that got away has done all.
        assert!(matches!(killed.finished.status, 0 | 137), "{}", killed.finished.report());
        let when = format!("{verb:?} killed at step {step} of {steps}");
        let after = here.netns(next);
        assert!(matches!(after.status, 0), "{when}: {}", after.report());
        let now = World::of(here);
        let (from_old, from_new) = (old.diff(&now), new.diff(&now));
        assert!(
            from_old.is_empty() || from_new.is_empty(),
            "{when}: not as before:\n{from_old}\nnor as after:\n{from_new}"
        );
        back(&when);
        let diff = old.diff(&World::of(here));
        assert!(diff.is_empty(), "{when}, and back:\n{diff}");
    }
}

fn here_is_up(here: &Isolated) {
    here.lan();
    here.up(TOPOLOGY).ok();
}

#[test]
fn up_and_down() {
    isolated(|here| {
        here.lan();
        let file = here.file("topology.toml", TOPOLOGY);
        let file = file.display().to_string();
        each_step(here, &["up", "-f", &file], &["down"], &[&["down"]]);
    });
}

#[test]
fn up_again() {
    isolated(|here| {
        here.lan();
        let file = here.file("topology.toml", TOPOLOGY).display().to_string();
        here.netns(["up", "-f", &file]).ok();
        each_step(here, &["down"], &["up", "-f", &file], &[&["up", "-f", &file]]);
    });
}

#[test]
fn up_with_another_file() {
    isolated(|here| {
        here_is_up(here);
        let changed = TOPOLOGY.replace("green", "azul").replace("\"8080:80/udp\", ", "").replace("9010:", "9020:");
        let changed = changed.replace("7010/", "7020/");
        let file = here.file("changed.toml", &changed).display().to_string();
        each_step(here, &["up", "-f", &file], &["repair"], &[&["up", "-f", "/run/topology.toml"]]);
    });
}

#[test]
fn add() {
    isolated(|here| {
        here_is_up(here);
        let add = ["add", "azul", "--address", "10.244.0.40", "--address", "fd00:244::40", "--publish", "8443:443"];
        each_step(here, &add, &["repair"], &[&["del", "--if-exists", "azul"]]);
    });
}

#[test]
fn del() {
    isolated(|here| {
        here_is_up(here);
        let add = ["add", "azul", "--address", "10.244.0.40", "--address", "fd00:244::40", "--publish", "8443:443"];
        here.netns(add).ok();
        each_step(here, &["del", "azul"], &["repair"], &[&["del", "--if-exists", "azul"], &add]);
    });
}

#[test]
fn publishes() {
    isolated(|here| {
        here_is_up(here);
        let add = ["publish", "add", "blue", "8443:443", "5000-5010:5000-5010/udp"];
        let del = ["publish", "del", "--if-exists", "blue", "8443:443", "5000-5010:5000-5010/udp"];
        each_step(here, &add, &["repair"], &[&del]);
        here.netns(add).ok();
        each_step(here, &del, &["repair"], &[&del, &add]);
    });
}

#[test]
fn publish_changes() {
    isolated(|here| {
        here_is_up(here);
        let back = ["publish", "move", "8080:80/tcp", "--to", "red"];
        each_step(here, &["publish", "move", "8080:80/tcp", "--to", "blue,green"], &["repair"], &[&back]);
        let set = ["publish", "set", "8080:80/tcp", "--allow", "192.0.2.0/24"];
        each_step(here, &set, &["repair"], &[&["publish", "set", "8080:80/tcp", "--allow", "any"]]);
    });
}

#[test]
fn repair() {
    isolated(|here| {
        here_is_up(here);
        let netns = env!("CARGO_BIN_EXE_netns");
        let whole = World::of(here);
        let wreck = || {
            here.ip("link del nn0");
            here.ip("netns del blue");
            here.ip("link del nngw1");
        };
        wreck();
        let traced = killed_at(netns, &["repair"], None);
        traced.finished.ok();
        let diff = whole.diff(&World::of(here));
        assert!(diff.is_empty(), "repair mends all:\n{diff}");
        for step in chosen(traced.steps) {
            wreck();
            killed_at(netns, &["repair"], Some(step));
            here.netns(["repair"]).ok();
            let diff = whole.diff(&World::of(here));
            assert!(diff.is_empty(), "killed at {step} of {}:\n{diff}", traced.steps);
        }
    });
}

#[test]
fn bare_namespaces() {
    isolated(|here| {
        let netns = env!("CARGO_BIN_EXE_netns");
        let add = ["add", "bare", "--bare"];
        // The mount that iproute2 makes of /run/netns with the first one stays.
        here.ip("netns add other");
        let old = World::of(here);
        let steps = killed_at(netns, &add, None).steps;
        here.netns(["del", "bare"]).ok();
        for step in 0..steps {
            killed_at(netns, &add, Some(step));
            let there = here.netns(["exec", "bare", "true"]).status == 0;
            assert_eq!(
                here.netns(add).status == 0,
                !there,
                "killed at {step} of {steps}: a name is free, or a namespace"
            );
            killed_at(netns, &["del", "bare"], Some(step));
            here.netns(["del", "bare", "--if-exists"]).ok();
            let diff = old.diff(&World::of(here));
            assert!(diff.is_empty(), "killed at {step} of {steps}:\n{diff}");
        }
    });
}

#[test]
fn cables() {
    isolated(|here| {
        let netns = env!("CARGO_BIN_EXE_netns");
        let link = ["link", "one", "two", "--address", "10.9.0.1/24,fd00:9::1/64", "10.9.0.2/24,fd00:9::2/64"];
        here.ip("netns add one");
        here.ip("netns add two");
        let seen = |here: &Isolated| {
            let lines = ["one", "two"].map(|name| here.ip(&format!("-n {name} -br addr")));
            lines.map(|text| text.split_whitespace().filter(|word| !word.contains("@if")).collect::<Vec<_>>().join(" "))
        };
        let whole = killed_at(netns, &link, None);
        whole.finished.ok();
        let new = seen(here);
        assert!(new[0].contains("fd00:9::1/64") && new[1].contains("10.9.0.2/24"), "{new:?}");
        for step in 0..whole.steps {
            here.ip("-n one link del veth-two");
            killed_at(netns, &link, Some(step));
            here.netns(link).ok();
            assert_eq!(seen(here), new, "killed at {step} of {}", whole.steps);
        }
    });
}
