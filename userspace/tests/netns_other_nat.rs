//! Another NAT on the same host: nftables masquerades a namespace that is no pod, as container engines do.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use common::observer::PATIENCE;
use common::pods::{RED, TOPOLOGY, server, uplink};
use common::traffic::direct;
use common::{Isolated, isolated};
use netns::check::Family;
use netns_ebpf_common::btf::KERNEL_TYPES;
use socket2::{Domain, Socket, Type};

/// What both want to send from.
const PORT: u16 = 25_000;

/// The host as a router that masquerades `box`, whose addresses are returned, and a topology of pods beside it.
fn box_beside_pods(here: &Isolated) -> [IpAddr; 2] {
    here.lan();
    here.cable("box", "box0");
    here.tool("sysctl", "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    for (net, length, near, far) in [("172.30.0", 24, ".1", ".2"), ("fd99:30", 64, "::1", "::2")] {
        let nodad = if length == 64 { "nodad" } else { "" };
        here.ip(&format!("addr add {net}{near}/{length} dev box0 {nodad}"));
        here.ip(&format!("-n box addr add {net}{far}/{length} dev eth0 {nodad}"));
        here.ip(&format!("-n box route add default via {net}{near}"));
    }
    here.tool("nft", "add table inet engine");
    here.tool("nft", "add chain inet engine out { type nat hook postrouting priority 100 ; }");
    here.tool("nft", "add rule inet engine out oifname up0 masquerade");
    here.up(TOPOLOGY).ok();
    ["172.30.0.2", "fd99:30::2"].map(|a| a.parse().expect("an address"))
}

fn datagrams(here: &Isolated, place: &str, at: SocketAddr) -> UdpSocket {
    let socket = here.inside(place, || UdpSocket::bind(at).expect("bind"));
    socket.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
    socket
}

fn connection(here: &Isolated, place: &str, from: SocketAddr, to: SocketAddr) -> TcpStream {
    here.inside(place, || {
        let socket = Socket::new(Domain::for_address(from), Type::STREAM, None).expect("a socket");
        socket.bind(&from.into()).expect("bind");
        socket.connect_timeout(&to.into(), PATIENCE).expect("connect");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
        stream
    })
}

#[test]
fn a_port_another_nat_has_is_not_given_to_a_pod() {
    isolated(|here| {
        let boxed = box_beside_pods(here);
        for (family, boxed) in Family::ALL.into_iter().zip(boxed) {
            let (host, at) = (uplink().ip(family), SocketAddr::new(server().ip(family), 7));
            let clients = [("box", boxed), ("red", RED.ip(family))];

            let server = datagrams(here, "lan", at);
            let sockets = clients.map(|(place, address)| {
                let socket = datagrams(here, place, SocketAddr::new(address, PORT));
                socket.connect(at).expect("connect");
                socket.send(place.as_bytes()).expect("send");
                let mut block = [0; 16];
                let (length, peer) = server.recv_from(&mut block).expect("a datagram");
                assert_eq!(&block[..length], place.as_bytes());
                (place, socket, peer)
            });
            assert_eq!(sockets[0].2, SocketAddr::new(host, PORT), "the other NAT keeps the port");
            assert_eq!(sockets[1].2.ip(), host);
            assert_ne!(sockets[1].2.port(), PORT, "red got the port that box has towards the server");
            for (place, socket, peer) in &sockets {
                server.send_to(place.as_bytes(), peer).expect("send");
                let mut block = [0; 16];
                let length =
                    socket.recv(&mut block).unwrap_or_else(|e| panic!("{family:?}: {place} got no answer: {e}"));
                assert_eq!(&block[..length], place.as_bytes(), "{family:?}");
            }

            let listener = here.inside("lan", || TcpListener::bind(at).expect("listen"));
            let streams = clients.map(|(place, address)| {
                let mut stream = connection(here, place, SocketAddr::new(address, PORT), at);
                stream.write_all(b"?").expect("send");
                let (accepted, peer) = listener.accept().expect("accept");
                (place, stream, accepted, peer)
            });
            assert_eq!(streams[0].3, SocketAddr::new(host, PORT), "the other NAT keeps the port");
            assert_ne!(streams[1].3.port(), PORT, "red got the port that box has towards the server");
            for (place, mut stream, mut accepted, _) in streams {
                accepted.write_all(place.as_bytes()).expect("send");
                let mut block = [0; 3];
                stream.read_exact(&mut block).unwrap_or_else(|e| panic!("{family:?}: {place} got no answer: {e}"));
                assert_eq!(block, *place.as_bytes(), "{family:?}");
            }
        }
    });
}

#[test]
fn what_others_send_takes_no_port_from_pods() {
    isolated(|here| {
        box_beside_pods(here);
        for family in Family::ALL {
            // The host's connection tracking remembers it, as nobody's.
            let (host, at) = (uplink().ip(family), SocketAddr::new(server().ip(family), 7));
            let server = datagrams(here, "lan", at);
            server.send_to(b"uninvited", SocketAddr::new(host, PORT)).expect("send");
            let red = datagrams(here, "red", SocketAddr::new(RED.ip(family), PORT));
            let refused = server.recv_from(&mut [0; 16]).expect_err("nobody is there");
            assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock, "{family:?}: {refused}");
            red.send_to(b"red", at).expect("send");
            let (_, peer) = server.recv_from(&mut [0; 16]).expect("a datagram");
            assert_eq!(peer, SocketAddr::new(host, PORT), "{family:?}");
        }
    });
}

#[test]
fn without_the_look_up_pods_reach_the_lan_all_the_same() {
    isolated(|here| {
        // The types of a kernel that has connection tracking as a module, or not at all.
        let types = fs::read(KERNEL_TYPES).expect("the kernel's types");
        let name = b"\0bpf_skb_ct_lookup\0";
        let at = types.windows(name.len()).position(|w| w == name).expect("this kernel has it built in");
        let mut other = types;
        other[at + 1] = b'x';
        fs::write("/run/types", other).expect("write");
        here.tool("mount", &format!("--bind /run/types {KERNEL_TYPES}"));
        here.pods();
        here.tool("umount", KERNEL_TYPES);
        here.flows(&direct(RED, server(), uplink(), 63));
    });
}
