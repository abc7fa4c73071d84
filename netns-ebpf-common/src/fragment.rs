//! Fragmented datagrams: what is known of each, and the fragments that wait for their first.
//!
//! A sender's [area](crate::area) holds so many datagrams and so many waiting fragments; more displace older ones of the same area.

use crate::abi;
use crate::family::{Address, addr_hash};
use crate::plain;
use crate::shared::Shared;
use crate::{Addr4, Addr6, Port};

/// How long pieces of a datagram may follow each other (RFC 4787 section 11 wants at least 2 s; RFC 8200 section 4.5 reassembles
/// for 60 s at most, Linux for 30 s in IPv4).
pub const FRAGMENT_TIMEOUT_NS: u64 = 30_000_000_000;

/// How long a piece from the LAN keeps its place: some are the host's own, and one that finds no room goes to the host at once.
pub const PLACE_KEPT_NS: u64 = 1_000_000_000;

/// Offsets of pieces count in units of this many bytes.
pub const UNIT_BYTES: u32 = 8;

/// Words of [`Datagram::received`]: a bit for each unit of the largest datagram.
pub const RECEIVED_WORDS: usize = 128;

/// Largest frame that can wait, link layer included: jumbo frames of 9216 bytes.
pub const HELD_FRAME_BYTES: usize = 9232;

/// Places of an area a datagram may have: the first free one, or that of the oldest.
pub const WAYS: u32 = 4;

/// A sender's place for a datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct DatagramSlot {
    /// A pod's slot, or [`crate::area::lan_area`].
    pub area: u32,
    /// Place in the area.
    pub place: u32,
}

impl DatagramSlot {
    /// The first of the [`WAYS`] places a datagram may have in an area. Those of datagrams whose identifications follow each other
    /// are side by side.
    #[inline(always)]
    pub fn first<A: Address>(area: u32, src: &A, dst: &A, id: [u8; 4]) -> Self {
        let id = u32::from_be_bytes(id);
        let places = if area < abi::MAX_ENDPOINTS { abi::DATAGRAMS_PER_POD } else { abi::DATAGRAMS_PER_LAN_AREA };
        let at = (id ^ (id >> 16)).wrapping_add(addr_hash(src)).wrapping_add(addr_hash(dst).rotate_left(7));
        Self { area, place: (at & (places / WAYS - 1)) * WAYS }
    }
}

/// Where a datagram stands; the numbers are stored in maps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its first piece has not come; ports and protocol are not known.
    Waiting = 0,
    /// The first piece has come.
    Known = 1,
    /// Two pieces contradict each other: none is forwarded any more (RFC 5722 section 4).
    Bad = 2,
    /// All of it has come; the identification is free for another.
    Complete = 3,
}

impl Progress {
    /// From a stored byte; anything unknown is bad.
    #[inline(always)]
    pub const fn from_u8(n: u8) -> Self {
        match n {
            0 => Self::Waiting,
            1 => Self::Known,
            3 => Self::Complete,
            _ => Self::Bad,
        }
    }
}

/// A datagram in pieces.
///
/// What is not [`Shared`] is constant from insertion to removal. Ports and protocol are written before the progress says that they are
/// known.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<A> {
    /// When the piece that came first of all did, `CLOCK_MONOTONIC`.
    pub seen_ns: u64,
    /// Tells its waiting pieces from those of others; random.
    pub serial: u64,
    /// Which of its area's waiting pieces are its own: a bit for each.
    pub held: Shared<u64>,
    /// Which of its units have come, lowest bit first.
    pub received: [Shared<u64>; RECEIVED_WORDS],
    /// How many bytes have come.
    pub received_bytes: Shared<u64>,
    /// Where it ends, if the last piece has come, else 0.
    pub end_bytes: Shared<u32>,
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// What tells it from others, see [`crate::parse::Parsed::fragment_id`].
    pub id: [u8; 4],
    /// Network id, or [`crate::abi::ZONE_HOST`].
    pub zone: u16,
    /// IP protocol number, of the first piece.
    pub proto: Shared<u8>,
    /// A [`Progress`] as `u8`.
    pub progress: Shared<u8>,
    /// Source port, of the first piece.
    pub sport: Shared<Port>,
    /// Destination port, likewise.
    pub dport: Shared<Port>,
}

/// Key of a waiting piece.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct HeldKey {
    /// As in [`DatagramSlot`].
    pub area: u32,
    /// Below [`abi::HELD_PER_AREA`]; taken in turns.
    pub place: u32,
}

/// A piece that waits for the first of its datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldPiece {
    /// [`Datagram::serial`] of its datagram.
    pub serial: u64,
    /// When it came, `CLOCK_MONOTONIC`.
    pub seen_ns: u64,
    /// Length of the frame.
    pub len_bytes: u32,
    /// Index of the device it came in by: another one's frames may have no link layer.
    pub ifindex: u32,
    /// The frame.
    pub frame: [u8; HELD_FRAME_BYTES],
}

/// The bits of word `word` that stand for the units from `start` to before `end`.
#[inline(always)]
pub const fn units_in_word(start: u32, end: u32, word: u32) -> u64 {
    let first = word.wrapping_mul(64);
    if end <= first || start >= first + 64 {
        return 0;
    }
    let low = start.saturating_sub(first) & 63;
    let high = end - first;
    let below_end = if high >= 64 { u64::MAX } else { (1u64 << (high & 63)) - 1 };
    below_end & (u64::MAX << low)
}

plain!(DatagramSlot { area, place }: size 8, align 4);
plain!(Datagram<Addr4 | Addr6> {
    seen_ns, serial, held, received, received_bytes, end_bytes, src, dst, id, zone, proto, progress, sport, dport
}: size 1080 | 1104, align 8);
plain!(HeldKey { area, place }: size 8, align 4);
plain!(HeldPiece { serial, seen_ns, len_bytes, ifindex, frame }: size 9256, align 8);

const _: () = assert!(abi::HELD_PER_AREA == 64, "as many as Datagram::held has bits");
const _: () = assert!(RECEIVED_WORDS as u32 * 64 * UNIT_BYTES == 0x1_0000);
const _: () = assert!(
    WAYS.is_power_of_two() && abi::DATAGRAMS_PER_POD.is_power_of_two() && abi::DATAGRAMS_PER_LAN_AREA.is_power_of_two()
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::area::lan_area;
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn words_hold_each_unit_once(start in 0u32..8192, len in 1u32..1200) {
            let end = (start + len).min(8192);
            let found: Vec<u32> = (0..RECEIVED_WORDS as u32)
                .flat_map(|word| {
                    let units = units_in_word(start, end, word);
                    (0..64).filter(move |bit| units >> bit & 1 == 1).map(move |bit| word * 64 + bit)
                })
                .collect();
            prop_assert_eq!(found, (start..end).collect::<Vec<_>>());
        }
    }

    #[test]
    fn datagrams_in_a_row_share_the_places_evenly() {
        let (src, dst) = (Addr4([10, 244, 0, 10]), Addr4([192, 0, 2, 1]));
        for (area, places) in [(3, abi::DATAGRAMS_PER_POD), (lan_area(&src), abi::DATAGRAMS_PER_LAN_AREA)] {
            for start in [0u16, 200, 0xfff0] {
                let first = |i: u32| {
                    let [a, b] = start.wrapping_add(i as u16).to_be_bytes();
                    DatagramSlot::first(area, &src, &dst, [a, b, 17, 0]).place
                };
                let mut found: Vec<u32> = (0..places).map(first).collect();
                found.sort_unstable();
                let wanted: Vec<u32> = (0..places).map(|i| i / WAYS * WAYS).collect();
                assert_eq!(found, wanted, "from {start}");
            }
        }
    }
}
