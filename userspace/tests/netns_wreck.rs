//! `down` removes everything whatever is broken, `up` deletes nothing before all that is new is there, and no verb touches
//! another host.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use common::pods::{GREEN, RED, TOPOLOGY, server, uplink};
use common::traffic::direct;
use common::{BPFFS, Isolated, Snapshot, isolated, wait_until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

const STATE: &str = "/run/netns-ebpf/default";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Brings [`TOPOLOGY`] up, breaks something, and takes it down.
fn wrecked(break_it: impl FnOnce(&Isolated) + Send + 'static, arguments: &'static [&'static str]) {
    isolated(move |here| {
        here.lan();
        fs::write(RESERVED, "8000-8010").expect("reserve ports");
        here.file("topology.toml", TOPOLOGY);
        let before = here.snapshot();
        here.up(TOPOLOGY).ok();
        break_it(here);
        let down: Vec<&str> = ["down"].iter().chain(arguments).copied().collect();
        here.netns(down).ok();
        before.assert_unchanged("after down");
        here.up(TOPOLOGY).ok();
        here.flows(&direct(RED, server(), uplink(), 63));
        here.netns(["down"]).ok();
        before.assert_unchanged("after another up and down");
    });
}

fn lose_bpffs() {
    umount2(BPFFS, MntFlags::MNT_DETACH).expect("unmount bpffs");
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700")).expect("mount bpffs");
}

#[test]
fn a_verb_that_met_a_lost_data_path_leaves_a_way_down() {
    wrecked(
        |here| {
            lose_bpffs();
            here.netns(["del", "red"]).fails(1, &["the data path"]);
            assert!(Path::new("/run/netns/red").exists(), "nothing is half-done");
        },
        &[],
    );
}

#[test]
fn a_data_path_of_another_version_goes_as_well() {
    wrecked(
        |here| {
            let abi = format!("{BPFFS}/netns-ebpf/default/abi");
            fs::remove_file(&abi).expect("remove the mark");
            std::os::unix::fs::symlink("1", &abi).expect("mark it as another version's");
            for verb in [&["del", "red"][..], &["status"], &["repair"], &["up", "-f", "/run/topology.toml"]] {
                here.netns(verb).fails(1, &["ABI version"]);
            }
        },
        &["--force"],
    );
}

#[test]
fn a_lost_state_file_is_no_way_to_stay() {
    wrecked(|_| fs::remove_dir_all(STATE).expect("lose the state"), &[]);
}

#[test]
fn a_damaged_state_file_is_no_way_to_stay() {
    for bytes in [&b""[..], &[b'x'; 8192], &[0; 4096]] {
        wrecked(move |_| fs::write(format!("{STATE}/state.db"), bytes).expect("damage the state"), &[]);
    }
}

#[test]
fn what_is_gone_is_said() {
    isolated(|here| {
        here.lan();
        here.file("topology.toml", TOPOLOGY);
        let before = here.snapshot();
        here.up(TOPOLOGY).ok();
        here.ip("netns del red");
        here.ip("link del nngw1");
        lose_bpffs();
        let down = here.netns(["down", "-o", "json"]).json();
        let missing: Vec<_> = down["not_found"].as_array().expect("a list").iter().filter_map(|v| v.as_str()).collect();
        for what in ["network \"pods\"", "the namespace of pod \"red\"", "interface eth0 of pod \"red\""] {
            assert!(missing.contains(&what), "{what} is not in {missing:?}");
        }
        assert!(missing.iter().all(|what| !what.contains("blue")), "{missing:?}");
        before.assert_unchanged("after down");
    });
}

#[test]
fn down_takes_no_room() {
    isolated(|here| {
        here.lan();
        here.file("topology.toml", TOPOLOGY);
        let before = here.snapshot();
        here.up(TOPOLOGY).ok();
        let none = None::<&str>;
        mount(none, "/run", none, MsFlags::MS_REMOUNT, Some("size=2M")).expect("mount /run anew");
        let mut full = fs::File::create("/run/full").expect("create a file");
        while full.write_all(&[0; 4096]).is_ok() {}
        drop(full);
        here.netns(["down"]).ok();
        fs::remove_file("/run/full").expect("remove the file");
        mount(none, "/run", none, MsFlags::MS_REMOUNT, Some("size=50%")).expect("mount /run anew");
        before.assert_unchanged("after down");
    });
}

#[test]
fn a_sandbox_that_was_killed_and_lost_its_host_is_taken_down() {
    isolated(|here| {
        let mut run = here.netns_background(["run"]);
        run.wait_for_output("sandbox", Duration::from_secs(60));
        wait_until("the sandbox is up", Duration::from_secs(60), || {
            here.netns(["--instance", "sandbox", "status"]).status == 0
        });
        run.signal(Signal::SIGKILL);
        run.finish(Duration::from_secs(10));
        here.ip("netns del sandbox-host");
        here.netns(["--instance", "sandbox", "down"]).ok();
        for gone in [format!("{BPFFS}/netns-ebpf/sandbox"), "/run/netns-ebpf/sandbox".into()] {
            assert!(!Path::new(&gone).exists(), "{gone} is left");
        }
        let left = here.ip("netns list");
        assert!(!left.contains("red"), "{left}");
    });
}

#[test]
fn a_verb_in_another_network_namespace_is_refused_and_changes_neither() {
    isolated(|here| {
        here.ip("netns add elsewhere");
        let file = here.file("other.toml", &TOPOLOGY.replace("uplink = \"up0\"", "uplink = \"none\""));
        let other = |words: &[&str]| {
            let inside = ["--net=/run/netns/elsewhere", env!("CARGO_BIN_EXE_netns"), "--instance", "other"];
            common::command::run("nsenter", inside.iter().chain(words))
        };
        other(&["up", "-f", &file.display().to_string()]).ok();
        fs::write(RESERVED, "32000-32010").expect("reserve ports");
        let before: Snapshot = here.snapshot();
        for verb in
            [&["add", "stray"][..], &["down"], &["del", "red"], &["repair"], &["publish", "add", "red", "9999:9999"]]
        {
            let words: Vec<&str> = ["--instance", "other"].iter().chain(verb).copied().collect();
            here.netns(words).fails(2, &["not in network namespace"]);
        }
        before.assert_unchanged("after verbs from here");
        assert_eq!(fs::read_to_string(RESERVED).expect("read").trim(), "32000-32010");
        other(&["status"]).ok();
        other(&["down"]).ok();
        assert_eq!(here.ip("-n elsewhere -o link show").lines().count(), 1, "only lo is left there");
    });
}

#[test]
fn an_up_that_fails_has_deleted_nothing() {
    isolated(|here| {
        here.lan();
        here.up(TOPOLOGY).ok();
        let before = here.snapshot();
        // The next slot's name is taken, in a way that is found when everything before it has been made.
        here.ip("link add fk type veth peer name fk3");
        here.ip("link property add dev fk altname nn3");
        let changed = TOPOLOGY.replace("\"blue\"", "\"azul\"");
        assert!(changed.contains("fd00:244::20"));
        here.up(&changed).fails(1, &["eth0 of pod \"azul\"", "nn3"]);
        let list = here.netns(["list", "-o", "json"]).json();
        let names: Vec<_> = list.as_array().expect("a list").iter().filter_map(|e| e["name"].as_str()).collect();
        assert!(names.contains(&"blue") && !names.contains(&"azul"), "{names:?}");
        here.ip("link del fk");
        here.file("topology.toml", TOPOLOGY);
        before.assert_unchanged("after the up that failed");
        here.flows(&direct(GREEN, server(), uplink(), 63));
        // With the name free the address passes over.
        here.up(&changed).ok();
        here.inside("azul", || ());
        assert_eq!(here.netns(["status"]).status, 0);
        let ping = here.netns(["exec", "azul", "--", "ping", "-c1", "-W5", "10.244.0.10"]);
        assert_eq!(ping.status, 0, "{}", ping.report());
        let ping = here.netns(["exec", "red", "--", "ping", "-6", "-c1", "-W5", "fd00:244::20"]);
        assert_eq!(ping.status, 0, "{}", ping.report());
    });
}
