//! IPv4 (RFC 791).

use crate::plain;

/// Length without options.
pub const IPV4_LEN: usize = 20;
/// Offset of the type of service in the header.
pub const TOS_OFF: usize = 1;
/// Offset of the hop limit in the header; the protocol number follows.
pub const TTL_OFF: usize = 8;
/// Offset of the header checksum.
pub const CSUM_OFF: usize = 10;
/// Offset of the source address; the destination follows.
pub const SRC_OFF: usize = 12;

/// The fixed part of the header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Hdr {
    /// Version (4 bits) and header length in words (4 bits).
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of header and payload, network order.
    pub total_len: [u8; 2],
    /// Identification of the datagram a fragment belongs to.
    pub id: [u8; 2],
    /// Flags (3 bits) and fragment offset in 8 bytes (13 bits), network order.
    pub frag: [u8; 2],
    /// Hop limit.
    pub ttl: u8,
    /// Protocol of the payload.
    pub proto: u8,
    /// Header checksum.
    pub csum: [u8; 2],
    /// Source.
    pub src: [u8; 4],
    /// Destination.
    pub dst: [u8; 4],
}

impl Ipv4Hdr {
    /// Flag bit: do not fragment.
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// Flag bit: more fragments follow.
    pub const MORE_FRAGMENTS: u16 = 0x2000;

    /// Version field.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Header length with options, in bytes: 0 to 60; below 20 is a lie.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Length of header and payload.
    #[inline(always)]
    pub const fn total_len(&self) -> u16 {
        u16::from_be_bytes(self.total_len)
    }

    /// Fragment offset in bytes.
    #[inline(always)]
    pub const fn fragment_offset(&self) -> u16 {
        (u16::from_be_bytes(self.frag) & 0x1fff) << 3
    }

    /// Whether more fragments follow.
    #[inline(always)]
    pub const fn more_fragments(&self) -> bool {
        u16::from_be_bytes(self.frag) & Self::MORE_FRAGMENTS != 0
    }

    /// Whether the sender forbids fragmentation.
    #[inline(always)]
    pub const fn dont_fragment(&self) -> bool {
        u16::from_be_bytes(self.frag) & Self::DONT_FRAGMENT != 0
    }
}

plain!(Ipv4Hdr { version_ihl, tos, total_len, id, frag, ttl, proto, csum, src, dst }: size IPV4_LEN, align 1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hdr::Frame;

    #[test]
    fn golden_bytes() {
        let bytes: [u8; 20] = [0x46, 0, 0, 60, 0x12, 0x34, 0x60, 0x02, 64, 17, 0, 0, 10, 244, 0, 10, 10, 244, 0, 20];
        let ip: Ipv4Hdr = bytes.as_slice().read(0).unwrap();
        assert_eq!((ip.version(), ip.header_len(), ip.total_len()), (4, 24, 60));
        assert_eq!((ip.fragment_offset(), ip.more_fragments(), ip.dont_fragment()), (16, true, true));
        assert_eq!((ip.ttl, ip.proto, ip.src, ip.dst), (64, 17, [10, 244, 0, 10], [10, 244, 0, 20]));
    }
}
