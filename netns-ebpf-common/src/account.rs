//! Who has how many flows, and who may open another.
//!
//! A flow is accounted to one pod: among the flows the pod opened, or apart from them among those opened to it by a
//! published port. Each family has accounts and a table of its own.

use crate::plain;
use crate::verdict::DropReason;
use crate::{Addr4, Addr6, Port};

/// A pod's flows of one family that are in the table, as many CPUs count them: each word is changed by atomic additions
/// only.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowCount {
    /// Those it opened.
    pub opened: u64,
    /// Those opened to it by published ports.
    pub incoming: u64,
}

/// A family's table as a whole; changed as [`FlowCount`] is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Admission {
    /// Flows in it.
    pub total: u64,
    /// Flows that were put into the ring so far: modulo its size the place of the next one.
    pub ring_in: u64,
    /// Those taken out again, oldest first.
    pub ring_out: u64,
    /// Until when nobody looks for flows that may go, after a look in vain: for flows pods open, and for those opened to
    /// them. `CLOCK_MONOTONIC`.
    pub again_ns: [u64; 2],
}

impl Admission {
    /// How long a look in vain stands for those that would follow: it takes tens of microseconds, and whoever is at its limit
    /// would cost that much with each packet.
    pub const STANDS_NS: u64 = 10_000_000;
}

/// Where flows are refused for want of a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Destination<A> {
    /// Its address.
    pub addr: A,
    /// Id of the network the flow was to come from.
    pub network: u16,
    /// Its port.
    pub port: Port,
    /// IP protocol number.
    pub proto: u8,
    /// Padding, zero.
    pub _pad: [u8; 3],
}

/// What is known of such a destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Exhausted {
    /// Flows refused.
    pub refused: u64,
    /// Until then nobody searches again, unless a flow to it ends: `CLOCK_MONOTONIC`.
    pub again_ns: u64,
}

impl Exhausted {
    /// How long a search that found every port taken stands for those that would follow: it takes milliseconds, and a pod that
    /// keeps asking would spend them all. A port that comes free by time or by the host's doing is found this much later.
    pub const STANDS_NS: u64 = 100_000_000;
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
/// # Errors
///
/// [`DropReason::FlowTableFull`] when there is no room for anybody, [`DropReason::FlowLimit`] when there is none for this one.
#[inline(always)]
pub const fn may_open(own: u64, total: u64, flows: u32, flows_per_pod: u32) -> Result<(), DropReason> {
    let flows = flows as u64;
    if total >= flows {
        return Err(DropReason::FlowTableFull);
    }
    if own >= flows - total || (flows_per_pod != 0 && own >= flows_per_pod as u64) {
        return Err(DropReason::FlowLimit);
    }
    Ok(())
}

/// Modes of the program that sweeps; the numbers are part of [`SweepHeader`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepMode {
    /// Flows whose time is over go.
    Expired = 0,
    /// Flows go whatever their time.
    Any = 1,
    /// Flows of the publish the header names become no publish's.
    Disown = 2,
}

/// What stands before the keys in the packet that program is run over, right after the link-layer header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SweepHeader {
    /// A [`SweepMode`].
    pub mode: u32,
    /// 4 or 6: the family of the keys.
    pub family: u32,
    /// How many keys follow.
    pub keys: u32,
    /// Index of a publish, for [`SweepMode::Disown`].
    pub publish: u32,
}

/// Most bytes of keys in such a packet: with all headers it stays below the one page every kernel takes.
pub const SWEEP_KEYS_BYTES: usize = 3200;

plain!(SweepHeader { mode, family, keys, publish }: size 16, align 4);
plain!(FlowCount { opened, incoming }: size 16, align 8);
plain!(Admission { total, ring_in, ring_out, again_ns }: size 40, align 8);
plain!(Exhausted { refused, again_ns }: size 16, align 8);
plain!(Destination<Addr4 | Addr6> { addr, network, port, proto, _pad }: size 12 | 24, align 4);

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens flows for each account in turn until all of them are refused.
    fn fill(accounts: usize, flows: u32, per_pod: u32) -> std::vec::Vec<u64> {
        let mut own = std::vec![0_u64; accounts];
        loop {
            let before = own.clone();
            for i in 0..accounts {
                if may_open(own[i], own.iter().sum(), flows, per_pod).is_ok() {
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
                may_open(hog, hogs * hog, 1000, 0),
                if 1000 - hogs * hog > hog { Ok(()) } else { Err(DropReason::FlowLimit) }
            );
            assert_eq!(may_open(0, hogs * hog, 1000, 0), Ok(()));
        }
    }

    #[test]
    fn a_full_table_is_told_from_a_full_account() {
        assert_eq!(may_open(0, 1000, 1000, 0), Err(DropReason::FlowTableFull));
        assert_eq!(may_open(0, 1001, 1000, 0), Err(DropReason::FlowTableFull), "it was made smaller");
        assert_eq!(may_open(1, 999, 1000, 0), Err(DropReason::FlowLimit));
        assert_eq!(may_open(0, 999, 1000, 0), Ok(()));
        assert_eq!(may_open(7, 10, 1000, 7), Err(DropReason::FlowLimit));
        assert_eq!(may_open(6, 10, 1000, 7), Ok(()));
    }
}
