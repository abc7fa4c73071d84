//! Chooses the source port of a flow or mapping and claims it, in one step, by inserting the reply's entry.
//!
//! The flow's own port first. If that is not to be had, at most [`MOST_TRIED`](netns_ebpf_common::port::MOST_TRIED) others, whatever the range, the pool or anybody's
//! flows: the next packet goes on where this one stopped, so the last free port is found by one of [`Range::searches`], for each
//! address of a pool. Where none is free, the one goes that has rested longest of those that yield.

use netns_ebpf_common::Port;
use netns_ebpf_common::family::{Address, Family};
use netns_ebpf_common::flow::{FlowFlags, FlowKey};
use netns_ebpf_common::host::HostConfig;
use netns_ebpf_common::opening::{Opening, Pair, Ports, may_keep_port, preferred_port};
use netns_ebpf_common::port::share::{UseIndex, is_newcomer, may_have, may_take_over};
use netns_ebpf_common::port::{ASKING_COSTS, MOST_STEPS, Range};
use netns_ebpf_common::proto;
use netns_ebpf_common::state::{State, UNANSWERED_NS};
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps, FlowRef, InsertError};
use crate::packet::{Packet, Steps, now_ns, random};
use crate::stage::{flow, mapping, publish};

/// What became of a candidate.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Outcome {
    /// It is another's.
    Taken,
    /// It is claimed.
    Claimed,
    /// The table has no room.
    Full,
}

/// Claims the port in the replies' key of the flow, or of the mapping that is made for it; both are filled but for that.
///
/// # Errors
///
/// [`DropReason::PortsExhausted`], also for a while after a search in vain; [`DropReason::FlowTableFull`].
#[inline(never)]
pub fn claim<F: FamilyMaps>(
    pkt: &Packet,
    o: &mut Opening<<F as Family>::Addr>,
    for_mapping: bool,
) -> Result<(), DropReason> {
    let config = maps::host_config()?;
    let all = Range { min: config.snat_port_min, max: config.snat_port_max };
    let range = if for_mapping { all.of_mappings() } else { all };
    let ports = o.plan.ports;
    let key = &pair(o, for_mapping).peer_key;
    let (own, proto) = (key.tuple.dport.get(), key.proto);
    let own = preferred_port(proto, own, ports, range, config.flags & HostConfig::HOST_TAKES_ODD != 0);
    let translates = !matches!(ports, Ports::Keep | Ports::Prefer);
    // A mapping's port is everybody's to send to: it is one of the range in any case.
    let try_own = if for_mapping { range.has(own) } else { may_keep_port(proto, own, ports, range) };
    o.search.reset(range, own, try_own, translates);
    o.search.counts = all;
    o.set_destination(for_mapping);
    if translates {
        let _noted = share::<F>(o);
    }
    // 1. Its own, and if that is another's, others.
    let mut candidates = Candidates::<F> { o, for_mapping, outcome: Outcome::Taken };
    pkt.repeat(MOST_STEPS, &mut candidates);
    let mut outcome = candidates.outcome;
    // 2. The one that has rested longest.
    if outcome == Outcome::Taken && o.search.take_best() {
        outcome = take_best::<F>(o, for_mapping);
    }
    if o.search.searches() {
        let found = outcome == Outcome::Claimed;
        maps::end_search::<F>(&o.destination, &o.search, found, now_ns());
    }
    match outcome {
        Outcome::Claimed => Ok(()),
        Outcome::Full => Err(DropReason::FlowTableFull),
        Outcome::Taken => {
            maps::count_exhausted::<F>(&o.destination);
            Err(DropReason::PortsExhausted)
        }
    }
}

/// Takes the port that its flow yields, unless another CPU has taken it since: then a flow of now has it.
#[inline(always)]
fn take_best<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>, for_mapping: bool) -> Outcome {
    set_address::<F>(o, for_mapping);
    let port = Port::new(o.search.best_port);
    let pair = pair(o, for_mapping);
    pair.peer_key.tuple.dport = port;
    if !look::<F>(o, for_mapping) || !o.search.still_yields() {
        return Outcome::Taken;
    }
    let pair = self::pair(o, for_mapping);
    if let Some(there) = FlowRef::<F>::find(&pair.peer_key) {
        there.remove_both(&pair.peer_key);
    }
    insert::<F>(pair)
}

/// The search, a candidate a step.
///
/// What one part finds out for the next it leaves in `o`, not in registers: the verifier then looks at each part once, and not once for
/// every way through those before.
struct Candidates<'a, F: FamilyMaps> {
    o: &'a mut Opening<F::Addr>,
    for_mapping: bool,
    outcome: Outcome,
}

impl<F: FamilyMaps> Steps for Candidates<'_, F> {
    #[inline(always)]
    fn step(&mut self, pkt: &Packet) -> bool {
        let (o, for_mapping) = (&mut *self.o, self.for_mapping);
        // 1. The next candidate, if there is another.
        if !choose::<F>(o, for_mapping) {
            return true;
        }
        if !o.search.has_port() {
            return false;
        }
        // 2. Whether a flow is in its way.
        if !look::<F>(o, for_mapping) || o.search.is_no_better() {
            return false;
        }
        // 3. Whether it is somebody else's all the same.
        if o.search.asks() {
            let _spent = o.search.pay(ASKING_COSTS - 1);
            if is_somebodys::<F>(pkt, o, for_mapping) {
                return false;
            }
        }
        // 4. It is claimed, or noted as one that could be.
        if o.search.note_yielding() {
            return o.search.has_rested(now_ns());
        }
        self.outcome = insert::<F>(pair(o, for_mapping));
        self.outcome != Outcome::Taken
    }
}

/// Leaves the next candidate in the key, of the next address if this one has no more; `false`: there are no more in this packet.
#[inline(never)]
fn choose<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>, for_mapping: bool) -> bool {
    if !o.search.tries_own() {
        // Without translation there is nothing to tell two flows with one tuple apart by. SCTP's checksum covers its ports.
        if matches!(o.plan.ports, Ports::Keep) || o.destination.proto == proto::SCTP {
            return false;
        }
        if !o.search.searches() && !begin::<F>(o, for_mapping) {
            return false;
        }
        if !o.search.choose_next() || o.search.has_port() && !o.search.pay(1) {
            return false;
        }
    }
    if o.search.take_address() {
        set_address::<F>(o, for_mapping);
    }
    pair(o, for_mapping).peer_key.tuple.dport = Port::new(o.search.port());
    true
}

/// Begins to search where the last one has stopped; `false`: one has just been in vain.
#[inline(always)]
fn begin<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>, for_mapping: bool) -> bool {
    let Some((cursors, vain)) = maps::begin_search::<F>(&o.destination, now_ns()) else { return false };
    let addrs = match o.plan.ports {
        Ports::Pool => maps::snat_pool::<F>(u32::from(o.plan.zone)).map_or(1, |pool| pool.count),
        _ => 1,
    };
    let _narrowed = (!for_mapping && vain & 1 == 0).then(|| leave_mappings_out::<F>(o));
    o.search.begin(cursors, random(), addrs, vain);
    true
}

/// Where there are mappings, the part of the range they cannot have is looked through first, and every other time.
#[inline(never)]
fn leave_mappings_out<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>) -> bool {
    let has_mappings = maps::has_mappings();
    if has_mappings {
        o.search.range = o.search.range.without_mappings();
    }
    has_mappings
}

/// Goes on with the pool's address the search is at.
#[inline(always)]
fn set_address<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>, for_mapping: bool) {
    let at = o.plan.owner_slot.wrapping_add(o.search.addr());
    if matches!(o.plan.ports, Ports::Pool)
        && let Some(pool) = maps::snat_pool::<F>(u32::from(o.plan.zone))
        && let Some(addr) = pool.addr(at)
    {
        pair(o, for_mapping).peer_key.tuple.dst.set(&addr);
    }
}

/// Asks what the pod has of the ports towards the destination, and whether it may have another.
#[inline(never)]
fn share<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>) -> bool {
    let pool = if o.plan.flags.has(FlowFlags::POOLED) { o.plan.zone } else { 0 };
    let addrs = match maps::snat_pool::<F>(u32::from(o.plan.zone)) {
        Some(pool) if o.plan.flags.has(FlowFlags::POOLED) => pool.count,
        _ => 1,
    };
    let d = &o.destination;
    o.search.counted_in = UseIndex::new(maps::seed(), pool, &d.addr, d.port, d.proto, o.plan.owner_slot);
    let (own, used) = maps::ports_in_use(&o.search.counted_in);
    o.search.is_newcomer = is_newcomer(own, used);
    o.search.may_take_over = may_take_over(own, used);
    o.search.may_have_more = may_have(own, used, o.search.range.count().wrapping_mul(addrs));
    o.search.may_have_more
}

/// Counts the port that was claimed.
#[inline(always)]
pub fn count<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>, for_mapping: bool) {
    let index = o.search.counted_in;
    let key = &pair(o, for_mapping).peer_key;
    maps::count_port(&index, key.proto, key.tuple.dport, 1);
}

/// Whether no flow is in the candidate's way, or one that would yield to a new one; which of them is left in the search.
#[inline(never)]
fn look<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>, for_mapping: bool) -> bool {
    let slot = o.plan.owner_slot;
    let key = &pair(o, for_mapping).peer_key;
    let Some(there) = FlowRef::<F>::find(key) else {
        o.search.set_free();
        return o.search.may_take();
    };
    let key = &pair(o, for_mapping).peer_key;
    let now = now_ns();
    // One whose time is over counts as absent, whatever the shares are.
    if flow::is_over(there, key.proto, now) {
        o.search.set_yielding(0);
        return true;
    }
    let (flags, state) = (there.flags(), there.state());
    // One that was not answered is in use while its opener sends, whose entry is never the older one: it is looked for only where
    // it matters. Without it another CPU is about to insert it.
    let mut seen_ns = there.last_seen_ns();
    let may_yield = o.search.may_be_best(seen_ns) && now.saturating_sub(seen_ns) >= UNANSWERED_NS;
    let key = &pair(o, for_mapping).peer_key;
    if matches!(state, State::Opening | State::Answered) && may_yield {
        seen_ns = there.peer(key.proto).unwrap_or(there).last_seen_ns();
    }
    if flags.has(FlowFlags::ORIGINAL) || flags.has(FlowFlags::MAPPING) {
        return false;
    }
    let (idle_ns, proto) = (now.saturating_sub(seen_ns), key.proto);
    let is_own = there.owner_slot() == slot && !flags.has(FlowFlags::INCOMING);
    if state.yields_port(proto, key.tuple.sport.get(), flags.has(FlowFlags::INCOMING), idle_ns) {
        o.search.set_yielding(seen_ns);
    } else if is_own || o.search.is_newcomer {
        // One side may be all that is in use. Without the other another CPU is about to insert it.
        let seen_ns = seen_ns.max(there.peer(proto).map_or(now, FlowRef::last_seen_ns));
        let idle_ns = now.saturating_sub(seen_ns);
        let to_newcomer = o.search.is_newcomer && state.yields_to_newcomer(proto, idle_ns);
        let to_own = is_own && state.yields_to_own(proto, idle_ns);
        if !to_newcomer && !to_own {
            return false;
        }
        o.search.set_reluctant(seen_ns);
    } else {
        return false;
    }
    o.search.may_take_over || there.owner_slot() == slot || o.search.may_take()
}

#[inline(always)]
fn insert<F: FamilyMaps>(pair: &Pair<<F as Family>::Addr>) -> Outcome {
    match FlowRef::<F>::insert(&pair.peer_key, &pair.peer_entry) {
        Ok(()) => Outcome::Claimed,
        Err(InsertError::Exists) => Outcome::Taken,
        Err(InsertError::Full) => Outcome::Full,
    }
}

/// Whether a candidate is to be left to somebody else.
#[inline(never)]
fn is_somebodys<F: FamilyMaps>(pkt: &Packet, o: &mut Opening<<F as Family>::Addr>, for_mapping: bool) -> bool {
    if for_mapping {
        let (m, f) = (&o.mapping, &mut o.flow);
        return is_taken_towards_destination::<F>(&m.peer_key, &mut f.peer_key) || host_has::<F>(pkt, &m.peer_key);
    }
    let key = &o.flow.peer_key;
    // The port of the flow's own mapping is no other's; towards this destination the host may have it all the same.
    let is_mapped = matches!(o.plan.ports, Ports::Mapped) && !o.search.searches();
    !is_mapped && maps::has_mappings() && mapping::at::<F>(key.proto, &key.tuple).is_some() || host_has::<F>(pkt, key)
}

/// Whether the planned flow could not have the port that the mapping's outside `key` has: another flow has it towards this very
/// destination.
#[inline(always)]
fn is_taken_towards_destination<F: FamilyMaps>(
    key: &FlowKey<<F as Family>::Addr>,
    flow_key: &mut FlowKey<<F as Family>::Addr>,
) -> bool {
    flow_key.tuple.dst.set(&key.tuple.dst);
    flow_key.tuple.dport = key.tuple.dport;
    FlowRef::<F>::find(flow_key).is_some_and(|there| !flow::is_over(there, flow_key.proto, now_ns()))
}

/// Whether the replies would be somebody's already: of a published port, of a socket of the host that listens on the port or
/// is connected from it to that peer, or of another NAT of the host.
///
/// This is what keeps a pod from taking a port from others ("port shadow").
#[inline(always)]
fn host_has<F: FamilyMaps>(pkt: &Packet, reply: &FlowKey<<F as Family>::Addr>) -> bool {
    if publish::port::<F>(reply.proto, reply.tuple.dst, reply.tuple.dport).is_some() {
        return true;
    }
    // The kernel has no look-up for SCTP's, and none for ICMP's.
    if !matches!(reply.proto, proto::TCP | proto::UDP) {
        return false;
    }
    pkt.host_socket(reply.proto == proto::TCP, &reply.tuple) || pkt.host_conntrack(reply.proto, &reply.tuple)
}

#[inline(always)]
fn pair<A>(o: &mut Opening<A>, for_mapping: bool) -> &mut Pair<A> {
    if for_mapping { &mut o.mapping } else { &mut o.flow }
}
