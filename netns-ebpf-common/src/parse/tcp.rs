//! What a SYN's options say.

use super::Off;
use crate::hdr::tcp::{TCP_LEN, TcpFields};
use crate::hdr::{Frame, Walk};

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
