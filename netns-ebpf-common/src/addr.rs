//! Addresses, link-layer addresses and ports as they are on the wire.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::plain;

/// An IPv4 address, network order. Aligned so that the compiler compares and copies it as one word.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr4(pub [u8; 4]);

/// An IPv6 address, network order.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr6(pub [u8; 16]);

/// An Ethernet address. Aligned so that the compiler copies it by half words.
#[repr(C, align(2))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

/// A transport port, or the identifier of an ICMP query, network order.
#[repr(C, align(2))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Port(pub [u8; 2]);

impl Addr4 {
    /// 0.0.0.0; as a key of the published ports it means "any address of the host".
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// The address as a host-order integer.
    #[inline(always)]
    pub const fn to_bits(self) -> u32 {
        u32::from_be_bytes(self.0)
    }
}

impl Addr6 {
    /// `::`; as a key of the published ports it means "any address of the host".
    pub const UNSPECIFIED: Self = Self([0; 16]);

    /// The link-local address whose interface identifier is the modified EUI-64 of `mac` (RFC 4291 appendix A).
    pub const fn link_local(mac: Mac) -> Self {
        let m = mac.0;
        Self([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]])
    }
}

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set: multicast and broadcast.
    #[inline(always)]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

/// Six pairs of hexadecimal digits with colons between.
impl core::str::FromStr for Mac {
    type Err = NotMac;

    fn from_str(s: &str) -> Result<Self, NotMac> {
        let mut bytes = [0; 6];
        let mut pairs = s.split(':');
        for byte in &mut bytes {
            let pair =
                pairs.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(NotMac)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotMac)?;
        }
        if pairs.next().is_none() { Ok(Self(bytes)) } else { Err(NotMac) }
    }
}

/// A text that is no [`Mac`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMac;

impl Port {
    /// From a host-order number.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Self(port.to_be_bytes())
    }

    /// The port as a host-order number.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

impl From<Ipv4Addr> for Addr4 {
    fn from(a: Ipv4Addr) -> Self {
        Self(a.octets())
    }
}

impl From<Addr4> for Ipv4Addr {
    fn from(a: Addr4) -> Self {
        a.0.into()
    }
}

impl From<Ipv6Addr> for Addr6 {
    fn from(a: Ipv6Addr) -> Self {
        Self(a.octets())
    }
}

impl From<Addr6> for Ipv6Addr {
    fn from(a: Addr6) -> Self {
        a.0.into()
    }
}

impl From<Addr4> for IpAddr {
    fn from(a: Addr4) -> Self {
        Self::V4(a.into())
    }
}

impl From<Addr6> for IpAddr {
    fn from(a: Addr6) -> Self {
        Self::V6(a.into())
    }
}

impl fmt::Debug for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Ipv4Addr::from(*self), f)
    }
}

impl fmt::Debug for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Ipv6Addr::from(*self), f)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.get(), f)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

plain!(Addr4 { 0 }: size 4, align 4);
plain!(Addr6 { 0 }: size 16, align 4);
plain!(Mac { 0 }: size 6, align 2);
plain!(Port { 0 }: size 2, align 2);
