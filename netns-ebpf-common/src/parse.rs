//! Takes a packet apart into values: offsets, a tuple and what its headers say of it.
//!
//! The same code runs in the kernel over packet memory and on the host over slices.

mod quote;

use crate::family::{Family, V4, V6};
use crate::flow::{FlowTuple, proto};
use crate::hdr::icmp::IcmpHdr;
use crate::hdr::ipv4::{IPV4_LEN, Ipv4Hdr};
use crate::hdr::ipv6::{ExtHdr, FragmentHdr, IPV6_LEN, Ipv6Hdr, next};
use crate::hdr::sctp::{SCTP_LEN, SctpHdr};
use crate::hdr::tcp::{self, TCP_LEN, TcpHdr};
use crate::hdr::udp::{self, UDP_LEN, UdpHdr};
use crate::hdr::{Frame, Walk, icmp};
use crate::verdict::DropReason;
use crate::{Addr4, Addr6};

pub use self::quote::{Quote, quote4, quote6};

/// Most extension headers followed; more are refused (RFC 9099 section 2.1 lets a security device set a limit).
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// What an ICMP message is to the data path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IcmpKind {
    /// Echo request.
    EchoRequest,
    /// Echo reply.
    EchoReply,
    /// An error that quotes a packet.
    Error,
    /// Neighbour solicitation.
    NeighbourSolicit,
    /// Neighbour advertisement.
    NeighbourAdvert,
    /// Router solicitation.
    RouterSolicit,
    /// Router advertisement.
    RouterAdvert,
    /// Redirect.
    Redirect,
    /// Anything else.
    #[default]
    Other,
}

/// The transport of a packet.
///
/// Enums in what programs pass around have no payload: the niches of those that have are more than the kernel's type
/// format can say ("Invalid member bits_offset").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum L4 {
    /// TCP; [`Parsed::tcp`] is filled.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: its ports cannot be changed.
    Sctp,
    /// ICMP of the packet's family; [`Parsed::icmp`] says which.
    Icmp,
    /// Not the first fragment: there is no transport header here, and no decision on ports may be taken.
    LaterFragment,
    /// Another protocol.
    #[default]
    Other,
}

/// What a TCP header says that a flow needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFields {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window, unscaled.
    pub window: u16,
    /// Flag bits.
    pub flags: u8,
}

/// Whether a packet is a piece of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// A whole datagram.
    #[default]
    Whole,
    /// The first piece, with the transport header.
    First,
    /// Another piece.
    Later,
}

/// An offset from the start of the frame, small enough for the verifier to add to a packet pointer wherever it was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Off(u16);

impl Off {
    /// Headers end before this.
    const MASK: u16 = 0x7ff;

    /// The offset, or `None` beyond what is parsed.
    #[inline(always)]
    pub const fn new(off: usize) -> Option<Self> {
        if off <= Self::MASK as usize { Some(Self(off as u16)) } else { None }
    }

    /// Further on by `by`: a header came before.
    #[inline(always)]
    const fn shifted(self, by: usize) -> Self {
        Self(self.0 + by as u16)
    }

    /// As a number.
    #[inline(always)]
    pub const fn get(self) -> usize {
        (self.0 & Self::MASK) as usize
    }
}

/// A packet taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed<A> {
    /// Addresses; ports for TCP, UDP, SCTP and ICMP queries, else 0.
    pub tuple: FlowTuple<A>,
    /// TCP only.
    pub tcp: TcpFields,
    /// What tells a datagram in pieces from others between the same hosts: IPv4's identification (16 bits) and protocol (RFC 791
    /// section 3.2), IPv6's identification alone (RFC 8200 section 4.5: what a later piece says of the next header is not used).
    pub fragment_id: [u8; 4],
    /// Where a piece begins in its datagram's payload: a multiple of 8.
    pub piece_off_bytes: u16,
    /// Length of a piece; of a whole datagram's payload in the lower 16 bits.
    pub piece_len_bytes: u16,
    l4_off: Off,
    headers_len_bytes: u16,
    /// Protocol number of the transport (behind all extension headers).
    pub proto: u8,
    /// Hop limit as received.
    pub hop_limit: u8,
    /// The transport.
    pub l4: L4,
    /// What an ICMP message is; [`IcmpKind::Other`] for other transports.
    pub icmp: IcmpKind,
    /// Whole, or which piece.
    pub fragment: Fragment,
    /// Whether pieces follow this one.
    pub more_pieces: bool,
    /// Why the extension headers cannot be followed, if so.
    refused: Option<DropReason>,
}

impl<A> Parsed<A> {
    /// Offset of the transport header.
    #[inline(always)]
    pub const fn l4_off(&self) -> usize {
        self.l4_off.get()
    }

    /// The frame has grown by `by` bytes at its start.
    #[inline(always)]
    pub const fn shift(&mut self, by: usize) {
        self.l4_off = self.l4_off.shifted(by);
    }

    /// Headers from the start of the IP header to the transport's payload: what each segment of a GSO packet repeats.
    #[inline(always)]
    pub const fn headers_len_bytes(&self) -> usize {
        self.headers_len_bytes as usize
    }

    /// Whether the packet is this ICMP message.
    #[inline(always)]
    pub const fn is_icmp(&self, kind: IcmpKind) -> bool {
        matches!(self.l4, L4::Icmp) && self.icmp as u8 == kind as u8
    }

    /// Offset of the transport checksum from the start of the frame; `None` for transports of which only the addresses can be
    /// translated.
    #[inline(always)]
    pub const fn csum_off(&self) -> Option<usize> {
        match self.l4 {
            L4::Tcp => Some(self.l4_off() + tcp::CSUM_OFF),
            L4::Udp => Some(self.l4_off() + udp::CSUM_OFF),
            L4::Icmp => Some(self.l4_off() + icmp::CSUM_OFF),
            L4::Sctp | L4::LaterFragment | L4::Other => None,
        }
    }
}

/// Parses IPv4 into `p`.
#[inline(always)]
pub fn ipv4<T: Frame + ?Sized>(
    frame: &T,
    l3_off: usize,
    frame_len_bytes: usize,
    p: &mut Parsed<Addr4>,
) -> Result<(), DropReason> {
    let ip: Ipv4Hdr = frame.read(l3_off).ok_or(DropReason::Malformed)?;
    let header_len = ip.header_len();
    if ip.version() != 4 || header_len < IPV4_LEN {
        return Err(DropReason::Malformed);
    }
    let room = frame_len_bytes.saturating_sub(l3_off);
    // A BIG TCP packet has a total length of 0 (kernel 6.3, commit b1a78b9b9886).
    let total_len = if ip.total_len() == 0 && room > 0xffff { room } else { ip.total_len() as usize };
    if total_len < header_len || total_len > room {
        return Err(DropReason::Malformed);
    }
    if header_len > IPV4_LEN {
        let mut options = Options { at: IPV4_LEN as u16, end: header_len as u16, l3_off: l3_off as u16, bad: None };
        frame.walk(MAX_OPTIONS, &mut options);
        if let Some(reason) = options.bad {
            return Err(reason);
        }
    }
    p.tuple = FlowTuple { src: Addr4(ip.src), dst: Addr4(ip.dst), ..FlowTuple::default() };
    p.proto = ip.proto;
    p.hop_limit = ip.ttl;
    p.fragment_id = [ip.id[0], ip.id[1], ip.proto, 0];
    p.piece_off_bytes = ip.fragment_offset();
    p.more_pieces = ip.more_fragments();
    p.fragment = match (ip.fragment_offset(), ip.more_fragments()) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    };
    // The length field of the datagram put together would not hold it ("ping of death").
    if ip.fragment_offset() as usize + total_len > 0xffff && !matches!(p.fragment, Fragment::Whole) {
        return Err(DropReason::Malformed);
    }
    transport::<V4, T>(frame, p, l3_off, header_len, total_len - header_len)
}

/// One byte each, at most.
const MAX_OPTIONS: u32 = 40;

/// Refuses loose and strict source routing (RFC 7126 sections 4.3 and 4.4).
struct Options {
    at: u16,
    end: u16,
    l3_off: u16,
    bad: Option<DropReason>,
}

impl Walk for Options {
    #[inline(always)]
    fn step<T: Frame + ?Sized>(&mut self, frame: &T) -> bool {
        const END: u8 = 0;
        const NOP: u8 = 1;
        const LSRR: u8 = 131;
        const SSRR: u8 = 137;
        let at = (self.at & 0x3f) as usize;
        if self.at >= self.end || at >= 60 {
            return true;
        }
        let off = (self.l3_off & 0xff) as usize + at;
        // Kind and length together: the verifier gains nothing from a check of a single byte at a variable offset. Behind
        // the last option there is at least the transport header.
        let Some([kind, len]) = frame.read::<[u8; 2]>(off) else {
            self.bad = Some(DropReason::Malformed);
            return true;
        };
        match kind {
            END => return true,
            NOP => self.at += 1,
            LSRR | SSRR => {
                self.bad = Some(DropReason::SourceRoute);
                return true;
            }
            _ if len >= 2 => self.at += len as u16,
            _ => {
                self.bad = Some(DropReason::Malformed);
                return true;
            }
        }
        false
    }
}

/// Parses IPv6 and its extension headers into `p`.
#[inline(always)]
pub fn ipv6<T: Frame + ?Sized>(
    frame: &T,
    l3_off: usize,
    frame_len_bytes: usize,
    p: &mut Parsed<Addr6>,
) -> Result<(), DropReason> {
    let ip: Ipv6Hdr = frame.read(l3_off).ok_or(DropReason::Malformed)?;
    if ip.version() != 6 {
        return Err(DropReason::Malformed);
    }
    let room = frame_len_bytes.saturating_sub(l3_off + IPV6_LEN);
    // A BIG TCP packet says 0 here, with or without a jumbo option (kernel 5.19).
    let payload_len = if ip.payload_len() == 0 && room > 0xffff { room } else { ip.payload_len() as usize };
    if payload_len > room {
        return Err(DropReason::Malformed);
    }
    p.tuple = FlowTuple { src: Addr6(ip.src), dst: Addr6(ip.dst), ..FlowTuple::default() };
    p.proto = ip.next_header;
    p.hop_limit = ip.hop_limit;
    p.fragment = Fragment::Whole;
    p.l4_off = Off::new(l3_off + IPV6_LEN).ok_or(DropReason::Malformed)?;
    p.headers_len_bytes = IPV6_LEN as u16;
    p.refused = None;
    if is_extension(ip.next_header) {
        frame.walk(MAX_EXTENSION_HEADERS as u32, p);
        if let Some(reason) = p.refused {
            return Err(reason);
        }
        if !matches!(p.fragment, Fragment::Later) && is_extension(p.proto) {
            return Err(DropReason::ExtensionHeader);
        }
    }
    let headers_len = p.headers_len_bytes as usize;
    if headers_len - IPV6_LEN > payload_len {
        return Err(DropReason::Malformed);
    }
    let len_bytes = payload_len - (headers_len - IPV6_LEN);
    if p.piece_off_bytes as usize + len_bytes > 0xffff && !matches!(p.fragment, Fragment::Whole) {
        return Err(DropReason::Malformed);
    }
    transport::<V6, T>(frame, p, l3_off, headers_len, len_bytes)?;
    // Linux puts a jumbo option before a BIG TCP packet's TCP and takes it out again when it cuts the packet (kernel 5.19, commit
    // 09f3d1a3a52c).
    if ip.payload_len() == 0 && ip.next_header == next::HOP_BY_HOP {
        p.headers_len_bytes = p.headers_len_bytes.wrapping_sub(JUMBO_LEN);
    }
    Ok(())
}

/// A hop-by-hop header with nothing but a jumbo option (RFC 2675 section 2).
const JUMBO_LEN: u16 = 8;

impl Parsed<Addr6> {
    #[inline(always)]
    fn refuse(&mut self, reason: DropReason) -> bool {
        self.refused = Some(reason);
        true
    }
}

/// From one extension header to the next: protocol, offset and headers' length are those reached so far.
impl Walk for Parsed<Addr6> {
    #[inline(always)]
    fn step<T: Frame + ?Sized>(&mut self, frame: &T) -> bool {
        let kind = self.proto;
        // What follows a later fragment's header is payload, whatever it looks like.
        if !is_extension(kind) || matches!(self.fragment, Fragment::Later) {
            return true;
        }
        let off = self.l4_off.get();
        let Some(ext) = frame.read::<ExtHdr>(off) else { return self.refuse(DropReason::Malformed) };
        let len = match kind {
            next::FRAGMENT => {
                let Some(f) = frame.read::<FragmentHdr>(off) else { return self.refuse(DropReason::Malformed) };
                if !matches!(self.fragment, Fragment::Whole) {
                    return self.refuse(DropReason::ExtensionHeader);
                }
                self.fragment_id = f.id;
                self.piece_off_bytes = f.fragment_offset();
                self.more_pieces = f.more_fragments();
                self.fragment = match (f.fragment_offset(), f.more_fragments()) {
                    // RFC 6946: an atomic fragment is a whole datagram.
                    (0, false) => Fragment::Whole,
                    (0, true) => Fragment::First,
                    _ => Fragment::Later,
                };
                size_of::<FragmentHdr>() as u16
            }
            // RFC 5095 forbids type 0; the others need a router that takes part.
            next::ROUTING => return self.refuse(DropReason::SourceRoute),
            next::HOP_BY_HOP if self.headers_len_bytes != IPV6_LEN as u16 => {
                return self.refuse(DropReason::ExtensionHeader);
            }
            next::AUTH => (ext.len as u16 + 2) * 4,
            _ => (ext.len as u16 + 1) * 8,
        };
        self.proto = ext.next_header;
        self.headers_len_bytes = self.headers_len_bytes.wrapping_add(len);
        if self.headers_len_bytes > MAX_HEADERS_BYTES {
            return self.refuse(DropReason::ExtensionHeader);
        }
        match Off::new(off + len as usize) {
            Some(off) => self.l4_off = off,
            None => return self.refuse(DropReason::ExtensionHeader),
        }
        false
    }
}

/// Extension headers beyond this are refused; what fits is far more than any sender uses.
const MAX_HEADERS_BYTES: u16 = 1024;

#[inline(always)]
const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        next::HOP_BY_HOP | next::ROUTING | next::FRAGMENT | next::AUTH | next::DEST_OPTIONS | next::MOBILITY
    )
}

/// Reads the transport header behind `headers_len` bytes of IP headers; `len_bytes` is what they leave for it.
#[inline(always)]
fn transport<F: Parse, T: Frame + ?Sized>(
    frame: &T,
    p: &mut Parsed<F::Addr>,
    l3_off: usize,
    headers_len: usize,
    len_bytes: usize,
) -> Result<(), DropReason> {
    p.l4_off = Off::new(l3_off + headers_len).ok_or(DropReason::ExtensionHeader)?;
    p.headers_len_bytes = headers_len as u16;
    p.l4 = L4::Other;
    p.icmp = IcmpKind::Other;
    p.piece_len_bytes = len_bytes as u16;
    // RFC 8200 section 4.5, and RFC 791 section 3.2 as the offset counts in 8 bytes: all pieces but the last are multiples of 8.
    if !matches!(p.fragment, Fragment::Whole) && (len_bytes == 0 || p.more_pieces && len_bytes & 7 != 0) {
        return Err(DropReason::Malformed);
    }
    if matches!(p.fragment, Fragment::Later) {
        p.l4 = L4::LaterFragment;
        return Ok(());
    }
    let off = p.l4_off();
    match p.proto {
        proto::TCP => {
            let tcp: TcpHdr = frame.read(off).ok_or(DropReason::Malformed)?;
            if tcp.header_len() < TCP_LEN || tcp.header_len() > len_bytes {
                return Err(DropReason::Malformed);
            }
            p.tuple.set_ports(tcp.ports);
            p.headers_len_bytes += tcp.header_len() as u16;
            p.tcp = TcpFields { seq: tcp.seq(), ack: tcp.ack(), window: tcp.window(), flags: tcp.flags };
            p.l4 = L4::Tcp;
        }
        proto::UDP => {
            let udp: UdpHdr = frame.read(off).ok_or(DropReason::Malformed)?;
            if UDP_LEN > len_bytes {
                return Err(DropReason::Malformed);
            }
            p.tuple.set_ports(udp.ports);
            p.headers_len_bytes += UDP_LEN as u16;
            p.l4 = L4::Udp;
        }
        proto::SCTP => {
            let sctp: SctpHdr = frame.read(off).ok_or(DropReason::Malformed)?;
            if SCTP_LEN > len_bytes {
                return Err(DropReason::Malformed);
            }
            p.tuple.set_ports(sctp.ports);
            p.headers_len_bytes += SCTP_LEN as u16;
            p.l4 = L4::Sctp;
        }
        n if n == F::ICMP => {
            let icmp: IcmpHdr = frame.read(off).ok_or(DropReason::Malformed)?;
            if icmp::ICMP_LEN > len_bytes {
                return Err(DropReason::Malformed);
            }
            p.icmp = F::icmp_kind(icmp.kind);
            match p.icmp {
                IcmpKind::EchoRequest => p.tuple.sport = icmp.id(),
                IcmpKind::EchoReply => p.tuple.dport = icmp.id(),
                _ => {}
            }
            p.l4 = L4::Icmp;
        }
        _ => {}
    }
    Ok(())
}

/// What of taking a packet apart differs between the families.
pub trait Parse: Family {
    /// Takes the packet whose IP header starts at `l3_off` apart, into `p`.
    fn parse<T: Frame + ?Sized>(
        frame: &T,
        l3_off: usize,
        frame_len_bytes: usize,
        p: &mut Parsed<Self::Addr>,
    ) -> Result<(), DropReason>;

    /// Takes the start of a packet quoted by an ICMP error at `off` apart, into `q`; `false` if it cannot be a flow's.
    fn parse_quote<T: Frame + ?Sized>(frame: &T, off: usize, q: &mut Quote<Self::Addr>) -> bool;

    /// What an ICMP type of this family is to us.
    fn icmp_kind(kind: u8) -> IcmpKind;
}

impl Parse for V4 {
    #[inline(always)]
    fn parse<T: Frame + ?Sized>(
        frame: &T,
        l3_off: usize,
        frame_len_bytes: usize,
        p: &mut Parsed<Addr4>,
    ) -> Result<(), DropReason> {
        ipv4(frame, l3_off, frame_len_bytes, p)
    }

    #[inline(always)]
    fn parse_quote<T: Frame + ?Sized>(frame: &T, off: usize, q: &mut Quote<Addr4>) -> bool {
        quote4(frame, off, q)
    }

    #[inline(always)]
    fn icmp_kind(kind: u8) -> IcmpKind {
        use icmp::v4::*;
        match kind {
            ECHO_REQUEST => IcmpKind::EchoRequest,
            ECHO_REPLY => IcmpKind::EchoReply,
            UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM => IcmpKind::Error,
            REDIRECT => IcmpKind::Redirect,
            _ => IcmpKind::Other,
        }
    }
}

impl Parse for V6 {
    #[inline(always)]
    fn parse<T: Frame + ?Sized>(
        frame: &T,
        l3_off: usize,
        frame_len_bytes: usize,
        p: &mut Parsed<Addr6>,
    ) -> Result<(), DropReason> {
        ipv6(frame, l3_off, frame_len_bytes, p)
    }

    #[inline(always)]
    fn parse_quote<T: Frame + ?Sized>(frame: &T, off: usize, q: &mut Quote<Addr6>) -> bool {
        quote6(frame, off, q)
    }

    #[inline(always)]
    fn icmp_kind(kind: u8) -> IcmpKind {
        use icmp::v6::*;
        match kind {
            ECHO_REQUEST => IcmpKind::EchoRequest,
            ECHO_REPLY => IcmpKind::EchoReply,
            UNREACHABLE | PACKET_TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM => IcmpKind::Error,
            NEIGHBOUR_SOLICIT => IcmpKind::NeighbourSolicit,
            NEIGHBOUR_ADVERT => IcmpKind::NeighbourAdvert,
            ROUTER_SOLICIT => IcmpKind::RouterSolicit,
            ROUTER_ADVERT => IcmpKind::RouterAdvert,
            REDIRECT => IcmpKind::Redirect,
            _ => IcmpKind::Other,
        }
    }
}

#[cfg(test)]
mod tests;
