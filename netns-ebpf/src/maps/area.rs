//! What each sender may claim.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use netns_ebpf_common::abi;
use netns_ebpf_common::area::{Area, pay_error};
use netns_ebpf_common::shared::Shared;
use netns_ebpf_common::verdict::DropReason;

use super::place::{Place, Places, field};

#[map]
static AREAS: Array<Area> = Array::with_max_entries(abi::MAX_ENDPOINTS + abi::LAN_AREAS, 0);

/// A sender's area, in place.
#[derive(Clone, Copy)]
pub struct AreaRef(Place<Area>);

impl AreaRef {
    /// Whether this CPU may put a datagram into the area now; if so, it has to [leave](Self::leave).
    ///
    /// Two that did at once would know one datagram twice, and the pieces of each wait for those of the other, or replace what
    /// the other has just put there.
    #[inline(always)]
    pub fn enter(self) -> bool {
        field!(self.0, is_entered).swap(1) == 0
    }

    /// Lets the next one in, which sees what was done.
    #[inline(always)]
    pub fn leave(self) {
        field!(self.0, is_entered).swap(0);
    }

    /// The next place for a waiting piece: the one that was filled longest ago.
    #[inline(always)]
    pub fn next_held(self) -> u32 {
        field!(self.0, held_so_far).fetch_add(1) as u32 & (abi::HELD_PER_AREA - 1)
    }

    /// The place that was filled longest ago.
    #[inline(always)]
    pub fn oldest_held(self) -> u32 {
        field!(self.0, held_so_far).load() as u32 & (abi::HELD_PER_AREA - 1)
    }

    /// Whether the sender may be told of another problem now: who sends more than a few packets with problems learns no more
    /// from an answer to each, and whoever is named as their source has not asked for any.
    #[inline(always)]
    pub fn may_report(self, now_ns: u64) -> bool {
        pay(field!(self.0, errors_paid_ns), now_ns)
    }

    /// Whether the host may be shown another echo reply to the pod, as often as that.
    #[inline(always)]
    pub fn may_copy(self, now_ns: u64) -> bool {
        pay(field!(self.0, copies_paid_ns), now_ns)
    }
}

/// Pays for one answer of those an area has time for, if it has.
#[inline(always)]
fn pay(paid_ns: Place<Shared<u64>>, now_ns: u64) -> bool {
    let Some(paid) = pay_error(paid_ns.load(), now_ns) else { return false };
    paid_ns.store(paid);
    true
}

/// A sender's area.
#[inline(always)]
pub fn area(area: u32) -> Result<AreaRef, DropReason> {
    AREAS.place(area).map(AreaRef).ok_or(DropReason::Internal)
}
