//! Originates ICMP and ICMPv6 errors: what the host's stack would do if it forwarded the packet.

use netns_ebpf_common::Mac;
use netns_ebpf_common::csum::Sum;
use netns_ebpf_common::family::{Address, Family, Scope};
use netns_ebpf_common::hdr::eth::{ETH_LEN, EthHdr};
use netns_ebpf_common::hdr::icmp::{ICMP_LEN, IcmpHdr, v4, v6};
use netns_ebpf_common::hdr::ipv4::{IPV4_LEN, Ipv4Hdr};
use netns_ebpf_common::hdr::{tcp, udp};
use netns_ebpf_common::parse::{IcmpKind, L4, Parsed};
use netns_ebpf_common::proto;
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, QUOTE_BYTES};
use crate::packet::{Packet, now_ns};
use crate::rewrite::{self, L3_OFF};

/// What an error tells its receiver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// The hop limit ran out.
    HopLimit,
    /// Larger than the way out takes.
    TooBig,
    /// Nobody has the address.
    HostUnreachable,
    /// No route.
    NetUnreachable,
    /// Refused: no port left.
    Prohibited,
    /// Refused: the pod has all the flows it may have.
    FlowLimit,
}

/// A problem to report. Not an enum with a payload: the unused half of one is whatever a register held, and the
/// verifier refuses to spill that when it was a pointer.
#[derive(Clone, Copy)]
pub struct Problem {
    kind: ProblemKind,
    /// The MTU to tell, for [`ProblemKind::TooBig`].
    mtu_bytes: u32,
}

impl Problem {
    /// The hop limit ran out.
    pub const HOP_LIMIT: Self = Self { kind: ProblemKind::HopLimit, mtu_bytes: 0 };
    /// Nobody has the address.
    pub const HOST_UNREACHABLE: Self = Self { kind: ProblemKind::HostUnreachable, mtu_bytes: 0 };
    /// No route.
    pub const NET_UNREACHABLE: Self = Self { kind: ProblemKind::NetUnreachable, mtu_bytes: 0 };
    /// Refused for want of a port.
    pub const PROHIBITED: Self = Self { kind: ProblemKind::Prohibited, mtu_bytes: 0 };
    /// Refused by the pod's limit.
    pub const FLOW_LIMIT: Self = Self { kind: ProblemKind::FlowLimit, mtu_bytes: 0 };

    /// Larger than `mtu_bytes`.
    #[inline(always)]
    pub const fn too_big(mtu_bytes: u32) -> Self {
        Self { kind: ProblemKind::TooBig, mtu_bytes }
    }

    /// The reason the packet counts under.
    #[inline(always)]
    pub const fn reason(self) -> DropReason {
        match self.kind {
            ProblemKind::HopLimit => DropReason::HopLimit,
            ProblemKind::TooBig => DropReason::TooBig,
            ProblemKind::HostUnreachable => DropReason::UnknownAddress,
            ProblemKind::NetUnreachable => DropReason::NoRoute,
            ProblemKind::Prohibited => DropReason::PortsExhausted,
            ProblemKind::FlowLimit => DropReason::FlowLimit,
        }
    }
}

/// Type, code and the four bytes after the checksum.
pub struct Message {
    kind: u8,
    code: u8,
    rest: [u8; 4],
}

/// What the two families' messages have different.
pub trait ErrorFormat: Family {
    /// The message for a problem.
    fn message(problem: Problem) -> Message;

    /// Writes the IP header of an error of `payload_len` bytes and returns the sum its ICMP checksum starts from.
    fn write_header(
        pkt: &mut Packet,
        src: &Self::Addr,
        dst: &Self::Addr,
        payload_len: usize,
    ) -> Result<Sum, DropReason>;
}

impl ErrorFormat for netns_ebpf_common::family::V4 {
    #[inline(always)]
    fn message(problem: Problem) -> Message {
        let (kind, code, rest) = match problem.kind {
            ProblemKind::HopLimit => (v4::TIME_EXCEEDED, 0, 0),
            // RFC 1191 section 4: the next hop's MTU in the lower half.
            ProblemKind::TooBig => (v4::UNREACHABLE, v4::CODE_FRAG_NEEDED, problem.mtu_bytes & 0xffff),
            ProblemKind::HostUnreachable => (v4::UNREACHABLE, v4::CODE_HOST, 0),
            ProblemKind::NetUnreachable => (v4::UNREACHABLE, v4::CODE_NET, 0),
            ProblemKind::Prohibited | ProblemKind::FlowLimit => (v4::UNREACHABLE, v4::CODE_ADMIN, 0),
        };
        Message { kind, code, rest: rest.to_be_bytes() }
    }

    #[inline(always)]
    fn write_header(
        pkt: &mut Packet,
        src: &Self::Addr,
        dst: &Self::Addr,
        payload_len: usize,
    ) -> Result<Sum, DropReason> {
        let total_len = ((IPV4_LEN + payload_len) as u16).to_be_bytes();
        // RFC 1812 section 4.3.2.5: precedence 6, internetwork control.
        let mut ip = Ipv4Hdr {
            version_ihl: 0x45,
            tos: 0xc0,
            total_len,
            id: [0; 2],
            frag: [0x40, 0],
            ttl: 64,
            proto: proto::ICMP,
            csum: [0; 2],
            src: src.0,
            dst: dst.0,
        };
        ip.csum = Sum::default()
            .add([ip.version_ihl, ip.tos])
            .add(total_len)
            .add(ip.frag)
            .add([ip.ttl, ip.proto])
            .add(ip.src)
            .add(ip.dst)
            .checksum();
        pkt.write(L3_OFF, ip)?;
        Ok(Sum::default())
    }
}

impl ErrorFormat for netns_ebpf_common::family::V6 {
    #[inline(always)]
    fn message(problem: Problem) -> Message {
        let (kind, code, rest) = match problem.kind {
            ProblemKind::HopLimit => (v6::TIME_EXCEEDED, 0, 0),
            ProblemKind::TooBig => (v6::PACKET_TOO_BIG, 0, problem.mtu_bytes),
            ProblemKind::HostUnreachable => (v6::UNREACHABLE, v6::CODE_ADDRESS, 0),
            ProblemKind::NetUnreachable => (v6::UNREACHABLE, v6::CODE_NO_ROUTE, 0),
            ProblemKind::Prohibited | ProblemKind::FlowLimit => (v6::UNREACHABLE, v6::CODE_ADMIN, 0),
        };
        Message { kind, code, rest: rest.to_be_bytes() }
    }

    #[inline(always)]
    fn write_header(
        pkt: &mut Packet,
        src: &Self::Addr,
        dst: &Self::Addr,
        payload_len: usize,
    ) -> Result<Sum, DropReason> {
        let [len_high, len_low] = (payload_len as u16).to_be_bytes();
        pkt.write(L3_OFF, [0x60, 0, 0, 0, len_high, len_low, proto::ICMPV6, 64])?;
        pkt.write(L3_OFF + Self::SRC_OFF, *src)?;
        pkt.write(L3_OFF + Self::SRC_OFF + size_of::<Self::Addr>(), *dst)?;
        // RFC 8200 section 8.1.
        Ok(rewrite::addr_sum(src).plus(rewrite::addr_sum(dst)).add((payload_len as u32).to_be_bytes()).add([
            0,
            0,
            0,
            proto::ICMPV6,
        ]))
    }
}

/// An error to be sent.
pub struct Answer<'a, A> {
    /// What it tells.
    pub problem: Problem,
    /// The area of the packet's sender, which has a ration of errors.
    pub area: u32,
    /// Who tells it.
    pub src: &'a A,
    /// Link-layer destination.
    pub dst_mac: Mac,
    /// Link-layer source.
    pub src_mac: Mac,
}

/// Replaces the packet by an error about it to its sender.
///
/// Fails with the problem's own reason where RFC 1122 section 3.2.2 and RFC 4443 section 2.4 forbid an error: about
/// an ICMP error, a later fragment, a multicast; where the sender has had too many; and where the packet cannot be edited.
#[inline(never)]
pub fn replace<F: ErrorFormat>(
    pkt: &mut Packet,
    p: &Parsed<F::Addr>,
    answer: &Answer<'_, F::Addr>,
) -> Result<(), DropReason> {
    let Answer { problem, area, src, dst_mac, src_mac } = *answer;
    let reason = problem.reason();
    let forbidden = matches!(p.l4, L4::LaterFragment)
        || (matches!(p.l4, L4::Icmp)
            && !matches!(p.icmp, IcmpKind::EchoRequest | IcmpKind::EchoReply | IcmpKind::Other));
    if forbidden || !matches!(F::scope(&p.tuple.dst), Scope::Unicast) || src.is_unspecified() {
        return Err(reason);
    }
    // A multiple of 4, which is what the checksum helper takes; the sender's headers are within the first bytes.
    let quote_len = (pkt.len_bytes() - L3_OFF).min(QUOTE_BYTES) & !3;
    if quote_len < F::HDR_LEN + 8 {
        return Err(reason);
    }
    // Path-MTU discovery is not to starve for another's errors: the kernel does not ration these either.
    if !matches!(problem.kind, ProblemKind::TooBig) && !maps::area(area)?.may_report(now_ns()) {
        return Err(reason);
    }
    let body_len = quote_len + BALANCE_BYTES;
    pkt.resize(L3_OFF + body_len).map_err(|_| reason)?;
    pkt.grow_l3(F::HDR_LEN + ICMP_LEN).map_err(|_| reason)?;

    let icmp_off = ETH_LEN + F::HDR_LEN;
    let message = F::message(problem);
    let start = F::write_header(pkt, src, &p.tuple.src, ICMP_LEN + body_len)?;
    let body = balance(pkt, p, icmp_off + ICMP_LEN, quote_len).ok_or(DropReason::Internal)?;
    let csum = start.plus(body).add([message.kind, message.code]).add(message.rest).checksum();
    pkt.write(icmp_off, IcmpHdr { kind: message.kind, code: message.code, csum, rest: message.rest })?;
    pkt.write(0, EthHdr::new(dst_mac, src_mac, F::ETHERTYPE))
}

/// Behind the quote, where they are nobody's: 2 of zeros, so that nothing takes them for an extension (RFC 4884 section 7), and the
/// balance.
const BALANCE_BYTES: usize = 4;

/// Writes behind the quote what makes the transport's checksum in it the right one for all that follows the quoted IP header, as
/// it is. Returns the sum of quote and balance.
///
/// A local sender leaves its checksum to the device (`CHECKSUM_PARTIAL`), and no helper takes that back: after the packet has
/// become an error, a device without the offload, or the kernel for it, still sums up from the quoted transport header to the
/// end of the frame and writes the result into the quote, where the ICMP checksum has counted something else. So the result is
/// to be what is there. Of transports without such a checksum any word will do.
#[inline(never)]
fn balance<A>(pkt: &mut Packet, p: &Parsed<A>, quote_off: usize, quote_len: usize) -> Option<Sum> {
    let csum_at = match p.l4 {
        L4::Tcp => tcp::CSUM_OFF,
        _ => udp::CSUM_OFF,
    };
    // Before the quote's end, behind whatever extension headers.
    let l4_at = (p.l4_off() - L3_OFF).min(quote_len - 8);
    let mut csum = [0; 2];
    pkt.load(quote_off + l4_at + csum_at, &mut csum);
    let scratch = maps::quote_scratch().ok()?;
    let balance = pkt.sum_at(quote_off + l4_at, quote_len - l4_at, scratch).ok()?.balance(csum);
    pkt.store(quote_off + quote_len, &[0, 0, balance[0], balance[1]]).ok()?;
    Some(pkt.sum_at(quote_off, quote_len, scratch).ok()?.add(balance))
}
