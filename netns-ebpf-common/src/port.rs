//! Source ports: in which order they are tried, how many in one packet, and how many are one pod's.
//!
//! Ports of the SNAT range towards one destination are shared as flows are: a pod may have [`FAIR_FACTOR`] times as many as are
//! free, so whoever comes first gets most of them and a newcomer always finds some. How many a pod has, and how many are in use
//! in all, is counted by hash ([`UseIndex`]): exact where few destinations are crowded, and never too low.

use crate::Port;
use crate::family::{Address, addr_hash, mix};
use crate::network::MAX_SNAT_ADDRS;
use crate::proto;
use crate::state::REST_NS;

/// Most candidates one packet tries, each a look-up in the flow table.
pub const MOST_TRIED: u32 = 128;

/// Steps of one search: [`MOST_TRIED`] candidates, and for each address of a pool from one parity to the other and on.
pub const MOST_STEPS: u32 = MOST_TRIED + 3 * MAX_SNAT_ADDRS as u32;

/// Candidates of one parity that are tried in one search, before as many of the other.
const OF_ONE_PARITY: u32 = MOST_TRIED / 2;

/// From one candidate to the next of its parity, modulo their number: a prime beyond that, so each comes once. In the default range
/// this is 0.61 of it, and ports that are in use in a row, as flows that keep their own often are, are but a few of the candidates.
const STRIDE: u32 = 48_611;

/// What a candidate costs of [`MOST_TRIED`] where sockets of the host and mappings had to be asked.
pub const ASKING_COSTS: u32 = 4;

/// How long a search that found nothing stands for those of the same pod or client towards the same destination.
pub const BACK_OFF_NS: u64 = 10_000_000;

/// How many times the free ports a pod may have.
pub const FAIR_FACTOR: u32 = 8;

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

    /// Candidate `i` of a search that starts at these places (one of each parity, see [`Self::advanced`]), for a flow whose own port is
    /// `own`; `None`: no more in this search.
    ///
    /// Ports with the parity of `own` come first (RFC 4787 REQ-4), then others; each in strides.
    #[inline(always)]
    pub const fn candidate(self, own: u16, cursors: u32, i: u32) -> Option<u16> {
        let (like, nth) = if i < OF_ONE_PARITY { (own, i) } else { (own ^ 1, i - OF_ONE_PARITY) };
        let count = self.of_parity(like);
        if nth >= OF_ONE_PARITY || nth >= count {
            return None;
        }
        // Below 2^15 * 48,611 < 2^32.
        let Some(place) = (cursor_of(cursors, like) + nth).checked_rem(count) else { return None };
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

    /// The place of the ports like `like`, `by` further on.
    #[inline(always)]
    const fn place(self, like: u16, cursors: u32, by: u32) -> u32 {
        match (cursor_of(cursors, like) + by).checked_rem(self.of_parity(like)) {
            Some(place) => place,
            None => 0,
        }
    }

    /// How many searches in vain go through the whole range.
    #[inline(always)]
    pub const fn searches(self) -> u32 {
        self.count().div_ceil(2).div_ceil(OF_ONE_PARITY)
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

    /// The cells of a destination, for a pod. `seed` is nobody's to know.
    ///
    /// `pool`: the network whose pool the source address is of, or 0 for the addresses of uplinks.
    #[inline(always)]
    pub fn new<A: Address>(seed: u32, pool: u16, dst: &A, dport: Port, proto: u8, slot: u32) -> Self {
        let [high, low] = dport.0;
        let one = mix(addr_hash(dst) ^ seed ^ u32::from_be_bytes([proto, 0, high, low]));
        let two = mix(one.wrapping_mul(0x9e37_79b1) ^ seed ^ pool as u32);
        let pod = mix(slot ^ seed.rotate_left(16));
        let cell = |row: u32, hash: u32| row * USE_CELLS + (hash & (USE_CELLS - 1));
        let one = mix(one ^ pool as u32);
        Self { all: [cell(0, one), cell(1, two)], own: [cell(2, mix(one ^ pod)), cell(3, mix(two.wrapping_add(pod)))] }
    }
}

/// A search for a port: a candidate at a time, as many as it can pay for, and with a pool address after address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// When the flow was last seen that is in the candidate's way, or [`Self::FREE`].
    there_ns: u64,
    /// When the flow was last seen whose port is taken if none is free.
    best_ns: u64,
    /// Where the ports in use towards the destination are counted.
    pub counted_in: UseIndex,
    /// Where it starts: see [`Range::candidate`].
    pub cursors: u32,
    next: u32,
    budget: u32,
    nth_addr: u32,
    /// Addresses there are, 1 without a pool.
    pub addrs: u32,
    /// The one it starts with, counted from the pod's own.
    first_addr: u32,
    best_addr: u32,
    /// The ports.
    pub range: Range,
    /// Those that are counted.
    pub counts: Range,
    own: u16,
    port: u16,
    /// The port that is taken if none is free, if there is one.
    pub best_port: u16,
    /// Further addresses try the own port first as well.
    own_first: bool,
    own_next: bool,
    /// The own port is asked for, as all others are.
    asks_own: bool,
    searches: bool,
    /// The address is one of the host's: ports are shared, and others are asked.
    pub translates: bool,
    takes_best: bool,
    /// The pod may have more ports of the range than it has.
    pub may_have_more: bool,
    /// It may take the place of another's flow that yields its port.
    pub may_take_over: bool,
    new_address: bool,
    has_port: bool,
}

impl Search {
    /// Nothing is in the way.
    const FREE: u64 = u64::MAX;

    /// Begins a search through `range` for a flow whose own port is `own`, which comes first if it is allowed.
    #[inline(always)]
    pub const fn reset(&mut self, range: Range, own: u16, own_first: bool, translates: bool, asks_own: bool) {
        self.there_ns = Self::FREE;
        self.best_ns = Self::FREE;
        self.next = 0;
        self.budget = MOST_TRIED;
        self.nth_addr = 0;
        self.addrs = 1;
        self.first_addr = 0;
        self.range = range;
        self.own = own;
        self.port = own;
        self.own_first = own_first;
        self.own_next = own_first;
        self.asks_own = asks_own;
        self.searches = false;
        self.translates = translates;
        self.takes_best = false;
        self.may_have_more = true;
        self.may_take_over = true;
        self.new_address = false;
        self.has_port = true;
    }

    /// Whether the own port is the next candidate, before any search; it is from now on the one at hand.
    #[inline(always)]
    pub const fn tries_own(&mut self) -> bool {
        if self.searches || !self.own_next {
            return false;
        }
        self.own_next = false;
        true
    }

    /// Begins to search `addrs` addresses from a place in the range; the last `vain` searches have found nothing.
    #[inline(always)]
    pub const fn begin(&mut self, cursors: u32, addrs: u32, vain: u32) {
        self.searches = true;
        self.cursors = cursors;
        self.addrs = addrs;
        self.first_addr = match vain.checked_rem(addrs) {
            Some(n) => n,
            None => 0,
        };
        self.new_address = self.first_addr != 0;
    }

    /// Whether the range is searched, and not only the own port tried.
    #[inline(always)]
    pub const fn searches(&self) -> bool {
        self.searches
    }

    /// Whether a port that was claimed counts among those in use.
    #[inline(always)]
    pub const fn counts(&self, port: u16) -> bool {
        self.translates && self.counts.has(port)
    }

    /// The candidate at hand.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether the candidate is of another address than the one before.
    #[inline(always)]
    pub const fn take_address(&mut self) -> bool {
        let new = self.new_address;
        self.new_address = false;
        new
    }

    /// Goes on by a step: to the next candidate, or where there is none of this parity or address to the next of those, which has its
    /// first candidate a step later; `false` if there are none.
    #[inline(always)]
    pub const fn choose_next(&mut self) -> bool {
        self.has_port = true;
        if self.own_next {
            self.own_next = false;
            self.port = self.own;
            return true;
        }
        match self.range.candidate(self.own, self.cursors, self.next) {
            Some(port) => {
                self.port = port;
                self.next += 1;
                true
            }
            None => {
                self.has_port = false;
                if self.next < OF_ONE_PARITY {
                    self.next = OF_ONE_PARITY;
                    return true;
                }
                self.next_address()
            }
        }
    }

    /// Whether the step has led to a candidate.
    #[inline(always)]
    pub const fn has_port(&self) -> bool {
        self.has_port
    }

    /// Whether the candidate may be taken from those that are free: ports outside the range are nobody's share.
    #[inline(always)]
    pub const fn may_take(&self) -> bool {
        self.may_have_more || !self.range.has(self.port)
    }

    /// No flow is in the candidate's way.
    #[inline(always)]
    pub const fn set_free(&mut self) {
        self.there_ns = Self::FREE;
    }

    /// One is that yields, and was last seen then.
    #[inline(always)]
    pub const fn set_yielding(&mut self, seen_ns: u64) {
        self.there_ns = seen_ns;
    }

    /// Whether sockets and mappings are asked for the candidate at hand.
    #[inline(always)]
    pub const fn asks(&self) -> bool {
        self.translates && (self.searches || self.asks_own)
    }

    /// Pays for `n` candidates; `false` when it cannot.
    #[inline(always)]
    pub const fn pay(&mut self, n: u32) -> bool {
        let pays = self.budget >= n;
        self.budget = self.budget.saturating_sub(n);
        pays
    }

    /// Goes on with the next address; `false` if that was the last.
    #[inline(always)]
    const fn next_address(&mut self) -> bool {
        if self.nth_addr + 1 >= self.addrs {
            return false;
        }
        self.nth_addr += 1;
        self.next = 0;
        self.own_next = self.own_first;
        self.new_address = true;
        true
    }

    /// The address it is at, counted from the pod's own.
    #[inline(always)]
    pub const fn addr(&self) -> u32 {
        if self.takes_best { self.best_addr } else { self.first_addr.wrapping_add(self.nth_addr) }
    }

    /// Notes the candidate if a flow in its way yields it: the one that has rested longest counts. `false`: it is free.
    #[inline(always)]
    pub const fn note_yielding(&mut self) -> bool {
        if self.there_ns == Self::FREE {
            return false;
        }
        if self.may_be_best(self.there_ns) {
            self.best_ns = self.there_ns;
            self.best_port = self.port;
            self.best_addr = self.addr();
        }
        true
    }

    /// Whether one last seen then would be taken rather than those noted so far, or is the one that was noted.
    #[inline(always)]
    pub const fn may_be_best(&self, seen_ns: u64) -> bool {
        seen_ns <= self.best_ns
    }

    /// Whether there is one that needs no longer rest.
    #[inline(always)]
    pub const fn has_rested(&self, now_ns: u64) -> bool {
        self.best_ns < now_ns.saturating_sub(REST_NS)
    }

    /// Takes the one that has rested longest; `false` if there is none.
    #[inline(always)]
    pub const fn take_best(&mut self) -> bool {
        let has_best = self.best_ns != Self::FREE;
        self.takes_best = has_best;
        has_best
    }

    /// Whether what is in the way of the one that is taken is what was noted, or less.
    #[inline(always)]
    pub const fn still_yields(&self) -> bool {
        self.there_ns == Self::FREE || self.there_ns <= self.best_ns
    }

    /// Where the next search starts, and with which address, after one that found a port or did not.
    ///
    /// After one in vain each address has its turn before the search goes on in the range.
    #[inline(always)]
    pub const fn end(&self, vain: u32, found: bool) -> (u32, u32) {
        // Of an address that was left for the next one all was tried.
        let tried = if self.nth_addr == 0 { self.next } else { MOST_TRIED };
        let advanced = self.range.advanced(self.own, self.cursors, tried);
        if found {
            return (advanced, vain);
        }
        let next = vain.wrapping_add(1);
        let round = match next.checked_rem(self.addrs) {
            Some(n) => n == 0,
            None => true,
        };
        (if round { advanced } else { self.cursors }, next)
    }
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
    use crate::Addr4;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, HashMap};
    use std::vec;
    use std::vec::Vec;

    fn tried(range: Range, own: u16, cursor: u32) -> Vec<u16> {
        (0..MOST_TRIED).filter_map(|i| range.candidate(own, cursor, i)).collect()
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
        assert_eq!(Range { min: 0, max: u16::MAX }.count(), 65_536);
    }

    #[test]
    fn mappings_leave_a_quarter() {
        assert_eq!(Range { min: 20_000, max: 32_767 }.of_mappings(), Range { min: 20_000, max: 29_575 });
        assert_eq!(Range { min: 7, max: 7 }.of_mappings(), Range { min: 7, max: 7 });
        assert_eq!(Range { min: 20_000, max: 32_767 }.without_mappings(), Range { min: 29_576, max: 32_767 });
        assert_eq!(Range { min: 7, max: 9 }.without_mappings(), Range { min: 9, max: 9 });
    }

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
    fn a_newcomer_takes_what_others_yield_and_a_hog_only_its_own() {
        assert!(may_take_over(0, 1) && may_take_over(4, 10));
        assert!(!may_take_over(5, 10) && !may_take_over(9, 10) && !may_take_over(0, 0));
        // Counted too high by chance.
        assert!(!may_take_over(3, 2));
    }

    #[test]
    fn ports_in_use_in_a_row_are_no_obstacle() {
        let range = Range { min: 20_000, max: 32_767 };
        for first in [20_000, 25_000] {
            // Half of the range.
            let used = Range { min: first, max: first + 6383 };
            for cursor in 0..range.count() / 2 {
                let free = tried(range, 1000, cursor).iter().take(16).filter(|p| !used.has(**p)).count();
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
            prop_assert_eq!(tried.iter().collect::<BTreeSet<_>>().len(), tried.len());
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
                if tried(range, own, cursor).contains(&free) {
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
                found.extend((0..*cut).filter_map(|i| range.candidate(own, cursors, i)));
                cursors = range.advanced(own, cursors, *cut);
                all_tried[0] += (*cut).min(OF_ONE_PARITY);
                all_tried[1] += cut.saturating_sub(OF_ONE_PARITY);
                if all_tried.iter().all(|n| *n >= range.count()) {
                    break;
                }
            }
            let own_ports = found.iter().filter(|p| (*p ^ own) & 1 == 0).count();
            prop_assert_eq!(own_ports, range.of_parity(own) as usize);
            if cuts.iter().any(|cut| *cut > OF_ONE_PARITY) {
                prop_assert_eq!(found.len(), range.count() as usize);
            }
        }

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
