//! What user space hands to the program that ends flows for it.

use crate::plain;

/// Modes of the program that sweeps; the numbers are part of [`SweepHeader`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepMode {
    /// Flows whose time is over go.
    Expired = 0,
    /// Flows go whatever their time.
    Any = 1,
    /// Flows of the publish the header names become no publish's.
    Disown = 2,
}

/// What stands before the keys in the packet that program is run over, right after the link-layer header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SweepHeader {
    /// A [`SweepMode`].
    pub mode: u32,
    /// 4 or 6: the family of the keys.
    pub family: u32,
    /// How many keys follow.
    pub keys: u32,
    /// Index of a publish, for [`SweepMode::Disown`].
    pub publish: u32,
}

/// Most bytes of keys in such a packet: with all headers it stays below the one page every kernel takes.
pub const SWEEP_KEYS_BYTES: usize = 3200;

plain!(SweepHeader { mode, family, keys, publish }: size 16, align 4);
