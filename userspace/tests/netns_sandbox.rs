//! The sandbox: every path holds, nothing else is touched, and nothing is left however it ends.

mod common;

use std::time::{Duration, Instant};

use common::{Isolated, isolated, isolated_without_bpffs};
use nix::sys::signal::Signal;

/// Loading the programs alone takes seconds on a busy machine.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn every_path_holds_and_nothing_is_left() {
    isolated_without_bpffs(|here| {
        let before = here.snapshot();
        let started = Instant::now();
        let report = here.netns(["run", "--check", "-o", "json"]);
        let elapsed = started.elapsed();
        before.assert_unchanged("after run --check");
        assert_eq!(report.status, 0, "{}", report.report());
        let report = report.json();
        assert_eq!(report["ok"], true, "{report:#}");
        let rows = report["rows"].as_array().expect("rows");
        assert!(rows.len() >= 100, "{} rows", rows.len());
        for family in ["ipv4", "ipv6"] {
            let protocols = [
                "tcp",
                "tcp gso",
                "tcp shared",
                "udp",
                "udp pieces",
                "udp disorder",
                "udp full cone",
                "icmp echo",
                "icmp error",
                "traceroute",
                "too big",
                "unreachable",
                "closed",
            ];
            for protocol in protocols {
                let there = rows.iter().any(|row| row["family"] == family && row["protocol"] == protocol);
                assert!(there, "no row for {protocol} over {family}");
            }
        }
        assert!(elapsed < Duration::from_secs(40), "took {elapsed:?}");
    });
}

#[test]
fn the_table_says_what_was_tried() {
    isolated(|here| {
        let text = here.netns(["run", "--check"]).ok();
        for words in ["pod to pod", "red 10.244.0.10", "blue fd00:244::20", "by 192.0.2.2:8080", "paths ok"] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
    });
}

#[test]
fn it_can_be_explored_and_ends_without_a_trace() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        isolated(move |here| {
            let before = here.snapshot();
            let mut sandbox = here.netns_background(["run"]);
            sandbox.wait_for_output("Try in another terminal", SOON);
            assert!(sandbox.stdout().contains("exec red -- ping 10.244.0.20"), "{}", sandbox.stdout());
            here.netns(["exec", "red", "--", "ping", "-c", "1", "-W", "2", "10.244.0.20"]).ok();
            here.netns(["exec", "blue", "--", "ping", "-c", "1", "-W", "2", "2001:db8:ffff::7"]).ok();
            let status = here.netns(["--instance", "sandbox", "status", "-o", "json"]).json();
            assert_eq!(status["instance"], "sandbox", "{status:#}");
            assert_eq!(own_links(here), ["lo"], "the machine's own namespace has no new device");
            sandbox.signal(signal);
            let ended = sandbox.finish(SOON);
            assert_eq!(ended.status, 0, "{signal}: {}", ended.report());
            before.assert_unchanged(&format!("after {signal}"));
        });
    }
}

#[test]
fn a_taken_name_is_refused_before_anything_is_made() {
    for name in ["red", "coral", "sandbox-lan"] {
        isolated(move |here| {
            here.ip(&format!("netns add {name}"));
            let before = here.snapshot();
            here.netns(["run", "--check"]).fails(2, &[name]);
            before.assert_unchanged(&format!("after a refusal because of {name}"));
        });
    }
}

#[test]
fn a_second_sandbox_is_refused_and_the_first_goes_on() {
    isolated(|here| {
        let mut first = here.netns_background(["run"]);
        first.wait_for_output("Try in another terminal", SOON);
        let before = here.snapshot();
        here.netns(["run", "--check"]).fails(2, &["running already"]);
        before.assert_unchanged("after a second sandbox was refused");
        here.netns(["exec", "red", "--", "ping", "-c", "1", "-W", "2", "10.244.0.20"]).ok();
    });
}

#[test]
fn what_a_killed_sandbox_left_is_removed_by_the_next() {
    isolated(|here| {
        let before = here.snapshot();
        let mut killed = here.netns_background(["run"]);
        killed.wait_for_output("Try in another terminal", SOON);
        killed.signal(Signal::SIGKILL);
        killed.finish(SOON);
        // Nothing of ours runs, and it still works.
        here.netns(["exec", "red", "--", "ping", "-c", "1", "-W", "2", "10.244.0.20"]).ok();
        here.netns(["run", "--check"]).ok();
        before.assert_unchanged("after the next sandbox");
    });
}

#[test]
fn a_sandbox_killed_while_it_is_made_is_removed_by_the_next() {
    isolated(|here| {
        let before = here.snapshot();
        for made in ["sandbox-host", "sandbox-lan", "red", "coral"] {
            let killed = here.netns_background(["run"]);
            let path = std::path::Path::new("/run/netns").join(made);
            common::wait_until(made, SOON, || path.exists());
            killed.signal(Signal::SIGKILL);
            killed.finish(SOON);
            let mut next = here.netns_background(["run"]);
            next.wait_for_output("Try in another terminal", SOON);
            next.signal(Signal::SIGTERM);
            let ended = next.finish(SOON);
            assert_eq!(ended.status, 0, "{}", ended.report());
            before.assert_unchanged(&format!("after a sandbox was killed at {made}, and the next"));
        }
    });
}

#[test]
fn it_stands_beside_a_live_instance() {
    isolated(|here| {
        here.lan();
        let live = common::pods::TOPOLOGY.replace(r#""red""#, r#""rot""#).replace(r#""blue""#, r#""blau""#);
        here.up(&live.replace(r#""green""#, r#""gruen""#)).ok();
        let before = here.snapshot();
        here.netns(["run", "--check"]).ok();
        before.assert_unchanged("after a sandbox beside a live instance");
        here.ip("netns exec rot ping -c 1 -W 2 10.244.0.20");
    });
}

/// Names of the devices of the test's own namespace.
fn own_links(here: &Isolated) -> Vec<String> {
    let text = here.ip("-o link");
    text.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned).collect()
}
