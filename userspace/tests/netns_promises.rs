//! What the design promises of verbs and of traffic while the world around changes.

mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use common::pods::{BLUE, GATEWAY, GREEN, RED, TOPOLOGY, client, server, uplink};
use common::traffic::{both, closed, direct, published};
use common::{Isolated, isolated, isolated_without_bpffs, wait_until};
use netns::check::{Family, Probe, Target};
use nix::sys::signal::Signal;

/// Loading the programs alone takes seconds on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// One case per path: pod to pod, pod to LAN, LAN to pod, host to pod.
fn every_path() -> Vec<netns::check::Case> {
    let mut cases = direct(RED, BLUE, RED, 63);
    cases.extend(direct(RED, server(), uplink(), 63));
    cases.extend(published(client(), RED, uplink(), 9000, 7000, client()));
    cases.extend(direct(GATEWAY, GREEN, GATEWAY, 64));
    cases
}

/// Connections over every path, to be kept while something happens.
fn connections(here: &Isolated) -> Vec<common::traffic::Connection> {
    let mut open = Vec::new();
    for family in Family::ALL {
        let aim = |site: netns::check::Site, port| SocketAddr::new(site.ip(family), port);
        open.push(here.connection(RED, BLUE, aim(BLUE, 0), 0));
        open.push(here.connection(RED, server(), aim(server(), 0), 0));
        open.push(here.connection(client(), RED, aim(uplink(), 8080), 80));
    }
    open
}

fn all_work(open: &mut [common::traffic::Connection], when: &str) {
    for connection in open {
        connection.works(when);
    }
}

#[test]
fn traffic_flows_on_when_every_process_of_ours_is_gone() {
    isolated(|here| {
        here.lan();
        let file = here.file("topology.toml", TOPOLOGY);
        let before = here.snapshot();
        let mut run = here.netns_background(["run", "--config", &file.display().to_string()]);
        run.wait_for_output("green", SOON);
        let mut open = connections(here);
        run.signal(Signal::SIGKILL);
        assert_eq!(run.finish(SOON).status, 128 + 9);
        all_work(&mut open, "after kill -9");
        here.flows(&every_path());
        drop(open);
        here.netns(["down"]).ok();
        before.assert_unchanged("after down");
    });
}

#[test]
fn firewalls_that_come_and_go_change_nothing() {
    isolated(|here| {
        here.pods();
        let mut open = connections(here);
        // What is closed is not closed by rules either: not even to a LAN that knows the way to the pods.
        here.ip("-n lan -4 route add 10.244.0.0/24 via 192.0.2.2");
        here.ip("-n lan -6 route add fd00:244::/64 via 2001:db8:1::2");
        let mut shut = closed(client(), RED, uplink(), 9011, 7011);
        shut.extend(both(client(), RED, |_| Probe::Closed { target: Target::Direct }));
        here.tool("nft", "flush ruleset");
        all_work(&mut open, "after nft flush ruleset");
        here.flows(&shut);
        // As a firewall of a host that does not forward.
        here.tool("nft", "add table inet firewall");
        here.tool("nft", "add chain inet firewall forward { type filter hook forward priority 0 ; policy drop ; }");
        all_work(&mut open, "under a firewall that drops what is forwarded");
        here.flows(&every_path());
        here.tool("nft", "flush ruleset");
        all_work(&mut open, "after the firewall is gone");
        here.flows(&shut);
    });
}

#[test]
fn down_leaves_a_machine_as_it_was() {
    isolated_without_bpffs(|here| {
        here.lan();
        std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "8000-8010,25000").expect("reserve ports");
        here.file("topology.toml", TOPOLOGY);
        here.ip("netns add theirs");
        let before = here.snapshot();
        here.up(TOPOLOGY).ok();
        let reserved = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").expect("read");
        assert_eq!(reserved.trim(), "8000-8010,20000-32767", "both ours and theirs");
        for sysctl in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            let value = std::fs::read_to_string(format!("/proc/sys/net/{sysctl}")).expect("read a sysctl");
            assert_eq!(value.trim(), "0", "{sysctl}");
        }
        here.flows(&every_path());
        here.netns(["add", "late"]).ok();
        here.netns(["publish", "add", "late", "7000:7000/udp"]).ok();
        here.netns(["down"]).ok();
        before.assert_unchanged("after down");
        let again = here.netns(["down"]).ok();
        assert!(!again.is_empty(), "a second down says that nothing was up");
    });
}

#[test]
fn verbs_may_be_repeated() {
    isolated(|here| {
        here.pods();
        let file = "/run/topology.toml";
        let applied = here.netns(["up", "-f", file, "-o", "json"]).json();
        assert_eq!(applied["changed"], false, "{applied:#}");
        let before = here.snapshot();
        let mut open = connections(here);
        here.netns(["up", "-f", file]).ok();
        before.assert_unchanged("after the same up again");
        all_work(&mut open, "after the same up again");

        here.netns(["publish", "add", "blue", "7100:80"]).ok();
        here.netns(["publish", "add", "blue", "7100:80"]).ok();
        here.flows(&published(client(), BLUE, uplink(), 7100, 80, client()));
        here.netns(["publish", "del", "blue", "7100:80"]).ok();
        here.flows(&closed(client(), BLUE, uplink(), 7100, 80));
        here.netns(["publish", "del", "blue", "7100:80"]).fails(1, &["7100:80"]);

        here.netns(["add", "late", "--address", "10.244.0.77"]).ok();
        here.netns(["add", "late", "--address", "10.244.0.77"]).fails(2, &["late"]);
        here.netns(["del", "late"]).ok();
        here.netns(["del", "late"]).fails(1, &["late"]);
        before.assert_unchanged("after adding and deleting");
        all_work(&mut open, "after all that");
    });
}

#[test]
fn a_changed_file_changes_only_what_changed() {
    isolated(|here| {
        here.pods();
        let mut kept = here.connection(RED, BLUE, SocketAddr::new(BLUE.ip(Family::V4), 0), 0);
        here.netns(["add", "verb"]).ok();
        // Green goes, yellow comes, blue gets a port.
        let changed = TOPOLOGY.replace("green", "yellow").replace(
            "address = [\"10.244.0.20\", \"fd00:244::20\"]",
            "address = [\"10.244.0.20\", \"fd00:244::20\"]\npublish = [\"7200:80\"]",
        );
        here.up(&changed).ok();
        kept.works("after up with a changed file");
        let list = here.netns(["list", "-o", "json"]).json();
        let names: BTreeSet<&str> =
            list.as_array().expect("a list").iter().filter_map(|entry| entry["name"].as_str()).collect();
        assert_eq!(names, BTreeSet::from(["blue", "lan", "red", "verb", "yellow"]));
        here.flows(&published(client(), BLUE, uplink(), 7200, 80, client()));
    });
}

#[test]
fn sixteen_at_once_do_not_meet() {
    isolated(|here| {
        here.pods();
        let before = here.snapshot();
        let all = |arguments: &dyn Fn(usize) -> Vec<String>| {
            let running: Vec<_> = (0..16).map(|i| here.netns_background(arguments(i))).collect();
            for process in running {
                let finished = process.finish(Duration::from_secs(60));
                assert_eq!(finished.status, 0, "{}", finished.report());
            }
        };
        let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        all(&|i| words(format!("add p{i} --publish {}:80", 10_000 + i)));
        let list = here.netns(["list", "-o", "json"]).json();
        let entries = list.as_array().expect("a list");
        let addresses: BTreeSet<String> = entries.iter().map(|entry| entry["addresses"].to_string()).collect();
        // lan has none; red, blue and green have theirs.
        assert_eq!(addresses.len(), 16 + 4, "{list:#}");
        here.flows(&direct(RED, GREEN, RED, 63));
        here.ip("netns exec p15 ping -c 1 -W 2 10.244.0.10");
        all(&|i| words(format!("del p{i}")));
        before.assert_unchanged("after adding and deleting sixteen pods at once");
    });
}

#[test]
fn a_failure_half_way_undoes_what_was_done() {
    isolated(|here| {
        here.lan();
        here.file("topology.toml", TOPOLOGY);
        // The name of the last pod's device is one another has besides its own: found out only when it is made.
        here.ip("link add theirs type veth peer name other");
        here.ip("link property add dev theirs altname nn2");
        let before = here.snapshot();
        let failed = here.up(TOPOLOGY);
        let failed = failed.fails(1, &["nn2"]);
        assert!(failed.stderr.contains("in the way"), "{}", failed.report());
        before.assert_unchanged("after a failed up");
        here.ip("link del theirs");
        here.up(TOPOLOGY).ok();
        here.flows(&direct(RED, GREEN, RED, 63));

        here.ip("link add theirs type veth peer name other");
        here.ip("link property add dev theirs altname nn3");
        let before = here.snapshot();
        here.netns(["add", "late", "--publish", "7300:80"]).fails(1, &["nn3"]);
        before.assert_unchanged("after a failed add");
        here.flows(&every_path());
    });
}

#[test]
fn a_verb_killed_at_any_step_is_finished_or_undone_by_the_next() {
    isolated(|here| {
        here.lan();
        let file = here.file("topology.toml", TOPOLOGY);
        let file = file.display().to_string();
        let before = here.snapshot();
        let exists = |path: &str| Path::new(path).exists();
        let links = |name: &str| here.ip("-o link").contains(name);
        let steps: [(&str, &dyn Fn() -> bool); 8] = [
            ("the state directory", &|| exists("/run/netns-ebpf/default")),
            ("the state", &|| exists("/run/netns-ebpf/default/state.db")),
            ("the pins", &|| exists("/sys/fs/bpf/netns-ebpf/default")),
            ("a program", &|| exists("/sys/fs/bpf/netns-ebpf/default/progs/from_pod")),
            ("the gateway device", &|| links("nngw1")),
            ("the first pod's namespace", &|| exists("/run/netns/red")),
            ("the first pod's device", &|| links("nn0")),
            ("the last pod's namespace", &|| exists("/run/netns/green")),
        ];
        for (what, reached) in steps {
            let up = here.netns_background(["up", "-f", &file]);
            wait_until(what, SOON, reached);
            up.signal(Signal::SIGKILL);
            up.finish(SOON);
            here.netns(["down"]).ok();
            before.assert_unchanged(&format!("after up was killed at {what}, and down"));
        }
        // The other way on: not undone, but done.
        for (what, reached) in [steps[4], steps[6]] {
            let up = here.netns_background(["up", "-f", &file]);
            wait_until(what, SOON, reached);
            up.signal(Signal::SIGKILL);
            up.finish(SOON);
            here.netns(["up", "-f", &file]).ok();
            here.flows(&every_path());
            here.netns(["down"]).ok();
        }
        // And down, killed.
        for gone in ["/run/netns/red", "/run/netns/green"] {
            here.netns(["up", "-f", &file]).ok();
            let down = here.netns_background(["down"]);
            wait_until(gone, SOON, || !exists(gone));
            down.signal(Signal::SIGKILL);
            down.finish(SOON);
            here.netns(["down"]).ok();
            before.assert_unchanged(&format!("after down was killed when {gone} was gone, and down"));
        }
    });
}

#[test]
fn namespaces_are_those_of_ip_netns() {
    isolated(|here| {
        // Bare ones, without an instance.
        here.netns(["add", "ours"]).ok();
        here.ip("netns add theirs");
        for name in ["ours", "theirs"] {
            assert!(here.ip("netns list").contains(name), "ip netns lists {name}");
            assert!(here.netns(["list"]).ok().contains(name), "netns lists {name}");
            let inside = here.ip(&format!("netns exec {name} ip -o link"));
            assert_eq!(inside.lines().count(), 1, "{inside}");
            assert_eq!(here.netns(["exec", name, "--", "ip", "-o", "link"]).ok(), inside);
            assert_eq!(here.netns(["exec", name, "ip", "-o", "link"]).ok(), inside);
        }
        let devices = here.netns(["exec", "ours", "--", "ls", "/sys/class/net"]).ok();
        assert_eq!(devices.trim(), "lo", "/sys shows the namespace's own devices");
        here.netns(["exec", "ours", "--", "sh", "-c", "exit 7"]).fails(7, &[]);
        here.netns(["exec", "absent", "--", "true"]).fails(1, &["absent"]);
        here.netns(["del", "theirs"]).ok();
        here.ip("netns del ours");
        assert_eq!(here.ip("netns list"), "");

        // And pods.
        here.pods();
        assert!(here.ip("netns list").contains("red"));
        here.ip("netns exec red ping -c 1 -W 2 10.244.0.20");
        here.netns(["exec", "red", "--", "ping", "-c", "1", "-W", "2", "fd00:244::20"]).ok();
    });
}

#[test]
fn a_deleted_pod_leaves_nothing_and_its_address_serves_the_next() {
    isolated(|here| {
        here.pods();
        here.flows(&every_path());
        here.netns(["del", "red"]).ok();
        assert!(!here.ip("netns list").contains("red"));
        assert!(!here.netns(["status"]).ok().contains("red"));
        here.netns(["add", "red", "--address", "10.244.0.10", "--address", "fd00:244::10", "--publish", "9000:7000"])
            .ok();
        here.flows(&every_path());
        // A namespace deleted behind our back is no obstacle either.
        here.ip("netns del blue");
        here.netns(["del", "blue"]).ok();
        here.netns(["add", "blue", "--address", "10.244.0.20", "--address", "fd00:244::20"]).ok();
        here.flows(&every_path());
    });
}

#[test]
fn jumbo_frames_go_where_they_fit() {
    isolated(|here| {
        here.lan();
        here.up(&TOPOLOGY.replace("masquerade = true", "masquerade = true\nmtu = 9000")).ok();
        let full = |f| Probe::Udp { bytes: 8900, target: Target::Direct, seen_as: RED.ip(f), hop_limit: 63 };
        let mut cases = both(RED, BLUE, full);
        cases.extend(both(RED, BLUE, |f| Probe::Tcp { bytes: 8 << 20, target: Target::Direct, seen_as: RED.ip(f) }));
        let too_big = |f| Probe::TooBig { bytes: 4000, router: GATEWAY.ip(f), mtu_bytes: 1500 };
        cases.extend(both(BLUE, server(), too_big));
        here.flows(&cases);
        // A LAN client that thinks in 1500 bytes gets its megabytes from a pod that thinks in 9000.
        here.flows(&published(client(), RED, uplink(), 9000, 7000, client()));
    });
}

#[test]
fn instances_do_not_meet() {
    isolated(|here| {
        here.pods();
        here.ip("netns add elsewhere");
        let other = TOPOLOGY.replace("up0", "none").replace(r#"name = "red""#, r#"name = "rot""#);
        // It publishes the same ports: they are ports of another namespace.
        let file = here.file("other.toml", &other.replace("blue", "blau").replace("green", "gruen"));
        let file = file.display().to_string();
        let before = here.snapshot();
        // Not by `ip netns exec`: what is mounted behind that, names of namespaces included, ends with it.
        let netns = format!("--net=/run/netns/elsewhere {}", env!("CARGO_BIN_EXE_netns"));
        here.tool("nsenter", &format!("{netns} --instance other up -f {file}"));
        here.ip("netns exec rot ping -c 1 -W 2 10.244.0.20");
        here.flows(&every_path());
        here.tool("nsenter", &format!("{netns} --instance other down"));
        before.assert_unchanged("after another instance has come and gone");
    });
}
