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
