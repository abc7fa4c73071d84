//! A place for a new flow in its pod's account and in the table comes before any entry.
//!
//! Who is at its limit may take the place of one of its own flows that nobody has shown to be in use: ended ones, questions
//! that were answered or never were, handshakes nobody completed, oldest first. Else a client that opens and closes
//! connections quickly, or a flood of SYNs, would shut the pod off for as long as their time runs. Each account has its own
//! queue and its own back-off: what one does costs no other. A flow is in the queue from its opening until somebody finds that it is
//! in use, and again from its end.

use netns_ebpf_common::account;
use netns_ebpf_common::family::Family;
use netns_ebpf_common::opening::Opening;
use netns_ebpf_common::verdict::DropReason;

use super::account_of;
use crate::maps::{self, AccountRef, FamilyMaps, FlowRef, Taken};
use crate::packet::{Packet, Steps, now_ns};
use crate::stage::flow;

/// Flows of the account looked at for one that may go: each is a look-up of memory nobody has used for long.
const PROBES: u32 = 8;

/// Flows of the ring looked at for one whose time is over.
const RING_PROBES: u32 = 4;

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

/// Makes room: one of the account's own flows goes that gives way, or else one of anybody's whose time is over, as nobody may be
/// sweeping.
#[inline(always)]
fn make_room<F: FamilyMaps>(pkt: &Packet, account: AccountRef, o: &mut Opening<<F as Family>::Addr>) -> bool {
    let now = now_ns();
    let mut search = Oldest::<F> { account, o, own: true, found: false };
    if !account.backs_off(now) {
        pkt.repeat(PROBES, &mut search);
        if !search.found {
            account.back_off(now);
        }
    }
    if !search.found && !maps::ring_backs_off::<F>(now) {
        search.own = false;
        pkt.repeat(RING_PROBES, &mut search);
        if !search.found {
            maps::ring_back_off::<F>(now);
        }
    }
    if !search.found {
        return false;
    }
    search.o.replaces = search.own;
    FlowRef::<F>::find(&o.candidate).is_some_and(|flow| flow.remove_both(&o.candidate) > 0)
}

/// A look for a flow that may go, oldest first: of the account, or in the ring of all flows. Its key is left in `candidate`.
struct Oldest<'a, F: FamilyMaps> {
    account: AccountRef,
    o: &'a mut Opening<F::Addr>,
    own: bool,
    found: bool,
}

impl<F: FamilyMaps> Steps for Oldest<'_, F> {
    #[inline(always)]
    fn step(&mut self, _: &Packet) -> bool {
        let key = &mut self.o.candidate;
        let taken = if self.own { self.account.take::<F>(key) } else { maps::pop_opened::<F>(key) };
        match taken {
            Taken::Nothing => return true,
            Taken::Gap => return false,
            Taken::Key => {}
        }
        // A key that leads to a reply, or from an account's queue to another's flow, was one of a flow that is gone.
        let Some(flow) = FlowRef::<F>::find(key) else { return false };
        if !flow.is_original() || self.own && flow.account() != self.o.plan.account() {
            return false;
        }
        if self.own && flow.state().gives_way() || flow::is_expired(flow, key.proto, now_ns()) {
            self.found = true;
            return true;
        }
        // One of the account's own that is in use leaves the queue: it is put back when it ends.
        if !self.own {
            maps::push_opened::<F>(key);
        }
        false
    }
}

/// Puts the new flow into the queues.
///
/// The account's has no more than about twice its flows: where there are more, keys of flows that have gone are among them, and the
/// oldest ones are forgotten, whatever they lead to. One that is forgotten wrongly goes by its time alone.
#[inline(always)]
pub fn queue<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>) {
    let Ok(account) = account_of::<F>(o) else { return };
    maps::push_opened::<F>(&o.flow.key);
    account.queue::<F>(&o.flow.key);
    if account.queue_len() > 2 * account.flows() + 2 * account::QUEUE_PART as u64 {
        let _shrunk = forget::<F>(account, o);
    }
}

/// Forgets two keys: the queue shrinks.
#[inline(never)]
fn forget<F: FamilyMaps>(account: AccountRef, o: &mut Opening<<F as Family>::Addr>) -> bool {
    let first = account.take::<F>(&mut o.candidate);
    let second = account.take::<F>(&mut o.candidate);
    first == Taken::Key && second == Taken::Key
}
