//! TCP (RFC 9293).

use self::flag::{ACK, FIN, RST, SYN};
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
    /// The flag bits: [`flag`].
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

/// TCP flag bits as in the 14th byte of the header.
pub mod flag {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// What a TCP header says that a flow needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFields {
    /// Sequence number.
    pub seq: u32,
    /// The one after the segment's last: SYN and FIN count as a byte each. Of a segment in pieces no less than that.
    pub end: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window, unscaled.
    pub window: u16,
    /// Flag bits.
    pub flags: u8,
    /// By how many bits the sender of a SYN shifts its later windows, at most [`Self::MAX_SCALE`]; [`Self::NO_SCALE`] if it
    /// does not say, and of other segments.
    pub scale: u8,
}

impl TcpFields {
    /// A larger shift counts as this one (RFC 7323 section 2.3).
    pub const MAX_SCALE: u8 = 14;
    /// There is no window scale option.
    pub const NO_SCALE: u8 = 0xff;

    /// Of a header before `payload_bytes`.
    #[inline(always)]
    pub(crate) const fn new(tcp: &TcpHdr, payload_bytes: u32) -> Self {
        let syn_and_fin = (tcp.flags & SYN != 0) as u32 + (tcp.flags & FIN != 0) as u32;
        Self {
            seq: tcp.seq(),
            end: tcp.seq().wrapping_add(payload_bytes).wrapping_add(syn_and_fin),
            ack: tcp.ack(),
            window: tcp.window(),
            flags: tcp.flags,
            scale: Self::NO_SCALE,
        }
    }

    /// Whether SYN, FIN, RST and ACK stand together as RFC 9293 has them; the other flags may be any.
    #[inline(always)]
    pub const fn has_valid_flags(&self) -> bool {
        const VALID: u16 = of(SYN) | of(SYN | ACK) | of(ACK) | of(FIN | ACK) | of(RST) | of(RST | ACK);
        return VALID & of(self.flags) != 0;

        /// The bit of a combination: one for each of the four flags' 16.
        #[inline(always)]
        const fn of(flags: u8) -> u16 {
            1 << (flags & (FIN | SYN | RST) | (flags & ACK) >> 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hdr::Frame;

    #[test]
    fn golden_bytes() {
        let bytes: [u8; 20] = [0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x80, 0x12, 0x10, 0, 0, 0, 0, 0];
        let tcp: TcpHdr = bytes.as_slice().read(0).unwrap();
        assert_eq!((tcp.ports.src.get(), tcp.ports.dst.get()), (40000, 80));
        assert_eq!((tcp.seq(), tcp.ack(), tcp.header_len(), tcp.window()), (1, 2, 32, 4096));
        assert_eq!(tcp.flags, SYN | ACK);
    }
}
