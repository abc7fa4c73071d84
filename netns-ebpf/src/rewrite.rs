//! The only writer of headers: hop limit, link layer, and translation with every checksum kept right.

use netns_ebpf_common::Mac;
use netns_ebpf_common::csum::Sum;
use netns_ebpf_common::family::{Address, Family};
use netns_ebpf_common::flow::FlowTuple;
use netns_ebpf_common::hdr::eth::{self, EthAddrs};
use netns_ebpf_common::hdr::{Frame, icmp};
use netns_ebpf_common::host::HostConfig;
use netns_ebpf_common::parse::{IcmpKind, L4, Parsed};
use netns_ebpf_common::verdict::DropReason;

use crate::csum::{self, ZeroCsum};
use crate::maps;
use crate::packet::Packet;

/// Offset of the IP header: every device the programs run on is Ethernet, or was made look like it (`from_uplink`).
pub const L3_OFF: usize = eth::ETH_LEN;

/// Takes one from the hop limit; the caller has seen that it is above 1.
#[inline(always)]
pub fn decrement_hop_limit<F: Family>(pkt: &mut Packet, hop_limit: u8) -> Result<(), DropReason> {
    let at = L3_OFF + F::HOP_LIMIT_OFF;
    // The 16-bit word the checksum covers: hop limit first in IPv4, second in IPv6.
    let word_off = at & !1;
    let old: [u8; 2] = pkt.read(word_off).ok_or(DropReason::Malformed)?;
    let mut new = old;
    new[at - word_off] = hop_limit.wrapping_sub(1);
    let diff = Sum::default().sub(old).add(new);
    match F::HDR_CSUM_OFF {
        Some(csum_off) => {
            let csum: [u8; 2] = pkt.read(L3_OFF + csum_off).ok_or(DropReason::Malformed)?;
            pkt.write(L3_OFF + csum_off, diff.update(csum))?;
        }
        // No checksum of IPv6's header makes the change good in a sum the device took over the whole packet.
        None => pkt.csum_update(diff),
    }
    pkt.write(word_off, new)
}

/// Writes both link-layer addresses.
#[inline(always)]
pub fn link_layer(pkt: &mut Packet, dst: Mac, src: Mac) -> Result<(), DropReason> {
    pkt.write(eth::DST_OFF, EthAddrs { dst, src })
}

/// Sum of the change of both addresses of a tuple.
#[inline(always)]
pub fn addrs_diff<A: Address>(old: &FlowTuple<A>, new: &FlowTuple<A>) -> Sum {
    if A::WORDS == 1 {
        return Sum::default().sub(old.src.word(0)).sub(old.dst.word(0)).add(new.src.word(0)).add(new.dst.word(0));
    }
    csum::addrs_diff(old, new)
}

/// Sum of an address.
#[inline(always)]
pub fn addr_sum<A: Address>(addr: &A) -> Sum {
    if A::WORDS == 1 {
        return Sum::default().add(addr.word(0));
    }
    csum::addr_sum(addr)
}

/// Sum of the change of both ports of a tuple.
#[inline(always)]
pub fn ports_diff<A: Address>(old: &FlowTuple<A>, new: &FlowTuple<A>) -> Sum {
    Sum::default().sub(old.sport.0).add(new.sport.0).sub(old.dport.0).add(new.dport.0)
}

/// Writes the addresses of an IP header at `l3_off` and its own checksum; transport checksums are the caller's.
#[inline(always)]
pub fn ip_addrs<F: Family>(
    pkt: &mut Packet,
    l3_off: usize,
    diff: Sum,
    new: &FlowTuple<F::Addr>,
) -> Result<(), DropReason> {
    if let Some(csum_off) = F::HDR_CSUM_OFF {
        let csum: [u8; 2] = pkt.read(l3_off + csum_off).ok_or(DropReason::Malformed)?;
        pkt.write(l3_off + csum_off, diff.update(csum))?;
    }
    pkt.write(l3_off + F::SRC_OFF, new.src)?;
    pkt.write(l3_off + F::SRC_OFF + size_of::<F::Addr>(), new.dst)
}

/// Whether the kernel takes the flag that keeps complete checksums right in IPv6.
#[inline(always)]
fn csum_ipv6<F: Family>() -> bool {
    F::ICMP_PSEUDO_HDR && maps::host_config().is_ok_and(|c| c.flags & HostConfig::CSUM_IPV6 != 0)
}

/// Gives the packet the tuple `to`: addresses, ports or query identifier, and all checksums.
#[inline(never)]
pub fn translate<F: Family>(pkt: &mut Packet, p: &Parsed<F::Addr>, to: &FlowTuple<F::Addr>) -> Result<(), DropReason> {
    let addrs = addrs_diff(&p.tuple, to);
    let ports = ports_diff(&p.tuple, to);
    if let Some(csum_off) = p.csum_off() {
        let zero = if matches!(p.l4, L4::Udp) { ZeroCsum::IsNone } else { ZeroCsum::Never };
        if !matches!(p.l4, L4::Icmp) || F::ICMP_PSEUDO_HDR {
            pkt.l4_csum_replace(csum_off, addrs, true, csum_ipv6::<F>(), zero)?;
        }
        if p.tuple.sport != to.sport || p.tuple.dport != to.dport {
            pkt.l4_csum_replace(csum_off, ports, false, false, zero)?;
            match p.l4 {
                L4::Tcp | L4::Udp => {
                    pkt.write(p.l4_off(), [to.sport.0[0], to.sport.0[1], to.dport.0[0], to.dport.0[1]])?;
                }
                _ if p.is_icmp(IcmpKind::EchoRequest) => pkt.write(p.l4_off() + icmp::ID_OFF, to.sport.0)?,
                _ if p.is_icmp(IcmpKind::EchoReply) => pkt.write(p.l4_off() + icmp::ID_OFF, to.dport.0)?,
                _ => {}
            }
        }
    }
    if p.csum_off().is_none() && F::HDR_CSUM_OFF.is_none() {
        // Of SCTP and later fragments in IPv6 no checksum makes the change good in a sum the device took over the whole packet.
        pkt.csum_update(addrs);
    }
    ip_addrs::<F>(pkt, L3_OFF, addrs, to)
}
