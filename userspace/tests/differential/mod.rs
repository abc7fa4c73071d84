//! Two worlds side by side, ours and the kernel's own NAT, and what is needed to hold one against the other.
//!
//! Frames are put on the wires of both by packet sockets, what comes out at any end of either is read by them, and once
//! source ports that are free to be chosen have been given one name, the two must have put out the same bytes.

pub mod canon;
pub mod known;
pub mod pieces;
pub mod run;
pub mod session;
pub mod tcp;
mod trouble;
pub mod worlds;

/// The end of a wire at which frames are put in and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A pod.
    Red,
    /// Another.
    Blue,
    /// The LAN: a client, a router, and servers behind it.
    Lan,
}

impl End {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Red, Self::Blue, Self::Lan];
}

/// A generator of numbers that gives the same ones for a seed in every run (SplitMix64).
#[derive(Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.any() % end as u64) as usize
    }

    /// True this often.
    pub fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}
