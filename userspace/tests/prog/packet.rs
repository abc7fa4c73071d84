//! Frames as values: built from scratch with all checksums, changed as a program would, built again.

use std::net::IpAddr;

use super::world::{GATEWAY, Place, Pod, ROUTER_MAC, UPLINK_MAC};

/// A family of the Internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

pub use Version::{V4, V6};

/// TCP flag bits.
pub mod flag {
    /// FIN.
    pub const FIN: u8 = 1;
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// ACK.
    pub const ACK: u8 = 16;
}

/// The transport and what it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP without options.
    Tcp { sport: u16, dport: u16, seq: u32, ack: u32, flags: u8, window: u16, payload: Vec<u8> },
    /// UDP; `checksum: false` says "none computed".
    Udp { sport: u16, dport: u16, checksum: bool, payload: Vec<u8> },
    /// SCTP with one chunk or none.
    Sctp { sport: u16, dport: u16, tag: u32, chunk: Vec<u8> },
    /// An echo request or reply.
    Echo { request: bool, id: u16, payload: Vec<u8> },
    /// Any ICMP message of the family.
    Icmp { kind: u8, code: u8, rest: [u8; 4], body: Vec<u8> },
    /// Bytes as they are.
    Raw { proto: u8, bytes: Vec<u8> },
}

/// Place of a piece in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Identification.
    pub id: u16,
    /// Offset in bytes, a multiple of 8.
    pub offset: u16,
    /// More follow.
    pub more: bool,
}

/// A frame with an IP packet in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Link-layer destination.
    pub eth_dst: [u8; 6],
    /// Link-layer source.
    pub eth_src: [u8; 6],
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub class: u8,
    /// IPv4: do not fragment.
    pub dont_fragment: bool,
    /// IPv4: identification.
    pub id: u16,
    /// IPv4 options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers, each with its number; the first two bytes of each are written by the builder (next header and
    /// length).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// The piece of a datagram this is.
    pub piece: Option<Piece>,
    /// The transport.
    pub l4: L4,
}

/// A packet from a pod to an address.
pub fn from_pod(pod: Pod, dst: IpAddr, l4: L4) -> Packet {
    let src = if dst.is_ipv4() { pod.at.v4.into() } else { pod.at.v6.into() };
    Packet { eth_dst: pod.gateway_mac(), eth_src: pod.mac, ..Packet::new(src, dst, l4) }
}

/// A packet from the LAN.
pub fn from_lan(src: IpAddr, dst: IpAddr, l4: L4) -> Packet {
    Packet { eth_dst: UPLINK_MAC, eth_src: ROUTER_MAC, ..Packet::new(src, dst, l4) }
}

/// A packet of the host itself to a network.
pub fn from_host(network: u16, src: IpAddr, dst: IpAddr, l4: L4) -> Packet {
    Packet { eth_dst: [0; 6], eth_src: super::world::gateway_mac(network), ..Packet::new(src, dst, l4) }
}

/// A datagram's transport, with a payload no two ports share.
pub fn udp(sport: u16, dport: u16) -> L4 {
    L4::Udp { sport, dport, checksum: true, payload: b"a datagram".to_vec() }
}

/// An SCTP packet's transport: a DATA chunk of 8 bytes.
pub fn sctp(sport: u16, dport: u16) -> L4 {
    let chunk = [&[0, 3, 0, 24, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0][..], b"a chunk."].concat();
    L4::Sctp { sport, dport, tag: 0x0102_0304, chunk }
}

/// The number both ends of a connection begin with.
pub const ISN: u32 = 1_000_000;

/// A TCP segment's transport, with the numbers it has in a connection of ends that have sent nothing but their SYNs.
pub fn tcp(sport: u16, dport: u16, flags: u8) -> L4 {
    let payload = if flags & (flag::SYN | flag::RST) == 0 { b"a segment's payload".to_vec() } else { Vec::new() };
    let seq = if flags & flag::SYN != 0 { ISN } else { ISN + 1 };
    let ack = if flags & flag::ACK != 0 { ISN + 1 } else { 0 };
    L4::Tcp { sport, dport, seq, ack, flags, window: 512, payload }
}

/// An echo request's or reply's transport.
pub fn echo(request: bool, id: u16) -> L4 {
    L4::Echo { request, id, payload: b"echo, echo".to_vec() }
}

/// An echo whose identifier, sequence number and payload are zeros.
pub fn zeros(request: bool, v: Version) -> L4 {
    let kind = match v {
        V4 => 8 * u8::from(request),
        V6 => 129 - u8::from(request),
    };
    L4::Icmp { kind, code: 0, rest: [0; 4], body: vec![0; 8] }
}

impl L4 {
    /// The same with another payload.
    pub fn with_payload(mut self, bytes: usize) -> Self {
        match &mut self {
            Self::Tcp { payload, .. } | Self::Udp { payload, .. } | Self::Echo { payload, .. } => {
                *payload = (0..bytes).map(|i| i as u8).collect();
            }
            Self::Sctp { chunk, .. } => chunk.resize(bytes, 0x5a),
            Self::Icmp { body, .. } => body.resize(bytes, 0),
            Self::Raw { bytes: raw, .. } => raw.resize(bytes, 0x5a),
        }
        self
    }

    /// The same with other ports; an echo's identifier is `sport` of a request and `dport` of a reply.
    pub fn with_ports(mut self, new_sport: u16, new_dport: u16) -> Self {
        match &mut self {
            Self::Tcp { sport, dport, .. } | Self::Udp { sport, dport, .. } | Self::Sctp { sport, dport, .. } => {
                (*sport, *dport) = (new_sport, new_dport);
            }
            Self::Echo { request, id, .. } => *id = if *request { new_sport } else { new_dport },
            Self::Icmp { .. } | Self::Raw { .. } => {}
        }
        self
    }

    /// The number in the IP header.
    pub fn proto(&self, v: Version) -> u8 {
        match self {
            Self::Tcp { .. } => 6,
            Self::Udp { .. } => 17,
            Self::Sctp { .. } => 132,
            Self::Echo { .. } | Self::Icmp { .. } => {
                if v == V4 {
                    1
                } else {
                    58
                }
            }
            Self::Raw { proto, .. } => *proto,
        }
    }

    /// Ports as the flow table sees them.
    pub fn ports(&self) -> (u16, u16) {
        match self {
            Self::Tcp { sport, dport, .. } | Self::Udp { sport, dport, .. } | Self::Sctp { sport, dport, .. } => {
                (*sport, *dport)
            }
            Self::Echo { request: true, id, .. } => (*id, 0),
            Self::Echo { request: false, id, .. } => (0, *id),
            Self::Icmp { .. } | Self::Raw { .. } => (0, 0),
        }
    }

    /// The bytes with their checksum.
    pub fn bytes(&self, src: IpAddr, dst: IpAddr) -> Vec<u8> {
        let v6 = src.is_ipv6();
        let (mut out, checksum_at, pseudo, zero_is_none) = match self {
            Self::Tcp { sport, dport, seq, ack, flags, window, payload } => {
                let mut b = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
                b.extend_from_slice(&seq.to_be_bytes());
                b.extend_from_slice(&ack.to_be_bytes());
                b.extend_from_slice(&[0x50, *flags]);
                b.extend_from_slice(&window.to_be_bytes());
                b.extend_from_slice(&[0; 4]);
                b.extend_from_slice(payload);
                (b, Some(16), true, false)
            }
            Self::Udp { sport, dport, checksum, payload } => {
                let length = (8 + payload.len()) as u16;
                let mut b = [sport.to_be_bytes(), dport.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
                b.extend_from_slice(payload);
                (b, checksum.then_some(6), true, true)
            }
            Self::Sctp { sport, dport, tag, chunk } => {
                let mut b =
                    [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &tag.to_be_bytes(), &[0; 4], chunk].concat();
                // RFC 9260 appendix A: the CRC's bytes go in the order in which it is computed.
                let sum = crc32c::crc32c(&b);
                b[8..12].copy_from_slice(&sum.to_le_bytes());
                (b, None, false, false)
            }
            Self::Echo { request, id, payload } => {
                let kind = match (v6, request) {
                    (false, true) => 8,
                    (false, false) => 0,
                    (true, true) => 128,
                    (true, false) => 129,
                };
                let mut b = vec![kind, 0, 0, 0];
                b.extend_from_slice(&id.to_be_bytes());
                b.extend_from_slice(&[0, 1]);
                b.extend_from_slice(payload);
                (b, Some(2), v6, false)
            }
            Self::Icmp { kind, code, rest, body } => {
                let mut b = vec![*kind, *code, 0, 0];
                b.extend_from_slice(rest);
                b.extend_from_slice(body);
                (b, Some(2), v6, false)
            }
            Self::Raw { bytes, .. } => (bytes.clone(), None, false, false),
        };
        if let Some(at) = checksum_at {
            let version = if v6 { V6 } else { V4 };
            let pseudo = if pseudo { pseudo_header(src, dst, self.proto(version), out.len()) } else { Vec::new() };
            let mut sum = checksum(&[&pseudo[..], &out].concat());
            if zero_is_none && sum == 0 {
                sum = 0xffff;
            }
            out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        out
    }
}

impl Packet {
    /// A packet with nothing special about it, hop limit 64.
    pub fn new(src: IpAddr, dst: IpAddr, l4: L4) -> Self {
        Self {
            eth_dst: [0; 6],
            eth_src: [0; 6],
            src,
            dst,
            hop_limit: 64,
            class: 0,
            dont_fragment: true,
            id: 0x1234,
            options: Vec::new(),
            extensions: Vec::new(),
            piece: None,
            l4,
        }
    }

    /// The family.
    pub fn version(&self) -> Version {
        if self.src.is_ipv4() { V4 } else { V6 }
    }

    /// The protocol number of the transport.
    pub fn proto(&self) -> u8 {
        self.l4.proto(self.version())
    }

    /// The whole frame.
    pub fn bytes(&self) -> Vec<u8> {
        let ethertype: [u8; 2] = if self.src.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        [&self.eth_dst[..], &self.eth_src, &ethertype, &self.ip_bytes()].concat()
    }

    /// From the IP header on.
    pub fn ip_bytes(&self) -> Vec<u8> {
        let l4 = self.l4.bytes(self.src, self.dst);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let words = 5 + self.options.len() / 4;
                let mut fragment = if self.dont_fragment { 0x4000 } else { 0 };
                let mut id = self.id;
                if let Some(piece) = self.piece {
                    fragment = (piece.offset / 8) | if piece.more { 0x2000 } else { 0 };
                    id = piece.id;
                }
                let mut b = vec![0x40 | words as u8, self.class];
                b.extend_from_slice(&((words * 4 + l4.len()) as u16).to_be_bytes());
                b.extend_from_slice(&id.to_be_bytes());
                b.extend_from_slice(&fragment.to_be_bytes());
                b.extend_from_slice(&[self.hop_limit, self.proto(), 0, 0]);
                b.extend_from_slice(&src.octets());
                b.extend_from_slice(&dst.octets());
                b.extend_from_slice(&self.options);
                let sum = checksum(&b);
                b[10..12].copy_from_slice(&sum.to_be_bytes());
                [b, l4].concat()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut chain = self.extensions.clone();
                if let Some(piece) = self.piece {
                    let at = piece.offset | u16::from(piece.more);
                    let id = u32::from(piece.id).to_be_bytes();
                    chain.push((44, [&[0, 0][..], &at.to_be_bytes(), &id].concat()));
                }
                let mut body = Vec::new();
                for (i, (kind, bytes)) in chain.iter().enumerate() {
                    let mut bytes = bytes.clone();
                    bytes[0] = chain.get(i + 1).map_or(self.proto(), |next| next.0);
                    bytes[1] = match kind {
                        44 => 0,
                        51 => (bytes.len() / 4 - 2) as u8,
                        _ => (bytes.len() / 8 - 1) as u8,
                    };
                    body.extend(bytes);
                }
                body.extend(l4);
                let first = chain.first().map_or(self.proto(), |c| c.0);
                let mut b = vec![0x60 | self.class >> 4, self.class << 4, 0, 0];
                b.extend_from_slice(&(body.len() as u16).to_be_bytes());
                b.extend_from_slice(&[first, self.hop_limit]);
                b.extend_from_slice(&src.octets());
                b.extend_from_slice(&dst.octets());
                [b, body].concat()
            }
            _ => panic!("{} and {} are of two families", self.src, self.dst),
        }
    }

    /// Reads a frame without options or extension headers back. What it says is what [`Self::bytes`] builds, or the frame is
    /// wrong.
    pub fn read(frame: &[u8]) -> Self {
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let mac = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]).expect("six bytes");
        let four = |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]).expect("four bytes");
        let v6 = word(12) == 0x86dd;
        let ip = |at: usize| -> IpAddr {
            if v6 { <[u8; 16]>::try_from(&frame[at..at + 16]).expect("an address").into() } else { four(at).into() }
        };
        let (src_at, dst_at, l4_at) = if v6 { (22, 38, 54) } else { (26, 30, 34) };
        let proto = if v6 { frame[20] } else { frame[23] };
        let rest = |at: usize| frame[l4_at + at..].to_vec();
        let number = |at: usize| u32::from_be_bytes(four(l4_at + at));
        let l4 = match (proto, frame[l4_at]) {
            (6, _) => L4::Tcp {
                sport: word(l4_at),
                dport: word(l4_at + 2),
                seq: number(4),
                ack: number(8),
                flags: frame[l4_at + 13],
                window: word(l4_at + 14),
                payload: rest(20),
            },
            (17, _) => {
                L4::Udp { sport: word(l4_at), dport: word(l4_at + 2), checksum: word(l4_at + 6) != 0, payload: rest(8) }
            }
            (132, _) => L4::Sctp { sport: word(l4_at), dport: word(l4_at + 2), tag: number(4), chunk: rest(12) },
            (1, 0 | 8) | (58, 128 | 129) => {
                L4::Echo { request: matches!(frame[l4_at], 8 | 128), id: word(l4_at + 4), payload: rest(8) }
            }
            (1 | 58, kind) => L4::Icmp { kind, code: frame[l4_at + 1], rest: four(l4_at + 4), body: rest(8) },
            _ => L4::Raw { proto, bytes: rest(0) },
        };
        Self {
            eth_dst: mac(0),
            eth_src: mac(6),
            hop_limit: if v6 { frame[21] } else { frame[22] },
            class: if v6 { frame[14] << 4 | frame[15] >> 4 } else { frame[15] },
            dont_fragment: v6 || frame[20] & 0x40 != 0,
            id: if v6 { 0 } else { word(18) },
            ..Self::new(ip(src_at), ip(dst_at), l4)
        }
    }

    /// As it comes to a pod: one hop less, from the gateway's MAC to the pod's.
    pub fn delivered(&self, to: Pod) -> Self {
        let mut p = self.clone();
        p.hop_limit -= 1;
        p.eth_dst = to.mac;
        p.eth_src = to.gateway_mac();
        p
    }

    /// As it leaves by an uplink: one hop less; the kernel writes the link layer after the program.
    pub fn sent_on(&self) -> Self {
        let mut p = self.clone();
        p.hop_limit -= 1;
        p
    }

    /// With other addresses and ports.
    pub fn translated(&self, src: (IpAddr, u16), dst: (IpAddr, u16)) -> Self {
        let mut p = self.clone();
        (p.src, p.dst) = (src.0, dst.0);
        p.l4 = p.l4.with_ports(src.1, dst.1);
        p
    }

    /// With another hop limit.
    pub fn hops(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    /// Cut in pieces of `cut` bytes of the transport, a multiple of 8; the last one may be shorter.
    pub fn in_pieces(&self, id: u16, cut: usize) -> Vec<Self> {
        let l4 = self.l4.bytes(self.src, self.dst);
        let pieces = l4.chunks(cut).enumerate();
        pieces.map(|(i, bytes)| self.piece(id, i * cut, (i + 1) * cut < l4.len(), bytes)).collect()
    }

    /// The piece of this datagram that has these bytes.
    pub fn piece(&self, id: u16, offset: usize, more: bool, bytes: &[u8]) -> Self {
        let mut p = self.clone();
        p.piece = Some(Piece { id, offset: offset as u16, more });
        p.l4 = L4::Raw { proto: self.proto(), bytes: bytes.to_vec() };
        p
    }

    /// Cut in two: the first `cut` bytes of the transport (a multiple of 8) and the rest.
    pub fn in_two(&self, id: u16, cut: usize) -> [Self; 2] {
        let l4 = self.l4.bytes(self.src, self.dst);
        [self.piece(id, 0, true, &l4[..cut]), self.piece(id, cut, false, &l4[cut..])]
    }
}

/// The Internet checksum, by the book: 16-bit words in network order, carries added, complemented.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What TCP, UDP and ICMPv6 put in front of their bytes before they sum.
pub fn pseudo_header(src: IpAddr, dst: IpAddr, proto: u8, length: usize) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            [&s.octets()[..], &d.octets(), &[0, proto], &(length as u16).to_be_bytes()].concat()
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            [&s.octets()[..], &d.octets(), &(length as u32).to_be_bytes(), &[0, 0, 0, proto]].concat()
        }
        _ => panic!("{src} and {dst} are of two families"),
    }
}
