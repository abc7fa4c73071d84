//! UDP (RFC 768).

use super::PortPair;
use crate::plain;

/// Length of the header.
pub const UDP_LEN: usize = 8;
/// Offset of the checksum; 0 in IPv4 means none was computed.
pub const CSUM_OFF: usize = 6;

/// The header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpHdr {
    /// Source and destination port.
    pub ports: PortPair,
    len: [u8; 2],
    /// Checksum.
    pub csum: [u8; 2],
}

impl UdpHdr {
    /// Length of header and payload.
    #[inline(always)]
    pub const fn len_bytes(&self) -> u16 {
        u16::from_be_bytes(self.len)
    }
}

plain!(UdpHdr { ports, len, csum }: size UDP_LEN, align 2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hdr::Frame;

    #[test]
    fn golden_bytes() {
        let bytes: [u8; 8] = [0, 53, 0x9c, 0x40, 0, 12, 0xab, 0xcd];
        let udp: UdpHdr = bytes.as_slice().read(0).unwrap();
        assert_eq!(
            (udp.ports.src.get(), udp.ports.dst.get(), udp.len_bytes(), udp.csum),
            (53, 40000, 12, [0xab, 0xcd])
        );
    }
}
