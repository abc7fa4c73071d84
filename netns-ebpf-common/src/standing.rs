//! Who gives a place to a newer flow of the same account when that is at its limit.
//!
//! A flow stands by what its two sides have shown. What anybody can bring about by sending alone, with whatever source, is worth
//! no more than the time since: a datagram's answer and one more datagram are two packets of a stranger who guesses that
//! the pod answers. Only a TCP connection shows that its opener hears.

use crate::proto;
use crate::state::{ONE_SHOT_NS, REST_NS, State};

/// How readily a flow gives its place: the higher, the sooner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Yield(u64);

impl Yield {
    /// It stays.
    pub const NEVER: Self = Self(0);

    /// It goes before all others: of several, the one that was opened first.
    pub const AT_ONCE: Self = Self(u64::MAX);

    /// Those whose sides have not both shown that they are there, by the time they have rested; above all others that rest.
    const UNPROVED: u64 = 1 << 62;

    /// What a flow of this state does.
    ///
    /// `is_incoming`: a client opened it to the pod. `idle_ns` is the time since its last packet of either direction,
    /// `timeout_ns` its timer.
    #[inline(always)]
    pub const fn of(state: State, proto: u8, is_incoming: bool, idle_ns: u64, timeout_ns: u64) -> Self {
        if idle_ns > timeout_ns {
            return Self::AT_ONCE;
        }
        let is_tcp = proto == proto::TCP;
        let rests = idle_ns >= ONE_SHOT_NS;
        match state {
            State::Closed | State::Reset => Self::AT_ONCE,
            State::Opening | State::Answered if is_tcp || rests => Self::AT_ONCE,
            State::Established if !is_tcp && rests => Self::AT_ONCE,
            State::Opening | State::Answered | State::Established => Self(Self::UNPROVED | rested(idle_ns)),
            State::Assured if !is_tcp && (is_incoming || rests) => Self(rested(idle_ns)),
            // Nobody tells whether the side that has not closed is still there: it goes by the time it has rested, when that is long.
            State::OriginalFin | State::ReplyFin if idle_ns >= REST_NS => Self(rested(idle_ns)),
            State::Assured | State::OriginalFin | State::ReplyFin => Self::NEVER,
        }
    }

    /// Whether it gives its place at all.
    #[inline(always)]
    pub const fn yields(self) -> bool {
        self.0 != Self::NEVER.0
    }

    /// Whether no other need be looked at.
    #[inline(always)]
    pub const fn is_at_once(self) -> bool {
        self.0 == Self::AT_ONCE.0
    }

    /// Whether it goes rather than another.
    #[inline(always)]
    pub const fn is_before(self, other: Self) -> bool {
        self.0 > other.0
    }
}

/// Never 0, and below [`Yield::UNPROVED`].
#[inline(always)]
const fn rested(idle_ns: u64) -> u64 {
    if idle_ns >= Yield::UNPROVED { Yield::UNPROVED - 1 } else { idle_ns | 1 }
}

#[cfg(test)]
mod tests {
    use super::State::*;
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    const TIMEOUT: u64 = 300 * ONE_SHOT_NS;

    fn of(state: State, proto: u8, is_incoming: bool, idle_ns: u64) -> Yield {
        Yield::of(state, proto, is_incoming, idle_ns, TIMEOUT)
    }

    #[test]
    fn a_connection_stays_once_both_sides_have_shown_themselves() {
        for incoming in [false, true] {
            for (state, wanted) in [
                (Opening, Yield::AT_ONCE),
                (Answered, Yield::AT_ONCE),
                (Closed, Yield::AT_ONCE),
                (Reset, Yield::AT_ONCE),
                (Assured, Yield::NEVER),
                (OriginalFin, Yield::NEVER),
                (ReplyFin, Yield::NEVER),
            ] {
                assert_eq!(of(state, proto::TCP, incoming, 5), wanted, "{state:?}");
                assert_eq!(of(state, proto::TCP, incoming, TIMEOUT + 1), Yield::AT_ONCE, "{state:?}");
            }
        }
        for half_closed in [OriginalFin, ReplyFin] {
            let [resting, longer] = [REST_NS, 2 * REST_NS].map(|idle| of(half_closed, proto::TCP, true, idle));
            assert!(resting.yields() && !resting.is_at_once() && longer.is_before(resting), "{half_closed:?}");
            assert!(of(Established, proto::TCP, true, 5).is_before(longer));
        }
        let silent = of(Established, proto::TCP, true, 5);
        assert!(silent.yields() && !silent.is_at_once());
    }

    #[test]
    fn a_strangers_datagrams_are_worth_the_time_since() {
        for proto in [proto::UDP, proto::ICMP, proto::SCTP] {
            for state in [Opening, Established] {
                assert_eq!(of(state, proto, true, ONE_SHOT_NS), Yield::AT_ONCE);
                assert!(!of(state, proto, true, ONE_SHOT_NS - 1).is_at_once());
            }
            // A conversation goes after those that are none, and one that rests before one that does not.
            let [busy, resting] = [7, TIMEOUT].map(|idle| of(Assured, proto, true, idle));
            assert!(of(Opening, proto, true, 7).is_before(resting) && resting.is_before(busy) && busy.yields());
            // Nobody but the pod itself can bring this about, and it has its own account to spend.
            assert_eq!(of(Assured, proto, false, ONE_SHOT_NS - 1), Yield::NEVER);
            assert!(of(Assured, proto, false, ONE_SHOT_NS).yields());
        }
    }

    proptest! {
        #[test]
        fn longer_rest_never_makes_a_flow_safer(
            n in 0_usize..8, proto in prop::sample::select(vec![6_u8, 17, 1, 58, 132]), incoming: bool,
            a in 0..2 * TIMEOUT, b in 0..2 * TIMEOUT,
        ) {
            let state = State::ALL[n];
            let [sooner, later] = [a.min(b), a.max(b)].map(|idle| of(state, proto, incoming, idle));
            prop_assert!(!sooner.is_before(later), "{state:?} {sooner:?} {later:?}");
        }
    }
}
