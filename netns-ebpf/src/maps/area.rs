//! What each sender may claim.

use core::ptr::{NonNull, addr_of, addr_of_mut};

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use netns_ebpf_common::abi;
use netns_ebpf_common::area::{Area, pay_error};
use netns_ebpf_common::verdict::DropReason;

use super::atomic;

#[map]
static AREAS: Array<Area> = Array::with_max_entries(abi::MAX_ENDPOINTS + abi::LAN_AREAS, 0);

/// A sender's area, in place.
#[derive(Clone, Copy)]
pub struct AreaRef(NonNull<Area>);

impl AreaRef {
    /// Whether this CPU may put a datagram into the area now; if so, it has to [leave](Self::leave).
    ///
    /// Two that did at once would know one datagram twice, and the pieces of each wait for those of the other, or replace what
    /// the other has just put there.
    #[inline(always)]
    pub fn enter(self) -> bool {
        // SAFETY: a word of an array's element, which lives as long as the program; changed by atomic operations only.
        unsafe { atomic::swap(addr_of_mut!((*self.0.as_ptr()).is_entered), 1) == 0 }
    }

    /// Lets the next one in, which sees what was done.
    #[inline(always)]
    pub fn leave(self) {
        // SAFETY: as in `enter`.
        unsafe { atomic::swap(addr_of_mut!((*self.0.as_ptr()).is_entered), 0) };
    }

    /// The next place for a waiting piece: the one that was filled longest ago.
    #[inline(always)]
    pub fn next_held(self) -> u32 {
        // SAFETY: as in `enter`.
        let n = unsafe { atomic::fetch_add(addr_of_mut!((*self.0.as_ptr()).held_so_far), 1) };
        n as u32 & (abi::HELD_PER_AREA - 1)
    }

    /// The place that was filled longest ago.
    #[inline(always)]
    pub fn oldest_held(self) -> u32 {
        // SAFETY: as in `enter`.
        let n = unsafe { addr_of!((*self.0.as_ptr()).held_so_far).read_volatile() };
        n as u32 & (abi::HELD_PER_AREA - 1)
    }

    /// Whether the sender may be told of another problem now: who sends more than a few packets with problems learns no more
    /// from an answer to each, and whoever is named as their source has not asked for any.
    #[inline(always)]
    pub fn may_report(self, now_ns: u64) -> bool {
        // SAFETY: as in `enter`; a word that is loaded and stored whole.
        unsafe {
            let paid_ns = addr_of_mut!((*self.0.as_ptr()).errors_paid_ns);
            let Some(paid) = pay_error(paid_ns.read_volatile(), now_ns) else { return false };
            paid_ns.write_volatile(paid);
        }
        true
    }
}

/// A sender's area.
#[inline(always)]
pub fn area(area: u32) -> Result<AreaRef, DropReason> {
    AREAS.get_ptr_mut(area).and_then(NonNull::new).map(AreaRef).ok_or(DropReason::Internal)
}
