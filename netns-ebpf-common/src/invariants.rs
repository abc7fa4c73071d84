//! What must hold of any bytes: property tests and the fuzz targets in `fuzz/` ask the same here.

use std::vec::Vec;

use crate::family::{Family, V4, V6};
use crate::hdr::eth::ETH_LEN;
use crate::hdr::tcp::flag::{ACK, FIN, RST, SYN};
use crate::hdr::tcp::{TCP_LEN, TcpFields};
use crate::hdr::udp::UDP_LEN;
use crate::hdr::{Frame, icmp, sctp};
use crate::parse::{Fragment, IcmpKind, L4, Parse, Parsed, Quote};
use crate::state::State;
use crate::tcp::{Fit, Numbers, judge};
use crate::verdict::DropReason;

/// Longest frame whose end the parser's 16 bits of length can say.
const PLAIN_FRAME_BYTES: usize = 0xffff;

/// A frame is taken apart or refused, as either family.
///
/// # Panics
/// When an invariant does not hold.
pub fn packet(frame: &[u8]) {
    packet_of::<V4>(frame);
    packet_of::<V6>(frame);
}

fn parsed<F: Parse>(frame: &[u8]) -> Result<Parsed<F::Addr>, DropReason>
where
    Parsed<F::Addr>: Default,
{
    let mut p = Parsed::default();
    F::parse(frame, ETH_LEN, frame.len(), &mut p).map(|()| p)
}

fn packet_of<F: Parse>(frame: &[u8])
where
    F::Addr: core::fmt::Debug,
    Parsed<F::Addr>: Default + PartialEq,
    Quote<F::Addr>: Default,
{
    let Ok(p) = parsed::<F>(frame) else { return };
    let least = match p.l4 {
        L4::Tcp => TCP_LEN,
        L4::Udp => UDP_LEN,
        L4::Icmp => icmp::ICMP_LEN,
        L4::Sctp => sctp::SCTP_LEN,
        L4::LaterFragment | L4::Other => 0,
    };
    assert!(p.l4_off() >= ETH_LEN && p.l4_off() + least <= frame.len(), "{p:?}");
    assert!(ETH_LEN + p.headers_len_bytes() <= frame.len(), "{p:?}");
    assert!(p.csum_off().is_none_or(|at| at + 2 <= frame.len()), "{p:?}");
    assert_eq!(matches!(p.l4, L4::LaterFragment), matches!(p.fragment, Fragment::Later), "{p:?}");
    assert!(p.fragment != Fragment::Later || (p.tuple.sport.get(), p.tuple.dport.get()) == (0, 0), "{p:?}");
    if frame.len() <= PLAIN_FRAME_BYTES {
        assert!(p.l4_off() + least <= p.end_off() && p.end_off() <= frame.len(), "{p:?}");
        // What stands behind the packet makes no difference, whether it is there or not. A length of 0 is the frame's.
        if length_field::<F>(frame) != [0; 2] {
            assert_eq!(parsed::<F>(&frame[..p.end_off()]), Ok(p), "without padding");
            let padded: Vec<u8> = frame.iter().copied().chain([0x5a; 7]).collect();
            assert_eq!(parsed::<F>(&padded), Ok(p), "with padding");
        }
    }
    quoted_as_parsed::<F>(frame, &p);
}

/// The IP header's length field.
fn length_field<F: Family>(frame: &[u8]) -> [u8; 2] {
    let at = ETH_LEN + if F::HDR_CSUM_OFF.is_some() { 2 } else { 4 };
    frame.read(at).unwrap_or_default()
}

/// Quoted, a packet is what it is when it is not.
fn quoted_as_parsed<F: Parse>(frame: &[u8], p: &Parsed<F::Addr>)
where
    F::Addr: core::fmt::Debug,
    Quote<F::Addr>: Default,
{
    let mut q = Quote::default();
    let found = F::parse_quote(frame, ETH_LEN, &mut q);
    let is_flows = match p.l4 {
        L4::Tcp | L4::Udp | L4::Sctp => true,
        L4::Icmp => matches!(p.icmp, IcmpKind::EchoRequest | IcmpKind::EchoReply),
        L4::LaterFragment | L4::Other => false,
    };
    assert_eq!(found, is_flows, "{p:?}");
    if found {
        assert_eq!((q.tuple, q.proto, q.l4_off(), q.icmp), (p.tuple, p.proto, p.l4_off(), p.icmp));
    }
}

/// A packet quoted at `off` is read or refused.
///
/// # Panics
/// When an invariant does not hold.
pub fn quote(frame: &[u8], off: usize) {
    quote_of::<V4>(frame, off);
    quote_of::<V6>(frame, off);
}

fn quote_of<F: Parse>(frame: &[u8], off: usize)
where
    Quote<F::Addr>: Default,
{
    let mut q = Quote::<F::Addr>::default();
    if F::parse_quote(frame, off, &mut q) {
        assert!(q.l3_off() == off && q.l4_off() > off && q.l4_off() + 8 <= frame.len());
    }
}

/// Bytes a step of [`connection`] is made of.
pub const STEP_BYTES: usize = 12;

/// A connection is judged, whatever its ends send and whatever others do.
///
/// Each step is a segment: who sends it, its flags, its numbers as what they are off those of the connection, its length,
/// its window.
///
/// # Panics
/// When an invariant does not hold.
pub fn connection(isn: u32, steps: &[u8]) {
    let syn = TcpFields { seq: isn, end: isn.wrapping_add(1), flags: SYN, scale: 7, ..TcpFields::default() };
    let (mut state, mut opener, mut answerer) = (State::Opening, Numbers::opener(&syn), Numbers::answerer(&syn));
    for step in steps.chunks_exact(STEP_BYTES) {
        let original = step[0] & 1 == 0;
        let (sender, receiver) = if original { (&mut opener, &mut answerer) } else { (&mut answerer, &mut opener) };
        let s = segment(step, sender, receiver);
        if !s.has_valid_flags() {
            continue;
        }
        let before = (state, *sender, *receiver);
        let fit = judge(&mut state, original, sender, receiver, &s);
        check_step(before, (state, *sender, *receiver), original, &s, fit);
    }
}

fn segment(step: &[u8], sender: &Numbers, receiver: &Numbers) -> TcpFields {
    let number = |at: usize| u16::from_be_bytes([step[at], step[at + 1]]);
    // Small steps, and ones out of any window.
    let far = |at: usize, is_far: bool| {
        let by = number(at).cast_signed();
        if is_far { (i32::from(by) << 16).cast_unsigned() } else { i32::from(by).cast_unsigned() }
    };
    let flags = step[1] & (SYN | FIN | RST | ACK);
    let seq = sender.end.wrapping_add(far(2, step[0] & 2 != 0));
    let ack = if step[0] & 8 != 0 { receiver.syn_end } else { receiver.end }.wrapping_add(far(4, step[0] & 4 != 0));
    let counts = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let end = seq.wrapping_add(number(6).into()).wrapping_add(counts);
    let scale = if flags & SYN != 0 && step[10] <= TcpFields::MAX_SCALE { step[10] } else { TcpFields::NO_SCALE };
    TcpFields { seq, end, ack, window: number(8), flags, scale }
}

/// State, the sender's numbers and the receiver's.
type Shown = (State, Numbers, Numbers);

fn check_step(before: Shown, after: Shown, original: bool, s: &TcpFields, fit: Fit) {
    let what = || std::format!("{before:?}, original {original}, {s:?}: {fit:?}, {after:?}");
    let (was, is) = (before.0, after.0);
    // A SYN that may start a live connection anew is noted: of that nothing else depends.
    let without_note = |n: Numbers| Numbers { syn_end: 0, seen: n.seen & 0xf & !Numbers::PENDING, ..n };
    match fit {
        Fit::No if s.flags & SYN != 0 && original => {
            assert_eq!((was, without_note(before.1), before.2), (is, without_note(after.1), after.2), "{}", what());
        }
        Fit::No => assert_eq!(before, after, "{}", what()),
        Fit::Anew => {
            assert!(was.is_ended() && original && s.flags == SYN && before == after, "{}", what());
        }
        Fit::Yes => {}
    }
    if was != is {
        let ok = match is {
            // A reset that is taken back leads to where the connection stood, as far as both have shown.
            State::Opening | State::Answered | State::Established if was == State::Reset => {
                let (taken_back, acked) = (before.1.seen & Numbers::RESET != 0, before.1.seen & before.2.seen);
                let anew = !original && s.flags == SYN | ACK;
                anew || taken_back && (is == State::Established) == (acked & Numbers::ACKED != 0)
            }
            State::Opening => false,
            State::Answered => !original && s.flags == SYN | ACK,
            State::Established => {
                matches!(was, State::Opening | State::Answered) && s.flags & ACK != 0 && s.flags & FIN == 0
            }
            State::OriginalFin => original && s.flags & FIN != 0,
            State::ReplyFin => !original && s.flags & FIN != 0,
            State::Closed => matches!(was, State::OriginalFin | State::ReplyFin) && s.flags & FIN != 0,
            State::Reset => s.flags & RST != 0,
            State::Assured => was == State::Established && !original,
        };
        assert!(ok, "{}", what());
    }
    if s.flags & RST != 0 && is != was {
        let exact = s.seq == before.1.end || s.seq == before.2.ack || before.1.seen & Numbers::SYN == 0;
        assert!(exact, "{}", what());
    }
    if s.flags & SYN == 0 && fit == Fit::Yes {
        let forward = |a: u32, b: u32| b.wrapping_sub(a).cast_signed() >= 0;
        let (a, b) = (before.1, after.1);
        assert!(forward(a.end, b.end) && forward(a.ack, b.ack) && forward(a.edge, b.edge), "{}", what());
        assert_eq!(before.2, after.2, "{}", what());
    }
    let scales = [after.1.scale, after.2.scale];
    assert!(scales.iter().all(|s| *s <= 15 || *s == TcpFields::NO_SCALE), "{}", what());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn connections(isn: u32, steps in prop::collection::vec(any::<[u8; STEP_BYTES]>(), 0..40)) {
            connection(isn, steps.as_flattened());
        }

        /// The same with numbers that fit more often than not.
        #[test]
        fn likely_connections(isn: u32, steps in prop::collection::vec((0_u8..16, 0_usize..6, 0_u8..3, 0_u8..3, 0_u8..3), 0..40)) {
            let flags = [SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK];
            let steps: Vec<u8> = steps
                .iter()
                .flat_map(|(who, kind, seq, ack, length)| {
                    [*who & 9, flags[*kind], 0, *seq, 0, *ack, 0, *length, 0x10, 0, 7, 0]
                })
                .collect();
            connection(isn, &steps);
        }
    }
}
