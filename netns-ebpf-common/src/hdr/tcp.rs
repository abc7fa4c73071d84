//! TCP (RFC 9293).

use super::PortPair;
use crate::plain;

/// Length without options.
pub const TCP_LEN: usize = 20;
/// Offset of the checksum.
pub const CSUM_OFF: usize = 16;

/// The fixed part of the header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHdr {
    /// Source and destination port.
    pub ports: PortPair,
    seq: [u8; 4],
    ack: [u8; 4],
    data_offset: u8,
    /// The flag bits: [`crate::flow::tcp_flag`].
    pub flags: u8,
    window: [u8; 2],
    /// Checksum.
    pub csum: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}

impl TcpHdr {
    /// Sequence number.
    #[inline(always)]
    pub const fn seq(&self) -> u32 {
        u32::from_be_bytes(self.seq)
    }

    /// Acknowledgement number.
    #[inline(always)]
    pub const fn ack(&self) -> u32 {
        u32::from_be_bytes(self.ack)
    }

    /// Window, unscaled.
    #[inline(always)]
    pub const fn window(&self) -> u16 {
        u16::from_be_bytes(self.window)
    }

    /// Header length with options, in bytes: 0 to 60; below 20 is a lie.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        (self.data_offset >> 4) as usize * 4
    }
}

plain!(TcpHdr { ports, seq, ack, data_offset, flags, window, csum, urgent }: size TCP_LEN, align 2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::tcp_flag;
    use crate::hdr::Frame;

    #[test]
    fn golden_bytes() {
        let bytes: [u8; 20] = [0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x80, 0x12, 0x10, 0, 0, 0, 0, 0];
        let tcp: TcpHdr = bytes.as_slice().read(0).unwrap();
        assert_eq!((tcp.ports.src.get(), tcp.ports.dst.get()), (40000, 80));
        assert_eq!((tcp.seq(), tcp.ack(), tcp.header_len(), tcp.window()), (1, 2, 32, 4096));
        assert_eq!(tcp.flags, tcp_flag::SYN | tcp_flag::ACK);
    }
}
