//! Originates ICMP and ICMPv6 errors: what the host's stack would do if it forwarded the packet.

use netns_ebpf_common::Mac;
use netns_ebpf_common::csum::Sum;
use netns_ebpf_common::family::{Address, Family, Scope};
use netns_ebpf_common::flow::proto;
use netns_ebpf_common::hdr::eth::{ETH_LEN, EthHdr};
use netns_ebpf_common::hdr::icmp::{ICMP_LEN, IcmpHdr, v4, v6};
use netns_ebpf_common::hdr::ipv4::{IPV4_LEN, Ipv4Hdr};
use netns_ebpf_common::hdr::ipv6::Ipv6Hdr;
use netns_ebpf_common::parse::{IcmpKind, L4, Parsed};
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, QUOTE_BYTES};
use crate::packet::Packet;
use crate::rewrite::L3_OFF;

/// What an error tells its receiver.
#[derive(Clone, Copy)]
pub enum Problem {
    /// The hop limit ran out.
    HopLimit,
    /// Larger than this MTU.
    TooBig(u32),
    /// Nobody has the address.
    HostUnreachable,
    /// No route.
    NetUnreachable,
    /// Refused: no port left, or not allowed.
    Prohibited,
}

impl Problem {
    /// The reason the packet counts under.
    #[inline(always)]
    pub const fn reason(self) -> DropReason {
        match self {
            Self::HopLimit => DropReason::HopLimit,
            Self::TooBig(_) => DropReason::TooBig,
            Self::HostUnreachable => DropReason::UnknownAddress,
            Self::NetUnreachable => DropReason::NoRoute,
            Self::Prohibited => DropReason::PortsExhausted,
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
    fn write_header(pkt: &mut Packet, src: Self::Addr, dst: Self::Addr, payload_len: usize) -> Result<Sum, DropReason>;
}

impl ErrorFormat for netns_ebpf_common::family::V4 {
    #[inline(always)]
    fn message(problem: Problem) -> Message {
        let (kind, code, rest) = match problem {
            Problem::HopLimit => (v4::TIME_EXCEEDED, 0, 0),
            // RFC 1191 section 4: the next hop's MTU in the lower half.
            Problem::TooBig(mtu) => (v4::UNREACHABLE, v4::CODE_FRAG_NEEDED, mtu & 0xffff),
            Problem::HostUnreachable => (v4::UNREACHABLE, v4::CODE_HOST, 0),
            Problem::NetUnreachable => (v4::UNREACHABLE, v4::CODE_NET, 0),
            Problem::Prohibited => (v4::UNREACHABLE, v4::CODE_ADMIN, 0),
        };
        Message { kind, code, rest: rest.to_be_bytes() }
    }

    #[inline(always)]
    fn write_header(pkt: &mut Packet, src: Self::Addr, dst: Self::Addr, payload_len: usize) -> Result<Sum, DropReason> {
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
        let (kind, code, rest) = match problem {
            Problem::HopLimit => (v6::TIME_EXCEEDED, 0, 0),
            Problem::TooBig(mtu) => (v6::PACKET_TOO_BIG, 0, mtu),
            Problem::HostUnreachable => (v6::UNREACHABLE, v6::CODE_ADDRESS, 0),
            Problem::NetUnreachable => (v6::UNREACHABLE, v6::CODE_NO_ROUTE, 0),
            Problem::Prohibited => (v6::UNREACHABLE, v6::CODE_ADMIN, 0),
        };
        Message { kind, code, rest: rest.to_be_bytes() }
    }

    #[inline(always)]
    fn write_header(pkt: &mut Packet, src: Self::Addr, dst: Self::Addr, payload_len: usize) -> Result<Sum, DropReason> {
        let ip = Ipv6Hdr {
            version_class_flow: [0x60, 0, 0, 0],
            payload_len: (payload_len as u16).to_be_bytes(),
            next_header: proto::ICMPV6,
            hop_limit: 64,
            src: src.0,
            dst: dst.0,
        };
        pkt.write(L3_OFF, ip)?;
        // RFC 8200 section 8.1.
        Ok(Sum::default().add(ip.src).add(ip.dst).add((payload_len as u32).to_be_bytes()).add([0, 0, 0, proto::ICMPV6]))
    }
}

/// An error to be sent.
pub struct Answer<A> {
    /// What it tells.
    pub problem: Problem,
    /// Who tells it.
    pub src: A,
    /// Link-layer destination.
    pub dst_mac: Mac,
    /// Link-layer source.
    pub src_mac: Mac,
}

/// Replaces the packet by an error about it to its sender.
///
/// Fails with the problem's own reason where RFC 1122 section 3.2.2 and RFC 4443 section 2.4 forbid an error: about
/// an ICMP error, a later fragment, a multicast; and where the packet cannot be edited.
#[inline(never)]
pub fn replace<F: ErrorFormat>(
    pkt: &mut Packet,
    p: &Parsed<F::Addr>,
    answer: &Answer<F::Addr>,
) -> Result<(), DropReason> {
    let Answer { problem, src, dst_mac, src_mac } = *answer;
    let reason = problem.reason();
    let forbidden = matches!(
        p.l4,
        L4::LaterFragment
            | L4::Icmp(
                IcmpKind::Error
                    | IcmpKind::Redirect
                    | IcmpKind::NeighbourSolicit
                    | IcmpKind::NeighbourAdvert
                    | IcmpKind::RouterSolicit
                    | IcmpKind::RouterAdvert
            )
    );
    if forbidden || !matches!(F::scope(p.tuple.dst), Scope::Unicast) || src.is_unspecified() {
        return Err(reason);
    }
    // A multiple of 4, which is what the checksum helper takes; the sender's headers are within the first bytes.
    let quote_len = (pkt.len_bytes() - L3_OFF).min(QUOTE_BYTES) & !3;
    if quote_len < F::HDR_LEN + 8 {
        return Err(reason);
    }
    pkt.truncate(L3_OFF + quote_len).map_err(|_| reason)?;
    pkt.grow_l3(F::HDR_LEN + ICMP_LEN).map_err(|_| reason)?;

    let icmp_off = ETH_LEN + F::HDR_LEN;
    let message = F::message(problem);
    let start = F::write_header(pkt, src, p.tuple.src, ICMP_LEN + quote_len)?;
    let quote = pkt.sum_at(icmp_off + ICMP_LEN, quote_len, maps::quote_scratch()?)?;
    let csum = start.plus(quote).add([message.kind, message.code]).add(message.rest).checksum();
    pkt.write(icmp_off, IcmpHdr { kind: message.kind, code: message.code, csum, rest: message.rest })?;
    pkt.write(0, EthHdr::new(dst_mac, src_mac, F::ETHERTYPE))
}
