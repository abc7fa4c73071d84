//! Endpoints: what the data path knows of a pod.

use crate::plain;
use crate::{Addr4, Addr6, Mac};

/// A pod's slot. All zero means the slot is free.
///
/// Written by user space only, always as a whole; the program reads it without a lock, so a slot is filled before its
/// address entries and veth exist and cleared after they are gone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Endpoint {
    /// Index of the host end of the veth: `abi::IFINDEX_ENDPOINT + slot`; 0 marks a free slot.
    pub ifindex: u32,
    /// Network id.
    pub network: u32,
    /// The pod's IPv4 address, or unspecified for none.
    pub addr4: Addr4,
    /// The pod's IPv6 address, or unspecified for none.
    pub addr6: Addr6,
    /// The pod's MAC; its link-local address is derived from it.
    pub mac: Mac,
    /// [`Endpoint::UP`] and further bits.
    pub flags: u16,
    /// Largest IP packet the pod takes.
    pub mtu_bytes: u32,
    /// The store's id of the pod: a late delete of an older owner leaves the slot alone.
    pub owner: u64,
}

impl Endpoint {
    /// The veth exists and its programs are attached.
    pub const UP: u16 = 1;
    /// The pod is gone; flows may be left that have its slot. Nobody else gets it until they are swept: they count as absent, and
    /// are taken for nobody's.
    pub const RESTING: u16 = 1 << 1;

    /// Whether it is one of a pod that is gone.
    #[inline(always)]
    pub const fn is_resting(&self) -> bool {
        self.flags & Self::RESTING != 0
    }
}

/// Key of the address maps: finds the slot behind an address of a network.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct EndpointKey<A> {
    /// Network id.
    pub network: u32,
    /// The pod's address.
    pub addr: A,
}

plain!(Endpoint { ifindex, network, addr4, addr6, mac, flags, mtu_bytes, owner }: size 48, align 8);
plain!(EndpointKey<Addr4 | Addr6> { network, addr }: size 8 | 20, align 4);
