//! SCTP from end to end, packet by packet: the kernels the tests run on need not have it.

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::frame::Tap;
use common::pods::{BLUE, GREEN, RED, client, server, uplink};
use common::who::{PATIENCE, SILENCE};
use common::{Isolated, isolated};
use netns::check::{Family, Site};
use socket2::{Domain, Protocol, Socket, Type};

const PORT: u16 = 2905;
const SCTP: i32 = 132;

/// A packet with one chunk, and its checksum.
fn packet(sport: u16, dport: u16, words: &[u8]) -> Vec<u8> {
    let length = 16 + words.len() as u16;
    let chunk = [&[0, 3][..], &length.to_be_bytes(), &[0; 12], words].concat();
    let mut p = [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[1, 2, 3, 4], &[0; 4], &chunk].concat();
    let sum = crc32c::crc32c(&p).to_le_bytes();
    p[8..12].copy_from_slice(&sum);
    p
}

/// A socket that sends and receives SCTP packets as they are.
struct Raw {
    socket: UdpSocket,
    is_v4: bool,
}

impl Raw {
    fn open(here: &Isolated, at: Site, family: Family) -> Self {
        let own = SocketAddr::new(at.ip(family), 0);
        let socket = here.inside(at.place, || {
            let domain = if own.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(SCTP))).expect("a raw socket");
            socket.bind(&own.into()).expect("bind");
            socket
        });
        // Its calls are those of any socket whose packets have an address.
        Self { socket: socket.into(), is_v4: own.is_ipv4() }
    }

    fn send(&self, to: IpAddr, bytes: &[u8]) {
        self.socket.send_to(bytes, (to, 0)).expect("send");
    }

    /// The next packet to this port, and who sent it; it must have a right checksum.
    fn receive(&self, port: u16, patience: Duration) -> Option<(IpAddr, Vec<u8>)> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).expect("set a time-out");
            let mut block = [0; 2048];
            let (n, from) = match self.socket.recv_from(&mut block) {
                Ok(got) => got,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
                // An ICMP error for what was sent before.
                Err(_) => continue,
            };
            let header = if self.is_v4 { usize::from(block[0] & 15) * 4 } else { 0 };
            let bytes = block[header..n].to_vec();
            if bytes[2..4] != port.to_be_bytes() {
                continue;
            }
            let mut clear = bytes.clone();
            clear[8..12].fill(0);
            assert_eq!(crc32c::crc32c(&clear).to_le_bytes(), bytes[8..12], "the checksum of {bytes:02x?}");
            return Some((from.ip(), bytes));
        }
    }
}

#[test]
fn a_published_association_goes_both_ways() {
    isolated(|here| {
        here.pods();
        here.netns(["publish", "add", "blue", "2905:2906/sctp"])
            .fails(2, &["2905:2906/sctp", "checksum", "2905:2905/sctp"]);
        here.netns(["publish", "add", "blue", "2905:2905/sctp"]).ok();
        assert!(here.netns(["publish", "list", "blue"]).ok().contains("sctp"));
        for family in Family::ALL {
            let blue = Raw::open(here, BLUE, family);
            for (from, seen_as) in [(client(), client()), (GREEN, uplink())] {
                let near = Raw::open(here, from, family);
                let sent = packet(40_000, PORT, b"INIT, as it were");
                near.send(uplink().ip(family), &sent);
                let got = blue.receive(PORT, PATIENCE);
                assert_eq!(got, Some((seen_as.ip(family), sent)), "{family:?} from {}", from.name);
                let answer = packet(PORT, 40_000, b"INIT ACK");
                blue.send(seen_as.ip(family), &answer);
                assert_eq!(
                    near.receive(40_000, PATIENCE),
                    Some((uplink().ip(family), answer)),
                    "{family:?} to {}",
                    from.name
                );
            }
        }
        // Not by another port, and no more when it is withdrawn, except what there is.
        let (near, blue) = (Raw::open(here, client(), Family::V4), Raw::open(here, BLUE, Family::V4));
        near.send(uplink().v4.into(), &packet(40_000, 2907, b"x"));
        assert_eq!(blue.receive(2907, SILENCE), None);
        here.netns(["publish", "del", "blue", "2905:2905/sctp"]).ok();
        near.send(uplink().v4.into(), &packet(40_000, PORT, b"of the association"));
        assert!(blue.receive(PORT, PATIENCE).is_some());
        near.send(uplink().v4.into(), &packet(40_001, PORT, b"a new one"));
        assert_eq!(blue.receive(PORT, SILENCE), None);
    });
}

#[test]
fn a_pods_association_keeps_its_port_or_is_refused() {
    isolated(|here| {
        here.pods();
        for family in Family::ALL {
            let (red, blue) = (Raw::open(here, RED, family), Raw::open(here, BLUE, family));
            let far = Raw::open(here, server(), family);
            // Outside the range of source NAT.
            let sent = packet(1000, PORT, b"INIT");
            red.send(server().ip(family), &sent);
            assert_eq!(far.receive(PORT, PATIENCE), Some((uplink().ip(family), sent)), "{family:?}");
            let answer = packet(PORT, 1000, b"INIT ACK");
            far.send(uplink().ip(family), &answer);
            assert_eq!(red.receive(1000, PATIENCE), Some((server().ip(family), answer)), "{family:?}");
            // The same port to the same server is red's.
            here.drops_more("ports-exhausted", "the port is red's", || {
                blue.send(server().ip(family), &packet(1000, PORT, b"of blue"));
                assert_eq!(far.receive(PORT, SILENCE), None);
            });
        }
    });
}

/// What a kernel without SCTP answers: protocol unreachable; an unrecognised next header.
#[test]
fn errors_about_an_association_reach_who_sent() {
    isolated(|here| {
        here.pods();
        here.netns(["publish", "add", "blue", "2905:2905/sctp"]).ok();
        let lan = here.inside("lan", || Tap::open("lan0"));
        for family in Family::ALL {
            let near = Raw::open(here, client(), family);
            near.send(uplink().ip(family), &packet(40_000, PORT, b"nobody"));
            let (own, to) = (client().ip(family), uplink().ip(family));
            let bytes = |a: IpAddr| match a {
                IpAddr::V4(a) => a.octets().to_vec(),
                IpAddr::V6(a) => a.octets().to_vec(),
            };
            // Ethernet, IP, ICMP's 8 bytes; then the packet as the client had sent it: its own address, the published one, ports.
            let (ip, src, header) = if own.is_ipv4() { (14, 12, 20) } else { (14, 8, 40) };
            let quote = ip + header + 8;
            let length = bytes(own).len();
            let told = lan.find(PATIENCE, |f| {
                let protocol = if length == 4 { f[ip + 9] } else { f[ip + 6] };
                let is_error = matches!((protocol, f.get(ip + header)), (1, Some(3)) | (58, Some(4)));
                is_error && f.get(ip + src..ip + src + length) == Some(&bytes(to)[..]) && f.len() > quote + header + 4
            });
            let told = told.unwrap_or_else(|| panic!("{family:?}: no error"));
            assert_eq!(told[quote + src..quote + src + 2 * length], [bytes(own), bytes(to)].concat(), "{told:02x?}");
            let ports = quote + header;
            assert_eq!(told[ports..ports + 4], [40_000_u16.to_be_bytes(), PORT.to_be_bytes()].concat());
        }
    });
}
