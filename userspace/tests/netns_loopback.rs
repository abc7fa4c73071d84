//! Published ports as the host's own processes meet them: by loopback and own addresses, and when binding.

mod common;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::frame::Tap;
use common::packet::{ethernet, ipv4, ipv6, udp, udp6};
use common::pods::{BLUE, GATEWAY, RED, TOPOLOGY, client, uplink};
use common::traffic::{closed, direct, published};
use common::{Isolated, isolated, wait_until};
use netns::check::{Family, Site};
use netns::datapath::cgroup_root;

const PATIENCE: Duration = Duration::from_secs(3);
const MARK: &[u8] = b"this datagram must reach nobody";
const LOOPBACK: Site = Site { name: "loopback", place: "host", v4: Ipv4Addr::LOCALHOST, v6: Ipv6Addr::LOCALHOST };

/// Listens in a pod on a port of its own, TCP and UDP.
struct Answerer {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Answerer {
    fn new(here: &Isolated, pod: Site, family: Family, port: u16) -> Self {
        let at = (pod.ip(family), port);
        here.inside(pod.place, || {
            let udp = UdpSocket::bind(at).expect("bind");
            udp.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
            Self { tcp: TcpListener::bind(at).expect("listen"), udp }
        })
    }

    /// Asserts that a TCP connection to `aim` leads here, with `aim` as its peer's name.
    #[track_caller]
    fn connected(&self, aim: SocketAddr, seen_as: IpAddr) {
        let mut near = TcpStream::connect_timeout(&aim, PATIENCE).unwrap_or_else(|e| panic!("connect to {aim}: {e}"));
        let (mut far, peer) = self.tcp.accept().expect("accept");
        assert_eq!(peer.ip(), seen_as, "the pod sees the host by the network's gateway, by {aim}");
        assert_eq!(near.peer_addr().expect("getpeername"), aim);
        let mut block = [0; 4];
        near.write_all(b"ping").expect("send");
        far.read_exact(&mut block).expect("receive");
        far.write_all(&block).expect("send back");
        near.read_exact(&mut block).expect("receive back");
        assert_eq!(&block, b"ping");
    }

    /// Asserts that a datagram sent by `send` comes here and that its answer comes from `aim`.
    #[track_caller]
    fn answered(&self, near: &UdpSocket, aim: SocketAddr, send: impl FnOnce(&UdpSocket) -> io::Result<usize>) {
        near.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
        let mut block = [0; 16];
        assert_eq!(send(near).unwrap_or_else(|e| panic!("send to {aim}: {e}")), 4);
        let (n, peer) = self.udp.recv_from(&mut block).unwrap_or_else(|e| panic!("nothing came by {aim}: {e}"));
        self.udp.send_to(&block[..n], peer).expect("answer");
        let (n, from) = near.recv_from(&mut block).unwrap_or_else(|e| panic!("no answer from {aim}: {e}"));
        assert_eq!((&block[..n], from), (&b"ping"[..], aim));
    }

    #[track_caller]
    fn reached(&self, aim: SocketAddr, seen_as: IpAddr) {
        self.connected(aim, seen_as);
        let any: IpAddr = if aim.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let unconnected = UdpSocket::bind((any, 0)).expect("bind");
        self.answered(&unconnected, aim, |s| s.send_to(b"ping", aim));
        let connected = UdpSocket::bind((any, 0)).expect("bind");
        connected.connect(aim).unwrap_or_else(|e| panic!("connect to {aim}: {e}"));
        assert_eq!(connected.peer_addr().expect("getpeername"), aim);
        self.answered(&connected, aim, |s| s.send(b"ping"));
    }
}

fn refused(what: &str, outcome: io::Result<impl Sized>, kind: ErrorKind) {
    match outcome {
        Ok(_) => panic!("{what} worked"),
        Err(e) => assert_eq!(e.kind(), kind, "{what}: {e}"),
    }
}

#[test]
fn host_processes_reach_published_ports_by_every_address_of_the_host() {
    isolated(|here| {
        here.pods();
        assert_eq!(here.status()["host_sockets"], true);
        for family in Family::ALL {
            let red = Answerer::new(here, RED, family, 80);
            // More than one host address, on one socket's life each, and again: entries are per socket.
            for site in [LOOPBACK, uplink(), GATEWAY, LOOPBACK] {
                red.reached(SocketAddr::new(site.ip(family), 8080), GATEWAY.ip(family));
            }
        }
        let red = Answerer::new(here, RED, Family::V4, 80);
        red.reached("127.1.2.3:8080".parse().expect("an address"), GATEWAY.v4.into());
        // A socket of both families talks to IPv4.
        red.reached(SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), 8080), GATEWAY.v4.into());
        // Nothing leaves with a loopback address, not even if the process insists.
        let bound = UdpSocket::bind("127.0.0.1:0").expect("bind");
        refused("sending from 127.0.0.1", bound.send_to(b"ping", "127.0.0.1:8080"), ErrorKind::InvalidInput);
        refused("connecting from 127.0.0.1", bound.connect("127.0.0.1:8080"), ErrorKind::InvalidInput);
        // What is not published is as ever.
        refused("connecting to another port", TcpStream::connect("127.0.0.1:8079"), ErrorKind::ConnectionRefused);
        here.flows(&direct(GATEWAY, BLUE, GATEWAY, 64));
    });
}

#[test]
fn one_socket_tells_two_published_ports_apart() {
    isolated(|here| {
        here.pods();
        here.netns(["publish", "add", "blue", "127.0.0.1:8080:80/udp"]).fails(2, &["8080"]);
        here.netns(["publish", "add", "blue", "8082:80/udp"]).ok();
        let (red, blue) = (Answerer::new(here, RED, Family::V4, 80), Answerer::new(here, BLUE, Family::V4, 80));
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        for _ in 0..3 {
            let aim: SocketAddr = "127.0.0.1:8080".parse().expect("an address");
            red.answered(&socket, aim, |s| s.send_to(b"ping", aim));
            let aim: SocketAddr = "192.0.2.2:8082".parse().expect("an address");
            blue.answered(&socket, aim, |s| s.send_to(b"ping", aim));
        }
    });
}

#[test]
fn a_loopback_publish_is_reached_from_the_host_only() {
    isolated(|here| {
        here.pods();
        for publish in ["127.0.0.1:5353:53/tcp", "127.0.0.1:5353:53/udp", "[::1]:5353:53/tcp", "[::1]:5353:53/udp"] {
            here.netns(["publish", "add", "blue", publish]).ok();
        }
        for family in Family::ALL {
            let blue = Answerer::new(here, BLUE, family, 53);
            blue.reached(SocketAddr::new(LOOPBACK.ip(family), 5353), GATEWAY.ip(family));
            let own = SocketAddr::new(uplink().ip(family), 5353);
            refused("by another address", TcpStream::connect_timeout(&own, PATIENCE), ErrorKind::ConnectionRefused);
        }
        // Not from the LAN, nor from a pod by the host's addresses.
        here.flows(&closed(client(), BLUE, uplink(), 5353, 53));
        here.flows(&closed(RED, BLUE, uplink(), 5353, 53));
        here.flows(&closed(RED, BLUE, GATEWAY, 5353, 53));
        // Not even with frames no honest machine sends.
        let lan = here.inside("lan", || Tap::open("lan0"));
        let blue = here.tap("blue");
        let (host_mac, lan_mac) = (here.own_mac("up0"), here.mac("lan", "lan0"));
        here.drops_more("martian", "to 127.0.0.1 from the LAN", || {
            let packet = ipv4(client().v4, Ipv4Addr::LOCALHOST, 17, &udp(1, 5353, MARK));
            lan.send(&ethernet(host_mac, lan_mac, 0x0800, &packet));
        });
        here.drops_more("martian", "to ::1 from the LAN", || {
            let datagram = udp6(client().v6, Ipv6Addr::LOCALHOST, 1, 5353, MARK);
            lan.send(&ethernet(host_mac, lan_mac, 0x86dd, &ipv6(client().v6, Ipv6Addr::LOCALHOST, 17, 64, &datagram)));
        });
        let reached = blue.find(Duration::ZERO, |f| f.windows(MARK.len()).any(|w| w == MARK));
        assert!(reached.is_none(), "reached blue as {reached:02x?}");
    });
}

#[test]
fn processes_of_other_namespaces_are_not_affected() {
    isolated(|here| {
        here.pods();
        for (place, port) in [("lan", 8080), ("red", 8080), ("blue", 8080)] {
            for loopback in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                here.inside(place, || {
                    let at = (loopback, port);
                    refused(place, TcpStream::connect(at), ErrorKind::ConnectionRefused);
                    let own = TcpListener::bind(at).unwrap_or_else(|e| panic!("bind in {place}: {e}"));
                    let near = TcpStream::connect(at).expect("connect to its own listener");
                    let (_, peer) = own.accept().expect("accept");
                    assert_eq!(peer, near.local_addr().expect("own address"), "in {place}");
                });
            }
        }
    });
}

#[test]
fn a_published_port_cannot_be_bound() {
    isolated(|here| {
        here.pods();
        here.netns(["publish", "add", "blue", "192.0.2.2:8443:443", "127.0.0.1:5353:53/udp"]).ok();
        let tcp = |at: &str| TcpListener::bind(at).map(drop);
        let udp = |at: &str| UdpSocket::bind(at).map(drop);
        for at in ["0.0.0.0:8080", "127.0.0.1:8080", "192.0.2.2:8080", "10.244.0.1:8080", "[::]:8080", "[::1]:8080"] {
            refused(at, tcp(at), ErrorKind::AddrInUse);
            refused(at, udp(at), ErrorKind::AddrInUse);
        }
        for at in ["[::ffff:127.0.0.1]:8080", "0.0.0.0:9010", "0.0.0.0:8443", "[::]:8443", "192.0.2.2:8443"] {
            refused(at, tcp(at), ErrorKind::AddrInUse);
        }
        for at in ["0.0.0.0:5353", "127.0.0.1:5353", "[::]:5353"] {
            refused(at, udp(at), ErrorKind::AddrInUse);
        }
        // Other ports, protocols and addresses are free.
        for at in ["0.0.0.0:8079", "0.0.0.0:9011", "127.0.0.1:8443", "10.244.0.1:8443", "0.0.0.0:5353", "0.0.0.0:0"] {
            tcp(at).unwrap_or_else(|e| panic!("TCP {at}: {e}"));
        }
        for at in ["0.0.0.0:8443", "192.0.2.2:5353", "[::1]:5353", "0.0.0.0:9000", "224.0.0.251:5353"] {
            udp(at).unwrap_or_else(|e| panic!("UDP {at}: {e}"));
        }
        // Taken first come, first served: a listener keeps its port, and a port that is given up is free at once, with a
        // connection through it just closed.
        let listener = TcpListener::bind("127.0.0.1:7001").expect("listen");
        here.netns(["publish", "add", "blue", "7001:80"]).fails(2, &["7001"]);
        drop(listener);
        here.netns(["publish", "add", "blue", "7001:80"]).ok();
        let blue = Answerer::new(here, BLUE, Family::V4, 80);
        blue.connected("127.0.0.1:7001".parse().expect("an address"), GATEWAY.v4.into());
        here.netns(["publish", "del", "blue", "7001:80"]).ok();
        tcp("0.0.0.0:7001").expect("bind after it was given up");
        here.netns(["publish", "add", "blue", "7001:80"]).ok();
    });
}

#[test]
fn a_pod_without_a_way_from_the_host_is_unreachable() {
    isolated(|here| {
        here.lan();
        let mirror = "[[network]]\nname = \"mirror\"\nsubnets = [\"10.244.0.0/24\", \"fd00:244::/64\"]\n\
                      [[pod]]\nname = \"violet\"\nnetwork = \"mirror\"\naddress = [\"10.244.0.10\", \"fd00:244::10\"]\n\
                      publish = [\"8081:80\"]\n";
        here.up(&format!("{TOPOLOGY}\n{mirror}")).ok();
        for family in Family::ALL {
            // Red has the same address, and must not be taken for violet.
            let red = Answerer::new(here, RED, family, 80);
            red.tcp.set_nonblocking(true).expect("set non-blocking");
            for site in [LOOPBACK, uplink()] {
                let aim = SocketAddr::new(site.ip(family), 8081);
                refused("connecting to violet", TcpStream::connect(aim), ErrorKind::HostUnreachable);
            }
            refused("red", red.tcp.accept(), ErrorKind::WouldBlock);
        }
    });
}

#[test]
fn down_takes_the_hooks_away() {
    isolated(|here| {
        here.lan();
        here.file("topology.toml", TOPOLOGY);
        let before = here.snapshot();
        here.up(TOPOLOGY).ok();
        let cgroup = cgroup_root().expect("cgroup v2");
        let cgroup = cgroup.display();
        let program = here.tool("bpftool", "-j prog show pinned /sys/fs/bpf/netns-ebpf/default/progs/connect4");
        let program: serde_json::Value = serde_json::from_str(&program).expect("JSON");
        // Instances of other tests have hooks there as well, and keep them.
        let attached = || {
            let text = here.tool("bpftool", &format!("-j cgroup show {cgroup}"));
            // Where there is nothing, it prints nothing.
            let text = if text.trim().is_empty() { "[]" } else { &text };
            let list: Vec<serde_json::Value> = serde_json::from_str(text).expect("JSON");
            list.iter().any(|p| p["id"] == program["id"])
        };
        assert!(attached(), "{program:#}");
        let refused_port = TcpListener::bind("0.0.0.0:8080").map(drop);
        refused("bind while it is up", refused_port, ErrorKind::AddrInUse);
        here.netns(["down"]).ok();
        // The kernel frees a link some time after its pin.
        wait_until("the hook is gone", PATIENCE, || !attached());
        TcpListener::bind("0.0.0.0:8080").expect("bind after down");
        refused("connect after down", TcpStream::connect("127.0.0.1:8080"), ErrorKind::ConnectionRefused);
        before.assert_unchanged("after down");
    });
}

#[test]
fn without_cgroup_v2_all_else_works() {
    isolated(|here| {
        while let Ok(cgroup) = cgroup_root() {
            here.tool("umount", &format!("-l {}", cgroup.display()));
        }
        here.lan();
        let up = here.up(TOPOLOGY);
        assert!(up.stderr.contains("cgroup"), "{}", up.report());
        up.ok();
        assert_eq!(here.status()["host_sockets"], false);
        let text = here.netns(["status"]).ok();
        assert!(text.contains("do not reach published ports"), "{text}");
        refused("connect", TcpStream::connect("127.0.0.1:8080"), ErrorKind::ConnectionRefused);
        let loopback = here.netns(["publish", "add", "blue", "127.0.0.1:5353:53"]);
        assert!(loopback.stderr.contains("127.0.0.1:5353:53/tcp is reached by nobody"), "{}", loopback.report());
        loopback.ok();
        here.flows(&published(client(), RED, uplink(), 9000, 7000, client()));
        here.netns(["down"]).ok();
    });
}
