use std::fs;

use super::*;
use crate::topology::{Affinity, Allow, Behaviour, Flows, Host, Nat, Network, Profile};

fn rows() -> (InstanceRow, NetworkRow, PodRow, PublishRow) {
    (
        InstanceRow {
            host_netns: Some("sandbox-host".into()),
            host_id: "4:5".into(),
            nat: Nat { flows_per_pod: Some(Flows::new(77).unwrap()), ..Profile::Fast.into() },
            host: Host { mtu: Some(9000), ..Host::default() },
            uplinks: [("eth7", 7), ("tun0", 9)].map(|(name, ifindex)| UplinkRow { name: name.into(), ifindex }).into(),
            reserved_ports: "20000-32767".into(),
            phase: Phase::Creating,
        },
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
            last4: Some("10.0.0.9".parse().unwrap()),
            last6: None,
            origin: Origin::File,
            phase: Phase::Ready,
        },
        PodRow {
            id: 1,
            slot: 0,
            name: "red".into(),
            network: 1,
            addr4: Some("10.0.0.9".parse().unwrap()),
            addr6: None,
            foreign_netns: false,
            origin: Origin::Verb,
            phase: Phase::Creating,
        },
        PublishRow {
            id: 2,
            index: 0,
            publish: "[::1]:80-81:90-91/udp".parse().unwrap(),
            backends: vec![BackendRow { pod: 1, weight: 7, draining: true }],
            affinity: Affinity::Client,
            allow: Allow::Only(vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]),
            draining: true,
            origin: Origin::Verb,
            phase: Phase::Deleting,
        },
    )
}

fn put() -> Vec<Change> {
    let (i, n, p, q) = rows();
    vec![Change::PutInstance(i), Change::PutNetwork(n), Change::PutPod(p), Change::PutPublish(q)]
}

#[test]
fn what_is_written_is_read_by_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut store = SqliteStore::create(&path).unwrap();
    store.apply(&put()).unwrap();
    let (i, n, p, q) = rows();
    let want = State { instance: Some(i), networks: vec![n], pods: vec![p], publishes: vec![q] };
    assert_eq!(store.load().unwrap(), want);
    assert_eq!(SqliteStore::open(&path).unwrap().load().unwrap(), want);
    store.apply(&put()).unwrap();
    assert_eq!(SqliteStore::create(&path).unwrap().load().unwrap(), want, "putting again changes nothing");
    let delete = [Change::DeletePublish(2), Change::DeletePod(1), Change::DeleteNetwork(1), Change::DeleteInstance];
    store.apply(&delete).unwrap();
    assert_eq!(store.load().unwrap(), State::default());
}

#[test]
fn a_list_of_changes_is_made_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::create(&dir.path().join("state.db")).unwrap();
    let (_, n, p, _) = rows();
    let twin = PodRow { id: 9, slot: 1, ..p.clone() };
    store.apply(&[Change::PutNetwork(n), Change::PutPod(p), Change::PutPod(twin)]).unwrap_err();
    assert_eq!(store.load().unwrap(), State::default());
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
    let reader = SqliteStore::open(&path).unwrap();
    for _ in 0..50 {
        writer.apply(&put()).unwrap();
        assert_eq!(reader.load().unwrap().publishes.len(), 1);
        writer.apply(&[Change::DeletePublish(2), Change::DeletePod(1)]).unwrap();
        assert_eq!(reader.load().unwrap().pods.len(), 0);
    }
}

#[test]
fn an_older_versions_file_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(sqlite::MIGRATIONS[0]).unwrap();
    let rows = "INSERT INTO instance VALUES (1, NULL, 'auto', '20000-32767', NULL, 'eth7', 7, '20000-32767', 'ready');
        INSERT INTO network VALUES (1, 'pods', '10.0.0.0/24', 1, '', NULL, 1500, 1, NULL, NULL, 'file', 'ready');
        INSERT INTO pod VALUES (1, 0, 'red', 1, '10.0.0.9', NULL, 0, 'file', 'ready');
        INSERT INTO publish VALUES (2, 0, 1, '80:80/tcp', 'file', 'ready');
        PRAGMA user_version = 1;";
    db.execute_batch(rows).unwrap();
    drop(db);
    let state = SqliteStore::open(&path).unwrap().load().unwrap();
    let instance = state.instance.unwrap();
    assert_eq!((instance.nat, instance.host_id.as_str()), (Profile::Rfc.into(), ""));
    let publish = &state.publishes[0];
    assert_eq!((publish.draining, &publish.allow, publish.affinity), (false, &Allow::Anyone, Affinity::None));
    assert_eq!(publish.backends, [BackendRow { pod: 1, weight: 1, draining: false }]);
    assert!(state.networks[0].network.snat_address.is_empty());
    assert_eq!(state.networks[0].network.mapping, Behaviour::AddressAndPortDependent);
    SqliteStore::open(&path).unwrap();
}

#[test]
fn an_empty_list_of_clients_stays_empty_and_no_list_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut store = SqliteStore::create(&path).unwrap();
    store.apply(&put()).unwrap();
    let (_, _, _, q) = rows();
    for allow in [Allow::Only(vec![]), Allow::Anyone, Allow::Only(vec!["::/0".parse().unwrap()])] {
        store.apply(&[Change::PutPublish(PublishRow { allow: allow.clone(), ..q.clone() })]).unwrap();
        assert_eq!(SqliteStore::open(&path).unwrap().load().unwrap().publishes[0].allow, allow);
    }
}

#[test]
fn backends_keep_their_order_and_go_with_their_publish() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::create(&dir.path().join("state.db")).unwrap();
    store.apply(&put()).unwrap();
    let (_, _, p, q) = rows();
    let blue = PodRow { id: 3, slot: 1, name: "blue".into(), addr4: None, ..p };
    let backend = |pod, weight| BackendRow { pod, weight, draining: false };
    let two = PublishRow { backends: vec![backend(3, 2), backend(1, 5)], ..q.clone() };
    let other = PublishRow { id: 4, index: 1, ..q.clone() };
    let put = [Change::PutPod(blue), Change::PutPublish(two.clone()), Change::PutPublish(other.clone())];
    store.apply(&put).unwrap();
    assert_eq!(store.load().unwrap().publishes, [two, other.clone()]);
    store.apply(&[Change::DeletePod(3)]).unwrap_err();
    store.apply(&[Change::DeletePublish(2), Change::DeletePod(3)]).unwrap();
    assert_eq!(store.load().unwrap().publishes, [other]);
}
