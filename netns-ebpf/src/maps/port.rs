//! Who has how many ports, and where a search for one goes on.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap};
use netns_ebpf_common::account::{Destination, PortSearch};
use netns_ebpf_common::family::{Family, V4, V6};
use netns_ebpf_common::port::{BACK_OFF_NS, HELD_PLACES, Search, UseIndex, held_index};
use netns_ebpf_common::{Addr4, Addr6, Port, abi};

use super::atomic;
use crate::packet::random;

#[map]
static PORT_SEARCHES4: LruHashMap<Destination<Addr4>, PortSearch> =
    LruHashMap::with_max_entries(abi::MAX_PORT_SEARCHES, 0);
#[map]
static PORT_SEARCHES6: LruHashMap<Destination<Addr6>, PortSearch> =
    LruHashMap::with_max_entries(abi::MAX_PORT_SEARCHES, 0);
#[map]
static PORT_USE: Array<u32> = Array::with_max_entries(UseIndex::CELLS, 0);
#[map]
static PORTS_HELD: Array<u32> = Array::with_max_entries(HELD_PLACES, 0);
#[map]
static SEED: Array<u32> = Array::with_max_entries(1, 0);

/// The searches of a family.
pub trait PortMaps: Family {
    fn searches() -> &'static LruHashMap<Destination<Self::Addr>, PortSearch>;
}

impl PortMaps for V4 {
    #[inline(always)]
    fn searches() -> &'static LruHashMap<Destination<Addr4>, PortSearch> {
        &PORT_SEARCHES4
    }
}

impl PortMaps for V6 {
    #[inline(always)]
    fn searches() -> &'static LruHashMap<Destination<Addr6>, PortSearch> {
        &PORT_SEARCHES6
    }
}

/// A port, and where it is counted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NotedPort {
    pub index: UseIndex,
    pub port: Port,
    pub proto: u8,
}

/// What hashes start from.
#[inline(always)]
pub fn seed() -> u32 {
    SEED.get(0).copied().unwrap_or(0)
}

/// Ports a pod has there, and all that are in use.
#[inline(always)]
pub fn ports_in_use(index: &UseIndex) -> (u32, u32) {
    let least = |[a, b]: [u32; 2]| read(a).min(read(b));
    (least(index.own), least(index.all))
}

/// Counts a port once more, or with -1 once less.
#[inline(always)]
pub fn count_port(index: &UseIndex, proto: u8, port: Port, n: i32) {
    let ([a, b], [c, d]) = (index.all, index.own);
    add(&PORT_USE, a, n);
    add(&PORT_USE, b, n);
    add(&PORT_USE, c, n);
    add(&PORT_USE, d, n);
    if let Some(place) = held_index(proto, port) {
        add(&PORTS_HELD, place, n);
    }
}

#[inline(always)]
fn read(cell: u32) -> u32 {
    match PORT_USE.get_ptr(cell) {
        // SAFETY: an aligned word of an element just looked up, which any CPU may change.
        Some(cell) => unsafe { cell.read_volatile() },
        None => 0,
    }
}

#[inline(always)]
fn add(map: &'static Array<u32>, cell: u32, n: i32) {
    if let Some(cell) = map.get_ptr_mut(cell) {
        // SAFETY: an aligned word of an element just looked up.
        unsafe { atomic::add32(cell, n as u32) };
    }
}

/// Whether a pod has a port of the SNAT range of one of the host's addresses.
#[inline(always)]
pub fn is_held(proto: u8, port: Port) -> bool {
    let Some(place) = held_index(proto, port) else { return false };
    // SAFETY: as in `read`.
    PORTS_HELD.get_ptr(place).is_some_and(|n| unsafe { n.read_volatile() } != 0)
}

/// Where a search goes on; `None` if one has just been in vain.
#[inline(always)]
pub fn begin_search<F: PortMaps>(to: &Destination<F::Addr>, now_ns: u64) -> Option<(u32, u32)> {
    match F::searches().get_ptr_mut(to) {
        // SAFETY: an element just looked up; its words are aligned, and any CPU may store them.
        Some(s) => unsafe {
            if (&raw const (*s).retry_at_ns).read_volatile() > now_ns {
                return None;
            }
            Some(((&raw const (*s).cursors).read_volatile(), (&raw const (*s).vain).read_volatile()))
        },
        None => Some((random(), 0)),
    }
}

/// Notes where a search ended: with a port `found`, or in vain, which stands for a while.
#[inline(always)]
pub fn end_search<F: PortMaps>(to: &Destination<F::Addr>, search: &Search, found: bool, now_ns: u64) {
    let retry_at_ns = if found { 0 } else { now_ns.wrapping_add(BACK_OFF_NS) };
    let known = F::searches().get_ptr_mut(to);
    // SAFETY: as in `begin_search`.
    let vain = known.map_or(0, |s| unsafe { (&raw const (*s).vain).read_volatile() });
    let (cursors, vain) = search.end(vain, found);
    match known {
        // SAFETY: as in `begin_search`.
        Some(s) => unsafe {
            (&raw mut (*s).cursors).write_volatile(cursors);
            (&raw mut (*s).vain).write_volatile(vain);
            (&raw mut (*s).retry_at_ns).write_volatile(retry_at_ns);
        },
        // Another CPU may have been first, or memory is short: the next one starts anywhere.
        None => {
            let _unnoted = F::searches().insert(to, PortSearch { refused: 0, retry_at_ns, cursors, vain }, 0);
        }
    }
}

/// Counts a flow refused for want of a port.
#[inline(always)]
pub fn count_exhausted<F: PortMaps>(to: &Destination<F::Addr>) {
    if let Some(found) = F::searches().get_ptr_mut(to) {
        // SAFETY: an aligned word of an element just looked up.
        unsafe { atomic::fetch_add(&raw mut (*found).refused, 1) };
    }
}
