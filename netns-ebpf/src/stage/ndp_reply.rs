//! Answers neighbour solicitations with the gateway's MAC, as `arp_reply` does for IPv4.

use netns_ebpf_common::Addr6;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::{Family, V6};
use netns_ebpf_common::hdr::Frame;
use netns_ebpf_common::hdr::icmp::{ICMP_LEN, IcmpHdr, LinkLayerOption, NeighbourMsg, v6};
use netns_ebpf_common::hdr::ipv6::IPV6_LEN;
use netns_ebpf_common::network::Network;
use netns_ebpf_common::parse::{self, IcmpKind, Parsed};
use netns_ebpf_common::proto;
use netns_ebpf_common::verdict::{DropReason, Verdict};

use crate::packet::{ALL_HEADERS_BYTES, Packet};
use crate::path::out_of_line;
use crate::rewrite::{self, L3_OFF};

const MSG_OFF: usize = L3_OFF + IPV6_LEN;
const OPTION_OFF: usize = MSG_OFF + size_of::<NeighbourMsg>();
/// An advertisement with its one option.
const ADVERT_BYTES: usize = size_of::<NeighbourMsg>() + size_of::<LinkLayerOption>();
/// Solicited and override (RFC 4861 section 4.4).
const FLAGS: u8 = 0x60;

/// What a neighbour-discovery message of a pod becomes.
#[inline(never)]
pub fn run(pkt: &mut Packet, endpoint: &Endpoint, network: &Network, p: &Parsed<Addr6>) -> Verdict {
    out_of_line(|| {
        match p.icmp {
            IcmpKind::NeighbourSolicit => solicitation(pkt, endpoint, network, p),
            // An answer to the host's solicitation would be the only honest one, and the host never asks.
            IcmpKind::NeighbourAdvert => Err(DropReason::NdpSpoof),
            IcmpKind::RouterAdvert | IcmpKind::Redirect => Err(DropReason::RouterAdvertisement),
            _ => Err(DropReason::NeighbourNoise),
        }
    })
}

#[inline(always)]
fn solicitation(
    pkt: &mut Packet,
    endpoint: &Endpoint,
    network: &Network,
    p: &Parsed<Addr6>,
) -> Result<Verdict, DropReason> {
    // RFC 4861 section 7.1.1: a hop limit of 255 proves the sender is on the link. In pieces it may not come (RFC 6980).
    if p.hop_limit != 255 || p.l4_off() != MSG_OFF {
        return Err(DropReason::Malformed);
    }
    pkt.pull(ALL_HEADERS_BYTES)?;
    let msg: NeighbourMsg = pkt.read(MSG_OFF).ok_or(DropReason::Malformed)?;
    if msg.icmp.code != 0 {
        return Err(DropReason::Malformed);
    }
    let target = Addr6(msg.target);
    // The sender's kernel learns nothing wrong from us, but a lie is a lie: the option must name the pod.
    parse::solicitation_options(pkt, MSG_OFF, p.piece_len_bytes as usize, endpoint.mac)?;
    if !V6::in_subnet(network, &target) && target != Addr6::link_local(network.mac) {
        return Err(DropReason::UnknownNeighbour);
    }
    if target == p.tuple.src {
        return Err(DropReason::NdpSpoof);
    }
    advertise(pkt, endpoint, network, &p.tuple.src, &target)
}

/// Replaces the packet by an advertisement of `target` at the gateway's MAC.
#[inline(always)]
fn advertise(
    pkt: &mut Packet,
    endpoint: &Endpoint,
    network: &Network,
    to: &Addr6,
    target: &Addr6,
) -> Result<Verdict, DropReason> {
    pkt.resize(OPTION_OFF + size_of::<LinkLayerOption>())?;
    pkt.write(L3_OFF, [0x60, 0, 0, 0, 0, ADVERT_BYTES as u8, proto::ICMPV6, 255])?;
    pkt.write(L3_OFF + V6::SRC_OFF, *target)?;
    pkt.write(L3_OFF + V6::SRC_OFF + size_of::<Addr6>(), *to)?;
    let option = LinkLayerOption { kind: LinkLayerOption::TARGET, len: 1, mac: network.mac };
    let target_sum = rewrite::addr_sum(target);
    // The target is both the source address and part of the message.
    let csum = target_sum
        .plus(target_sum)
        .plus(rewrite::addr_sum(to))
        .add((ADVERT_BYTES as u32).to_be_bytes())
        .add([0, 0, 0, proto::ICMPV6])
        .add([v6::NEIGHBOUR_ADVERT, 0, FLAGS, 0])
        .add([option.kind, option.len])
        .add(network.mac.0)
        .checksum();
    pkt.write(MSG_OFF, IcmpHdr { kind: v6::NEIGHBOUR_ADVERT, code: 0, csum, rest: [FLAGS, 0, 0, 0] })?;
    pkt.write(MSG_OFF + ICMP_LEN, *target)?;
    pkt.write(OPTION_OFF, option)?;
    rewrite::link_layer(pkt, endpoint.mac, network.mac)?;
    Ok(Verdict::out(endpoint.ifindex))
}
