//! What the programs read of the kernel's `struct sk_buff`, and what they judge by it.

#[cfg(any(test, feature = "user"))]
use crate::btf::Btf;
use crate::hdr::udp::UDP_LEN;
use crate::hdr::{sctp, tcp, udp};
use crate::parse::{Fragment, L4, Parsed};
use crate::plain;

/// Where fields of `struct sk_buff` lie in the running kernel. A constant of the programs: the verifier knows its value and
/// holds each access against the kernel's own type.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkbFields {
    /// `head`.
    pub head_off: u16,
    /// `data`.
    pub data_off: u16,
    /// `csum_start`.
    pub csum_start_off: u16,
    /// `csum_offset`.
    pub csum_offset_off: u16,
    /// The byte that holds `ip_summed`.
    pub ip_summed_off: u16,
    /// The bits of it that are `ip_summed`.
    pub ip_summed_mask: u8,
    /// Those bits of a packet whose transport checksum is still to be computed (`CHECKSUM_PARTIAL`).
    pub partial: u8,
}

plain!(SkbFields {
    head_off, data_off, csum_start_off, csum_offset_off, ip_summed_off, ip_summed_mask, partial
}: size 12, align 2);

impl SkbFields {
    /// Value of `ip_summed` (`CHECKSUM_PARTIAL`).
    #[cfg(any(test, feature = "user"))]
    const PARTIAL: u8 = 3;

    /// Looks them up; `None` where the kernel's structure is not what it was from 2.6 to this day.
    #[cfg(any(test, feature = "user"))]
    pub fn find(btf: &Btf<'_>) -> Option<Self> {
        let member = |name| btf.member("sk_buff", name);
        let field_off = |name| {
            let found = member(name).filter(|m| m.bits == 0 && m.bit_off % 8 == 0)?;
            u16::try_from(found.bit_off / 8).ok()
        };
        let summed = member("ip_summed").filter(|m| m.bits == 2 && m.bit_off % 8 <= 6)?;
        let first_bit = summed.bit_off % 8;
        let shift = if cfg!(target_endian = "little") { first_bit } else { 6 - first_bit };
        Some(Self {
            head_off: field_off("head")?,
            data_off: field_off("data")?,
            csum_start_off: field_off("csum_start")?,
            csum_offset_off: field_off("csum_offset")?,
            ip_summed_off: u16::try_from(summed.bit_off / 8).ok()?,
            ip_summed_mask: 3 << shift,
            partial: Self::PARTIAL << shift,
        })
    }
}

/// The constant's name in the object.
pub const SKB_FIELDS: &str = "SKB_FIELDS";

/// A checksum that was left to the device: it sums the packet from `start_off` to its end, and writes the result at
/// `start_off + csum_off`. Whoever sends on a packet socket chooses both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialCsum {
    /// Where the sum begins.
    pub start_off: u64,
    /// Where its result goes, from there on.
    pub csum_off: u16,
}

impl<A> Parsed<A> {
    /// Whether a device that computes this checksum writes nothing a program has judged or changed: it is the transport's own, or
    /// one of a packet that a tunnel of the sender carries.
    ///
    /// Linux leaves none in ICMP (`ping_v4_push_pending_frames`, `icmp_push_reply`), none in a piece (`ip_do_fragment` and
    /// `ip6_fragment` compute it first), and behind the own header only that of a packet inside another.
    #[inline(always)]
    pub const fn leaves_headers_alone(&self, csum: PartialCsum) -> bool {
        let l4_off = self.l4_off() as u64;
        // The kernel's number has 16 bits: this one has come out below the frame's start.
        if csum.start_off > u16::MAX as u64 || !matches!(self.fragment, Fragment::Whole) {
            return false;
        }
        match self.l4 {
            L4::Tcp | L4::Sctp => self.is_own(csum),
            L4::Udp => self.is_own(csum) || csum.start_off >= l4_off + UDP_LEN as u64,
            L4::Other => csum.start_off >= l4_off,
            L4::Icmp | L4::LaterFragment => false,
        }
    }

    /// Whether the checksum is the transport's.
    #[inline(always)]
    const fn is_own(&self, csum: PartialCsum) -> bool {
        let field_off = match self.l4 {
            L4::Tcp => tcp::CSUM_OFF,
            L4::Udp => udp::CSUM_OFF,
            L4::Sctp => sctp::CSUM_OFF,
            L4::Icmp | L4::LaterFragment | L4::Other => return false,
        };
        csum.start_off == self.l4_off() as u64 && csum.csum_off as usize == field_off
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::Addr4;
    use crate::family::{V4, V6};
    use crate::hdr::eth::ETH_LEN;
    use crate::parse::Parse;

    const IP4: usize = 20;
    const IP6: usize = 40;

    /// An IPv4 frame with this protocol and 40 bytes behind the header; `fragment` is the field with flags and offset.
    fn frame4(proto: u8, fragment: u16) -> Vec<u8> {
        let mut frame = [0; ETH_LEN].to_vec();
        frame.extend_from_slice(&[0x45, 0, 0, 60, 0, 1]);
        frame.extend_from_slice(&fragment.to_be_bytes());
        frame.extend_from_slice(&[64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend_from_slice(&transport(proto));
        frame
    }

    fn frame6(proto: u8) -> Vec<u8> {
        let mut frame = [0; ETH_LEN].to_vec();
        frame.extend_from_slice(&[0x60, 0, 0, 0, 0, 40, proto, 64]);
        frame.extend_from_slice(&[0xfd; 32]);
        frame.extend_from_slice(&transport(proto));
        frame
    }

    fn transport(proto: u8) -> [u8; 40] {
        let mut bytes = [0; 40];
        match proto {
            6 => bytes[12] = 0x50,
            17 => bytes[5] = 40,
            _ => {}
        }
        bytes
    }

    fn parsed4(proto: u8, fragment: u16) -> Parsed<Addr4> {
        let (frame, mut p) = (frame4(proto, fragment), Parsed::default());
        V4::parse(frame.as_slice(), ETH_LEN, frame.len(), &mut p).expect("a packet");
        p
    }

    fn csum(start: usize, off: u16) -> PartialCsum {
        PartialCsum { start_off: start as u64, csum_off: off }
    }

    #[test]
    fn a_transports_own_checksum_may_be_left_to_the_device() {
        for (proto, off) in [(6, 16), (17, 6), (132, 8)] {
            assert!(parsed4(proto, 0).leaves_headers_alone(csum(ETH_LEN + IP4, off)), "{proto}");
            let (frame, mut p) = (frame6(proto), Parsed::default());
            V6::parse(frame.as_slice(), ETH_LEN, frame.len(), &mut p).expect("a packet");
            assert!(p.leaves_headers_alone(csum(ETH_LEN + IP6, off)), "{proto}");
            assert!(!p.leaves_headers_alone(csum(ETH_LEN + IP4, off)), "{proto}");
        }
    }

    #[test]
    fn pieces_and_icmp_have_none() {
        const MORE: u16 = 0x2000;
        for fragment in [MORE, MORE | 100, 100] {
            for off in 0..40 {
                assert!(!parsed4(17, fragment).leaves_headers_alone(csum(ETH_LEN + IP4 + off, 6)), "{fragment} {off}");
            }
        }
        for off in 0..40 {
            assert!(!parsed4(1, 0).leaves_headers_alone(csum(ETH_LEN + IP4 + off, 2)), "{off}");
        }
    }

    #[test]
    fn a_packet_inside_another_may_have_one() {
        // VXLAN, inner Ethernet, IPv4, UDP.
        let inner = ETH_LEN + IP4 + 8 + 8 + 14 + 20;
        assert!(parsed4(17, 0).leaves_headers_alone(csum(inner, 6)));
        // IP in IP, and the checksum of GRE itself.
        assert!(parsed4(4, 0).leaves_headers_alone(csum(ETH_LEN + IP4 + 20, 16)));
        assert!(parsed4(47, 0).leaves_headers_alone(csum(ETH_LEN + IP4, 4)));
        // TCP and SCTP carry no packets.
        assert!(!parsed4(6, 0).leaves_headers_alone(csum(inner, 16)));
        assert!(!parsed4(132, 0).leaves_headers_alone(csum(inner, 6)));
    }

    proptest! {
        /// The field is the transport's checksum, or begins behind the header: never an address, a port or a length.
        #[test]
        fn nothing_that_was_judged_is_written_to(
            proto in any::<u8>(),
            start in prop_oneof![0..200_u64, (u64::MAX - 200)..=u64::MAX, any::<u64>()],
            off in prop_oneof![0..200_u16, any::<u16>()],
        ) {
            let p = parsed4(if proto == 58 { 1 } else { proto }, 0);
            if p.leaves_headers_alone(PartialCsum { start_off: start, csum_off: off }) {
                let header_len = match p.l4 { L4::Tcp => 20, L4::Udp => 8, L4::Sctp => 12, _ => 0 };
                let field = start + u64::from(off);
                let own = p.csum_off().map_or(ETH_LEN + IP4 + 8, |off| off) as u64;
                prop_assert!(field == own || field >= (ETH_LEN + IP4 + header_len) as u64, "{p:?} {field}");
            }
        }
    }
}
