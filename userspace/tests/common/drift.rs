//! Harm done to [`TOPOLOGY`](super::pods::TOPOLOGY), what `status` says of it, and what mends it.

use serde_json::Value;

use super::Isolated;
use super::pods::{BLUE, RED, client, server, uplink};
use super::traffic::{direct, published};

/// How a difference is mended.
#[derive(Clone, Copy, Debug)]
pub enum Mender {
    /// `netns repair`.
    Repair,
    /// `netns repair POD`.
    RepairPod(&'static str),
    /// `netns up` with the same file.
    Up,
}

/// What `status` names, which ends with this status.
pub fn differences(here: &Isolated, status: i32, when: &str) -> Vec<Value> {
    let told = here.netns(["status", "-o", "json"]);
    assert_eq!(told.status, status, "{when}: {}", told.report());
    let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
    told["differences"].as_array().expect("a list").clone()
}

/// Pod to pod, pod to LAN, LAN to pod.
pub fn all_flows(here: &Isolated) {
    let mut cases = direct(RED, BLUE, RED, 63);
    cases.extend(direct(RED, server(), uplink(), 63));
    cases.extend(published(client(), RED, uplink(), 9000, 7000, client()));
    here.flows(&cases);
}

/// Does harm, sees it named as `kind`, mends it, and sees traffic flow and nothing named.
pub fn harmed(here: &Isolated, what: &str, kind: &str, mender: Mender, harm: impl FnOnce()) {
    assert_eq!(differences(here, 0, what), Vec::<Value>::new(), "before: {what}");
    harm();
    let found = differences(here, 3, what);
    assert!(found.iter().any(|d| d["kind"] == kind), "{what}: {found:#?}");
    assert!(found.iter().all(|d| d["mendable"] == true), "{what}: {found:#?}");
    let text = here.netns(["status"]);
    assert_eq!(text.status, 3, "{what}: {}", text.report());
    assert!(text.stdout.contains("NOT AS IT SHOULD BE"), "{what}: {}", text.report());
    match mender {
        Mender::Repair => drop(here.netns(["repair"]).ok()),
        Mender::RepairPod(pod) => drop(here.netns(["repair", pod]).ok()),
        Mender::Up => {
            let applied = here.netns(["up", "-f", "/run/topology.toml", "-o", "json"]).json();
            assert_eq!(applied["changed"], true, "{what}: {applied:#}");
            assert!(!applied["mended"].as_array().expect("a list").is_empty(), "{what}: {applied:#}");
        }
    }
    assert_eq!(differences(here, 0, what), Vec::<Value>::new(), "after: {what}");
    all_flows(here);
}

/// Name of the host's end of a pod's cable.
pub fn slot(here: &Isolated, pod: &str) -> String {
    let list = here.netns(["list", "-o", "json"]).json();
    let pods = list.as_array().expect("a list");
    format!("nn{}", pods.iter().find(|p| p["name"] == pod).expect("the pod")["slot"])
}
