//! What a TCP header says of its flow.

use super::Off;
use crate::flow::tcp_flag::{ACK, FIN, RST, SYN};
use crate::hdr::tcp::{TCP_LEN, TcpHdr};
use crate::hdr::{Frame, Walk};

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
    pub(super) const fn new(tcp: &TcpHdr, payload_bytes: u32) -> Self {
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

/// The window scale a SYN with options announces, its header being `header_len` bytes at `l4_off`.
#[inline(always)]
pub(super) fn scale<T: Frame + ?Sized>(frame: &T, l4_off: Off, header_len: usize) -> u8 {
    let end = l4_off.get() + header_len;
    let at = l4_off.get() + TCP_LEN;
    let mut options = Options { at: at as u16, end: end as u16, scale: TcpFields::NO_SCALE };
    frame.walk(MAX_OPTIONS, &mut options);
    options.scale
}

/// One byte each, at most.
const MAX_OPTIONS: u32 = 40;

/// Looks for the window scale option; as in Linux the last one counts, and nothing does that follows one with a wrong length.
struct Options {
    at: u16,
    end: u16,
    scale: u8,
}

impl Walk for Options {
    #[inline(always)]
    fn step<T: Frame + ?Sized>(&mut self, frame: &T) -> bool {
        const END: u8 = 0;
        const NOP: u8 = 1;
        const WINDOW_SCALE: u8 = 3;
        const WINDOW_SCALE_LEN: u8 = 3;
        // One byte alone says nothing: it ends the options, or fills them up.
        if self.at + 1 >= self.end {
            return true;
        }
        let off = self.at as usize;
        let Some([kind, len]) = frame.copy::<[u8; 2]>(off) else { return true };
        if kind == NOP {
            self.at += 1;
            return false;
        }
        if kind == END || len < 2 || self.at + len as u16 > self.end {
            return true;
        }
        if kind == WINDOW_SCALE && len == WINDOW_SCALE_LEN {
            let Some([shift]) = frame.copy::<[u8; 1]>(off + 2) else { return true };
            self.scale = if shift > TcpFields::MAX_SCALE { TcpFields::MAX_SCALE } else { shift };
        }
        self.at += len as u16;
        false
    }
}

#[cfg(test)]
mod tests;
