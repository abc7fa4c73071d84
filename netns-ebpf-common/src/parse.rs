//! Takes a packet apart into values: offsets, a tuple and what its headers say of it.
//!
//! The same code runs in the kernel over packet memory and on the host over slices.

mod ipv4;
mod ipv6;
mod neighbour;
mod quote;
mod tcp;
mod transport;

use crate::family::{Family, V4, V6};
use crate::flow::FlowTuple;
use crate::hdr::{Frame, icmp, tcp as tcp_hdr, udp};
use crate::verdict::DropReason;
use crate::{Addr4, Addr6};

pub use self::ipv4::ipv4;
pub use self::ipv6::ipv6;
pub use self::neighbour::solicitation_options;
pub use self::quote::{Quote, Quoted, quote4, quote6};
pub use crate::hdr::tcp::TcpFields;

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
#[repr(C, align(8))]
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

    /// Offset of the packet's end, or of the piece's. Of one longer than 65535 bytes it is less; what follows is padding.
    #[inline(always)]
    pub const fn end_off(&self) -> usize {
        self.l4_off() + self.piece_len_bytes as usize
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
            L4::Tcp => Some(self.l4_off() + tcp_hdr::CSUM_OFF),
            L4::Udp => Some(self.l4_off() + udp::CSUM_OFF),
            L4::Icmp => Some(self.l4_off() + icmp::CSUM_OFF),
            L4::Sctp | L4::LaterFragment | L4::Other => None,
        }
    }
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
