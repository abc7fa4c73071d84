//! Who has how many flows, and who may open another.
//!
//! A flow is accounted to one pod: among the flows the pod opened, or apart from them among those opened to it by a
//! published port. Each family has accounts and a table of its own.

use crate::abi::{self, QUEUE_PART};
use crate::flow::FlowKey;
use crate::plain;
use crate::verdict::DropReason;
use crate::{Addr4, Addr6, Port};

/// Which of a pod's accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// The pod's slot.
    pub slot: u32,
    /// Flows opened to it, else those it opened.
    pub incoming: bool,
}

impl Account {
    /// Key of the part of its queue that holds place `at`.
    #[inline(always)]
    pub const fn part(self, at: u64) -> QueueKey {
        QueueKey { account: self.slot << 1 | self.incoming as u32, part: (at / QUEUE_PART as u64) as u32 }
    }
}

/// A pod's flows of one family, as many CPUs count them: each word is changed by atomic additions only, but for
/// [`Self::retry_at_ns`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AccountState {
    /// Flows in the table.
    pub flows: u64,
    /// Flows put into its queue so far.
    pub queued: u64,
    /// Those taken out again, oldest first.
    pub taken: u64,
    /// Until when nobody looks for flows of it that may go, after a look in vain. `CLOCK_MONOTONIC`.
    pub retry_at_ns: u64,
}

/// Both accounts of a pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PodAccounts {
    /// Flows it opened.
    pub opened: AccountState,
    /// Flows opened to it.
    pub incoming: AccountState,
}

/// How long a look in vain for flows that may go stands for those of the same account that would follow.
pub const BACK_OFF_NS: u64 = 10_000_000;

/// Where a part of an account's queue is found.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct QueueKey {
    /// Slot and side of the account.
    pub account: u32,
    /// Number of the part, modulo 2^32.
    pub part: u32,
}

/// Part of the queue of an account's flows, by age. A key stands for the flow it leads to when it is read, if that is one of the
/// account.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct QueuePart<A> {
    /// Keys of the opener's entries.
    pub keys: [FlowKey<A>; QUEUE_PART],
}

/// A family's table as a whole; changed as [`AccountState`] is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Admission {
    /// Flows in it.
    pub total: u64,
    /// Flows that were put into the ring so far: modulo its size the place of the next one.
    pub ring_in: u64,
    /// Those taken out again, oldest first.
    pub ring_out: u64,
    /// Until when nobody looks in the ring for flows whose time is over, after a look in vain. `CLOCK_MONOTONIC`.
    pub retry_at_ns: u64,
}

/// Whether an account's queue has many more keys than the account has flows.
#[inline(always)]
pub const fn is_crowded(keys: u64, flows: u64) -> bool {
    keys > 2 * flows + 2 * QUEUE_PART as u64
}

/// Whether the ring of all flows has many more keys than there are flows, or is so full that its oldest are soon forgotten.
#[inline(always)]
pub const fn ring_is_crowded(keys: u64, flows: u64) -> bool {
    keys > 2 * flows + 1024 || keys > (abi::OPENED_RING / 4 * 3) as u64
}

/// Where flows are refused for want of a port, and whose.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Destination<A> {
    /// Its address; unspecified for a mapping.
    pub addr: A,
    /// Slot of the pod that searches, or what [`Self::client`] makes of a client's address.
    pub searcher: u32,
    /// Id of the network the flow was to come from.
    pub network: u16,
    /// Its port; 0 for a mapping.
    pub port: Port,
    /// IP protocol number.
    pub proto: u8,
    /// Padding, zero.
    pub _pad: [u8; 3],
}

impl<A> Destination<A> {
    /// The searcher on the LAN side, by a hash of its address: none is a slot.
    #[inline(always)]
    pub const fn client(hash: u32) -> u32 {
        hash | 1 << 31
    }
}

/// What is known of a searcher's ports towards a destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PortSearch {
    /// Flows refused.
    pub refused: u64,
    /// Until then nobody searches again: `CLOCK_MONOTONIC`.
    pub retry_at_ns: u64,
    /// Where the next search starts: see [`crate::port::Range::candidate`].
    pub cursors: u32,
    /// Searches in vain in a row: with a pool, the next one looks at its next address.
    pub vain: u32,
}

/// Whether another flow may be opened, its own place counted in neither number.
///
/// `own` is the account's flows and `total` the table's; `flows` is what the table holds, `flows_per_pod` the cap on an
/// account, 0 for none.
///
/// Without a cap the share is fair by itself: an account may grow while it is smaller than the room that is left (the
/// dynamic threshold of Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998). One account that takes all it
/// can get ends at half of the table, n of them at 1/(n+1) each, and there is always room for a newcomer.
///
/// A flow that `replaces` one of its account, which has gone for it, takes nothing from anybody, and is not held to the share: that
/// comes down as others open flows, and the account would lose a flow with each try and get none.
///
/// # Errors
///
/// [`DropReason::FlowTableFull`] when there is no room for anybody, [`DropReason::FlowLimit`] when there is none for this one.
#[inline(always)]
pub const fn may_open(own: u64, total: u64, flows: u32, flows_per_pod: u32, replaces: bool) -> Result<(), DropReason> {
    let flows = flows as u64;
    if total >= flows {
        return Err(DropReason::FlowTableFull);
    }
    // No limit where it replaces one; without a branch, which would cost the verifier all that follows once more.
    let share = (flows - total) | 0_u64.wrapping_sub(replaces as u64);
    if own >= share || (flows_per_pod != 0 && own >= flows_per_pod as u64) {
        return Err(DropReason::FlowLimit);
    }
    Ok(())
}

/// Whether an account of `own` flows may have the place of one of another that has `theirs`, if that gives way, as the table is full or
/// its share is used up: it has less than half of that. So whoever comes to a table that others have filled one after the other
/// gets as much as each of them in the end.
#[inline(always)]
pub const fn may_take_from(own: u64, theirs: u64) -> bool {
    theirs > 2 * own + 16
}

/// More flows than anybody has half of.
pub const NOBODY: u64 = 1 << 61;

/// Where one who was refused may look for a flow that goes for the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Among its own.
    pub may_replace: bool,
    /// Among those of accounts from which who has so many [may take](may_take_from).
    pub takes_from: u64,
    /// Among others' first: its own few may be all it lives by.
    pub is_small: bool,
}

/// Where an account of `own` flows in a table of `total` may look, which holds `flows`, `flows_per_pod` of an account: where the new one
/// would be admitted when the other has gone.
///
/// Without a branch, as each would have the verifier look twice at all that follows.
#[inline(always)]
pub const fn room(own: u64, total: u64, flows: u32, flows_per_pod: u32) -> Room {
    /// Of numbers below 2^63.
    #[inline(always)]
    const fn is_below(a: u64, b: u64) -> u64 {
        a.wrapping_sub(b) >> 63
    }
    // No cap is one nobody reaches.
    let cap = (flows_per_pod as u64).wrapping_sub(1) & ((1 << 40) - 1);
    let fits = is_below(total, flows as u64 + 1);
    let may_take = fits & is_below(own, cap + 1);
    Room {
        may_replace: fits & is_below(own, cap + 2) != 0,
        takes_from: own | NOBODY & may_take.wrapping_sub(1),
        is_small: is_below(own, flows as u64 / 128) != 0,
    }
}

plain!(AccountState { flows, queued, taken, retry_at_ns }: size 32, align 8);
plain!(PodAccounts { opened, incoming }: size 64, align 8);
plain!(QueueKey { account, part }: size 8, align 4);
plain!(QueuePart<Addr4 | Addr6> { keys }: size 256 | 640, align 4);
plain!(Admission { total, ring_in, ring_out, retry_at_ns }: size 32, align 8);
plain!(PortSearch { refused, retry_at_ns, cursors, vain }: size 24, align 8);
plain!(Destination<Addr4 | Addr6> { addr, searcher, network, port, proto, _pad }: size 16 | 28, align 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_queues_are_one_accounts() {
        let mut keys = std::collections::BTreeSet::new();
        for (slot, incoming) in [(0, false), (0, true), (1, false), (8191, true)] {
            let account = Account { slot, incoming };
            for at in [0, QUEUE_PART as u64, 5 * QUEUE_PART as u64] {
                let key = account.part(at);
                assert_eq!(key, account.part(at + QUEUE_PART as u64 - 1));
                assert!(keys.insert((key.account, key.part)));
            }
        }
    }

    /// Opens flows for each account in turn until all of them are refused.
    fn fill(accounts: usize, flows: u32, per_pod: u32) -> std::vec::Vec<u64> {
        let mut own = std::vec![0_u64; accounts];
        loop {
            let before = own.clone();
            for i in 0..accounts {
                if may_open(own[i], own.iter().sum(), flows, per_pod, false).is_ok() {
                    own[i] += 1;
                }
            }
            if own == before {
                return own;
            }
        }
    }

    #[test]
    fn shares_are_fair() {
        assert_eq!(fill(1, 1000, 0), [500]);
        assert_eq!(fill(3, 1000, 0), [250; 3]);
        assert_eq!(fill(9, 1000, 0), [100; 9]);
        assert_eq!(fill(1, 1000, 600), [500], "the threshold stays");
        assert_eq!(fill(2, 1000, 100), [100; 2]);
    }

    #[test]
    fn a_newcomer_has_room_beside_those_who_took_all_they_could() {
        for hogs in 1..10_u64 {
            let hog = 1000 / (hogs + 1);
            assert_eq!(
                may_open(hog, hogs * hog, 1000, 0, false),
                if 1000 - hogs * hog > hog { Ok(()) } else { Err(DropReason::FlowLimit) }
            );
            assert_eq!(may_open(0, hogs * hog, 1000, 0, false), Ok(()));
        }
    }

    #[test]
    fn who_has_more_than_its_share_may_still_replace_its_own() {
        assert_eq!(may_open(599, 899, 1000, 0, false), Err(DropReason::FlowLimit));
        assert_eq!(may_open(599, 899, 1000, 0, true), Ok(()));
        assert_eq!(may_open(599, 1000, 1000, 0, true), Err(DropReason::FlowTableFull), "the table was made smaller");
        assert_eq!(may_open(599, 899, 1000, 599, true), Err(DropReason::FlowLimit), "the cap came down");
    }

    /// Accounts that fill what they can one after the other leave 1/2, 1/4, 1/8 ... of it, and in the end nothing.
    #[test]
    fn who_comes_last_gets_a_share_of_those_that_filled_the_table_one_after_the_other() {
        const FLOWS: u32 = 4096;
        let mut own = std::vec![0_u64; 20];
        for i in 0..own.len() {
            for _ in 0..3 * FLOWS {
                let total: u64 = own.iter().sum();
                if may_open(own[i], total, FLOWS, 0, false).is_ok() {
                    own[i] += 1;
                } else if room(own[i], total, FLOWS, 0).takes_from < NOBODY
                    && let Some(from) = (0..own.len()).find(|j| may_take_from(own[i], own[*j]))
                {
                    own[from] -= 1;
                    assert_eq!(may_open(own[i], total - 1, FLOWS, 0, true), Ok(()));
                    own[i] += 1;
                }
            }
        }
        assert!(own.iter().sum::<u64>() <= FLOWS.into());
        let (last, most) = (own[own.len() - 1], *own.iter().max().unwrap());
        assert!(!may_take_from(last, most) && last > u64::from(FLOWS) / 40, "{own:?}");
    }

    #[test]
    fn nobody_goes_for_one_that_is_refused_all_the_same() {
        let looks = |own, total, flows, cap| {
            let room = room(own, total, flows, cap);
            (room.may_replace, room.takes_from < NOBODY)
        };
        assert_eq!(looks(500, 1000, 1000, 0), (true, true));
        assert_eq!(looks(0, 1000, 1000, 0), (true, true));
        assert_eq!(looks(500, 1001, 1000, 0), (false, false), "the table was made smaller");
        assert_eq!(looks(500, 900, 1000, 500), (true, false), "at its cap");
        assert_eq!(looks(501, 900, 1000, 500), (false, false), "the cap came down");
        assert_eq!(looks(499, 900, 1000, 500), (true, true));
        assert!(room(0, 0, 1000, 0).is_small && room(6, 0, 1000, 0).is_small && !room(7, 0, 1000, 0).is_small);
        assert_eq!(room(7, 9, 1000, 0).takes_from, 7);
        assert!(!may_take_from(room(7, 1001, 1000, 0).takes_from, u64::MAX / 8));
    }

    #[test]
    fn a_full_table_is_told_from_a_full_account() {
        assert_eq!(may_open(0, 1000, 1000, 0, false), Err(DropReason::FlowTableFull));
        assert_eq!(may_open(0, 1001, 1000, 0, false), Err(DropReason::FlowTableFull), "it was made smaller");
        assert_eq!(may_open(1, 999, 1000, 0, false), Err(DropReason::FlowLimit));
        assert_eq!(may_open(0, 999, 1000, 0, false), Ok(()));
        assert_eq!(may_open(7, 10, 1000, 7, false), Err(DropReason::FlowLimit));
        assert_eq!(may_open(6, 10, 1000, 7, false), Ok(()));
    }
}
