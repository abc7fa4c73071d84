//! A place for a new flow in its pod's account and in the table comes before any entry.
//!
//! Who is at its limit may take the place of one of its own flows: which of them, `netns_ebpf_common::standing` says. Else a
//! client that opens and closes connections quickly, or a flood of SYNs or datagrams, would shut the pod off for as long as their
//! time runs. Each account has its own queue and its own back-off: what one does costs no other. A flow is in the queue from its
//! opening on, oldest first. One that is looked at and does not go is put behind the others, but for a connection in use: that is
//! put back when it ends.

use netns_ebpf_common::account;
use netns_ebpf_common::family::Family;
use netns_ebpf_common::flow::FlowKey;
use netns_ebpf_common::opening::{Look, Opening};
use netns_ebpf_common::proto;
use netns_ebpf_common::standing::Yield;
use netns_ebpf_common::verdict::DropReason;

use super::account_of;
use crate::maps::{self, AccountRef, FamilyMaps, FlowRef, Taken};
use crate::packet::{Packet, Steps, now_ns};
use crate::stage::flow;

/// Flows of the account looked at for one that may go: each is a look-up of memory nobody has used for long.
const PROBES: u32 = 5;

/// Flows of the ring looked at for one whose time is over.
const RING_PROBES: u32 = 4;

/// Keys of an account's queue looked at for each flow that is opened.
const OPENED_KEYS: u32 = 3;

/// Keys of an account's queue looked at for each of its flows that is swept.
const SWEPT_KEYS: u32 = 16;

/// Takes a place for the planned flow, which [`maps::leave`] gives back.
#[inline(never)]
pub fn enter<F: FamilyMaps>(pkt: &Packet, o: &mut Opening<<F as Family>::Addr>) -> Result<(), DropReason> {
    let account = account_of::<F>(o)?;
    o.replaces = false;
    match try_enter::<F>(account, o) {
        Err(_) if make_room::<F>(pkt, account, o) => try_enter::<F>(account, o),
        result => result,
    }
}

#[inline(always)]
fn try_enter<F: FamilyMaps>(account: AccountRef, o: &Opening<<F as Family>::Addr>) -> Result<(), DropReason> {
    let config = maps::host_config()?;
    let [own, total] = maps::enter::<F>(account)?;
    let admitted = account::may_open(own, total, config.flows, config.flows_per_pod, o.replaces);
    if admitted.is_err() {
        maps::leave::<F>(o.plan.account());
    }
    admitted
}

/// Makes room: one of the account's own flows goes that gives way, or one of an account that has far more, or else one of anybody's whose
/// time is over, as nobody may be sweeping. An account with few flows looks among the others' first.
///
/// None goes where the new one would be refused all the same, as where the limits have come down.
#[inline(always)]
fn make_room<F: FamilyMaps>(pkt: &Packet, account: AccountRef, o: &mut Opening<<F as Family>::Addr>) -> bool {
    let Ok(config) = maps::host_config() else { return false };
    let (own, total, now) = (account.flows(), maps::total_flows::<F>(), now_ns());
    let room = account::room(own, total, config.flows, config.flows_per_pod);
    o.best_yields = Yield::NEVER;
    o.look = Look { takes_from: room.takes_from, ..Look::default() };
    o.look.is_small = room.is_small;
    o.look.at_own = room.may_replace && !account.backs_off(now);
    o.look.at_ring = room.is_small || !maps::ring_backs_off::<F>(now);
    pkt.repeat(PROBES + RING_PROBES, &mut Oldest::<F> { account, o });
    let takes_best = settle::<F>(account, o);
    if !o.look.found && !takes_best {
        // Keys of flows that have gone are looked at once, whatever comes of it.
        if o.look.in_vain {
            account.back_off(now);
        }
        if o.look.ring_in_vain {
            maps::ring_back_off::<F>(now);
        }
        return false;
    }
    o.replaces |= o.look.own | takes_best;
    FlowRef::<F>::find(&o.candidate).is_some_and(|flow| flow.remove_both(&o.candidate) > 0)
}

/// A look for a flow that may go, oldest first: of the account, and in the ring of all flows. Its key is left in `candidate`.
///
/// What it finds out is left in `o`, not on the stack: the verifier then looks at a step once, and not once for every step before.
struct Oldest<'a, F: FamilyMaps> {
    account: AccountRef,
    o: &'a mut Opening<F::Addr>,
}

impl<F: FamilyMaps> Steps for Oldest<'_, F> {
    #[inline(always)]
    fn step(&mut self, _: &Packet) -> bool {
        let (account, o) = (self.account, &mut *self.o);
        let nth = o.look.nth;
        o.look.nth = nth + 1;
        if if o.look.is_small { nth >= RING_PROBES } else { nth < PROBES } {
            if !o.look.at_own || account.take::<F>(&mut o.candidate, &mut o.place) != Taken::Key {
                return false;
            }
            let weighed = weigh::<F>(account, o);
            o.look.own = weighed == Weighed::Goes;
            o.look.found = weighed == Weighed::Goes;
            o.look.in_vain |= weighed == Weighed::Stays;
        } else {
            if !o.look.at_ring || maps::pop_opened::<F>(&mut o.candidate, &mut o.place) != Taken::Key {
                return false;
            }
            let weighed = weigh_in_ring::<F>(o, o.look.takes_from);
            o.look.found = weighed == Weighed::Goes;
            o.look.ring_in_vain |= weighed == Weighed::Stays;
        }
        o.look.found
    }
}

/// What becomes of a flow that was looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Weighed {
    /// It goes.
    Goes,
    /// It stays, unless no other is found.
    Stays,
    /// It has gone, or is nobody's to take from now on.
    Gone,
}

/// Weighs one of the account's own flows; the best of those that stay is kept at hand, the others are put back.
#[inline(always)]
fn weigh<F: FamilyMaps>(account: AccountRef, o: &mut Opening<<F as Family>::Addr>) -> Weighed {
    let key = &o.candidate;
    let Some(flow) = in_queue::<F>(account, key, o.place) else { return Weighed::Gone };
    let (state, proto) = (flow.state(), key.proto);
    let idle_ns = flow::idle_ns(flow, proto, now_ns());
    let yields = Yield::of(state, proto, o.plan.account().incoming, idle_ns, flow::timeout_ns(state, proto));
    if yields.is_at_once() {
        return Weighed::Goes;
    }
    if yields.is_before(o.best_yields) {
        put_best_behind::<F>(account, o);
        o.best_yields = yields;
        o.best.set(&o.candidate);
    } else if yields.yields() || proto != proto::TCP || state.may_rest() {
        let _noted = flow.queue(account, key);
    } else {
        // It is not looked at again.
        flow.leave_queue(proto);
        return Weighed::Gone;
    }
    Weighed::Stays
}

/// The flow of a key that was taken from a place of the account's queue. One that leads to a reply, to another's flow, or to one whose
/// key is elsewhere was one of a flow that is gone.
#[inline(always)]
fn in_queue<F: FamilyMaps>(account: AccountRef, key: &FlowKey<<F as Family>::Addr>, place: u32) -> Option<FlowRef<F>> {
    FlowRef::<F>::find(key)
        .filter(|flow| flow.is_original() && flow.account() == account.account() && flow.is_queued_at(place))
}

/// Puts the best one of those that were looked at behind the others, if there is one.
#[inline(always)]
fn put_best_behind<F: FamilyMaps>(account: AccountRef, o: &Opening<<F as Family>::Addr>) {
    if o.best_yields.yields()
        && let Some(flow) = FlowRef::<F>::find(&o.best)
    {
        let _noted = flow.queue(account, &o.best);
    }
}

/// Ends the look among the account's own: the best one goes if none went at once, and is put back if one did. Whether it goes.
#[inline(never)]
fn settle<F: FamilyMaps>(account: AccountRef, o: &mut Opening<<F as Family>::Addr>) -> bool {
    if !o.best_yields.yields() {
        return false;
    }
    let found = o.look.found;
    if found {
        put_best_behind::<F>(account, o);
    } else {
        o.candidate.set(&o.best);
    }
    !found
}

/// Weighs a flow of the ring: it goes if its time is over, or for an account with far fewer flows than its own if it gives way at all.
/// It is put back if it does not go.
#[inline(always)]
fn weigh_in_ring<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>, takes_from: u64) -> Weighed {
    let key = &o.candidate;
    let is_there = |flow: &FlowRef<F>| flow.is_original() && flow.is_in_ring_at(o.place);
    let Some(flow) = FlowRef::<F>::find(key).filter(is_there) else { return Weighed::Gone };
    let (now, state, proto) = (now_ns(), flow.state(), key.proto);
    if flow::is_expired(flow, proto, now) {
        return Weighed::Goes;
    }
    let theirs = flow.account();
    let may_take = AccountRef::find::<F>(theirs).is_ok_and(|a| account::may_take_from(takes_from, a.flows()));
    if takes_from < account::NOBODY && (may_take || theirs == o.plan.account()) {
        let idle_ns = flow::idle_ns(flow, proto, now);
        let yields = Yield::of(state, proto, theirs.incoming, idle_ns, flow::timeout_ns(state, proto));
        // Of its own only one that would have gone at once.
        if yields.is_at_once() || may_take && yields.yields() {
            o.replaces = true;
            return Weighed::Goes;
        }
    }
    let _noted = flow.put_into_ring(&o.candidate);
    Weighed::Stays
}

/// Puts the new flow into the queues, and tidies both.
#[inline(always)]
pub fn queue<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>) {
    let Ok(account) = account_of::<F>(o) else { return };
    if let Some(flow) = FlowRef::<F>::find(&o.flow.key) {
        let _noted = flow.put_into_ring(&o.flow.key);
        let _noted = flow.queue(account, &o.flow.key);
    }
    let _shrunk = tidy::<F>(account, o);
    // One comes in: two are looked at, as half of what is in it may be flows that stay.
    if maps::ring_is_crowded::<F>() {
        let _swept = sweep_ring::<F>(o);
        let _swept = sweep_ring::<F>(o);
    }
}

/// Looks at some of the oldest keys of an account that has many more of them than flows: those of flows that have gone are dropped.
/// The queues of all accounts share their memory, and none keeps what it once had.
#[inline(never)]
fn tidy<F: FamilyMaps>(account: AccountRef, o: &mut Opening<<F as Family>::Addr>) -> bool {
    let mut left = OPENED_KEYS;
    while left != 0 && tidy_one::<F>(account, o) {
        left -= 1;
    }
    left == 0
}

/// The same where a flow was swept: whose flows go by themselves opens none that would do it.
#[inline(never)]
pub fn tidy_swept<F: FamilyMaps>(pkt: &Packet, account: AccountRef, o: &mut Opening<<F as Family>::Addr>) -> bool {
    pkt.repeat(SWEPT_KEYS, &mut Tidy::<F> { account, o });
    true
}

struct Tidy<'a, F: FamilyMaps> {
    account: AccountRef,
    o: &'a mut Opening<F::Addr>,
}

impl<F: FamilyMaps> Steps for Tidy<'_, F> {
    #[inline(always)]
    fn step(&mut self, _: &Packet) -> bool {
        !tidy_one::<F>(self.account, self.o)
    }
}

/// One key of those; `false`: there are not too many.
#[inline(always)]
fn tidy_one<F: FamilyMaps>(account: AccountRef, o: &mut Opening<<F as Family>::Addr>) -> bool {
    if !account::is_crowded(account.queue_len(), account.flows())
        || account.take::<F>(&mut o.best, &mut o.place) != Taken::Key
    {
        return false;
    }
    if let Some(flow) = in_queue::<F>(account, &o.best, o.place) {
        let _noted = flow.queue(account, &o.best);
    }
    true
}

/// Looks at the oldest flow of the ring of all: one whose time is over goes, one that has gone is forgotten.
///
/// So the ring has all flows there are, as long as there are no more than it has places, and a host on which nobody sweeps
/// keeps no flow for good.
#[inline(never)]
fn sweep_ring<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>) -> bool {
    if maps::pop_opened::<F>(&mut o.candidate, &mut o.place) != Taken::Key
        || weigh_in_ring::<F>(o, account::NOBODY) != Weighed::Goes
    {
        return false;
    }
    FlowRef::<F>::find(&o.candidate).is_some_and(|flow| flow.remove_both(&o.candidate) > 0)
}
