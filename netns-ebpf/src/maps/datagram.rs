//! Datagrams in pieces, in place, and the pieces that wait.

use core::ptr::{NonNull, addr_of, addr_of_mut};

use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use netns_ebpf_common::abi;
use netns_ebpf_common::fragment::{Datagram, DatagramSlot, HeldKey, HeldPiece, Progress, RECEIVED_WORDS};
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::verdict::DropReason;

use super::{FamilyMaps, atomic, scratch};

#[map]
static HELD: LruHashMap<HeldKey, HeldPiece> = LruHashMap::with_max_entries(abi::MAX_HELD, 0);
// A piece on its way into the map, which takes whole values only.
#[map]
static HELD_SCRATCH: PerCpuArray<HeldPiece> = PerCpuArray::with_max_entries(1, 0);

/// A datagram of the table, in place. As with `FlowRef`, one that gave way to another meanwhile costs the fragments of this moment.
#[derive(Clone, Copy)]
pub struct DatagramRef<F: FamilyMaps>(NonNull<Datagram<F::Addr>>);

impl<F: FamilyMaps> DatagramRef<F> {
    /// What is at a place.
    #[inline(always)]
    pub fn find(slot: &DatagramSlot) -> Option<Self> {
        F::datagrams().get_ptr_mut(slot).and_then(NonNull::new).map(Self)
    }

    /// Puts a datagram of which nothing has come at a place, instead of what was there.
    #[inline(always)]
    pub fn start(
        slot: &DatagramSlot,
        zone: u16,
        p: &Parsed<F::Addr>,
        serial: u64,
        now_ns: u64,
    ) -> Result<(), DropReason> {
        // SAFETY: per-CPU, no nesting, one reference; the fields that are not set here are zero for ever.
        let new = unsafe { &mut (*scratch::<F>()?).datagram };
        new.seen_ns = now_ns;
        new.serial = serial;
        new.src = p.tuple.src;
        new.dst = p.tuple.dst;
        new.id = p.fragment_id;
        new.zone = zone;
        let new: &Datagram<F::Addr> = new;
        F::datagrams().insert(slot, new, 0).map_err(|_| DropReason::Fragment)
    }

    /// Whether pieces are still to come; one that has all of them leaves its identification to the next datagram.
    #[inline(always)]
    pub fn is_live(self, oldest_ns: u64) -> bool {
        self.seen_ns() >= oldest_ns && !matches!(self.progress(), Progress::Complete)
    }

    /// Whether this is the datagram a piece belongs to.
    #[inline(always)]
    pub fn is_of(self, zone: u16, p: &Parsed<F::Addr>) -> bool {
        // SAFETY: `self.0` came from a look-up of this run, which map memory outlives; these fields are constant.
        unsafe {
            let d = self.0.as_ptr();
            (*d).id == p.fragment_id && (*d).zone == zone && (*d).src == p.tuple.src && (*d).dst == p.tuple.dst
        }
    }

    /// When the first of its pieces came.
    #[inline(always)]
    pub fn seen_ns(self) -> u64 {
        // SAFETY: as in `is_of`.
        unsafe { (*self.0.as_ptr()).seen_ns }
    }

    /// Tells its waiting pieces from those of others.
    #[inline(always)]
    pub fn serial(self) -> u64 {
        // SAFETY: as in `is_of`.
        unsafe { (*self.0.as_ptr()).serial }
    }

    /// Where it stands.
    #[inline(always)]
    pub fn progress(self) -> Progress {
        // SAFETY: a byte other CPUs may store; any value of it is a progress.
        Progress::from_u8(unsafe { addr_of!((*self.0.as_ptr()).progress).read_volatile() })
    }

    /// Stores where it stands.
    #[inline(always)]
    pub fn set_progress(self, progress: Progress) {
        // SAFETY: as in `progress`.
        unsafe { addr_of_mut!((*self.0.as_ptr()).progress).write_volatile(progress as u8) };
    }

    /// Notes what the first piece says.
    #[inline(always)]
    pub fn learn(self, p: &Parsed<F::Addr>) {
        // SAFETY: aligned words; nobody reads them before the progress says that they are there.
        unsafe {
            let d = self.0.as_ptr();
            addr_of_mut!((*d).sport).write_volatile(p.tuple.sport);
            addr_of_mut!((*d).dport).write_volatile(p.tuple.dport);
            addr_of_mut!((*d).proto).write_volatile(p.proto);
        }
        self.set_progress(Progress::Known);
    }

    /// Tells a later piece what the first one said.
    #[inline(always)]
    pub fn tell(self, p: &mut Parsed<F::Addr>) {
        // SAFETY: as in `learn`.
        unsafe {
            let d = self.0.as_ptr();
            p.tuple.sport = addr_of!((*d).sport).read_volatile();
            p.tuple.dport = addr_of!((*d).dport).read_volatile();
            p.proto = addr_of!((*d).proto).read_volatile();
        }
    }

    /// Marks units of a word as come; returns those that had come before.
    #[inline(always)]
    pub fn receive(self, word: u32, units: u64) -> u64 {
        let at = word as usize & (RECEIVED_WORDS - 1);
        // SAFETY: an aligned word of the value, changed by atomic operations only.
        unsafe {
            let word = addr_of_mut!((*self.0.as_ptr()).received).cast::<u64>().add(at);
            atomic::fetch_or(word, units) & units
        }
    }

    /// Adds to the bytes that have come; returns how many there are.
    #[inline(always)]
    pub fn add_bytes(self, len_bytes: u32) -> u32 {
        // SAFETY: as in `receive`.
        let before = unsafe { atomic::fetch_add(addr_of_mut!((*self.0.as_ptr()).received_bytes), len_bytes.into()) };
        (before as u32).wrapping_add(len_bytes)
    }

    /// Where it ends; 0: not known.
    #[inline(always)]
    pub fn end_bytes(self) -> u32 {
        // SAFETY: an aligned word other CPUs may store.
        unsafe { addr_of!((*self.0.as_ptr()).end_bytes).read_volatile() }
    }

    /// Notes where it ends.
    #[inline(always)]
    pub fn set_end_bytes(self, end_bytes: u32) {
        // SAFETY: as in `end_bytes`.
        unsafe { addr_of_mut!((*self.0.as_ptr()).end_bytes).write_volatile(end_bytes) };
    }

    /// Which pieces of its area wait for it.
    #[inline(always)]
    pub fn held(self) -> u64 {
        // SAFETY: as in `receive`. Not a mere read: one may be done before the progress stored ahead of it is seen elsewhere,
        // and a piece that comes to wait on another CPU meanwhile would wait for ever.
        unsafe { atomic::fetch_or(addr_of_mut!((*self.0.as_ptr()).held), 0) }
    }

    /// One more waits for it.
    #[inline(always)]
    pub fn add_held(self, bit: u64) {
        // SAFETY: as in `receive`.
        unsafe { atomic::fetch_or(addr_of_mut!((*self.0.as_ptr()).held), bit) };
    }

    /// Takes those of `bits` that wait: each is taken once.
    #[inline(always)]
    pub fn take_held(self, bits: u64) -> u64 {
        // SAFETY: as in `receive`.
        unsafe { atomic::fetch_and(addr_of_mut!((*self.0.as_ptr()).held), !bits) & bits }
    }
}

/// The place of the datagram of the piece at hand.
#[inline(always)]
pub fn datagram_slot<F: FamilyMaps>() -> Result<&'static mut DatagramSlot, DropReason> {
    // SAFETY: per-CPU, no nesting, and nobody holds a reference across another's write.
    Ok(unsafe { &mut (*scratch::<F>()?).datagram_slot })
}

/// Where a piece is put together that shall wait; asked for once per run.
#[inline(always)]
pub fn held_scratch() -> Result<&'static mut HeldPiece, DropReason> {
    // SAFETY: per-CPU, no nesting, one reference per run.
    HELD_SCRATCH.get_ptr_mut(0).map(|piece| unsafe { &mut *piece }).ok_or(DropReason::Internal)
}

/// Lets a piece wait.
#[inline(always)]
pub fn hold(key: &HeldKey, piece: &HeldPiece) -> Result<(), DropReason> {
    HELD.insert(key, piece, 0).map_err(|_| DropReason::Fragment)
}

/// A piece waits no more. Those that do not would stand in the way of those that do: the kernel takes what was looked up for
/// what is in use.
#[inline(always)]
pub fn release(key: &HeldKey) {
    let _absent_is_fine = HELD.remove(key);
}

/// A waiting piece. Another may take its memory while it is read: whoever copies it looks again afterwards.
#[inline(always)]
pub fn held(key: &HeldKey) -> Option<&'static HeldPiece> {
    // SAFETY: map memory outlives the run, and every bit pattern is a value.
    unsafe { HELD.get(key) }
}
