//! What a file says otherwise than what is up: each key, at every step that can fail.

use std::collections::BTreeSet;

use super::model::Fault;
use super::{World, input};
use crate::instance::Applied;
use crate::store::{Phase, Row, State};
use crate::topology::{Effect, KEYS, Problem, parse};

/// Every key, so that each can be given another value.
const FILE: &str = r#"
[host]
uplink = "eth7"
snat_ports = "20000-29999"
mtu = 1400
[nat]
profile = "rfc"
flows = 100000
flows_per_pod = 1000
[nat.timeouts]
tcp_established = "1h"
tcp_transitory = "2m"
udp = "3m"
icmp = "30s"
[[network]]
name = "pods"
subnets = ["10.244.0.0/24", "fd00:244::/64"]
masquerade = true
snat_address = ["192.0.2.1"]
mapping = "endpoint-independent"
filtering = "endpoint-independent"
no_masquerade = ["10.0.0.0/8"]
mtu = 1380
[[network]]
name = "other"
subnets = ["10.99.0.0/24", "fd00:99::/64"]
[[pod]]
name = "red"
network = "pods"
address = ["10.244.0.10"]
publish = [{ port = "8080:80/tcp", allow = ["10.0.0.0/8"] }]
[[pod.attachment]]
network = "other"
address = ["10.99.0.10"]
interface = "eth1"
mac = "02:00:00:00:00:08"
[[pod]]
name = "blue"
network = "pods"
[[publish]]
port = "443:8443/tcp"
backends = [{ pod = "red", weight = 2 }, { pod = "blue" }]
affinity = "none"
allow = ["10.0.0.0/8"]
"#;

/// For each key what stands in [`FILE`] and what takes its place.
const CHANGES: [(&str, &str, &str); 39] = [
    ("host.uplink", "uplink = \"eth7\"", "uplink = \"none\""),
    ("host.snat_ports", "20000-29999", "21000-31999"),
    ("host.mtu", "mtu = 1400", "mtu = 1350"),
    ("nat.profile", "profile = \"rfc\"", "profile = \"fast\""),
    ("nat.timeouts", "icmp = \"30s\"", ""),
    ("nat.timeouts.tcp_established", "\"1h\"", "\"2h\""),
    ("nat.timeouts.tcp_transitory", "\"2m\"", "\"1m\""),
    ("nat.timeouts.udp", "\"3m\"", "\"1m\""),
    ("nat.timeouts.icmp", "\"30s\"", "\"20s\""),
    ("nat.flows", "100000", "50000"),
    ("nat.flows_per_pod", "1000", "500"),
    ("network.name", "\"other\"", "\"another\""),
    ("network.subnets", "10.244.0.0/24", "10.244.0.0/16"),
    (
        "network.masquerade",
        "masquerade = true\nsnat_address = [\"192.0.2.1\"]\nmapping = \"endpoint-independent\"\nfiltering = \"endpoint-independent\"",
        "masquerade = false",
    ),
    ("network.snat_address", "snat_address = [\"192.0.2.1\"]\n", ""),
    ("network.mapping", "mapping = \"endpoint-independent\"\nfiltering = \"endpoint-independent\"\n", ""),
    ("network.filtering", "filtering = \"endpoint-independent\"\n", ""),
    ("network.no_masquerade", "no_masquerade = [\"10.0.0.0/8\"]\n", ""),
    ("network.mtu", "mtu = 1380", "mtu = 1390"),
    ("pod.name", "name = \"blue\"\n", "name = \"blau\"\n"),
    ("pod.network", "network = \"pods\"\naddress = [\"10.244.0.10\"]", "network = \"other\""),
    ("pod.address", "10.244.0.10", "10.244.0.77"),
    ("pod.interface", "name = \"blue\"\n", "name = \"blue\"\ninterface = \"lan0\"\n"),
    ("pod.mac", "name = \"blue\"\n", "name = \"blue\"\nmac = \"02:00:00:00:00:07\"\n"),
    ("pod.adopt", "name = \"blue\"\n", "name = \"blue\"\nadopt = \"/proc/1/ns/net\"\n"),
    ("pod.publish", "publish = [{ port = \"8080:80/tcp\", allow = [\"10.0.0.0/8\"] }]", ""),
    ("pod.publish.port", "8080:80/tcp", "8081:80/tcp"),
    ("pod.publish.allow", "8080:80/tcp\", allow = [\"10.0.0.0/8\"]", "8080:80/tcp\", allow = [\"10.1.0.0/16\"]"),
    (
        "pod.attachment",
        "[[pod.attachment]]\nnetwork = \"other\"\naddress = [\"10.99.0.10\"]\ninterface = \"eth1\"\nmac = \"02:00:00:00:00:08\"\n",
        "",
    ),
    ("pod.attachment.network", "network = \"other\"\naddress = [\"10.99.0.10\"]", "network = \"pods\""),
    ("pod.attachment.address", "10.99.0.10", "10.99.0.77"),
    ("pod.attachment.interface", "\"eth1\"", "\"eth7\""),
    ("pod.attachment.mac", "00:08", "00:09"),
    ("publish.port", "443:8443/tcp", "444:8443/tcp"),
    ("publish.backends", ", { pod = \"blue\" }]", "]"),
    ("publish.backends.pod", "{ pod = \"red\", weight = 2 }, ", ""),
    ("publish.backends.weight", "weight = 2", "weight = 3"),
    ("publish.affinity", "affinity = \"none\"", "affinity = \"client\""),
    ("publish.allow", "affinity = \"none\"\nallow = [\"10.0.0.0/8\"]", "affinity = \"none\"\nallow = []"),
];

/// [`FILE`] with another value of a key.
fn changed(key: &str) -> String {
    let (_, from, to) = CHANGES.iter().find(|(k, ..)| *k == key).unwrap_or_else(|| panic!("no change of {key}"));
    // A network's name is where it is spoken of as well.
    let mut text = if key == "network.name" { FILE.replace(from, to) } else { FILE.replacen(from, to, 1) };
    // What no pod of this name publishes, another one does.
    if key == "pod.name" {
        text = text.replace("pod = \"blue\"", "pod = \"blau\"");
    }
    assert_ne!(text, FILE, "{key}");
    text
}

/// Every key the reader of the file knows.
fn schema() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for (table, text) in [
        ("host", "[host]\n?"),
        ("nat", "[nat]\n?"),
        ("nat.timeouts", "[nat.timeouts]\n?"),
        ("network", "[[network]]\n?"),
        ("pod", "[[pod]]\n?"),
        ("pod.publish", "[[pod]]\npublish = [{ ? }]"),
        ("pod.attachment", "[[pod]]\n[[pod.attachment]]\n?"),
        ("publish", "[[publish]]\n?"),
        ("publish.backends", "[[publish]]\nbackends = [{ ? }]"),
    ] {
        let error = parse(&text.replace('?', "no_such_key = 1")).expect_err("an unknown key");
        let problem = error.problem.to_string();
        let keys = problem.strip_prefix("unknown key; expected ").expect("a list of keys").split(", ");
        known.extend(keys.map(|key| format!("{table}.{key}")));
    }
    known
}

fn pods(state: &State) -> Vec<(u64, String, Option<crate::netns::NetnsId>)> {
    state.pods.iter().map(|p| (p.id, p.name.clone(), p.netns)).collect()
}

/// The rows without what is not the file's to say.
fn settled(state: &State) -> State {
    let mut state = state.clone();
    for network in &mut state.networks {
        (network.last4, network.last6) = (None, None);
    }
    state
}

#[test]
fn every_key_of_the_file_has_a_case() {
    let cases: BTreeSet<String> = KEYS.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(cases, schema());
    assert_eq!(cases, CHANGES.iter().map(|(key, ..)| (*key).to_owned()).collect());
}

#[test]
fn every_key_changes_what_is_up_and_spares_the_pods() {
    for (key, effect) in KEYS {
        let w = World::new();
        w.up(FILE).unwrap();
        let before = w.state().unwrap();
        let document = parse(&changed(key)).unwrap();
        if effect == Effect::Refused {
            let error = input(w.verb(|i| i.up(&document)).unwrap_err());
            assert!(error.0.ends_with(key.rsplit_once('.').unwrap().1), "{error:?}");
            assert_eq!(w.state().unwrap(), before, "{key}");
            continue;
        }
        let planned = w.verb(|i| i.plan(&document, false)).unwrap();
        let applied = w.verb(|i| i.up(&document)).unwrap();
        assert!(planned.changed && applied.changed, "{key}");
        assert_eq!(told(&planned), told(&applied), "{key}");
        let after = w.state().unwrap();
        assert!(after.rows().all(|row| row.phase() == Phase::Ready), "{key}");
        match effect {
            Effect::Live { .. } => {
                assert_eq!(pods(&after), pods(&before), "{key}: a pod was made anew");
                assert!(applied.pods_removed.is_empty() && applied.networks_removed.is_empty(), "{key}");
            }
            Effect::Another => {
                let added = applied.pods_added.len() + applied.networks_added.len() + applied.publishes_added.len();
                let interfaces = applied.interfaces_added.len();
                assert!(added + interfaces + applied.publishes_changed.len() > 0, "{key}: {applied:?}");
            }
            Effect::Refused => unreachable!(),
        }
        let (table, name) = key.rsplit_once('.').unwrap();
        if matches!((table, effect), ("host" | "network", Effect::Live { .. })) {
            // The MTU of the host's is that of each network which names none.
            let named = |s: &crate::instance::Setting| s.key == name && s.object.starts_with(table);
            assert!(applied.settings_changed.iter().any(named), "{key}: {:?}", applied.settings_changed);
        }
        assert!(!w.verb(|i| i.up(&document)).unwrap().changed, "{key}: changed twice");
        assert!(!w.verb(|i| i.plan(&document, false)).unwrap().changed, "{key}: planned twice");
        // And back again.
        w.up(FILE).unwrap();
        let back = |state: &State| state.instance.clone().map(|row| (row.host, row.nat, row.uplinks));
        assert_eq!(back(&w.state().unwrap()), back(&before), "{key}");
        w.verb(|i| i.down()).unwrap();
        w.assert_nothing_left();
    }
}

fn told(applied: &Applied) -> String {
    let mut applied = applied.clone();
    applied.pods_added.iter_mut().for_each(|p| p.attachments.clear());
    applied.publishes_added.iter_mut().for_each(|q| q.id = 0);
    format!("{applied:?}")
}

/// What is there, sorted, but for the slots: an interface that is made anew gets the next one that is free.
fn slotless(seen: BTreeSet<String>) -> Vec<String> {
    let kind = |word: String| if word.starts_with("attachment ") { "attachment".to_owned() } else { word };
    seen.into_iter().map(kind).collect()
}

/// Killed or refused anywhere, a change is done or not, and the next `up` finds its way.
#[test]
fn a_change_that_is_cut_off_is_carried_on() {
    for key in [
        "host.uplink",
        "host.mtu",
        "network.subnets",
        "network.masquerade",
        "pod.network",
        "pod.address",
        "pod.interface",
        "pod.attachment",
        "pod.attachment.network",
        "pod.attachment.interface",
    ] {
        let text = changed(key);
        let document = parse(&text).unwrap();
        let w = World::new();
        w.up(&text).unwrap();
        let wanted = (slotless(w.kernel.seen()), settled(&w.state().unwrap()));
        for fault in [Fault::Refused, Fault::KilledBefore, Fault::KilledAfter] {
            for at in 0.. {
                let w = World::new();
                w.up(FILE).unwrap();
                let before = pods(&w.state().unwrap());
                let done = w.faulty(at, fault, |i| i.up(&document));
                w.up(&text).unwrap();
                let state = settled(&w.state().unwrap());
                assert!(state.rows().all(|r| r.phase() == Phase::Ready), "{key}: {fault:?} at {at}");
                assert_eq!(pods(&state), before, "{key}: {fault:?} at {at}");
                assert_eq!(slotless(w.kernel.seen()), wanted.0, "{key}: {fault:?} at {at}");
                let hosts = |state: &State| state.instance.clone().map(|row| (row.host, row.uplinks));
                assert_eq!(hosts(&state), hosts(&wanted.1));
                let declared =
                    |s: &State| s.networks.iter().map(|n| (n.network.clone(), n.mtu_bytes)).collect::<Vec<_>>();
                assert_eq!(declared(&state), declared(&wanted.1), "{key}: {fault:?} at {at}");
                if matches!(done, Some(Ok(_))) {
                    break;
                }
            }
        }
    }
}

#[test]
fn pods_pass_their_addresses_on_to_each_other() {
    let file = FILE.replace(
        "name = \"blue\"\nnetwork = \"pods\"",
        "name = \"blue\"\nnetwork = \"pods\"\naddress = [\"10.244.0.20\"]",
    );
    let swapped = file.replace("0.10\"", "0.x\"").replace("0.20\"", "0.10\"").replace("0.x\"", "0.20\"");
    let w = World::new();
    w.up(&file).unwrap();
    let (red, blue) = (w.first("red"), w.first("blue"));
    w.up(&swapped).unwrap();
    assert_eq!((w.first("red").addr4, w.first("blue").addr4), (blue.addr4, red.addr4));
    assert_eq!((w.first("red").addr6, w.first("red").slot), (red.addr6, red.slot), "the other family stays");
    let held = w.kernel.addresses.borrow().get(&(red.network, "10.244.0.20".parse().unwrap())).copied();
    assert_eq!(held, Some(red.slot));
    // One that stays keeps what it was given.
    let taken = file.replace("0.10\"", &format!("0.{}\"", 20)).replacen(
        "address = [\"10.244.0.20\"]\n[[publish",
        "[[publish",
        1,
    );
    assert_ne!(taken, file);
    let w = World::new();
    w.up(&file).unwrap();
    let (field, problem) = input(w.up(&taken).unwrap_err());
    assert_eq!((field.as_str(), problem), ("pod[0].address[0]", Problem::AddressTaken("blue".into())));
}

#[test]
fn subnets_grow_without_their_pods_and_shrink_around_them() {
    let w = World::new();
    w.up(FILE).unwrap();
    let before = w.first("red");
    w.up(&changed("network.subnets")).unwrap();
    let grown = w.first("red");
    assert_eq!(grown.prefix_bits, [Some(24), Some(64)], "it goes by what it was given");
    assert_eq!((grown.addr4, grown.addr6), (before.addr4, before.addr6));
    let far = FILE.replace("10.244.0.0/24", "10.244.0.0/16").replace("10.244.0.10", "10.244.9.10");
    w.up(&far).unwrap();
    for (text, what) in [
        (FILE.replace("address = [\"10.244.0.10\"]\n", ""), "outside"),
        (far.replace("10.244.0.0/16", "10.244.0.0/22").replace("address = [\"10.244.9.10\"]\n", ""), "outside"),
        (far.replace("10.244.0.0/16", "10.244.8.0/22").replace("address = [\"10.244.9.10\"]\n", ""), "outside"),
        (
            far.replace("\"10.244.0.0/16\", ", "")
                .replace("snat_address = [\"192.0.2.1\"]\n", "")
                .replace("address = [\"10.244.9.10\"]\n", ""),
            "of no family the network has",
        ),
    ] {
        let rows = w.state();
        let (field, problem) = input(w.up(&text).unwrap_err());
        assert!(field.starts_with("network[0].subnets["), "{field}");
        assert!(matches!(&problem, Problem::SubnetLeavesOut { what: found, .. } if *found == what), "{problem}");
        assert_eq!(w.state(), rows);
    }
    // Around those that are left it may shrink, and the pods are told.
    w.up(FILE).unwrap();
    assert_eq!(w.first("red").prefix_bits, [None, None]);
    // Into what another network has it may not.
    let (_, problem) = input(w.up(&FILE.replace("10.99.0.0/24", "10.0.0.0/8")).unwrap_err());
    assert_eq!(problem, Problem::SubnetGrowsInto("pods".into()));
    let (_, problem) = input(w.up(&FILE.replace("10.99.0.0/24", "172.16.0.0/16")).unwrap_err());
    assert!(matches!(problem, Problem::RouteOverlap { .. }), "{problem}");
}

#[test]
fn an_instance_comes_up_before_there_is_a_default_route() {
    let auto = FILE.replace("\"eth7\"", "\"auto\"");
    let w = World::new();
    w.kernel.no_uplink.set(true);
    let applied = w.up(&auto).unwrap();
    assert_eq!(applied.pods_added.len(), 2);
    let kinds = |w: &World| w.verb(|i| i.differences()).unwrap().iter().map(|d| d.trouble.kind()).collect::<Vec<_>>();
    assert_eq!(kinds(&w), ["uplink-awaited"]);
    assert!(!w.up(&auto).unwrap().changed);
    w.kernel.no_uplink.set(false);
    assert_eq!(kinds(&w), ["uplink-found"]);
    let planned = w.verb(|i| i.plan(&parse(&auto).unwrap(), false)).unwrap();
    assert!(planned.changed && planned.mended.len() == 1, "{planned:?}");
    // With other changes at once: neither undoes the other.
    w.up(&auto.replace("\"rfc\"", "\"fast\"")).unwrap();
    let row = w.state().unwrap().instance.unwrap();
    assert_eq!(row.uplinks.iter().map(|u| u.name.as_str()).collect::<Vec<_>>(), ["eth7"]);
    assert_eq!(row.nat.profile, crate::topology::Profile::Fast);
    assert_eq!(kinds(&w), [""; 0]);
    // It stays one while the route is away.
    w.kernel.no_uplink.set(true);
    assert!(!w.up(&auto.replace("\"rfc\"", "\"fast\"")).unwrap().changed);
}

#[test]
fn a_file_without_networks_and_pods_takes_nothing_away() {
    for text in ["[host]\nuplink = \"eth7\"\n", "", "[nat]\nprofile = \"fast\"\n"] {
        let w = World::new();
        let document = parse(text).unwrap();
        w.verb(|i| i.up_sparing(&document)).unwrap();
        w.up(FILE).unwrap();
        let before = w.state();
        for done in [w.verb(|i| i.up_sparing(&document)), w.verb(|i| i.plan(&document, false))] {
            assert_eq!(input(done.unwrap_err()), ("the file".into(), Problem::DeclaresNothing), "{text:?}");
        }
        assert_eq!(w.state(), before);
        let applied = w.up(text).unwrap();
        assert_eq!((applied.pods_removed.len(), applied.networks_removed.len()), (2, 2), "{text:?}");
    }
}

/// A change of one of these rows says which it is of.
#[test]
fn settings_are_told_one_by_one() {
    let w = World::new();
    w.up(FILE).unwrap();
    let applied = w.up(&changed("pod.network")).unwrap();
    let told: Vec<_> =
        applied.settings_changed.iter().map(|s| format!("{} {}: {} to {}", s.object, s.key, s.from, s.to)).collect();
    assert_eq!(told[0], "pod red network: pods to other");
    assert!(told[1].starts_with("pod red address: 10.244.0.10, fd00:244::2 to 10.99.0.2"), "{told:?}");
    assert!(w.state().unwrap().rows().all(|row| !matches!(row, Row::Pod(p) if p.phase != Phase::Ready)));
}
