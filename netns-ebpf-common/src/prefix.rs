//! Prefixes of addresses that belong to something with a number.

use crate::plain;
use crate::{Addr4, Addr6};

/// The data of an LPM key over `(number, prefix)`; the prefix length counts the number's 32 bits as well.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PrefixKey<A> {
    /// Network or publish id, big-endian, so that all of its 32 bits come before the address in trie order.
    pub id_be: [u8; 4],
    /// Network address of the prefix, or the address that is looked up.
    pub addr: A,
}

impl<A> PrefixKey<A> {
    /// Prefix length of a key that looks a whole address up, in bits.
    pub const FULL_BITS: u32 = 8 * size_of::<Self>() as u32;
}

plain!(PrefixKey<Addr4 | Addr6> { id_be, addr }: size 8 | 20, align 4);
