//! Opening a flow: the one place where it is judged whether there shall be one, and where it gets its port.
//!
//! A hook plans the flow in an [`Opening`] and hands that on. The steps: a place in the account of its pod ([`admission`]), a
//! mapping if its network has them ([`mapping`]), a source port ([`claim`]), both entries.

pub mod admission;
pub mod border;
mod claim;
mod mapping;

use netns_ebpf_common::family::Family;
use netns_ebpf_common::flow::{FlowEntry, FlowFlags};
use netns_ebpf_common::opening::Opening;
use netns_ebpf_common::parse::{L4, Parsed};
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, AccountRef, FamilyMaps, FlowRef, InsertError};
use crate::packet::{Packet, now_ns};
use crate::report;

/// Opens the flow that is planned in `o`, and returns the opener's entry: its own, or the one another CPU made in its place. One
/// that `LEAVES` for the LAN gets a mapping before, if it is to have one.
///
/// # Errors
///
/// There is no place for it, no port or no memory; that is counted.
#[inline(always)]
pub fn open<F: FamilyMaps, const LEAVES: bool>(
    pkt: &Packet,
    p: &Parsed<<F as Family>::Addr>,
    o: &mut Opening<<F as Family>::Addr>,
) -> Result<FlowRef<F>, DropReason> {
    match admit::<F, LEAVES>(pkt, p, o) {
        Ok(()) => FlowRef::find(&o.flow.key).ok_or(DropReason::Internal),
        Err(reason) => {
            report::count_refused(o.plan.owner_slot, reason);
            Err(reason)
        }
    }
}

/// The steps follow each other in one frame: each is out of line, and none calls the next.
#[inline(always)]
fn admit<F: FamilyMaps, const LEAVES: bool>(
    pkt: &Packet,
    p: &Parsed<<F as Family>::Addr>,
    o: &mut Opening<<F as Family>::Addr>,
) -> Result<(), DropReason> {
    // 1. A place in the pod's account is taken.
    admission::enter::<F>(pkt, o)?;
    let made = make::<F, LEAVES>(pkt, p, o);
    if made.is_err() {
        maps::leave::<F>(o.plan.account());
        return made;
    }
    // 5. The flow joins its account's queue. The oldest of that may have to go.
    admission::queue::<F>(o);
    Ok(())
}

#[inline(always)]
fn make<F: FamilyMaps, const LEAVES: bool>(
    pkt: &Packet,
    p: &Parsed<<F as Family>::Addr>,
    o: &mut Opening<<F as Family>::Addr>,
) -> Result<(), DropReason> {
    // 2. The pod's mapping is found or made, if its network has them.
    if LEAVES && o.plan.flags.has(FlowFlags::MAPPED) && !mapping::find_own::<F>(p, o) {
        mapping::begin::<F>(p, o);
        claim::claim::<F>(pkt, o, true)?;
        mapping::finish::<F>(o)?;
    }
    begin::<F>(p, o);

    // 3. A port is claimed with the replies' entry.
    claim::claim::<F>(pkt, o, false)?;

    // 4. The opener's entry follows.
    finish::<F>(o)
}

/// Fills both entries of the flow, but for the port.
#[inline(never)]
fn begin<F: FamilyMaps>(p: &Parsed<<F as Family>::Addr>, o: &mut Opening<<F as Family>::Addr>) {
    o.begin(p.proto, &p.tuple, now_ns());
    if let L4::Tcp = p.l4 {
        o.begin_tcp(&p.tcp);
        take_over_former::<F>(o);
    }
}

/// Inserts the opener's entry. The reply's has claimed the port: if this one cannot follow, the claim is taken back, so the two come
/// together or not at all. If another CPU opened the same flow meanwhile, its entry is the one used.
#[inline(never)]
fn finish<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>) -> Result<(), DropReason> {
    o.finish();
    match FlowRef::<F>::insert(&o.flow.key, &o.flow.entry) {
        Ok(()) => {}
        Err(InsertError::Exists) => {
            FlowRef::<F>::remove(&o.flow.peer_key);
            maps::leave::<F>(o.plan.account());
            return Ok(());
        }
        Err(InsertError::Full) => {
            FlowRef::<F>::remove(&o.flow.peer_key);
            return Err(DropReason::FlowTableFull);
        }
    }
    if o.flow.entry.flags.has(FlowFlags::PORT_COUNTED) {
        claim::count::<F>(o, false);
    }
    if o.plan.flags.has(FlowFlags::MAPPED) {
        maps::enter_mapping::<F>(&o.flow.key);
    }
    if o.plan.peer_flags.has(FlowFlags::MAPPED) {
        maps::enter_mapping::<F>(&o.flow.peer_key);
    }
    if o.plan.publish != FlowEntry::<F::Addr>::NO_OWNER {
        maps::count_flow(o.plan.publish);
    }
    Ok(())
}

/// A connection between the same ends that has ended makes room, now that the new one is admitted, and leaves it its port: the
/// far end may wait for stragglers of the old one, and knows a newer one of the same ends by its numbers (RFC 6191, RFC 1122
/// section 4.2.2.13).
#[inline(always)]
fn take_over_former<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>) {
    let Some(former) = FlowRef::<F>::find(&o.flow.key) else { return };
    if !former.state().is_ended() {
        return;
    }
    let to = former.to();
    if to.src == o.flow.entry.to.src && to.dst == o.flow.entry.to.dst {
        o.flow.peer_key.tuple.dport = to.sport;
    }
    former.remove_both(&o.flow.key);
}

/// Account of the planned flow.
#[inline(always)]
fn account_of<F: FamilyMaps>(o: &Opening<<F as Family>::Addr>) -> Result<AccountRef, DropReason> {
    AccountRef::find::<F>(o.plan.account())
}
