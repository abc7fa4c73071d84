//! ICMP (RFC 792), ICMPv6 (RFC 4443) and neighbour discovery (RFC 4861).

use crate::plain;
use crate::{Mac, Port};

/// Length of the fixed part: type, code, checksum and four bytes the type defines.
pub const ICMP_LEN: usize = 8;
/// Offset of the checksum.
pub const CSUM_OFF: usize = 2;
/// Offset of an echo message's identifier.
pub const ID_OFF: usize = 4;

/// ICMP types and codes.
pub mod v4 {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Code of unreachable: network.
    pub const CODE_NET: u8 = 0;
    /// Code of unreachable: host.
    pub const CODE_HOST: u8 = 1;
    /// Code of unreachable: fragmentation needed (RFC 1191).
    pub const CODE_FRAG_NEEDED: u8 = 4;
    /// Code of unreachable: administratively prohibited (RFC 1812 section 5.2.7.1).
    pub const CODE_ADMIN: u8 = 13;
}

/// ICMPv6 types and codes.
pub mod v6 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Router solicitation.
    pub const ROUTER_SOLICIT: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERT: u8 = 134;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICIT: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
    /// Code of unreachable: no route.
    pub const CODE_NO_ROUTE: u8 = 0;
    /// Code of unreachable: administratively prohibited.
    pub const CODE_ADMIN: u8 = 1;
    /// Code of unreachable: address.
    pub const CODE_ADDRESS: u8 = 3;
}

/// The fixed part.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpHdr {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub csum: [u8; 2],
    /// What the type defines: identifier and sequence, MTU, flags.
    pub rest: [u8; 4],
}

impl IcmpHdr {
    /// The identifier of an echo message.
    #[inline(always)]
    pub const fn id(&self) -> Port {
        Port([self.rest[0], self.rest[1]])
    }
}

plain!(IcmpHdr { kind, code, csum, rest }: size ICMP_LEN, align 1);

/// A neighbour solicitation or advertisement with its fixed part.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourMsg {
    /// Fixed part; in an advertisement `rest[0]` holds the router, solicited and override flags.
    pub icmp: IcmpHdr,
    /// The address asked for or told of.
    pub target: [u8; 16],
}

plain!(NeighbourMsg { icmp, target }: size 24, align 1);

/// A link-layer address option of 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLayerOption {
    /// [`Self::SOURCE`] or [`Self::TARGET`].
    pub kind: u8,
    /// Length in units of 8 bytes: 1.
    pub len: u8,
    /// The address.
    pub mac: Mac,
}

impl LinkLayerOption {
    /// Source link-layer address.
    pub const SOURCE: u8 = 1;
    /// Target link-layer address.
    pub const TARGET: u8 = 2;
}

plain!(LinkLayerOption { kind, len, mac }: size 8, align 2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hdr::Frame;

    #[test]
    fn golden_bytes() {
        let bytes: [u8; 8] = [8, 0, 0x12, 0x34, 0, 7, 0, 1];
        let icmp: IcmpHdr = bytes.as_slice().read(0).unwrap();
        assert_eq!((icmp.kind, icmp.code, icmp.id().get()), (v4::ECHO_REQUEST, 0, 7));
    }
}
