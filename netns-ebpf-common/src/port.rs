//! Source ports: in which order they are tried and how many in one packet (here), a search ([`Search`]), and how many are one pod's
//! ([`share`]).

pub mod search;
pub mod share;

use crate::Port;
use crate::family::mix;
use crate::network::MAX_SNAT_ADDRS;
use crate::proto;

pub use self::search::Search;
pub use self::share::UseIndex;

/// Most candidates one packet tries, each a look-up in the flow table.
pub const MOST_TRIED: u32 = 128;

/// Steps of one search: [`MOST_TRIED`] candidates, and for each address of a pool from one parity to the other and on.
pub const MOST_STEPS: u32 = MOST_TRIED + 3 * MAX_SNAT_ADDRS as u32;

/// Candidates of one parity that are tried in one search, before as many of the other.
const OF_ONE_PARITY: u32 = MOST_TRIED / 2;

/// The last one of so many is at random where the range has more of them: what one pod's search has taken, in a row as such a search
/// goes, would all be in the way of another's.
const ONE_AT_RANDOM_OF: u32 = 4;

/// From one candidate to the next of its parity, modulo their number: a prime beyond that, so each comes once. In the default range
/// this is 0.61 of it, and ports that are in use in a row, as flows that keep their own often are, are but a few of the candidates.
const STRIDE: u32 = 48_611;

/// What a candidate costs of [`MOST_TRIED`] where sockets of the host and mappings had to be asked.
pub const ASKING_COSTS: u32 = 4;

/// How long a search that found nothing stands for those of the same pod or client towards the same destination.
pub const BACK_OFF_NS: u64 = 10_000_000;

/// The ports a search tries, both included.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First port.
    pub min: u16,
    /// Last port, not below `min`.
    pub max: u16,
}

impl Range {
    /// How many ports it has.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        (self.max.wrapping_sub(self.min)) as u32 + 1
    }

    /// Whether a port is one of them.
    #[inline(always)]
    pub const fn has(self, port: u16) -> bool {
        self.min <= port && port <= self.max
    }

    /// The part that mappings may have: a quarter stays for the flows of networks without them.
    #[inline(always)]
    pub const fn of_mappings(self) -> Self {
        let kept = self.count() / 4;
        Self { min: self.min, max: self.max.wrapping_sub(kept as u16) }
    }

    /// The quarter that stays, or one port.
    #[inline(always)]
    pub const fn without_mappings(self) -> Self {
        let kept = self.count().div_ceil(4);
        Self { min: self.max.wrapping_sub(kept as u16).wrapping_add(1), max: self.max }
    }

    /// How many of its ports have the parity of `port`.
    #[inline(always)]
    const fn of_parity(self, port: u16) -> u32 {
        (self.count() + 1 - ((self.min ^ port) & 1) as u32) / 2
    }

    /// How many of the first `tried` candidates of a parity that has `count` ports are at random.
    #[inline(always)]
    const fn at_random(count: u32, tried: u32) -> u32 {
        if count > OF_ONE_PARITY { tried / ONE_AT_RANDOM_OF } else { 0 }
    }

    /// Candidate `i` of a search that starts at these places (one of each parity, see [`Self::advanced`]), for a flow whose own port is
    /// `own`; `None`: no more in this search.
    ///
    /// Ports with the parity of `own` come first (RFC 4787 REQ-4), then others; of each some are at random, by `seed`, and the rest in strides.
    #[inline(always)]
    pub const fn candidate(self, own: u16, cursors: u32, seed: u32, i: u32) -> Option<u16> {
        let (like, nth) = if i < OF_ONE_PARITY { (own, i) } else { (own ^ 1, i - OF_ONE_PARITY) };
        let count = self.of_parity(like);
        if nth >= OF_ONE_PARITY || nth >= count {
            return None;
        }
        let random = Self::at_random(count, nth);
        let is_random = Self::at_random(count, nth + 1) != random;
        let from = if is_random { mix(seed ^ i) & 0x7fff } else { cursor_of(cursors, like) + nth - random };
        // Below 2^15 * 48,611 < 2^32.
        let Some(place) = from.checked_rem(count) else { return None };
        match (place * STRIDE).checked_rem(count) {
            Some(at) => Some((self.min as u32 + ((self.min ^ like) & 1) as u32 + 2 * at) as u16),
            None => None,
        }
    }

    /// The places behind the first `tried` candidates of such a search: one number, the even ports' in its lower half.
    #[inline(always)]
    pub const fn advanced(self, own: u16, cursors: u32, tried: u32) -> u32 {
        let (own_tried, other_tried) =
            if tried < OF_ONE_PARITY { (tried, 0) } else { (OF_ONE_PARITY, tried - OF_ONE_PARITY) };
        let own_place = self.place(own, cursors, own_tried);
        let other_place = self.place(own ^ 1, cursors, other_tried);
        own_place << shift_of(own) | other_place << shift_of(own ^ 1)
    }

    /// The place of the ports like `like`, behind so many candidates of theirs.
    #[inline(always)]
    const fn place(self, like: u16, cursors: u32, tried: u32) -> u32 {
        let count = self.of_parity(like);
        let in_strides = tried - Self::at_random(count, tried);
        match (cursor_of(cursors, like) + in_strides).checked_rem(count) {
            Some(place) => place,
            None => 0,
        }
    }

    /// How many searches in vain go through the whole range.
    #[inline(always)]
    pub const fn searches(self) -> u32 {
        let of_parity = self.count().div_ceil(2);
        of_parity.div_ceil(OF_ONE_PARITY - Self::at_random(of_parity, OF_ONE_PARITY))
    }
}

/// Where that place is in the number. Without a branch, as all that is done for a candidate: the verifier follows each way.
#[inline(always)]
const fn shift_of(like: u16) -> u32 {
    (like as u32 & 1) << 4
}

/// The place of the ports with the parity of `like`.
#[inline(always)]
const fn cursor_of(cursors: u32, like: u16) -> u32 {
    cursors >> shift_of(like) & 0xffff
}

/// Ports in use are counted by themselves besides, for who would bind one: where, for TCP and UDP.
#[inline(always)]
pub const fn held_index(proto: u8, port: Port) -> Option<u32> {
    match proto {
        proto::TCP => Some(port.get() as u32),
        proto::UDP => Some(0x1_0000 | port.get() as u32),
        _ => None,
    }
}

/// Places [`held_index`] gives.
pub const HELD_PLACES: u32 = 2 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    const SEED: u32 = 0x1234_5678;

    fn tried(range: Range, own: u16, cursor: u32) -> Vec<u16> {
        (0..MOST_TRIED).filter_map(|i| range.candidate(own, cursor, SEED, i)).collect()
    }

    /// Those that are not at random.
    fn in_strides(range: Range, own: u16, cursor: u32) -> Vec<u16> {
        let count = |i| range.of_parity(if i < OF_ONE_PARITY { own } else { own ^ 1 });
        let is_one = |i: &u32| count(*i) <= OF_ONE_PARITY || i % ONE_AT_RANDOM_OF != ONE_AT_RANDOM_OF - 1;
        (0..MOST_TRIED).filter(is_one).filter_map(|i| range.candidate(own, cursor, SEED, i)).collect()
    }

    #[test]
    fn small_ranges() {
        let range = Range { min: 20, max: 25 };
        // Strides of 48,611 modulo 3 and 2.
        assert_eq!(tried(range, 4, 0), [20, 24, 22, 21, 25, 23]);
        assert_eq!(tried(range, 5, 0x1_0001), [25, 23, 21, 24, 22, 20]);
        assert_eq!(tried(Range { min: 21, max: 25 }, 4, 0x1_0001), [24, 22, 25, 23, 21]);
        assert_eq!(tried(Range { min: 21, max: 21 }, 5, 7), [21]);
        assert_eq!(tried(Range { min: 0, max: u16::MAX }, 5, u32::MAX).len(), 128);
        assert_eq!(in_strides(Range { min: 0, max: u16::MAX }, 5, u32::MAX).len(), 96);
        assert_eq!(Range { min: 0, max: u16::MAX }.count(), 65_536);
    }

    #[test]
    fn mappings_leave_a_quarter() {
        assert_eq!(Range { min: 20_000, max: 32_767 }.of_mappings(), Range { min: 20_000, max: 29_575 });
        assert_eq!(Range { min: 7, max: 7 }.of_mappings(), Range { min: 7, max: 7 });
        assert_eq!(Range { min: 20_000, max: 32_767 }.without_mappings(), Range { min: 29_576, max: 32_767 });
        assert_eq!(Range { min: 7, max: 9 }.without_mappings(), Range { min: 9, max: 9 });
    }

    /// Also those that another search has taken in its own order.
    #[test]
    fn ports_another_search_has_taken_are_no_obstacle() {
        let range = Range { min: 20_000, max: 32_767 };
        let (mut used, mut cursors) = (BTreeSet::new(), 0);
        while used.len() < 9000 {
            used.extend(in_strides(range, 1000, cursors));
            cursors = range.advanced(1000, cursors, MOST_TRIED);
        }
        for cursors in 0..range.count() / 2 {
            for seed in [1, 77, 0xdead_beef] {
                let mut candidates = (0..MOST_TRIED).filter_map(|i| range.candidate(1000, cursors, seed ^ cursors, i));
                assert!(candidates.any(|p| !used.contains(&p)), "from {cursors} with {seed}");
            }
        }
    }

    #[test]
    fn ports_in_use_in_a_row_are_no_obstacle() {
        let range = Range { min: 20_000, max: 32_767 };
        for first in [20_000, 25_000] {
            // Half of the range.
            let used = Range { min: first, max: first + 6383 };
            for cursor in 0..range.count() / 2 {
                let free = in_strides(range, 1000, cursor).iter().take(16).filter(|p| !used.has(**p)).count();
                assert!((6..=10).contains(&free), "{free} of 16 from {cursor}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_search_tries_more_than_it_may_or_a_port_outside(
            min: u16, len in 0_u16..3000, own: u16, cursor: u32,
        ) {
            let range = Range { min, max: min.saturating_add(len) };
            let tried = tried(range, own, cursor);
            prop_assert!(tried.len() <= MOST_TRIED as usize);
            let in_strides = in_strides(range, own, cursor);
            prop_assert_eq!(in_strides.iter().collect::<BTreeSet<_>>().len(), in_strides.len());
            prop_assert!(tried.iter().all(|p| range.has(*p)));
            let first_other = tried.iter().position(|p| (p ^ own) & 1 == 1).unwrap_or(tried.len());
            prop_assert!(tried[first_other..].iter().all(|p| (p ^ own) & 1 == 1));
        }

        #[test]
        fn the_last_free_port_is_found_within_the_stated_number_of_searches(
            min: u16, len in 0_u16..20_000, own: u16, cursor: u32, free: u16,
        ) {
            let range = Range { min, max: min.saturating_add(len) };
            let free = min + (u32::from(free) % range.count()) as u16;
            let mut cursor = cursor;
            let mut searches = 0;
            loop {
                searches += 1;
                prop_assert!(searches <= range.searches() + 1);
                if in_strides(range, own, cursor).contains(&free) {
                    break;
                }
                cursor = range.advanced(own, cursor, MOST_TRIED);
            }
        }

        /// Also where each search is cut short, because others had to be asked.
        #[test]
        fn a_search_goes_on_where_the_last_one_stopped(
            min: u16, len in 0_u16..3000, own: u16, cursors: u32,
            cuts in prop::collection::vec(1..=MOST_TRIED, 1..20),
        ) {
            let range = Range { min, max: min.saturating_add(len) };
            let (mut cursors, mut found, mut all_tried) = (cursors, BTreeSet::new(), [0; 2]);
            for cut in cuts.iter().cycle().take(20_000) {
                found.extend((0..*cut).filter_map(|i| range.candidate(own, cursors, SEED, i)));
                cursors = range.advanced(own, cursors, *cut);
                all_tried[0] += (*cut).min(OF_ONE_PARITY);
                all_tried[1] += cut.saturating_sub(OF_ONE_PARITY);
                if all_tried.iter().all(|n| *n >= 2 * range.count()) {
                    break;
                }
            }
            let own_ports = found.iter().filter(|p| (*p ^ own) & 1 == 0).count();
            prop_assert_eq!(own_ports, range.of_parity(own) as usize);
            if cuts.iter().any(|cut| *cut > OF_ONE_PARITY) {
                prop_assert_eq!(found.len(), range.count() as usize);
            }
        }
    }
}
