//! Answers neighbour solicitations with the gateway's MAC, as `arp_reply` does for IPv4.

use netns_ebpf_common::csum::Sum;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::{Address, V6};
use netns_ebpf_common::flow::proto;
use netns_ebpf_common::hdr::Frame;
use netns_ebpf_common::hdr::icmp::{IcmpHdr, LinkLayerOption, NeighbourMsg, v6};
use netns_ebpf_common::hdr::ipv6::{HOP_LIMIT_OFF, IPV6_LEN, Ipv6Hdr};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::parse::{IcmpKind, Parsed};
use netns_ebpf_common::verdict::{DropReason, Verdict};
use netns_ebpf_common::{Addr6, Mac};

use crate::maps;
use crate::packet::Packet;
use crate::rewrite::{self, L3_OFF};

const MSG_OFF: usize = L3_OFF + IPV6_LEN;
const OPTION_OFF: usize = MSG_OFF + size_of::<NeighbourMsg>();
/// An advertisement with its one option.
const ADVERT_BYTES: usize = size_of::<NeighbourMsg>() + size_of::<LinkLayerOption>();
/// Solicited and override (RFC 4861 section 4.4).
const FLAGS: u8 = 0x60;

/// What a neighbour-discovery message of a pod becomes.
#[inline(never)]
pub fn run(
    pkt: &mut Packet,
    endpoint: &Endpoint,
    network: &Network,
    p: &Parsed<Addr6>,
    kind: IcmpKind,
) -> Result<Verdict, DropReason> {
    match kind {
        IcmpKind::NeighbourSolicit => solicitation(pkt, endpoint, network, p),
        // An answer to the host's solicitation would be the only honest one, and the host never asks.
        IcmpKind::NeighbourAdvert => Err(DropReason::NdpSpoof),
        IcmpKind::RouterAdvert | IcmpKind::Redirect => Err(DropReason::RouterAdvertisement),
        _ => Err(DropReason::NeighbourNoise),
    }
}

#[inline(always)]
fn solicitation(
    pkt: &mut Packet,
    endpoint: &Endpoint,
    network: &Network,
    p: &Parsed<Addr6>,
) -> Result<Verdict, DropReason> {
    // RFC 4861 section 7.1.1: a hop limit of 255 proves the sender is on the link.
    if p.hop_limit != 255 || p.l4_off != MSG_OFF {
        return Err(DropReason::Malformed);
    }
    let msg: NeighbourMsg = pkt.read(MSG_OFF).ok_or(DropReason::Malformed)?;
    let target = Addr6(msg.target);
    // The sender's kernel learns nothing wrong from us, but a lie is a lie: the option must name the pod.
    if let Some(option) = pkt.read::<LinkLayerOption>(OPTION_OFF)
        && option.kind == LinkLayerOption::SOURCE
        && option.mac != endpoint.mac
    {
        return Err(DropReason::NdpSpoof);
    }
    let is_gateway =
        (target == network.gateway6 && !target.is_unspecified()) || target == Addr6::link_local(network.mac);
    if !is_gateway && maps::slot_by_addr::<V6>(endpoint.network, target).is_none() {
        return Err(DropReason::UnknownNeighbour);
    }
    if target == p.tuple.src {
        return Err(DropReason::NdpSpoof);
    }
    advertise(pkt, endpoint, network, p.tuple.src, target)
}

/// Replaces the packet by an advertisement of `target` at the gateway's MAC.
#[inline(always)]
fn advertise(
    pkt: &mut Packet,
    endpoint: &Endpoint,
    network: &Network,
    to: Addr6,
    target: Addr6,
) -> Result<Verdict, DropReason> {
    pkt.truncate(OPTION_OFF + size_of::<LinkLayerOption>())?;
    let old: Ipv6Hdr = pkt.read(L3_OFF).ok_or(DropReason::Malformed)?;
    let ip = Ipv6Hdr {
        version_class_flow: [0x60, 0, 0, 0],
        payload_len: (ADVERT_BYTES as u16).to_be_bytes(),
        next_header: proto::ICMPV6,
        hop_limit: 255,
        src: target.0,
        dst: to.0,
    };
    debug_assert!(HOP_LIMIT_OFF == 7 && old.next_header == proto::ICMPV6);
    let option = LinkLayerOption { kind: LinkLayerOption::TARGET, len: 1, mac: network.mac };
    let csum = Sum::default()
        .add(ip.src)
        .add(ip.dst)
        .add((ADVERT_BYTES as u32).to_be_bytes())
        .add([0, 0, 0, proto::ICMPV6])
        .add([v6::NEIGHBOUR_ADVERT, 0, FLAGS, 0])
        .add(target.0)
        .add([option.kind, option.len])
        .add(network.mac.0)
        .checksum();
    let icmp = IcmpHdr { kind: v6::NEIGHBOUR_ADVERT, code: 0, csum, rest: [FLAGS, 0, 0, 0] };
    pkt.write(L3_OFF, ip)?;
    pkt.write(MSG_OFF, NeighbourMsg { icmp, target: target.0 })?;
    pkt.write(OPTION_OFF, option)?;
    rewrite::link_layer(pkt, Mac(endpoint.mac.0), network.mac)?;
    Ok(Verdict::Out(endpoint.ifindex))
}
