//! Words of map elements that several CPUs use at once.

use crate::{Port, plain};

/// A word of a map element that is loaded, stored or changed as a whole, whichever CPU does so. Where each of two CPUs may change it
/// to something that depends on what it was, by one atomic operation.
///
/// While it lies in a map only the programs' `maps::place` gets at it. A copy, such as user space has, is a number like any other.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared<T>(T);

impl<T: Copy> Shared<T> {
    /// For an element on its way into a map.
    #[inline(always)]
    pub const fn new(word: T) -> Self {
        Self(word)
    }

    /// Of a copy.
    #[inline(always)]
    pub const fn get(self) -> T {
        self.0
    }
}

plain!(Shared<u8> { 0 }: size 1, align 1);
plain!(Shared<u16> { 0 }: size 2, align 2);
plain!(Shared<u32> { 0 }: size 4, align 4);
plain!(Shared<u64> { 0 }: size 8, align 8);
plain!(Shared<Port> { 0 }: size 2, align 2);
