//! IPv6 and its extension headers (RFC 8200).

use crate::plain;

/// Length of the fixed header.
pub const IPV6_LEN: usize = 40;
/// Offset of the hop limit in the header.
pub const HOP_LIMIT_OFF: usize = 7;
/// Offset of the source address; the destination follows.
pub const SRC_OFF: usize = 8;

/// Next-header numbers of extension headers.
pub mod next {
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing.
    pub const ROUTING: u8 = 43;
    /// Fragment.
    pub const FRAGMENT: u8 = 44;
    /// Authentication: its length counts 4-byte words (RFC 4302 section 2.2).
    pub const AUTH: u8 = 51;
    /// No next header.
    pub const NONE: u8 = 59;
    /// Destination options.
    pub const DEST_OPTIONS: u8 = 60;
    /// Mobility.
    pub const MOBILITY: u8 = 135;
}

/// The fixed header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Hdr {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_flow: [u8; 4],
    /// Bytes after this header, network order; 0 in a jumbogram (BIG TCP).
    pub payload_len: [u8; 2],
    /// Number of the header that follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: [u8; 16],
    /// Destination.
    pub dst: [u8; 16],
}

impl Ipv6Hdr {
    /// Version field.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.version_class_flow[0] >> 4
    }

    /// Bytes after the fixed header.
    #[inline(always)]
    pub const fn payload_len(&self) -> u16 {
        u16::from_be_bytes(self.payload_len)
    }
}

plain!(Ipv6Hdr { version_class_flow, payload_len, next_header, hop_limit, src, dst }: size IPV6_LEN, align 1);

/// The start of an extension header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtHdr {
    /// Number of the header that follows.
    pub next_header: u8,
    /// Length in 8-byte units, the first not counted.
    pub len: u8,
}

plain!(ExtHdr { next_header, len }: size 2, align 1);

/// The fragment header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHdr {
    /// Number of the header that follows (in the first fragment).
    pub next_header: u8,
    /// Reserved.
    pub reserved: u8,
    /// Offset in 8 bytes (13 bits), reserved (2), more fragments (1), network order.
    pub frag: [u8; 2],
    /// Identification of the datagram.
    pub id: [u8; 4],
}

impl FragmentHdr {
    /// Offset in bytes.
    #[inline(always)]
    pub const fn fragment_offset(&self) -> u16 {
        u16::from_be_bytes(self.frag) & 0xfff8
    }

    /// Whether more fragments follow.
    #[inline(always)]
    pub const fn more_fragments(&self) -> bool {
        self.frag[1] & 1 == 1
    }
}

plain!(FragmentHdr { next_header, reserved, frag, id }: size 8, align 1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hdr::Frame;

    #[test]
    fn golden_bytes() {
        let mut bytes = [0u8; 48];
        bytes[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 8, next::FRAGMENT, 255]);
        bytes[8] = 0xfd;
        bytes[24] = 0xfe;
        bytes[40..48].copy_from_slice(&[17, 0, 0x05, 0xa9, 1, 2, 3, 4]);
        let ip: Ipv6Hdr = bytes.as_slice().read(0).unwrap();
        assert_eq!((ip.version(), ip.payload_len(), ip.next_header, ip.hop_limit), (6, 8, next::FRAGMENT, 255));
        assert_eq!((ip.src[0], ip.dst[0]), (0xfd, 0xfe));
        let frag: FragmentHdr = bytes.as_slice().read(40).unwrap();
        assert_eq!((frag.fragment_offset(), frag.more_fragments(), frag.next_header), (1448, true, 17));
    }
}
