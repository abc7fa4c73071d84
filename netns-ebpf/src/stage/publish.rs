//! Finds what is published at an address and port.

use netns_ebpf_common::Port;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::{Address, Family, addr_hash};
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::proto;
use netns_ebpf_common::publish::{Publish, PublishKey, PublishedPort};
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps};
use crate::packet;
use crate::stage::flow;

/// A publish that matches a packet.
pub struct Match {
    /// Index of the declaration.
    pub id: u32,
    /// The declaration.
    pub publish: &'static Publish,
    /// The host port's entry.
    pub port: PublishedPort,
}

/// The publish at the packet's destination: its exact address first, then any address of the host.
///
/// The caller has seen that the destination is the host's own, so a forward never catches traffic to somebody else.
#[inline(always)]
pub fn find<F: FamilyMaps>(p: &Parsed<<F as Family>::Addr>) -> Option<Match> {
    if !matches!(p.proto, proto::TCP | proto::UDP | proto::SCTP) {
        return None;
    }
    at::<F>(&mut PublishKey { addr: p.tuple.dst, port: p.tuple.dport, proto: p.proto, _pad: 0 })
}

/// The publish at an address and port of the host: this exact address first, then any address, which is left in the key.
#[inline(always)]
pub fn at<F: FamilyMaps>(key: &mut PublishKey<<F as Family>::Addr>) -> Option<Match> {
    let port = entry::<F>(key)?;
    let publish = maps::publish(port.publish)?;
    Some(Match { id: port.publish, publish, port })
}

/// What is published at a port of one of the host's addresses.
#[inline(always)]
pub fn port<F: FamilyMaps>(proto: u8, addr: <F as Family>::Addr, port: Port) -> Option<PublishedPort> {
    entry::<F>(&mut PublishKey { addr, port, proto, _pad: 0 })
}

#[inline(always)]
fn entry<F: FamilyMaps>(key: &mut PublishKey<<F as Family>::Addr>) -> Option<PublishedPort> {
    if let Some(exact) = maps::published::<F>(key) {
        return Some(exact);
    }
    key.addr = <F::Addr as Default>::default();
    debug_assert!(key.addr.is_unspecified());
    maps::published::<F>(key)
}

/// Whether a client may come in by a publish: judged on its address before any translation.
///
/// Out of line: the key of the look-up lies on the stack.
#[inline(never)]
fn is_allowed<F: FamilyMaps>(id: u32, client: &<F as Family>::Addr) -> bool {
    maps::is_allowed::<F>(id, *client)
}

impl Match {
    /// Whether this client may come in.
    #[inline(always)]
    pub fn admits<F: FamilyMaps>(&self, client: &<F as Family>::Addr) -> bool {
        self.publish.flags & Publish::RESTRICTED == 0 || is_allowed::<F>(self.id, client)
    }

    /// Slot of the backend for a new flow of a client: what its address picks, if the publish asks for that, else what
    /// `spread` does.
    #[inline(always)]
    pub fn slot<F: Family>(&self, client: &F::Addr, spread: impl FnOnce() -> u32) -> u32 {
        let flags = self.publish.flags;
        if flags & Publish::SEVERAL == 0 {
            return self.publish.slot;
        }
        let hash = if flags & Publish::STICKY != 0 { addr_hash(client) } else { spread() };
        maps::backend_slot(self.id, hash).unwrap_or(self.publish.slot)
    }
}

/// Where a new flow goes.
pub struct Backend {
    /// The pod's slot.
    pub slot: u32,
    /// The live pod in it.
    pub endpoint: &'static Endpoint,
}

/// The pod a new flow of this packet goes to.
#[inline(always)]
pub fn backend<F: FamilyMaps>(p: &Parsed<<F as Family>::Addr>, found: &Match) -> Result<Backend, DropReason> {
    if !found.admits::<F>(&p.tuple.src) {
        return Err(DropReason::NotAllowed);
    }
    if found.publish.flags & Publish::ACTIVE == 0 {
        return Err(DropReason::Draining);
    }
    if !flow::may_open(p) {
        return Err(DropReason::NoFlow);
    }
    let slot = found.slot::<F>(&p.tuple.src, packet::random);
    let endpoint = maps::endpoint(slot).ok_or(DropReason::BackendGone)?;
    if F::endpoint_addr(endpoint).is_unspecified() {
        return Err(DropReason::BackendGone);
    }
    Ok(Backend { slot, endpoint })
}
