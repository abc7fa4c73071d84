//! One form for what both worlds may choose freely, and a check of every checksum on the way to it.

use std::net::IpAddr;

use super::End;
use crate::prog::packet::{checksum, pseudo_header};

/// A source port a world has chosen, and the sender's own, which is put in its place.
#[derive(Clone, Copy, Debug)]
pub struct Alias {
    /// Protocol.
    pub proto: u8,
    /// The address it was chosen at.
    pub addr: IpAddr,
    /// The port, or identifier.
    pub wire: u16,
    /// The sender's own.
    pub own: u16,
}

/// Most bytes of a packet both kernels quote in errors of their own.
const QUOTED: usize = 512;

/// A packet that came out, in one form for both worlds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Canonical {
    /// Where.
    pub end: End,
    /// It came in pieces.
    pub in_pieces: bool,
    /// The host made it, or else passed it on.
    pub originated: bool,
    /// IP header, checksums checked and cleared, and the rest.
    pub bytes: Vec<u8>,
}

/// A number of two bytes.
pub fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes one.
pub fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// An IP header as far as it matters here.
struct Header {
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    l4_at: usize,
}

/// Reads the header of a whole packet or of one's beginning.
fn header(packet: &[u8]) -> Result<Header, String> {
    let four = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).expect("four bytes");
    let sixteen = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen bytes");
    match packet.first().map(|b| b >> 4) {
        Some(4) if packet.len() >= 20 => {
            let l4_at = usize::from(packet[0] & 15) * 4;
            Ok(Header { src: four(12).into(), dst: four(16).into(), proto: packet[9], l4_at })
        }
        Some(6) if packet.len() >= 40 => {
            let (mut proto, mut l4_at) = (packet[6], 40);
            while proto == 60 && l4_at + 2 <= packet.len() {
                (proto, l4_at) = (packet[l4_at], l4_at + (usize::from(packet[l4_at + 1]) + 1) * 8);
            }
            Ok(Header { src: sixteen(8).into(), dst: sixteen(24).into(), proto, l4_at })
        }
        _ => Err(format!("no IP header: {packet:02x?}")),
    }
}

/// What tells a packet that is passed on from one the host makes: IPv4's identification, IPv6's flow label.
pub fn tag(packet: &[u8]) -> u16 {
    if packet[0] >> 4 == 4 { word(packet, 4) } else { word(packet, 2) }
}

/// Gives an IPv6 packet its tag; IPv4 has it from the builder.
pub fn set_tag(packet: &mut [u8], tag: u16) {
    if packet[0] >> 4 == 6 {
        put(packet, 2, tag);
    }
}

/// Whether this is one of the packets put in, a hop further.
pub fn is_passed(packet: &[u8], tags: &[(u16, u8)]) -> bool {
    let hop_limit = packet[if packet[0] >> 4 == 4 { 8 } else { 7 }];
    // No packet put in has 65 hops left: the host's own have 64.
    tags.contains(&(tag(packet), hop_limit.wrapping_add(1)))
}

/// The source port, or an echo's identifier.
pub fn source_port(packet: &[u8]) -> Result<u16, String> {
    let h = header(packet)?;
    let at = if matches!(h.proto, 1 | 58) { 4 } else { 0 };
    Ok(word(packet, h.l4_at + at))
}

/// Whether this opens a TCP connection.
pub fn is_syn(packet: &[u8]) -> bool {
    header(packet).is_ok_and(|h| h.proto == 6 && packet[h.l4_at + 13] & 0x3f == 2)
}

/// The canonical form of a packet; `tags` are of those put in.
pub fn canonical(
    end: End,
    in_pieces: bool,
    packet: &[u8],
    alias: Option<Alias>,
    tags: &[(u16, u8)],
) -> Result<Canonical, String> {
    let mut bytes = packet.to_vec();
    let v4 = bytes[0] >> 4 == 4;
    let h = header(&bytes)?;
    let originated = !is_passed(&bytes, tags);
    if v4 {
        if checksum(&bytes[..h.l4_at]) != 0 {
            return Err(format!("the header's checksum is wrong: {packet:02x?}"));
        }
        put(&mut bytes, 10, 0);
    }
    let l4 = &mut bytes[h.l4_at..];
    let error = is_error(h.proto, l4[0]);
    if let Some(at) = checksum_at(h.proto) {
        verify(&h, l4, at).map_err(|why| format!("{why}: {packet:02x?}"))?;
        // "None computed" stays apart from "right".
        let none = h.proto == 17 && word(l4, at) == 0;
        put(l4, at, if none { 0 } else { 1 });
    }
    rename(&h, l4, alias, None);
    if error {
        if originated && l4.len() > 8 + QUOTED {
            l4[8 + QUOTED..].fill(0);
        }
        let quote = &mut l4[8..];
        if let Ok(inner) = header(quote)
            && inner.l4_at + 8 <= quote.len()
        {
            let at = checksum_at(inner.proto).filter(|at| inner.l4_at + at + 2 <= quote.len());
            let (src, dst, proto) = (inner.src, inner.dst, inner.proto);
            rename(&Header { src, dst, proto, l4_at: 0 }, &mut quote[inner.l4_at..], alias, at);
        }
    }
    if originated {
        // RFC 1812 section 4.3.2.5 would have an error's service class taken from the packet it is about; ours has one for all.
        if v4 {
            bytes[1..8].fill(0);
        } else {
            bytes[1..6].fill(0);
            bytes[0] = 0x60;
        }
        if error {
            bytes.truncate((h.l4_at + 8 + QUOTED).min(bytes.len()));
            // Behind the quoted packet ours has a word that keeps the message right while a device finishes the packet's checksum.
            let quoted = quoted_bytes(&bytes[h.l4_at + 8..]);
            bytes.truncate((h.l4_at + 8 + quoted).min(bytes.len()));
            // Ours quotes whole words.
            let quote = bytes.len() - h.l4_at - 8;
            bytes.truncate(h.l4_at + 8 + (quote & !3));
        }
    }
    Ok(Canonical { end, in_pieces, originated, bytes })
}

/// The length of a quoted packet, by its header.
fn quoted_bytes(quote: &[u8]) -> usize {
    match quote.first().map(|b| b >> 4) {
        Some(4) => word(quote, 2).into(),
        _ => 40 + usize::from(word(quote, 4)),
    }
}

fn is_error(proto: u8, kind: u8) -> bool {
    matches!((proto, kind), (1, 3 | 4 | 5 | 11 | 12) | (58, 1..=127))
}

fn checksum_at(proto: u8) -> Option<usize> {
    match proto {
        6 => Some(16),
        17 => Some(6),
        1 | 58 => Some(2),
        _ => None,
    }
}

fn verify(h: &Header, l4: &[u8], at: usize) -> Result<(), &'static str> {
    if h.proto == 17 && word(l4, at) == 0 {
        return if h.src.is_ipv4() { Ok(()) } else { Err("UDP over IPv6 without a checksum") };
    }
    let pseudo = if h.proto == 1 { Vec::new() } else { pseudo_header(h.src, h.dst, h.proto, l4.len()) };
    let whole = checksum(&[&pseudo[..], l4].concat()) == 0;
    // A host leaves the rest to a device that can do it, and a veth says it can.
    let partial = word(l4, at) == !checksum(&pseudo);
    if whole || partial { Ok(()) } else { Err("the transport's checksum is wrong") }
}

/// Puts the sender's own port in the place of the chosen one. `checksum`: the field is kept true by RFC 1624's rule.
fn rename(h: &Header, l4: &mut [u8], alias: Option<Alias>, checksum: Option<usize>) {
    let Some(alias) = alias.filter(|a| a.proto == h.proto) else { return };
    let fields: &[(IpAddr, usize)] = match (h.proto, l4[0]) {
        (6 | 17, _) => &[(h.src, 0), (h.dst, 2)],
        (1, 8) | (58, 128) => &[(h.src, 4)],
        (1, 0) | (58, 129) => &[(h.dst, 4)],
        _ => &[],
    };
    for (addr, at) in fields {
        if *addr == alias.addr && word(l4, *at) == alias.wire {
            put(l4, *at, alias.own);
            if let Some(sum_at) = checksum
                && !(h.proto == 17 && word(l4, sum_at) == 0)
            {
                let sum = [!word(l4, sum_at), !alias.wire, alias.own].map(u32::from).iter().sum::<u32>();
                let sum = (sum & 0xffff) + (sum >> 16);
                let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
                put(l4, sum_at, sum);
            }
        }
    }
    // One number has two forms in the checksum's arithmetic.
    if let Some(sum_at) = checksum
        && word(l4, sum_at) == 0xffff
    {
        put(l4, sum_at, 0);
    }
}
