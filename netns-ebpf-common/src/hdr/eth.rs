//! Ethernet II.

use crate::Mac;
use crate::plain;

/// Length of the header without tags.
pub const ETH_LEN: usize = 14;
/// Offset of the destination MAC.
pub const DST_OFF: usize = 0;
/// Offset of the source MAC.
pub const SRC_OFF: usize = 6;

/// EtherType numbers.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// The Ethernet header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthHdr {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    ethertype: [u8; 2],
}

impl EthHdr {
    /// A header.
    #[inline(always)]
    pub const fn new(dst: Mac, src: Mac, ethertype: u16) -> Self {
        Self { dst, src, ethertype: ethertype.to_be_bytes() }
    }

    /// The EtherType.
    #[inline(always)]
    pub const fn ethertype(&self) -> u16 {
        u16::from_be_bytes(self.ethertype)
    }
}

plain!(EthHdr { dst, src, ethertype }: size ETH_LEN, align 2);

/// The two addresses, written together when a frame is sent on.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthAddrs {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
}

plain!(EthAddrs { dst, src }: size 12, align 2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hdr::Frame;

    #[test]
    fn golden_bytes() {
        let bytes = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
        let eth: EthHdr = bytes.as_slice().read(0).unwrap();
        assert_eq!(eth, EthHdr::new(Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]), ethertype::IPV6));
        assert_eq!(eth.ethertype(), ethertype::IPV6);
        assert!(bytes.as_slice().read::<EthHdr>(1).is_none());
        assert!(bytes.as_slice().read::<EthHdr>(usize::MAX).is_none());
    }
}
