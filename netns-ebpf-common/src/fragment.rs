//! Fragments: what the first one says of the ports of the others.

use crate::pod::pod;
use crate::{Addr4, Addr6, Port};

/// How long later fragments may follow their first (RFC 4787 section 11 wants at least 2 s; RFC 8200 section 4.5 reassembles for
/// 60 s at most).
pub const FRAGMENT_TIMEOUT_NS: u64 = 30_000_000_000;

/// Key of a datagram in pieces.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FragmentKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Identification.
    pub id: [u8; 4],
    /// Network id, or [`crate::abi::ZONE_HOST`].
    pub zone: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Padding, zero.
    pub _pad: u8,
}

/// What the first fragment said.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FragmentPorts {
    /// When, `CLOCK_MONOTONIC`.
    pub seen_ns: u64,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// Padding, zero.
    pub _pad: u32,
}

pod!(FragmentKey<Addr4>: size 16, align 4);
pod!(FragmentKey<Addr6>: size 40, align 4);
pod!(FragmentPorts: size 16, align 8);
