//! Takes a packet apart into values: offsets, a tuple and what its headers say of it.
//!
//! The same code runs in the kernel over packet memory and on the host over slices.

use crate::family::{Family, V4, V6};
use crate::flow::{FlowTuple, proto};
use crate::hdr::icmp::IcmpHdr;
use crate::hdr::ipv4::{IPV4_LEN, Ipv4Hdr};
use crate::hdr::ipv6::{ExtHdr, FragmentHdr, IPV6_LEN, Ipv6Hdr, next};
use crate::hdr::tcp::{self, TCP_LEN, TcpHdr};
use crate::hdr::udp::{self, UDP_LEN, UdpHdr};
use crate::hdr::{Frame, icmp};
use crate::verdict::DropReason;
use crate::{Addr4, Addr6, Port};

/// Most extension headers followed; more are refused (RFC 9099 section 2.1 lets a security device set a limit).
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// What an ICMP message is to the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    Other,
}

/// The transport of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP; [`Parsed::tcp`] is filled.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP of the packet's family.
    Icmp(IcmpKind),
    /// Not the first fragment: there is no transport header here, and no decision on ports may be taken.
    LaterFragment,
    /// Another protocol.
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

/// Place of a fragment in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification; IPv4's 16 bits in the upper half of the bytes.
    pub id: [u8; 4],
    /// Offset in the datagram's payload.
    pub offset_bytes: u16,
    /// More fragments follow.
    pub more: bool,
}

/// A packet taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<A> {
    /// Addresses; ports for TCP, UDP and ICMP queries, else 0.
    pub tuple: FlowTuple<A>,
    /// Protocol number of the transport (behind all extension headers).
    pub proto: u8,
    /// Hop limit as received.
    pub hop_limit: u8,
    /// The transport.
    pub l4: L4,
    /// Offset of the transport header.
    pub l4_off: usize,
    /// Headers from the start of the IP header to the transport's payload: what each segment of a GSO packet repeats.
    pub headers_len_bytes: usize,
    /// TCP only.
    pub tcp: TcpFields,
    /// Only if the packet is a fragment.
    pub fragment: Option<Fragment>,
    /// The sender forbids fragmentation (always so in IPv6).
    pub dont_fragment: bool,
}

impl<A> Parsed<A> {
    /// Offset of the transport checksum from the start of the frame, and whether 0 in it means "none".
    ///
    /// `None` for transports that cannot be translated.
    #[inline(always)]
    pub const fn csum_off(&self) -> Option<usize> {
        match self.l4 {
            L4::Tcp => Some(self.l4_off + tcp::CSUM_OFF),
            L4::Udp => Some(self.l4_off + udp::CSUM_OFF),
            L4::Icmp(_) => Some(self.l4_off + icmp::CSUM_OFF),
            L4::LaterFragment | L4::Other => None,
        }
    }
}

/// The start of a packet quoted by an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote<A> {
    /// As in the quoted packet.
    pub tuple: FlowTuple<A>,
    /// Protocol number.
    pub proto: u8,
    /// Offset of the quoted IP header from the start of the frame.
    pub l3_off: usize,
    /// Offset of the quoted transport header.
    pub l4_off: usize,
    /// The quoted packet is an ICMP echo request (else a reply, or no ICMP).
    pub echo_request: bool,
}

/// Parses IPv4.
#[inline(always)]
pub fn ipv4<T: Frame + ?Sized>(frame: &T, l3_off: usize, frame_len_bytes: usize) -> Result<Parsed<Addr4>, DropReason> {
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
        refuse_source_route(frame, l3_off + IPV4_LEN, header_len - IPV4_LEN)?;
    }
    let (offset, more) = (ip.fragment_offset(), ip.more_fragments());
    let fragment =
        (offset != 0 || more).then_some(Fragment { id: [ip.id[0], ip.id[1], 0, 0], offset_bytes: offset, more });
    let parsed = Parsed {
        tuple: FlowTuple { src: Addr4(ip.src), dst: Addr4(ip.dst), sport: Port([0; 2]), dport: Port([0; 2]) },
        proto: ip.proto,
        hop_limit: ip.ttl,
        l4: L4::Other,
        l4_off: l3_off + header_len,
        headers_len_bytes: header_len,
        tcp: TcpFields::default(),
        fragment,
        dont_fragment: ip.dont_fragment(),
    };
    transport::<V4, T>(frame, parsed, total_len - header_len)
}

/// Refuses loose and strict source routing (RFC 7126 sections 4.3 and 4.4).
#[inline(always)]
fn refuse_source_route<T: Frame + ?Sized>(frame: &T, options_off: usize, options_len: usize) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LSRR: u8 = 131;
    const SSRR: u8 = 137;
    let mut at = 0;
    // An option takes at least one byte and there are at most 40.
    for _ in 0..40 {
        if at >= options_len || at >= 40 {
            return Ok(());
        }
        let [kind]: [u8; 1] = frame.read(options_off + at).ok_or(DropReason::Malformed)?;
        match kind {
            END => return Ok(()),
            NOP => at += 1,
            LSRR | SSRR => return Err(DropReason::SourceRoute),
            _ => {
                let [len]: [u8; 1] = frame.read(options_off + at + 1).ok_or(DropReason::Malformed)?;
                if len < 2 {
                    return Err(DropReason::Malformed);
                }
                at += len as usize;
            }
        }
    }
    Ok(())
}

/// Parses IPv6 and its extension headers.
#[inline(always)]
pub fn ipv6<T: Frame + ?Sized>(frame: &T, l3_off: usize, frame_len_bytes: usize) -> Result<Parsed<Addr6>, DropReason> {
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
    let mut next_header = ip.next_header;
    let mut at = IPV6_LEN;
    let mut fragment = None;
    let mut done = !is_extension(next_header);
    for i in 0..MAX_EXTENSION_HEADERS {
        if done {
            break;
        }
        // One header of at most 2048 bytes each: keeps the verifier's bound on the offset small.
        if at > IPV6_LEN + MAX_EXTENSION_HEADERS * 64 {
            return Err(DropReason::ExtensionHeader);
        }
        match next_header {
            next::FRAGMENT => {
                let f: FragmentHdr = frame.read(l3_off + at).ok_or(DropReason::Malformed)?;
                if fragment.is_some() {
                    return Err(DropReason::ExtensionHeader);
                }
                fragment = Some(Fragment { id: f.id, offset_bytes: f.fragment_offset(), more: f.more_fragments() });
                next_header = f.next_header;
                at += 8;
                // What follows a later fragment's header is payload, whatever it looks like.
                done = f.fragment_offset() != 0;
            }
            kind => {
                let ext: ExtHdr = frame.read(l3_off + at).ok_or(DropReason::Malformed)?;
                if kind == next::ROUTING {
                    // RFC 5095 forbids type 0; the others need a router that takes part.
                    return Err(DropReason::SourceRoute);
                }
                if kind == next::HOP_BY_HOP && i != 0 {
                    return Err(DropReason::ExtensionHeader);
                }
                next_header = ext.next_header;
                at += if kind == next::AUTH { (ext.len as usize + 2) * 4 } else { (ext.len as usize + 1) * 8 };
            }
        }
        done = done || !is_extension(next_header);
    }
    if !done {
        return Err(DropReason::ExtensionHeader);
    }
    if at - IPV6_LEN > payload_len {
        return Err(DropReason::Malformed);
    }
    let parsed = Parsed {
        tuple: FlowTuple { src: Addr6(ip.src), dst: Addr6(ip.dst), sport: Port([0; 2]), dport: Port([0; 2]) },
        proto: next_header,
        hop_limit: ip.hop_limit,
        l4: L4::Other,
        l4_off: l3_off + at,
        headers_len_bytes: at,
        tcp: TcpFields::default(),
        fragment,
        dont_fragment: true,
    };
    transport::<V6, T>(frame, parsed, payload_len - (at - IPV6_LEN))
}

#[inline(always)]
const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        next::HOP_BY_HOP | next::ROUTING | next::FRAGMENT | next::AUTH | next::DEST_OPTIONS | next::MOBILITY
    )
}

/// Reads the transport header; `len_bytes` is what the IP header leaves for it.
#[inline(always)]
fn transport<F: Family, T: Frame + ?Sized>(
    frame: &T,
    mut p: Parsed<F::Addr>,
    len_bytes: usize,
) -> Result<Parsed<F::Addr>, DropReason> {
    if let Some(f) = p.fragment
        && f.offset_bytes != 0
    {
        p.l4 = L4::LaterFragment;
        return Ok(p);
    }
    match p.proto {
        proto::TCP => {
            let tcp: TcpHdr = frame.read(p.l4_off).ok_or(DropReason::Malformed)?;
            if tcp.header_len() < TCP_LEN || tcp.header_len() > len_bytes {
                return Err(DropReason::Malformed);
            }
            p.tuple.sport = tcp.sport();
            p.tuple.dport = tcp.dport();
            p.headers_len_bytes += tcp.header_len();
            p.tcp = TcpFields { seq: tcp.seq(), ack: tcp.ack(), window: tcp.window(), flags: tcp.flags };
            p.l4 = L4::Tcp;
        }
        proto::UDP => {
            let udp: UdpHdr = frame.read(p.l4_off).ok_or(DropReason::Malformed)?;
            if UDP_LEN > len_bytes {
                return Err(DropReason::Malformed);
            }
            p.tuple.sport = udp.sport();
            p.tuple.dport = udp.dport();
            p.headers_len_bytes += UDP_LEN;
            p.l4 = L4::Udp;
        }
        n if n == F::ICMP => {
            let icmp: IcmpHdr = frame.read(p.l4_off).ok_or(DropReason::Malformed)?;
            if icmp::ICMP_LEN > len_bytes {
                return Err(DropReason::Malformed);
            }
            let kind = F::icmp_kind(icmp.kind);
            match kind {
                IcmpKind::EchoRequest => p.tuple.sport = icmp.id(),
                IcmpKind::EchoReply => p.tuple.dport = icmp.id(),
                _ => {}
            }
            p.l4 = L4::Icmp(kind);
        }
        _ => {}
    }
    Ok(p)
}

/// Parses an IPv4 packet quoted at `off`: RFC 5508 section 4 asks to find the transport behind IP options, and only 8
/// bytes of it need be there.
#[inline(always)]
pub fn quote4<T: Frame + ?Sized>(frame: &T, off: usize) -> Option<Quote<Addr4>> {
    let ip: Ipv4Hdr = frame.read(off)?;
    if ip.version() != 4 || ip.header_len() < IPV4_LEN || ip.fragment_offset() != 0 {
        return None;
    }
    let tuple = FlowTuple { src: Addr4(ip.src), dst: Addr4(ip.dst), sport: Port([0; 2]), dport: Port([0; 2]) };
    quote_transport::<V4, T>(frame, tuple, ip.proto, off, off + ip.header_len())
}

/// Parses an IPv6 packet quoted at `off`; only a fragment header is followed.
#[inline(always)]
pub fn quote6<T: Frame + ?Sized>(frame: &T, off: usize) -> Option<Quote<Addr6>> {
    let ip: Ipv6Hdr = frame.read(off)?;
    if ip.version() != 6 {
        return None;
    }
    let tuple = FlowTuple { src: Addr6(ip.src), dst: Addr6(ip.dst), sport: Port([0; 2]), dport: Port([0; 2]) };
    if ip.next_header == next::FRAGMENT {
        let f: FragmentHdr = frame.read(off + IPV6_LEN)?;
        if f.fragment_offset() != 0 {
            return None;
        }
        return quote_transport::<V6, T>(frame, tuple, f.next_header, off, off + IPV6_LEN + 8);
    }
    quote_transport::<V6, T>(frame, tuple, ip.next_header, off, off + IPV6_LEN)
}

#[inline(always)]
fn quote_transport<F: Family, T: Frame + ?Sized>(
    frame: &T,
    mut tuple: FlowTuple<F::Addr>,
    proto: u8,
    l3_off: usize,
    l4_off: usize,
) -> Option<Quote<F::Addr>> {
    // TCP, UDP and ICMP have all we need in their first 8 bytes.
    let start: IcmpHdr = frame.read(l4_off)?;
    let mut echo_request = false;
    match proto {
        proto::TCP | proto::UDP => {
            tuple.sport = Port([start.kind, start.code]);
            tuple.dport = Port(start.csum);
        }
        n if n == F::ICMP => match F::icmp_kind(start.kind) {
            IcmpKind::EchoRequest => {
                echo_request = true;
                tuple.sport = start.id();
            }
            IcmpKind::EchoReply => tuple.dport = start.id(),
            _ => return None,
        },
        _ => return None,
    }
    Some(Quote { tuple, proto, l3_off, l4_off, echo_request })
}
