//! Devices are known by what they are: ours is mended whatever it is called by now, wherever its other end went, and somebody
//! else's of its name is neither changed nor deleted.

mod common;

use common::drift::{Mender, all_flows, differences, harmed, slot};
use common::{Isolated, isolated};

/// Takes an interface elsewhere, and sees that nothing of it is left there after.
fn taken_elsewhere(here: &Isolated, device: &str, mender: Mender) {
    harmed(here, &format!("{device} in another namespace"), "device-gone", mender, || {
        drop(here.ip(&format!("link set {device} netns elsewhere")));
    });
    assert!(!here.ip("-n elsewhere -o link").contains("nn"), "left of {device}");
}

#[test]
fn ends_that_were_taken_to_another_namespace() {
    isolated(|here| {
        here.pods();
        here.ip("netns add elsewhere");
        let veth = slot(here, "red");
        taken_elsewhere(here, &veth, Mender::Repair);
        taken_elsewhere(here, &veth, Mender::RepairPod("red"));
        taken_elsewhere(here, &veth, Mender::Up);
        for device in ["nngw1", "nngw1p"] {
            taken_elsewhere(here, device, Mender::Repair);
            taken_elsewhere(here, device, Mender::Up);
        }
    });
}

#[test]
fn the_other_end_of_a_gateway_device() {
    isolated(|here| {
        here.pods();
        harmed(here, "down", "device-down", Mender::Repair, || drop(here.ip("link set nngw1p down")));
        harmed(here, "renamed", "device-renamed", Mender::Up, || {
            here.ip("link set nngw1p down");
            here.ip("link set nngw1p name other");
        });
    });
}

/// What a link is, but for counters and the state of its carrier.
fn link(here: &Isolated, words: &str) -> String {
    let text = here.ip(words);
    text.split(" state ").next().expect("a line").to_owned() + text.split("link/").nth(1).expect("an address")
}

#[test]
fn anothers_device_of_the_name_of_a_pods() {
    isolated(|here| {
        here.pods();
        // Ours is called otherwise, and somebody's own has its name.
        here.ip("-n red link set eth0 down");
        here.ip("-n red link set eth0 name mine");
        here.ip("-n red link add eth0 address 02:00:00:00:00:77 type veth peer name theirs");
        let before = link(here, "-n red -o link show eth0");
        for verb in [&["repair"][..], &["repair", "red"], &["up", "-f", "/run/topology.toml"]] {
            let found = differences(here, 3, "before");
            let theirs =
                found.iter().find(|d| d["kind"] == "device-in-the-way").unwrap_or_else(|| panic!("{found:#?}"));
            assert_eq!(theirs["mendable"], false);
            let words = theirs["message"].as_str().expect("words");
            assert!(words.contains("in the way of eth0 is eth0 (veth, made by somebody else)"), "{words}");
            here.netns(verb);
            assert_eq!(link(here, "-n red -o link show eth0"), before, "after {verb:?}");
            assert!(here.ip("-n red -o link show").contains("mine"), "after {verb:?}");
        }
        here.ip("-n red link del eth0");
        here.netns(["repair"]).ok();
        assert_eq!(differences(here, 0, "after"), Vec::<serde_json::Value>::new());
        all_flows(here);
    });
}

/// Ours is gone, and a stranger's has its name, and once its address as well.
#[test]
fn anothers_device_in_the_place_of_a_pods() {
    isolated(|here| {
        here.pods();
        let veth = slot(here, "red");
        let ours = here.ip("-n red -o link show eth0");
        let ours = ours.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
        for mac in ["02:00:00:00:00:77", ours] {
            here.ip(&format!("link del {veth}"));
            here.ip(&format!("-n red link add eth0 address {mac} type bridge"));
            let before = link(here, "-n red -o link show eth0");
            let repaired = here.netns(["repair"]);
            assert_eq!(repaired.status, 3, "{}", repaired.report());
            assert!(repaired.stdout.contains("in the way of eth0"), "{}", repaired.report());
            assert_eq!(link(here, "-n red -o link show eth0"), before);
            here.ip("-n red link set eth0 name theirs0");
            here.netns(["repair"]).ok();
            all_flows(here);
            here.ip("-n red link del theirs0");
        }
    });
}

/// A stranger's of our name on the host, beside ours and instead of it.
#[test]
fn anothers_device_of_the_name_of_the_hosts() {
    isolated(|here| {
        here.pods();
        for device in [slot(here, "red"), "nngw1".to_owned(), "nngw1p".to_owned()] {
            here.ip(&format!("link set {device} down"));
            here.ip(&format!("link set {device} name mine"));
            here.ip(&format!("link add {device} type veth peer name theirs"));
            let before = link(here, &format!("-o link show {device}"));
            let repaired = here.netns(["repair"]);
            assert_eq!(repaired.status, 3, "{}", repaired.report());
            assert!(
                repaired.stdout.contains(&format!("in the way of {device} is {device} (index ")),
                "{}",
                repaired.report()
            );
            assert_eq!(link(here, &format!("-o link show {device}")), before);
            here.ip("link del mine");
            let repaired = here.netns(["repair"]);
            assert_eq!(repaired.status, 3, "{}", repaired.report());
            assert_eq!(link(here, &format!("-o link show {device}")), before);
            here.ip(&format!("link set {device} name theirs-still"));
            here.netns(["repair"]).ok();
            all_flows(here);
            here.ip("link del theirs-still");
        }
    });
}

/// Whoever is new gets a place that is free.
#[test]
fn a_pod_that_is_added_gets_a_free_name() {
    isolated(|here| {
        here.pods();
        here.ip("link add nn3 type veth peer name theirs");
        here.netns(["add", "late"]).ok();
        assert_eq!(slot(here, "late"), "nn4");
        assert_eq!(here.netns(["status"]).status, 0);
        // A name the kernel knows besides the device's own.
        here.ip("link property add dev theirs altname nn5");
        here.netns(["add", "later"]).fails(1, &["interface \"theirs\"", "made by somebody else", "in the way of nn5"]);
        here.netns(["list"]).ok();
        assert_eq!(here.netns(["status"]).status, 0);
    });
}
