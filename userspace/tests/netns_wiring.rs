//! The steps a pod host is made of: each repeated, each undone, each failed half-way.

mod common;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use common::wired::{PINS, network, on_host, pod};
use common::{Isolated, Snapshot, isolated, isolated_without_bpffs};
use ipnet::{IpNet, Ipv4Net};
use netns::datapath::{BPFFS, Datapath, DatapathError, Hook, Sizes, ensure_bpffs, unmount_bpffs};
use netns::netlink::{AddressOptions, Change, Monitor, Netlink, Request};
use netns::netns::{Netns, NetnsName, remove_run_dir};
use netns::probe::{self, PortProto, port_listener};
use netns::wiring::{Host, NetworkSpec, PodSpec, WiringError, default_uplinks, endpoint_ifindex, host_ifname};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Longest wait for what the kernel does in milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn a_pod_host_is_made_twice_and_taken_down_twice() {
    isolated(|here| {
        let before = Snapshot::take();
        let datapath = Datapath::load(Path::new(PINS), &Sizes::default()).expect("load");
        let host = Host::new("test", Netns::current().expect("current"), datapath).expect("host");
        let red = pod("red", 3);
        Netns::create_named(&red.netns).expect("create");
        for _ in 0..2 {
            host.wire_gateway(&network()).expect("gateway");
            host.wire_pod(&network(), &red).expect("pod");
        }
        assert_is_wired(here, &host, &red);
        for gone in [true, true] {
            assert_eq!(host.unwire_pod(red.slot, red.owner).expect("unwire"), gone);
            host.unwire_gateway(1).expect("unwire gateway");
        }
        here.ip("netns del red");
        host.datapath().unload().expect("unload");
        host.datapath().unload().expect("unload again");
        std::fs::remove_dir("/sys/fs/bpf/netns-ebpf").expect("remove parent");
        assert!(remove_run_dir().expect("remove the names' directory"));
        before.assert_unchanged("after all is taken down");
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
    assert!(host.is_attached(Hook::FromPod, endpoint.ifindex).expect("query"));
    assert!(host.is_attached(Hook::FromHost, 0x0200_0001).expect("query"));
}

#[test]
fn what_is_attached_stays_when_its_process_ends() {
    isolated(|here| {
        let red = pod("red", 0);
        Netns::create_named(&red.netns).expect("create");
        let datapath = Datapath::load(Path::new(PINS), &Sizes { flow_entries: 64 }).expect("load");
        let host = Host::new("test", Netns::current().expect("current"), datapath).expect("host");
        host.wire_gateway(&network()).expect("gateway");
        host.wire_pod(&network(), &red).expect("pod");
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
    on_host(|here, host| {
        host.wire_gateway(&network()).expect("gateway");
        let red = pod("red", 5);
        Netns::create_named(&red.netns).expect("create");
        here.ip("link add nn5 type veth peer name other");
        let before = Snapshot::take();
        let error = host.wire_pod(&network(), &red).expect_err("the name is taken");
        assert!(error.to_string().contains("nn5"), "{error}");
        assert!(host.datapath().endpoint(5).expect("read").is_none(), "the slot is free again");
        before.assert_unchanged("after the refusal");
        here.ip("link del nn5");
        here.ip("link add theirs index 16777221 type veth peer name other");
        let error = host.wire_pod(&network(), &red).expect_err("the index is taken");
        assert!(matches!(error, WiringError::Taken { .. }), "{error}");
        host.unwire_pod(red.slot, red.owner).expect("unwire");
        assert!(here.ip("link show theirs").contains("theirs"));
        here.ip("link del theirs");
        here.ip("-n red link add eth0 type veth peer name other");
        host.wire_pod(&network(), &red).expect_err("eth0 is taken");
        assert!(here.ip("-n red link show eth0").contains("other"));
        assert!(host.datapath().endpoint(5).expect("read").is_none());
    });
}

#[test]
fn the_host_itself_is_no_pod() {
    on_host(|here, host| {
        let me = NetnsName::new("me").expect("name");
        std::fs::create_dir_all("/run/netns").expect("directory");
        std::fs::write("/run/netns/me", "").expect("file");
        here.tool("mount", "--bind /proc/self/ns/net /run/netns/me");
        let pod = PodSpec { netns: me, ..pod("me", 1) };
        let error = host.wire_pod(&network(), &pod).expect_err("refused");
        assert!(matches!(error, WiringError::HostNamespace(_)), "{error}");
    });
}

#[test]
fn a_late_delete_leaves_the_new_owner_alone() {
    on_host(|here, host| {
        host.wire_gateway(&network()).expect("gateway");
        let red = pod("red", 2);
        Netns::create_named(&red.netns).expect("create");
        host.wire_pod(&network(), &red).expect("pod");
        assert!(!host.unwire_pod(2, red.owner - 1).expect("somebody else's"));
        assert!(here.ip("link show nn2").contains("nn2"));
        let other = PodSpec { owner: 7, ..red.clone() };
        host.wire_pod(&network(), &other).expect_err("the slot is taken");
        assert_eq!(host.datapath().endpoint(2).expect("read").map(|e| e.owner), Some(red.owner));
    });
}

#[test]
fn a_pod_whose_namespace_is_gone_can_be_unwired() {
    on_host(|here, host| {
        host.wire_gateway(&network()).expect("gateway");
        let red = pod("red", 2);
        Netns::create_named(&red.netns).expect("create");
        host.wire_pod(&network(), &red).expect("pod");
        here.ip("netns del red");
        common::wait_until("the veth goes with its namespace", std::time::Duration::from_secs(5), || {
            !here.ip("link").contains("nn2")
        });
        assert!(host.unwire_pod(2, red.owner).expect("unwire"));
        // The link's pin of a device that is gone does not keep the next one from being attached.
        Netns::create_named(&red.netns).expect("create");
        host.wire_pod(&network(), &red).expect("pod again");
        assert!(host.is_attached(Hook::FromPod, endpoint_ifindex(2)).expect("query"));
    });
}

#[test]
fn a_network_without_host_access_has_no_address_on_the_host() {
    on_host(|here, host| {
        host.wire_gateway(&network()).expect("gateway");
        let second = NetworkSpec { id: 2, host_access: false, ..network() };
        host.wire_gateway(&second).expect("gateway of the overlapping network");
        assert!(!here.ip("addr show nngw2").contains("10.244"));
        assert!(here.ip("route").matches("10.244.0.0/24").count() == 1);
        let first = NetworkSpec { host_access: false, ..network() };
        host.wire_gateway(&first).expect("again, without");
        assert!(!here.ip("route").contains("10.244"));
    });
}

#[test]
fn the_uplink_is_found_and_followed() {
    on_host(|here, host| {
        let find = || {
            let netlink = host.netlink();
            default_uplinks(&netlink.links().expect("links"), &netlink.routes().expect("routes"))
        };
        assert_eq!(find(), Vec::<String>::new());
        assert!(matches!(host.wire_uplink("nope"), Err(WiringError::NoUplink(_))));
        assert!(matches!(host.wire_uplink("lo"), Err(WiringError::BadUplink(..))));
        here.ip("netns add lan");
        here.ip("link add up0 mtu 1450 type veth peer name eth0 netns lan");
        here.ip("addr add 192.0.2.2/24 dev up0");
        here.ip("addr add 192.0.2.3/24 dev up0");
        here.ip("addr add fd00::2/64 dev up0 nodad");
        here.ip("addr add 2001:db8::2/64 dev up0 nodad");
        here.ip("link set up0 up");
        here.ip("-n lan link set eth0 up");
        here.ip("route add default via 192.0.2.1");
        assert_eq!(find(), ["up0"]);
        for _ in 0..2 {
            let state = host.wire_uplink("up0").expect("wire");
            assert_eq!(state.addr4, "192.0.2.2".parse().ok());
            assert_eq!(state.addr6, "2001:db8::2".parse().ok());
            assert_eq!(state.mtu_bytes, 1450);
        }
        host.sync_host_addresses().expect("sync");
        here.ip("addr flush dev up0 scope global");
        let state = host.wire_uplink("up0").expect("again");
        assert_eq!((state.addr4, state.addr6), (None, None));
        host.sync_host_addresses().expect("sync");
        assert_eq!(host.datapath().uplinks().expect("list").len(), 1);
        host.unwire_uplink(state.ifindex).expect("unwire");
        host.unwire_uplink(state.ifindex).expect("unwire again");
        assert_eq!(host.datapath().uplinks().expect("list"), []);
        assert!(!host.is_attached(Hook::FromUplink, state.ifindex).expect("query"));
    });
}

#[test]
fn reserved_ports_are_merged_and_given_back() {
    on_host(|_, host| {
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
        let mut monitor = Monitor::in_current().expect("monitor");
        assert!(monitor.read().expect("read").is_empty(), "nothing waits");
        here.ip("link add a0 index 77 type veth peer name b0");
        here.ip("addr add 192.0.2.1/24 dev a0");
        here.ip("link set a0 up");
        here.ip("link set b0 up");
        here.ip("route add 198.51.100.0/24 dev a0");
        let mut told = HashSet::new();
        common::wait_until("all is told", PATIENCE, || {
            told.extend(monitor.read().expect("read"));
            [Change::Link(77), Change::Address(77), Change::Route].iter().all(|change| told.contains(change))
        });
        assert!(!told.contains(&Change::Unknown), "{told:?}");
    });
}

/// More changes than the monitor's socket holds while nobody reads, and the last of them after that.
#[test]
fn changes_that_were_lost_are_told_of() {
    isolated(|here| {
        let mut monitor = Monitor::in_current().expect("monitor");
        here.ip("link add a0 index 77 type veth peer name b0");
        let netlink = Netlink::in_current().expect("netlink");
        let net = |i: u32| IpNet::from(Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 + i), 32).expect("a length"));
        let add = |i| Request::add_address(77, net(i), AddressOptions::default());
        netlink.request_all((1..3000).map(add).collect()).expect("add");
        let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(1), "its descriptor is readable");
        let told = monitor.read().expect("an overrun is no failure");
        assert!(told.contains(&Change::Unknown), "{told:?}");
        // And it goes on.
        let _ = monitor.read().expect("read");
        netlink.request(add(3001)).expect("add");
        common::wait_until("the next is told", PATIENCE, || {
            monitor.read().expect("read").contains(&Change::Address(77))
        });
    });
}

#[test]
fn ipv6_works_where_new_devices_have_none_by_default() {
    on_host(|here, host| {
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("switch off");
        host.wire_gateway(&network()).expect("gateway");
        let red = pod("red", 2);
        Netns::create_named(&red.netns).expect("create");
        here.ip("netns exec red sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        host.wire_pod(&network(), &red).expect("pod");
        assert!(here.ip("-n red -6 addr show eth0").contains("fd00:244::12"));
        // And one family alone is one family alone.
        let blue = PodSpec { addr6: None, ..pod("blue", 3) };
        Netns::create_named(&blue.netns).expect("create");
        host.wire_pod(&network(), &blue).expect("pod");
        assert_eq!(here.ip("-n blue -6 addr show eth0"), "");
        let only6 = PodSpec { addr4: None, ..pod("green", 4) };
        Netns::create_named(&only6.netns).expect("create");
        host.wire_pod(&network(), &only6).expect("pod");
        assert_eq!(here.ip("-n green -4 route"), "");
    });
}

#[test]
fn what_is_half_unloaded_can_be_unwired() {
    on_host(|here, host| {
        host.wire_gateway(&network()).expect("gateway");
        let red = pod("red", 2);
        Netns::create_named(&red.netns).expect("create");
        host.wire_pod(&network(), &red).expect("pod");
        host.datapath().unload().expect("unload");
        host.unwire_pod(2, red.owner).expect("unwire");
        host.unwire_gateway(1).expect("unwire gateway");
        assert_eq!(here.ip("-o link").lines().count(), 1, "only lo is left");
    });
}
