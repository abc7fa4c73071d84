//! The start of a packet that an ICMP error quotes.

use super::ipv6::is_extension;
use super::{Fragment, IcmpKind, MAX_EXTENSION_HEADERS, Off, Parse, Parsed};
use crate::family::{V4, V6};
use crate::flow::FlowTuple;
use crate::hdr::Frame;
use crate::hdr::icmp::IcmpHdr;
use crate::hdr::ipv4::{IPV4_LEN, Ipv4Hdr};
use crate::hdr::ipv6::{IPV6_LEN, Ipv6Hdr};
use crate::{Addr4, Addr6, Port, proto};

/// The start of a packet quoted by an ICMP error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quote<A> {
    /// As in the quoted packet.
    pub tuple: FlowTuple<A>,
    l3_off: Off,
    l4_off: Off,
    /// Protocol number.
    pub proto: u8,
    /// What a quoted ICMP message is.
    pub icmp: IcmpKind,
    /// Where IPv6's extension headers are followed.
    chain: Parsed<A>,
}

impl<A> Quote<A> {
    /// The frame has grown by `by` bytes at its start.
    #[inline(always)]
    pub const fn shift(&mut self, by: usize) {
        self.l3_off = self.l3_off.shifted(by);
        self.l4_off = self.l4_off.shifted(by);
    }

    /// Offset of the quoted IP header from the start of the frame.
    #[inline(always)]
    pub const fn l3_off(&self) -> usize {
        self.l3_off.get()
    }

    /// Offset of the quoted transport header.
    #[inline(always)]
    pub const fn l4_off(&self) -> usize {
        self.l4_off.get()
    }
}

/// The quoted packet of an ICMP error, and what its headers and the error's own become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quoted<A> {
    /// The quoted packet.
    pub quote: Quote<A>,
    /// What its tuple becomes.
    pub inner: FlowTuple<A>,
    /// What the error's own becomes.
    pub outer: FlowTuple<A>,
}

/// Parses an IPv4 packet quoted at `off` into `q`; `false` if it is none of a flow's. RFC 5508 section 4 asks to find the
/// transport behind IP options, and only 8 bytes of it need be there.
#[inline(always)]
pub fn quote4<T: Frame + ?Sized>(frame: &T, off: usize, q: &mut Quote<Addr4>) -> bool {
    let Some(ip) = frame.read::<Ipv4Hdr>(off) else { return false };
    if ip.version() != 4 || ip.header_len() < IPV4_LEN || ip.fragment_offset() != 0 {
        return false;
    }
    q.tuple = FlowTuple { src: Addr4(ip.src), dst: Addr4(ip.dst), ..FlowTuple::default() };
    q.proto = ip.proto;
    quote_transport::<V4, T>(frame, off, ip.header_len(), q)
}

/// Parses an IPv6 packet quoted at `off` into `q`; `false` if it is none of a flow's. Extension headers are followed as in a packet
/// that is not quoted.
#[inline(always)]
pub fn quote6<T: Frame + ?Sized>(frame: &T, off: usize, q: &mut Quote<Addr6>) -> bool {
    let Some(ip) = frame.read::<Ipv6Hdr>(off) else { return false };
    if ip.version() != 6 {
        return false;
    }
    let Some(l4_off) = Off::new(off + IPV6_LEN) else { return false };
    let chain = &mut q.chain;
    chain.proto = ip.next_header;
    chain.l4_off = l4_off;
    chain.headers_len_bytes = IPV6_LEN as u16;
    chain.fragment = Fragment::Whole;
    chain.refused = None;
    if is_extension(ip.next_header) {
        frame.walk(MAX_EXTENSION_HEADERS as u32, chain);
        if chain.refused.is_some() || matches!(chain.fragment, Fragment::Later) {
            return false;
        }
    }
    let headers_len = chain.headers_len_bytes as usize;
    q.proto = chain.proto;
    q.tuple = FlowTuple { src: Addr6(ip.src), dst: Addr6(ip.dst), ..FlowTuple::default() };
    quote_transport::<V6, T>(frame, off, headers_len, q)
}

#[inline(always)]
fn quote_transport<F: Parse, T: Frame + ?Sized>(
    frame: &T,
    l3_off: usize,
    headers_len: usize,
    q: &mut Quote<F::Addr>,
) -> bool {
    let (Some(l3), Some(l4)) = (Off::new(l3_off), Off::new(l3_off + headers_len)) else { return false };
    q.l3_off = l3;
    q.l4_off = l4;
    q.icmp = IcmpKind::Other;
    // TCP, UDP, SCTP and ICMP have all we need in their first 8 bytes.
    let Some(start) = frame.read::<IcmpHdr>(q.l4_off()) else { return false };
    match q.proto {
        proto::TCP | proto::UDP | proto::SCTP => {
            q.tuple.sport = Port([start.kind, start.code]);
            q.tuple.dport = Port(start.csum);
            true
        }
        n if n == F::ICMP => {
            q.icmp = F::icmp_kind(start.kind);
            match q.icmp {
                IcmpKind::EchoRequest => q.tuple.sport = start.id(),
                IcmpKind::EchoReply => q.tuple.dport = start.id(),
                _ => return false,
            }
            true
        }
        _ => false,
    }
}
