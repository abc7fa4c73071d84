//! Admits new flows: a place in the pod's account and in the table comes before any entry.

use core::marker::PhantomData;

use netns_ebpf_common::account;
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, Account, FamilyMaps, FlowRef};
use crate::packet::{Packet, Steps, now_ns};
use crate::report;
use crate::stage::flow;

/// How many of the oldest flows are looked at for some that may go.
const PROBES: u32 = 64;

/// Takes a place for a new flow, which [`maps::leave`] gives back.
///
/// Whoever is refused looks for flows whose time is over, so that they are absent also where nobody sweeps. A flow from outside
/// may also take the place of an older one of the same account that [`gives_way`]: else a flood of handshakes nobody completes
/// would close a published port for as long as their time runs.
///
/// [`gives_way`]: netns_ebpf_common::flow::State::gives_way
#[inline(never)]
pub fn enter<F: FamilyMaps>(pkt: &Packet, account: Account) -> Result<(), DropReason> {
    match try_enter::<F>(account) {
        Err(_) if make_room::<F>(pkt, account) => try_enter::<F>(account),
        result => result,
    }
}

#[inline(always)]
fn try_enter<F: FamilyMaps>(account: Account) -> Result<(), DropReason> {
    let config = maps::host_config()?;
    let [own, total] = maps::enter::<F>(account)?;
    let admitted = account::may_open(own, total, config.flows, config.flows_per_pod);
    if admitted.is_err() {
        maps::leave::<F>(account);
    }
    admitted
}

/// Most flows whose time is over that one new flow clears away.
const CLEARED: u32 = 8;

/// A look for flows that may go, oldest first.
struct Search<F> {
    account: Account,
    /// How many went.
    found: u32,
    family: PhantomData<F>,
}

impl<F: FamilyMaps> Steps for Search<F> {
    #[inline(always)]
    fn step(&mut self, _: &Packet) -> bool {
        let Ok(key) = maps::candidate::<F>() else { return true };
        if !maps::pop_opened::<F>(key) {
            return true;
        }
        let Some(flow) = FlowRef::<F>::find(key) else { return false };
        let account = flow.account();
        if flow::is_expired(flow, key.proto, now_ns()) {
            self.found += u32::from(flow.remove_both(key) > 0);
            return self.found >= CLEARED;
        }
        if self.found == 0
            && self.account.incoming
            && account.incoming
            && account.slot == self.account.slot
            && flow.state().gives_way(key.proto)
        {
            self.found = 1;
            flow.remove_both(key);
            return true;
        }
        // Alive, or another's: it has its turn later. A key that leads to a reply by now was a flow's that is gone.
        if flow.is_original() {
            maps::push_opened::<F>(key);
        }
        self.found > 0
    }
}

#[inline(always)]
fn make_room<F: FamilyMaps>(pkt: &Packet, account: Account) -> bool {
    if maps::is_in_vain::<F>(account.incoming, now_ns()) {
        return false;
    }
    let mut search = Search::<F> { account, found: 0, family: PhantomData };
    pkt.repeat(PROBES, &mut search);
    if search.found == 0 {
        maps::was_in_vain::<F>(account.incoming, now_ns());
        return false;
    }
    true
}

/// Notes that a flow was refused: by pod, and by destination if it is ports that are wanting.
#[inline(never)]
pub fn refused<F: FamilyMaps>(reason: DropReason) {
    let Ok(s) = maps::opening_flow::<F>() else { return };
    let account = s.plan.account::<F>();
    report::count_refused(account.slot, reason);
    if !account.incoming && reason as u8 == DropReason::PortsExhausted as u8 {
        maps::count_exhausted::<F>(s.set_destination(), now_ns());
    }
}
