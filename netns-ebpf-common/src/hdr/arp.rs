//! ARP for IPv4 over Ethernet (RFC 826): read and written field by field.
//!
//! There is no struct for the whole packet: its addresses lie at offsets that are not multiples of their size, and a copy
//! of it on a program's stack would be accessed unaligned, which the verifier refuses.

/// Length of the packet.
pub const ARP_LEN: usize = 28;
/// Offset of hardware type, protocol type, their address lengths and the operation.
pub const START_OFF: usize = 0;
/// Offset of the sender's MAC.
pub const SENDER_MAC_OFF: usize = 8;
/// Offset of the sender's IPv4 address.
pub const SENDER_ADDR_OFF: usize = 14;
/// Offset of the target's MAC; zero in a request.
pub const TARGET_MAC_OFF: usize = 18;
/// Offset of the target's IPv4 address.
pub const TARGET_ADDR_OFF: usize = 24;

/// The first 8 bytes of a request: Ethernet, IPv4, 6 and 4 bytes, who has.
pub const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
/// The first 8 bytes of a reply: is at.
pub const REPLY: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 2];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hdr::Frame;
    use crate::{Addr4, Mac};

    #[test]
    fn golden_bytes() {
        let bytes: [u8; ARP_LEN] =
            [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7, 10, 244, 0, 10, 0, 0, 0, 0, 0, 0, 10, 244, 0, 1];
        let arp = bytes.as_slice();
        assert_eq!(arp.read::<[u8; 8]>(START_OFF), Some(REQUEST));
        assert_eq!(arp.read(SENDER_MAC_OFF), Some(Mac([2, 0, 0, 0, 0, 7])));
        assert_eq!(arp.read(SENDER_ADDR_OFF), Some(Addr4([10, 244, 0, 10])));
        assert_eq!(arp.read(TARGET_MAC_OFF), Some(Mac([0; 6])));
        assert_eq!(arp.read(TARGET_ADDR_OFF), Some(Addr4([10, 244, 0, 1])));
        assert_eq!(arp.read::<Addr4>(TARGET_ADDR_OFF + 1), None);
    }
}
