//! The steps a pod host is made of: each repeated, each undone, each failed half-way.

mod common;

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::Path;

use aya::maps::{HashMap, LpmTrie, Map, MapData};
use common::{Isolated, Snapshot, isolated, isolated_without_bpffs};
use netns::datapath::{
    BPFFS, Datapath, DatapathError, FlowRecord, Hook, PublishPorts, Sizes, ensure_bpffs, unmount_bpffs,
};
use netns::netlink::{Change, Family, Monitor, Netlink, RouteKind};
use netns::netns::{Netns, NetnsName, remove_run_dir};
use netns::probe::{self, PortProto, port_listener};
use netns::topology::Allow;
use netns::wiring::{BackendSpec, Host, NetworkSpec, PodSpec, PublishSpec, WiringError, endpoint_ifindex, host_ifname};
use netns_ebpf_common::flow::{FlowEntry, FlowKey, FlowTuple};
use netns_ebpf_common::host::HostConfig;
use netns_ebpf_common::prefix::PrefixKey;
use netns_ebpf_common::publish::Backends;
use netns_ebpf_common::{Addr4, Addr6, Port};

const PINS: &str = "/sys/fs/bpf/netns-ebpf/test";

/// A host with nothing in it yet, inside the test's own namespace.
fn on_host(body: impl AsyncFnOnce(&Isolated, &Host) + Send + 'static) {
    isolated(|here| {
        in_runtime(async {
            let datapath = Datapath::load(Path::new(PINS), &Sizes { flow_entries: 16_384 }).expect("load");
            let host = Host::new("test", Netns::current().expect("current"), datapath).expect("host");
            body(here, &host).await;
            host.datapath().unload().expect("unload");
        });
    });
}

fn in_runtime<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(body)
}

fn network() -> NetworkSpec {
    NetworkSpec {
        id: 1,
        gateway4: Some("10.244.0.1/24".parse().expect("net")),
        gateway6: Some("fd00:244::1/64".parse().expect("net")),
        mtu_bytes: 1400,
        masquerade: true,
        snat_addresses: Vec::new(),
        endpoint_independent: false,
        open_to_all: false,
        host_access: true,
        no_masquerade: vec!["192.168.1.0/24".parse().expect("net"), "fd00:1::/32".parse().expect("net")],
    }
}

fn pod(name: &str, slot: u32) -> PodSpec {
    PodSpec {
        owner: u64::from(slot) + 100,
        slot,
        netns: NetnsName::new(name).expect("name"),
        addr4: Some([10, 244, 0, 10 + slot as u8].into()),
        addr6: format!("fd00:244::{}", 10 + slot).parse().ok(),
    }
}

#[test]
fn a_pod_host_is_made_twice_and_taken_down_twice() {
    isolated(|here| {
        in_runtime(async {
            let before = Snapshot::take();
            let datapath = Datapath::load(Path::new(PINS), &Sizes::default()).expect("load");
            let host = Host::new("test", Netns::current().expect("current"), datapath).expect("host");
            let red = pod("red", 3);
            Netns::create_named(&red.netns).expect("create");
            for _ in 0..2 {
                host.wire_gateway(&network()).await.expect("gateway");
                host.wire_pod(&network(), &red).await.expect("pod");
            }
            assert_is_wired(here, &host, &red);
            for gone in [true, true] {
                assert_eq!(host.unwire_pod(red.slot, red.owner).await.expect("unwire"), gone);
                host.unwire_gateway(1).await.expect("unwire gateway");
            }
            here.ip("netns del red");
            host.datapath().unload().expect("unload");
            host.datapath().unload().expect("unload again");
            std::fs::remove_dir("/sys/fs/bpf/netns-ebpf").expect("remove parent");
            assert!(remove_run_dir().expect("remove the names' directory"));
            before.assert_unchanged("after all is taken down");
        });
    });
}

fn assert_is_wired(here: &Isolated, host: &Host, red: &PodSpec) {
    let addresses = here.ip("-n red -o addr show eth0");
    assert!(addresses.contains("10.244.0.13/24") && addresses.contains("fd00:244::13/64"), "{addresses}");
    assert!(!addresses.contains("tentative"), "{addresses}");
    let link = here.ip("-n red -d link show eth0");
    assert!(link.contains("mtu 1400") && link.contains("02:") && link.contains("state UP"), "{link}");
    assert!(here.ip("-n red route").contains("default via 10.244.0.1 dev eth0"));
    assert!(here.ip("-n red -6 route").contains("default via fd00:244::1 dev eth0"));
    let link = here.ip(&format!("-d link show {}", host_ifname(red.slot)));
    assert!(link.starts_with(&format!("{}:", endpoint_ifindex(red.slot))) && link.contains("UP"), "{link}");
    let gateway = here.ip("addr show nngw1");
    assert!(
        gateway.contains("NOARP") && gateway.contains("10.244.0.1/24") && gateway.contains("state UP"),
        "{gateway}"
    );
    assert!(!gateway.contains("fe80"), "{gateway}");
    assert!(here.ip("route").contains("10.244.0.0/24 dev nngw1"));
    assert_eq!(here.tool("cat", "/proc/sys/net/ipv4/conf/nngw1/forwarding").trim(), "1");
    assert_eq!(here.tool("cat", "/proc/sys/net/ipv4/ip_forward").trim(), "0");
    let endpoint = host.datapath().endpoint(red.slot).expect("read").expect("there");
    assert_eq!((endpoint.owner, endpoint.flags, endpoint.mtu_bytes), (red.owner, 1, 1400));
    assert!(host.datapath().is_attached(Hook::FromPod, &host_ifname(red.slot), endpoint.ifindex).expect("query"));
    assert!(host.datapath().is_attached(Hook::FromHost, "nngw1", 0x0200_0001).expect("query"));
}

#[test]
fn what_is_attached_stays_when_its_process_ends() {
    isolated(|here| {
        let red = pod("red", 0);
        Netns::create_named(&red.netns).expect("create");
        in_runtime(async {
            let datapath = Datapath::load(Path::new(PINS), &Sizes { flow_entries: 64 }).expect("load");
            let host = Host::new("test", Netns::current().expect("current"), datapath).expect("host");
            host.wire_gateway(&network()).await.expect("gateway");
            host.wire_pod(&network(), &red).await.expect("pod");
        });
        // All descriptors of the programs are closed by now.
        let datapath = Datapath::open(Path::new(PINS)).expect("open");
        let packets = || {
            let verdicts = datapath.verdicts().expect("verdicts");
            verdicts.iter().filter(|v| v.hook == Hook::FromPod).map(|v| v.packets).sum::<u64>()
        };
        let before = packets();
        here.inside("red", || {
            let socket = UdpSocket::bind("10.244.0.10:0").expect("bind");
            socket.send_to(b"x", "10.244.0.77:9").expect("send");
        });
        common::wait_until("the program counts the pod's packet", std::time::Duration::from_secs(2), || {
            packets() > before
        });
    });
}

#[test]
fn a_device_in_the_way_is_refused_and_left_alone() {
    on_host(async |here, host| {
        host.wire_gateway(&network()).await.expect("gateway");
        let red = pod("red", 5);
        Netns::create_named(&red.netns).expect("create");
        here.ip("link add nn5 type veth peer name other");
        let before = Snapshot::take();
        let error = host.wire_pod(&network(), &red).await.expect_err("the name is taken");
        assert!(error.to_string().contains("nn5"), "{error}");
        assert!(host.datapath().endpoint(5).expect("read").is_none(), "the slot is free again");
        before.assert_unchanged("after the refusal");
        here.ip("link del nn5");
        here.ip("link add theirs index 16777221 type veth peer name other");
        let error = host.wire_pod(&network(), &red).await.expect_err("the index is taken");
        assert!(matches!(error, WiringError::Taken { .. }), "{error}");
        host.unwire_pod(red.slot, red.owner).await.expect("unwire");
        assert!(here.ip("link show theirs").contains("theirs"));
        here.ip("link del theirs");
        here.ip("-n red link add eth0 type veth peer name other");
        host.wire_pod(&network(), &red).await.expect_err("eth0 is taken");
        assert!(here.ip("-n red link show eth0").contains("other"));
        assert!(host.datapath().endpoint(5).expect("read").is_none());
    });
}

#[test]
fn the_host_itself_is_no_pod() {
    on_host(async |here, host| {
        let me = NetnsName::new("me").expect("name");
        std::fs::create_dir_all("/run/netns").expect("directory");
        std::fs::write("/run/netns/me", "").expect("file");
        here.tool("mount", "--bind /proc/self/ns/net /run/netns/me");
        let pod = PodSpec { netns: me, ..pod("me", 1) };
        let error = host.wire_pod(&network(), &pod).await.expect_err("refused");
        assert!(matches!(error, WiringError::HostNamespace(_)), "{error}");
    });
}

#[test]
fn a_late_delete_leaves_the_new_owner_alone() {
    on_host(async |here, host| {
        host.wire_gateway(&network()).await.expect("gateway");
        let red = pod("red", 2);
        Netns::create_named(&red.netns).expect("create");
        host.wire_pod(&network(), &red).await.expect("pod");
        assert!(!host.unwire_pod(2, red.owner - 1).await.expect("somebody else's"));
        assert!(here.ip("link show nn2").contains("nn2"));
        let other = PodSpec { owner: 7, ..red.clone() };
        host.wire_pod(&network(), &other).await.expect_err("the slot is taken");
        assert_eq!(host.datapath().endpoint(2).expect("read").map(|e| e.owner), Some(red.owner));
    });
}

#[test]
fn a_pod_whose_namespace_is_gone_can_be_unwired() {
    on_host(async |here, host| {
        host.wire_gateway(&network()).await.expect("gateway");
        let red = pod("red", 2);
        Netns::create_named(&red.netns).expect("create");
        host.wire_pod(&network(), &red).await.expect("pod");
        here.ip("netns del red");
        common::wait_until("the veth goes with its namespace", std::time::Duration::from_secs(5), || {
            !here.ip("link").contains("nn2")
        });
        assert!(host.unwire_pod(2, red.owner).await.expect("unwire"));
        // The link's pin of a device that is gone does not keep the next one from being attached.
        Netns::create_named(&red.netns).expect("create");
        host.wire_pod(&network(), &red).await.expect("pod again");
        assert!(host.datapath().is_attached(Hook::FromPod, "nn2", endpoint_ifindex(2)).expect("query"));
    });
}

#[test]
fn a_network_without_host_access_has_no_address_on_the_host() {
    on_host(async |here, host| {
        host.wire_gateway(&network()).await.expect("gateway");
        let second = NetworkSpec { id: 2, host_access: false, ..network() };
        host.wire_gateway(&second).await.expect("gateway of the overlapping network");
        assert!(!here.ip("addr show nngw2").contains("10.244"));
        assert!(here.ip("route").matches("10.244.0.0/24").count() == 1);
        let first = NetworkSpec { host_access: false, ..network() };
        host.wire_gateway(&first).await.expect("again, without");
        assert!(!here.ip("route").contains("10.244"));
    });
}

#[test]
fn the_uplink_is_found_and_followed() {
    on_host(async |here, host| {
        assert_eq!(host.find_uplinks().await.expect("none yet"), Vec::<String>::new());
        assert!(matches!(host.wire_uplink("nope").await, Err(WiringError::NoUplink(_))));
        assert!(matches!(host.wire_uplink("lo").await, Err(WiringError::BadUplink(..))));
        here.ip("netns add lan");
        here.ip("link add up0 mtu 1450 type veth peer name eth0 netns lan");
        here.ip("addr add 192.0.2.2/24 dev up0");
        here.ip("addr add 192.0.2.3/24 dev up0");
        here.ip("addr add fd00::2/64 dev up0 nodad");
        here.ip("addr add 2001:db8::2/64 dev up0 nodad");
        here.ip("link set up0 up");
        here.ip("-n lan link set eth0 up");
        here.ip("route add default via 192.0.2.1");
        assert_eq!(host.find_uplinks().await.expect("found"), ["up0"]);
        for _ in 0..2 {
            let state = host.wire_uplink("up0").await.expect("wire");
            assert_eq!(state.addr4, "192.0.2.2".parse().ok());
            assert_eq!(state.addr6, "2001:db8::2".parse().ok());
            assert_eq!(state.mtu_bytes, 1450);
        }
        host.sync_host_addresses().await.expect("sync");
        here.ip("addr flush dev up0 scope global");
        let state = host.wire_uplink("up0").await.expect("again");
        assert_eq!((state.addr4, state.addr6), (None, None));
        host.sync_host_addresses().await.expect("sync");
        assert_eq!(host.datapath().uplinks().expect("list").len(), 1);
        host.unwire_uplink(state.ifindex).expect("unwire");
        host.unwire_uplink(state.ifindex).expect("unwire again");
        assert_eq!(host.datapath().uplinks().expect("list"), []);
        assert!(!host.datapath().is_attached(Hook::FromUplink, "up0", state.ifindex).expect("query"));
    });
}

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
    on_host(async |_, host| {
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
        assert!(!host.unwire_publish(&PublishSpec { owner: 1, ..web.clone() }).expect("not the owner"));
        assert!(host.unwire_publish(&web).expect("remove"));
        assert!(!host.unwire_publish(&web).expect("remove again"));
        host.unwire_publish(&below).expect("remove");
        let theirs = PublishSpec { owner: 99, allow: Allow::Only(vec![]), backends: vec![backend(5)], ..clash.clone() };
        host.wire_publish(&PublishSpec { id: 3, ..theirs.clone() }).expect_err("another's index");
        host.switch_publish(&PublishSpec { id: 3, ..theirs }, |_| None).expect_err("another's index");
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
    on_host(async |_, host| {
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
                target: 2,
                owner_slot,
                flags: 7,
                publish: u32::MAX,
                ..FlowEntry::default()
            };
            let back = FlowEntry { to: out.reverse(), peer_zone: 1, target: owner_slot, flags: 4, ..forward };
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
fn flows_whose_time_is_over_are_swept_both_ways() {
    on_host(async |_, host| {
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
            let forward =
                FlowEntry { to, peer_zone: 0, flags: 7, last_seen_ns: last_seen_ns[0], ..FlowEntry::default() };
            let back = FlowEntry {
                to: out.reverse(),
                peer_zone: 1,
                flags: 4,
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
    on_host(async |_, host| {
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

#[test]
fn reserved_ports_are_merged_and_given_back() {
    on_host(async |_, host| {
        let key = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        let write = |text: &str| host.netns().run(|| std::fs::write(key, text)).expect("run").expect("write");
        let read = || host.netns().run(|| std::fs::read_to_string(key)).expect("run").expect("read");
        for before in ["\n", "8080,30000-30010,40000"] {
            write(before);
            let added = host.reserve_ports(20000..=32767).expect("reserve");
            assert!(read().contains("20000-32767"));
            assert!(host.reserve_ports(20000..=32767).expect("again").is_empty());
            host.release_ports(&added).expect("release");
            host.release_ports(&added).expect("release again");
            assert_eq!(read().trim(), before.trim());
        }
    });
}

#[test]
fn bpffs_is_mounted_once_and_unmounted_when_empty() {
    isolated_without_bpffs(|_| {
        let at = Path::new(BPFFS);
        assert!(ensure_bpffs(at).expect("mount"));
        assert!(!ensure_bpffs(at).expect("there"));
        std::fs::create_dir(at.join("somebody")).expect("directory");
        assert!(!unmount_bpffs(at).expect("in use"));
        std::fs::remove_dir(at.join("somebody")).expect("remove");
        assert!(unmount_bpffs(at).expect("unmount"));
        assert!(!unmount_bpffs(at).expect("gone"));
    });
}

#[test]
fn pins_of_another_version_are_refused() {
    isolated(|_| {
        let pins = Path::new(PINS);
        assert!(matches!(Datapath::open(pins), Err(DatapathError::NotLoaded(_))));
        std::fs::create_dir_all(pins).expect("directory");
        std::os::unix::fs::symlink("4711", pins.join("abi")).expect("marker");
        for result in [Datapath::open(pins), Datapath::load(pins, &Sizes::default())] {
            let error = result.expect_err("refused");
            assert!(matches!(&error, DatapathError::AbiMismatch { found, .. } if found == "4711"), "{error}");
        }
        Datapath::for_removal(pins).unload().expect("unload");
        assert!(!pins.exists());
        // A load that was killed before its marker is done anew.
        std::fs::create_dir_all(pins.join("maps")).expect("directory");
        Datapath::load(pins, &Sizes { flow_entries: 64 }).expect("load");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(pins).expect("stat").permissions());
        assert_eq!(mode & 0o777, 0o700);
    });
}

#[test]
fn this_kernel_has_what_is_needed() {
    isolated(|_| {
        probe::privileges().expect("root");
        let features = probe::features().expect("features");
        assert!(!features.kernel.is_empty());
    });
}

#[test]
fn listeners_are_found_and_connections_are_not() {
    isolated(|here| {
        let netns = Netns::current().expect("current");
        let any4: IpAddr = [0, 0, 0, 0].into();
        let any6: IpAddr = std::net::Ipv6Addr::UNSPECIFIED.into();
        let is = |proto, addr, port| port_listener(&netns, proto, addr, port).expect("probe").is_some();
        assert!(!is(PortProto::Tcp, any4, 8080));
        let loopback = TcpListener::bind("127.0.0.1:8080").expect("listen");
        assert!(is(PortProto::Tcp, any4, 8080), "processes of the host would not reach it any more");
        assert!(!is(PortProto::Tcp, any6, 8080) && !is(PortProto::Tcp, [192, 0, 2, 1].into(), 8080));
        assert!(is(PortProto::Tcp, [127, 0, 0, 1].into(), 8080));
        assert!(!is(PortProto::Udp, [127, 0, 0, 1].into(), 8080));
        drop(loopback);
        let dual = TcpListener::bind("[::]:8081").expect("listen");
        assert!(is(PortProto::Tcp, any6, 8081) && is(PortProto::Tcp, any4, 8081), "dual stack");
        let client = std::net::TcpStream::connect("127.0.0.1:8081").expect("connect");
        let (served, _) = dual.accept().expect("accept");
        drop((dual, served));
        // Children of other tests hold copies of all descriptors for the moment between fork and exec.
        let gone = |proto, addr, port| {
            common::wait_until("the listener is gone", std::time::Duration::from_secs(2), || !is(proto, addr, port));
        };
        gone(PortProto::Tcp, any4, 8081);
        assert_eq!(here.tool("ss", "-Htn state fin-wait-2").lines().count(), 1, "a connection is no listener");
        drop(client);
        let udp = UdpSocket::bind("0.0.0.0:53").expect("bind");
        assert!(is(PortProto::Udp, any4, 53) && is(PortProto::Udp, [127, 0, 0, 1].into(), 53));
        assert!(!is(PortProto::Udp, any6, 53));
        drop(udp);
        gone(PortProto::Udp, any4, 53);
    });
}

#[test]
fn changes_are_told() {
    isolated(|here| {
        in_runtime(async {
            let mut monitor = Monitor::in_current().expect("monitor");
            here.ip("link add a0 index 77 type veth peer name b0");
            here.ip("addr add 192.0.2.1/24 dev a0");
            let mut told = Vec::new();
            while !(told.contains(&Change::Link(77)) && told.contains(&Change::Address(77))) {
                let next = tokio::time::timeout(std::time::Duration::from_secs(5), monitor.next()).await;
                told.push(next.expect("in time").expect("the socket is open"));
            }
        });
    });
}

#[test]
fn ipv6_works_where_new_devices_have_none_by_default() {
    on_host(async |here, host| {
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("switch off");
        host.wire_gateway(&network()).await.expect("gateway");
        let red = pod("red", 2);
        Netns::create_named(&red.netns).expect("create");
        here.ip("netns exec red sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        host.wire_pod(&network(), &red).await.expect("pod");
        assert!(here.ip("-n red -6 addr show eth0").contains("fd00:244::12"));
        // And one family alone is one family alone.
        let blue = PodSpec { addr6: None, ..pod("blue", 3) };
        Netns::create_named(&blue.netns).expect("create");
        host.wire_pod(&network(), &blue).await.expect("pod");
        assert_eq!(here.ip("-n blue -6 addr show eth0"), "");
        let only6 = PodSpec { addr4: None, ..pod("green", 4) };
        Netns::create_named(&only6.netns).expect("create");
        host.wire_pod(&network(), &only6).await.expect("pod");
        assert_eq!(here.ip("-n green -4 route"), "");
    });
}

#[test]
fn what_is_half_unloaded_can_be_unwired() {
    on_host(async |here, host| {
        host.wire_gateway(&network()).await.expect("gateway");
        let red = pod("red", 2);
        Netns::create_named(&red.netns).expect("create");
        host.wire_pod(&network(), &red).await.expect("pod");
        host.datapath().unload().expect("unload");
        host.unwire_pod(2, red.owner).await.expect("unwire");
        host.unwire_gateway(1).await.expect("unwire gateway");
        assert_eq!(here.ip("-o link").lines().count(), 1, "only lo is left");
    });
}

#[test]
fn routes_are_read_with_their_kind() {
    isolated(|here| {
        here.ip("link add a0 type veth peer name b0");
        here.ip("addr add 192.0.2.1/24 dev a0");
        here.ip("link set a0 up");
        here.ip("link set b0 up");
        here.ip("route add default via 192.0.2.254 metric 20");
        here.ip("route add default via 192.0.2.253 metric 10");
        here.ip("route add blackhole 198.51.100.0/24");
        here.ip("-6 route add unreachable default metric 5");
        in_runtime(async {
            let netlink = Netlink::in_current().expect("netlink");
            let routes = netlink.routes().await.expect("routes");
            let blackhole = routes.iter().find(|r| r.destination.to_string() == "198.51.100.0/24").expect("there");
            assert_eq!(blackhole.kind, RouteKind::Refusing);
            assert!(routes.iter().any(|r| r.destination.to_string() == "192.0.2.0/24" && r.gateway.is_none()));
            let defaults = netlink.default_routes(Family::V4).await.expect("read");
            let gateways: Vec<_> = defaults.iter().map(|r| r.gateway).collect();
            assert_eq!(gateways, [253, 254].map(|last| Some([192, 0, 2, last].into())), "the best first");
            assert_eq!(netlink.default_routes(Family::V6).await.expect("read"), []);
            here.ip("link add a1 type veth peer name b1");
            here.ip("addr add 198.51.100.1/24 dev a1");
            here.ip("link set a1 up");
            here.ip("route add default metric 1 nexthop via 192.0.2.254 nexthop via 198.51.100.254");
            let both = netlink.default_routes(Family::V4).await.expect("read").remove(0);
            let index = |name: &str| {
                let line = here.ip(&format!("-o link show {name}"));
                line.split(':').next().and_then(|n| n.trim().parse::<u32>().ok()).expect("an index")
            };
            assert_eq!((both.oif, both.more_oifs), (Some(index("a0")), vec![index("a1")]));
            let to = async |ip: &str| netlink.route_to(ip.parse().expect("an address")).await.expect("ask");
            let way = to("203.0.113.9").await.expect("a route");
            assert_eq!((way.oif, way.more_oifs), (Some(index("a0")), vec![index("a1")]), "all next hops");
            assert_eq!(to("192.0.2.77").await.expect("a route").destination.to_string(), "192.0.2.0/24");
            for refused in ["2001:db8::1", "203.0.114.1"] {
                here.ip("route replace unreachable 203.0.114.0/24");
                assert_eq!(to(refused).await.filter(|r| r.kind == RouteKind::Unicast), None, "{refused}");
            }
        });
    });
}
