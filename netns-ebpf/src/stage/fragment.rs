//! Fragments: the first one of a datagram says what the others are, in whatever order they come.
//!
//! One that comes before the first of its datagram waits, as a copy. When the first one comes, it and those that waited are
//! sent through the ingress of their device once more, the first one first, the others as they came. No decision on ports is
//! ever taken from a later fragment's own bytes.
//!
//! Between pods of a network none of this is needed: the address alone decides there.

use netns_ebpf_common::abi::{HELD_PER_AREA, MAX_ENDPOINTS};
use netns_ebpf_common::family::Family;
use netns_ebpf_common::fragment::{
    DatagramSlot, FRAGMENT_TIMEOUT_NS, HELD_FRAME_BYTES, HeldKey, PLACE_KEPT_NS, Progress, RECEIVED_WORDS, UNIT_BYTES,
    WAYS, units_in_word,
};
use netns_ebpf_common::parse::{Fragment, Parsed};
use netns_ebpf_common::verdict::{DropReason, Next, Verdict};

use crate::maps::{self, AreaRef, DatagramRef, FamilyMaps};
use crate::packet::{Packet, Steps, now_ns, random};
use crate::path::may_go_on;

/// What a piece is to its datagram.
pub enum Piece {
    /// The first one has come: the ports are filled in.
    Known,
    /// It is the first one, and others wait for it. It is not noted yet: it will come once more.
    Awaited,
    /// The first one has not come.
    Early,
}

/// What becomes of a piece from a pod: it waits, or goes on with the ports filled in.
#[inline(never)]
pub fn from_pod<F: FamilyMaps>(pkt: &Packet, area: u32, zone: u16, p: &mut Parsed<<F as Family>::Addr>) -> Next {
    may_go_on(|| match track::<F>(pkt, area, zone, p)? {
        Piece::Known => Ok(Next::GO_ON),
        Piece::Awaited => replay::<F>(pkt, area).map(|()| Next::end(Verdict::HELD)),
        Piece::Early => hold::<F>(pkt, area).map(|()| Next::end(Verdict::HELD)),
    })
}

/// Notes a piece and, if the first one has come, fills in what that says.
#[inline(always)]
pub fn track<F: FamilyMaps>(
    pkt: &Packet,
    area: u32,
    zone: u16,
    p: &mut Parsed<<F as Family>::Addr>,
) -> Result<Piece, DropReason> {
    let now = now_ns();
    let oldest = now.saturating_sub(FRAGMENT_TIMEOUT_NS);
    if !locate::<F>(area, zone, p, oldest) {
        start::<F>(pkt, area, zone, p, now, oldest)?;
    }
    let d = at_hand::<F>()?;
    if matches!(p.fragment, Fragment::First) {
        if matches!(d.progress(), Progress::Waiting) {
            d.learn(p);
        }
        if d.held() != 0 {
            return Ok(Piece::Awaited);
        }
    } else {
        if matches!(d.progress(), Progress::Waiting) {
            return Ok(Piece::Early);
        }
        d.tell(p);
    }
    note(pkt, d, p)?;
    Ok(Piece::Known)
}

/// Makes a piece's datagram known, at the place [`locate`] has left, unless another CPU has done so for another piece of it.
#[inline(always)]
fn start<F: FamilyMaps>(
    pkt: &Packet,
    area: u32,
    zone: u16,
    p: &Parsed<<F as Family>::Addr>,
    now_ns: u64,
    oldest_ns: u64,
) -> Result<(), DropReason> {
    let mut wait = Wait { area: maps::area(area)?, entered: false };
    // Who has waited for longer than anybody stays in there goes on without.
    pkt.repeat(TURNS, &mut wait);
    let started = if locate::<F>(area, zone, p, oldest_ns) {
        Ok(())
    } else {
        let serial = u64::from(random()) << 32 | u64::from(random());
        DatagramRef::<F>::start(maps::datagram_slot::<F>()?, zone, p, serial, now_ns)
    };
    if wait.entered {
        wait.area.leave();
    }
    started
}

/// How often a CPU asks whether another one has put its datagram into the area: about 100 us, of the 1 us that takes.
const TURNS: u32 = 5_000;

/// A CPU's wait for its turn to put a datagram into an area.
struct Wait {
    area: AreaRef,
    entered: bool,
}

impl Steps for Wait {
    #[inline(always)]
    fn step(&mut self, _: &Packet) -> bool {
        self.entered = self.area.enter();
        self.entered
    }
}

/// Whether a piece's datagram is known; its place, or the one it shall have, is left in [`maps::datagram_slot`].
#[inline(never)]
fn locate<F: FamilyMaps>(area: u32, zone: u16, p: &Parsed<<F as Family>::Addr>, oldest_ns: u64) -> bool {
    let Ok(slot) = maps::datagram_slot::<F>() else { return false };
    *slot = DatagramSlot::first(area, &p.tuple.src, &p.tuple.dst, p.fragment_id);
    let first = slot.place;
    let (mut best, mut best_ns) = (first, u64::MAX);
    for way in 0..WAYS {
        slot.place = first + way;
        let mut seen_ns = 0;
        if let Some(d) = DatagramRef::<F>::find(slot)
            && d.is_live(oldest_ns)
        {
            if d.is_of(zone, p) {
                return true;
            }
            seen_ns = d.seen_ns();
        }
        if seen_ns < best_ns {
            (best, best_ns) = (slot.place, seen_ns);
        }
    }
    slot.place = best;
    false
}

/// Notes which bytes have come.
#[inline(always)]
fn note<F: FamilyMaps>(pkt: &Packet, d: DatagramRef<F>, p: &Parsed<F::Addr>) -> Result<(), DropReason> {
    if matches!(d.progress(), Progress::Bad) {
        return Err(DropReason::FragmentOverlap);
    }
    let start_bytes = u32::from(p.piece_off_bytes);
    let len_bytes = u32::from(p.piece_len_bytes);
    let end_bytes = start_bytes + len_bytes;
    let start = start_bytes / UNIT_BYTES;
    let end = end_bytes.div_ceil(UNIT_BYTES);
    let mut note = Note { datagram: d, start, end, word: start / 64, old: false, new: false };
    pkt.repeat(RECEIVED_WORDS as u32, &mut note);
    if note.old {
        // One that has come twice may just be dropped (RFC 8200 section 4.5).
        if note.new {
            d.set_progress(Progress::Bad);
        }
        return Err(DropReason::FragmentOverlap);
    }
    if !p.more_pieces && d.end_bytes() == 0 {
        d.set_end_bytes(end_bytes);
    }
    // The sum goes first: of two pieces noted at once one sees the whole.
    let received_bytes = d.add_bytes(len_bytes);
    let known_end = d.end_bytes();
    if known_end != 0 {
        if end_bytes > known_end || received_bytes > known_end {
            d.set_progress(Progress::Bad);
            return Err(DropReason::FragmentOverlap);
        }
        if received_bytes == known_end {
            d.set_progress(Progress::Complete);
        }
    }
    Ok(())
}

/// A piece's units being noted, a word a step.
struct Note<F: FamilyMaps> {
    datagram: DatagramRef<F>,
    start: u32,
    end: u32,
    word: u32,
    /// Some of them had come before.
    old: bool,
    /// Some had not.
    new: bool,
}

impl<F: FamilyMaps> Steps for Note<F> {
    #[inline(always)]
    fn step(&mut self, _: &Packet) -> bool {
        let units = units_in_word(self.start, self.end, self.word);
        if units == 0 {
            return true;
        }
        let before = self.datagram.receive(self.word, units);
        self.old |= before != 0;
        self.new |= before != units;
        self.word += 1;
        false
    }
}

/// Places of the LAN looked at for one that is free: a few may be kept by pieces whose first one never comes.
const PLACES_TRIED: u32 = 8;

/// Keeps a copy of a piece until the first of its datagram comes; that of one [`track`] has just seen.
#[inline(never)]
pub fn hold<F: FamilyMaps>(pkt: &Packet, area: u32) -> Result<(), DropReason> {
    let len_bytes = pkt.len_bytes();
    if len_bytes > HELD_FRAME_BYTES {
        return Err(DropReason::Fragment);
    }
    let d = at_hand::<F>()?;
    let now = now_ns();
    let places = maps::area(area)?;
    let mut key = HeldKey { area, place: places.next_held() };
    let mut tries = 1;
    while area >= MAX_ENDPOINTS && maps::held(&key).is_some_and(|p| now.saturating_sub(p.seen_ns) < PLACE_KEPT_NS) {
        if tries == PLACES_TRIED {
            return Err(DropReason::Fragment);
        }
        key.place = places.next_held();
        tries += 1;
    }
    let piece = maps::held_scratch()?;
    pkt.copy_to(len_bytes, &mut piece.frame)?;
    piece.serial = d.serial();
    piece.seen_ns = now;
    piece.len_bytes = len_bytes as u32;
    piece.ifindex = pkt.ifindex();
    maps::hold(&key, piece)?;
    let bit = 1 << (key.place & 63);
    d.add_held(bit);
    if !matches!(d.progress(), Progress::Waiting) && d.take_held(bit) != 0 {
        // The first one came by on another CPU meanwhile, and did not find this piece.
        maps::release(&key);
        pkt.clone_to_ingress(pkt.ifindex()).map_err(|_| DropReason::Fragment)?;
    }
    Ok(())
}

/// Sends a first piece and those that waited for it through the ingress of their device. The packet is spent.
#[inline(never)]
pub fn replay<F: FamilyMaps>(pkt: &Packet, area: u32) -> Result<(), DropReason> {
    let d = at_hand::<F>()?;
    let place = maps::area(area)?.oldest_held();
    let held = d.take_held(u64::MAX).rotate_right(place);
    let mut replay = Replay { serial: d.serial(), held, key: HeldKey { area, place }, ifindex: pkt.ifindex() };
    // The queue of packets that come in may be full.
    pkt.clone_to_ingress(replay.ifindex).map_err(|_| DropReason::Fragment)?;
    pkt.repeat(HELD_PER_AREA, &mut replay);
    Ok(())
}

/// Pieces being replayed, a place of the area a step.
struct Replay {
    serial: u64,
    /// Those to come, the next place's bit lowest.
    held: u64,
    key: HeldKey,
    ifindex: u32,
}

impl Replay {
    /// The packet becomes the piece at hand, if that is one of the datagram's.
    #[inline(always)]
    fn take(&self, pkt: &Packet) -> Result<(), DropReason> {
        let is_ours = || {
            maps::held(&self.key)
                .filter(|p| p.serial == self.serial && p.ifindex == self.ifindex)
                .ok_or(DropReason::Fragment)
        };
        let piece = is_ours()?;
        pkt.copy_from(piece.len_bytes as usize, &piece.frame)?;
        // Still the same: then it was while it was copied.
        is_ours()?;
        maps::release(&self.key);
        pkt.clone_to_ingress(self.ifindex)
    }
}

impl Steps for Replay {
    #[inline(always)]
    fn step(&mut self, pkt: &Packet) -> bool {
        if self.held & 1 != 0 {
            // One that gave way to another piece is lost, as if on the wire.
            let _lost = self.take(pkt);
        }
        self.held >>= 1;
        self.key.place = (self.key.place + 1) & (HELD_PER_AREA - 1);
        self.held == 0
    }
}

/// The datagram of the piece [`track`] has just seen.
#[inline(always)]
fn at_hand<F: FamilyMaps>() -> Result<DatagramRef<F>, DropReason> {
    DatagramRef::find(maps::datagram_slot::<F>()?).ok_or(DropReason::Fragment)
}
