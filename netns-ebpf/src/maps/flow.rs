//! Entries of the flow table, in place.

use core::ptr::NonNull;

use aya_ebpf::bindings::BPF_NOEXIST;
use netns_ebpf_common::Addr4;
use netns_ebpf_common::account::Account;
use netns_ebpf_common::flow::{FlowEntry, FlowFlags, FlowKey, FlowTuple, Target, TargetKind, narrow, wide};
use netns_ebpf_common::mapping;
use netns_ebpf_common::port::UseIndex;
use netns_ebpf_common::state::State;
use netns_ebpf_common::tcp::Numbers;

use super::{
    AccountRef, FamilyMaps, atomic, fill_ring, inside_key, leave, next_ring_place, outside_key, port, scratch,
};

/// An entry of the flow table, in place.
///
/// It stays readable for the whole run even if another CPU removes it (map elements are freed after an RCU grace period;
/// one reused at once by a preallocated map can show another flow's bytes, which costs one misrouted packet of a flow
/// that was being removed anyway).
#[derive(Clone, Copy)]
pub struct FlowRef<F: FamilyMaps>(NonNull<FlowEntry<F::Addr>>);

impl<F: FamilyMaps> FlowRef<F> {
    /// The entry of a key.
    #[inline(always)]
    pub fn find(key: &FlowKey<F::Addr>) -> Option<Self> {
        F::flows().get_ptr_mut(key).and_then(NonNull::new).map(Self)
    }

    /// Inserts unless there is one.
    #[inline(always)]
    pub fn insert(key: &FlowKey<F::Addr>, entry: &FlowEntry<F::Addr>) -> Result<(), InsertError> {
        const EEXIST: i32 = -17;
        match F::flows().insert(key, entry, BPF_NOEXIST.into()) {
            Ok(()) => Ok(()),
            Err(EEXIST) => Err(InsertError::Exists),
            Err(_) => Err(InsertError::Full),
        }
    }

    /// Removes an entry nothing counts yet; says whether it was there.
    #[inline(always)]
    pub fn remove(key: &FlowKey<F::Addr>) -> bool {
        F::flows().remove(key).is_ok()
    }

    /// What the tuple becomes.
    #[inline(always)]
    pub fn to(self) -> &'static FlowTuple<F::Addr> {
        // SAFETY: `self.0` came from a look-up of this run, which map memory outlives; the field is constant (see
        // `FlowEntry`).
        unsafe { &(*self.0.as_ptr()).to }
    }

    /// Where its packets go.
    #[inline(always)]
    pub fn target(self) -> Target {
        // SAFETY: as in `to`.
        let (id, kind) = unsafe { ((*self.0.as_ptr()).target_id, (*self.0.as_ptr()).target_kind) };
        Target { id, kind: TargetKind::from_u8(kind), _pad: [0; 3] }
    }

    /// What the direction is.
    #[inline(always)]
    pub fn flags(self) -> FlowFlags {
        // SAFETY: as in `to`; those that may change are asked for by `mark` alone.
        unsafe { (*self.0.as_ptr()).flags }
    }

    /// The slot it is accounted to.
    #[inline(always)]
    pub fn owner_slot(self) -> u32 {
        // SAFETY: as in `to`.
        wide(unsafe { (*self.0.as_ptr()).owner_slot })
    }

    /// The publish the flow came in by, or `FlowEntry::NO_OWNER`.
    #[inline(always)]
    pub fn publish(self) -> u32 {
        // SAFETY: an aligned word that is changed once, when the publish goes.
        wide(unsafe { core::ptr::addr_of!((*self.0.as_ptr()).publish).read_volatile() })
    }

    /// Makes it no publish's.
    #[inline(always)]
    pub fn disown(self) {
        // SAFETY: as in `publish`.
        unsafe {
            core::ptr::addr_of_mut!((*self.0.as_ptr()).publish).write_volatile(narrow(FlowEntry::<F::Addr>::NO_OWNER));
        }
    }

    /// Where the flow is counted.
    #[inline(always)]
    pub fn account(self) -> Account {
        Account { slot: self.owner_slot(), incoming: self.flags().has(FlowFlags::INCOMING) }
    }

    /// Whether this is the opener's direction.
    #[inline(always)]
    pub fn is_original(self) -> bool {
        self.flags().has(FlowFlags::ORIGINAL)
    }

    /// The key of the other direction, in working memory.
    #[inline(always)]
    fn peer_key(self, proto: u8) -> Option<&'static FlowKey<F::Addr>> {
        let scratch = scratch::<F>().ok()?;
        // SAFETY: per-CPU, no nesting, and nobody keeps a reference to the field beyond the two functions below. The fields of
        // the entry that are read are constant (see `to`).
        unsafe {
            let entry = self.0.as_ptr();
            let key = &mut (*scratch).peer_key;
            key.tuple.set_reverse(&(*entry).to);
            key.zone = (*entry).peer_zone;
            key.proto = proto;
            key._pad = 0;
            Some(key)
        }
    }

    /// Puts the flow, whose opener's entry and key these are, behind the others of its account.
    #[inline(never)]
    pub fn queue(self, account: AccountRef, key: &FlowKey<F::Addr>) -> bool {
        // Another CPU may look at a place before it is filled: then it is another one. That happens to it twice once in a life.
        let mut tries = 0;
        while tries < 2 {
            let at = account.next_place();
            // SAFETY: an aligned word other CPUs may read.
            unsafe { (&raw mut (*self.0.as_ptr()).queued_at).write_volatile(at as u16) };
            if account.fill::<F>(at, key) {
                return true;
            }
            tries += 1;
        }
        false
    }

    /// Whether the key that was taken from this place of the queue is its own.
    #[inline(always)]
    pub fn is_queued_at(self, place: u32) -> bool {
        // SAFETY: as in `queue`.
        unsafe { (&raw const (*self.0.as_ptr()).queued_at).read_volatile() == place as u16 }
    }

    /// Puts the flow, whose opener's entry and key these are, into the ring as the youngest.
    #[inline(never)]
    pub fn put_into_ring(self, key: &FlowKey<F::Addr>) -> bool {
        let mut tries = 0;
        while tries < 2 {
            let Some(at) = next_ring_place::<F>() else { return false };
            // SAFETY: as in `queue`.
            unsafe { (&raw mut (*self.0.as_ptr()).ring_at).write_volatile(at as u16) };
            if fill_ring::<F>(at, key) {
                return true;
            }
            tries += 1;
        }
        false
    }

    /// Whether the key that was taken from this place of the ring is its own.
    #[inline(always)]
    pub fn is_in_ring_at(self, place: u32) -> bool {
        // SAFETY: as in `queue`.
        unsafe { (&raw const (*self.0.as_ptr()).ring_at).read_volatile() == place as u16 }
    }

    /// Leaves the flow, whose opener's entry this is and whose key was taken out of its account's queue, out of that: a connection in
    /// use gives way to nobody until it ends.
    #[inline(always)]
    pub fn leave_queue(self, proto: u8) {
        self.mark(FlowFlags::UNQUEUED, true);
        // Another CPU may have ended it before, and found it in the queue.
        if self.state().may_rest() {
            let _queued = self.queue_again(proto);
        }
    }

    /// Puts a flow that has ended, one of whose entries this is, into its account's queue again if it is not there.
    #[inline(always)]
    pub fn queue_ended(self, proto: u8) -> bool {
        if self.is_original() {
            return self.queue_again(proto);
        }
        self.peer(proto).is_some_and(|original| original.queue_again(proto))
    }

    /// Puts the flow, whose opener's entry this is, into its account's queue again if it is not there: it gives way from now on.
    /// However often a connection is ended and goes on, its key is there once.
    #[inline(never)]
    pub fn queue_again(self, proto: u8) -> bool {
        if !self.mark(FlowFlags::UNQUEUED, false) {
            return false;
        }
        let Some(peer) = self.peer(proto) else { return false };
        let (Some(key), Ok(account)) = (peer.peer_key(proto), AccountRef::find::<F>(self.account())) else {
            return false;
        };
        self.queue(account, key)
    }

    /// The entry of the other direction.
    #[inline(always)]
    pub fn peer(self, proto: u8) -> Option<Self> {
        Self::find(self.peer_key(proto)?)
    }

    /// Of a mapping's inside entry: how many flows it counts.
    #[inline(always)]
    pub fn mapped_flows(self) -> u32 {
        // SAFETY: an aligned word other CPUs may change.
        unsafe { core::ptr::addr_of!((*self.0.as_ptr()).ack).read_volatile() }
    }

    /// Adds to that number, modulo 2^32.
    #[inline(always)]
    fn add_mapped_flows(self, n: u32) {
        // SAFETY: an aligned word of map memory, which outlives the run.
        unsafe { atomic::add32(core::ptr::addr_of_mut!((*self.0.as_ptr()).ack), n) };
    }

    /// Removes both directions and counts the flow no longer; `key` is this one's. Returns how many entries went.
    ///
    /// The one place where flows end. Whoever takes the opener's entry out gives its place in the account back.
    #[inline(never)]
    pub fn remove_both(self, key: &FlowKey<F::Addr>) -> u32 {
        let mut gone = 0;
        if let Some(peer_key) = self.peer_key(key.proto)
            && let Some(peer) = Self::find(peer_key)
            && peer.leads_to(key)
        {
            gone += peer.remove_one(peer_key);
        }
        gone + self.remove_one(key)
    }

    /// Whether this CPU, and no other, is to take the entry out: it is the one with this key, and stays so until then.
    ///
    /// Without it the entry might be out already and its memory another's, or another one be there: the kernel uses the memory
    /// of what was removed again at once, and what is read of it would be taken for what is removed. Another's entry that is marked
    /// by mistake, for that moment, is one whoever would end it finds again.
    #[inline(always)]
    fn begin_end(self, key: &FlowKey<F::Addr>) -> bool {
        if self.mark(FlowFlags::ENDING, true) {
            return false;
        }
        if Self::find(key).is_some_and(|there| there.0 == self.0) {
            return true;
        }
        self.mark(FlowFlags::ENDING, false);
        false
    }

    /// Sets or clears one of the flags that may change; says whether it was set.
    #[inline(always)]
    fn mark(self, flag: FlowFlags, set: bool) -> bool {
        const OFF: usize = core::mem::offset_of!(FlowEntry<Addr4>, flags) & 7;
        const {
            assert!(core::mem::offset_of!(FlowEntry<F::Addr>, flags) & 7 == OFF && cfg!(target_endian = "little"));
        }
        let bit = u64::from(flag.bits()) << (8 * OFF);
        // SAFETY: the aligned word of map memory, which outlives the run, that the flags are in; what else is in it stays as it is.
        unsafe {
            let word = core::ptr::addr_of_mut!((*self.0.as_ptr()).flags).sub(OFF).cast::<u64>();
            let before = if set { atomic::fetch_or(word, bit) } else { atomic::fetch_and(word, !bit) };
            before & bit != 0
        }
    }

    #[inline(never)]
    fn remove_one(self, key: &FlowKey<F::Addr>) -> u32 {
        if !self.begin_end(key) {
            return 0;
        }
        let (flags, account, seen) = (self.flags(), self.account(), self.last_seen_ns());
        if flags.has(FlowFlags::PORT_COUNTED) {
            self.note_port(key);
        }
        if !Self::remove(key) {
            // The kernel has given up on the bucket's lock.
            self.mark(FlowFlags::ENDING, false);
            return 0;
        }
        if flags.has(FlowFlags::PORT_COUNTED) {
            uncount_port::<F>();
        }
        if flags.has(FlowFlags::ORIGINAL) {
            leave::<F>(account);
        }
        if flags.has(FlowFlags::MAPPED) {
            leave_mapping::<F>(key, seen);
        }
        1
    }

    /// Notes in working memory its port, and where that is counted: the entry may be another's as soon as it is out.
    #[inline(never)]
    fn note_port(self, key: &FlowKey<F::Addr>) -> u32 {
        let Ok(scratch) = scratch::<F>() else { return 0 };
        let to = self.to();
        let pool = if self.flags().has(FlowFlags::POOLED) { key.zone } else { 0 };
        // SAFETY: per-CPU, no nesting: read by the end of the same entry only.
        let noted = unsafe { &mut (*scratch).port };
        let UseIndex { all, own } = UseIndex::new(port::seed(), pool, &to.dst, to.dport, key.proto, self.owner_slot());
        (noted.index.all[0], noted.index.all[1]) = (all[0], all[1]);
        (noted.index.own[0], noted.index.own[1]) = (own[0], own[1]);
        noted.port = to.sport;
        noted.proto = key.proto;
        1
    }

    /// Whether `key` is that of its other direction: a flow that was opened anew has another one.
    #[inline(always)]
    fn leads_to(self, key: &FlowKey<F::Addr>) -> bool {
        // SAFETY: as in `to`.
        let zone = unsafe { (*self.0.as_ptr()).peer_zone };
        let to = self.to();
        zone == key.zone
            && to.src == key.tuple.dst
            && to.dst == key.tuple.src
            && to.sport == key.tuple.dport
            && to.dport == key.tuple.sport
    }

    /// Where the connection stands.
    #[inline(always)]
    pub fn state(self) -> State {
        // SAFETY: a byte other CPUs may store; any value of it is a state.
        State::from_u8(unsafe { core::ptr::addr_of!((*self.0.as_ptr()).state).read_volatile() })
    }

    /// Stores where the connection stands.
    #[inline(always)]
    pub fn set_state(self, state: State) {
        // SAFETY: as in `state`.
        unsafe { core::ptr::addr_of_mut!((*self.0.as_ptr()).state).write_volatile(state as u8) };
    }

    /// Time of the last packet in this direction.
    #[inline(always)]
    pub fn last_seen_ns(self) -> u64 {
        self.stamp() & !1
    }

    /// The same with the note its last bit is.
    #[inline(always)]
    pub fn stamp(self) -> u64 {
        // SAFETY: an aligned word other CPUs may store.
        unsafe { core::ptr::addr_of!((*self.0.as_ptr()).last_seen_ns).read_volatile() }
    }

    /// Notes a packet in this direction; writes at most once per tick of the clock it is fed with.
    #[inline(always)]
    pub fn touch(self, now_ns: u64) {
        if self.last_seen_ns() != now_ns {
            self.set_stamp(now_ns);
        }
    }

    /// Stores the time with a note in its last bit.
    #[inline(always)]
    pub fn set_stamp(self, stamp: u64) {
        // SAFETY: as in `stamp`.
        unsafe { core::ptr::addr_of_mut!((*self.0.as_ptr()).last_seen_ns).write_volatile(stamp) };
    }

    /// Whether nobody has asked this in this direction since the clock's last tick; notes that somebody has.
    #[inline(always)]
    pub fn is_first_of_its_tick(self) -> bool {
        const ASKED: u64 = 1;
        let stamp = self.stamp();
        if stamp & ASKED != 0 {
            return false;
        }
        self.set_stamp(stamp | ASKED);
        true
    }

    /// What this direction of a connection has shown of itself.
    #[inline(always)]
    pub fn numbers(self) -> Numbers {
        let e = self.0.as_ptr();
        // SAFETY: aligned words and bytes other CPUs may store; torn ones are those of two segments that came at once.
        unsafe {
            Numbers {
                end: (&raw const (*e).end).read_volatile(),
                ack: (&raw const (*e).ack).read_volatile(),
                edge: (&raw const (*e).edge).read_volatile(),
                syn_end: (&raw const (*e).syn_end).read_volatile(),
                scale: (&raw const (*e).scale).read_volatile(),
                seen: (&raw const (*e).seen).read_volatile(),
            }
        }
    }

    /// Notes what moves with every segment.
    #[inline(always)]
    pub fn move_numbers(self, n: &Numbers) {
        let e = self.0.as_ptr();
        // SAFETY: as in `numbers`.
        unsafe {
            (&raw mut (*e).end).write_volatile(n.end);
            (&raw mut (*e).ack).write_volatile(n.ack);
            (&raw mut (*e).edge).write_volatile(n.edge);
        }
    }

    /// Notes all of it.
    #[inline(always)]
    pub fn set_numbers(self, n: &Numbers) {
        self.move_numbers(n);
        let e = self.0.as_ptr();
        // SAFETY: as in `numbers`.
        unsafe {
            (&raw mut (*e).syn_end).write_volatile(n.syn_end);
            (&raw mut (*e).scale).write_volatile(n.scale);
            (&raw mut (*e).seen).write_volatile(n.seen);
        }
    }
}

/// Counts the port that is noted no longer.
#[inline(always)]
fn uncount_port<F: FamilyMaps>() {
    if let Ok(scratch) = scratch::<F>() {
        // SAFETY: per-CPU, no nesting; read only.
        let noted = unsafe { &(*scratch).port };
        port::count_port(&noted.index, noted.proto, noted.port, -1);
    }
}

/// Why an entry was not inserted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum InsertError {
    /// The key is taken.
    Exists,
    /// No room.
    Full,
}

/// Counts a flow in the mapping of its entry with this key.
#[inline(always)]
pub fn enter_mapping<F: FamilyMaps>(key: &FlowKey<F::Addr>) {
    if let Some(inside) = mapping_of::<F>(key) {
        inside.add_mapped_flows(1);
    }
}

/// Counts it no longer; `last_seen_ns` is the entry's, which the mapping's own stamp lags behind.
#[inline(always)]
fn leave_mapping<F: FamilyMaps>(key: &FlowKey<F::Addr>, last_seen_ns: u64) {
    if let Some(inside) = mapping_of::<F>(key) {
        // A mapping that was made anew does not know the flows of the former one.
        if inside.mapped_flows() != 0 {
            inside.add_mapped_flows(u32::MAX);
        }
        if inside.last_seen_ns() < last_seen_ns {
            inside.touch(last_seen_ns);
        }
    }
}

/// The inside entry of the mapping of a flow's entry with this key, whether its time is over or not.
#[inline(always)]
pub fn mapping_of<F: FamilyMaps>(key: &FlowKey<F::Addr>) -> Option<FlowRef<F>> {
    let inside = inside_key::<F>()?;
    mapping::aim_inside_key(inside, key.zone, key.proto, &key.tuple);
    FlowRef::find(inside)
}

/// The outside entry of the mapping a packet with this tuple is sent to, whether its time is over or not.
#[inline(always)]
pub fn mapping_at<F: FamilyMaps>(proto: u8, tuple: &FlowTuple<F::Addr>) -> Option<FlowRef<F>> {
    let outside = outside_key::<F>()?;
    mapping::aim_outside_key(outside, proto, tuple);
    FlowRef::find(outside)
}
