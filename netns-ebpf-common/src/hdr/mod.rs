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

/// A type every bit pattern of which is a value: it can be read from any place of a packet.
///
/// # Safety
///
/// `repr(C)` (or an array of bytes), made of integers and byte arrays only, without padding. Its alignment does not matter: it
/// is read and written unaligned. What lies in a packet of the network has no bare integers.
#[expect(unsafe_code, reason = "the promise is what lets packet.rs read the type from packet memory")]
pub unsafe trait Wire: Copy {}

/// A frame that can be read at an offset: packet memory in the kernel, a slice on the host.
pub trait Frame {
    /// The value at `off` bytes from the start of the frame, or `None` when it does not lie wholly inside.
    fn read<T: Wire>(&self, off: usize) -> Option<T>;

    /// The same, for a walk's steps: at an offset that varies from step to step, and wherever in memory the bytes lie.
    ///
    /// The kernel checks such an offset when the program runs. If its verifier had to, it would follow every step.
    #[inline(always)]
    fn copy<T: Wire>(&self, off: usize) -> Option<T> {
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
    fn read<T: Wire>(&self, off: usize) -> Option<T> {
        let bytes = self.get(off..off.checked_add(size_of::<T>())?)?;
        // SAFETY: `bytes` is exactly `size_of::<T>()` long, and `T: Wire` takes any bytes at any alignment.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

macro_rules! wire {
    ($t:ty, $len:expr) => {
        const _: () = assert!(core::mem::size_of::<$t>() == $len);
        #[expect(unsafe_code, reason = "a promise about the layout")]
        // SAFETY: `repr(C)` and only byte arrays inside, whose sizes add up to the one asserted above.
        unsafe impl $crate::hdr::Wire for $t {}
    };
}
pub(crate) use wire;

/// What TCP's, UDP's and SCTP's headers begin with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPair {
    /// Source port.
    pub src: crate::Port,
    /// Destination port.
    pub dst: crate::Port,
}

wire!(PortPair, 4);
wire!([u8; 1], 1);
wire!([u8; 2], 2);
wire!([u8; 4], 4);
wire!([u8; 8], 8);
wire!([u8; 16], 16);
wire!(crate::Addr4, 4);
wire!(crate::Addr6, 16);
