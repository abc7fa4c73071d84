//! Networks: pods that share subnets and a gateway.

use crate::pod::pod;
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
    /// Pods leave for the LAN with the uplink's address.
    pub const MASQUERADE: u32 = 1;
    /// The host's routes lead to this network: host and pods reach each other.
    ///
    /// Without it (a network whose subnet another network of this host already has) the gateway answers echo requests
    /// and nothing else.
    pub const HOST_ACCESS: u32 = 1 << 1;
    /// Endpoint-independent mapping instead of address-and-port-dependent.
    pub const ENDPOINT_INDEPENDENT: u32 = 1 << 2;
}

pod!(Network: size 60, align 4);
