//! IPv4 and its options.

use super::transport::transport;
use super::{Fragment, Parsed};
use crate::Addr4;
use crate::family::V4;
use crate::flow::FlowTuple;
use crate::hdr::ipv4::{IPV4_LEN, Ipv4Hdr};
use crate::hdr::{Frame, Walk};
use crate::verdict::DropReason;

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

/// Refuses loose and strict source routing (RFC 7126 sections 4.3 and 4.4), and options that do not end in the header.
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
        if self.at >= self.end {
            return true;
        }
        // Behind the last option there is at least the transport header, and no length that reaches into it is believed.
        let Some([kind, len]) = frame.copy::<[u8; 2]>((self.l3_off + self.at) as usize) else {
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
            _ if len >= 2 && self.at + len as u16 <= self.end => self.at += len as u16,
            _ => {
                self.bad = Some(DropReason::Malformed);
                return true;
            }
        }
        false
    }
}
