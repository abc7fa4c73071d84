//! What user space writes into the maps and reads from them: whole, or not at all.

mod common;

use std::net::IpAddr;

use aya::maps::{HashMap, LpmTrie, Map, MapData};
use common::wired::{PINS, on_host};
use netns::datapath::{DatapathError, FlowRecord, PublishPorts};
use netns::topology::Allow;
use netns::wiring::{BackendSpec, PublishSpec, WiringError};
use netns_ebpf_common::flow::{FlowEntry, FlowFlags, FlowKey, FlowTuple, TargetKind, narrow};
use netns_ebpf_common::host::HostConfig;
use netns_ebpf_common::prefix::PrefixKey;
use netns_ebpf_common::publish::Backends;
use netns_ebpf_common::{Addr4, Addr6, Port};

/// Elements of a map that belong to a publish.
fn of_publish(name: &str, id: u32) -> usize {
    let data = MapData::from_pin(format!("{PINS}/maps/{name}")).expect("pin");
    match name {
        "ALLOW4" => {
            let trie = LpmTrie::<_, PrefixKey<Addr4>, u32>::try_from(Map::LpmTrie(data)).expect("map");
            trie.keys().filter(|k| k.as_ref().expect("key").data().id_be == id.to_be_bytes()).count()
        }
        "ALLOW6" => {
            let trie = LpmTrie::<_, PrefixKey<Addr6>, u32>::try_from(Map::LpmTrie(data)).expect("map");
            trie.keys().filter(|k| k.as_ref().expect("key").data().id_be == id.to_be_bytes()).count()
        }
        _ => {
            let hash = HashMap::<_, u32, Backends>::try_from(Map::HashMap(data)).expect("map");
            hash.keys().filter(|k| *k.as_ref().expect("key") == id).count()
        }
    }
}

#[test]
fn ports_are_published_as_a_whole_or_not_at_all() {
    on_host(|_, host| {
        let ports = PublishPorts { addr: None, proto: 6, host_first: 8000, pod_first: 80, count: 100 };
        let backend = |slot| BackendSpec { slot, name: format!("pod{slot}"), weight: 1, open: true };
        let web = PublishSpec {
            id: 1,
            owner: 11,
            backends: vec![backend(3), backend(4)],
            sticky: true,
            allow: Allow::Only(vec!["10.0.0.0/8".parse().expect("a prefix")]),
            active: true,
            loopback: false,
            ports,
        };
        for _ in 0..2 {
            host.wire_publish(&web).expect("publish");
        }
        let clash = PublishPorts { host_first: 7950, ..ports };
        let clash = PublishSpec { id: 2, owner: 12, ports: clash, ..web.clone() };
        let error = host.wire_publish(&clash).expect_err("8000 is taken");
        assert!(matches!(error, WiringError::Datapath(DatapathError::Published { publish: 1, .. })), "{error}");
        assert!(host.datapath().publish(2).expect("read").is_none());
        // Nothing is left of the first fifty: they can be had.
        let below = PublishSpec { ports: PublishPorts { count: 50, ..clash.ports }, ..clash.clone() };
        host.wire_publish(&below).expect("below");
        // The same ports on one address, or of another protocol, are other ports.
        let one = PublishPorts { addr: Some(IpAddr::from([192, 0, 2, 1])), ..ports };
        host.wire_publish(&PublishSpec { id: 3, owner: 13, ports: one, ..web.clone() }).expect("one address");
        let udp = PublishPorts { proto: 17, ..ports };
        host.wire_publish(&PublishSpec { id: 4, owner: 14, ports: udp, ..web.clone() }).expect("udp");
        let theirs = PublishSpec { owner: 1, ..web.clone() };
        assert_eq!(host.unwire_publishes(&[theirs]).expect("not the owner"), 0);
        assert_eq!(host.unwire_publishes(&[web.clone(), below.clone()]).expect("remove"), 2);
        assert!(host.datapath().publish(1).expect("read").is_none());
        host.unwire_publishes(&[web, below]).expect("remove again");
        let theirs = PublishSpec { owner: 99, allow: Allow::Only(vec![]), backends: vec![backend(5)], ..clash.clone() };
        host.wire_publish(&PublishSpec { id: 3, ..theirs.clone() }).expect_err("another's index");
        host.switch_publishes(&[PublishSpec { id: 3, ..theirs }], |_| None).expect_err("another's index");
        // Neither is anything left of who might come in and of where they went.
        for map in ["ALLOW4", "ALLOW6", "BACKENDS"] {
            let left = of_publish(map, 1);
            assert_eq!(left, 0, "{map}");
        }
        assert_eq!((of_publish("ALLOW4", 3), of_publish("ALLOW6", 3), of_publish("BACKENDS", 3)), (1, 0, 1));
        host.wire_publish(&clash).expect("all of it is free now");
    });
}

#[test]
fn flows_go_both_ways_together() {
    on_host(|_, host| {
        let mut flows: HashMap<_, FlowKey<Addr4>, FlowEntry<Addr4>> =
            HashMap::try_from(Map::HashMap(MapData::from_pin(format!("{PINS}/maps/FLOWS4")).expect("pin")))
                .expect("map");
        for slot in 0..3_u8 {
            let out = FlowTuple {
                src: Addr4([10, 244, 0, 10 + slot]),
                dst: Addr4([192, 0, 2, 1]),
                sport: Port::new(4000),
                dport: Port::new(80),
            };
            let to = FlowTuple { src: Addr4([198, 51, 100, 1]), sport: Port::new(20000 + u16::from(slot)), ..out };
            let owner_slot = u32::from(slot);
            let forward = FlowEntry {
                to,
                peer_zone: 0,
                target_id: 2,
                target_kind: TargetKind::Uplink as u8,
                owner_slot: narrow(owner_slot),
                flags: FlowFlags::ORIGINAL.with(FlowFlags::TRANSLATED),
                publish: u16::MAX,
                ..FlowEntry::default()
            };
            let back = FlowEntry {
                to: out.reverse(),
                peer_zone: 1,
                target_id: owner_slot,
                target_kind: 0,
                flags: FlowFlags::TRANSLATED,
                ..forward
            };
            flows.insert(FlowKey::new(1, 6, out), forward, 0).expect("insert");
            flows.insert(FlowKey::new(0, 6, to.reverse()), back, 0).expect("insert");
        }
        let datapath = host.datapath();
        assert_eq!(datapath.flows().expect("list").len(), 6);
        assert_eq!(datapath.delete_flows(|_| false).expect("none"), 0);
        // Picked by one direction, removed with the other.
        let picked = |flow: &FlowRecord| flow.original && flow.src == IpAddr::from([10, 244, 0, 11]);
        assert_eq!(datapath.delete_flows(picked).expect("one flow"), 2);
        let left = datapath.flows().expect("list");
        assert_eq!(left.len(), 4);
        assert!(left.iter().all(|flow| !flow.concerns_slot(1)));
        assert_eq!(datapath.delete_flows(|flow| flow.concerns_slot(0)).expect("by slot"), 2);
    });
}

#[test]
fn a_withdrawal_that_was_killed_is_finished_before_its_index_is_free() {
    on_host(|_, host| {
        let mut flows: HashMap<_, FlowKey<Addr4>, FlowEntry<Addr4>> =
            HashMap::try_from(Map::HashMap(MapData::from_pin(format!("{PINS}/maps/FLOWS4")).expect("pin")))
                .expect("map");
        let spec = |id: u32, proto| PublishSpec {
            id,
            owner: u64::from(id) + 10,
            backends: vec![BackendSpec { slot: 3, name: "red".to_owned(), weight: 1, open: true }],
            sticky: false,
            allow: Allow::Anyone,
            active: true,
            loopback: false,
            ports: PublishPorts { addr: None, proto, host_first: 8000 + id as u16, pod_first: 80, count: 1 },
        };
        let specs = [spec(1, 6), spec(2, 17)];
        for spec in &specs {
            host.wire_publish(spec).expect("publish");
            let comes = FlowTuple {
                src: Addr4([192, 0, 2, 7]),
                dst: Addr4([192, 0, 2, 1]),
                sport: Port::new(4000),
                dport: Port::new(spec.ports.host_first),
            };
            let to = FlowTuple { dst: Addr4([10, 244, 0, 10]), dport: Port::new(80), ..comes };
            let forward =
                FlowEntry { to, target_id: 3, owner_slot: 3, publish: narrow(spec.id), ..FlowEntry::default() };
            let forward = FlowEntry { peer_zone: 1, flags: FlowFlags::ORIGINAL, ..forward };
            let back = FlowEntry { to: comes.reverse(), peer_zone: 0, flags: FlowFlags::NONE, ..forward };
            flows.insert(FlowKey::new(0, spec.ports.proto, comes), forward, 0).expect("insert");
            flows.insert(FlowKey::new(1, spec.ports.proto, to.reverse()), back, 0).expect("insert");
            // As far as one came that was killed there.
            assert!(host.datapath().withdraw_publish(spec.id, spec.owner, &spec.ports).expect("withdraw"));
        }
        let live = |id| host.datapath().publish(id).expect("read").map(|p| (p.owner, p.flags));
        assert_eq!((live(1), live(2)), (Some((11, 0)), Some((12, 0))), "nobody else's yet");
        assert_eq!(host.unwire_publishes(&specs).expect("the next verb"), 2);
        assert_eq!((live(1), live(2)), (None, None));
        let left = host.datapath().flows().expect("list");
        assert!(left.iter().all(|flow| flow.proto == 6 && flow.publish.is_none()), "{left:?}");
        assert_eq!(left.len(), 2, "the connection runs on, the datagrams end");
    });
}

#[test]
fn flows_whose_time_is_over_are_swept_both_ways() {
    on_host(|_, host| {
        let mut flows: HashMap<_, FlowKey<Addr6>, FlowEntry<Addr6>> =
            HashMap::try_from(Map::HashMap(MapData::from_pin(format!("{PINS}/maps/FLOWS6")).expect("pin")))
                .expect("map");
        let datapath = host.datapath();
        let timeout_ns = [u64::MAX, u64::MAX, 600 * 1_000_000_000, 1];
        datapath.set_host_config(&HostConfig { timeout_ns, ..HostConfig::default() }).expect("set timers");
        let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("read the clock");
        let now_ns = clock.tv_sec().cast_unsigned() * 1_000_000_000;
        let mut insert = |proto, sport: u16, last_seen_ns: [u64; 2]| {
            let out = FlowTuple { sport: Port::new(sport), dport: Port::new(53), ..FlowTuple::default() };
            let to = FlowTuple { sport: Port::new(sport ^ 0x8000), ..out };
            let forward = FlowEntry {
                to,
                peer_zone: 0,
                flags: FlowFlags::ORIGINAL.with(FlowFlags::TRANSLATED),
                last_seen_ns: last_seen_ns[0],
                ..FlowEntry::default()
            };
            let back = FlowEntry {
                to: out.reverse(),
                peer_zone: 1,
                flags: FlowFlags::TRANSLATED,
                last_seen_ns: last_seen_ns[1],
                ..FlowEntry::default()
            };
            flows.insert(FlowKey::new(1, proto, out), forward, 0).expect("insert");
            flows.insert(FlowKey::new(0, proto, to.reverse()), back, 0).expect("insert");
        };
        // More than one batch of those that go, among some that stay: seen lately in either direction, or patient.
        let old = 0;
        for sport in 0..5000 {
            insert(58, sport, [old, old]);
        }
        for sport in 5000..5010 {
            insert(17, sport, [now_ns, old]);
            insert(17, sport + 10, [old, now_ns]);
            insert(6, sport, [old, old]);
        }
        assert_eq!(datapath.flows().expect("list").len(), 2 * 5030);
        let first = datapath.expire_flows(3000).expect("sweep some");
        assert_eq!(first, 3000);
        assert_eq!(datapath.expire_flows(usize::MAX).expect("sweep the rest"), 2 * 5000 - first);
        let left = datapath.flows().expect("list");
        assert_eq!(left.len(), 2 * 30);
        assert!(left.iter().all(|flow| flow.proto != 58));
        assert_eq!(datapath.expire_flows(usize::MAX).expect("sweep again"), 0);
    });
}

#[test]
fn host_addresses_and_prefixes_become_exactly_what_is_asked() {
    on_host(|_, host| {
        let datapath = host.datapath();
        let count = |map: &str| {
            let data = MapData::from_pin(format!("{PINS}/maps/{map}")).expect("pin");
            HashMap::<_, Addr4, u32>::try_from(Map::HashMap(data)).expect("map").keys().count()
        };
        let all: Vec<(IpAddr, u32)> = (1..=5).map(|i| (IpAddr::from([192, 0, 2, i]), 2)).collect();
        datapath.sync_host_addresses(&all).expect("sync");
        assert_eq!(count("HOST_ADDRS4"), 5);
        datapath.sync_host_addresses(&all[3..]).expect("sync");
        assert_eq!(count("HOST_ADDRS4"), 2);
        datapath.sync_host_addresses(&[]).expect("sync");
        assert_eq!(count("HOST_ADDRS4"), 0);

        let prefixes = || {
            let data = MapData::from_pin(format!("{PINS}/maps/NO_MASQ4")).expect("pin");
            let trie = LpmTrie::<_, PrefixKey<Addr4>, u32>::try_from(Map::LpmTrie(data)).expect("map");
            let mut found: Vec<_> =
                trie.keys().map(|k| k.expect("key")).map(|k| (k.data().id_be[3], k.prefix_len())).collect();
            found.sort_unstable();
            found
        };
        let nets = |texts: &[&str]| texts.iter().map(|t| t.parse().expect("net")).collect::<Vec<_>>();
        datapath.sync_no_masquerade(1, &nets(&["10.0.0.0/8", "0.0.0.0/0", "fd00::/8"])).expect("sync");
        datapath.sync_no_masquerade(2, &nets(&["10.0.0.0/8"])).expect("sync");
        assert_eq!(prefixes(), [(1, 32), (1, 40), (2, 40)]);
        datapath.sync_no_masquerade(1, &nets(&["10.0.0.0/9"])).expect("sync");
        assert_eq!(prefixes(), [(1, 41), (2, 40)]);
        // None means none, and only this network's.
        datapath.sync_no_masquerade(1, &[]).expect("sync");
        assert_eq!(prefixes(), [(2, 40)]);
    });
}
