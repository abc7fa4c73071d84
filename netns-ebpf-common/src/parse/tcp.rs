//! What a SYN's options say.

use super::{L4, Off, Parsed};
use crate::hdr::tcp::flag::SYN;
use crate::hdr::tcp::{TCP_LEN, TcpFields};
use crate::hdr::{Frame, Walk};
use crate::verdict::DropReason;

impl<A> Parsed<A> {
    /// Whether the packet is a SYN with options, which [`Self::read_tcp_options`] reads.
    #[inline(always)]
    pub const fn has_syn_options(&self) -> bool {
        matches!(self.l4, L4::Tcp) && self.tcp.flags & SYN != 0 && self.tcp.header_len as usize > TCP_LEN
    }

    /// Reads from a SYN's options what a flow needs.
    ///
    /// # Errors
    ///
    /// [`DropReason::Malformed`] if the frame ends before they do.
    #[inline(always)]
    pub fn read_tcp_options<T: Frame + ?Sized>(&mut self, frame: &T) -> Result<(), DropReason> {
        let header_len = self.tcp.header_len as usize & 0x3f;
        frame.read::<[u8; 2]>(self.l4_off() + header_len - 2).ok_or(DropReason::Malformed)?;
        self.tcp.option_off = TCP_LEN as u8;
        let l4_off = self.l4_off;
        frame.walk(MAX_OPTIONS, &mut Options { tcp: &mut self.tcp, l4_off });
        Ok(())
    }
}

/// One byte each, at most.
const MAX_OPTIONS: u32 = 40;

/// Looks for the window scale option; as in Linux the last one counts, and nothing does that follows one with a wrong length.
///
/// Where it stands is kept with what it finds, not beside it: what the verifier does not know is the same at every step.
struct Options<'a> {
    tcp: &'a mut TcpFields,
    l4_off: Off,
}

impl Walk for Options<'_> {
    #[inline(always)]
    fn step<T: Frame + ?Sized>(&mut self, frame: &T) -> bool {
        const END: u8 = 0;
        const NOP: u8 = 1;
        const WINDOW_SCALE: u8 = 3;
        const WINDOW_SCALE_LEN: u8 = 3;
        let (at, end) = (self.tcp.option_off as usize & 0x3f, self.tcp.header_len as usize);
        // One byte alone says nothing: it ends the options, or fills them up.
        if at + 1 >= end || at >= 60 {
            return true;
        }
        let off = self.l4_off.get() + at;
        let Some([kind, len]) = frame.read::<[u8; 2]>(off) else { return true };
        if kind == NOP {
            self.tcp.option_off += 1;
            return false;
        }
        if kind == END || len < 2 || at + len as usize > end {
            return true;
        }
        if kind == WINDOW_SCALE && len == WINDOW_SCALE_LEN {
            let Some([_, shift]) = frame.read::<[u8; 2]>(off + 1) else { return true };
            self.tcp.scale = if shift > TcpFields::MAX_SCALE { TcpFields::MAX_SCALE } else { shift };
        }
        self.tcp.option_off = (at + len as usize) as u8;
        false
    }
}

#[cfg(test)]
mod tests;
