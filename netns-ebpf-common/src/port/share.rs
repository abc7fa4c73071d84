//! How many ports towards one destination are one pod's.
//!
//! Ports of the SNAT range towards one destination are shared as flows are: a pod may have [`FAIR_FACTOR`] times as many as are
//! free, so whoever comes first gets most of them and a newcomer always finds some. How many a pod has, and how many are in use
//! in all, is counted by hash ([`UseIndex`]): exact where few destinations are crowded, and never too low.

use crate::Port;
use crate::family::{Address, addr_hash_from, mix};

/// How many times the free ports a pod may have.
pub const FAIR_FACTOR: u32 = 8;

/// Whether a pod that has `own` of the `used` ports towards a destination may have another of `all`.
#[inline(always)]
pub const fn may_have(own: u32, used: u32, all: u32) -> bool {
    let free = all.saturating_sub(used);
    own < free.saturating_mul(FAIR_FACTOR)
}

/// Whether a pod that may have no further one may take another's place all the same, whose flow yields its port: it has fewer than
/// the others together. Their ended flows would else shut a newcomer out where they have taken the last port.
#[inline(always)]
pub const fn may_take_over(own: u32, used: u32) -> bool {
    own < used.saturating_sub(own)
}

/// Whether a pod has next to none of the ports in use towards a destination.
#[inline(always)]
pub const fn is_newcomer(own: u32, used: u32) -> bool {
    own < used / 64
}

/// Cells of each of the two rows ports in use are counted in, for all pods together and for each.
pub const USE_CELLS: u32 = 65_536;

/// Where ports in use towards a destination are counted: a count-min sketch of two rows (Cormode and Muthukrishnan, 2005). The
/// smaller of a pair is the number, or more than that where both are shared.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UseIndex {
    /// Of all pods.
    pub all: [u32; 2],
    /// Of one.
    pub own: [u32; 2],
}

impl UseIndex {
    /// Cells there are in all.
    pub const CELLS: u32 = 4 * USE_CELLS;

    /// The cells of a destination, for a pod. `seed` is nobody's to know, and who does not know it cannot find two destinations that
    /// share cells: each row hashes all by itself, and the seed goes in before what a pod may choose.
    ///
    /// `pool`: the network whose pool the source address is of, or 0 for the addresses of uplinks.
    #[inline(always)]
    pub fn new<A: Address>(seed: u32, pool: u16, dst: &A, dport: Port, proto: u8, slot: u32) -> Self {
        let [high, low] = dport.0;
        let service = u32::from_be_bytes([proto, 0, high, low]);
        let row = |seed: u32| mix(mix(addr_hash_from(mix(seed), dst) ^ service) ^ pool as u32);
        let (one, two) = (row(seed), row(seed.rotate_left(16) ^ 0x9e37_79b9));
        let cell = |row: u32, hash: u32| row * USE_CELLS + (hash & (USE_CELLS - 1));
        Self { all: [cell(0, one), cell(1, two)], own: [cell(2, mix(one ^ slot)), cell(3, mix(two ^ slot))] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Addr4;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn shares_leave_room_for_a_newcomer() {
        let mut used = 0;
        let mut first = 0;
        while may_have(first, used, 12_768) {
            (first, used) = (first + 1, used + 1);
        }
        assert!((11_000..12_000).contains(&first), "{first}");
        let mut second = 0;
        while may_have(second, used, 12_768) {
            (second, used) = (second + 1, used + 1);
        }
        assert!(second > 1000 && used < 12_768, "{second}");
        assert!(!may_have(0, 10, 10) && may_have(3, 3, 4));
    }

    #[test]
    fn who_has_next_to_none_is_a_newcomer() {
        assert!(is_newcomer(0, 64) && is_newcomer(99, 6400));
        assert!(!is_newcomer(0, 63) && !is_newcomer(100, 6400) && !is_newcomer(5, 5));
    }

    #[test]
    fn a_newcomer_takes_what_others_yield_and_a_hog_only_its_own() {
        assert!(may_take_over(0, 1) && may_take_over(4, 10));
        assert!(!may_take_over(5, 10) && !may_take_over(9, 10) && !may_take_over(0, 0));
        // Counted too high by chance.
        assert!(!may_take_over(3, 2));
    }

    /// Destinations of which a hash that takes the seed in last makes one number share their cells, whatever that is.
    #[test]
    fn nobody_chooses_destinations_that_share_cells() {
        let hash = |n: u32| crate::family::addr_hash(&Addr4(n.to_be_bytes()));
        let victim = (0x0a00_0001, 53_u16);
        let colliding: Vec<(u32, u16)> = (0x0a00_0002..)
            .filter(|n| hash(*n) >> 16 == hash(victim.0) >> 16)
            .map(|n| (n, (hash(n) ^ hash(victim.0)) as u16 ^ victim.1))
            .take(20)
            .collect();
        let cells =
            |seed, (addr, port): (u32, u16)| UseIndex::new(seed, 0, &Addr4(addr.to_be_bytes()), Port::new(port), 17, 1);
        for seed in [0, 1, 0xdead_beef, u32::MAX] {
            let of_victim = cells(seed, victim);
            let shared = colliding.iter().filter(|at| cells(seed, **at).all == of_victim.all).count();
            assert_eq!(shared, 0, "{seed}");
        }
    }

    proptest! {
        #[test]
        fn ports_in_use_are_never_counted_too_low(
            flows in prop::collection::vec((0_u8..4, 0_u16..4, 0_u32..3), 1..200), seed: u32,
        ) {
            let mut cells = vec![0_u32; UseIndex::CELLS as usize];
            let index = |d: u8, p: u16, slot: u32| {
                UseIndex::new(seed, 3, &Addr4([10, 0, 0, d]), Port::new(p), 6, slot)
            };
            let (mut all, mut own) = (HashMap::new(), HashMap::new());
            for (d, p, slot) in &flows {
                let at = index(*d, *p, *slot);
                at.all.iter().chain(&at.own).for_each(|i| cells[*i as usize] += 1);
                *all.entry((*d, *p)).or_insert(0) += 1;
                *own.entry((*d, *p, *slot)).or_insert(0) += 1;
            }
            let least = |at: [u32; 2], cells: &[u32]| at.map(|i| cells[i as usize]).into_iter().min().unwrap_or(0);
            for (d, p, slot) in &flows {
                let at = index(*d, *p, *slot);
                prop_assert!(least(at.all, &cells) >= all[&(*d, *p)]);
                prop_assert!(least(at.own, &cells) >= own[&(*d, *p, *slot)]);
            }
            for (d, p, slot) in &flows {
                let at = index(*d, *p, *slot);
                at.all.iter().chain(&at.own).for_each(|i| cells[*i as usize] -= 1);
            }
            prop_assert!(cells.iter().all(|c| *c == 0));
        }
    }
}
