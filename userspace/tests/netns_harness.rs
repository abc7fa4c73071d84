//! The test tools themselves: what they promise the other tests.

mod common;

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use common::frame::Tap;
use common::{Background, Snapshot, isolated, isolated_without_bpffs, wait_until};

#[test]
fn a_test_sees_only_its_own_machine() {
    isolated(|here| {
        assert_eq!(here.ip("-o link").lines().count(), 1, "only lo");
        assert_eq!(here.ip("netns list"), "");
        assert_eq!(std::fs::read_dir("/run").expect("read /run").count(), 0);
        here.ip("netns add red");
        assert!(here.ip("netns list").contains("red"));
    });
}

#[test]
fn bpffs_is_there_or_not_as_asked() {
    let mounted = || std::fs::read_to_string("/proc/thread-self/mounts").expect("mounts").contains(common::BPFFS);
    isolated(move |_| assert!(mounted()));
    isolated_without_bpffs(move |_| assert!(!mounted()));
}

#[test]
fn children_are_in_the_same_namespaces() {
    isolated(|here| {
        here.ip("link add a0 type veth peer name b0");
        here.file("mark", "here");
        assert!(here.tool("cat", "/run/mark").contains("here"));
        assert!(here.tool("cat", "/proc/net/dev").contains("a0"));
    });
}

#[test]
fn a_snapshot_names_what_changed() {
    isolated(|here| {
        let before = here.snapshot();
        before.assert_unchanged("after nothing");
        here.ip("link add a0 type veth peer name b0");
        here.tool("nft", "add table inet t");
        here.file("left-behind", "");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("set a sysctl");
        let diff = before.diff(&Snapshot::take());
        for word in ["links: +", "a0", "table inet t", "/run: + /run/left-behind", "/proc/sys/net/ipv4/ip_forward = 1"]
        {
            assert!(diff.contains(word), "{word} is not in\n{diff}");
        }
    });
}

#[test]
fn sockets_opened_inside_a_namespace_stay_there() {
    isolated(|here| {
        here.lan();
        let listener = here.inside("lan", || TcpListener::bind((common::lan::FAR[1], 80)).expect("listen"));
        let client = TcpStream::connect((common::lan::FAR[1], 80)).expect("connect over the default route");
        let (_, peer) = listener.accept().expect("accept");
        assert_eq!(peer, client.local_addr().expect("own address"));
        assert_eq!(peer.ip().to_string(), common::lan::UPLINK[1]);
    });
}

#[test]
fn frames_cross_a_cable() {
    isolated(|here| {
        here.cable("red", "p0");
        let pod = here.inside("red", || Tap::open("eth0"));
        let host = Tap::open("p0");
        let mut frame = vec![0xff; 12];
        frame.extend_from_slice(&[0x88, 0xb5]);
        frame.extend_from_slice(b"hello, cable, with enough bytes to be a frame");
        pod.send(&frame);
        assert_eq!(host.find(Duration::from_secs(2), |f| f[12..14] == [0x88, 0xb5]).as_deref(), Some(&frame[..]));
        assert_eq!(host.find(Duration::ZERO, |f| f.starts_with(&frame)), None);
    });
}

#[test]
fn a_background_program_is_seen_and_ended() {
    isolated(|_| {
        let mut child = Background::start("sh", ["-c", "echo ready; exec sleep 600"]);
        child.wait_for_output("ready", Duration::from_secs(5));
        let pid = child.pid();
        child.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(child.finish(Duration::from_secs(5)).status, 128 + 15);
        wait_until("the process is gone", Duration::from_secs(1), || {
            !std::path::Path::new(&format!("/proc/{pid}")).exists()
        });
    });
}
