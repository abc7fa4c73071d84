//! Nothing leaves a pod with an address we did not assign, nor gets one behind our back.

use netns_ebpf_common::Mac;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::{Address, Family};
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
    if F::is_own_link_local(endpoint, src) {
        return match p.icmp {
            IcmpKind::NeighbourSolicit | IcmpKind::NeighbourAdvert => Ok(()),
            IcmpKind::RouterAdvert | IcmpKind::Redirect => Err(DropReason::RouterAdvertisement),
            // Multicast listener reports and router solicitations of every kernel that brings an interface up.
            _ => Err(DropReason::NeighbourNoise),
        };
    }
    match p.icmp {
        // Duplicate address detection and first listener reports (RFC 4862 section 5.4, RFC 3590).
        IcmpKind::NeighbourSolicit | IcmpKind::RouterSolicit | IcmpKind::Other
            if src.is_unspecified() && matches!(p.l4, L4::Icmp) =>
        {
            Err(DropReason::NeighbourNoise)
        }
        _ => Err(DropReason::SourceAddress),
    }
}

/// A checksum the pod left to the device is the transport's own: the device would write any other over what was judged here.
#[inline(always)]
pub fn checksum<A>(pkt: &Packet, p: &Parsed<A>) -> Result<(), DropReason> {
    match pkt.partial_csum() {
        Some(csum) if !p.leaves_headers_alone(csum) => Err(DropReason::ChecksumOffload),
        _ => Ok(()),
    }
}
