//! `up` over what an instance has left whose state was lost, and readers where nothing can be written or nothing is theirs.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use common::drift::all_flows;
use common::pods::TOPOLOGY;
use common::{BPFFS, Isolated, isolated, wait_until};
use netns::store::{SqliteStore, Store};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const STATE: &str = "/run/netns-ebpf/default";
const SOON: Duration = Duration::from_secs(20);

fn read_only(is: bool) {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | if is { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    mount(None::<&str>, "/run", None::<&str>, flags, None::<&str>).expect("mount /run anew");
}

#[test]
fn up_over_a_wreck_ends_right() {
    let wrecks: [fn(&Isolated); 4] = [
        |_| (),
        |here| drop(here.ip("link del nngw1")),
        |here| {
            here.ip("link set nngw1 down");
            here.ip("link set nngw1 name other");
            here.ip("-n red link set eth0 down");
            here.ip("-n red link set eth0 name other");
            here.ip("netns del blue");
        },
        |_| {
            umount2(BPFFS, MntFlags::MNT_DETACH).expect("unmount bpffs");
            mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700")).expect("mount bpffs");
        },
    ];
    for wreck in wrecks {
        isolated(move |here| {
            here.lan();
            here.file("topology.toml", TOPOLOGY);
            let before = here.snapshot();
            here.up(TOPOLOGY).ok();
            wreck(here);
            fs::remove_dir_all(STATE).expect("lose the state");
            // What is refused for another reason has removed nothing.
            here.up(&TOPOLOGY.replace("\"up0\"", "\"nowhere\"")).fails(2, &["nowhere"]);
            assert!(Path::new("/run/netns/red").exists());
            let up = here.up(TOPOLOGY);
            assert!(up.stderr.contains("its state was lost"), "{}", up.report());
            up.ok();
            all_flows(here);
            assert_eq!(here.netns(["status"]).status, 0);
            here.netns(["down"]).ok();
            let is_lost = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").expect("read");
            if is_lost.trim() == "20000-32767" {
                // Nobody knows any more who reserved them: the maps that did are gone as well.
                fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "\n").expect("give them back");
            }
            before.assert_unchanged("after down");
        });
    }
}

#[test]
fn up_over_a_wreck_spares_processes() {
    isolated(|here| {
        here.pods();
        let inside = here.netns_background(["exec", "red", "--", "sleep", "600"]);
        wait_until("somebody to be inside", SOON, || {
            here.netns(["pids", "red"]).stdout.contains(&inside.pid().to_string())
        });
        fs::remove_dir_all(STATE).expect("lose the state");
        here.up(TOPOLOGY).fails(2, &["processes run in pods", "red"]);
        assert!(here.ip("-o link").contains("nn0"));
        here.netns(["up", "--prune", "-f", "/run/topology.toml"]).ok();
        drop(inside);
        all_flows(here);
    });
}

/// What readers of an instance say.
fn told(here: &Isolated) -> [String; 3] {
    let status = here.netns(["status", "-o", "json"]);
    assert_eq!(status.status, 0, "{}", status.report());
    let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
    let mut pods = status["pods"].clone();
    // Those count on.
    pods.as_array_mut().expect("a list").iter_mut().for_each(|p| p["counters"].take().as_null().unwrap_or(()));
    [pods.to_string(), here.netns(["list", "-o", "json"]).ok(), here.netns(["export"]).ok()]
}

#[test]
fn readers_write_nothing() {
    isolated(|here| {
        here.pods();
        let before = told(here);
        read_only(true);
        assert_eq!(told(here), before, "read-only");
        here.netns(["add", "late"]).fails(1, &["/run"]);
        read_only(false);
        mount(None::<&str>, "/run", None::<&str>, MsFlags::MS_REMOUNT, Some("size=2M")).expect("mount /run anew");
        let fill = || {
            let mut full = File::create("/run/full").expect("create a file");
            while full.write_all(&[0; 4096]).is_ok() {}
        };
        fill();
        assert_eq!(told(here), before, "full");
        fs::remove_file("/run/full").expect("make room");
        // A writer was killed, and what it wrote is not in the file itself yet.
        let mut store = SqliteStore::open(&Path::new(STATE).join("state.db")).expect("open the store");
        store.next_id().expect("write");
        let files = ["state.db", "state.db-wal"].map(|name| Path::new(STATE).join(name));
        let contents = files.each_ref().map(|file| fs::read(file).expect("read"));
        drop(store);
        files.iter().zip(contents).for_each(|(file, content)| fs::write(file, content).expect("put it back"));
        assert!(fs::metadata(format!("{STATE}/state.db-wal")).is_ok_and(|m| m.len() > 0), "a log");
        read_only(true);
        assert_eq!(told(here), before, "read-only, with a log");
        fs::remove_file("/run/none").expect_err("nothing can be written");
        read_only(false);
        fill();
        assert_eq!(told(here), before, "full, with a log");
        fs::remove_file("/run/full").expect("make room");
        here.netns(["down"]).ok();
    });
}

/// An instance's devices are in one network namespace; from another, nothing is said of them.
#[test]
fn readers_in_another_network_namespace_say_so() {
    isolated(|here| {
        here.pods();
        here.ip("netns add elsewhere");
        let there = |words: &[&str]| {
            let inside = ["--net=/run/netns/elsewhere", env!("CARGO_BIN_EXE_netns")];
            common::command::run("nsenter", inside.iter().chain(words))
        };
        for verb in [&["status"][..], &["status", "-o", "json"], &["repair"], &["plan", "-f", "/run/topology.toml"]] {
            there(verb).fails(2, &["is up in network namespace", "not in network namespace"]);
        }
        let list = there(&["list"]);
        assert!(list.stdout.contains("default (elsewhere)"), "{}", list.report());
        assert!(list.stderr.contains("is in network namespace"), "{}", list.report());
        let list: serde_json::Value = serde_json::from_str(&there(&["list", "-o", "json"]).ok()).expect("JSON");
        let red = list.as_array().expect("a list").iter().find(|e| e["name"] == "red").expect("red");
        assert_eq!(red["here"], false);
        let red = here.netns(["list", "-o", "json"]).json();
        let red = red.as_array().expect("a list").iter().find(|e| e["name"] == "red").expect("red").clone();
        assert_eq!(red["here"], true);
    });
}

/// The lock of the names is iproute2's, and anybody's who may read the directory.
#[test]
fn a_verb_that_waits_for_the_lock_of_the_names_says_for_whom() {
    isolated(|here| {
        here.pods();
        let handle = File::open("/run/netns").expect("open the directory");
        let held = Flock::lock(handle, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("lock it");
        let pid = std::process::id().to_string();
        let me = format!("process {pid}");
        for verb in [&["add", "late"][..], &["del", "red"], &["attach", "mine", &pid]] {
            let words = ["--wait", "1"].iter().chain(verb).copied().collect::<Vec<_>>();
            here.netns(words).fails(1, &["waiting for process", &me, "gave up after 1 s"]);
        }
        let patient = here.netns_background(["add", "patient"]);
        wait_until("it says for whom it waits", SOON, || patient.stderr().contains(&me));
        drop(held);
        assert_eq!(patient.finish(SOON).status, 0);
        assert_eq!(here.netns(["status"]).status, 0);
        let list = here.netns(["list"]).ok();
        assert!(list.contains("patient") && !list.contains("late"), "{list}");
    });
}
