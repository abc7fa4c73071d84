//! Nothing leaves a pod with an address we did not assign, nor gets one behind our back.

use netns_ebpf_common::Mac;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::{Address, Family, Scope};
use netns_ebpf_common::parse::{IcmpKind, L4, Parsed};
use netns_ebpf_common::verdict::DropReason;

use crate::packet::Packet;

/// The frame's source MAC is the pod's.
#[inline(always)]
pub fn mac(endpoint: &Endpoint, src: Mac) -> Result<(), DropReason> {
    if src == endpoint.mac { Ok(()) } else { Err(DropReason::SourceMac) }
}

/// The packet's source is the pod's address; its link-local one only for neighbour discovery, `::` not even there.
#[inline(always)]
pub fn address<F: Family>(endpoint: &Endpoint, p: &Parsed<F::Addr>) -> Result<(), DropReason> {
    let src = p.tuple.src;
    if src == *F::endpoint_addr(endpoint) && !src.is_unspecified() {
        return Ok(());
    }
    let own_link_local = F::is_own_link_local(endpoint, src);
    if !own_link_local && !src.is_unspecified() {
        return Err(DropReason::SourceAddress);
    }
    match (p.l4, p.icmp) {
        (L4::Icmp, IcmpKind::NeighbourSolicit | IcmpKind::NeighbourAdvert) if own_link_local => Ok(()),
        (L4::Icmp, IcmpKind::RouterAdvert | IcmpKind::Redirect) if own_link_local => {
            Err(DropReason::RouterAdvertisement)
        }
        // Of every kernel that brings an interface up; from `::` duplicate address detection (RFC 4862 section 5.4).
        (L4::Icmp, IcmpKind::NeighbourSolicit | IcmpKind::RouterSolicit) => Err(DropReason::NeighbourNoise),
        // So are multicast listener reports, from `::` at first (RFC 3590).
        (L4::Icmp, IcmpKind::Other) if matches!(F::scope(&p.tuple.dst), Scope::Multicast) => Err(DropReason::Multicast),
        _ if own_link_local && matches!(F::scope(&p.tuple.dst), Scope::Multicast) => Err(DropReason::Multicast),
        _ => Err(DropReason::SourceAddress),
    }
}

/// A checksum the pod left to the device is the transport's own: the device would write any other over what was judged here.
///
/// Out of line: the verifier then forgets which of the ways out it took.
#[inline(never)]
pub fn checksum<A>(pkt: &Packet, p: &Parsed<A>) -> Result<(), DropReason> {
    match pkt.partial_csum() {
        Some(csum) if !p.leaves_headers_alone(csum) => Err(DropReason::ChecksumOffload),
        _ => Ok(()),
    }
}
