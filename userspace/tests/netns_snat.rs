//! What pods are on the LAN: which addresses they leave with.

mod common;

use common::isolated;
use common::lan::UPLINK;
use common::pods::{BLUE, GREEN, RED, TOPOLOGY, far, server, site, uplink};
use common::traffic::{both, direct};
use netns::check::Probe;

/// Addresses for a pool, on the host's loopback interface, and the LAN's routes to them.
const POOL: [[&str; 2]; 2] = [["203.0.113.7", "2001:db8:7::7"], ["203.0.113.8", "2001:db8:7::8"]];

/// [`TOPOLOGY`] with the pool.
fn with_pool() -> String {
    let addresses = POOL.as_flattened().iter().map(|a| format!("\"{a}\"")).collect::<Vec<_>>().join(", ");
    TOPOLOGY.replacen("masquerade = true", &format!("masquerade = true\nsnat_address = [{addresses}]"), 1)
}

fn add_pool(here: &common::Isolated) {
    for address in POOL.as_flattened() {
        let (family, length, via) = if address.contains(':') { (6, 128, UPLINK[1]) } else { (4, 32, UPLINK[0]) };
        here.ip(&format!("addr add {address}/{length} dev lo"));
        here.ip(&format!("-n lan -{family} route add {address}/{length} via {via}"));
    }
}

#[test]
fn pods_leave_with_the_addresses_of_their_networks_pool() {
    isolated(|here| {
        here.lan();
        add_pool(here);
        here.up(&with_pool()).ok();
        let [first, second] = POOL.map(|addresses| site("pool", "host", addresses));
        // Slots 0, 1 and 2 around a pool of two.
        let mut cases = direct(RED, server(), first, 63);
        cases.extend(direct(BLUE, far(), second, 63));
        cases.extend(direct(GREEN, server(), first, 63));
        here.flows(&cases);
        let shown = here.netns(["status"]).ok();
        assert!(shown.contains(&format!("as {}", POOL.as_flattened().join(","))), "{shown}");

        // An address that goes is out of the pool with the next verb, and back in it when it is back.
        here.ip(&format!("addr del {}/32 dev lo", POOL[0][0]));
        here.netns(["add", "later"]).ok();
        here.flows(&both(RED, far(), |_| Probe::Echo { seen_as: None }));
        let live = here.status()["networks"][0]["snat_address_live"].clone();
        assert_eq!(live, serde_json::json!([POOL[1][0], POOL[0][1], POOL[1][1]]));
        let shown = here.netns(["status"]).ok();
        assert!(shown.contains(&format!("{} (away)", POOL[0][0])), "{shown}");
        here.ip(&format!("addr add {}/32 dev lo", POOL[0][0]));
        here.netns(["del", "later"]).ok();
        here.flows(&direct(RED, far(), first, 63));

        here.netns(["down"]).ok();
        here.up(TOPOLOGY).ok();
        here.flows(&direct(RED, server(), uplink(), 63));
    });
}

#[test]
fn an_address_the_host_does_not_have_is_refused_before_anything_changes() {
    isolated(|here| {
        here.lan();
        add_pool(here);
        here.ip(&format!("addr del {}/128 dev lo", POOL[1][1]));
        // `up` writes its file, which is the test's own doing.
        here.file("topology.toml", "");
        let before = here.snapshot();
        here.up(&with_pool()).fails(2, &["network[0].snat_address[3]", "2001:db8:7::8", "the host has no address"]);
        before.assert_unchanged("after a refused `netns up`");
        here.ip(&format!("addr add {}/128 dev lo", POOL[1][1]));
        here.up(&with_pool()).ok();
        // A live one may do without for a moment; one that is to get it may not.
        here.ip(&format!("addr del {}/128 dev lo", POOL[1][1]));
        here.up(&with_pool()).ok();
        here.up(TOPOLOGY).ok();
        here.up(&with_pool()).fails(2, &["network[0].snat_address[3]", "the host has no address"]);
    });
}
