//! Pods with several interfaces, and pods whose namespaces are somebody else's.

mod common;

use std::time::Duration;

use common::pods::{BLUE, GREEN, RED, TOPOLOGY, client, server, site, uplink};
use common::traffic::{direct, published};
use common::{Background, Isolated, isolated};
use netns::check::Site;

const SOON: Duration = Duration::from_secs(20);

/// [`TOPOLOGY`] with another network, in which red has an interface, as it has a second one in its own network.
fn several() -> String {
    TOPOLOGY.replace(
        "\"9000-9010:7000-7010/tcp\"]\n",
        r#""9000-9010:7000-7010/tcp"]

[[pod.attachment]]
network = "storage"
interface = "san"
address = ["10.99.0.10", "fd00:99::10"]
mac = "02:00:00:00:00:08"

[[pod.attachment]]
network = "pods"
address = ["10.244.0.11", "fd00:244::11"]
"#,
    ) + r#"
[[network]]
name = "storage"
subnets = ["10.99.0.0/24", "fd00:99::/64"]

[[pod]]
name = "disk"
network = "storage"
address = ["10.99.0.20", "fd00:99::20"]
"#
}

/// Red by its interface in the other network.
fn san() -> Site {
    site("red san", "red", ["10.99.0.10", "fd00:99::10"])
}

/// Red by its second interface in the network of the others.
fn second() -> Site {
    site("red eth2", "red", ["10.244.0.11", "fd00:244::11"])
}

fn disk() -> Site {
    site("disk", "disk", ["10.99.0.20", "fd00:99::20"])
}

#[track_caller]
fn is_whole(here: &Isolated) {
    let status = here.status();
    assert_eq!(status["differences"].as_array().map(Vec::len), Some(0), "{:#}", status["differences"]);
}

/// What is in a namespace, but for its loopback and link-local addresses.
fn inside(here: &Isolated, name: &str) -> String {
    ["-o addr", "route show table all", "-6 route show table all", "rule", "-6 rule"]
        .map(|words| {
            let text = here.ip(&format!("-n {name} {words}"));
            let lines = text.lines().filter(|l| !l.contains(" lo") && !l.contains("fe80") && !l.contains("ff00::"));
            lines.collect::<Vec<_>>().join("\n")
        })
        .join("\n")
}

/// Every interface sends and is reached, with its own address and by nothing else.
fn all_ways(here: &Isolated) {
    for of_red in [RED, second()] {
        here.flows(&direct(of_red, BLUE, of_red, 63));
        here.flows(&direct(BLUE, of_red, BLUE, 63));
        here.flows(&direct(of_red, server(), uplink(), 63));
    }
    here.flows(&direct(san(), disk(), san(), 63));
    here.flows(&direct(disk(), san(), disk(), 63));
    here.flows(&direct(san(), server(), uplink(), 63));
    here.flows(&published(client(), RED, uplink(), 8080, 80, client()));
}

#[test]
fn a_pod_has_interfaces_in_several_networks_and_several_in_one() {
    isolated(|here| {
        here.lan();
        here.file("topology.toml", "");
        let before = here.snapshot();
        here.up(&several()).ok();
        let names = here.ip("-n red -br link");
        for name in ["eth0@", "san@", "eth2@"] {
            assert!(names.contains(name), "{names}");
        }
        assert!(names.contains("02:00:00:00:00:08"), "{names}");
        all_ways(here);
        // What says nothing leaves by the first one.
        assert!(here.ip("-n red route get 192.0.2.1").contains("dev eth0 src 10.244.0.10"));
        assert!(here.ip("-n red -6 route get 2001:db8:1::1").contains("dev eth0"));
        is_whole(here);
        assert!(here.up(&several()).ok().contains("nothing to change"));
        let exported = here.netns(["export"]).ok();
        assert!(here.up(&exported).ok().contains("nothing to change"), "{exported}");
        // Each of it is missed, and made again.
        let harms = [
            "rule del from 10.244.0.11",
            "-6 rule del from fd00:99::10",
            "route flush table 16777217",
            "link set san down",
            "route del default dev eth2",
            "addr del 10.99.0.10/24 dev san",
        ];
        for harm in harms {
            here.ip(&format!("-n red {harm}"));
            assert_ne!(here.status()["differences"].as_array().map(Vec::len), Some(0), "{harm}");
            here.netns(["repair"]).ok();
            is_whole(here);
            all_ways(here);
        }
        // An interface more and less by the file; the others' connections go on.
        let mut connection = here.connection(RED, server(), "192.0.2.1:7777".parse().expect("an address"), 7777);
        here.up(TOPOLOGY).ok();
        connection.works("red has one interface");
        assert!(!here.ip("-n red rule").contains("10.99"), "rules of interfaces that are gone");
        is_whole(here);
        here.flows(&direct(RED, BLUE, RED, 63));
        here.up(&several()).ok();
        connection.works("red has three");
        all_ways(here);
        is_whole(here);
        here.netns(["down"]).ok();
        before.assert_unchanged("after down");
    });
}

#[test]
fn interfaces_come_and_go_by_verbs() {
    isolated(|here| {
        here.lan();
        here.up(&(TOPOLOGY.to_owned()
            + "[[network]]\nname = \"storage\"\nsubnets = [\"10.99.0.0/24\", \"fd00:99::/64\"]\n"))
            .ok();
        here.netns(["add", "disk", "-n", "storage", "-a", "10.99.0.20", "-a", "fd00:99::20"]).ok();
        let connect = ["connect", "red", "storage", "-a", "10.99.0.10", "-a", "fd00:99::10", "--interface", "san"];
        assert!(here.netns(connect).ok().contains("+ pod      red  san  10.99.0.10"));
        assert!(here.netns(connect).ok().contains("nothing to change"), "once more");
        here.netns(["connect", "red", "pods", "-a", "10.244.0.11", "-a", "fd00:244::11", "--mac", "02:00:00:00:00:09"])
            .ok();
        assert!(here.ip("-n red -br link show dev eth1").contains("02:00:00:00:00:09"));
        all_ways(here);
        is_whole(here);
        let pods = here.netns(["list", "-o", "json"]).json();
        let red = pods.as_array().and_then(|pods| pods.iter().find(|p| p["name"] == "red")).expect("red").clone();
        let names: Vec<_> =
            red["attachments"].as_array().expect("a list").iter().map(|a| a["ifname"].clone()).collect();
        assert_eq!(names, ["eth0", "san", "eth1"]);
        // What a file does not have stays, as the verb's.
        let again = here.netns(["export"]).ok();
        assert!(here.up(&again).ok().contains("nothing to change"), "{again}");
        // Bad input changes nothing.
        for (words, says) in [
            (&["connect", "nobody", "storage"][..], "no pod"),
            (&["connect", "red", "nowhere"], "--network"),
            (&["connect", "red", "storage", "-i", "a/b"], "--interface"),
            (&["connect", "red", "storage", "-i", "eth0"], "--interface"),
            (&["connect", "red", "storage", "-a", "10.99.0.20"], "10.99.0.20"),
            (&["connect", "red", "storage", "-m", "nothing"], "--mac"),
            (&["disconnect", "red", "eth9"], "eth9"),
            (&["disconnect", "blue", "eth0"], "only interface"),
            (&["disconnect", "red", "pods"], "eth0, eth1"),
        ] {
            let status = if says == "no pod" { 1 } else { 2 };
            here.netns(words.iter().copied()).fails(status, &[says]);
        }
        is_whole(here);
        // Ports lead to what is left.
        assert!(here.netns(["disconnect", "red", "eth0"]).ok().contains("- pod      red  eth0  in pods"));
        is_whole(here);
        here.flows(&published(client(), san(), uplink(), 8080, 80, client()));
        here.netns(["exec", "red", "--", "ping", "-c", "1", "-W", "2", "192.0.2.1"]).ok();
        here.netns(["disconnect", "red", "storage"]).ok();
        here.netns(["disconnect", "red", "storage", "--if-exists"]).ok();
        here.netns(["disconnect", "nobody", "storage", "--if-exists"]).ok();
        here.flows(&published(client(), second(), uplink(), 8080, 80, client()));
        here.flows(&direct(second(), GREEN, second(), 63));
        is_whole(here);
        // Two networks at once, and which address is whose.
        here.netns(["add", "both", "-n", "pods", "-n", "storage", "-a", "10.99.0.77", "-a", "10.244.0.77"]).ok();
        assert!(here.ip("-n both -br addr show dev eth1").contains("10.99.0.77"));
        here.netns(["exec", "both", "--", "ping", "-c", "1", "-W", "2", "10.99.0.20"]).ok();
        is_whole(here);
    });
}

#[test]
fn a_namespace_of_somebody_elses_becomes_a_pod_and_is_left_as_it_was() {
    isolated(|here| {
        here.lan();
        here.up(TOPOLOGY).ok();
        let snapshot = here.snapshot();
        here.ip("netns add box");
        here.ip("-n box link set lo up");
        here.ip("-n box link add own0 type veth peer name own1");
        here.ip("-n box link set own0 up");
        here.ip("-n box link set own1 up");
        here.ip("-n box addr add 172.31.0.1/24 dev own0");
        here.ip("-n box addr add fd00:31::1/64 dev own0 nodad");
        here.ip("-n box rule add from 172.31.0.1 lookup 77");
        let as_it_was = inside(here, "box");
        here.netns(["add", "box"]).fails(2, &["NAME"]);
        here.netns(["add", "other", "--adopt", "nothing"]).fails(2, &["--adopt", "nothing"]);
        here.netns(["add", "other", "--adopt", "a/b"]).fails(2, &["--adopt"]);
        here.netns(["add", "other", "--adopt", "/run/netns/nothing"]).fails(1, &["other"]);
        here.netns(["add", "other", "--adopt", "/etc/passwd"]).fails(1, &["not a network namespace"]);
        here.netns(["add", "other", "--adopt", "red"]).fails(2, &["red"]);
        here.netns(["add", "other", "--adopt", "/run/netns/red"]).fails(1, &["another pod's"]);
        here.netns(["add", "other", "--adopt", "/proc/self/ns/net"]).fails(1, &["the host"]);
        assert_eq!(inside(here, "box"), as_it_was);
        here.netns(["add", "box", "--adopt", "box", "-a", "10.244.0.50", "-a", "fd00:244::50", "-p", "8500:85"]).ok();
        here.netns(["connect", "box", "pods"]).ok();
        let adopted = site("box", "box", ["10.244.0.50", "fd00:244::50"]);
        here.flows(&direct(adopted, BLUE, adopted, 63));
        here.flows(&published(client(), adopted, uplink(), 8500, 85, client()));
        is_whole(here);
        let exported = here.netns(["export"]).ok();
        assert!(exported.contains("adopt = \"box\""), "{exported}");
        assert!(here.up(&exported).ok().contains("nothing to change"));
        here.netns(["del", "box"]).ok();
        assert_eq!(inside(here, "box"), as_it_was, "it is left as it was");
        // By the file, and with a `down`.
        let file = format!("{TOPOLOGY}[[pod]]\nname = \"crate\"\nadopt = \"box\"\npublish = [\"8500:85\"]\n");
        here.up(&file.replace("\"box\"", "\"nothing\"")).fails(2, &["adopt", "nothing"]);
        here.up(&file).ok();
        here.netns(["exec", "crate", "--", "ping", "-c", "1", "-W", "2", "10.244.0.10"]).ok();
        here.up(&file.replace("adopt = \"box\"", "")).fails(2, &["adopt"]);
        is_whole(here);
        here.up(TOPOLOGY).ok();
        assert_eq!(inside(here, "box"), as_it_was);
        here.ip("netns del box");
        snapshot.assert_unchanged("after it all");
    });
}

#[test]
fn a_processs_namespace_becomes_a_pod_as_long_as_it_is_there() {
    isolated(|here| {
        here.lan();
        here.up(TOPOLOGY).ok();
        let mut container = Background::start("unshare", ["-n", "sh", "-c", "echo there; exec sleep 1000"]);
        container.wait_for_output("there", SOON);
        let pid = container.pid().to_string();
        here.netns(["add", "container", "--adopt", &pid, "-p", "8500:85"]).ok();
        let ping = |to: &str| here.netns(["exec", "container", "--", "ping", "-c", "1", "-W", "2", to]);
        for to in ["10.244.0.20", "fd00:244::20", "192.0.2.1", "2001:db8:1::1"] {
            ping(to).ok();
        }
        assert!(here.netns(["pids", "container"]).ok().contains(&pid));
        is_whole(here);
        here.netns(["del", "container"]).ok();
        assert!(here.tool("nsenter", &format!("-t {pid} -n ip -o addr")).lines().all(|l| l.contains(" lo ")));
        // By its path; it ends, and that is said.
        let path = format!("/proc/{pid}/ns/net");
        here.netns(["add", "container", "--adopt", &path]).ok();
        ping("192.0.2.1").ok();
        container.signal(nix::sys::signal::Signal::SIGKILL);
        container.finish(SOON);
        common::wait_until("the namespace to be missed", SOON, || {
            let status = here.status();
            status["differences"].as_array().is_some_and(|d| d.iter().any(|d| d["kind"] == "namespace-gone"))
        });
        let repaired = here.netns(["repair"]);
        assert!(repaired.status == 3 && repaired.stdout.contains("somebody else's"), "{}", repaired.report());
        // Others' verbs go on, and so does what is about the pod.
        here.netns(["add", "azul"]).ok();
        here.netns(["del", "container"]).ok();
        is_whole(here);
        here.netns(["down"]).ok();
    });
}
