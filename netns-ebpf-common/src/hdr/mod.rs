//! Packet headers as they are on the wire: byte arrays only, one header a file.
//!
//! A header is read from a [`Frame`] by value, so nothing parsed outlives a change of the packet. Accessors return
//! host-order values; setters do not touch checksums.

pub mod arp;
pub mod eth;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod sctp;
pub mod tcp;
pub mod udp;

use crate::plain;
use crate::plain::Plain;

/// A frame that can be read at an offset: packet memory in the kernel, a slice on the host.
pub trait Frame {
    /// The value at `off` bytes from the start of the frame, or `None` when it does not lie wholly inside.
    fn read<T: Plain>(&self, off: usize) -> Option<T>;

    /// The same, for a walk's steps: at an offset that varies from step to step, and wherever in memory the bytes lie.
    ///
    /// The kernel checks such an offset when the program runs. If its verifier had to, it would follow every step.
    #[inline(always)]
    fn copy<T: Plain>(&self, off: usize) -> Option<T> {
        self.read(off)
    }

    /// Takes steps over the frame until one says it is done, at most `n`.
    ///
    /// The kernel verifies the step once instead of `n` times.
    #[inline(always)]
    fn walk<W: Walk>(&self, n: u32, walk: &mut W) {
        for _ in 0..n {
            if walk.step(self) {
                break;
            }
        }
    }
}

/// A walk over a frame in steps, such as from one option to the next.
pub trait Walk {
    /// Takes one step; `true` when there is none left.
    fn step<T: Frame + ?Sized>(&mut self, frame: &T) -> bool;
}

impl Frame for [u8] {
    #[expect(unsafe_code, reason = "reads plain bytes")]
    fn read<T: Plain>(&self, off: usize) -> Option<T> {
        let bytes = self.get(off..off.checked_add(size_of::<T>())?)?;
        // SAFETY: `bytes` is exactly `size_of::<T>()` long, and `T: Plain` takes any bytes at any alignment.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// What TCP's, UDP's and SCTP's headers begin with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPair {
    /// Source port.
    pub src: crate::Port,
    /// Destination port.
    pub dst: crate::Port,
}

plain!(PortPair { src, dst }: size 4, align 2);
