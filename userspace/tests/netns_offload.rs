//! Checksums pods leave to the device: the transport's own is computed wherever the packet goes; no other lets a device write
//! over what was judged, such as the source port.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use common::frame::Tap;
use common::observer::PATIENCE;
use common::offload::{HEADER_BYTES, partial, set_tx_checksums};
use common::packet::{ethernet, icmp6, ipv4, ipv6, pseudo_sum, udp};
use common::pods::{BLUE, RED, TOPOLOGY, server, uplink};
use common::traffic::{both, direct, published};
use common::{Isolated, isolated};
use netns::check::{Family, Probe, Target};

const ETH: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// In every frame a test sends.
const MARK: &[u8] = b"its checksum is for the device to compute";
const REASON: &str = "checksum-offload";

/// Red with a packet socket that takes offload headers.
struct Sender {
    tap: Tap,
    mac: [u8; 6],
    gateway: [u8; 6],
}

impl Sender {
    fn new(here: &Isolated) -> Self {
        here.flows(&direct(RED, BLUE, RED, 63));
        let tap = here.tap("red").with_offload_headers();
        Self { tap, mac: here.mac("red", "eth0"), gateway: here.gateway_mac("red") }
    }

    fn send(&self, header: [u8; HEADER_BYTES], packet: &[u8]) {
        let ethertype = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        self.tap.send(&[&header[..], &ethernet(self.gateway, self.mac, ethertype, packet)].concat());
    }
}

/// Length of the link-layer and IP headers.
fn l4_off(family: Family) -> usize {
    match family {
        Family::V4 => ETH + 20,
        Family::V6 => ETH + 40,
    }
}

fn packet(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(src, dst, protocol, payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6(src, dst, protocol, 64, payload),
        _ => panic!("{src} and {dst} are of two families"),
    }
}

/// A datagram of red's with a pseudo header's sum for a checksum, as Linux leaves it to a device.
fn datagram(family: Family, to: SocketAddr) -> Vec<u8> {
    let mut bytes = udp(25_000, to.port(), MARK);
    let sum = pseudo_sum(RED.ip(family), to.ip(), UDP, bytes.len());
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    packet(RED.ip(family), to.ip(), UDP, &bytes)
}

/// A SYN of red's, the same way.
fn syn(family: Family, to: IpAddr) -> Vec<u8> {
    let mut bytes = [&25_001_u16.to_be_bytes()[..], &80_u16.to_be_bytes(), &[0; 8], &[0x50, 2, 255, 255]].concat();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(MARK);
    let sum = pseudo_sum(RED.ip(family), to, TCP, bytes.len());
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    packet(RED.ip(family), to, TCP, &bytes)
}

fn is_marked(frame: &[u8]) -> bool {
    frame.windows(MARK.len()).any(|w| w == MARK)
}

#[test]
fn no_device_writes_over_what_was_judged() {
    isolated(|here| {
        here.pods();
        let red = Sender::new(here);
        let lan = here.inside("lan", || Tap::open("lan0"));
        let blue = here.tap("blue");
        for on in [true, false] {
            set_tx_checksums("up0", on);
            for family in Family::ALL {
                let l4 = l4_off(family);
                let refused = |what: &str, start: usize, offset: usize, packet: &[u8]| {
                    let what = format!("{family:?}, device computes: {on}, {what}");
                    here.drops_more(REASON, &what, || red.send(partial(start, offset), packet));
                    for (tap, place) in [(&lan, "the LAN"), (&blue, "blue")] {
                        let reached = tap.find(Duration::ZERO, is_marked);
                        assert!(reached.is_none(), "{what}: reached {place} as {reached:02x?}");
                    }
                };
                for to in [server().ip(family), BLUE.ip(family)] {
                    let datagram = datagram(family, SocketAddr::new(to, 7));
                    // A sum that begins before the transport is refused by the packet socket itself.
                    refused("over the source port", l4, 0, &datagram);
                    refused("over the destination port", l4, 2, &datagram);
                    refused("over the length", l4, 4, &datagram);
                    refused("of the port on", l4 + 2, 4, &datagram);
                    let syn = syn(family, to);
                    refused("over a SYN's source port", l4, 0, &syn);
                    refused("over a SYN's numbers", l4, 4, &syn);
                    refused("over a SYN's flags", l4, 12, &syn);
                    refused("over a SYN's data", l4 + 20, 2, &syn);
                }
                let echo = match (RED.ip(family), server().ip(family)) {
                    (IpAddr::V6(src), IpAddr::V6(dst)) => {
                        packet(src.into(), dst.into(), 58, &icmp6(src, dst, 128, 0, &[&[0, 1, 0, 1], MARK].concat()))
                    }
                    (src, dst) => packet(src, dst, 1, &[&[8, 0, 0, 0, 0, 1, 0, 1], MARK].concat()),
                };
                refused("over an echo's identifier", l4, 4, &echo);
                refused("over an echo's checksum", l4, 2, &echo);
            }
        }
        let mut piece = datagram(Family::V4, SocketAddr::new(BLUE.v4.into(), 7));
        piece.truncate(20 + 24);
        piece[2..4].copy_from_slice(&44_u16.to_be_bytes());
        piece[6..8].copy_from_slice(&[0x20, 100]);
        let sum = common::packet::checksum(&[&piece[..10], &[0, 0], &piece[12..20]].concat());
        piece[10..12].copy_from_slice(&sum.to_be_bytes());
        here.drops_more(REASON, "in a later piece", || red.send(partial(ETH + 20, 6), &piece));
    });
}

#[test]
fn the_transports_own_is_computed_on_the_way() {
    isolated(|here| {
        here.pods();
        let red = Sender::new(here);
        for on in [true, false] {
            set_tx_checksums("up0", on);
            for family in Family::ALL {
                let at = SocketAddr::new(server().ip(family), 7);
                let socket = here.inside("lan", || UdpSocket::bind(at).expect("bind"));
                socket.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
                red.send(partial(l4_off(family), 6), &datagram(family, at));
                let mut block = [0; 128];
                let (length, peer) = socket.recv_from(&mut block).expect("a datagram whose checksum is right");
                assert_eq!(&block[..length], MARK);
                assert_eq!(peer, SocketAddr::new(uplink().ip(family), 25_000), "device computes: {on}");
            }
        }
        assert_eq!(here.drops(REASON), 0);
    });
}

#[test]
fn what_sockets_leave_to_the_device_passes() {
    isolated(|here| {
        here.pods();
        let (target, bytes, hop_limit) = (Target::Direct, 100, 63);
        for (protocol, offset) in [(TCP, 16_u16), (UDP, 6)] {
            let eyes = here.tap("red").with_offload_headers();
            here.flows(&both(RED, server(), |f| match protocol {
                TCP => Probe::Tcp { bytes, target, seen_as: uplink().ip(f) },
                _ => Probe::Udp { bytes, target, seen_as: uplink().ip(f), hop_limit },
            }));
            let left = eyes.find(Duration::ZERO, |block| {
                let (header, frame) = block.split_at(HEADER_BYTES);
                let own = partial(ETH + 20, offset.into());
                header[0] & own[0] != 0 && header[6..] == own[6..] && frame[12..14] == [8, 0] && frame[23] == protocol
            });
            assert!(
                left.is_some(),
                "red leaves no checksum of protocol {protocol} to the device: this test shows nothing"
            );
        }
        for on in [true, false] {
            set_tx_checksums("up0", on);
            here.flows(&direct(RED, server(), uplink(), 63));
            here.flows(&direct(RED, BLUE, RED, 63));
            here.flows(&published(server(), RED, uplink(), 9000, 7000, server()));
        }
        assert_eq!(here.drops(REASON), 0);
    });
}

#[test]
fn a_tunnel_of_pods_may_leave_those_of_the_packets_inside() {
    isolated(|here| {
        here.pods();
        let ends = [(RED, BLUE, "172.16.9.1", "fd99::1"), (BLUE, RED, "172.16.9.2", "fd99::2")];
        for (near, far, inside4, inside6) in ends {
            let (name, local, remote) = (near.name, near.v4, far.v4);
            // Without a checksum of its own, the tunnel's leaves that of the packet inside to the device.
            here.ip(&format!(
                "-n {name} link add tunnel type vxlan id 9 dstport 4789 local {local} remote {remote} noudpcsum"
            ));
            here.ip(&format!("-n {name} addr add {inside4}/24 dev tunnel"));
            here.ip(&format!("-n {name} addr add {inside6}/64 dev tunnel nodad"));
            here.ip(&format!("-n {name} link set tunnel mtu 1400 up"));
        }
        let eyes = here.tap("red").with_offload_headers();
        let inside = |site, [v4, v6]: [&str; 2]| netns::check::Site {
            v4: v4.parse().expect("an IPv4 address"),
            v6: v6.parse().expect("an IPv6 address"),
            ..site
        };
        let (red, blue) = (inside(RED, [ends[0].2, ends[0].3]), inside(BLUE, [ends[1].2, ends[1].3]));
        here.flows(&direct(red, blue, red, 64));
        let left = eyes.find(Duration::ZERO, |block| {
            let (header, frame) = block.split_at(HEADER_BYTES);
            header[0] == 1 && u16::from_ne_bytes([header[6], header[7]]) > 42 && frame[36..38] == 4789_u16.to_be_bytes()
        });
        assert!(left.is_some(), "red leaves no checksum inside the tunnel to the device: this test shows nothing");
        assert_eq!(here.drops(REASON), 0);
    });
}

#[test]
fn where_checksums_cannot_be_judged_nothing_comes_up() {
    isolated(|here| {
        here.lan();
        // A kernel built without its types.
        here.tool("mount", "-t tmpfs none /sys/kernel/btf");
        here.up(TOPOLOGY).fails(2, &["no type information (/sys/kernel/btf/vmlinux)", "CONFIG_DEBUG_INFO_BTF"]);
        here.tool("umount", "/sys/kernel/btf");
        here.up(TOPOLOGY).ok();
    });
}
