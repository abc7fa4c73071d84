//! ARP for IPv4 over Ethernet (RFC 826).

use super::wire;
use crate::{Addr4, Mac};

/// Length of the packet.
pub const ARP_LEN: usize = 28;

/// Operation: who has.
pub const REQUEST: u16 = 1;
/// Operation: is at.
pub const REPLY: u16 = 2;

/// An ARP packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// Hardware type, protocol type and their address lengths.
    pub kind: [u8; 6],
    operation: [u8; 2],
    /// Sender's MAC.
    pub sender_mac: Mac,
    /// Sender's IPv4 address.
    pub sender_addr: [u8; 4],
    /// Target's MAC; zero in a request.
    pub target_mac: Mac,
    /// Target's IPv4 address.
    pub target_addr: [u8; 4],
}

impl ArpPacket {
    /// Ethernet, IPv4, 6 and 4 bytes.
    pub const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

    /// A packet.
    #[inline(always)]
    pub const fn new(operation: u16, sender_mac: Mac, sender_addr: Addr4, target_mac: Mac, target_addr: Addr4) -> Self {
        Self {
            kind: Self::ETHERNET_IPV4,
            operation: operation.to_be_bytes(),
            sender_mac,
            sender_addr: sender_addr.0,
            target_mac,
            target_addr: target_addr.0,
        }
    }

    /// The operation: [`REQUEST`] or [`REPLY`].
    #[inline(always)]
    pub const fn operation(&self) -> u16 {
        u16::from_be_bytes(self.operation)
    }
}

wire!(ArpPacket, ARP_LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hdr::Frame;

    #[test]
    fn golden_bytes() {
        let bytes: [u8; 28] =
            [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7, 10, 244, 0, 10, 0, 0, 0, 0, 0, 0, 10, 244, 0, 1];
        let arp: ArpPacket = bytes.as_slice().read(0).unwrap();
        let built = ArpPacket::new(
            REQUEST,
            Mac([2, 0, 0, 0, 0, 7]),
            Addr4([10, 244, 0, 10]),
            Mac([0; 6]),
            Addr4([10, 244, 0, 1]),
        );
        assert_eq!(arp, built);
        assert_eq!(arp.operation(), REQUEST);
    }
}
