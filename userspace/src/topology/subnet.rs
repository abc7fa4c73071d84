//! Which addresses of a subnet pods can have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Problem;

/// The gateway of a network with this subnet: its first address.
pub fn gateway(subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(n) => IpAddr::V4(Ipv4Addr::from_bits(n.network().to_bits().wrapping_add(1))),
        IpNet::V6(n) => IpAddr::V6(Ipv6Addr::from_bits(n.network().to_bits().wrapping_add(1))),
    }
}

/// The last address a pod can have: IPv4 keeps the broadcast address free.
pub fn last_host(subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(n) => IpAddr::V4(Ipv4Addr::from_bits(n.broadcast().to_bits().wrapping_sub(1))),
        IpNet::V6(n) => IpAddr::V6(n.broadcast()),
    }
}

/// Whether both are IPv4 or both IPv6.
pub const fn same_family(subnet: IpNet, address: IpAddr) -> bool {
    matches!((subnet, address), (IpNet::V4(_), IpAddr::V4(_)) | (IpNet::V6(_), IpAddr::V6(_)))
}

/// Checks that a pod of `network` with this subnet could have `address`, which must be of its family.
///
/// # Errors
///
/// Outside, or the network, broadcast or gateway address. For IPv6 the network address is the subnet-router anycast
/// address (RFC 4291 section 2.6.1).
pub fn is_assignable(network: &str, subnet: IpNet, address: IpAddr) -> Result<(), Problem> {
    if !subnet.contains(&address) {
        return Err(Problem::AddressOutside { network: network.to_owned(), subnets: subnet.to_string() });
    }
    if address == subnet.network() {
        return Err(Problem::AddressIsNetwork(subnet.to_string()));
    }
    if subnet.addr().is_ipv4() && address == subnet.broadcast() {
        return Err(Problem::AddressIsBroadcast(subnet.to_string()));
    }
    if address == gateway(subnet) {
        return Err(Problem::AddressIsGateway(network.to_owned()));
    }
    Ok(())
}

/// Checks that a subnet is one a network can have.
pub(super) fn check_subnet(subnet: IpNet) -> Result<(), Problem> {
    if subnet != subnet.trunc() {
        return Err(Problem::SubnetHostBits(subnet.trunc().to_string()));
    }
    let (lengths, family) = match subnet {
        IpNet::V4(_) => (8..=30, "IPv4"),
        IpNet::V6(_) => (16..=126, "IPv6"),
    };
    if !lengths.contains(&subnet.prefix_len()) {
        return Err(Problem::SubnetSize(family));
    }
    let reserved: [(&str, &str); 9] = [
        ("0.0.0.0/8", "this network"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/16", "loopback and mapped addresses"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("64:ff9b::/96", "NAT64"),
    ];
    for (range, kind) in reserved {
        let range: IpNet = range.parse().map_err(|_| Problem::SubnetKind(kind))?;
        if overlap(range, subnet) {
            return Err(Problem::SubnetKind(kind));
        }
    }
    Ok(())
}

/// Whether two prefixes share an address.
pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}
