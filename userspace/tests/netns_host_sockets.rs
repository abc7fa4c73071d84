//! Sockets of the host's own processes when what they are connected to by a published port changes.

mod common;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use common::pods::{GREEN, RED, TOPOLOGY, uplink};
use common::{Isolated, isolated, open_files};
use netns::check::{Family, Site};

const PATIENCE: Duration = Duration::from_secs(3);
const LOOPBACK: Site = Site { name: "loopback", place: "host", v4: Ipv4Addr::LOCALHOST, v6: Ipv6Addr::LOCALHOST };

/// Answers datagrams and connections on port 80 of a pod with the pod's name, until the test's end.
fn serve(here: &Isolated, pod: Site) {
    for family in Family::ALL {
        let at = (pod.ip(family), 80);
        let (datagrams, connections) =
            here.inside(pod.name, || (UdpSocket::bind(at).expect("bind UDP"), TcpListener::bind(at).expect("listen")));
        thread::spawn(move || {
            while let Ok((_, peer)) = datagrams.recv_from(&mut [0; 64]) {
                let _ = datagrams.send_to(pod.name.as_bytes(), peer);
            }
        });
        thread::spawn(move || {
            for mut stream in connections.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    while let Ok(1..) = stream.read(&mut [0; 64]) {
                        let _ = stream.write_all(pod.name.as_bytes());
                    }
                });
            }
        });
    }
}

/// Every way a process of the host names a port of its own.
fn aims(port: u16) -> Vec<SocketAddr> {
    let mapped = IpAddr::from(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
    let sites = Family::ALL.into_iter().flat_map(|family| [LOOPBACK.ip(family), uplink().ip(family)]);
    sites.chain([mapped]).map(|ip| SocketAddr::new(ip, port)).collect()
}

fn socket(aim: SocketAddr) -> UdpSocket {
    let any: IpAddr = if aim.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
    socket
}

fn connected(aim: SocketAddr) -> UdpSocket {
    let socket = socket(aim);
    socket.connect(aim).unwrap_or_else(|e| panic!("connect to {aim}: {e}"));
    socket
}

/// Who answers on a connected socket.
fn asked(socket: &UdpSocket) -> io::Result<String> {
    let mut block = [0; 64];
    socket.send(b"who")?;
    let length = socket.recv(&mut block)?;
    Ok(String::from_utf8_lossy(&block[..length]).into_owned())
}

fn told(stream: &mut TcpStream) -> io::Result<String> {
    let mut block = [0; 64];
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"who")?;
    match stream.read(&mut block)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        length => Ok(String::from_utf8_lossy(&block[..length]).into_owned()),
    }
}

/// The next call of a socket's process says that it was ended.
#[track_caller]
fn ended(socket: &UdpSocket, what: &str) {
    let error = socket.recv(&mut [0; 64]).expect_err(what);
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{what}: {error}");
}

fn names(found: &[(SocketAddr, UdpSocket)], expected: &str, when: &str) {
    for (aim, socket) in found {
        assert_eq!(asked(socket).unwrap_or_else(|e| panic!("{aim}, {when}: {e}")), expected, "{aim}, {when}");
    }
}

#[test]
fn connected_datagram_sockets_follow_a_publish() {
    isolated(|here| {
        here.pods();
        serve(here, RED);
        serve(here, GREEN);
        here.netns(["publish", "add", "red", "8082:80/udp"]).ok();
        let led: Vec<_> = aims(8080).into_iter().map(|aim| (aim, connected(aim))).collect();
        let other: Vec<_> = aims(8082).into_iter().map(|aim| (aim, connected(aim))).collect();
        let straight: Vec<_> =
            Family::ALL.map(|f| SocketAddr::new(RED.ip(f), 80)).into_iter().map(|aim| (aim, connected(aim))).collect();
        let loose = socket("127.0.0.1:8080".parse().expect("an address"));
        let ask_loosely = || {
            let mut block = [0; 64];
            loose.send_to(b"who", "127.0.0.1:8080").expect("send");
            let (length, from) = loose.recv_from(&mut block).expect("an answer");
            assert_eq!(from, "127.0.0.1:8080".parse().expect("an address"));
            String::from_utf8_lossy(&block[..length]).into_owned()
        };
        let all_else = |when: &str| {
            names(&other, "red", when);
            names(&straight, "red", when);
        };
        names(&led, "red", "at first");
        all_else("at first");
        assert_eq!(ask_loosely(), "red");

        let again = |when: &str| {
            for (aim, socket) in &led {
                ended(socket, &format!("{aim}, {when}"));
                socket.connect(aim).unwrap_or_else(|e| panic!("connect to {aim} again, {when}: {e}"));
            }
        };
        here.netns(["publish", "move", "8080:80/udp", "--to", "green"]).ok();
        again("moved");
        names(&led, "green", "moved");
        assert_eq!(ask_loosely(), "green", "an unconnected socket is told nothing");
        all_else("moved");

        here.netns(["publish", "drain", "8080:80/udp"]).ok();
        for (aim, socket) in &led {
            ended(socket, &format!("{aim}, drained"));
        }
        all_else("drained");
        let aim: SocketAddr = "127.0.0.1:8080".parse().expect("an address");
        let refused = socket(aim).connect(aim).expect_err("a draining publish");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        here.netns(["publish", "drain", "--undo", "8080:80/udp"]).ok();
        for (aim, socket) in &led {
            socket.connect(aim).expect("connect after it drained");
        }
        names(&led, "green", "after it drained");
        // Nothing changes for them: nothing ends.
        here.netns(["publish", "move", "8080:80/udp", "--to", "green"]).ok();
        names(&led, "green", "moved to where it is");

        here.netns(["publish", "del", "green", "8080:80/udp"]).ok();
        again("withdrawn");
        for (aim, socket) in &led {
            let error = asked(socket).expect_err("nobody is there");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{aim}: {error}");
        }
        all_else("withdrawn");
        here.netns(["publish", "add", "red", "8080:80/udp"]).ok();
        let led: Vec<_> = aims(8080).into_iter().map(|aim| (aim, connected(aim))).collect();
        names(&led, "red", "published again");
        // Who may come in is judged by the address the process asked for.
        here.netns(["publish", "set", "8080:80/udp", "--allow", "127.0.0.0/8"]).ok();
        for (aim, socket) in led {
            if aim.ip().to_canonical() == Ipv4Addr::LOCALHOST {
                assert_eq!(asked(&socket).expect("an answer"), "red", "{aim}");
            } else {
                ended(&socket, &format!("{aim}, not allowed any more"));
            }
        }
        all_else("with clients allowed");
    });
}

#[test]
fn connections_of_the_host_stay_unless_they_are_reset() {
    isolated(|here| {
        here.pods();
        serve(here, RED);
        serve(here, GREEN);
        let open = || -> Vec<_> {
            let connect = |aim| TcpStream::connect_timeout(&aim, PATIENCE).expect("connect");
            aims(8080).into_iter().map(|aim| (aim, connect(aim))).collect()
        };
        let stay = |open: &mut Vec<(SocketAddr, TcpStream)>, name: &str, when: &str| {
            for (aim, stream) in open {
                assert_eq!(told(stream).unwrap_or_else(|e| panic!("{aim}, {when}: {e}")), name, "{aim}, {when}");
                assert_eq!(stream.peer_addr().expect("getpeername"), *aim, "{when}");
            }
        };
        let mut first = open();
        stay(&mut first, "red", "at first");
        here.netns(["publish", "move", "8080:80/tcp", "--to", "green"]).ok();
        stay(&mut first, "red", "moved");
        here.netns(["publish", "del", "green", "8080:80/tcp"]).ok();
        stay(&mut first, "red", "withdrawn");
        // The index is the next owner's now, whose end is not theirs.
        here.netns(["publish", "add", "green", "8080:80/tcp"]).ok();
        let mut second = open();
        stay(&mut second, "green", "published again");
        here.netns(["publish", "del", "--reset", "green", "8080:80/tcp"]).ok();
        for (aim, stream) in &mut second {
            let error = told(stream).expect_err("a connection that was reset");
            let reset = [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(reset.contains(&error.kind()), "{aim}: {error}");
        }
        stay(&mut first, "red", "after its successor was reset");
    });
}

#[test]
fn flows_of_the_host_are_counted() {
    isolated(|here| {
        here.pods();
        serve(here, RED);
        let flows = |publish: &str| {
            let status = here.status();
            let rows = status["publishes"].as_array().expect("a list").clone();
            let row = rows.into_iter().find(|p| p["publish"] == publish).unwrap_or_else(|| panic!("no {publish}"));
            (row["flows"].as_u64().expect("a number"), row["packets"].as_u64().expect("a number"))
        };
        for aim in aims(8080) {
            told(&mut TcpStream::connect_timeout(&aim, PATIENCE).expect("connect")).expect("an answer");
            let connected = connected(aim);
            let loose = socket(aim);
            for _ in 0..3 {
                asked(&connected).expect("an answer");
                loose.send_to(b"who", aim).expect("send");
                loose.recv_from(&mut [0; 64]).expect("an answer");
            }
        }
        let n = aims(8080).len() as u64;
        assert_eq!(flows("8080:80/tcp"), (n, 0), "one for each connection");
        assert_eq!(flows("8080:80/udp"), (2 * n, 0), "one for each socket, whatever it sends");
    });
}

#[test]
fn the_kernel_gives_no_published_port_to_a_socket_that_asks_for_any() {
    const KEY: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let reserved = || std::fs::read_to_string(KEY).expect("read").trim().to_owned();
    isolated(move |here| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 41099").expect("a small range");
        std::fs::write(KEY, "40003").expect("reserve");
        here.lan();
        here.file("topology.toml", TOPOLOGY);
        let before = here.snapshot();
        here.up(TOPOLOGY).ok();
        assert_eq!(reserved(), "20000-32767,40003");
        here.netns(["publish", "add", "red", "40000-40049:1000-1049/udp", "40010:80/tcp"]).ok();
        assert_eq!(reserved(), "20000-32767,40000-40049");
        // All the others can be had, at once.
        open_files(1500);
        let any: Vec<UdpSocket> = (0..1050).map(|_| UdpSocket::bind("0.0.0.0:0").expect("bind")).collect();
        for socket in &any {
            let port = socket.local_addr().expect("own address").port();
            assert!((40_050..=41_099).contains(&port), "{port}");
        }
        let more = UdpSocket::bind("0.0.0.0:0").expect_err("none is left");
        assert_eq!(more.kind(), ErrorKind::AddrInUse);
        drop(any);
        here.netns(["publish", "del", "red", "40000-40049:1000-1049/udp"]).ok();
        assert_eq!(reserved(), "20000-32767,40003,40010");
        // The store is lost: what is published says what was reserved.
        std::fs::write("/run/netns-ebpf/default/state.db", "").expect("damage the store");
        here.netns(["down", "--force"]).ok();
        assert_eq!(reserved(), "40003");
        here.up(TOPOLOGY).ok();
        here.netns(["publish", "add", "red", "40020:80"]).ok();
        here.netns(["down"]).ok();
        before.assert_unchanged("after down");
    });
}
