//! Names and addresses of the sandbox, the same as in `default.toml`, whose pods they describe.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::check::Site;

/// The instance the sandbox runs as.
pub use crate::instance::SANDBOX_INSTANCE as INSTANCE;
/// The namespace that plays the host.
pub const HOST: &str = "sandbox-host";
/// The namespace that plays the LAN.
pub const LAN: &str = "sandbox-lan";
/// The host's interface into the LAN.
pub const UPLINK: &str = "uplink0";
/// Its other end.
pub const LAN_IFNAME: &str = "lan0";

/// Prefix lengths of the LAN's subnets.
pub const LAN_PREFIX_LEN: [u8; 2] = [24, 64];

const fn site(name: &'static str, place: &'static str, v4: [u8; 4], v6: [u16; 8]) -> Site {
    let [a, b, c, d] = v4;
    let [s, t, u, v, w, x, y, z] = v6;
    Site { name, place, v4: Ipv4Addr::new(a, b, c, d), v6: Ipv6Addr::new(s, t, u, v, w, x, y, z) }
}

const fn lan(name: &'static str, place: &'static str, last: u8, last6: u16) -> Site {
    site(name, place, [192, 0, 2, last], [0x2001, 0xdb8, 1, 0, 0, 0, 0, last6])
}

const fn pod(name: &'static str, last: u8, last6: u16) -> Site {
    site(name, name, [10, 244, 0, last], [0xfd00, 0x244, 0, 0, 0, 0, 0, last6])
}

const fn jumbo(name: &'static str, place: &'static str, last: u8, last6: u16) -> Site {
    site(name, place, [10, 9, 0, last], [0xfd00, 9, 0, 0, 0, 0, 0, last6])
}

/// The host by the uplink's first address, with which masqueraded packets leave.
pub const HOST_UPLINK: Site = lan("host", HOST, 2, 2);
/// The host by the uplink's second address.
pub const HOST_SECOND: Site = lan("host", HOST, 3, 3);
/// The host by its loopback addresses.
pub const HOST_LOOPBACK: Site = site("loopback", HOST, [127, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1]);
/// The host by the gateway's address in `pods`.
pub const GATEWAY: Site = site("gateway", HOST, [10, 244, 0, 1], [0xfd00, 0x244, 0, 0, 0, 0, 0, 1]);
/// The host by the gateway's address in `voice`.
pub const VOICE_GATEWAY: Site = site("gateway", HOST, [10, 60, 0, 1], [0xfd00, 0x60, 0, 0, 0, 0, 0, 1]);
/// The host by the gateway's address in `jumbo`.
pub const JUMBO_GATEWAY: Site = jumbo("gateway", HOST, 1, 1);

/// The LAN's router, the host's default gateway.
pub const ROUTER: Site = lan("router", LAN, 1, 1);
/// A server on the LAN.
pub const SERVER: Site = lan("server", LAN, 10, 0x10);
/// A client on the LAN.
pub const CLIENT: Site = lan("client", LAN, 20, 0x20);
/// A server on the LAN towards which pods keep their address.
pub const INTRANET: Site = lan("intranet", LAN, 53, 0x53);
/// A machine behind the LAN's router.
pub const FAR: Site = site("far", LAN, [198, 51, 100, 7], [0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7]);

/// Every site of the LAN that is on the link.
pub const ON_LAN: [Site; 4] = [ROUTER, SERVER, CLIENT, INTRANET];

/// Pods of `pods`.
pub const RED: Site = pod("red", 10, 0x10);
/// See [`RED`].
pub const BLUE: Site = pod("blue", 20, 0x20);
/// See [`RED`].
pub const GREEN: Site = pod("green", 30, 0x30);
/// Nobody: a free address of `pods`.
pub const NOBODY: Site = Site { name: "nobody", place: HOST, ..pod("nobody", 99, 0x99) };
/// Pods of `mirror`, with the addresses of [`RED`] and [`BLUE`].
pub const VIOLET: Site = pod("violet", 10, 0x10);
/// See [`VIOLET`].
pub const INDIGO: Site = pod("indigo", 20, 0x20);
/// The address of [`GREEN`], which nobody has in `mirror`.
pub const NO_MIRROR: Site = Site { name: "nobody", ..GREEN };
/// The gateway of `mirror`: it answers echo requests, but is not the host.
pub const MIRROR_GATEWAY: Site = Site { name: "gateway", ..GATEWAY };
/// Pods of `jumbo`.
pub const AMBER: Site = jumbo("amber", "amber", 10, 0x10);
/// See [`AMBER`].
pub const CORAL: Site = jumbo("coral", "coral", 20, 0x20);

/// The pod of `voice`.
pub const PLUM: Site = site("plum", "plum", [10, 60, 0, 10], [0xfd00, 0x60, 0, 0, 0, 0, 0, 0x10]);

/// All pods, in the order of `default.toml`.
pub const PODS: [Site; 8] = [RED, BLUE, GREEN, VIOLET, INDIGO, AMBER, CORAL, PLUM];

/// Where the LAN finds the pods of `pods` that keep their address: as a router would be told.
pub const PODS_SUBNETS: [(IpAddr, u8); 2] =
    [(IpAddr::V4(Ipv4Addr::new(10, 244, 0, 0)), 24), (IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 0)), 64)];
