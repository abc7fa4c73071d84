//! The state file on a file system that cannot be written, and what is made of another version's.

mod common;

use std::fs;
use std::io::Write;

use common::{Isolated, isolated};
use nix::mount::{MsFlags, mount};

const FILE: &str = r#"
[host]
uplink = "none"
[[network]]
name = "pods"
subnets = ["10.244.0.0/24", "fd00:244::/64"]
[[pod]]
name = "red"
network = "pods"
"#;

const STATE: &str = "/run/netns-ebpf/default/state.db";

fn remount_run(flags: MsFlags, options: &str) {
    let none = None::<&str>;
    mount(none, "/run", none, MsFlags::MS_REMOUNT | flags, Some(options)).expect("mount /run anew");
}

fn readers_work(here: &Isolated, when: &str) {
    let status = here.netns(["status", "-o", "json"]);
    assert_eq!(status.status, 0, "{when}: {}", status.report());
    assert_eq!(status.json()["pods"][0]["name"], "red", "{when}");
    let list = here.netns(["list", "-o", "json"]).json();
    assert_eq!((&list[0]["name"], &list[0]["instance"]), (&"red".into(), &"default".into()), "{when}");
    here.netns(["publish", "list"]).ok();
    here.netns(["exec", "red", "--", "true"]).ok();
}

#[test]
fn readers_need_no_room() {
    isolated(|here| {
        here.up(FILE).ok();
        remount_run(MsFlags::MS_RDONLY, "mode=0755");
        readers_work(here, "read-only");
        remount_run(MsFlags::empty(), "size=2M");
        let mut full = fs::File::create("/run/full").expect("create a file");
        while full.write_all(&[0; 4096]).is_ok() {}
        let more = fs::write("/run/more", [0; 4096]).expect_err("there is room left");
        assert_eq!(more.kind(), std::io::ErrorKind::StorageFull);
        readers_work(here, "full");
        drop(full);
        fs::remove_file("/run/full").expect("make room");
        let _ = fs::remove_file("/run/more");
        here.netns(["down"]).ok();
    });
}

#[test]
fn another_versions_state_is_left_alone_until_it_is_taken_down() {
    isolated(|here| {
        let before = here.snapshot();
        here.up(FILE).ok();
        rusqlite::Connection::open(STATE)
            .and_then(|db| db.pragma_update(None, "user_version", 3))
            .expect("another schema");
        let bytes = fs::read(STATE).expect("read the state");
        for verb in [&["status"][..], &["add", "blue"], &["down"]] {
            here.netns(verb).fails(1, &["schema 3", "netns down --force"]);
        }
        assert_eq!(fs::read(STATE).expect("read the state"), bytes);
        here.netns(["exec", "red", "--", "ping", "-c1", "-W2", "10.244.0.1"]).ok();
        here.netns(["down", "--force"]).ok();
        fs::remove_file("/run/topology.toml").expect("remove the file");
        before.assert_unchanged("after down --force");
    });
}
