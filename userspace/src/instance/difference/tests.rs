use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::netns::NetnsId;
use crate::store::{AttachmentRow, InstanceRow, NetworkRow, Origin, Phase, PodRow, Source, UplinkRow};
use crate::sysctl::PortSet;
use crate::topology::{Behaviour, Host, Nat, Network};
use crate::wiring::{endpoint_ifindex, pod_mac};

const NAME: &str = "test";

fn network(id: u32) -> NetworkRow {
    NetworkRow {
        id,
        network: Network {
            name: format!("n{id}"),
            subnets: vec![format!("10.{id}.0.0/24").parse().unwrap(), format!("fd00:{id}::/64").parse().unwrap()],
            masquerade: true,
            snat_address: vec![],
            mapping: Behaviour::default(),
            filtering: Behaviour::default(),
            no_masquerade: vec![],
            mtu: None,
        },
        mtu_bytes: 1500,
        host_access: true,
        snat_left: vec![],
        last4: None,
        last6: None,
        origin: Origin::File,
        phase: Phase::Ready,
    }
}

/// Pods with an interface in each of two networks and a second one in the first.
fn state(pods: u64) -> State {
    let instance = InstanceRow {
        host_netns: None,
        host_id: "4:1".into(),
        host: Host::default(),
        nat: Nat::default(),
        uplinks: vec![UplinkRow { name: "eth7".into(), ifindex: 7 }],
        reserved_ports: "20000-32767".parse().unwrap(),
        phase: Phase::Ready,
    };
    let mut rows: Vec<Row> = vec![instance.into(), network(1).into(), network(2).into()];
    for pod in 0..pods {
        rows.push(
            PodRow {
                id: 100 + pod,
                name: format!("p{pod}"),
                netns: Some(NetnsId { dev: 4, ino: 5000 + pod }),
                cookie: None,
                source: Source::Made,
                origin: Origin::File,
                phase: Phase::Ready,
            }
            .into(),
        );
        for (k, network) in [(0, 1), (1, 2), (2, 1)] {
            let slot = (pod * 3 + k) as u32;
            rows.push(
                AttachmentRow {
                    prefix_bits: [None; 2],
                    id: 1000 + u64::from(slot),
                    pod: 100 + pod,
                    network,
                    slot,
                    ifname: format!("eth{k}"),
                    rank: k as u32,
                    mac: pod_mac(NAME, slot),
                    ifindex: endpoint_ifindex(slot),
                    addr4: format!("10.{network}.0.{}", slot + 2).parse().ok(),
                    addr6: format!("fd00:{network}::{}", slot + 2).parse().ok(),
                    origin: Origin::File,
                    phase: Phase::Ready,
                }
                .into(),
            );
        }
    }
    rows.into_iter().collect()
}

/// All there as it should be.
fn whole(state: &State) -> Present {
    let mut present = Present::wanted(NAME, state);
    present.attached.insert(("from_uplink", 7));
    present.devices.insert(7, foreign("eth7"));
    present
}

/// Somebody else's device.
fn foreign(name: &str) -> Device {
    Device {
        name: name.into(),
        ours: false,
        whose: "bridge, made by somebody else".into(),
        mac: None,
        mtu_bytes: 9000,
        up: false,
        noarp: false,
        master: Some(3),
        settings: BTreeMap::from([("ipv4/forwarding", 0)]),
    }
}

fn found(state: &State, present: &Present) -> Vec<(RowId, &'static str)> {
    differences(NAME, state, present).iter().map(|d| (d.row, d.trouble.kind())).collect()
}

/// Does harm number `n` to row number `at` of its kind.
fn harm(present: &mut Present, n: usize, at: usize) {
    let ours: Vec<u32> = present.devices.keys().copied().filter(|index| *index > 0xff_ffff).collect();
    let device = ours.get(at % ours.len().max(1)).copied();
    let inside = present.inside.keys().nth(at % present.inside.len().max(1)).copied();
    let pod = present.namespaces.keys().nth(at % present.namespaces.len().max(1)).copied();
    match (n, device, inside, pod) {
        (0, Some(i), ..) => drop(present.devices.remove(&i)),
        (1, Some(i), ..) => present.devices.get_mut(&i).unwrap().up = false,
        (2, Some(i), ..) => present.devices.get_mut(&i).unwrap().name = "other".into(),
        (3, Some(i), ..) => present.devices.get_mut(&i).unwrap().mac = None,
        (4, Some(i), ..) => present.devices.get_mut(&i).unwrap().mtu_bytes = 1280,
        (5, Some(i), ..) => present.attached.retain(|(_, index)| *index != i),
        (6, ..) => present.addresses.values_mut().for_each(|nets| _ = nets.pop_first()),
        (7, ..) => drop(present.addresses.values_mut().next().map(|nets| nets.insert("10.9.9.1/24".parse().unwrap()))),
        (8, ..) => {
            for device in present.devices.values_mut().filter(|d| d.name == "nngw1") {
                device.settings.insert("ipv6/forwarding", 0);
            }
        }
        (9, _, Some(i), _) => present.inside.get_mut(&i).unwrap().device = None,
        (10, _, Some(i), _) => drop(present.inside.get_mut(&i).unwrap().addresses.pop_first()),
        (11, _, Some(i), _) => present.inside.get_mut(&i).unwrap().routes.clear(),
        (12, _, Some(i), _) => present.inside.get_mut(&i).unwrap().device.iter_mut().for_each(|d| d.up = false),
        (13, .., Some(pod)) => drop(present.namespaces.remove(&pod)),
        (14, .., Some(pod)) => drop(present.namespaces.insert(pod, NetnsId { dev: 4, ino: 1 })),
        (15, ..) => present.reserved = PortSet::default(),
        (16, ..) => drop(present.socket_hooks_off.insert("connect4")),
        (17, ..) => {
            present.uplinks.clear();
            present.devices.remove(&7);
        }
        (18, ..) => {
            present.uplinks.insert("eth7".into(), 8);
            present.devices.remove(&7);
        }
        (19, ..) => present.loaded = false,
        (20, Some(i), ..) => present.devices.get_mut(&i).unwrap().noarp = false,
        (21, Some(i), ..) => present.devices.get_mut(&i).unwrap().master = Some(7),
        (22, Some(i), ..) => drop(present.devices.get_mut(&i).unwrap().settings.insert("ipv4/forwarding", 7)),
        (23, Some(i), ..) => drop(present.devices.insert(i, foreign("theirs"))),
        (24, Some(i), ..) => {
            let gone = present.devices.remove(&i).unwrap();
            present.devices.insert(9, foreign(&gone.name));
        }
        (25, _, Some(i), _) => present.inside.get_mut(&i).unwrap().other = Some(foreign("eth0")),
        (26, ..) => drop(present.led.pop_first()),
        (27, ..) => present.led.values_mut().take(1).for_each(|led| led.index = 7),
        (28, ..) => {
            let theirs = Led { destination: "10.1.0.2/32".parse().unwrap(), index: 7 };
            present.led.values_mut().take(1).for_each(|led| *led = theirs);
        }
        (29, ..) => drop(present.peers.pop_first()),
        (30, ..) => drop(present.devices.insert(7, foreign("wan"))),
        (31, .., Some(pod)) => drop(present.nameless.insert(pod)),
        (32, ..) => drop(present.pins_gone.insert("maps/FLOWS4".into())),
        _ => {}
    }
}

const HARMS: usize = 33;

/// What a repair leads to: the row, and what is made with it, is as wanted.
fn mend(present: &mut Present, difference: &Difference, state: &State, wanted: &Present) {
    let Ok(repair) = difference.trouble.repair() else { return };
    let device = |present: &mut Present, index: u32| {
        present.devices.insert(index, wanted.devices[&index].clone());
        present.attached.extend(wanted.attached.iter().filter(|(_, i)| *i == index));
    };
    match (repair, state.row(difference.row).unwrap()) {
        (Repair::All, _) => *present = whole(state),
        (Repair::Pins, _) => present.pins_gone.clear(),
        (_, Row::Instance(_)) => {
            present.devices.insert(7, foreign("eth7"));
            present.socket_hooks_off.clear();
            present.reserved = wanted.reserved.clone();
            present.uplinks.clone_from(&wanted.uplinks);
            present.attached.insert(("from_uplink", 7));
        }
        (_, Row::Network(r)) => {
            let index = crate::wiring::gateway_ifindex(r.id as u16);
            device(present, index);
            present.addresses.insert(index, wanted.addresses[&index].clone());
            present.peers.insert(index, wanted.peers[&index].clone());
            present.led.extend(wanted.led.iter().filter(|(_, led)| led.index == index).map(|(a, led)| (*a, *led)));
        }
        (_, Row::Pod(r)) => {
            present.namespaces.insert(r.id, wanted.namespaces[&r.id]);
            present.nameless.remove(&r.id);
            for row in state.attachments_of(r.id) {
                device(present, row.ifindex);
                present.inside.insert(row.id, wanted.inside[&row.id].clone());
            }
        }
        (_, Row::Attachment(r)) => {
            device(present, r.ifindex);
            present.inside.insert(r.id, wanted.inside[&r.id].clone());
        }
        (_, Row::Publish(_)) => {}
    }
}

#[test]
fn what_is_as_it_should_be_is_no_difference() {
    for pods in [0, 1, 4] {
        let state = state(pods);
        assert_eq!(found(&state, &whole(&state)), []);
        // A pod may have addresses and devices of its own, and the host as well.
        let mut more = whole(&state);
        more.devices.insert(8, foreign("eth8"));
        more.inside.values_mut().for_each(|i| _ = i.addresses.insert("172.16.0.1/16".parse().unwrap()));
        assert_eq!(found(&state, &more), []);
    }
    assert_eq!(found(&State::default(), &Present::default()), []);
}

/// What somebody else has to get out of the way.
const UNMENDABLE: [&str; 4] = ["namespace-replaced", "uplink-gone", "device-in-the-way", "led-elsewhere"];

#[test]
fn each_harm_is_named_once() {
    let state = state(2);
    let (pod, first, gateway) = (RowId::Pod(100), RowId::Attachment(1000), RowId::Network(1));
    for (n, expected) in [
        (0, vec![(first, "device-gone")]),
        (1, vec![(first, "device-down")]),
        (2, vec![(first, "device-renamed")]),
        (3, vec![(first, "mac")]),
        (4, vec![(first, "mtu")]),
        (5, vec![(first, "program-detached")]),
        (6, vec![(gateway, "addresses-gone"), (RowId::Network(2), "addresses-gone")]),
        (7, vec![(gateway, "addresses-added")]),
        (8, vec![(gateway, "not-forwarding")]),
        (9, vec![(first, "device-gone")]),
        (10, vec![(first, "addresses-gone")]),
        (11, vec![(first, "routes-gone")]),
        (12, vec![(first, "device-down")]),
        (13, vec![(pod, "namespace-gone")]),
        (14, vec![(pod, "namespace-replaced")]),
        (15, vec![(RowId::Instance, "ports-not-reserved")]),
        (16, vec![(RowId::Instance, "socket-hooks-detached")]),
        (17, vec![(RowId::Instance, "uplink-gone")]),
        (18, vec![(RowId::Instance, "uplink-anew")]),
        (19, vec![(RowId::Instance, "not-loaded")]),
        (20, vec![(first, "neighbours")]),
        (21, vec![(first, "port")]),
        (22, vec![(first, "setting")]),
        (23, vec![(first, "device-in-the-way")]),
        (24, vec![(first, "device-in-the-way")]),
        // A pod may have what it likes; it is in the way only of a device that has to be made or named.
        (25, vec![]),
        (26, vec![(gateway, "routes-gone")]),
        (27, vec![(gateway, "routes-gone")]),
        (28, vec![(gateway, "led-elsewhere")]),
        (29, vec![(gateway, "device-gone")]),
        (30, vec![(RowId::Instance, "uplink-renamed")]),
        (31, vec![(pod, "name-gone")]),
        (32, vec![(RowId::Instance, "pins-gone")]),
    ] {
        let mut present = whole(&state);
        harm(&mut present, n, 0);
        assert_eq!(found(&state, &present), expected, "harm {n}");
        for d in differences(NAME, &state, &present) {
            let view = DifferenceView::from(&d);
            assert!(!view.message.is_empty() && view.mendable == view.reason.is_none());
            assert_eq!(view.mendable, !UNMENDABLE.contains(&view.kind));
        }
    }
}

#[test]
fn what_is_not_ready_is_unfinished_and_not_missed() {
    let mut state = state(1);
    let present = whole(&state);
    for row in &mut state.attachments {
        row.phase = Phase::Updating;
    }
    state.pods[0].phase = Phase::Deleting;
    let mut gone = present;
    gone.namespaces.clear();
    gone.inside.clear();
    gone.devices.retain(|index, _| *index >= crate::wiring::gateway_ifindex(0));
    let found = found(&state, &gone);
    assert_eq!(found.len(), state.attachments.len() + 1, "{found:?}");
    assert!(found.iter().all(|(_, kind)| *kind == "unfinished"), "{found:?}");
}

proptest! {
    /// Whatever is done to an instance, what is named is true, and mending all that can be mended leaves what cannot.
    #[test]
    fn mending_leaves_only_what_cannot_be_mended(
        harms in prop::collection::vec((0..HARMS, 0usize..16), 0..6), pods in 1u64..4
    ) {
        let state = state(pods);
        let wanted = Present::wanted(NAME, &state);
        let mut present = whole(&state);
        for (n, at) in &harms {
            harm(&mut present, *n, *at);
        }
        if harms.is_empty() {
            prop_assert!(differences(NAME, &state, &present).is_empty());
        }
        // What was hidden behind something worse comes to light.
        for _ in 0..4 {
            for difference in differences(NAME, &state, &present) {
                mend(&mut present, &difference, &state, &wanted);
            }
        }
        let left = differences(NAME, &state, &present);
        prop_assert!(left.iter().all(|d| d.trouble.repair().is_err()), "{left:?}");
        let kinds: BTreeSet<_> = left.iter().map(|d| d.trouble.kind()).collect();
        prop_assert!(kinds.is_subset(&UNMENDABLE.into()), "{kinds:?}");
    }
}
