//! A flow that is being opened, as the value the steps of opening hand on.
//!
//! A hook plans it: who sends where ([`Plan`]) and what the opener's tuple becomes. The rest follows: both keys, both entries,
//! where it is counted, how its port is chosen.

use crate::abi::ZONE_HOST;
use crate::account::{Account, Destination};
use crate::family::{Address, addr_hash};
use crate::flow::{FlowEntry, FlowFlags, FlowKey, FlowTuple, Target, narrow};
use crate::hdr::tcp::TcpFields;
use crate::mapping;
use crate::port::{Range, Search};
use crate::proto;
use crate::standing::Yield;
use crate::state::State;
use crate::tcp::Numbers;

/// How a flow gets its source port.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// As it is: nothing is translated.
    Keep = 0,
    /// As it is if nobody has it towards this destination, else another of the range; the client's address stays.
    Prefer = 1,
    /// One of the range, as it is if it is free and may be kept ([`may_keep_port`]): the address is the host's, so its
    /// sockets are asked too.
    HostRange = 2,
    /// The same, of the pool of the opener's network: its next address when one has no port left towards the destination.
    Pool = 3,
    /// That of the opener's mapping, in the range or not; as with [`Self::HostRange`] if another flow has it towards this very
    /// destination.
    Mapped = 4,
}

/// What a new flow is, but for the tuple its packets get.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where the opener's packets go.
    pub target: Target,
    /// Where the replies go.
    pub peer_target: Target,
    /// Slot the flow is accounted to.
    pub owner_slot: u32,
    /// Publish it came in by, or [`FlowEntry::NO_OWNER`].
    pub publish: u32,
    /// Zone of the opener.
    pub zone: u16,
    /// Zone of the other side.
    pub peer_zone: u16,
    /// [`FlowFlags::HAIRPIN`], [`FlowFlags::INCOMING`], and [`FlowFlags::MAPPED`] to have a mapping, or none.
    pub flags: FlowFlags,
    /// [`FlowFlags::HAIRPIN`], and [`FlowFlags::MAPPED`] to be counted in the mapping there is, or none.
    pub peer_flags: FlowFlags,
    /// How the source port is chosen.
    pub ports: Ports,
    /// Padding, zero.
    pub _pad: [u8; 3],
}

impl Plan {
    /// A pod's flow by an uplink, that keeps its source.
    #[inline(always)]
    pub const fn leaving(zone: u16, slot: u32, ifindex: u32) -> Self {
        Self {
            target: Target::uplink(ifindex),
            peer_target: Target::pod(slot),
            owner_slot: slot,
            publish: FlowEntry::<()>::NO_OWNER,
            zone,
            peer_zone: ZONE_HOST,
            flags: FlowFlags::NONE,
            peer_flags: FlowFlags::NONE,
            ports: Ports::Keep,
            _pad: [0; 3],
        }
    }

    /// A flow in by an uplink, to a pod, that is no publish's and keeps its source port.
    #[inline(always)]
    pub const fn arriving(ifindex: u32, slot: u32, network: u16) -> Self {
        Self {
            target: Target::pod(slot),
            peer_target: Target::uplink(ifindex),
            owner_slot: slot,
            publish: FlowEntry::<()>::NO_OWNER,
            zone: ZONE_HOST,
            peer_zone: network,
            flags: FlowFlags::INCOMING,
            peer_flags: FlowFlags::INCOMING,
            ports: Ports::Keep,
            _pad: [0; 3],
        }
    }

    /// A pod's flow to a pod by a published address (RFC 4787 REQ-9a), itself included: it is the sender's, and comes from that
    /// address.
    #[inline(always)]
    pub const fn hairpin(zone: u16, slot: u32, to_slot: u32, to_network: u16, publish: u32) -> Self {
        Self {
            target: Target::pod(to_slot),
            peer_target: Target::pod(slot),
            owner_slot: slot,
            publish,
            zone,
            peer_zone: to_network,
            flags: FlowFlags::NONE,
            peer_flags: FlowFlags::NONE,
            ports: Ports::HostRange,
            _pad: [0; 3],
        }
    }

    /// Where the flow is counted.
    #[inline(always)]
    pub const fn account(&self) -> Account {
        Account { slot: self.owner_slot, incoming: self.flags.has(FlowFlags::INCOMING) }
    }
}

/// The two entries of a flow, or of a mapping, with their keys.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pair<A> {
    /// The opener's direction; of a mapping the inside.
    pub key: FlowKey<A>,
    /// Its entry.
    pub entry: FlowEntry<A>,
    /// The other direction; of a mapping the outside. Its destination is what is claimed.
    pub peer_key: FlowKey<A>,
    /// Its entry.
    pub peer_entry: FlowEntry<A>,
}

impl<A: Address> Pair<A> {
    /// Fills what both entries have alike.
    #[inline(always)]
    fn set_common(&mut self, plan: &Plan, now_ns: u64) {
        let mut i = 0;
        while i < 2 {
            let entry = if i == 0 { &mut self.entry } else { &mut self.peer_entry };
            entry.last_seen_ns = now_ns;
            entry.state = State::Opening as u8;
            entry.owner_slot = narrow(plan.owner_slot);
            entry.publish = narrow(plan.publish);
            // A mapping counts flows here. The other numbers are TCP's alone, which fills them.
            entry.ack = 0;
            entry.seen = 0;
            i += 1;
        }
    }

    /// What was claimed becomes what the opener's packets leave with.
    #[inline(always)]
    pub fn take_claimed(&mut self) {
        self.entry.to.src.set(&self.peer_key.tuple.dst);
        self.entry.to.sport = self.peer_key.tuple.dport;
    }
}

/// A flow being opened. A plain value in memory of the run, filled by one step after the other.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Opening<A> {
    /// What it shall be.
    pub plan: Plan,
    /// The flow. The planner leaves what the opener's tuple becomes in `flow.entry.to`.
    pub flow: Pair<A>,
    /// The mapping that is made for it.
    pub mapping: Pair<A>,
    /// Key of a flow that may have to go.
    pub candidate: FlowKey<A>,
    /// Where that key was.
    pub place: u32,
    /// Key of the one that goes if no other is found.
    pub best: FlowKey<A>,
    /// How readily that gives way.
    pub best_yields: Yield,
    /// The search for its port.
    pub search: Search,
    /// Whose, and towards where.
    pub destination: Destination<A>,
    /// The look for a flow that may go for it.
    pub look: Look,
    /// A flow of the same account has gone to make room for it.
    pub replaces: bool,
}

/// A look for a flow that may go, among the account's own and in the ring of all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Flows the account has, if one of another may go for the new one.
    pub takes_from: u64,
    /// Steps taken.
    pub nth: u32,
    /// One was found that goes.
    pub found: bool,
    /// It is one of the account's.
    pub own: bool,
    /// One of the account that stays was looked at.
    pub in_vain: bool,
    /// The same of the ring.
    pub ring_in_vain: bool,
    /// The account has next to no flows: others' come first.
    pub is_small: bool,
    /// Its own are looked at.
    pub at_own: bool,
    /// The ring is.
    pub at_ring: bool,
}

impl<A: Address> Opening<A> {
    /// Both keys of the flow, and its replies' entry: all but the port that is claimed in [`Pair::peer_key`].
    #[inline(always)]
    pub fn begin(&mut self, proto: u8, tuple: &FlowTuple<A>, now_ns: u64) {
        let (plan, f) = (&self.plan, &mut self.flow);
        f.key.tuple.set(tuple);
        f.key.zone = plan.zone;
        f.key.proto = proto;
        f.key._pad = 0;
        f.peer_key.tuple.set_reverse(&f.entry.to);
        f.peer_key.zone = plan.peer_zone;
        f.peer_key.proto = proto;
        f.peer_key._pad = 0;
        f.peer_entry.to.set_reverse(tuple);
        f.peer_entry.set_target(plan.peer_target);
        f.peer_entry.peer_zone = plan.zone;
        f.peer_entry.flags = plan.peer_flags.with(FlowFlags::TRANSLATED);
        f.entry.set_target(plan.target);
        f.entry.peer_zone = plan.peer_zone;
        f.set_common(plan, now_ns);
    }

    /// What a TCP connection begins with.
    #[inline(always)]
    pub fn begin_tcp(&mut self, syn: &TcpFields) {
        self.flow.entry.set_numbers(&Numbers::opener(syn));
        self.flow.peer_entry.set_numbers(&Numbers::answerer(syn));
    }

    /// The opener's entry, when the port in the replies' key is claimed.
    #[inline(always)]
    pub fn finish(&mut self) {
        let (plan, f) = (&mut self.plan, &mut self.flow);
        let mapped = f.peer_key.tuple.dst == f.entry.to.src && f.peer_key.tuple.dport == f.entry.to.sport;
        if !mapped {
            // Not the mapping's, then.
            plan.flags = plan.flags.without(FlowFlags::MAPPED);
        }
        f.take_claimed();
        f.entry.flags = plan.flags.with(FlowFlags::ORIGINAL);
        // The port of a mapping is counted with that.
        if self.search.counts(f.entry.to.sport.get()) && !(mapped && matches!(plan.ports, Ports::Mapped)) {
            f.entry.flags = f.entry.flags.with(FlowFlags::PORT_COUNTED);
        }
        if f.entry.to != f.key.tuple {
            f.entry.flags = f.entry.flags.with(FlowFlags::TRANSLATED);
        }
    }

    /// The inside entry of a mapping, when its port is claimed.
    #[inline(always)]
    pub fn finish_mapping(&mut self) {
        let m = &mut self.mapping;
        m.take_claimed();
        m.entry.flags = FlowFlags::MAPPING.with(FlowFlags::TRANSLATED).with(self.plan.flags.only(FlowFlags::POOLED));
        if self.search.counts(m.entry.to.sport.get()) {
            m.entry.flags = m.entry.flags.with(FlowFlags::PORT_COUNTED);
        }
    }

    /// Both entries of a mapping for the flow, whose inside key is there: all but the port.
    #[inline(always)]
    pub fn begin_mapping(&mut self, proto: u8, tuple: &FlowTuple<A>, now_ns: u64) {
        let plan = &self.plan;
        let m = &mut self.mapping;
        m.entry.to.dst = A::default();
        m.entry.to.dport = crate::Port::default();
        m.entry.set_target(plan.target);
        m.entry.peer_zone = ZONE_HOST;
        mapping::set_outside_key(&mut m.peer_key, proto, &self.flow.peer_key.tuple);
        m.peer_entry.to.src = A::default();
        m.peer_entry.to.dst.set(&tuple.src);
        m.peer_entry.to.sport = crate::Port::default();
        m.peer_entry.to.dport = tuple.sport;
        m.peer_entry.set_target(Target::pod(plan.owner_slot));
        m.peer_entry.peer_zone = plan.zone;
        m.peer_entry.flags = FlowFlags::MAPPING.with(FlowFlags::TRANSLATED);
        m.set_common(plan, now_ns);
    }

    /// Whose search for a port it is, and towards where.
    #[inline(always)]
    pub fn set_destination(&mut self, for_mapping: bool) {
        let d = &mut self.destination;
        let key = if for_mapping { &self.mapping.peer_key } else { &self.flow.peer_key };
        d.addr.set(&key.tuple.src);
        d.port = key.tuple.sport;
        d.network = self.plan.zone;
        d.proto = key.proto;
        d._pad = [0; 3];
        d.searcher = match self.plan.ports {
            Ports::Prefer => Destination::<A>::client(addr_hash(&key.tuple.dst)),
            _ => self.plan.owner_slot,
        };
    }
}

/// Whether a flow may keep its source port though that lies outside `range`, if it is free.
///
/// What it would take from the host is asked when it is claimed, and the host's TCP connections are told from a pod's by their
/// peer. A host's UDP socket has no peer, so a pod has UDP ports of the range only. SCTP's checksum covers its ports.
#[inline(always)]
pub const fn may_keep_port(proto: u8, port: u16, ports: Ports, range: Range) -> bool {
    match ports {
        Ports::Keep | Ports::Prefer | Ports::Mapped => true,
        Ports::HostRange | Ports::Pool => {
            range.has(port) || proto == proto::SCTP || proto == proto::TCP && port >= FIRST_CLIENT_PORT
        }
    }
}

/// The port a flow leaves with if it is free: its own where that may be kept. Outside `range` only those are kept whose parity the
/// kernel gives to nobody of the host who connects without a port of his own ([`HostConfig::HOST_TAKES_ODD`]); the next one of
/// that parity stands for the others, so a client's port still has one of its own: what a pod has there the host does not take, nor
/// can a pod take from the host all it connects from.
///
/// [`HostConfig::HOST_TAKES_ODD`]: crate::host::HostConfig::HOST_TAKES_ODD
#[inline(always)]
pub const fn preferred_port(proto: u8, port: u16, ports: Ports, range: Range, host_takes_odd: bool) -> u16 {
    let translates = matches!(ports, Ports::HostRange | Ports::Pool);
    if !translates || proto != proto::TCP || range.has(port) || port < FIRST_CLIENT_PORT {
        return port;
    }
    if host_takes_odd { port & !1 } else { port | 1 }
}

/// Lowest port clients are given that ask for none; below it well-known ones are kept for who has them by name (RFC 4787 REQ-3).
const FIRST_CLIENT_PORT: u16 = 1024;

#[cfg(test)]
mod tests;
