//! What an operator does to a host beside netns, and what others on the machine may do: no verb hangs, hits what is not meant, or
//! leaves a pod to itself.

mod common;

use std::fs::{self, File};
use std::time::Duration;

use common::frame::Tap;
use common::pods::{RED, TOPOLOGY};
use common::{Isolated, isolated, wait_until};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);

fn pods(here: &Isolated) -> Vec<String> {
    let status = here.status();
    status["pods"].as_array().expect("pods").iter().map(|p| p["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn a_lock_anybody_may_take_stops_no_verb() {
    isolated(|here| {
        here.lan();
        let file = File::open("/proc/sys/net/ipv4/ip_local_reserved_ports").expect("open the list");
        let _held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("lock it");
        here.up(TOPOLOGY).ok();
        here.netns(["publish", "add", "blue", "8081:80"]).ok();
        here.netns(["down"]).ok();
    });
}

/// Whoever waits is told for whom, and need not wait for ever.
#[test]
fn a_verb_that_waits_says_for_whom() {
    isolated(|here| {
        here.pods();
        let lock = File::options().read(true).write(true).open("/run/netns-ebpf/default/lock").expect("open the lock");
        let held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("lock it");
        fs::write("/run/netns-ebpf/default/lock", "4711 up default\n").expect("sign it");
        here.netns(["--wait", "0", "add", "late"]).fails(1, &["`netns up` (process 4711)", "gave up after 0 s"]);
        here.netns(["--wait", "1", "down"]).fails(1, &["waiting for `netns up` (process 4711)", "gave up after 1 s"]);
        let failed = here.netns(["--wait", "1", "-o", "json", "down"]);
        let told: serde_json::Value = serde_json::from_str(&failed.stderr).expect("one document");
        assert!(told["warnings"][0].as_str().is_some_and(|w| w.contains("waiting for")), "{told}");
        assert!(told["error"]["message"].as_str().is_some_and(|m| m.contains("gave up")), "{told}");
        let patient = here.netns_background(["add", "patient"]);
        drop(held);
        assert_eq!(patient.finish(SOON).status, 0);
        assert_eq!(pods(here), ["red", "blue", "green", "patient"]);
    });
}

#[test]
fn an_empty_file_removes_nothing_unless_that_is_asked_for() {
    isolated(|here| {
        here.pods();
        // Cut off behind its first table it is no other, nor is it for an agent that begins with it.
        for text in ["", "# nothing but a comment\n", "[host]\nuplink = \"up0\"\n"] {
            here.up(text).fails(2, &["declares no", "--prune"]);
            let file = here.file("agent.toml", text);
            here.netns(["agent", "--config", &file.display().to_string()]).fails(2, &["declares no", "--prune"]);
            assert_eq!(pods(here), ["red", "blue", "green"]);
        }
        for uplink in ["up0", "none", "auto"] {
            let file = here.file("empty.toml", "");
            here.up(&TOPOLOGY.replace("uplink = \"up0\"", &format!("uplink = \"{uplink}\""))).ok();
            here.netns(["up", "--prune", "-f", &file.display().to_string()]).ok();
            assert_eq!(pods(here), [""; 0], "{uplink}");
        }
    });
}

#[test]
fn running_a_file_that_is_up_watches_it_and_leaves_it_up() {
    isolated(|here| {
        here.pods();
        here.netns(["add", "precious"]).ok();
        let file = here.file("topology.toml", TOPOLOGY);
        let mut run = here.netns_background(["run", "--config", &file.display().to_string()]);
        run.wait_for_output("nothing to change", SOON);
        run.signal(Signal::SIGINT);
        assert_eq!(run.finish(SOON).status, 0);
        assert_eq!(pods(here), ["red", "blue", "green", "precious"]);
    });
}

#[test]
fn a_wrecked_sandbox_is_in_nobodys_way() {
    isolated(|here| {
        let mut sandbox = here.netns_background(["run"]);
        sandbox.wait_for_output("Try in another terminal", SOON);
        // It is never meant by a verb that does not name it.
        here.netns(["status"]).fails(1, &["\"default\" is not up"]);
        sandbox.signal(Signal::SIGKILL);
        sandbox.finish(SOON);
        here.ip("netns del sandbox-host");
        here.netns(["add", "bare"]).ok();
        here.netns(["del", "bare"]).ok();
        here.lan();
        // The wreck's pods have the names of this file's.
        let topology = TOPOLOGY.replace("name = \"", "name = \"my-").replace("network = \"", "network = \"my-");
        here.up(&topology).ok();
        here.netns(["down"]).ok();
        here.netns(["run", "--check"]).ok();
    });
}

#[test]
fn a_host_may_have_thousands_of_addresses() {
    isolated(|here| {
        here.pods();
        let batch: String =
            (0..3000).map(|n| format!("addr add 10.96.{}.{}/32 dev lo\n", n / 250, n % 250 + 1)).collect();
        let file = here.file("addresses", &batch);
        here.ip(&format!("-batch {}", file.display()));
        here.netns(["add", "late"]).ok();
        here.netns(["del", "late"]).ok();
        here.netns(["down"]).ok();
    });
}

/// The kernel gives the number of a namespace that is gone to the next one: that is somebody else's all the same.
#[test]
fn a_namespace_with_the_number_of_a_pods_is_not_the_pods() {
    isolated(|here| {
        here.pods();
        for _ in 0..6 {
            here.ip("netns del blue");
            // The kernel takes a namespace apart in its own time.
            wait_until("the device to be gone", SOON, || !here.ip("-o link").contains("nn1"));
            here.ip("netns add blue");
            let status = here.netns(["status"]);
            assert!(status.status == 3 && status.stdout.contains("blue"), "{}", status.report());
            here.netns(["repair"]);
            assert!(!here.ip("-n blue -o link").contains("eth0"), "nothing was put into it");
            here.netns(["del", "blue"]);
            here.ip("netns exec blue true");
            here.ip("netns del blue");
            here.netns(["add", "blue"]).ok();
        }
    });
}

/// A stranger's device of our index and name is neither changed nor deleted.
#[test]
fn a_device_of_our_name_is_not_ours_by_that() {
    isolated(|here| {
        here.pods();
        for (name, index) in [("nn0", 16_777_216), ("nngw1", 33_554_433)] {
            here.ip(&format!("link del {name}"));
            here.ip(&format!(
                "link add {name} index {index} address 02:00:00:00:00:77 type veth peer name theirs-{name}"
            ));
        }
        let before = here.ip("-o link show nn0") + &here.ip("-o link show nngw1");
        here.netns(["repair"]);
        here.netns(["down"]).ok();
        assert_eq!(here.ip("-o link show nn0") + &here.ip("-o link show nngw1"), before);
    });
}

#[test]
fn down_needs_no_map() {
    for lost in ["PUBLISHED4", "PUBLISHES", "FLOWS6", ""] {
        isolated(move |here| {
            here.pods();
            let maps =
                fs::read_dir("/sys/fs/bpf/netns-ebpf/default/maps").expect("maps").map(|m| m.expect("a map").path());
            maps.filter(|m| m.ends_with(lost) || lost.is_empty()).for_each(|m| fs::remove_file(m).expect("unpin"));
            here.netns(["down"]).ok();
            let links = here.ip("-o link");
            assert!(!links.contains("nn0") && !links.contains("nngw1"), "{links}");
            here.up(TOPOLOGY).ok();
        });
    }
}

#[test]
fn an_instance_whose_host_is_gone_can_be_taken_down() {
    isolated(|here| {
        here.ip("netns add elsewhere");
        let file = here.file("t.toml", &TOPOLOGY.replace("\"up0\"", "\"none\""));
        let netns = env!("CARGO_BIN_EXE_netns");
        here.tool("nsenter", &format!("--net=/run/netns/elsewhere {netns} up -f {}", file.display()));
        here.netns(["down"]).fails(2, &["use it there"]);
        here.ip("netns del elsewhere");
        here.netns(["down"]).ok();
        here.netns(["status"]).fails(1, &["not up"]);
    });
}

/// Somebody unmounts the BPF file system, or takes the program off, on a host that forwards.
#[test]
fn what_a_pod_sends_without_its_program_reaches_nobody() {
    isolated(|here| {
        here.lan();
        here.tool("sysctl", "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        here.up(TOPOLOGY).ok();
        for pod in here.status()["pods"].as_array().expect("pods") {
            here.tool("tc", &format!("qdisc del dev nn{} clsact", pod["slot"]));
        }
        let socket = here.inside(RED.name, || std::net::UdpSocket::bind("0.0.0.0:0").expect("bind"));
        let sends = || socket.send_to(b"nobody hears this", "198.51.100.7:9").expect("send");
        // The kernel takes it off in its own time.
        let counted = || here.status()["pods"][0]["counters"]["tx_packets"].as_u64().expect("a counter");
        wait_until("the program to be off", SOON, || {
            let before = counted();
            sends();
            counted() == before
        });
        let lan = here.inside("lan", || Tap::open("lan0"));
        (0..5).for_each(|_| assert_eq!(sends(), 17));
        here.tool("ping", "-c 1 -W 2 192.0.2.1");
        let leaked = |frame: &[u8]| frame.windows(6).any(|w| w == b"nobody");
        let mut seen = false;
        // The ping came behind it on the same wire.
        let arrived = lan.find(SOON, |frame| {
            seen |= leaked(frame);
            frame.len() > 34 && frame[12..14] == [8, 0] && frame[23] == 1
        });
        assert!(arrived.is_some(), "the ping");
        assert!(!seen, "a pod's packet");
    });
}
