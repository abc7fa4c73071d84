//! Accounts of flows, exact whatever the number of CPUs: every change is one atomic addition.

use core::ptr::NonNull;

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use netns_ebpf_common::account::{
    self, Account, AccountState, Admission, BACK_OFF_NS, PodAccounts, QueueKey, QueuePart,
};
use netns_ebpf_common::family::{Family, V4, V6};
use netns_ebpf_common::flow::FlowKey;
use netns_ebpf_common::verdict::DropReason;
use netns_ebpf_common::{Addr4, Addr6, abi};

use super::{FamilyMaps, atomic, scratch};

#[map]
static ACCOUNTS4: Array<PodAccounts> = Array::with_max_entries(abi::MAX_ENDPOINTS, 0);
#[map]
static ACCOUNTS6: Array<PodAccounts> = Array::with_max_entries(abi::MAX_ENDPOINTS, 0);
#[map]
static ADMISSION4: Array<Admission> = Array::with_max_entries(1, 0);
#[map]
static ADMISSION6: Array<Admission> = Array::with_max_entries(1, 0);
#[map]
static OPENED4: Array<FlowKey<Addr4>> = Array::with_max_entries(abi::OPENED_RING, 0);
#[map]
static OPENED6: Array<FlowKey<Addr6>> = Array::with_max_entries(abi::OPENED_RING, 0);
#[map]
static QUEUES4: HashMap<QueueKey, QueuePart<Addr4>> =
    HashMap::with_max_entries(abi::MAX_QUEUE_PARTS, BPF_F_NO_PREALLOC);
#[map]
static QUEUES6: HashMap<QueueKey, QueuePart<Addr6>> =
    HashMap::with_max_entries(abi::MAX_QUEUE_PARTS, BPF_F_NO_PREALLOC);

/// The accounts of a family.
pub trait AccountMaps: Family {
    fn accounts() -> &'static Array<PodAccounts>;
    fn admission() -> &'static Array<Admission>;
    fn opened() -> &'static Array<FlowKey<Self::Addr>>;
    fn queues() -> &'static HashMap<QueueKey, QueuePart<Self::Addr>>;
}

macro_rules! account_maps {
    ($family:ty { addr: $addr:ty, accounts: $accounts:ident, admission: $admission:ident, opened: $opened:ident, queues: $queues:ident }) => {
        impl AccountMaps for $family {
            #[inline(always)]
            fn accounts() -> &'static Array<PodAccounts> {
                &$accounts
            }
            #[inline(always)]
            fn admission() -> &'static Array<Admission> {
                &$admission
            }
            #[inline(always)]
            fn opened() -> &'static Array<FlowKey<$addr>> {
                &$opened
            }
            #[inline(always)]
            fn queues() -> &'static HashMap<QueueKey, QueuePart<$addr>> {
                &$queues
            }
        }
    };
}
account_maps!(V4 { addr: Addr4, accounts: ACCOUNTS4, admission: ADMISSION4, opened: OPENED4, queues: QUEUES4 });
account_maps!(V6 { addr: Addr6, accounts: ACCOUNTS6, admission: ADMISSION6, opened: OPENED6, queues: QUEUES6 });

/// An account, in place.
#[derive(Clone, Copy)]
pub struct AccountRef {
    state: NonNull<AccountState>,
    account: Account,
}

/// What was taken out of a queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Nothing is in it.
    Nothing,
    /// A place nobody has filled.
    Gap,
    /// A key, in working memory.
    Key,
}

impl AccountRef {
    /// An account.
    #[inline(always)]
    pub fn find<F: AccountMaps>(account: Account) -> Result<Self, DropReason> {
        let pod = F::accounts().get_ptr_mut(account.slot).ok_or(DropReason::NoEndpoint)?;
        // SAFETY: an element just looked up; only the place is computed.
        let state = unsafe { if account.incoming { &raw mut (*pod).incoming } else { &raw mut (*pod).opened } };
        Ok(Self { state: NonNull::new(state).ok_or(DropReason::NoEndpoint)?, account })
    }

    #[inline(always)]
    fn word(self, off: usize) -> *mut u64 {
        self.state.as_ptr().cast::<u8>().wrapping_add(off).cast()
    }

    #[inline(always)]
    fn load(self, off: usize) -> u64 {
        // SAFETY: an aligned word of an array's element.
        unsafe { self.word(off).read_volatile() }
    }

    #[inline(always)]
    fn fetch_add(self, off: usize, n: u64) -> u64 {
        fetch_add(self.word(off), n)
    }

    /// How many flows it has.
    #[inline(always)]
    pub fn flows(self) -> u64 {
        self.load(core::mem::offset_of!(AccountState, flows))
    }

    /// Whose it is.
    #[inline(always)]
    pub const fn account(self) -> Account {
        self.account
    }

    /// How many places of its queue are filled.
    #[inline(always)]
    pub fn queue_len(self) -> u64 {
        let taken = self.load(core::mem::offset_of!(AccountState, taken));
        self.load(core::mem::offset_of!(AccountState, queued)).wrapping_sub(taken)
    }

    /// Whether a look for flows that may go has just been in vain.
    #[inline(always)]
    pub fn backs_off(self, now_ns: u64) -> bool {
        self.load(core::mem::offset_of!(AccountState, retry_at_ns)) > now_ns
    }

    /// Notes that one was.
    #[inline(always)]
    pub fn back_off(self, now_ns: u64) {
        // SAFETY: as in `load`.
        unsafe {
            let at = self.word(core::mem::offset_of!(AccountState, retry_at_ns));
            at.write_volatile(now_ns.wrapping_add(BACK_OFF_NS));
        }
    }

    /// The next place of the queue, to be [filled](Self::fill).
    #[inline(always)]
    pub fn next_place(self) -> u64 {
        self.fetch_add(core::mem::offset_of!(AccountState, queued), 1)
    }

    /// Fills a place. `false`: another CPU has taken what was there before; it is to be another place. Without memory it is none,
    /// and the flow goes by its time alone.
    #[inline(always)]
    pub fn fill<F: FamilyMaps>(self, at: u64, key: &FlowKey<F::Addr>) -> bool {
        let part = self.account.part(at);
        if let Some(keys) = F::queues().get_ptr_mut(part).or_else(|| begin_part::<F>(&part)) {
            // SAFETY: an element just looked up, and a place within it. Who reads a key believes only the entry it leads to.
            unsafe { (&mut (*keys).keys)[at as usize & (abi::QUEUE_PART - 1)].set(key) };
        }
        // In one order with the store above, which a plain load is not.
        !is_behind(self.fetch_add(core::mem::offset_of!(AccountState, taken), 0), at)
    }

    /// Takes the oldest flow out of the queue, into `key`, and says where it was.
    #[inline(always)]
    pub fn take<F: FamilyMaps>(self, key: &mut FlowKey<F::Addr>, place: &mut u32) -> Taken {
        const TAKEN: usize = core::mem::offset_of!(AccountState, taken);
        let (at, end) = (self.load(TAKEN), self.load(core::mem::offset_of!(AccountState, queued)));
        if !is_behind(end, at) {
            return Taken::Nothing;
        }
        // SAFETY: as in `load`.
        if !unsafe { atomic::compare_exchange(self.word(TAKEN), at, at.wrapping_add(1)) } {
            return Taken::Gap;
        }
        let part = self.account.part(at);
        let Some(keys) = F::queues().get_ptr_mut(part) else { return Taken::Gap };
        let nth = at as usize & (abi::QUEUE_PART - 1);
        *place = at as u32;
        // SAFETY: as in `fill`.
        key.set(unsafe { &(&(*keys).keys)[nth] });
        if nth == abi::QUEUE_PART - 1 {
            let _gone_already = F::queues().remove(part);
        }
        Taken::Key
    }
}

/// Whether a count, modulo 2^64, is greater than another.
#[inline(always)]
const fn is_behind(count: u64, other: u64) -> bool {
    count.wrapping_sub(other).wrapping_sub(1) < u64::MAX / 2
}

/// Adds an empty part to a queue.
#[inline(always)]
fn begin_part<F: FamilyMaps>(part: &QueueKey) -> Option<*mut QueuePart<F::Addr>> {
    let scratch = scratch::<F>().ok()?;
    // SAFETY: per-CPU; nobody ever writes the field.
    let empty = unsafe { &(*scratch).empty_part };
    // Another CPU may have been first.
    let _added = F::queues().insert(part, empty, BPF_NOEXIST.into());
    F::queues().get_ptr_mut(part)
}

/// Counts a flow; returns the account's and the table's number before.
#[inline(always)]
pub fn enter<F: AccountMaps>(account: AccountRef) -> Result<[u64; 2], DropReason> {
    let total = total::<F>().ok_or(DropReason::Internal)?;
    Ok([account.fetch_add(core::mem::offset_of!(AccountState, flows), 1), fetch_add(total, 1)])
}

/// Counts a flow no longer.
#[inline(always)]
pub fn leave<F: AccountMaps>(account: Account) {
    if let (Ok(account), Some(total)) = (AccountRef::find::<F>(account), total::<F>()) {
        account.fetch_add(core::mem::offset_of!(AccountState, flows), u64::MAX);
        fetch_add(total, u64::MAX);
    }
}

/// Flows in the table.
#[inline(always)]
pub fn total_flows<F: AccountMaps>() -> u64 {
    // SAFETY: an aligned word of an element just looked up, read whole.
    total::<F>().map_or(0, |total| unsafe { total.read_volatile() })
}

#[inline(always)]
fn total<F: AccountMaps>() -> Option<*mut u64> {
    let admission = F::admission().get_ptr_mut(0)?;
    // SAFETY: an element just looked up; only the place is computed.
    Some(unsafe { &raw mut (*admission).total })
}

/// The next place of the ring, which is to be [filled](fill_ring). A full ring forgets the oldest.
#[inline(always)]
pub fn next_ring_place<F: AccountMaps>() -> Option<u64> {
    let admission = F::admission().get_ptr_mut(0)?;
    // SAFETY: just looked up, and only places are computed.
    Some(fetch_add(unsafe { &raw mut (*admission).ring_in }, 1))
}

/// Fills a place of the ring; `false`: another CPU has taken what was there before.
#[inline(always)]
pub fn fill_ring<F: AccountMaps>(at: u64, key: &FlowKey<F::Addr>) -> bool {
    if let Some(place) = F::opened().get_ptr_mut(at as u32 & (abi::OPENED_RING - 1)) {
        // SAFETY: a map element of this type. Two CPUs a whole ring apart may write one at once, and a third may read it: who
        // reads a key looks it up, and believes the entry it finds only.
        unsafe { (*place).set(key) };
    }
    let Some(admission) = F::admission().get_ptr_mut(0) else { return true };
    // SAFETY: as above. In one order with the store, which a plain load is not.
    !is_behind(fetch_add(unsafe { &raw mut (*admission).ring_out }, 0), at)
}

/// Takes the oldest flow out of the ring, into `key`, and says where it was.
#[inline(always)]
pub fn pop_opened<F: AccountMaps>(key: &mut FlowKey<F::Addr>, place: &mut u32) -> Taken {
    let Some(admission) = F::admission().get_ptr_mut(0) else { return Taken::Nothing };
    // SAFETY: just looked up; the words are aligned and read whole.
    let (ring_out, first, end) = unsafe {
        let ring_out = &raw mut (*admission).ring_out;
        (ring_out, ring_out.read_volatile(), (&raw const (*admission).ring_in).read_volatile())
    };
    if !is_behind(end, first) {
        return Taken::Nothing;
    }
    // The oldest may have been forgotten.
    let oldest = end.wrapping_sub(u64::from(abi::OPENED_RING));
    let at = if is_behind(oldest, first) { oldest } else { first };
    // SAFETY: as above.
    if !unsafe { atomic::compare_exchange(ring_out, first, at.wrapping_add(1)) } {
        return Taken::Gap;
    }
    let Some(there) = F::opened().get_ptr_mut(at as u32 & (abi::OPENED_RING - 1)) else { return Taken::Nothing };
    *place = at as u32;
    // SAFETY: see `fill_ring`.
    key.set(unsafe { &*there });
    Taken::Key
}

/// Whether the ring has many more keys than there are flows, or is so full that its oldest are soon forgotten.
#[inline(always)]
pub fn ring_is_crowded<F: AccountMaps>() -> bool {
    let Some(admission) = F::admission().get_ptr_mut(0) else { return false };
    // SAFETY: aligned words of an element just looked up, read whole.
    let (total, first, end) = unsafe {
        (
            (&raw const (*admission).total).read_volatile(),
            (&raw const (*admission).ring_out).read_volatile(),
            (&raw const (*admission).ring_in).read_volatile(),
        )
    };
    account::ring_is_crowded(end.wrapping_sub(first), total)
}

/// Whether a look in the ring has just been in vain.
#[inline(always)]
pub fn ring_backs_off<F: AccountMaps>(now_ns: u64) -> bool {
    let Some(admission) = F::admission().get_ptr_mut(0) else { return true };
    // SAFETY: an aligned word of an element just looked up.
    unsafe { (&raw const (*admission).retry_at_ns).read_volatile() > now_ns }
}

/// Notes that one was.
#[inline(always)]
pub fn ring_back_off<F: AccountMaps>(now_ns: u64) {
    if let Some(admission) = F::admission().get_ptr_mut(0) {
        // SAFETY: as in `ring_backs_off`.
        unsafe { (&raw mut (*admission).retry_at_ns).write_volatile(now_ns.wrapping_add(BACK_OFF_NS)) };
    }
}

/// Adds to a word of a map element, returns what it was.
#[inline(always)]
fn fetch_add(word: *mut u64, n: u64) -> u64 {
    // SAFETY: `word` lies in a map element that the caller has looked up, 8-aligned as the elements are.
    unsafe { atomic::fetch_add(word, n) }
}
