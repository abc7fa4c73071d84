//! IPv4 and IPv6 as one generic path: what differs between them, and nothing else.

use core::fmt::Debug;

use crate::endpoint::Endpoint;
use crate::hdr::eth::ethertype;
use crate::hdr::{icmp, ipv4, ipv6};
use crate::host::Uplink;
use crate::network::Network;
use crate::plain::Plain;
use crate::proto;
use crate::{Addr4, Addr6};

/// An address of a family, as it lies in packets and map keys.
pub trait Address: Plain + PartialEq + Default + Debug {
    /// How many 32-bit words it has; what the checksum and the comparison work on.
    const WORDS: usize;

    /// The word at `i`, its bytes in network order.
    fn word(&self, i: usize) -> [u8; 4];

    /// Becomes `from`, word by word: for an assignment from memory to memory that may overlap the compiler would call a function
    /// that copies bytes.
    fn set(&mut self, from: &Self);

    /// 0.0.0.0 or `::`.
    fn is_unspecified(&self) -> bool;
}

impl Address for Addr4 {
    const WORDS: usize = 1;

    #[inline(always)]
    fn word(&self, _: usize) -> [u8; 4] {
        self.0
    }

    #[inline(always)]
    fn set(&mut self, from: &Self) {
        *self = *from;
    }

    #[inline(always)]
    fn is_unspecified(&self) -> bool {
        *self == Self::UNSPECIFIED
    }
}

impl Address for Addr6 {
    const WORDS: usize = 4;

    #[inline(always)]
    fn word(&self, i: usize) -> [u8; 4] {
        let i = (i & 3) * 4;
        [self.0[i], self.0[i + 1], self.0[i + 2], self.0[i + 3]]
    }

    #[inline(always)]
    fn set(&mut self, from: &Self) {
        let (to, from) = (self.0.as_chunks_mut::<4>().0, from.0.as_chunks::<4>().0);
        let mut i = 0;
        while i < Self::WORDS {
            to[i] = from[i];
            i += 1;
        }
    }

    #[inline(always)]
    fn is_unspecified(&self) -> bool {
        *self == Self::UNSPECIFIED
    }
}

/// Whether `a` and `b` agree under `mask`.
#[inline(always)]
fn same_prefix<A: Address>(a: &A, b: &A, mask: &A) -> bool {
    let mut i = 0;
    while i < A::WORDS {
        let (a, b, m) = (a.word(i), b.word(i), mask.word(i));
        if (u32::from_ne_bytes(a) ^ u32::from_ne_bytes(b)) & u32::from_ne_bytes(m) != 0 {
            return false;
        }
        i += 1;
    }
    true
}

/// A number of an address, the same wherever it is asked; each bit of the address changes about half of its bits.
#[inline(always)]
pub fn addr_hash<A: Address>(addr: &A) -> u32 {
    addr_hash_from(0x9e37_79b9, addr)
}

/// The same from another start.
#[inline(always)]
pub fn addr_hash_from<A: Address>(mut hash: u32, addr: &A) -> u32 {
    let mut i = 0;
    while i < A::WORDS {
        hash = mix(hash ^ u32::from_be_bytes(addr.word(i)));
        i += 1;
    }
    hash
}

/// The finalizer of MurmurHash3: each bit of the input changes about half of the output's.
#[inline(always)]
pub const fn mix(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// 127/8 or `::1`.
#[inline(always)]
pub fn is_loopback<A: Address>(addr: &A) -> bool {
    let first = addr.word(0);
    if A::WORDS == 1 {
        return first[0] == 127;
    }
    let high = u32::from_ne_bytes(first) | u32::from_ne_bytes(addr.word(1)) | u32::from_ne_bytes(addr.word(2));
    high == 0 && addr.word(3) == [0, 0, 0, 1]
}

/// What a destination is, before any table is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// An ordinary unicast address.
    Unicast,
    /// Multicast, or IPv4's limited broadcast.
    Multicast,
    /// The link's own addresses: IPv6 link-local.
    LinkLocal,
    /// Loopback, unspecified, reserved: never on a wire.
    Martian,
}

/// A family of the Internet protocol, implemented by [`V4`] and [`V6`].
///
/// The EtherType picks one at the top of a hook; below that nothing matches on the family again.
pub trait Family: Copy {
    /// Its addresses.
    type Addr: Address;

    /// The loopback address.
    const LOOPBACK: Self::Addr;
    /// EtherType.
    const ETHERTYPE: u16;
    /// Protocol number of its ICMP.
    const ICMP: u8;
    /// Length of its header without options or extension headers.
    const HDR_LEN: usize;
    /// Offset of the source address in the header; the destination follows.
    const SRC_OFF: usize;
    /// Offset of the hop limit in the header.
    const HOP_LIMIT_OFF: usize;
    /// Offset of the header's own checksum, if it has one.
    const HDR_CSUM_OFF: Option<usize>;
    /// Whether ICMP's checksum covers a pseudo-header (RFC 4443 section 2.3).
    const ICMP_PSEUDO_HDR: bool;
    /// Type of an echo request.
    const ECHO_REQUEST: u8;
    /// Type of an echo reply.
    const ECHO_REPLY: u8;
    /// `AF_INET` or `AF_INET6`, for the route look-up.
    const AF: u8;

    /// The scope of a destination.
    fn scope(addr: &Self::Addr) -> Scope;

    /// The pod's address.
    fn endpoint_addr(endpoint: &Endpoint) -> &Self::Addr;

    /// Whether `addr` is the pod's own link-local address.
    fn is_own_link_local(endpoint: &Endpoint, addr: Self::Addr) -> bool;

    /// The network's gateway; unspecified if it has none of this family.
    fn gateway(network: &Network) -> &Self::Addr;

    /// The mask of the network's subnet.
    fn mask(network: &Network) -> &Self::Addr;

    /// The source address of masqueraded packets.
    fn uplink_addr(uplink: &Uplink) -> &Self::Addr;

    /// Whether `addr` is in the network's subnet of this family.
    #[inline(always)]
    fn in_subnet(network: &Network, addr: &Self::Addr) -> bool {
        let gateway = Self::gateway(network);
        !gateway.is_unspecified() && same_prefix(addr, gateway, Self::mask(network))
    }
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy, Debug)]
pub struct V6;

impl Family for V4 {
    type Addr = Addr4;

    const LOOPBACK: Addr4 = Addr4([127, 0, 0, 1]);
    const ETHERTYPE: u16 = ethertype::IPV4;
    const ICMP: u8 = proto::ICMP;
    const HDR_LEN: usize = ipv4::IPV4_LEN;
    const SRC_OFF: usize = ipv4::SRC_OFF;
    const HOP_LIMIT_OFF: usize = ipv4::TTL_OFF;
    const HDR_CSUM_OFF: Option<usize> = Some(ipv4::CSUM_OFF);
    const ICMP_PSEUDO_HDR: bool = false;
    const ECHO_REQUEST: u8 = icmp::v4::ECHO_REQUEST;
    const ECHO_REPLY: u8 = icmp::v4::ECHO_REPLY;
    const AF: u8 = 2;

    #[inline(always)]
    fn scope(addr: &Addr4) -> Scope {
        match addr.0 {
            [0 | 127, ..] => Scope::Martian,
            [255, 255, 255, 255] | [224..=239, ..] => Scope::Multicast,
            [240..=255, ..] => Scope::Martian,
            _ => Scope::Unicast,
        }
    }

    #[inline(always)]
    fn endpoint_addr(endpoint: &Endpoint) -> &Addr4 {
        &endpoint.addr4
    }

    #[inline(always)]
    fn is_own_link_local(_: &Endpoint, _: Addr4) -> bool {
        false
    }

    #[inline(always)]
    fn gateway(network: &Network) -> &Addr4 {
        &network.gateway4
    }

    #[inline(always)]
    fn mask(network: &Network) -> &Addr4 {
        &network.mask4
    }

    #[inline(always)]
    fn uplink_addr(uplink: &Uplink) -> &Addr4 {
        &uplink.addr4
    }
}

impl Family for V6 {
    type Addr = Addr6;

    const LOOPBACK: Addr6 = Addr6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    const ETHERTYPE: u16 = ethertype::IPV6;
    const ICMP: u8 = proto::ICMPV6;
    const HDR_LEN: usize = ipv6::IPV6_LEN;
    const SRC_OFF: usize = ipv6::SRC_OFF;
    const HOP_LIMIT_OFF: usize = ipv6::HOP_LIMIT_OFF;
    const HDR_CSUM_OFF: Option<usize> = None;
    const ICMP_PSEUDO_HDR: bool = true;
    const ECHO_REQUEST: u8 = icmp::v6::ECHO_REQUEST;
    const ECHO_REPLY: u8 = icmp::v6::ECHO_REPLY;
    const AF: u8 = 10;

    #[inline(always)]
    fn scope(addr: &Addr6) -> Scope {
        match addr.0 {
            [0xff, ..] => Scope::Multicast,
            [0xfe, b, ..] if b & 0xc0 == 0x80 => Scope::LinkLocal,
            // `::`, `::1` and the IPv4-mapped and -compatible forms (RFC 4291 sections 2.5.2, 2.5.3 and 2.5.5).
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ..] => Scope::Martian,
            _ => Scope::Unicast,
        }
    }

    #[inline(always)]
    fn endpoint_addr(endpoint: &Endpoint) -> &Addr6 {
        &endpoint.addr6
    }

    #[inline(always)]
    fn is_own_link_local(endpoint: &Endpoint, addr: Addr6) -> bool {
        addr == Addr6::link_local(endpoint.mac)
    }

    #[inline(always)]
    fn gateway(network: &Network) -> &Addr6 {
        &network.gateway6
    }

    #[inline(always)]
    fn mask(network: &Network) -> &Addr6 {
        &network.mask6
    }

    #[inline(always)]
    fn uplink_addr(uplink: &Uplink) -> &Addr6 {
        &uplink.addr6
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    fn a4(s: &str) -> Addr4 {
        s.parse::<Ipv4Addr>().unwrap().into()
    }

    fn a6(s: &str) -> Addr6 {
        s.parse::<Ipv6Addr>().unwrap().into()
    }

    #[test]
    fn scopes() {
        for (addr, scope) in [
            ("0.0.0.0", Scope::Martian),
            ("127.0.0.1", Scope::Martian),
            ("224.0.0.251", Scope::Multicast),
            ("239.255.255.255", Scope::Multicast),
            ("240.0.0.1", Scope::Martian),
            ("255.255.255.255", Scope::Multicast),
            ("10.0.0.1", Scope::Unicast),
            ("169.254.1.1", Scope::Unicast),
        ] {
            assert_eq!(V4::scope(&a4(addr)), scope, "{addr}");
        }
        for (addr, scope) in [
            ("::", Scope::Martian),
            ("::1", Scope::Martian),
            ("::ffff:10.0.0.1", Scope::Martian),
            ("ff02::1", Scope::Multicast),
            ("fe80::1", Scope::LinkLocal),
            ("febf::1", Scope::LinkLocal),
            ("fec0::1", Scope::Unicast),
            ("fd00:244::1", Scope::Unicast),
        ] {
            assert_eq!(V6::scope(&a6(addr)), scope, "{addr}");
        }
    }

    #[test]
    fn loopback() {
        assert!(is_loopback(&a4("127.0.0.1")) && is_loopback(&a4("127.255.0.2")) && is_loopback(&a6("::1")));
        assert!(!is_loopback(&a4("128.0.0.1")) && !is_loopback(&a6("::2")) && !is_loopback(&a6("::ffff:127.0.0.1")));
    }

    #[test]
    fn subnets() {
        let network = Network {
            gateway4: a4("10.244.0.1"),
            mask4: a4("255.255.255.0"),
            gateway6: a6("fd00:244::1"),
            mask6: a6("ffff:ffff:ffff:ffff::"),
            ..Network::default()
        };
        assert!(V4::in_subnet(&network, &a4("10.244.0.255")));
        assert!(!V4::in_subnet(&network, &a4("10.244.1.0")));
        assert!(V6::in_subnet(&network, &a6("fd00:244::ffff:1")));
        assert!(!V6::in_subnet(&network, &a6("fd00:244:0:1::1")));
        assert!(!V4::in_subnet(&Network::default(), &a4("10.244.0.1")), "no IPv4 here");
    }
}
