//! A search for a port, as a value: the candidate at hand, what it may still cost, and the best one so far.

use super::{MOST_TRIED, OF_ONE_PARITY, Range, UseIndex};
use crate::state::REST_NS;

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
    /// What the candidates at random follow from.
    seed: u32,
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
    searches: bool,
    /// The address is one of the host's: ports are shared, and others are asked.
    pub translates: bool,
    takes_best: bool,
    /// The pod may have more ports of the range than it has.
    pub may_have_more: bool,
    /// It may take the place of another's flow that yields its port.
    pub may_take_over: bool,
    /// It has next to none of those that are in use.
    pub is_newcomer: bool,
    new_address: bool,
    has_port: bool,
}

impl Search {
    /// Nothing is in the way.
    const FREE: u64 = u64::MAX;

    /// Beyond all times.
    const RELUCTANT: u64 = 1 << 62;

    /// Begins a search through `range` for a flow whose own port is `own`, which comes first if it is allowed.
    #[inline(always)]
    pub const fn reset(&mut self, range: Range, own: u16, own_first: bool, translates: bool) {
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
        self.searches = false;
        self.translates = translates;
        self.takes_best = false;
        self.may_have_more = true;
        self.may_take_over = true;
        self.is_newcomer = false;
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

    /// Begins to search `addrs` addresses from a place in the range, with other numbers at random each time; the last `vain` searches
    /// have found nothing.
    #[inline(always)]
    pub const fn begin(&mut self, cursors: u32, seed: u32, addrs: u32, vain: u32) {
        self.searches = true;
        self.cursors = cursors;
        self.seed = seed;
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
        match self.range.candidate(self.own, self.cursors, self.seed, self.next) {
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
        self.may_have_more || !self.counts.has(self.port)
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

    /// One is that yields to a newcomer, if nothing else is found: it comes after all others that yield, however long it has rested.
    #[inline(always)]
    pub const fn set_reluctant(&mut self, seen_ns: u64) {
        self.there_ns = seen_ns | Self::RELUCTANT;
    }

    /// Whether sockets and mappings are asked for the candidate at hand.
    #[inline(always)]
    pub const fn asks(&self) -> bool {
        self.translates
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
        if self.there_ns < self.best_ns {
            self.best_ns = self.there_ns;
            self.best_port = self.port;
            self.best_addr = self.addr();
        }
        true
    }

    /// Whether the candidate is one that yields, and no better than the best so far: nobody need be asked about it.
    #[inline(always)]
    pub const fn is_no_better(&self) -> bool {
        self.there_ns != Self::FREE && self.there_ns >= self.best_ns
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
