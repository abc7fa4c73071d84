//! Named namespaces, next to `ip netns` on the same directory.

mod common;

use std::process::Command;
use std::thread;

use common::{Snapshot, isolated};
use netns::netns::{
    Netns, NetnsName, delete_named, delete_named_if, ensure_run_dir, identify, list_named, remove_run_dir,
};

fn name(text: &str) -> NetnsName {
    NetnsName::new(text).expect("a valid name")
}

#[test]
fn each_sees_the_others_namespaces() {
    isolated(|here| {
        let red = Netns::create_named(&name("red")).expect("create red");
        here.ip("netns add blue");
        assert!(here.ip("netns list").contains("red"));
        assert_eq!(list_named().expect("list"), [name("blue"), name("red")]);
        // Both stand in the same place: what one makes the other finds.
        here.ip("-n red link add probe type veth peer name probe2");
        let seen = red.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).expect("enter").expect("read");
        assert!(seen.contains("probe2"));
        here.ip("netns del red");
        delete_named(&name("blue")).expect("delete blue");
        assert_eq!(here.ip("netns list"), "");
        assert!(delete_named(&name("blue")).is_err_and(|e| e.is_absent()));
        assert!(Netns::open_named(&name("red")).is_err_and(|e| e.is_absent()));
    });
}

#[test]
fn a_taken_name_is_refused_and_left_alone() {
    isolated(|here| {
        here.ip("netns add red");
        let before = Netns::open_named(&name("red")).expect("open").id();
        assert!(Netns::create_named(&name("red")).is_err_and(|e| e.is_exists()));
        assert_eq!(Netns::open_named(&name("red")).expect("open").id(), before);
    });
}

#[test]
fn a_name_that_is_anothers_by_now_is_not_deleted() {
    isolated(|here| {
        here.ip("netns add red");
        let looked_at = identify(&name("red")).expect("identify");
        here.ip("netns del red");
        assert!(!delete_named_if(&name("red"), |found| found.map(Netns::id) == looked_at).expect("not there"));
        here.ip("netns add other");
        here.ip("netns add red");
        assert!(!delete_named_if(&name("red"), |found| found.map(Netns::id) == looked_at).expect("another's"));
        let now = identify(&name("red")).expect("identify");
        assert!(now.is_some() && now != looked_at);
        assert!(delete_named_if(&name("red"), |found| found.map(Netns::id) == now).expect("the one"));
        std::fs::write("/run/netns/half", "").expect("file");
        assert!(delete_named_if(&name("half"), |found| found.is_none()).expect("no namespace"));
        assert!(!delete_named_if(&name("other"), |found| found.is_none()).expect("a namespace by now"));
        assert_eq!(list_named().expect("list"), [name("other")]);
    });
}

#[test]
fn what_a_killed_creation_left_can_be_deleted() {
    isolated(|_| {
        std::fs::create_dir_all("/run/netns").expect("directory");
        std::fs::write("/run/netns/half", "").expect("file");
        let error = Netns::open_named(&name("half")).expect_err("not a namespace");
        assert!(error.to_string().contains("/run/netns/half"), "{error}");
        delete_named(&name("half")).expect("delete");
        assert_eq!(list_named().expect("list"), []);
    });
}

#[test]
fn many_at_once_make_one_mount_and_all_namespaces() {
    isolated(|here| {
        thread::scope(|scope| {
            for i in 0..16 {
                scope.spawn(move || Netns::create_named(&name(&format!("n{i}"))).expect("create"));
            }
        });
        assert_eq!(list_named().expect("list").len(), 16);
        let mounts = here.tool("cat", "/proc/thread-self/mountinfo");
        assert_eq!(mounts.lines().filter(|l| l.contains(" /run/netns ")).count(), 1, "{mounts}");
        for i in 0..16 {
            delete_named(&name(&format!("n{i}"))).expect("delete");
        }
    });
}

#[test]
fn the_directory_goes_only_when_it_is_empty() {
    isolated(|here| {
        assert!(!remove_run_dir().expect("not there"));
        assert!(ensure_run_dir().expect("made"));
        assert!(!ensure_run_dir().expect("there"));
        here.ip("netns add red");
        assert!(!remove_run_dir().expect("in use"));
        here.ip("netns del red");
        assert!(remove_run_dir().expect("empty"));
        // Makers and removers at once: no maker fails.
        thread::scope(|scope| {
            for i in 0..8 {
                scope.spawn(move || {
                    let name = name(&format!("n{i}"));
                    Netns::create_named(&name).expect("create");
                    delete_named(&name).expect("delete");
                });
                scope.spawn(|| remove_run_dir().expect("remove or leave"));
            }
        });
    });
}

#[test]
fn work_runs_inside_and_nothing_stays_behind() {
    isolated(|_| {
        let here = Netns::current().expect("current");
        let red = Netns::create_named(&name("red")).expect("create");
        let inside = red.run(|| Netns::current().expect("current").id()).expect("run");
        assert_eq!(inside, red.id());
        assert!(!here.is_same(&red));
        assert!(Netns::current().expect("current").is_same(&here));
        let panic = thread::spawn(move || red.run(|| panic!("of the work"))).join();
        assert!(panic.is_err(), "a panic of the work is the caller's");
        delete_named(&name("red")).expect("delete");
    });
}

#[test]
fn files_that_are_no_network_namespace_are_refused() {
    isolated(|_| {
        let mnt = Netns::open_path("/proc/self/ns/mnt".as_ref()).expect("a namespace, of some kind");
        assert!(mnt.run(|| ()).is_err());
        assert!(Netns::open_path("/proc/self/status".as_ref()).is_err());
        assert!(Netns::of_pid(i32::MAX).is_err_and(|e| e.is_absent()));
        let child = Command::new("true").spawn().map(|mut c| c.wait());
        assert!(child.is_ok());
    });
}

#[test]
fn exec_shows_the_namespaces_own_sys_and_keeps_what_was_mounted_below() {
    isolated(|here| {
        Netns::create_named(&name("red")).expect("create");
        here.ip("-n red link add inred type veth peer name inred2");
        let before = Snapshot::take();
        // The library replaces its process: a child does that, forked by the test's own binary.
        let status = exec_child(&[
            "sh",
            "-c",
            "test -e /sys/class/net/inred && ! test -e /sys/class/net/a0 && stat -f -c %T /sys/fs/bpf | grep -q bpf && exit 7",
        ]);
        assert_eq!(status, Some(7));
        assert_eq!(exec_child(&["/no/such/program"]), Some(99));
        before.assert_unchanged("after exec");
    });
}

#[test]
fn exec_puts_the_namespaces_own_files_over_those_of_etc() {
    isolated(|here| {
        Netns::create_named(&name("red")).expect("create");
        here.tool("mount", "-t tmpfs etc /etc");
        std::fs::create_dir_all("/etc/netns/red").expect("directory");
        std::fs::write("/etc/resolv.conf", "outside").expect("file");
        std::fs::write("/etc/netns/red/resolv.conf", "inside").expect("file");
        // One without a namesake is reported and left.
        std::fs::write("/etc/netns/red/lonely", "").expect("file");
        assert_eq!(exec_child(&["grep", "-qx", "inside", "/etc/resolv.conf"]), Some(0));
        assert_eq!(std::fs::read_to_string("/etc/resolv.conf").expect("read"), "outside");
    });
}

const CHILD: &str = "NETNS_TEST_EXEC";

/// Runs `exec_in` for namespace red in a child of this test binary.
fn exec_child(argv: &[&str]) -> Option<i32> {
    let own = std::env::current_exe().expect("own path");
    let mut child = Command::new(own);
    child.args(["--exact", "child_of_exec", "--nocapture"]).env(CHILD, argv.join("\u{1f}"));
    child.status().expect("start child").code()
}

/// The other half of the test above, which runs it as a process with an argument; without one it has nothing to do.
#[test]
fn child_of_exec() {
    let Ok(argv) = std::env::var(CHILD) else { return };
    let argv: Vec<std::ffi::OsString> = argv.split('\u{1f}').map(Into::into).collect();
    let red = Netns::open_named(&name("red")).expect("open the namespace");
    let Err(error) = netns::netns::exec_in(&red, &name("red"), &argv);
    eprintln!("{error}");
    std::process::exit(99);
}
