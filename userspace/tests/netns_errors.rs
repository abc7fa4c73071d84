//! ICMP errors the programs make of packets whose checksum was left to a device.

mod common;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::frame::Tap;
use common::offload::set_tx_checksums;
use common::packet::{checksum, checksum6};
use common::pods::{RED, TOPOLOGY, client, uplink};
use common::wait::wait_for;
use common::{Isolated, isolated};
use netns::check::Family;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockRef, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(3);
/// Less than the uplink's.
const POD_MTU: usize = 1300;

/// An ICMP error on its way to the LAN's client: sums of the IP header and of the message are right.
#[track_caller]
fn assert_error(tap: &Tap, f: Family, kind: u8, about: u8, what: &str) {
    let l4_at = if f == Family::V4 { 34 } else { 54 };
    let is_error = |frame: &[u8]| match f {
        Family::V4 => frame[12..14] == [8, 0] && frame[23] == 1 && frame[l4_at] == kind && frame[l4_at + 17] == about,
        Family::V6 => {
            frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[l4_at] == kind && frame[l4_at + 14] == about
        }
    };
    let frame = tap.find(PATIENCE, is_error).unwrap_or_else(|| panic!("{what}: no error on the wire"));
    let sum = match f {
        Family::V4 => {
            assert_eq!(checksum(&frame[14..34]), 0, "{what}: the IP header");
            checksum(&frame[34..])
        }
        Family::V6 => {
            let address = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).expect("an address").into();
            checksum6(address(22), address(38), 58, &frame[54..])
        }
    };
    assert_eq!(sum, 0, "{what}: the message");
}

fn set_hops(socket: &impl std::os::fd::AsFd, f: Family, hops: u32) {
    let socket = SockRef::from(socket);
    match f {
        Family::V4 => socket.set_ttl_v4(hops),
        Family::V6 => socket.set_unicast_hops_v6(hops),
    }
    .expect("hop limit");
}

/// A datagram and a SYN whose hops run out at the host, and a datagram too large for the pod.
fn is_told(here: &Isolated, f: Family, what: &str) {
    let (from, to) = (SocketAddr::new(client().ip(f), 0), SocketAddr::new(uplink().ip(f), 8080));
    let (exceeded, too_big) = if f == Family::V4 { (11, 3) } else { (3, 2) };
    let tap = here.inside("lan", || Tap::open("lan0"));

    let connected = here.inside("lan", || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("socket");
        set_hops(&socket, f, 1);
        socket.bind(&from.into()).expect("bind");
        socket.connect_timeout(&to.into(), PATIENCE)
    });
    assert_error(&tap, f, exceeded, 6, &format!("{what}, a SYN with one hop left"));
    let told = connected.expect_err("no connection").raw_os_error();
    assert_eq!(told, Some(libc::EHOSTUNREACH), "{what}: the client is told");

    let socket = here.inside("lan", || UdpSocket::bind(from).expect("bind"));
    set_hops(&socket, f, 1);
    socket.connect(to).expect("connect");
    for bytes in [0, 1, 7, 600] {
        socket.send(&vec![0x5a; bytes]).expect("send");
        assert_error(&tap, f, exceeded, 17, &format!("{what}, {bytes} bytes with one hop left"));
    }

    set_hops(&socket, f, 64);
    socket.send(&[0x5a; POD_MTU]).expect("send");
    assert_error(&tap, f, too_big, 17, &format!("{what}, too large"));
    let told = wait_for(PATIENCE, || {
        let error = socket.send(&[0x5a; POD_MTU]).err()?;
        (error.raw_os_error() == Some(libc::EMSGSIZE)).then_some(())
    });
    assert!(told.is_some(), "{what}: the client is told the path's MTU");
}

/// The kernel looks for the neighbour of a pod's packet and does not find one: its error is the host's to hear, whose address the
/// packet has. The pod hears of it all the same, when the kernel has given up.
#[test]
fn a_pod_hears_that_nobody_has_an_address_of_the_lan() {
    isolated(|here| {
        here.pods();
        let absent = |f| -> std::net::IpAddr {
            match f {
                Family::V4 => [192, 0, 2, 77].into(),
                Family::V6 => "2001:db8:1::77".parse().expect("an address"),
            }
        };
        let told = |error: std::io::Error| error.raw_os_error();
        let tries = |f| {
            let to = SocketAddr::new(absent(f), 80);
            let datagrams = UdpSocket::bind(SocketAddr::new(RED.ip(f), 0)).expect("bind");
            datagrams.connect(to).expect("connect");
            // Without this a UDP socket is not told: the kernel takes it for something that may pass.
            match f {
                Family::V4 => setsockopt(&datagrams, sockopt::Ipv4RecvErr, &true),
                Family::V6 => setsockopt(&datagrams, sockopt::Ipv6RecvErr, &true),
            }
            .expect("ask for errors");
            let connected = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(20)).expect_err("nobody");
            let asked = wait_for(Duration::from_secs(20), || datagrams.send(b"anybody?").err());
            (told(connected), asked.and_then(told))
        };
        std::thread::scope(|scope| {
            let tries = Family::ALL.map(|f| (f, scope.spawn(move || here.inside(RED.name, || tries(f)))));
            for (f, tried) in tries {
                let found = tried.join().expect("the pod's part");
                assert_eq!(found, (Some(libc::EHOSTUNREACH), Some(libc::EHOSTUNREACH)), "{f:?}: by TCP, by UDP");
            }
        });
    });
}

/// Counters of messages the LAN could not believe.
fn disbelieved(here: &Isolated) -> (u64, u64) {
    here.inside("lan", || {
        let snmp = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("snmp");
        let mut icmp = snmp.lines().filter_map(|line| line.strip_prefix("Icmp: "));
        let (names, values) = (icmp.next().expect("names"), icmp.next().expect("values"));
        let mut pairs = names.split(' ').zip(values.split(' '));
        let v4 = pairs.find(|(name, _)| *name == "InCsumErrors").expect("a counter").1.parse().expect("a number");
        let snmp6 = std::fs::read_to_string("/proc/thread-self/net/snmp6").expect("snmp6");
        let v6 = snmp6.lines().find_map(|line| line.strip_prefix("Icmp6InCsumErrors")).expect("a counter");
        (v4, v6.trim().parse().expect("a number"))
    })
}

fn with_narrow_pods(body: impl FnOnce(&Isolated) + Send + 'static) {
    isolated(move |here| {
        here.lan();
        here.up(&TOPOLOGY.replace("masquerade = true", &format!("masquerade = true\nmtu = {POD_MTU}"))).ok();
        body(here);
    });
}

/// Each in a set-up of its own: the client remembers what it has learnt of the path.
fn errors_to_the_lan(offload: bool) {
    with_narrow_pods(move |here| {
        set_tx_checksums("up0", offload);
        for f in Family::ALL {
            is_told(here, f, &format!("offload {offload}, {f:?}"));
        }
        assert_eq!(disbelieved(here), (0, 0));
    });
}

#[test]
fn errors_to_the_lan_are_right_where_the_device_finishes_checksums() {
    errors_to_the_lan(true);
}

#[test]
fn errors_to_the_lan_are_right_where_the_kernel_finishes_checksums() {
    errors_to_the_lan(false);
}

#[test]
fn errors_to_a_pod_are_right_whoever_finishes_checksums() {
    with_narrow_pods(|here| {
        for (on, what) in [(true, "with offload"), (false, "without")] {
            set_tx_checksums("nn0", on);
            for f in Family::ALL {
                let tap = here.tap("red");
                let to = SocketAddr::new(client().ip(f), 9);
                here.inside("red", || {
                    let socket = UdpSocket::bind((RED.ip(f), 0)).expect("bind");
                    set_hops(&socket, f, 1);
                    socket.send_to(b"a datagram", to).expect("send");
                    let stream = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("socket");
                    set_hops(&stream, f, 1);
                    let told = stream.connect_timeout(&to.into(), PATIENCE).expect_err("no connection");
                    assert_ne!(told.kind(), ErrorKind::TimedOut, "{what}, {f:?}: red is told");
                });
                let exceeded = if f == Family::V4 { 11 } else { 3 };
                for proto in [17, 6] {
                    assert_error(&tap, f, exceeded, proto, &format!("{what}, {f:?}, protocol {proto}"));
                }
            }
        }
    });
}
