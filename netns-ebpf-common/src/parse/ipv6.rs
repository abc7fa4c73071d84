//! IPv6 and its extension headers.

use super::transport::transport;
use super::{Fragment, MAX_EXTENSION_HEADERS, Off, Parsed};
use crate::Addr6;
use crate::family::V6;
use crate::flow::FlowTuple;
use crate::hdr::ipv6::{ExtHdr, FragmentHdr, IPV6_LEN, Ipv6Hdr, next};
use crate::hdr::{Frame, Walk};
use crate::verdict::DropReason;

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
pub(super) const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        next::HOP_BY_HOP | next::ROUTING | next::FRAGMENT | next::AUTH | next::DEST_OPTIONS | next::MOBILITY
    )
}
