//! Datagrams in pieces, in place, and the pieces that wait.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use netns_ebpf_common::abi;
use netns_ebpf_common::fragment::{Datagram, DatagramSlot, HeldKey, HeldPiece, Progress};
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::verdict::DropReason;

use super::place::{Place, Places, field};
use super::{FamilyMaps, scratch};

#[map]
static HELD: LruHashMap<HeldKey, HeldPiece> = LruHashMap::with_max_entries(abi::MAX_HELD, 0);
// A piece on its way into the map, which takes whole values only.
#[map]
static HELD_SCRATCH: PerCpuArray<HeldPiece> = PerCpuArray::with_max_entries(1, 0);

/// A datagram of the table, in place. As with `FlowRef`, one that gave way to another meanwhile costs the fragments of this moment.
#[derive(Clone, Copy)]
pub struct DatagramRef<F: FamilyMaps>(Place<Datagram<F::Addr>>);

impl<F: FamilyMaps> DatagramRef<F> {
    /// What is at a place.
    #[inline(always)]
    pub fn find(slot: &DatagramSlot) -> Option<Self> {
        F::datagrams().place(slot).map(Self)
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
        field!(self.0, id).get() == p.fragment_id
            && field!(self.0, zone).get() == zone
            && field!(self.0, src).get() == p.tuple.src
            && field!(self.0, dst).get() == p.tuple.dst
    }

    /// When the first of its pieces came.
    #[inline(always)]
    pub fn seen_ns(self) -> u64 {
        field!(self.0, seen_ns).get()
    }

    /// Tells its waiting pieces from those of others.
    #[inline(always)]
    pub fn serial(self) -> u64 {
        field!(self.0, serial).get()
    }

    /// Where it stands.
    #[inline(always)]
    pub fn progress(self) -> Progress {
        Progress::from_u8(field!(self.0, progress).load())
    }

    /// Stores where it stands.
    #[inline(always)]
    pub fn set_progress(self, progress: Progress) {
        field!(self.0, progress).store(progress as u8);
    }

    /// Notes what the first piece says.
    #[inline(always)]
    pub fn learn(self, p: &Parsed<F::Addr>) {
        field!(self.0, sport).store(p.tuple.sport);
        field!(self.0, dport).store(p.tuple.dport);
        field!(self.0, proto).store(p.proto);
        self.set_progress(Progress::Known);
    }

    /// Tells a later piece what the first one said.
    #[inline(always)]
    pub fn tell(self, p: &mut Parsed<F::Addr>) {
        p.tuple.sport = field!(self.0, sport).load();
        p.tuple.dport = field!(self.0, dport).load();
        p.proto = field!(self.0, proto).load();
    }

    /// Marks units of a word as come; returns those that had come before.
    #[inline(always)]
    pub fn receive(self, word: u32, units: u64) -> u64 {
        field!(self.0, received).at(word as usize).fetch_or(units) & units
    }

    /// Adds to the bytes that have come; returns how many there are.
    #[inline(always)]
    pub fn add_bytes(self, len_bytes: u32) -> u32 {
        (field!(self.0, received_bytes).fetch_add(len_bytes.into()) as u32).wrapping_add(len_bytes)
    }

    /// Where it ends; 0: not known.
    #[inline(always)]
    pub fn end_bytes(self) -> u32 {
        field!(self.0, end_bytes).load()
    }

    /// Notes where it ends.
    #[inline(always)]
    pub fn set_end_bytes(self, end_bytes: u32) {
        field!(self.0, end_bytes).store(end_bytes);
    }

    /// Which pieces of its area wait for it.
    #[inline(always)]
    pub fn held(self) -> u64 {
        // Not a mere load: one may be done before the progress stored ahead of it is seen elsewhere, and a piece that comes to
        // wait on another CPU meanwhile would wait for ever.
        field!(self.0, held).fetch_or(0)
    }

    /// One more waits for it.
    #[inline(always)]
    pub fn add_held(self, bit: u64) {
        field!(self.0, held).fetch_or(bit);
    }

    /// Takes those of `bits` that wait: each is taken once.
    #[inline(always)]
    pub fn take_held(self, bits: u64) -> u64 {
        field!(self.0, held).fetch_and(!bits) & bits
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
