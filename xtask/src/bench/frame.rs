//! Frames to run the programs over.

use std::net::Ipv4Addr;

/// A link-layer address.
pub type Mac = [u8; 6];

const UDP: u8 = 17;
const TCP: u8 = 6;

/// Who sends to whom.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Link-layer source.
    pub src_mac: Mac,
    /// Link-layer destination.
    pub dst_mac: Mac,
    /// Source address and port.
    pub src: (Ipv4Addr, u16),
    /// Destination address and port.
    pub dst: (Ipv4Addr, u16),
}

/// A UDP packet with 64 bytes of payload.
pub fn udp(ends: &Ends) -> Vec<u8> {
    let payload = [0x6e; 64];
    let mut datagram = [ends.src.1.to_be_bytes(), ends.dst.1.to_be_bytes()].concat();
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    packet(ends, UDP, datagram, 6)
}

/// Flags of a TCP segment.
pub const SYN: u8 = 0x02;
/// See [`SYN`].
pub const ACK: u8 = 0x10;

/// A TCP segment without data, of these numbers and flags.
pub fn tcp(ends: &Ends, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let mut segment = [ends.src.1.to_be_bytes(), ends.dst.1.to_be_bytes()].concat();
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet(ends, TCP, segment, 16)
}

/// A frame of a protocol that is none of ours (LLDP).
pub fn foreign(src_mac: Mac) -> Vec<u8> {
    let mut frame = [[0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e], src_mac].concat();
    frame.extend([0x88, 0xcc]);
    frame.resize(64, 0);
    frame
}

/// Ethernet and IPv4 headers before `transport`, whose checksum is at `checksum_off`.
fn packet(ends: &Ends, protocol: u8, mut transport: Vec<u8>, checksum_off: usize) -> Vec<u8> {
    let (src, dst) = (ends.src.0.octets(), ends.dst.0.octets());
    let length = transport.len() as u16;
    let pseudo = [&src[..], &dst[..], &[0, protocol], &length.to_be_bytes(), &transport].concat();
    transport[checksum_off..checksum_off + 2].copy_from_slice(&checksum(&pseudo));

    let mut header = vec![0x45, 0];
    header.extend((20 + length).to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(src);
    header.extend(dst);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);

    [&ends.dst_mac[..], &ends.src_mac[..], &[0x08, 0x00], &header, &transport].concat()
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: Ends = Ends {
        src_mac: [2, 0, 0, 0, 0, 1],
        dst_mac: [2, 0, 0, 0, 0, 2],
        src: (Ipv4Addr::new(192, 0, 2, 1), 1000),
        dst: (Ipv4Addr::new(198, 51, 100, 7), 53),
    };

    #[test]
    fn checksums_are_right() {
        // RFC 1071 section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), (!0xddf2u16).to_be_bytes());
        for frame in [udp(&ENDS), tcp(&ENDS, 1, 0, SYN)] {
            // What carries its own checksum sums up to nothing.
            assert_eq!(checksum(&frame[14..34]), [0, 0]);
            let length = (frame.len() - 34) as u16;
            let pseudo = [&frame[26..34], &[0, frame[23]], &length.to_be_bytes(), &frame[34..]].concat();
            assert_eq!(checksum(&pseudo), [0, 0]);
        }
    }

    #[test]
    fn lengths_agree_with_the_headers() {
        let frame = udp(&ENDS);
        assert_eq!(frame.len(), 14 + 20 + 8 + 64);
        assert_eq!(frame[16..18], (frame.len() as u16 - 14).to_be_bytes());
        assert_eq!(tcp(&ENDS, 1, 0, SYN).len(), 14 + 20 + 20);
        assert_eq!(foreign([2; 6]).len(), 64);
    }
}
