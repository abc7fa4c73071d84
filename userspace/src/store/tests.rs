use std::fs;

use netns_ebpf_common::Mac;

use super::*;
use crate::netns::NetnsId;
use crate::topology::{Affinity, Allow, Behaviour, Flows, Host, Nat, Network, Profile};

fn network() -> NetworkRow {
    NetworkRow {
        id: 1,
        network: Network {
            name: "pods".into(),
            subnets: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
            masquerade: true,
            snat_address: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
            mapping: Behaviour::EndpointIndependent,
            filtering: Behaviour::AddressAndPortDependent,
            no_masquerade: vec![],
            mtu: None,
        },
        mtu_bytes: 1500,
        host_access: true,
        snat_left: vec![],
        last4: Some("10.0.0.9".parse().unwrap()),
        last6: None,
        origin: Origin::File,
        phase: Phase::Ready,
    }
}

fn attachment() -> AttachmentRow {
    AttachmentRow {
        prefix_bits: [None; 2],
        id: 2,
        pod: 1,
        network: 1,
        slot: 0,
        ifname: "eth0".into(),
        rank: 0,
        mac: Mac([2, 0, 0xab, 0, 0, 9]),
        ifindex: 1 << 24,
        addr4: Some("10.0.0.9".parse().unwrap()),
        addr6: None,
        origin: Origin::Verb,
        phase: Phase::Creating,
    }
}

fn publish() -> PublishRow {
    PublishRow {
        id: 3,
        index: 0,
        publish: "[::1]:80-81:90-91/udp".parse().unwrap(),
        backends: vec![BackendRow { attachment: 2, weight: 7, draining: true }],
        affinity: Affinity::Client,
        allow: Allow::Only(vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]),
        draining: true,
        withdrawal: Withdrawal::Reset,
        origin: Origin::Verb,
        phase: Phase::Deleting,
    }
}

/// One row of each kind.
fn rows() -> Vec<Row> {
    let instance = InstanceRow {
        host_netns: Some("sandbox-host".into()),
        host_id: "4:5".into(),
        nat: Nat { flows_per_pod: Some(Flows::new(77).unwrap()), ..Profile::Fast.into() },
        host: Host { mtu: Some(9000), ..Host::default() },
        uplinks: [("eth7", 7), ("tun0", 9)].map(|(name, ifindex)| UplinkRow { name: name.into(), ifindex }).into(),
        reserved_ports: "20000-32767".parse().unwrap(),
        phase: Phase::Creating,
    };
    let pod = PodRow {
        id: 1,
        name: "red".into(),
        netns: Some(NetnsId { dev: 4, ino: 4026532000 }),
        cookie: Some(4711),
        source: Source::Pid(17),
        origin: Origin::Verb,
        phase: Phase::Updating,
    };
    vec![instance.into(), network().into(), pod.into(), attachment().into(), publish().into()]
}

fn put() -> Vec<Change> {
    rows().into_iter().map(Change::Put).collect()
}

#[test]
fn what_is_written_is_read_by_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut store = SqliteStore::create(&path).unwrap();
    store.apply(&put()).unwrap();
    let want: State = rows().into_iter().collect();
    assert_eq!(want.rows().collect::<Vec<_>>(), rows());
    assert_eq!(store.load().unwrap(), want);
    assert_eq!(SqliteStore::open(&path).unwrap().load().unwrap(), want);
    store.apply(&put()).unwrap();
    assert_eq!(SqliteStore::create(&path).unwrap().load().unwrap(), want, "putting again changes nothing");
    let delete: Vec<_> = rows().iter().map(|r| Change::Delete(r.id())).collect();
    store.apply(&delete).unwrap();
    assert_eq!(store.load().unwrap(), State::default());
}

#[test]
fn a_list_of_changes_is_made_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::create(&dir.path().join("state.db")).unwrap();
    let row = attachment();
    let twins = [
        AttachmentRow { id: 9, addr4: None, ..row.clone() },
        AttachmentRow { id: 9, slot: 1, ..row.clone() },
        AttachmentRow { id: 9, slot: 1, addr4: None, addr6: "fd00::9".parse().ok(), ..row.clone() },
    ];
    let first = AttachmentRow { addr6: "fd00::9".parse().ok(), ..row };
    for twin in twins {
        store.apply(&[Change::put(network()), Change::put(first.clone()), Change::put(twin)]).unwrap_err();
        assert_eq!(store.load().unwrap(), State::default());
    }
    let elsewhere = AttachmentRow { id: 9, slot: 1, network: 2, ..first.clone() };
    let beside = AttachmentRow { id: 10, slot: 2, addr4: None, addr6: None, ..first.clone() };
    let both = AttachmentRow { id: 11, slot: 3, addr4: None, addr6: None, ..first.clone() };
    store.apply(&[first, elsewhere, beside, both].map(Change::put)).unwrap();
}

#[test]
fn ids_are_never_used_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut store = SqliteStore::create(&path).unwrap();
    assert_eq!((store.next_id().unwrap(), store.next_id().unwrap()), (1, 2));
    drop(store);
    assert_eq!(SqliteStore::open(&path).unwrap().next_id().unwrap(), 3);
}

#[test]
fn a_damaged_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let damaged = |what: &str| match SqliteStore::create(&path).and_then(|s| s.load()) {
        Err(StoreError::Damaged { path: named, .. }) => assert_eq!(named, path),
        other => panic!("{what}: {other:?}"),
    };
    fs::write(&path, b"").unwrap();
    damaged("empty");
    fs::write(&path, vec![b'x'; 8192]).unwrap();
    damaged("garbage");
    fs::remove_file(&path).unwrap();
    let mut store = SqliteStore::create(&path).unwrap();
    store.apply(&put()).unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    damaged("truncated");
}

#[test]
fn another_versions_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    SqliteStore::create(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(SqliteStore::open(&path), Err(StoreError::Version { found: 99, .. })));
}

#[test]
fn readers_see_one_state_while_a_writer_works() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut writer = SqliteStore::create(&path).unwrap();
    let reader = SqliteStore::open_to_read(&path).unwrap();
    for _ in 0..50 {
        writer.apply(&put()).unwrap();
        assert_eq!(reader.load().unwrap().publishes.len(), 1);
        writer.apply(&[RowId::Publish(3), RowId::Pod(1)].map(Change::Delete)).unwrap();
        assert_eq!(reader.load().unwrap().pods.len(), 0);
    }
}

#[test]
fn an_older_versions_file_is_refused_with_the_way_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    SqliteStore::create(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 3).unwrap();
    for error in [SqliteStore::open(&path).unwrap_err(), SqliteStore::open_to_read(&path).unwrap_err()] {
        assert!(matches!(error, StoreError::Version { found: 3, .. }));
        assert!(error.to_string().contains("netns down --force"), "{error}");
    }
}

#[test]
fn a_field_that_was_not_written_has_its_default() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut store = SqliteStore::create(&path).unwrap();
    store.apply(&put()).unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    let less =
        "UPDATE row SET body = json_remove(body, '$.withdrawal', '$.draining', '$.source', '$.network.snat_address')";
    db.execute(less, []).unwrap();
    let state = store.load().unwrap();
    assert_eq!((state.publishes[0].withdrawal, state.publishes[0].draining), (Withdrawal::RunOn, false));
    assert_eq!(state.pods[0].source, Source::Made);
    assert!(state.networks[0].network.snat_address.is_empty());
}

#[test]
fn a_row_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut store = SqliteStore::create(&path).unwrap();
    for (change, named) in [
        ("UPDATE row SET body = '{}' WHERE kind = 'publish'", "publish 3"),
        ("UPDATE row SET body = json_set(body, '$.id', 7) WHERE kind = 'attachment'", "attachment 2"),
        ("UPDATE row SET phase = 'ripe' WHERE kind = 'pod'", "pod 1"),
        ("UPDATE row SET kind = 'policy' WHERE kind = 'pod'", "policy 1"),
    ] {
        store.apply(&put()).unwrap();
        rusqlite::Connection::open(&path).unwrap().execute(change, []).unwrap();
        match store.load() {
            Err(StoreError::Damaged { reason, .. }) => assert!(reason.starts_with(named), "{reason}"),
            other => panic!("{change}: {other:?}"),
        }
        store.apply(&[RowId::Publish(3), RowId::Attachment(2), RowId::Pod(1)].map(Change::Delete)).unwrap();
    }
}

#[test]
fn a_reader_needs_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state db?.db");
    SqliteStore::create(&path).unwrap().apply(&put()).unwrap();
    let want: State = rows().into_iter().collect();
    let reader = SqliteStore::open_to_read(&path).unwrap();
    assert_eq!(reader.load().unwrap(), want);
    drop(reader);
    // What connections share cannot be made here, as on a file system that is full or read-only.
    let shared = ["-shm", "-wal"].map(|end| dir.path().join(format!("state db?.db{end}")));
    for path in &shared {
        let _ = fs::remove_file(path);
    }
    std::os::unix::fs::symlink("/nonexistent", &shared[0]).unwrap();
    assert!(SqliteStore::open(&path).and_then(|s| s.load()).is_err());
    assert_eq!(SqliteStore::open_to_read(&path).unwrap().load().unwrap(), want);
}

#[test]
fn an_empty_list_of_clients_stays_empty_and_no_list_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut store = SqliteStore::create(&path).unwrap();
    store.apply(&put()).unwrap();
    for allow in [Allow::Only(vec![]), Allow::Anyone, Allow::Only(vec!["::/0".parse().unwrap()])] {
        store.apply(&[Change::put(PublishRow { allow: allow.clone(), ..publish() })]).unwrap();
        assert_eq!(SqliteStore::open(&path).unwrap().load().unwrap().publishes[0].allow, allow);
    }
}

#[test]
fn a_pod_has_interfaces_in_several_networks_and_twice_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::create(&dir.path().join("state.db")).unwrap();
    store.apply(&put()).unwrap();
    let more = |id, network, slot| AttachmentRow { id, network, slot, addr4: None, ..attachment() };
    let (twin, other) = (more(4, 1, 1), more(5, 2, 2));
    let backend = |attachment, weight| BackendRow { attachment, weight, draining: false };
    let two = PublishRow { backends: vec![backend(5, 2), backend(2, 5)], ..publish() };
    store.apply(&[Change::put(twin.clone()), Change::put(other.clone()), Change::put(two.clone())]).unwrap();
    let state = store.load().unwrap();
    assert_eq!(state.attachments_of(1).collect::<Vec<_>>(), [&attachment(), &twin, &other]);
    assert_eq!(state.publishes, [two], "backends keep their order");
    assert_eq!((state.publishes_of(1).count(), state.pod_name(5), state.pod_name(6)), (1, "red", ""));
}

#[test]
fn rows_sort_in_the_order_of_making() {
    let ids: Vec<RowId> = rows().iter().map(Row::id).collect();
    assert!(ids.is_sorted());
    for row in rows() {
        for phase in Phase::ALL {
            assert_eq!((row.clone().at(phase).phase(), row.clone().at(phase).id()), (phase, row.id()));
        }
    }
}
