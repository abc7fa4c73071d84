//! SCTP (RFC 9260). Its checksum is a CRC32c over the packet behind the IP header: it knows nothing of addresses, and ports
//! cannot be changed without reading all of it.

use super::PortPair;
use crate::plain;

/// Length of the common header.
pub const SCTP_LEN: usize = 12;
/// Offset of the checksum.
pub const CSUM_OFF: usize = 8;

/// The common header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SctpHdr {
    /// Source and destination port.
    pub ports: PortPair,
    /// Verification tag.
    pub tag: [u8; 4],
    /// CRC32c.
    pub csum: [u8; 4],
}

plain!(SctpHdr { ports, tag, csum }: size SCTP_LEN, align 2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hdr::Frame;

    #[test]
    fn golden_bytes() {
        let bytes: [u8; 12] = [0x0b, 0x59, 0x9c, 0x40, 1, 2, 3, 4, 5, 6, 7, 8];
        let sctp: SctpHdr = bytes.as_slice().read(0).unwrap();
        assert_eq!((sctp.ports.src.get(), sctp.ports.dst.get()), (2905, 40000));
        assert_eq!((sctp.tag, sctp.csum), ([1, 2, 3, 4], [5, 6, 7, 8]));
    }
}
