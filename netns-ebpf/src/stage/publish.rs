//! Finds what is published at an address and port.

use netns_ebpf_common::Port;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::{Address, Family};
use netns_ebpf_common::flow::proto;
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::publish::{Publish, PublishKey, PublishedPort};
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps};
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
    if p.proto != proto::TCP && p.proto != proto::UDP {
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

/// The live endpoint a new flow of this packet goes to.
#[inline(always)]
pub fn backend<F: Family>(p: &Parsed<F::Addr>, found: &Match) -> Result<&'static Endpoint, DropReason> {
    if found.publish.flags & Publish::ACTIVE == 0 {
        return Err(DropReason::Draining);
    }
    if !flow::may_open(p) {
        return Err(DropReason::NoFlow);
    }
    let endpoint = maps::endpoint(found.publish.slot).ok_or(DropReason::BackendGone)?;
    if F::endpoint_addr(endpoint).is_unspecified() {
        return Err(DropReason::BackendGone);
    }
    Ok(endpoint)
}
