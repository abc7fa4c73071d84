//! Who attacks: a neighbour on the LAN, or root in a pod. Both send any frame.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use netns::check::Site;

use super::spray::Spray;
use crate::common::pods::{GATEWAY, uplink};
use crate::common::{Isolated, wait_for};
use crate::prog::{L4, Packet};
use netns::check::Family;

/// An attacker's socket, and the link-layer addresses on his wire.
pub struct Attacker {
    spray: Spray,
    own: [u8; 6],
    next_hop: [u8; 6],
}

impl Attacker {
    /// On the LAN, beside the uplink.
    pub fn on_lan(here: &Isolated) -> Self {
        let spray = here.inside("lan", || Spray::open("lan0"));
        Self { spray, own: here.mac("lan", "lan0"), next_hop: here.own_mac("up0") }
    }

    /// Root in a pod.
    pub fn in_pod(here: &Isolated, pod: Site) -> Self {
        // The gateway's MAC is known when something was sent to it.
        let nudge = || {
            here.inside(pod.name, || {
                let socket = UdpSocket::bind(SocketAddr::new(pod.v4.into(), 0)).expect("bind");
                let _ = socket.send_to(b"who are you", (GATEWAY.v4, 9));
            });
            here.ip(&format!("-n {} neigh show dev eth0", pod.name)).contains("lladdr").then_some(())
        };
        wait_for(Duration::from_secs(5), nudge).expect("the gateway answers ARP");
        let spray = here.inside(pod.name, || Spray::open("eth0"));
        Self { spray, own: here.mac(pod.name, "eth0"), next_hop: here.gateway_mac(pod.name) }
    }

    /// A frame of his with these addresses.
    pub fn frame(&self, src: IpAddr, dst: IpAddr, l4: L4) -> Vec<u8> {
        self.wrap(Packet::new(src, dst, l4))
    }

    /// A packet in a frame of his.
    pub fn wrap(&self, packet: Packet) -> Vec<u8> {
        let mut frame = Packet { eth_dst: self.next_hop, eth_src: self.own, ..packet }.bytes();
        frame.resize(frame.len().max(60), 0);
        frame
    }

    /// Sends frames.
    pub fn send<F: AsRef<[u8]>>(&self, frames: &[F]) {
        self.spray.send(frames);
    }

    /// Sends frames over and over for a time: how many there were a second.
    pub fn rate<F: AsRef<[u8]>>(&self, frames: &[F], time: Duration) -> f64 {
        self.spray.rate(frames, time)
    }

    /// The median rate of some rounds of a flood beside that of another one, in turn: (dear, ordinary).
    pub fn rates<F: AsRef<[u8]>>(&self, dear: &[F], ordinary: &[F]) -> (f64, f64) {
        let time = super::sized(Duration::from_millis(200), Duration::from_secs(1));
        let mut rounds = [Vec::new(), Vec::new()];
        for _ in 0..5 {
            rounds[0].push(self.rate(dear, time));
            rounds[1].push(self.rate(ordinary, time));
        }
        let [dear, ordinary] = rounds.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        });
        (dear, ordinary)
    }
}

/// The uplink's address with a port.
pub fn host(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(uplink().ip(family), port)
}

/// A TCP segment's transport with these numbers.
pub fn segment(ports: (u16, u16), flags: u8, seq: u32, ack: u32, payload: &[u8]) -> L4 {
    L4::Tcp { sport: ports.0, dport: ports.1, seq, ack, flags, window: 512, payload: payload.to_vec() }
}

/// Spoils the transport's checksum of a frame without options, at this offset in the transport.
pub fn spoil(frame: &mut [u8], family: Family, checksum_at: usize) {
    let at = 14 + if family == Family::V4 { 20 } else { 40 } + checksum_at;
    frame[at] ^= 0x55;
    frame[at + 1] ^= 0x55;
}
