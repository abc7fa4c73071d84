//! Finds what is published at an address and port.

use netns_ebpf_common::family::{Address, Family};
use netns_ebpf_common::flow::proto;
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::publish::{Publish, PublishKey, PublishedPort};

use crate::maps::{self, FamilyMaps};

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
    let mut key = PublishKey { addr: p.tuple.dst, port: p.tuple.dport, proto: p.proto, _pad: 0 };
    let port = match maps::published::<F>(&key) {
        Some(port) => port,
        None => {
            key.addr = <F::Addr as Default>::default();
            debug_assert!(key.addr.is_unspecified());
            maps::published::<F>(&key)?
        }
    };
    let publish = maps::publish(port.publish)?;
    Some(Match { id: port.publish, publish, port })
}
