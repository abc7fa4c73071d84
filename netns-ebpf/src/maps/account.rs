//! Accounts of flows, exact whatever the number of CPUs: every change is one atomic addition.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap};
use netns_ebpf_common::abi;
use netns_ebpf_common::account::{Admission, Destination, Exhausted, FlowCount};
use netns_ebpf_common::family::{Family, V4, V6};
use netns_ebpf_common::flow::FlowKey;
use netns_ebpf_common::verdict::DropReason;
use netns_ebpf_common::{Addr4, Addr6};

use super::{FamilyMaps, scratch};

#[map]
static FLOW_COUNTS4: Array<FlowCount> = Array::with_max_entries(abi::MAX_ENDPOINTS, 0);
#[map]
static FLOW_COUNTS6: Array<FlowCount> = Array::with_max_entries(abi::MAX_ENDPOINTS, 0);
#[map]
static ADMISSION4: Array<Admission> = Array::with_max_entries(1, 0);
#[map]
static ADMISSION6: Array<Admission> = Array::with_max_entries(1, 0);
#[map]
static OPENED4: Array<FlowKey<Addr4>> = Array::with_max_entries(abi::OPENED_RING, 0);
#[map]
static OPENED6: Array<FlowKey<Addr6>> = Array::with_max_entries(abi::OPENED_RING, 0);
#[map]
static EXHAUSTED4: LruHashMap<Destination<Addr4>, Exhausted> = LruHashMap::with_max_entries(abi::MAX_EXHAUSTED, 0);
#[map]
static EXHAUSTED6: LruHashMap<Destination<Addr6>, Exhausted> = LruHashMap::with_max_entries(abi::MAX_EXHAUSTED, 0);

/// The accounts of a family.
pub trait AccountMaps: Family {
    fn counts() -> &'static Array<FlowCount>;
    fn admission() -> &'static Array<Admission>;
    fn opened() -> &'static Array<FlowKey<Self::Addr>>;
    fn exhausted() -> &'static LruHashMap<Destination<Self::Addr>, Exhausted>;
}

macro_rules! account_maps {
    ($family:ty, $addr:ty, $counts:ident, $admission:ident, $opened:ident, $exhausted:ident) => {
        impl AccountMaps for $family {
            #[inline(always)]
            fn counts() -> &'static Array<FlowCount> {
                &$counts
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
            fn exhausted() -> &'static LruHashMap<Destination<$addr>, Exhausted> {
                &$exhausted
            }
        }
    };
}
account_maps!(V4, Addr4, FLOW_COUNTS4, ADMISSION4, OPENED4, EXHAUSTED4);
account_maps!(V6, Addr6, FLOW_COUNTS6, ADMISSION6, OPENED6, EXHAUSTED6);

/// Which of a pod's accounts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The pod's slot.
    pub slot: u32,
    /// Flows opened to it, else those it opened.
    pub incoming: bool,
}

/// Counts a flow; returns the account's and the table's number before.
#[inline(always)]
pub fn enter<F: AccountMaps>(account: Account) -> Result<[u64; 2], DropReason> {
    let (own, total) = words::<F>(account).ok_or(DropReason::NoEndpoint)?;
    Ok([fetch_add(own, 1), fetch_add(total, 1)])
}

/// Counts a flow no longer.
#[inline(always)]
pub fn leave<F: AccountMaps>(account: Account) {
    if let Some((own, total)) = words::<F>(account) {
        fetch_add(own, u64::MAX);
        fetch_add(total, u64::MAX);
    }
}

#[inline(always)]
fn words<F: AccountMaps>(account: Account) -> Option<(*mut u64, *mut u64)> {
    let counts = F::counts().get_ptr_mut(account.slot)?;
    let admission = F::admission().get_ptr_mut(0)?;
    // SAFETY: both came from look-ups of this run; only the places are computed.
    unsafe {
        let own = if account.incoming { &raw mut (*counts).incoming } else { &raw mut (*counts).opened };
        Some((own, &raw mut (*admission).total))
    }
}

/// Remembers a flow as the youngest; a full ring forgets the oldest.
#[inline(always)]
pub fn push_opened<F: AccountMaps>(key: &FlowKey<F::Addr>) {
    let Some(admission) = F::admission().get_ptr_mut(0) else { return };
    // SAFETY: as in `words`.
    let at = fetch_add(unsafe { &raw mut (*admission).ring_in }, 1);
    if let Some(place) = F::opened().get_ptr_mut(at as u32 & (abi::OPENED_RING - 1)) {
        // SAFETY: a map element of this type. Two CPUs a whole ring apart may write one at once, and a third may read it: who
        // reads a key looks it up, and believes the entry it finds only.
        unsafe { place.write(*key) };
    }
}

/// Takes the oldest flow out of the ring, into `key`; `false` when it is empty.
#[inline(always)]
pub fn pop_opened<F: AccountMaps>(key: &mut FlowKey<F::Addr>) -> bool {
    let Some(admission) = F::admission().get_ptr_mut(0) else { return false };
    // SAFETY: as in `words`; the words are aligned and read whole.
    let (ring_out, end) =
        unsafe { (&raw mut (*admission).ring_out, (&raw const (*admission).ring_in).read_volatile()) };
    let mut at = fetch_add(ring_out, 1);
    let left = end.wrapping_sub(at);
    if left == 0 || left > u64::MAX / 2 {
        fetch_add(ring_out, u64::MAX);
        return false;
    }
    let ring = u64::from(abi::OPENED_RING);
    if left > ring {
        // The oldest were forgotten. That two CPUs may find out at once costs a look at some flows again.
        at = end.wrapping_sub(ring);
        // SAFETY: as above.
        unsafe { ring_out.write_volatile(at.wrapping_add(1)) };
    }
    let Some(place) = F::opened().get_ptr_mut(at as u32 & (abi::OPENED_RING - 1)) else { return false };
    // SAFETY: see `push_opened`.
    *key = unsafe { place.read() };
    true
}

/// Until when a look for flows that may go is in vain; the word other CPUs may store.
#[inline(always)]
fn look_again_ns<F: AccountMaps>(incoming: bool) -> Option<*mut u64> {
    let admission = F::admission().get_ptr_mut(0)?;
    // SAFETY: as in `words`.
    unsafe { Some(if incoming { &raw mut (*admission).again_ns[1] } else { &raw mut (*admission).again_ns[0] }) }
}

/// Whether a look has just been in vain.
#[inline(always)]
pub fn is_in_vain<F: AccountMaps>(incoming: bool, now_ns: u64) -> bool {
    // SAFETY: an aligned word of an element just looked up.
    look_again_ns::<F>(incoming).is_some_and(|again| unsafe { again.read_volatile() } > now_ns)
}

/// Notes that a look was in vain.
#[inline(always)]
pub fn was_in_vain<F: AccountMaps>(incoming: bool, now_ns: u64) {
    if let Some(again) = look_again_ns::<F>(incoming) {
        // SAFETY: as in `is_in_vain`.
        unsafe { again.write_volatile(now_ns.wrapping_add(Admission::STANDS_NS)) };
    }
}

/// Counts a flow refused for want of a port.
#[inline(always)]
pub fn count_exhausted<F: AccountMaps>(to: &Destination<F::Addr>, now_ns: u64) {
    let again_ns = now_ns.wrapping_add(Exhausted::STANDS_NS);
    match F::exhausted().get_ptr_mut(to) {
        // SAFETY: an element just looked up; its words are aligned, and any CPU may store `again_ns`.
        Some(found) => unsafe {
            fetch_add(&raw mut (*found).refused, 1);
            let again = &raw mut (*found).again_ns;
            // Not by a refusal that followed from the last search.
            if again.read_volatile() <= now_ns {
                again.write_volatile(again_ns);
            }
        },
        // Another CPU may have been first, or memory is short: one refusal less in a statistic.
        None => {
            let _uncounted = F::exhausted().insert(to, Exhausted { refused: 1, again_ns }, 0);
        }
    }
}

/// Whether a search for a port has just found all of them taken.
#[inline(always)]
pub fn is_exhausted<F: AccountMaps>(to: &Destination<F::Addr>, now_ns: u64) -> bool {
    match F::exhausted().get_ptr_mut(to) {
        // SAFETY: as in `count_exhausted`.
        Some(found) => unsafe { (&raw const (*found).again_ns).read_volatile() > now_ns },
        None => false,
    }
}

/// A flow to the destination in working memory has ended: a search may find its port.
#[inline(always)]
pub fn search_again<F: FamilyMaps>() {
    let Ok(scratch) = scratch::<F>() else { return };
    // SAFETY: per-CPU, no nesting; read only.
    let to = unsafe { &(*scratch).opening.destination };
    if let Some(found) = F::exhausted().get_ptr_mut(to) {
        // SAFETY: as in `count_exhausted`.
        unsafe { (&raw mut (*found).again_ns).write_volatile(0) };
    }
}

/// Adds to a word of a map element, returns what it was.
#[inline(always)]
fn fetch_add(word: *mut u64, n: u64) -> u64 {
    // SAFETY: `word` lies in a map element that the caller has looked up, 8-aligned as the elements are.
    unsafe { super::atomic::fetch_add(word, n) }
}
