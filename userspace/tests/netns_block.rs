//! The block of traffic control by which pods have their program: what is done to it from outside is named, mended, and lets
//! nothing of a pod out meanwhile.

mod common;

use std::fs;

use common::pods::{BLUE, RED, client, server, uplink};
use common::traffic::{direct, published};
use common::{Isolated, isolated};
use serde_json::Value;

fn differences(here: &Isolated, status: i32, when: &str) -> Vec<Value> {
    let told = here.netns(["status", "-o", "json"]);
    assert_eq!(told.status, status, "{when}: {}", told.report());
    let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
    told["differences"].as_array().expect("a list").clone()
}

fn all_flows(here: &Isolated) {
    let mut cases = direct(RED, BLUE, RED, 63);
    cases.extend(direct(RED, server(), uplink(), 63));
    cases.extend(published(client(), RED, uplink(), 9000, 7000, client()));
    here.flows(&cases);
}

fn veth(here: &Isolated, pod: &str) -> String {
    let list = here.netns(["list", "-o", "json"]).json();
    let pods = list.as_array().expect("a list");
    format!("nn{}", pods.iter().find(|p| p["name"] == pod).expect("the pod")["slot"])
}

/// The block a host veth is in, as `tc` names it.
fn block(here: &Isolated, veth: &str) -> String {
    let shown = here.tool("tc", &format!("qdisc show dev {veth}"));
    let mut words = shown.split_whitespace().skip_while(|word| *word != "ingress_block").skip(1);
    words.next().unwrap_or_else(|| panic!("{veth} is in no block: {shown}")).to_owned()
}

/// A filter of somebody else, which nothing matches.
const OTHER: &str = "bpf bytecode 1,6\u{a0}0\u{a0}0\u{a0}0, flowid 1:1";

/// Runs `tc`.
fn tc(words: &str) -> String {
    // The one word of `tc` with blanks in it.
    let words = words.split(' ').map(|word| word.replace('\u{a0}', " "));
    common::command::run("tc", words).ok()
}

/// Whether anybody answers red.
fn reaches_somebody(here: &Isolated) -> bool {
    let ping = |address: &str| {
        let words = ["exec", "red", "--", "ping", "-c1", "-W1", address];
        here.netns(words).status == 0
    };
    ping("10.244.0.20") || ping("192.0.2.2") || ping("fd00:244::20")
}

#[test]
fn whoever_takes_the_program_off_is_named_and_nothing_gets_out_meanwhile() {
    isolated(|here| {
        here.pods();
        let red = veth(here, "red");
        let block = block(here, &red);
        assert_eq!(block, self::block(here, &veth(here, "blue")), "one block for all");
        for forwarding in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{forwarding}"), "1").expect("switch forwarding on");
        }
        // Both settings concern the gateway device, too.
        here.netns(["repair"]).ok();
        let tc = |words: &str| drop(tc(words));
        let harms: [(&str, &dyn Fn()); 5] = [
            ("out of the block", &|| tc(&format!("qdisc del dev {red} clsact"))),
            ("a discipline without a block", &|| {
                tc(&format!("qdisc del dev {red} clsact"));
                tc(&format!("qdisc add dev {red} clsact"));
            }),
            ("into another block", &|| {
                tc(&format!("qdisc del dev {red} clsact"));
                tc(&format!("qdisc add dev {red} ingress_block 7 clsact"));
            }),
            ("the filter gone", &|| tc(&format!("filter del block {block} pref 1"))),
            ("another filter in its place", &|| {
                tc(&format!("filter del block {block} pref 1"));
                tc(&format!("filter add block {block} pref 1 protocol all {OTHER}"));
            }),
        ];
        for (i, (what, harm)) in harms.iter().enumerate() {
            assert_eq!(differences(here, 0, what), Vec::<Value>::new(), "before: {what}");
            harm();
            let found = differences(here, 3, what);
            assert!(
                found.iter().any(|d| d["kind"] == "program-detached" && d["mendable"] == true),
                "{what}: {found:#?}"
            );
            assert!(!reaches_somebody(here), "{what}");
            if i % 2 == 0 {
                here.netns(["repair"]).ok();
            } else {
                here.netns(["up", "-f", "/run/topology.toml"]).ok();
            }
            assert_eq!(differences(here, 0, what), Vec::<Value>::new(), "after: {what}");
            // It has asked for its gateway in vain, and the kernel gives up on that in its own time.
            here.ip("-n red neigh flush all");
            all_flows(here);
        }
        assert!(reaches_somebody(here));
    });
}

#[test]
fn filters_of_others_stay_in_their_places() {
    isolated(|here| {
        here.pods();
        let red = veth(here, "red");
        let block = block(here, &red);
        // A filter for what ours lets go on, and one on the other side of the interface.
        tc(&format!("filter add block {block} pref 77 protocol all {OTHER}"));
        tc(&format!("filter add dev {red} egress pref 5 protocol all {OTHER}"));
        let shown = || {
            let of = |words: String| here.tool("tc", &words);
            of(format!("filter show block {block}")) + &of(format!("filter show dev {red} egress"))
        };
        let before = shown();
        assert!(before.contains("pref 77") && before.contains("pref 5") && before.contains("from_pod"), "{before}");
        here.netns(["add", "violet"]).ok();
        here.netns(["repair"]).ok();
        here.netns(["del", "violet"]).ok();
        assert_eq!(shown(), before);
        all_flows(here);
        here.netns(["down"]).ok();
        assert!(!here.tool("tc", "qdisc show").contains(&block), "the block goes with its last interface");
    });
}
