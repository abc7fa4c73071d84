//! Bare namespaces beside pods: what is whose, what is told without privileges, and where names do not last.

mod common;

use std::fs;
use std::time::Duration;

use common::pods::TOPOLOGY;
use common::{Finished, Isolated, command, isolated};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn netns(arguments: &str) -> Finished {
    command::run(env!("CARGO_BIN_EXE_netns"), arguments.split_whitespace())
}

/// The binary as a user who is not root, where the test's own may be out of his reach.
fn as_user(here: &Isolated, arguments: &str) -> Finished {
    let copy = "/run/netns-for-all";
    if !fs::exists(copy).expect("look") {
        here.file("netns-for-all", "");
        here.tool("mount", &format!("--bind {} {copy}", env!("CARGO_BIN_EXE_netns")));
    }
    let line = format!("--reuid 65534 --regid 65534 --clear-groups {copy} {arguments}");
    command::run("setpriv", line.split_whitespace())
}

fn names(here: &Isolated) -> Vec<String> {
    let mut names: Vec<_> =
        here.ip("netns list").lines().map(|l| l.split(' ').next().unwrap_or_default().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn delete_all_spares_what_instances_need() {
    isolated(|here| {
        here.pods();
        here.ip("netns del green");
        for name in ["a", "b"] {
            here.ip(&format!("netns add {name}"));
        }
        netns("add --bare c").ok();
        fs::write("/run/netns/junk", "").expect("what a killed creation leaves");
        netns("--instance default del --all").fails(2, &["--instance", "netns down"]);
        netns("del a --all").fails(2, &[]);
        assert_eq!(names(here), ["a", "b", "blue", "c", "junk", "lan", "red"]);
        let pod = |name| json!({"namespace": name, "instance": "default", "role": "pod"});
        assert_eq!(
            netns("del --all -o json").json(),
            json!({"changed": true, "deleted": ["a", "b", "c", "junk", "lan"], "kept": [pod("blue"), pod("red")]})
        );
        assert_eq!(names(here), ["blue", "red"]);
        assert_eq!(netns("del --all -o json").json()["changed"], false);
        // Where it cannot be known whose they are, they stay.
        fs::write("/run/netns-ebpf/default/state.db", "x".repeat(9000)).expect("damage the state");
        here.ip("netns add d");
        assert_eq!(netns("del --all").status, 1);
        assert_eq!(names(here), ["blue", "d", "red"]);
    });
}

#[test]
fn where_an_instance_was_to_be_up_no_pod_becomes_a_bare_namespace() {
    isolated(|here| {
        here.lan();
        netns("add before").ok();
        let bad = TOPOLOGY.replace("up0", "up9");
        let refused = |how: &str| {
            netns("add red").fails(1, &["\"default\"", "was to be up"]);
            let error: Value = serde_json::from_str(&netns("add red -o json").stderr).expect("one document");
            assert_eq!(error["error"]["kind"], "not-up", "{how}");
            assert!(error["error"]["hint"].as_str().is_some_and(|h| h.contains("--bare")), "{how}: {error}");
            assert!(!names(here).contains(&"red".to_owned()), "{how}");
        };
        // Refused by its file, by what the host has, before and behind an agent.
        here.up("[host]\nuplnk = 1\n").fails(2, &["uplnk"]);
        refused("a typo");
        netns("down").ok();
        netns("add after").ok();
        here.up(&bad).fails(2, &["up9"]);
        refused("no such uplink");
        netns("add --bare asked").ok();
        netns("down").ok();
        netns("agent --config /run/topology.toml").fails(2, &["up9"]);
        refused("an agent");
        // Of another instance as well, unless one is named, which has to be up.
        netns("down").ok();
        netns("--instance other up -f /run/topology.toml").fails(2, &["up9"]);
        netns("add red").fails(1, &["\"other\"", "was to be up"]);
        netns("--instance other down").ok();
        // Failed half-way, for want of descriptors, also to undo it: the next verb does that, and is no `add` of a pod either.
        here.file("topology.toml", TOPOLOGY);
        let line = format!("--nofile=12:12 {} up -f /run/topology.toml", env!("CARGO_BIN_EXE_netns"));
        let failed = command::run("prlimit", line.split_whitespace());
        assert_eq!(failed.status, 1, "{}", failed.report());
        netns("add red").fails(1, &["\"default\""]);
        refused("a failure");
        // Up at last: pods are pods; and taken down again, names are names.
        here.up(TOPOLOGY).ok();
        netns("add yellow").ok();
        assert_eq!(netns("list -o json").json().as_array().map(Vec::len), Some(8));
        netns("down").ok();
        netns("add red").ok();
        assert!(!fs::exists("/run/netns-ebpf").expect("look"), "a note is left");
    });
}

#[test]
fn the_hosts_of_instances_are_spared_too() {
    isolated(|here| {
        let mut sandbox = here.netns_background(["run"]);
        sandbox.wait_for_output("Try in another terminal", SOON);
        here.ip("netns add stray");
        let before = names(here);
        let done = netns("del --all -o json").json();
        assert_eq!(done["deleted"], json!(["stray"]));
        let after: Vec<_> = before.into_iter().filter(|name| name != "stray").collect();
        assert_eq!(names(here), after);
        let roles =
            done["kept"].as_array().expect("a list").iter().map(|k| (k["namespace"].as_str(), k["role"].as_str()));
        let roles: Vec<_> = roles.filter(|(_, role)| *role == Some("host")).map(|(name, _)| name).collect();
        assert_eq!(roles, [Some("sandbox-host"), Some("sandbox-lan")]);
        sandbox.signal(Signal::SIGTERM);
        assert_eq!(sandbox.finish(SOON).status, 0);
    });
}

#[test]
fn deleting_what_is_not_there_is_all_right_when_asked_for() {
    isolated(|here| {
        netns("del red").fails(1, &["\"red\""]);
        assert_eq!(netns("del red --if-exists -o json").json()["changed"], false);
        here.ip("netns add red");
        assert_eq!(netns("del red --if-exists -o json").json()["changed"], true);
        here.pods();
        assert_eq!(netns("del red --if-exists -o json").json()["pods_removed"], json!(["red"]));
        assert_eq!(netns("del red --if-exists -o json").json()["changed"], false);
        netns("del red").fails(1, &["\"red\""]);
    });
}

#[test]
fn a_name_that_is_taken_is_refused_whoever_has_it() {
    isolated(|here| {
        here.ip("netns add bare");
        netns("add bare").fails(2, &["NAME", "\"bare\"", "already exists"]);
        netns("add --bare bare").fails(2, &["NAME", "already exists"]);
        here.pods();
        netns("add bare").fails(2, &["bare", "exists"]);
        netns("add --bare blue").fails(2, &["\"blue\"", "default"]);
        // A pod's name is a pod's, whether its namespace is there or not.
        here.ip("netns del blue");
        netns("add --bare blue").fails(2, &["\"blue\"", "default"]);
        netns(&format!("attach blue {}", std::process::id())).fails(2, &["\"blue\"", "default"]);
        netns("exec blue true").fails(1, &["pod \"blue\"", "lost its network namespace", "netns del"]);
        netns("pids blue").fails(1, &["lost its network namespace"]);
        netns("exec none true").fails(1, &["no pod or network namespace"]);
    });
}

#[test]
fn without_privileges_nothing_is_made_out_to_be_what_it_is_not() {
    isolated(|here| {
        here.pods();
        here.ip("netns add stray");
        for line in
            ["exec red true", "exec --all true", "pids red", "attach x 1", "set red 3", "del stray", "link red stray"]
        {
            as_user(here, line).fails(2, &["not enough privilege", "run as root"]);
        }
        let found = as_user(here, "list -o json");
        assert!(found.stderr.contains("which of these are pods cannot be seen"), "{}", found.report());
        let list = found.json();
        let kinds = |list: &Value| -> Vec<String> {
            list.as_array().expect("a list").iter().map(|e| e["kind"].as_str().expect("a kind").to_owned()).collect()
        };
        assert!(kinds(&list).iter().all(|kind| kind == "unknown"), "{list:#}");
        let text = as_user(here, "list").ok();
        let row = text.lines().find(|l| l.starts_with("red")).expect("a row");
        assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["red", "?", "?", "?", "?"]);
        as_user(here, "--instance default list").fails(2, &["not enough privilege"]);
        let list = netns("list -o json").json();
        let mut seen = kinds(&list);
        seen.sort();
        assert_eq!(seen, ["bare", "bare", "pod", "pod", "pod"], "{list:#}");
        assert!(as_user(here, "list").stderr.contains("run as root"));
        // Capabilities alone do not open root's directories.
        let ambient = "+net_admin,+sys_admin,+bpf";
        let line = format!(
            "--reuid 65534 --regid 65534 --clear-groups --inh-caps {ambient} --ambient-caps {ambient} /run/netns-for-all del stray"
        );
        command::run("setpriv", line.split_whitespace()).fails(2, &["user id 0 missing"]);
    });
}

/// Mounts of one's own that hear of others' and tell nobody of theirs, as `ip netns exec` makes them.
#[test]
fn pods_are_not_made_where_their_names_would_be_lost() {
    isolated(|here| {
        here.lan();
        here.ip("netns add inside");
        let file = here.file("t.toml", &common::pods::TOPOLOGY.replace("up0", "none")).display().to_string();
        let own = env!("CARGO_BIN_EXE_netns");
        let from =
            |program: &str, line: &str| command::run("sh", ["-c".to_owned(), format!("exec {program} {own} {line}")]);
        let before = here.snapshot();
        for around in ["ip netns exec inside", &format!("{own} exec inside --")] {
            from(around, &format!("up -f {file}")).fails(2, &["would not be seen outside", "nsenter"]);
            from(around, &format!("run --config {file}")).fails(2, &["would not be seen outside"]);
            from(around, "run").fails(2, &["would not be seen outside"]);
            before.assert_unchanged(around);
        }
        let inside = "nsenter --net=/run/netns/inside";
        from(inside, &format!("up -f {file}")).ok();
        from("ip netns exec inside", "add late").fails(2, &["would not be seen outside"]);
        from(inside, "add late").ok();
        assert!(names(here).contains(&"late".to_owned()));
        // A bare one is made as by `ip`, with a word about it.
        let made = from("ip netns exec inside", "add --bare lost");
        assert!(made.stderr.contains("would not be seen outside"), "{}", made.report());
        made.ok();
        from(inside, "down").ok();
    });
}

/// The same directory under mounts that nobody shares, as `unshare --mount` makes them; the first process is what counts.
#[test]
fn mounts_of_ones_own_over_the_machines_directory_are_noticed() {
    isolated(|here| {
        let file = here.file("t.toml", &common::pods::TOPOLOGY.replace("up0", "none")).display().to_string();
        let own = env!("CARGO_BIN_EXE_netns");
        let machine = |script: &str| {
            // The directory is a mount, shared from then on with whoever wants that.
            let line = format!("mount --make-rshared / && ip netns add first && ip netns del first && {script}");
            command::run("unshare", ["--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", &line])
        };
        machine(&format!("unshare --mount {own} up -f {file}")).fails(2, &["would not be seen outside"]);
        let shared = format!(
            "unshare --mount --propagation unchanged {own} up -f {file} && test -e /run/netns/red && {own} down"
        );
        machine(&shared).ok();
        // With a /run of its own it is a world of its own.
        let world = format!("mount -t tmpfs run /run && {own} up -f - && {own} down");
        machine(&format!("unshare --mount sh -c '{world}' < {file}")).ok();
    });
}
