//! Takes a frame with options, extension headers and pieces apart, by another hand than the programs': what they let go must
//! be well-formed to both.

use std::net::IpAddr;

use super::packet::{V4, V6, Version, checksum, flag, pseudo_header};

/// A frame with an IP packet in it, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dissected {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Protocol of the transport.
    pub proto: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Where the IP header begins.
    pub l3_at: usize,
    /// Where the transport begins.
    pub l4_at: usize,
    /// Where the packet ends; padding may follow.
    pub end: usize,
    /// Where a piece begins in its datagram.
    pub piece_at: usize,
    /// It is a piece of a datagram.
    pub is_piece: bool,
}

fn word(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Takes the packet behind an Ethernet header apart, or says what is wrong with it.
pub fn dissect(frame: &[u8]) -> Result<Dissected, &'static str> {
    if frame.len() < 14 {
        return Err("no link layer");
    }
    match word(frame, 12) {
        0x0800 => dissect4(frame, 14),
        0x86dd => dissect6(frame, 14),
        _ => Err("not IP"),
    }
}

/// As [`dissect`], of a frame that begins with the IP header.
pub fn dissect_l3(frame: &[u8]) -> Result<Dissected, &'static str> {
    match frame.first().map(|b| b >> 4) {
        Some(4) => dissect4(frame, 0),
        Some(6) => dissect6(frame, 0),
        _ => Err("not IP"),
    }
}

fn dissect4(frame: &[u8], l3_at: usize) -> Result<Dissected, &'static str> {
    let ip = &frame[l3_at..];
    if ip.len() < 20 || ip[0] >> 4 != 4 {
        return Err("no IPv4 header");
    }
    let (header, total) = (usize::from(ip[0] & 15) * 4, usize::from(word(ip, 2)));
    if header < 20 || total < header || total > ip.len() {
        return Err("IPv4 lengths");
    }
    let four = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).expect("four bytes"));
    let fragment = word(ip, 6);
    let d = Dissected {
        src: four(12),
        dst: four(16),
        proto: ip[9],
        hop_limit: ip[8],
        l3_at,
        l4_at: l3_at + header,
        end: l3_at + total,
        piece_at: usize::from(fragment & 0x1fff) * 8,
        is_piece: fragment & 0x3fff != 0,
    };
    d.transport(frame).map(|()| d)
}

fn dissect6(frame: &[u8], l3_at: usize) -> Result<Dissected, &'static str> {
    let ip = &frame[l3_at..];
    if ip.len() < 40 || ip[0] >> 4 != 6 {
        return Err("no IPv6 header");
    }
    let end = 40 + usize::from(word(ip, 4));
    if end > ip.len() {
        return Err("IPv6 length");
    }
    let sixteen = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).expect("sixteen bytes"));
    let (mut next, mut at, mut piece_at, mut is_piece) = (ip[6], 40, 0, false);
    while matches!(next, 0 | 43 | 44 | 51 | 60 | 135) && piece_at == 0 {
        if at + 8 > end {
            return Err("an extension header");
        }
        let length = match next {
            44 => 8,
            51 => (usize::from(ip[at + 1]) + 2) * 4,
            _ => (usize::from(ip[at + 1]) + 1) * 8,
        };
        if next == 44 {
            let fragment = word(ip, at + 2);
            piece_at = usize::from(fragment & !7);
            is_piece |= fragment & !6 != 0;
        }
        next = ip[at];
        at += length;
        if at > end {
            return Err("an extension header's length");
        }
    }
    let d = Dissected {
        src: sixteen(8),
        dst: sixteen(24),
        proto: next,
        hop_limit: ip[7],
        l3_at,
        l4_at: l3_at + at,
        end: l3_at + end,
        piece_at,
        is_piece,
    };
    d.transport(frame).map(|()| d)
}

impl Dissected {
    /// The family.
    pub fn version(&self) -> Version {
        if self.src.is_ipv4() { V4 } else { V6 }
    }

    /// The transport's header is there, and its lengths are true.
    fn transport(&self, frame: &[u8]) -> Result<(), &'static str> {
        if self.piece_at != 0 {
            return Ok(());
        }
        let l4 = &frame[self.l4_at..self.end];
        let ok = match self.proto {
            6 => l4.len() >= 20 && (20..=l4.len()).contains(&(usize::from(l4[12] >> 4) * 4)),
            17 => {
                l4.len() >= 8
                    && usize::from(word(l4, 4)) >= 8
                    && (self.is_piece || usize::from(word(l4, 4)) <= l4.len())
            }
            132 => l4.len() >= 12,
            1 if self.version() == V4 => l4.len() >= 8,
            58 if self.version() == V6 => l4.len() >= 8,
            _ => true,
        };
        if ok { Ok(()) } else { Err("the transport's lengths") }
    }

    /// Whether IPv4's header checksum is right; IPv6 has none.
    pub fn has_right_header_checksum(&self, frame: &[u8]) -> bool {
        self.version() == V6 || {
            let header = usize::from(frame[self.l3_at] & 15) * 4;
            checksum(&frame[self.l3_at..self.l3_at + header]) == 0
        }
    }

    /// Bytes of the transport its checksum is over, and where in them it stands; `None` if one frame does not tell, or the
    /// transport has no such checksum.
    fn summed(&self, frame: &[u8]) -> Option<(usize, usize)> {
        if self.is_piece {
            return None;
        }
        let length = self.end - self.l4_at;
        match (self.proto, self.version()) {
            (6, _) => Some((length, 16)),
            (17, _) => Some((usize::from(word(frame, self.l4_at + 4)), 6)),
            (1, V4) | (58, V6) => Some((length, 2)),
            _ => None,
        }
    }

    fn sum(&self, frame: &[u8], length: usize) -> u16 {
        let pseudo = match self.proto {
            1 => Vec::new(),
            _ => pseudo_header(self.src, self.dst, self.proto, length),
        };
        checksum(&[&pseudo, &frame[self.l4_at..self.l4_at + length]].concat())
    }

    /// Whether the transport's checksum is right, or UDP over IPv4 has none; `None` if one frame does not tell.
    pub fn has_right_transport_checksum(&self, frame: &[u8]) -> Option<bool> {
        let (length, at) = self.summed(frame)?;
        let none = self.proto == 17 && word(frame, self.l4_at + at) == 0;
        Some(if none { self.version() == V4 } else { self.sum(frame, length) == 0 })
    }

    /// Writes the checksums as they must be.
    pub fn write_checksums(&self, frame: &mut [u8]) {
        if self.version() == V4 {
            let (at, header) = (self.l3_at + 10, usize::from(frame[self.l3_at] & 15) * 4);
            frame[at..at + 2].fill(0);
            let sum = checksum(&frame[self.l3_at..self.l3_at + header]);
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        if let Some((length, at)) = self.summed(frame) {
            let at = self.l4_at + at;
            frame[at..at + 2].fill(0);
            let sum = self.sum(frame, length);
            let sum = if self.proto == 17 && sum == 0 { 0xffff } else { sum };
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// Type of an ICMP message of the family.
    pub fn icmp_type(&self, frame: &[u8]) -> Option<u8> {
        let is_icmp = self.piece_at == 0 && matches!((self.proto, self.version()), (1, V4) | (58, V6));
        is_icmp.then(|| frame[self.l4_at])
    }

    /// Whether it is an ICMP error.
    pub fn is_error(&self, frame: &[u8]) -> bool {
        match (self.icmp_type(frame), self.version()) {
            (Some(kind), V4) => matches!(kind, 3 | 11 | 12),
            (Some(kind), V6) => (1..=4).contains(&kind),
            (None, _) => false,
        }
    }

    /// Ports, as a flow it opens has them; `None` if it may open none whoever sends it.
    pub fn opens(&self, frame: &[u8]) -> Option<(u16, u16)> {
        if self.piece_at != 0 {
            return None;
        }
        let l4 = &frame[self.l4_at..self.end];
        let ports = || (word(l4, 0), word(l4, 2));
        match (self.proto, self.version()) {
            (6, _) => (l4[13] & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN).then(ports),
            (17 | 132, _) => Some(ports()),
            (1, V4) => (l4[0] == 8).then(|| (word(l4, 4), 0)),
            (58, V6) => (l4[0] == 128).then(|| (word(l4, 4), 0)),
            _ => None,
        }
    }
}
