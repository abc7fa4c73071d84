//! ICMP errors about a flow: the quoted packet becomes the one its sender sent.

use netns_ebpf_common::family::{Address, Family};
use netns_ebpf_common::flow::FlowTuple;
use netns_ebpf_common::hdr::{Frame, icmp, tcp, udp};
use netns_ebpf_common::parse::{IcmpKind, Parsed, Quote, Quoted};
use netns_ebpf_common::proto;
use netns_ebpf_common::verdict::DropReason;

use crate::csum::ZeroCsum;
use crate::maps::{self, FamilyMaps, FlowRef};
use crate::packet::{ALL_HEADERS_BYTES, Packet};
use crate::rewrite;
use crate::stage::flow;

/// An error's flow and what its outer header becomes.
pub struct Related<F: FamilyMaps> {
    /// The flow, in the direction of the error.
    pub flow: FlowRef<F>,
    quoted: &'static mut Quoted<F::Addr>,
}

impl<F: FamilyMaps> Related<F> {
    /// The packet has grown by `by` bytes at its start.
    #[inline(always)]
    pub fn shift(&mut self, by: usize) {
        self.quoted.quote.shift(by);
    }
}

/// What is quoted of a transport at least (RFC 792).
const QUOTED_BYTES: usize = 8;

/// The packet an ICMP error quotes, if its receiver sent that.
#[inline(always)]
fn quoted<F: FamilyMaps>(
    pkt: &mut Packet,
    p: &Parsed<<F as Family>::Addr>,
) -> Result<&'static mut Quoted<<F as Family>::Addr>, DropReason> {
    pkt.pull(ALL_HEADERS_BYTES)?;
    let quoted = maps::quoted::<F>()?;
    if F::parse_quote(pkt, p.l4_off() + icmp::ICMP_LEN, &mut quoted.quote) && quoted.quote.tuple.src == p.tuple.dst {
        Ok(quoted)
    } else {
        Err(DropReason::IcmpUnrelated)
    }
}

/// The flow an ICMP error of `zone` is about.
///
/// The quoted packet went the other way, so the error belongs to the entry the reverse of the quoted tuple finds.
#[inline(always)]
pub fn find<F: FamilyMaps>(
    pkt: &mut Packet,
    zone: u16,
    p: &Parsed<<F as Family>::Addr>,
) -> Result<Related<F>, DropReason> {
    let quoted = quoted::<F>(pkt, p)?;
    let flow = flow::find_quoted::<F>(zone, quoted.quote.proto, &quoted.quote.tuple);
    Ok(Related { flow: flow.ok_or(DropReason::IcmpUnrelated)?, quoted })
}

/// Whether an error of an end host is about a packet that was sent to it, as it must be: a pod is no router, so one about a packet to
/// somebody else is forged.
#[inline(always)]
fn is_senders<A: PartialEq>(quoted: &Quoted<A>, p: &Parsed<A>) -> bool {
    quoted.quote.tuple.dst == p.tuple.src
}

/// As [`find`], for an error of an end host.
#[inline(always)]
pub fn find_received<F: FamilyMaps>(
    pkt: &mut Packet,
    zone: u16,
    p: &Parsed<<F as Family>::Addr>,
) -> Result<Related<F>, DropReason> {
    let related = find::<F>(pkt, zone, p)?;
    if is_senders(related.quoted, p) { Ok(related) } else { Err(DropReason::IcmpUnrelated) }
}

/// Lets an error of an end host pass to the end host whose packet to this very sender it quotes, where there is no flow.
#[inline(never)]
pub fn check_direct<F: FamilyMaps>(pkt: &mut Packet, p: &Parsed<<F as Family>::Addr>) -> Result<(), DropReason> {
    if is_senders(quoted::<F>(pkt, p)?, p) { Ok(()) } else { Err(DropReason::IcmpUnrelated) }
}

/// Rewrites quoted and outer headers (RFC 5508 sections 4.2 and 4.3); type and code stay.
///
/// `outer_src`: what the error's source becomes (its own if a router of the LAN made it).
#[inline(never)]
pub fn translate<F: FamilyMaps>(
    pkt: &mut Packet,
    p: &Parsed<<F as Family>::Addr>,
    related: &mut Related<F>,
    outer_src: &F::Addr,
) -> Result<(), DropReason> {
    let Quoted { quote, inner, outer } = &mut *related.quoted;
    // What stands behind the error in its frame is no part of the quote.
    if quote.l4_off() + QUOTED_BYTES > p.end_off() {
        return Err(DropReason::IcmpUnrelated);
    }
    let to = related.flow.to();
    inner.set_reverse(to);
    outer.src.set(outer_src);
    outer.dst.set(&to.dst);
    outer.sport = p.tuple.sport;
    outer.dport = p.tuple.dport;
    let addrs = rewrite::addrs_diff(&quote.tuple, inner);
    let ports = rewrite::ports_diff(&quote.tuple, inner);

    // What the changes to the quote add to the outer ICMP checksum. The quoted IPv4 header's own checksum moves against
    // its addresses, so the two cancel; in IPv6 there is none and the addresses count.
    let mut change = ports;
    if F::HDR_CSUM_OFF.is_none() {
        change = change.plus(addrs);
    }
    let inner_csum = match quote.proto {
        proto::TCP => Some((tcp::CSUM_OFF, addrs.plus(ports))),
        proto::UDP => Some((udp::CSUM_OFF, addrs.plus(ports))),
        // A CRC of its own, which knows nothing of addresses; ports stay.
        proto::SCTP => None,
        _ if F::ICMP_PSEUDO_HDR => Some((icmp::CSUM_OFF, addrs.plus(ports))),
        _ => Some((icmp::CSUM_OFF, ports)),
    };
    if let Some((csum_off, diff)) = inner_csum {
        let at = quote.l4_off() + csum_off;
        // RFC 792 quotes 8 bytes only: TCP's checksum may be missing. UDP's 0 stays "none" (RFC 768).
        if at + size_of::<[u8; 2]>() <= p.end_off()
            && let Some(old) = pkt.read::<[u8; 2]>(at)
            && !(quote.proto == proto::UDP && old == [0, 0])
        {
            let new = diff.update(old);
            change = change.sub(old).add(new);
            pkt.write(at, new)?;
        }
    }
    write_ports(pkt, quote, inner)?;
    rewrite::ip_addrs::<F>(pkt, quote.l3_off(), addrs, inner)?;

    let csum_off = p.l4_off() + icmp::CSUM_OFF;
    pkt.l4_csum_replace(csum_off, change, false, false, ZeroCsum::Never)?;
    rewrite::translate::<F>(pkt, p, outer)
}

/// Writes the quoted ports or query identifier.
#[inline(always)]
fn write_ports<A: Copy>(pkt: &mut Packet, quote: &Quote<A>, inner: &FlowTuple<A>) -> Result<(), DropReason> {
    match quote.proto {
        proto::TCP | proto::UDP | proto::SCTP => {
            let (s, d) = (inner.sport.0, inner.dport.0);
            pkt.write(quote.l4_off(), [s[0], s[1], d[0], d[1]])
        }
        _ => pkt.write(
            quote.l4_off() + icmp::ID_OFF,
            if matches!(quote.icmp, IcmpKind::EchoRequest) { inner.sport.0 } else { inner.dport.0 },
        ),
    }
}
