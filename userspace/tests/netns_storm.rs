//! Many verbs at once, over two instances, while processes are born and die in the pods.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::length::sized;
use common::{BPFFS, Isolated, isolated, wait_until};
use serde_json::Value;

/// Verbs at once.
const AT_ONCE: usize = 16;

/// The file of instance `n`.
fn file(here: &Isolated, n: usize) -> String {
    let uplink = if n == 0 { "up0" } else { "none" };
    let text = format!(
        r#"
[host]
uplink = "{uplink}"
[[network]]
name = "pods"
subnets = ["10.{n}.0.0/16", "fd00:{n}::/64"]
[[network]]
name = "storage"
subnets = ["10.10{n}.0.0/16", "fd00:10{n}::/64"]
[[pod]]
name = "stays{n}"
network = "pods"
"#
    );
    here.file(&format!("i{n}.toml"), &text).display().to_string()
}

/// A sequence that is the same for the same seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }
}

/// A verb about one of few pods, so that others are about the same.
fn verb(dice: &mut Dice, file: &dyn Fn(usize) -> String) -> Vec<String> {
    let n = dice.roll(2);
    let pod = format!("i{n}p{}", dice.roll(6));
    let port = 10_000 + dice.roll(8);
    let line = match dice.roll(12) {
        0..3 => format!("add {pod} -n pods"),
        3 => format!("add {pod} -n pods -n storage --publish {port}:80"),
        4..6 => format!("del {pod} --if-exists"),
        6 => format!("publish add {pod} {port}:80"),
        7 => format!("publish del {pod} {port}:80 --if-exists"),
        8 => format!("connect {pod} storage"),
        9 => format!("disconnect {pod} storage --if-exists"),
        10 => "repair".to_owned(),
        _ => format!("up -f {}", file(n)),
    };
    format!("--instance i{n} {line}").split(' ').map(str::to_owned).collect()
}

/// Everything both instances have is theirs alone and as it should be.
fn is_sound(here: &Isolated) {
    let mut namespaces = BTreeMap::new();
    let (mut slots, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for n in [0, 1] {
        let told = here.netns(["--instance", &format!("i{n}"), "status", "-o", "json"]);
        assert_eq!(told.status, 0, "{}", told.report());
        let status: Value = told.json();
        let (mut addresses, list) = (BTreeSet::new(), |value: &Value| value.as_array().cloned().unwrap_or_default());
        for pod in list(&status["pods"]) {
            let name = pod["name"].as_str().expect("a name").to_owned();
            let inside = here.ip(&format!("-n {name} -o link"));
            let its = list(&pod["attachments"]);
            // Its interfaces and no other's, each the other end of the host's.
            assert_eq!(inside.lines().filter(|l| !l.contains(" lo: ")).count(), its.len(), "{name}: {inside}");
            for attachment in its {
                let index = attachment["ifindex"].as_u64().expect("an index");
                let ifname = attachment["ifname"].as_str().expect("a name");
                assert!(inside.contains(&format!(" {ifname}@if{index}: ")), "{name}: {inside}");
                assert!(slots.insert(index), "{name}: the index {index} is another's");
                for address in list(&attachment["addresses"]) {
                    assert!(addresses.insert(address.to_string()), "{name}: {address} is another's");
                }
            }
            assert!(namespaces.insert(name.clone(), n).is_none(), "{name} is of both");
        }
        for publish in list(&status["publishes"]) {
            let port = publish["host_ports"].to_string();
            assert!(ports.insert(port.clone()), "{port} is published twice");
        }
    }
}

#[test]
fn verbs_of_two_instances_do_not_meet() {
    isolated(|here| {
        common::open_files(4096);
        here.lan();
        let files = [file(here, 0), file(here, 1)];
        let before = here.snapshot();
        for (n, file) in files.iter().enumerate() {
            here.netns(["--instance", &format!("i{n}"), "up", "-f", file]).ok();
        }
        for round in 0..sized(3, 40) {
            let seed = 0x6e65_746e_7300 + round;
            thread::scope(|scope| {
                for worker in 0..AT_ONCE as u64 {
                    let files = &files;
                    scope.spawn(move || {
                        let mut dice = Dice(seed << 8 | (worker + 1));
                        for _ in 0..6 {
                            let verb = verb(&mut dice, &|n| files[n].clone());
                            let done = here.netns(&verb);
                            // Refused is what has gone meanwhile, or is there; nothing fails half-way.
                            assert!(matches!(done.status, 0..=3), "seed {seed:#x}: {}", done.report());
                            let lost = ["left over", "panicked", "in the way", "unfinished"];
                            assert!(!lost.iter().any(|w| done.stderr.contains(w)), "{seed:#x}: {}", done.report());
                        }
                    });
                }
            });
            is_sound(here);
        }
        for n in [0, 1] {
            here.netns(["--instance", &format!("i{n}"), "down"]).ok();
        }
        before.assert_unchanged("after the storm");
    });
}

/// Resident memory in KiB and open descriptors of a process.
fn held(pid: i32) -> (u64, usize) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("its memory");
    let kib = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    (kib, fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count())
}

/// Entries of maps that are about pods.
fn entries() -> usize {
    let maps = Path::new(BPFFS).join("netns-ebpf/i0/maps");
    ["ENDPOINT_ADDR4", "ENDPOINT_ADDR6", "FLOWS4", "FLOWS6", "PUBLISHED4", "PUBLISHED6"]
        .iter()
        .map(|name| {
            let path = maps.join(name).display().to_string();
            let dump = common::command::run("bpftool", ["-j", "map", "dump", "pinned", &path]).ok();
            serde_json::from_str::<Vec<Value>>(&dump).expect("a list").len()
        })
        .sum()
}

#[test]
fn pods_come_and_go_while_processes_are_born_and_die() {
    isolated(|here| {
        common::open_files(4096);
        here.lan();
        let file = file(here, 0);
        here.netns(["--instance", "i0", "up", "-f", &file]).ok();
        let agent = here.netns_background(["--instance", "i0", "agent"]);
        let (next, wanted) = (AtomicUsize::new(0), sized(160, 10_000));
        let round = |count: usize| {
            next.store(0, Ordering::Relaxed);
            thread::scope(|scope| {
                for worker in 0..8 {
                    let next = &next;
                    scope.spawn(move || {
                        while next.fetch_add(1, Ordering::Relaxed) < count {
                            let name = format!("w{worker}");
                            here.netns([
                                "--instance",
                                "i0",
                                "add",
                                &name,
                                "-n",
                                "pods",
                                "--publish",
                                &format!("{}:80", 9000 + worker),
                            ])
                            .ok();
                            // Born in it, some of them there yet when it goes.
                            let sleeps =
                                ["exec", &name, "--", "sh", "-c", "sleep 0.05 & ping -c 1 -W 2 10.0.0.1 >/dev/null"];
                            here.netns(sleeps).ok();
                            here.netns(["--instance", "i0", "del", &name]).ok();
                        }
                    });
                }
            });
        };
        // What has its place once is there.
        round(32);
        wait_until("slots to be swept", std::time::Duration::from_secs(60), || entries() <= 4);
        let (pins, before, maps) = (here.snapshot(), held(agent.pid()), entries());
        round(wanted);
        wait_until("what pods left to be swept", std::time::Duration::from_secs(60), || entries() <= maps);
        pins.assert_unchanged("after pods have come and gone");
        let after = held(agent.pid());
        assert!(
            after.0 <= before.0 + 1024 && after.1 <= before.1,
            "agent: {before:?} KiB and descriptors, then {after:?}"
        );
        let told = here.netns(["--instance", "i0", "status"]);
        assert_eq!(told.status, 0, "{}", told.report());
        here.netns(["exec", "stays0", "--", "ping", "-c", "1", "-W", "2", "192.0.2.1"]).ok();
    });
}
