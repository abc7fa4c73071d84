//! ICMP errors, built by hand.

use std::net::IpAddr;

use super::packet::{L4, Packet, V4, V6, Version, checksum};

/// What an error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The hop limit ran out.
    TimeExceeded,
    /// Larger than this MTU.
    TooBig(u32),
    /// Nobody has the address.
    HostUnreachable,
    /// No route.
    NetUnreachable,
    /// Administratively prohibited.
    Prohibited,
    /// Nobody listens on the port.
    PortUnreachable,
}

impl Problem {
    /// Type, code and the four bytes after the checksum.
    pub fn message(self, v: Version) -> (u8, u8, [u8; 4]) {
        let (four, six) = match self {
            Self::TimeExceeded => ((11, 0), (3, 0)),
            Self::TooBig(_) => ((3, 4), (2, 0)),
            Self::HostUnreachable => ((3, 1), (1, 3)),
            Self::NetUnreachable => ((3, 0), (1, 0)),
            Self::Prohibited => ((3, 13), (1, 1)),
            Self::PortUnreachable => ((3, 3), (1, 4)),
        };
        let (kind, code) = if v == V4 { four } else { six };
        let rest = if let Self::TooBig(mtu) = self { mtu } else { 0 };
        (kind, code, rest.to_be_bytes())
    }

    /// The transport of an error that quotes these bytes.
    pub fn quoting(self, v: Version, quote: &[u8]) -> L4 {
        let (kind, code, rest) = self.message(v);
        L4::Icmp { kind, code, rest, body: quote.to_vec() }
    }
}

/// Most bytes the programs quote.
pub const QUOTE_BYTES: usize = 512;

/// The error a program makes of a packet: from `src`, to the packet's sender, at these MACs (destination, source).
pub fn originated(problem: Problem, src: IpAddr, about: &Packet, macs: ([u8; 6], [u8; 6])) -> Packet {
    let v = about.version();
    let mut quote = about.ip_bytes();
    quote.truncate(quote.len().min(QUOTE_BYTES) & !3);
    quote.extend(balance(about, &quote));
    let mut p = Packet::new(src, about.src, problem.quoting(v, &quote));
    (p.eth_dst, p.eth_src) = macs;
    if v == V4 {
        p.class = 0xc0;
        p.id = 0;
    }
    p
}

/// What stands behind a quote: whoever still has to finish the transport's checksum, over what is there of it, is to find that it
/// is finished. Of transports that have none there, something of the same make.
fn balance(about: &Packet, quote: &[u8]) -> Vec<u8> {
    let csum_at = if about.proto() == 6 { 16 } else { 6 };
    let headers = about.ip_bytes().len() - about.l4.bytes(about.src, about.dst).len();
    let transport = &quote[headers..];
    let field = &transport[csum_at..csum_at + 2];
    let word = checksum(&[transport, field].concat());
    let balance = [[0; 2], word.to_be_bytes()].concat();
    if field != [0; 2] {
        let mangled = |sum: u16| if sum == 0 { 0xffff } else { sum };
        let finished = mangled(checksum(&[transport, &balance].concat()));
        assert_eq!(finished.to_be_bytes(), field, "the test's own reckoning");
    }
    balance
}
