//! The transport header.

use super::{Fragment, IcmpKind, L4, Off, Parse, Parsed, TcpFields, tcp};

use crate::hdr::Frame;
use crate::hdr::icmp::{self, IcmpHdr};
use crate::hdr::sctp::{SCTP_LEN, SctpHdr};
use crate::hdr::tcp::flag;
use crate::hdr::tcp::{TCP_LEN, TcpHdr};
use crate::hdr::udp::{UDP_LEN, UdpHdr};
use crate::proto;
use crate::verdict::DropReason;

/// More than any datagram in pieces can hold.
const MAX_SEGMENT_BYTES: u32 = 0xffff;

/// Reads the transport header behind `headers_len` bytes of IP headers; `len_bytes` is what they leave for it.
#[inline(always)]
pub(super) fn transport<F: Parse, T: Frame + ?Sized>(
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
            let payload_bytes = match p.fragment {
                // How much more there is, only the last piece knows.
                Fragment::First => MAX_SEGMENT_BYTES,
                _ => (len_bytes - tcp.header_len()) as u32,
            };
            p.tcp = TcpFields::new(&tcp, payload_bytes);
            if tcp.flags & flag::SYN != 0 && tcp.header_len() > TCP_LEN {
                p.tcp.scale = tcp::scale(frame, p.l4_off, tcp.header_len());
            }
            p.l4 = L4::Tcp;
        }
        proto::UDP => {
            let udp: UdpHdr = frame.read(off).ok_or(DropReason::Malformed)?;
            let most_bytes = match p.fragment {
                // The length is the whole datagram's, of which more is to come.
                Fragment::First => MAX_SEGMENT_BYTES as usize,
                _ => len_bytes,
            };
            if UDP_LEN > len_bytes || !is_udp_length(udp.len_bytes() as usize, most_bytes) {
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

/// Whether UDP's length field can be true with `most_bytes` for header and payload. Less is: what follows is no part of the
/// datagram. A GSO packet has the length of all its segments; one too long for the field says 0 (RFC 2675 section 4).
#[inline(always)]
const fn is_udp_length(len_bytes: usize, most_bytes: usize) -> bool {
    (len_bytes >= UDP_LEN && len_bytes <= most_bytes) || (len_bytes == 0 && most_bytes > 0xffff)
}
