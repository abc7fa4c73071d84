//! Frames out of a seed: of every kind the hooks know, as answers to what has come out of them, wrong in a few places, and
//! noise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netns::datapath::Hook;

use super::bench::{Meta, Notes, Output};
use super::dissect::{Dissected, dissect, dissect_l3};
use super::errors::Problem;
use super::packet::{ISN, L4, Packet, V4, V6, Version, echo, flag, from_host, from_lan, from_pod, sctp, tcp, udp};
use super::world::*;

/// Marsaglia's xorshift: the same numbers for the same seed.
pub struct Numbers(u64);

impl Numbers {
    /// From a seed; seeds that follow each other give numbers that have nothing in common.
    pub fn new(seed: u64) -> Self {
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((z ^ z >> 31) | 1)
    }

    /// The next 32 bits.
    pub fn word(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as u32
    }

    /// One of `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.word() as usize % n
    }

    /// A port no test uses.
    pub fn port(&mut self) -> u16 {
        1024 + (self.word() % 60_000) as u16
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.word() as u8).collect()
    }
}

/// A frame and where it comes by.
#[derive(Clone, Debug)]
pub struct Sending {
    /// The hook.
    pub hook: Hook,
    /// What it comes with.
    pub meta: Meta,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Frames kept for later: to be answered, cut up and quoted.
const KEPT_FRAMES: usize = 64;
/// Ports whose flows meet; none of them is [`QUIET`].
const PORTS: [u16; 10] = [20_000, 20_001, 20_002, 20_003, 32_767, 1000, 53, 80, 443, 40_000];
/// Ports of servers, and published ones.
const SERVICES: [u16; 12] = [53, 80, 443, 8080, 5353, 9000, 9003, 6000, 6001, 8443, 8081, 22];
/// A port no frame made here has but by chance.
pub const QUIET: u16 = 31_999;

/// Makes frames of a family.
pub struct Maker {
    numbers: Numbers,
    v: Version,
    uplinks: [u32; 2],
    answers: Vec<Sending>,
    outputs: Vec<Vec<u8>>,
}

impl Maker {
    /// From a seed, over the devices of a bench.
    pub fn new(seed: u64, v: Version, uplinks: [u32; 2]) -> Self {
        Self { numbers: Numbers::new(seed), v, uplinks, answers: Vec::new(), outputs: Vec::new() }
    }

    /// The next frame.
    pub fn sending(&mut self) -> Sending {
        let mut s = match self.numbers.below(16) {
            0 => self.noise(),
            1..=6 if !self.answers.is_empty() => {
                let at = self.numbers.below(self.answers.len());
                if self.numbers.one_in(4) { self.answers[at].clone() } else { self.answers.swap_remove(at) }
            }
            _ => self.fresh(),
        };
        if self.numbers.one_in(2) {
            for _ in 0..=self.numbers.below(3) {
                self.mutate(&mut s.frame);
            }
            if self.numbers.one_in(2) {
                let d = if s.hook == Hook::FromUplinkL3 { dissect_l3(&s.frame) } else { dissect(&s.frame) };
                if let Ok(d) = d {
                    d.write_checksums(&mut s.frame);
                }
            }
        }
        if self.numbers.one_in(64) {
            self.odd_meta(&mut s);
        }
        s
    }

    /// Learns what came out of a hook that sent a frame on.
    pub fn learn(&mut self, out: &Output) {
        keep(&mut self.numbers, &mut self.outputs, out.frame.clone());
        if out.notes.mark != 0 {
            // It turns back, and comes in by the uplink as it is.
            let meta = Meta { notes: out.notes, ..self.lan() };
            let mut frame = out.frame.clone();
            frame[..6].copy_from_slice(&UPLINK_MAC);
            keep(&mut self.numbers, &mut self.answers, Sending { hook: Hook::FromUplink, meta, frame });
        } else if let Some(answer) = self.answer(&out.frame) {
            keep(&mut self.numbers, &mut self.answers, answer);
        }
    }

    fn lan(&self) -> Meta {
        Meta { ifindex: self.uplinks[0], ingress_ifindex: self.uplinks[0], ..Meta::default() }
    }

    fn odd_meta(&mut self, s: &mut Sending) {
        match self.numbers.below(4) {
            0 => s.meta.gso_size = 1 + self.numbers.word() % 1400,
            1 => s.meta.notes.priority = self.numbers.word(),
            2 => s.meta.ingress_ifindex = self.uplinks[1],
            _ if s.hook == Hook::FromPod => s.meta.ifindex = self.uplinks[1],
            _ => s.meta.ifindex = self.uplinks[self.numbers.below(2)],
        }
    }

    fn noise(&mut self) -> Sending {
        let mut s = self.fresh();
        let (kept, length) = (self.numbers.pick(&[0, 14, 15, 34, 54]), 14 + self.numbers.below(200));
        let mut frame = self.numbers.bytes(length);
        let kept = kept.min(frame.len()).min(s.frame.len());
        frame[..kept].copy_from_slice(&s.frame[..kept]);
        s.frame = frame;
        s
    }

    fn fresh(&mut self) -> Sending {
        let v = self.v;
        let (hook, meta, mut packet) = match self.numbers.below(16) {
            0..=7 => {
                let pod = self.numbers.pick(&PODS);
                let meta = Meta { ifindex: pod.ifindex(), ..Meta::default() };
                if self.numbers.one_in(16) {
                    return Sending { hook: Hook::FromPod, meta, frame: self.neighbour_question(pod) };
                }
                let dst = self.destination();
                let l4 = self.transport(true, pod.ip(v), dst);
                let mut packet = from_pod(pod, dst, l4);
                if self.numbers.one_in(16) {
                    packet.src = self.destination();
                }
                (Hook::FromPod, meta, packet)
            }
            8..=13 => {
                let (src, dst) = (self.client(), self.hosts());
                let l4 = self.transport(false, src, dst);
                let at = self.uplinks[usize::from(self.numbers.one_in(8))];
                (Hook::FromUplink, Meta { ifindex: at, ingress_ifindex: at, ..Meta::default() }, from_lan(src, dst, l4))
            }
            14 => {
                let (src, dst) = (self.numbers.pick(&[GATEWAY, GATEWAY2, HOST]).ip(v), self.destination());
                let network = self.numbers.pick(&[1, 2, 3]);
                let l4 = self.transport(false, src, dst);
                let meta = Meta { ifindex: gateway_ifindex(network), ..Meta::default() };
                (Hook::FromHost, meta, from_host(network, src, dst, l4))
            }
            _ => {
                // BPF_PROG_TEST_RUN takes the protocol from where an Ethernet header has it, here a part of the source, and the
                // station from its first byte, here with the traffic class.
                let n = self.numbers.word() as u16;
                let src: IpAddr = match v {
                    V4 => Ipv4Addr::from(0x0800_0000 | u32::from(n)).into(),
                    V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x86dd, 0, 0, 0, 0, n).into(),
                };
                let dst = self.hosts();
                let l4 = self.transport(false, src, dst);
                (Hook::FromUplinkL3, self.lan(), Packet { class: 0x10, ..from_lan(src, dst, l4) })
            }
        };
        self.dress(&mut packet);
        if self.numbers.one_in(8) {
            packet = self.a_piece(&packet);
        }
        let frame = if hook == Hook::FromUplinkL3 { packet.ip_bytes() } else { packet.bytes() };
        Sending { hook, meta, frame }
    }

    /// Hop limits, options and extension headers.
    fn dress(&mut self, packet: &mut Packet) {
        if self.numbers.one_in(16) {
            packet.hop_limit = self.numbers.pick(&[0, 1, 2, 255]);
        }
        if !self.numbers.one_in(8) {
            return;
        }
        packet.class = self.numbers.word() as u8;
        packet.dont_fragment = self.numbers.one_in(2);
        if self.v == V4 {
            let words = 1 + self.numbers.below(10);
            let random = self.numbers.bytes(words * 4);
            packet.options = self
                .numbers
                .pick(&[&[1, 1, 7, 7, 4, 0, 0, 0, 0, 1, 0, 0][..], &[131, 7, 4, 0, 0, 0, 0, 0], &random])
                .to_vec();
            return;
        }
        for _ in 0..=self.numbers.below(4) {
            let kind = self.numbers.pick(&[0, 60, 60, 60, 43, 51, 135, 44]);
            let length = if kind == 44 { 8 } else { 8 * (1 + self.numbers.below(3)) };
            let mut bytes = vec![0, 0, 1, (length - 4) as u8];
            bytes.resize(length, 0);
            packet.extensions.push((kind, bytes));
        }
    }

    fn a_piece(&mut self, packet: &Packet) -> Packet {
        let cut = 8 * (1 + self.numbers.below(4));
        let pieces = packet.in_pieces(self.numbers.below(8) as u16, cut);
        let at = if self.numbers.one_in(2) { 0 } else { self.numbers.below(pieces.len().max(1)) };
        pieces.into_iter().nth(at).unwrap_or_else(|| packet.clone())
    }

    fn destination(&mut self) -> IpAddr {
        let places = [
            SERVER, SERVER, SERVER2, HOST, HOST, BLUE.at, RED.at, GREEN.at, GATEWAY, GATEWAY2, HOST2, NOBODY, CLIENT,
            KEPT, BARE_SIDE, SIDE, NOWHERE, YELLOW.at,
        ];
        match (self.numbers.below(24), self.v) {
            (0, _) => self.numbers.pick(&[LOOPBACK, NOBODY_AT_ALL]).ip(self.v),
            (1, V4) => self.numbers.pick(&[[255; 4], [224, 0, 0, 1], [10, 244, 0, 255], [169, 254, 0, 1]]).into(),
            (1, V6) => Ipv6Addr::new(self.numbers.pick(&[0xff02, 0xfe80, 0xff05]), 0, 0, 0, 0, 0, 0, 1).into(),
            _ => self.numbers.pick(&places).ip(self.v),
        }
    }

    fn client(&mut self) -> IpAddr {
        if self.numbers.one_in(16) {
            return self.destination();
        }
        self.numbers.pick(&[SERVER, SERVER, SERVER2, CLIENT, CLIENT, KEPT, ROUTER, BARE_SIDE]).ip(self.v)
    }

    fn hosts(&mut self) -> IpAddr {
        if self.numbers.one_in(8) {
            return self.destination();
        }
        self.numbers.pick(&[HOST, HOST, HOST, HOST2, YELLOW.at]).ip(self.v)
    }

    /// A pod's ports are its own first; who sends to the host answers them, or asks for a published one.
    fn ports(&mut self, pod: bool) -> (u16, u16) {
        let (own, service) = (self.numbers.pick(&PORTS), self.numbers.pick(&SERVICES));
        if pod || self.numbers.one_in(2) { (own, service) } else { (service, own) }
    }

    fn transport(&mut self, pod: bool, src: IpAddr, dst: IpAddr) -> L4 {
        let (sport, dport) = self.ports(pod);
        let mut l4 = match self.numbers.below(24) {
            0..=8 => {
                let any = self.numbers.word() as u8;
                let flags = self.numbers.pick(&[
                    flag::SYN,
                    flag::SYN,
                    flag::SYN,
                    flag::SYN | flag::ACK,
                    flag::ACK,
                    flag::ACK,
                    flag::FIN | flag::ACK,
                    flag::RST,
                    flag::RST | flag::ACK,
                    any,
                ]);
                let mut l4 = tcp(sport, dport, flags);
                if self.numbers.one_in(4)
                    && let L4::Tcp { seq, ack, window, .. } = &mut l4
                {
                    (*seq, *ack, *window) = (self.numbers.word(), self.numbers.word(), self.numbers.word() as u16);
                }
                l4
            }
            9..=14 => L4::Udp { sport, dport, checksum: !self.numbers.one_in(8), payload: b"a datagram".to_vec() },
            15 => sctp(sport, dport),
            16..=18 => echo(pod ^ self.numbers.one_in(4), sport),
            19..=21 => return self.error(src, dst),
            22 => {
                let kind =
                    if self.v == V4 { self.numbers.word() as u8 % 20 } else { 126 + self.numbers.word() as u8 % 20 };
                L4::Icmp { kind, code: 0, rest: [0; 4], body: self.numbers.bytes(24) }
            }
            _ => L4::Raw { proto: self.numbers.pick(&[0, 4, 41, 47, 50, 59, 89, 255]), bytes: self.numbers.bytes(16) },
        };
        if self.numbers.one_in(16) {
            l4 = l4.with_payload(self.numbers.pick(&[0, 1, 7, 200, 1200, 1372, 1472, 3000]) & !3);
        }
        l4
    }

    /// An ICMP error about something that was sent before, or may have been.
    fn error(&mut self, src: IpAddr, dst: IpAddr) -> L4 {
        let v = self.v;
        let problem = self.numbers.pick(&[
            Problem::TimeExceeded,
            Problem::TooBig(1280),
            Problem::TooBig(0),
            Problem::HostUnreachable,
            Problem::PortUnreachable,
        ]);
        let mut quote = if self.numbers.one_in(2) && !self.outputs.is_empty() {
            let at = self.numbers.below(self.outputs.len());
            self.outputs[at][14..].to_vec()
        } else {
            let (sport, dport) = self.ports(true);
            let l4 = self.numbers.pick(&[6, 17, 1, 132]);
            let l4 = match l4 {
                6 => tcp(sport, dport, flag::SYN),
                17 => udp(sport, dport),
                132 => sctp(sport, dport),
                _ => echo(true, sport),
            };
            Packet::new(dst, src, l4).ip_bytes()
        };
        if self.numbers.one_in(4) {
            quote.truncate(self.numbers.below(quote.len() + 1));
        }
        problem.quoting(v, &quote)
    }

    fn neighbour_question(&mut self, pod: Pod) -> Vec<u8> {
        let target = self.destination();
        match (pod.ip(self.v), target) {
            (IpAddr::V4(own), IpAddr::V4(target)) => [
                &[0xff; 6][..],
                &pod.mac,
                &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
                &pod.mac,
                &own.octets(),
                &[0; 6],
                &target.octets(),
            ]
            .concat(),
            (_, IpAddr::V6(target)) => {
                let body = [&target.octets()[..], &[1, 1], &pod.mac].concat();
                let t = target.octets();
                let group =
                    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(t[13]), u16::from_be_bytes([t[14], t[15]]));
                from_pod(pod, group.into(), L4::Icmp { kind: 135, code: 0, rest: [0; 4], body }).hops(255).bytes()
            }
            _ => unreachable!("one family"),
        }
    }

    /// Makes something wrong.
    fn mutate(&mut self, frame: &mut Vec<u8>) {
        const BYTES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x45, 0x60, 44];
        const WORDS: [u16; 12] = [0, 1, 7, 8, 19, 20, 40, 1280, 0x2000, 0x4000, 0x8000, 0xffff];
        let n = &mut self.numbers;
        if frame.is_empty() {
            return;
        }
        // Headers more often than what they carry.
        let end = if n.one_in(4) { frame.len() } else { frame.len().min(96) };
        let at = n.below(end);
        match n.below(10) {
            0 | 1 => frame[at] ^= 1 << n.below(8),
            2 => frame[at] = n.pick(&BYTES),
            3 if at + 1 < frame.len() => frame[at..at + 2].copy_from_slice(&n.pick(&WORDS).to_be_bytes()),
            // A length a little off.
            4 | 5 => {
                let at = n.pick(&[14, 16, 18, 38, 46, 58, 54, 55, 66]);
                if let Some(byte) = frame.get_mut(at + 1) {
                    *byte = byte.wrapping_add(n.pick(&[1, 0xff, 8, 0xf8, 4, 0xfc]));
                }
            }
            6 => frame.truncate(n.below(frame.len() + 1).max(14)),
            7 => frame.extend(std::iter::repeat_n(0, 1 + n.below(40))),
            8 if !self.outputs.is_empty() => {
                let other = &self.outputs[n.below(self.outputs.len())];
                let from = at.min(other.len());
                frame.truncate(at);
                frame.extend_from_slice(&other[from..]);
            }
            _ => {
                let piece = n.pick(&[1, 4, 8]).min(frame.len() - at);
                if n.one_in(2) {
                    frame.drain(at..at + piece);
                } else {
                    let copy = frame[at..at + piece].to_vec();
                    frame.splice(at..at, copy);
                }
            }
        }
    }

    /// What the receiver of a frame would say to it.
    fn answer(&mut self, frame: &[u8]) -> Option<Sending> {
        let d = dissect(frame).ok().filter(|d| !d.is_piece)?;
        let mut back = frame.to_vec();
        let (hook, meta) = if let Some(pod) = PODS.into_iter().find(|p| frame[..6] == p.mac) {
            back[6..12].copy_from_slice(&pod.mac);
            (Hook::FromPod, Meta { ifindex: pod.ifindex(), ..Meta::default() })
        } else {
            back[..6].copy_from_slice(&UPLINK_MAC);
            (Hook::FromUplink, self.lan())
        };
        turn_around(&mut self.numbers, &d, &mut back)?;
        Some(Sending { hook, meta, frame: back })
    }
}

/// Keeps something among the last few.
fn keep<T>(numbers: &mut Numbers, kept: &mut Vec<T>, new: T) {
    if kept.len() < KEPT_FRAMES {
        kept.push(new);
    } else {
        let at = numbers.below(kept.len());
        kept[at] = new;
    }
}

/// Makes an answer of a packet, in place.
fn turn_around(numbers: &mut Numbers, d: &Dissected, frame: &mut [u8]) -> Option<()> {
    let (src_at, length) = if d.version() == V4 { (d.l3_at + 12, 4) } else { (d.l3_at + 8, 16) };
    frame[src_at..src_at + 2 * length].rotate_left(length);
    frame[d.l3_at + if d.version() == V4 { 8 } else { 7 }] = 64;
    let l4 = d.l4_at;
    match d.proto {
        6 => {
            frame[l4..l4 + 4].rotate_left(2);
            let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"));
            let (ack, flags) = (number(l4 + 8), frame[l4 + 13]);
            let payload = (d.end - l4 - usize::from(frame[l4 + 12] >> 4) * 4) as u32;
            let counts = u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
            let (seq, flags) = match flags & (flag::SYN | flag::ACK | flag::FIN) {
                flag::SYN => (ISN, flag::SYN | flag::ACK),
                _ if numbers.one_in(16) => (ack, flag::RST | flag::ACK),
                _ if numbers.one_in(8) || flags & flag::FIN != 0 => (ack, flag::FIN | flag::ACK),
                _ => (ack, flag::ACK),
            };
            let next = number(l4 + 4).wrapping_add(payload).wrapping_add(counts);
            frame[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
            frame[l4 + 8..l4 + 12].copy_from_slice(&next.to_be_bytes());
            frame[l4 + 13] = flags;
        }
        17 | 132 => frame[l4..l4 + 4].rotate_left(2),
        // The other family's has no length one may trust.
        1 if d.version() == V4 && frame[l4] == 8 => frame[l4] = 0,
        58 if d.version() == V6 && frame[l4] == 128 => frame[l4] = 129,
        _ => return None,
    }
    let turned = if d.l3_at == 0 { dissect_l3(frame) } else { dissect(frame) };
    turned.ok()?.write_checksums(frame);
    Some(())
}
