//! Networks: pods that share subnets and a gateway.

use crate::plain;
use crate::{Addr4, Addr6, Mac};

/// A network. All zero means the id is free.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Network {
    /// Index of the gateway device: `abi::IFINDEX_GATEWAY + id`; 0 marks a free id.
    pub gateway_ifindex: u32,
    /// Bits of [`Network::MASQUERADE`] and the like.
    pub flags: u32,
    /// The gateway's IPv4 address; with [`Self::mask4`] it gives the subnet. Unspecified: no IPv4 here.
    pub gateway4: Addr4,
    /// Network mask of the IPv4 subnet.
    pub mask4: Addr4,
    /// The gateway's IPv6 address. Unspecified: no IPv6 here.
    pub gateway6: Addr6,
    /// Network mask of the IPv6 subnet.
    pub mask6: Addr6,
    /// The gateway's MAC: the one neighbour every pod of the network sees.
    pub mac: Mac,
    /// Padding, zero.
    pub _pad: u16,
    /// MTU of the network's veths and of the gateway device.
    pub mtu_bytes: u32,
}

impl Network {
    /// Pods leave for the LAN with an address of the network's [`SnatPool`], or the uplink's if it has none.
    pub const MASQUERADE: u32 = 1;
    /// The host's routes lead to this network: host and pods reach each other.
    ///
    /// Without it (a network whose subnet another network of this host already has) the gateway answers echo requests
    /// and nothing else.
    pub const HOST_ACCESS: u32 = 1 << 1;
    /// Endpoint-independent mapping instead of address-and-port-dependent: see [`crate::mapping`].
    pub const ENDPOINT_INDEPENDENT: u32 = 1 << 2;
    /// Endpoint-independent filtering besides ("full cone"): whoever sends to a mapping reaches the pod.
    pub const OPEN_TO_ALL: u32 = 1 << 3;
}

/// Most addresses a network's pool has of one family.
pub const MAX_SNAT_ADDRS: usize = 8;

/// The addresses a network's pods leave for the LAN with, in place of the uplink's.
///
/// An element is replaced as a whole. One without addresses is a pool none of whose addresses the host has at present.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SnatPool<A> {
    /// How many of [`Self::addrs`] there are.
    pub count: u32,
    /// Those the host has, in the order they were declared; unspecified from [`Self::count`] on.
    pub addrs: [A; MAX_SNAT_ADDRS],
}

impl<A: Copy> SnatPool<A> {
    /// The `n`th address, counted around the pool; `None` when it is empty.
    ///
    /// A pod's slot as `n` gives it the same address in all its flows (RFC 4787 REQ-2, "paired").
    #[inline(always)]
    pub fn addr(&self, n: u32) -> Option<A> {
        // The mask is for the verifier, which does not see that a remainder is below its divisor.
        let at = n.checked_rem(self.count)? as usize & (MAX_SNAT_ADDRS - 1);
        Some(self.addrs[at])
    }
}

plain!(Network { gateway_ifindex, flags, gateway4, mask4, gateway6, mask6, mac, _pad, mtu_bytes }: size 60, align 4);
plain!(SnatPool<Addr4 | Addr6> { count, addrs }: size 36 | 132, align 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_counted_around() {
        let [a, b, c] = [Addr4([192, 0, 2, 1]), Addr4([192, 0, 2, 2]), Addr4([192, 0, 2, 3])];
        let mut pool = SnatPool { count: 3, ..SnatPool::default() };
        pool.addrs[..3].copy_from_slice(&[a, b, c]);
        let seen: std::vec::Vec<_> = (0..7).map(|n| pool.addr(n)).collect();
        assert_eq!(seen, [a, b, c, a, b, c, a].map(Some));
        assert_eq!(SnatPool::<Addr4>::default().addr(3), None, "none that the host has");
    }
}
