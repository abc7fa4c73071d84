//! Who is where: three networks, six pods, a host with two uplinks, a LAN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::Version;

/// A place with an address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// IPv6 address.
    pub v6: Ipv6Addr,
}

impl Place {
    /// The address of a family.
    pub fn ip(self, v: Version) -> IpAddr {
        match v {
            Version::V4 => self.v4.into(),
            Version::V6 => self.v6.into(),
        }
    }
}

const fn place(v4: [u8; 4], v6: [u16; 8]) -> Place {
    let [a, b, c, d, e, f, g, h] = v6;
    Place { v4: Ipv4Addr::new(v4[0], v4[1], v4[2], v4[3]), v6: Ipv6Addr::new(a, b, c, d, e, f, g, h) }
}

/// A pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Slot.
    pub slot: u32,
    /// Network id.
    pub network: u16,
    /// Addresses.
    pub at: Place,
    /// MAC.
    pub mac: [u8; 6],
}

impl Pod {
    /// Index of the host end of its veth.
    pub fn ifindex(self) -> u32 {
        0x0100_0000 + self.slot
    }

    /// The address of a family.
    pub fn ip(self, v: Version) -> IpAddr {
        self.at.ip(v)
    }

    /// The gateway's MAC in its network.
    pub fn gateway_mac(self) -> [u8; 6] {
        gateway_mac(self.network)
    }
}

const fn pod(slot: u32, network: u16, at: Place) -> Pod {
    Pod { slot, network, at, mac: [2, 0, 0, 0, 0, 0x10 + slot as u8] }
}

/// MAC of a network's gateway.
pub fn gateway_mac(network: u16) -> [u8; 6] {
    netns::wiring::gateway_mac(super::bench::INSTANCE, network).0
}

/// Index of a network's gateway device.
pub fn gateway_ifindex(network: u16) -> u32 {
    0x0200_0000 + u32::from(network)
}

/// Three pods of network 1: 10.244.0.0/24 and fd00:244::/64, masquerading, MTU 1400.
pub const RED: Pod = pod(0, 1, place([10, 244, 0, 10], [0xfd00, 0x244, 0, 0, 0, 0, 0, 0x10]));
/// See [`RED`].
pub const BLUE: Pod = pod(1, 1, place([10, 244, 0, 20], [0xfd00, 0x244, 0, 0, 0, 0, 0, 0x20]));
/// See [`RED`]; its MTU is 1300.
pub const GREEN: Pod = pod(2, 1, place([10, 244, 0, 30], [0xfd00, 0x244, 0, 0, 0, 0, 0, 0x30]));
/// A pod of network 2: 10.245.0.0/24 and fd00:245::/64, not masquerading.
pub const YELLOW: Pod = pod(3, 2, place([10, 245, 0, 10], [0xfd00, 0x245, 0, 0, 0, 0, 0, 0x10]));
/// Pods of network 3, which has network 1's subnets and therefore no way to the host; masquerading.
pub const TWIN: Pod = pod(4, 3, RED.at);
/// See [`TWIN`].
pub const TWIN_BLUE: Pod = pod(5, 3, BLUE.at);
/// All of them.
pub const PODS: [Pod; 6] = [RED, BLUE, GREEN, YELLOW, TWIN, TWIN_BLUE];

/// MTU of networks 1 to 3.
pub const POD_MTU: u32 = 1400;
/// MTU of [`GREEN`].
pub const GREEN_MTU: u32 = 1300;
/// MTU of the uplinks.
pub const UPLINK_MTU: u32 = 1500;

/// Gateway of networks 1 and 3.
pub const GATEWAY: Place = place([10, 244, 0, 1], [0xfd00, 0x244, 0, 0, 0, 0, 0, 1]);
/// Gateway of network 2.
pub const GATEWAY2: Place = place([10, 245, 0, 1], [0xfd00, 0x245, 0, 0, 0, 0, 0, 1]);
/// An address of network 1 nobody has.
pub const NOBODY: Place = place([10, 244, 0, 99], [0xfd00, 0x244, 0, 0, 0, 0, 0, 0x99]);
/// The host's address on the uplink: what SNAT gives.
pub const HOST: Place = place([192, 0, 2, 1], [0x2001, 0xdb8, 1, 0, 0, 0, 0, 1]);
/// The host's second address there.
pub const HOST2: Place = place([192, 0, 2, 2], [0x2001, 0xdb8, 1, 0, 0, 0, 0, 2]);
/// A machine on the LAN.
pub const CLIENT: Place = place([192, 0, 2, 100], [0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x100]);
/// A server behind the LAN's router.
pub const SERVER: Place = place([198, 51, 100, 7], [0x2001, 0xdb8, 2, 0, 0, 0, 0, 7]);
/// Another one.
pub const SERVER2: Place = place([198, 51, 100, 8], [0x2001, 0xdb8, 2, 0, 0, 0, 0, 8]);
/// A router on the way there.
pub const ROUTER: Place = place([198, 51, 100, 254], [0x2001, 0xdb8, 2, 0, 0, 0, 0, 0xfe]);
/// In network 1's `no_masquerade` prefixes.
pub const KEPT: Place = place([192, 168, 77, 7], [0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 7]);
/// Behind the second uplink, which has no address.
pub const BARE_SIDE: Place = place([198, 19, 0, 7], [0x2001, 0xdb8, 3, 0, 0, 0, 0, 7]);
/// Behind a device that is no uplink.
pub const SIDE: Place = place([198, 18, 0, 7], [0x2001, 0xdb8, 4, 0, 0, 0, 0, 7]);
/// Where a route says "unreachable".
pub const NOWHERE: Place = place([203, 0, 113, 7], [0x2001, 0xdb8, 5, 0, 0, 0, 0, 7]);
/// The unspecified addresses.
pub const NOBODY_AT_ALL: Place = place([0; 4], [0; 8]);
/// The loopback addresses.
pub const LOOPBACK: Place = place([127, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1]);

/// MAC of the uplink; what it is on the wire does not matter to the programs.
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// MAC of the LAN's router.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

/// What packets of a hairpin are marked with on their way back in.
pub const MARK_HAIRPIN: u32 = 0x6e6e_6801;

/// Publishes: `HOST:8080` TCP to `BLUE:80`.
pub const WEB: u32 = 10;
/// `any:5353` UDP to `BLUE:53`.
pub const DNS: u32 = 11;
/// `any:9000-9003` TCP to `BLUE:7000-7003`.
pub const RANGE: u32 = 12;
/// `127.0.0.1:6000`, `[::1]:6000` and any address's 6001 TCP, for the host itself only, to `BLUE:6000`.
pub const LOCAL: u32 = 13;
/// `any:8443` TCP to `GREEN:443`, whose MTU is smaller.
pub const SMALL: u32 = 14;
/// `any:8081` TCP to `YELLOW:80`: another network.
pub const ABROAD: u32 = 15;
/// All of them.
pub const PUBLISHES: [u32; 6] = [WEB, DNS, RANGE, LOCAL, SMALL, ABROAD];

/// SNAT's range.
pub const SNAT: std::ops::RangeInclusive<u16> = 20_000..=32_767;
/// Flows of each family the table holds; an account gets half of them if nobody else has any.
pub const FLOWS: u32 = 256;
/// Its entries.
pub const FLOW_ENTRIES: u32 = 2 * FLOWS;
