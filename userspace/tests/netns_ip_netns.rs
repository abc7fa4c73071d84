//! The verbs of `ip netns`, beside `ip netns` itself: the same namespaces, the same answers.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{Background, Finished, Isolated, command, isolated, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);

/// A process in a namespace, waited for until it is there.
fn sleeper(here: &Isolated, name: &str) -> Background {
    let sleeper = Background::start("ip", ["netns", "exec", name, "sleep", "1000"]);
    let id = |path: String| fs::read_link(path).ok();
    let wanted = here.inside(name, || id("/proc/thread-self/ns/net".to_owned()));
    wait_until("the process is in its namespace", SOON, || id(format!("/proc/{}/ns/net", sleeper.pid())) == wanted);
    // `ip` becomes the program it runs: only then does its name end in it.
    wait_until("it runs", SOON, || {
        fs::read_to_string(format!("/proc/{}/comm", sleeper.pid())).is_ok_and(|comm| comm == "sleep\n")
    });
    sleeper
}

fn ip(arguments: &str) -> Finished {
    command::run("ip", arguments.split_whitespace())
}

fn netns(arguments: &str) -> Finished {
    command::run(env!("CARGO_BIN_EXE_netns"), arguments.split_whitespace())
}

/// The words of both, in any order of lines: the directory has none.
#[track_caller]
fn same_lines(arguments: &str) {
    let lines = |text: String| {
        let mut lines: Vec<_> = text.lines().map(|l| l.trim_end().to_owned()).filter(|l| !l.is_empty()).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(netns(arguments).ok()), lines(ip(&format!("netns {arguments}")).ok()), "{arguments}");
}

#[test]
fn pids_and_identify_answer_as_ip_does() {
    isolated(|here| {
        here.ip("netns add red");
        netns("add blue").ok();
        let (a, b) = (sleeper(here, "red"), sleeper(here, "red"));
        here.ip(&format!("netns attach rot {}", a.pid()));
        let mut pids = [a.pid(), b.pid()];
        pids.sort_unstable();
        assert_eq!(netns("pids red -o json").json(), json!({"name": "red", "pids": pids}));
        assert_eq!(netns("pids blue").ok(), "");
        let of = |pid: i32| netns(&format!("identify {pid} -o json")).json()["names"].clone();
        assert_eq!(of(a.pid()), json!(["red", "rot"]));
        assert_eq!(of(i32::try_from(std::process::id()).expect("an id")), json!([]));
        // `ip` knows one name of a namespace.
        let theirs = here.ip(&format!("netns identify {}", a.pid()));
        assert!(["red", "rot"].contains(&theirs.trim()), "{theirs}");
        let c = sleeper(here, "blue");
        for question in ["pids red", "pids blue", &format!("identify {}", c.pid()), "identify"] {
            same_lines(question);
        }
        // Whoever asks without a process asks for himself.
        let asked = here.tool("ip", &format!("netns exec red {} identify", env!("CARGO_BIN_EXE_netns")));
        assert_eq!(asked, "red\nrot\n");
        netns("pids none").fails(1, &["\"none\""]);
        netns("identify 2147483647").fails(1, &["no process"]);
        netns("identify x").fails(2, &[]);
    });
}

#[test]
fn an_attached_namespace_is_the_processs_own() {
    isolated(|here| {
        let process = Background::start("unshare", ["--net", "sleep", "1000"]);
        let pid = process.pid();
        let own = fs::read_link("/proc/thread-self/ns/net").expect("own namespace");
        let there = || fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        wait_until("it has a namespace of its own", SOON, || there().is_some_and(|ns| ns != own));
        assert_eq!(netns(&format!("attach red {pid} -o json")).json()["changed"], true);
        assert_eq!(here.inside("red", || fs::read_link("/proc/thread-self/ns/net").ok()), there());
        assert_eq!(here.ip(&format!("netns identify {pid}")).trim(), "red");
        // Once more is all right, for the same namespace.
        assert_eq!(netns(&format!("attach red {pid} -o json")).json()["changed"], false);
        netns(&format!("attach red {}", std::process::id())).fails(2, &["red", "already exists"]);
        netns("attach gone 2147483647").fails(1, &["no process"]);
        netns("attach a/b 1").fails(2, &["NAME", "a/b"]);
        assert_eq!(here.ip("netns list").trim(), "red", "nothing is left of those that were refused");
        // It outlives its process, and is deleted as any other.
        process.signal(Signal::SIGKILL);
        process.finish(SOON);
        assert_eq!(netns("exec red -- true").status, 0);
        here.ip("netns del red");
    });
}

#[test]
fn ids_are_those_of_ip() {
    isolated(|here| {
        for name in ["red", "blue", "green"] {
            here.ip(&format!("netns add {name}"));
        }
        assert_eq!(netns("set red 5 -o json").json(), json!({"changed": true, "namespace": "red", "nsid": 5}));
        assert_eq!(netns("set red 5 -o json").json()["changed"], false);
        assert_eq!(netns("set red auto -o json").json(), json!({"changed": false, "namespace": "red", "nsid": 5}));
        assert_eq!(netns("set blue auto -o json").json()["nsid"], 0);
        // Where `ip` refuses, too.
        netns("set red 6").fails(2, &["NSID", "\"6\"", "has id 5"]);
        assert_ne!(ip("netns set red 6").status, 0);
        netns("set green 5").fails(2, &["another"]);
        assert_ne!(ip("netns set green 5").status, 0);
        netns("set green -7").fails(2, &["\"-7\""]);
        netns("set none 3").fails(1, &["none"]);
        here.ip("-n red netns set blue 8");
        let both = |arguments: &str| {
            let theirs: Value = serde_json::from_str(&ip(&format!("-j netns {arguments}")).ok()).expect("their JSON");
            assert_eq!(netns(&format!("{arguments} -o json")).json(), theirs, "{arguments}");
            assert_ne!(theirs, json!([]), "{arguments}: nothing compared");
            same_lines(arguments);
        };
        for arguments in ["list-id", "list-id nsid 5", "list-id target-nsid 5", "list-id target-nsid 5 nsid 0"] {
            both(arguments);
        }
        for wrong in ["list-id nsid 99", "list-id target-nsid 99", "list-id target-nsid 99 nsid 5"] {
            netns(wrong).fails(1, &["99"]);
            assert_ne!(ip(&format!("netns {wrong}")).status, 0, "{wrong}");
        }
        for wrong in ["list-id nsid", "list-id nsid x", "list-id nsid -7", "list-id id 5", "list-id nsid 5 nsid 5"] {
            netns(wrong).fails(2, &[wrong.split(' ').nth(1).unwrap_or_default()]);
        }
        let theirs: Value = serde_json::from_str(&ip("-j netns list").ok()).expect("their JSON");
        let ids = |list: &Value, id: &str| -> BTreeMap<String, Value> {
            let entries = list.as_array().expect("a list").iter();
            entries.map(|e| (e["name"].as_str().expect("a name").to_owned(), e[id].clone())).collect()
        };
        assert_eq!(ids(&netns("list -o json").json(), "nsid"), ids(&theirs, "id"));
    });
}

/// What a monitor prints for one script of changes.
fn watched(program: &str, arguments: &[&str]) -> String {
    let monitor = Background::start(program, arguments.iter().copied());
    // Ours watches the directory above, too, and has begun when it watches both that are there.
    let both = program != "stdbuf" && Path::new("/run/netns").exists();
    wait_until("it watches", SOON, || watches(&monitor) == if both { 2 } else { 1 });
    for line in ["netns add red", "netns add blue", "netns del red", "netns del blue", "netns add last"] {
        ip(line).ok();
    }
    wait_until("the last one is told", SOON, || monitor.stdout().contains("last"));
    let told = monitor.stdout();
    ip("netns del last").ok();
    told
}

#[test]
fn monitor_tells_what_ip_tells() {
    isolated(|here| {
        // From before there is a directory, and from a time when there are names already.
        let own = env!("CARGO_BIN_EXE_netns");
        let expected = "add red\nadd blue\ndelete red\ndelete blue\nadd last\n";
        assert_eq!(watched(own, &["monitor"]), expected);
        here.ip("netns add old");
        assert_eq!(watched(own, &["monitor"]), expected);
        // `ip` writes at once to a terminal only.
        assert_eq!(watched("stdbuf", &["-oL", "ip", "netns", "monitor"]), expected);
        let lines = watched(own, &["monitor", "-o", "json"]);
        let first: Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("a document a line");
        assert_eq!(first, json!({"event": "add", "name": "red"}));
        assert_eq!(lines.lines().count(), 5, "{lines}");
    });
}

/// A monitor that watches the directory and the one above.
fn monitor() -> Background {
    let monitor = Background::start(env!("CARGO_BIN_EXE_netns"), ["monitor"]);
    wait_until("it watches both", SOON, || watches(&monitor) == 2);
    monitor
}

/// How many directories a program watches.
fn watches(program: &Background) -> usize {
    let Ok(entries) = fs::read_dir(format!("/proc/{}/fdinfo", program.pid())) else { return 0 };
    let texts = entries.flatten().filter_map(|e| fs::read_to_string(e.path()).ok());
    texts.map(|text| text.matches("inotify wd:").count()).sum()
}

#[test]
fn monitor_goes_on_when_the_directory_has_gone_meanwhile() {
    isolated(|here| {
        here.ip("netns add old");
        let mut monitor = monitor();
        here.ip("netns del old");
        here.tool("umount", "/run/netns");
        fs::remove_dir("/run/netns").expect("remove the directory");
        monitor.wait_for_output("delete old\n", SOON);
        here.ip("netns add new");
        monitor.wait_for_output("delete old\nadd new\n", SOON);
        here.ip("netns del new");
        monitor.wait_for_output("delete new\n", SOON);
    });
}

#[test]
fn monitor_goes_on_when_the_directory_is_uncovered() {
    isolated(|here| {
        here.ip("netns add beneath");
        here.tool("mount", "-t tmpfs names /run/netns");
        here.ip("netns add above");
        let mut monitor = monitor();
        here.tool("umount", "--lazy /run/netns");
        monitor.wait_for_output("delete above\nadd beneath\n", SOON);
        here.ip("netns add late");
        monitor.wait_for_output("add late\n", SOON);
    });
}

#[test]
fn exec_all_does_as_ip_does() {
    isolated(|here| {
        for name in ["red", "blue"] {
            here.ip(&format!("netns add {name}"));
            here.ip(&format!("-n {name} link add in{name} type veth peer name peer"));
        }
        let words = |program: &str, argv: &[&str]| command::run(program, argv.iter().copied());
        let own = |argv: &[&str]| words(env!("CARGO_BIN_EXE_netns"), &[&["exec", "--all", "--"], argv].concat());
        let theirs = |argv: &[&str]| words("ip", &[&["-all", "netns", "exec"], argv].concat());
        let sections = |finished: &Finished| {
            let mut sections: Vec<_> = finished.stdout.split("\nnetns: ").map(str::to_owned).collect();
            sections.sort();
            sections
        };
        for argv in [
            ["sh", "-c", "cd /sys/class/net && echo *"],
            ["sh", "-c", "echo out; exit 3"],
            ["no-such-program", "a", "b"],
        ] {
            let (own, theirs) = (own(&argv), theirs(&argv));
            assert_eq!(sections(&own), sections(&theirs), "{argv:?}");
            assert_eq!((own.status, theirs.status), (0, 0), "{argv:?}");
            assert_eq!(own.stderr.contains("No such file"), theirs.stderr.contains("No such file"), "{argv:?}");
        }
        // A signal ends one, and the rest is not begun.
        for ended in [own(&["sh", "-c", "kill -9 $$"]), theirs(&["sh", "-c", "kill -9 $$"])] {
            assert_eq!((ended.status, ended.stdout.matches("netns: ").count()), (1, 1), "{}", ended.report());
        }
        let json = words(
            env!("CARGO_BIN_EXE_netns"),
            &["-o", "json", "exec", "--all", "--", "sh", "-c", "cd /sys/class/net && echo in*; exit 3"],
        );
        let of = |name: &str| json!({"name": name, "status": 3, "signal": null, "stdout": format!("in{name}\n"), "error": null});
        assert_eq!(json.json(), json!([of("blue"), of("red")]));
        here.ip("-all netns del");
        assert_eq!(own(&["true"]).ok(), "");
    });
}
