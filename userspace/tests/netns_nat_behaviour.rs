//! What the LAN sees of a pod's ports, and who reaches them: judged from outside as RFC 5780 does, with two addresses and two
//! ports that tell by what they see the pod.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use common::observer::PATIENCE;
use common::pods::{BLUE, RED, TOPOLOGY, client, server, uplink};
use common::{Isolated, isolated, wait_for, wait_until};
use netns::check::{Family, Site};
use netns::datapath::FlowRecord;
use socket2::{Domain, Socket, Type};

const PORTS: [u16; 2] = [3478, 3479];

/// What source NAT tells peers apart by, or lets in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    AddressAndPortDependent,
    AddressDependent,
    EndpointIndependent,
}
use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};

/// [`TOPOLOGY`] with keys for its network.
fn topology(keys: &str) -> String {
    TOPOLOGY.replacen("masquerade = true", &format!("masquerade = true\n{keys}"), 1)
}

const MAPPING: &str = "mapping = \"endpoint-independent\"";
const BOTH: &str = "mapping = \"endpoint-independent\"\nfiltering = \"endpoint-independent\"";

fn at(site: Site, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(site.ip(family), port)
}

/// A pod's or a server's socket for datagrams.
fn datagrams(here: &Isolated, at_site: Site, family: Family, port: u16) -> UdpSocket {
    let socket = here.inside(at_site.place, || UdpSocket::bind(at(at_site, family, port))).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
    socket
}

/// The servers' sockets: by address, then by port.
fn servers(here: &Isolated, family: Family) -> [[UdpSocket; 2]; 2] {
    [server(), client()].map(|site| PORTS.map(|port| datagrams(here, site, family, port)))
}

/// By what a server sees a socket.
#[track_caller]
fn seen(pod: &UdpSocket, server: &UdpSocket) -> SocketAddr {
    pod.send_to(b"who", server.local_addr().expect("own address")).expect("send");
    server.recv_from(&mut [0; 16]).expect("nothing came to the server").1
}

/// What the mapping of a socket depends on.
fn mapping(pod: &UdpSocket, servers: &[[UdpSocket; 2]; 2]) -> Behaviour {
    let [[first, other_port], [other_address, _]] = servers;
    let first = seen(pod, first);
    match (first == seen(pod, other_address), first == seen(pod, other_port)) {
        (true, true) => EndpointIndependent,
        (false, true) => AddressDependent,
        _ => AddressAndPortDependent,
    }
}

/// Who reaches a socket that has sent to the first server only.
fn filtering(pod: &UdpSocket, servers: &[[UdpSocket; 2]; 2]) -> Behaviour {
    let [[first, other_port], [other_address, _]] = servers;
    let to = seen(pod, first);
    other_port.send_to(b"port", to).expect("send");
    other_address.send_to(b"address", to).expect("send");
    // On one way nothing overtakes: when this is here, so would the others be.
    first.send_to(b"end", to).expect("send");
    let mut came = Vec::new();
    loop {
        let mut block = [0; 16];
        let (length, _) = pod.recv_from(&mut block).expect("the answer of whom it asked");
        match &block[..length] {
            b"end" => break,
            word => came.push(word.to_vec()),
        }
    }
    match (came.contains(&b"address".to_vec()), came.contains(&b"port".to_vec())) {
        (true, true) => EndpointIndependent,
        (false, true) => AddressDependent,
        _ => AddressAndPortDependent,
    }
}

fn classify(keys: &'static str, want: (Behaviour, Behaviour)) {
    isolated(move |here| {
        here.lan();
        here.up(&topology(keys)).ok();
        for family in Family::ALL {
            let servers = servers(here, family);
            // Blue has the port red would keep towards the first server, and there only if that matters.
            let blue = datagrams(here, BLUE, family, 25_000);
            assert_eq!(seen(&blue, &servers[0][0]), at(uplink(), family, 25_000));
            let red = datagrams(here, RED, family, 25_000);
            assert_eq!(mapping(&red, &servers), want.0, "mapping, {family:?}");
            assert_ne!(seen(&red, &servers[0][0]), at(uplink(), family, 25_000));
            let red = datagrams(here, RED, family, 25_002);
            assert_eq!(filtering(&red, &servers), want.1, "filtering, {family:?}");
        }
    });
}

#[test]
fn the_default_is_address_and_port_dependent() {
    classify("", (AddressAndPortDependent, AddressAndPortDependent));
}

#[test]
fn rfc4787_req_1_endpoint_independent_mapping() {
    classify(MAPPING, (EndpointIndependent, AddressAndPortDependent));
}

#[test]
fn rfc4787_req_8_endpoint_independent_filtering() {
    classify(BOTH, (EndpointIndependent, EndpointIndependent));
}

/// A TCP socket bound to a port others of the place may have too.
fn tcp(here: &Isolated, site: Site, family: Family, port: u16) -> Socket {
    let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = here.inside(site.place, || Socket::new(domain, Type::STREAM, None)).expect("a socket");
    socket.set_reuse_address(true).expect("share the address");
    socket.set_reuse_port(true).expect("share the port");
    socket.bind(&at(site, family, port).into()).expect("bind");
    socket
}

fn listen(here: &Isolated, site: Site, family: Family, port: u16) -> Socket {
    let socket = tcp(here, site, family, port);
    socket.listen(8).expect("listen");
    socket.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
    socket
}

/// Connects from a pod's port; returns both ends and by what the server sees the pod.
#[track_caller]
fn connect(here: &Isolated, from: (Site, u16), family: Family, to: &Socket) -> (Socket, Socket, SocketAddr) {
    let near = tcp(here, from.0, family, from.1);
    let aim = to.local_addr().expect("own address");
    near.connect_timeout(&aim, PATIENCE).expect("connect");
    let (far, peer) = to.accept().expect("accept");
    (near, far, peer.as_socket().expect("an address"))
}

/// Something goes from one end to the other.
fn carries(mut from: &Socket, mut to: &Socket) {
    to.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
    from.write_all(b"ping").expect("write");
    let mut block = [0; 4];
    to.read_exact(&mut block).expect("read");
    assert_eq!(&block, b"ping");
}

#[test]
fn rfc5382_req_1_tcp_has_mappings_too_and_an_uninvited_syn_gets_no_answer() {
    for keys in [MAPPING, BOTH] {
        isolated(move |here| {
            here.lan();
            here.up(&topology(keys)).ok();
            for family in Family::ALL {
                let listeners = [server(), client()].map(|site| listen(here, site, family, PORTS[0]));
                let _blue = connect(here, (BLUE, 25_000), family, &listeners[0]);
                let (near, far, first) = connect(here, (RED, 25_000), family, &listeners[0]);
                let (_near2, _far2, second) = connect(here, (RED, 25_000), family, &listeners[1]);
                assert_eq!(first, second, "one port for both");
                assert_ne!(first, at(uplink(), family, 25_000), "which is not blue's");
                let inside = listen(here, RED, family, 25_000);
                let outside = tcp(here, client(), family, 4000);
                if keys == BOTH {
                    outside.connect_timeout(&first.into(), PATIENCE).expect("connect to the mapping");
                    let (accepted, peer) = inside.accept().expect("accept");
                    assert_eq!(peer.as_socket(), Some(at(client(), family, 4000)));
                    carries(&outside, &accepted);
                    carries(&accepted, &outside);
                } else {
                    here.drops_more("filtered", "an uninvited SYN", || {
                        outside.set_nonblocking(true).expect("do not wait");
                        let began = outside.connect(&first.into()).expect_err("no answer");
                        assert_eq!(began.raw_os_error(), Some(115), "in progress");
                    });
                    let refused = outside.take_error().expect("look at the socket");
                    assert!(refused.is_none(), "{refused:?}");
                }
                carries(&near, &far);
                carries(&far, &near);
            }
        });
    }
}

#[test]
fn rfc4787_req_9_pods_reach_each_other_by_their_mappings() {
    isolated(|here| {
        here.lan();
        here.up(&topology(BOTH)).ok();
        for family in Family::ALL {
            let servers = servers(here, family);
            let (red, blue) = (datagrams(here, RED, family, 25_000), datagrams(here, BLUE, family, 25_000));
            let (blue_at, red_at) = (seen(&blue, &servers[0][0]), seen(&red, &servers[0][0]));
            assert_ne!(red_at, blue_at);
            let mut block = [0; 16];
            for (from, from_at, to, to_at) in [(&red, red_at, &blue, blue_at), (&blue, blue_at, &red, red_at)] {
                from.send_to(b"hello", to_at).expect("send");
                let (length, peer) = to.recv_from(&mut block).expect("from the other pod");
                assert_eq!((&block[..length], peer), (&b"hello"[..], from_at), "from its port of the host");
            }

            // TCP as well, checksums and sizes included.
            let listener = listen(here, server(), family, PORTS[0]);
            let (_near, _far, blue_at) = connect(here, (BLUE, 25_010), family, &listener);
            let inside = listen(here, BLUE, family, 25_010);
            let near = tcp(here, RED, family, 25_011);
            near.connect_timeout(&blue_at.into(), PATIENCE).expect("connect to blue's port of the host");
            let (far, peer) = inside.accept().expect("accept");
            let peer = peer.as_socket().expect("an address");
            assert_eq!(peer.ip(), uplink().ip(family), "as the LAN sees red: {peer}");
            let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
            let (mut from, mut to): (TcpStream, TcpStream) = (near.into(), far.into());
            to.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
            let copy = sent.clone();
            let writer = std::thread::spawn(move || from.write_all(&copy).map(|()| from));
            let mut got = vec![0; sent.len()];
            to.read_exact(&mut got).expect("all of it");
            assert!(got == sent, "what came is what was sent");
            writer.join().expect("the writer").expect("write");
        }
    });
}

#[test]
fn two_pods_open_the_way_to_each_other_through_their_filters() {
    isolated(|here| {
        here.lan();
        here.up(&topology(MAPPING)).ok();
        for family in Family::ALL {
            let servers = servers(here, family);
            let (red, blue) = (datagrams(here, RED, family, 25_000), datagrams(here, BLUE, family, 25_001));
            let (red_at, blue_at) = (seen(&red, &servers[0][0]), seen(&blue, &servers[0][0]));
            here.drops_more("filtered", "blue has not sent to red", || {
                red.send_to(b"first", blue_at).expect("send");
            });
            blue.send_to(b"second", red_at).expect("send");
            let mut block = [0; 16];
            assert_eq!(red.recv_from(&mut block).expect("blue's"), (6, blue_at));
            red.send_to(b"third", blue_at).expect("send");
            assert_eq!(blue.recv_from(&mut block).expect("red's"), (5, red_at));
        }
    });
}

#[test]
fn a_network_and_its_mappings_end_together() {
    isolated(|here| {
        here.lan();
        here.up(&topology(BOTH)).ok();
        let shown = here.netns(["status"]).ok();
        assert!(shown.contains("endpoint-independent, open to all"), "{shown}");
        let servers = servers(here, Family::V4);
        let red = datagrams(here, RED, Family::V4, 25_000);
        let red_at = seen(&red, &servers[0][0]);
        here.netns(["del", "red"]).ok();
        // Nobody's port is the host's again, which says so.
        let stranger = datagrams(here, client(), Family::V4, 4000);
        stranger.connect(red_at).expect("connect");
        let refused = wait_for(Duration::from_secs(3), || match stranger.send(b"anybody") {
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => Some(()),
            _ => None,
        });
        assert!(refused.is_some(), "{red_at} still leads somewhere");
        // What is left counts as absent; the agent takes it away.
        let _agent = here.netns_background(["agent"]);
        let is_its = |f: &FlowRecord| f.src == IpAddr::V4(RED.v4) || f.to_dst == IpAddr::V4(RED.v4);
        wait_until("the pod's flows to be gone", Duration::from_secs(30), || {
            !common::observer::flows().iter().any(is_its)
        });
    });
}
