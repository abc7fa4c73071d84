//! What a TCP segment does to the connection it belongs to, judged by numbers (RFC 9293) and not by flag bits alone.
//!
//! Each direction keeps what it has sent, what it has acknowledged and what it lets the other send ([`Numbers`]). A segment
//! that does not fit changes nothing here and is passed on all the same: the end host judges it better, and answers what does
//! not fit with an ACK of its own (RFC 9293 section 3.10.7.4, RFC 5961).
//!
//! Somebody who does not see the connection has to guess two numbers of 32 bits: [`Numbers::is_near`] lets one of about
//! 10^8 guesses in, a reset only one of 2 * 10^9.

use crate::hdr::tcp::TcpFields;
use crate::hdr::tcp::flag::{ACK, FIN, RST, SYN};
use crate::state::State;

/// How far from the last one of its direction a segment may begin and still be near: one that was sent again, or that comes
/// behind one that was lost.
const SEQ_NEAR: u32 = 1 << 16;

/// How far an acknowledgement may lie behind the last one.
const ACK_BEHIND: u32 = 1 << 16;

/// How far it may lie before it: what one acknowledgement of a BIG TCP packet covers.
const ACK_AHEAD: u32 = 1 << 18;

/// What a first window may be before its sender has said more.
const FIRST_WINDOW: u32 = 0xffff;

/// What one direction of a connection has shown of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Sequence number behind the last byte it has sent, SYN and FIN counted.
    pub end: u32,
    /// The highest acknowledgement it has sent; before its first the lowest it may send: that of the other side's SYN.
    pub ack: u32,
    /// The highest sequence number it lets the other side send up to.
    pub edge: u32,
    /// [`Self::end`] as a SYN would have it that may start the connection anew; with [`Self::PENDING`].
    pub syn_end: u32,
    /// Window scale (RFC 7323), 0 to 14, or [`TcpFields::NO_SCALE`].
    pub scale: u8,
    /// Bits of [`Self::SYN`] and the like.
    pub seen: u8,
}

impl Numbers {
    /// Its SYN was seen: [`Self::end`] is a number.
    pub const SYN: u8 = 1;
    /// It has acknowledged the other side's SYN.
    pub const ACKED: u8 = 1 << 1;
    /// It has sent a SYN that is not this connection's.
    pub const PENDING: u8 = 1 << 2;
    /// It has sent the reset that ended the connection.
    pub const RESET: u8 = 1 << 3;
    /// The bits from here on: the window scale of the SYN [`Self::syn_end`] is of; 15 for none.
    const PENDING_SCALE_SHIFT: u8 = 4;

    /// The opener's direction after its SYN.
    #[inline(always)]
    pub const fn opener(s: &TcpFields) -> Self {
        Self { end: s.end, ack: 0, edge: 0, syn_end: 0, scale: s.scale, seen: Self::SYN }
    }

    /// The other direction before it has sent anything: it has to acknowledge the opener's SYN.
    #[inline(always)]
    pub const fn answerer(s: &TcpFields) -> Self {
        let ack = s.seq.wrapping_add(1);
        Self { end: 0, ack, edge: ack.wrapping_add(FIRST_WINDOW), syn_end: 0, scale: TcpFields::NO_SCALE, seen: 0 }
    }

    /// Notes a SYN that may start the connection anew.
    #[inline(always)]
    const fn set_pending(&mut self, s: &TcpFields) {
        let scale = if s.scale <= TcpFields::MAX_SCALE { s.scale } else { 15 };
        self.syn_end = s.end;
        self.seen = self.seen & 0xf | Self::PENDING | scale << Self::PENDING_SCALE_SHIFT;
    }

    #[inline(always)]
    const fn has(&self, bit: u8) -> bool {
        self.seen & bit != 0
    }

    /// Whether a segment follows what its direction has sent before so closely that nobody else can have sent it, but for
    /// luck. All that an ordinary segment of an open connection is judged by.
    #[inline(always)]
    pub const fn is_near(&self, s: &TcpFields) -> bool {
        s.flags & ACK != 0 && self.is_seq_near(s.seq) && self.is_ack_near(s.ack)
    }

    #[inline(always)]
    const fn is_seq_near(&self, seq: u32) -> bool {
        seq.wrapping_sub(self.end.wrapping_sub(SEQ_NEAR)) <= 2 * SEQ_NEAR
    }

    #[inline(always)]
    const fn is_ack_near(&self, ack: u32) -> bool {
        ack.wrapping_sub(self.ack.wrapping_sub(ACK_BEHIND)) <= ACK_BEHIND + ACK_AHEAD
    }

    /// After a segment that fits: numbers move forward only.
    #[inline(always)]
    pub const fn moved(mut self, s: &TcpFields) -> Self {
        let scale = if self.scale <= TcpFields::MAX_SCALE { self.scale } else { 0 };
        self.end = later(self.end, s.end);
        self.ack = later(self.ack, s.ack);
        self.edge = later(self.edge, s.ack.wrapping_add((s.window as u32) << scale));
        self
    }
}

/// Whether `a` lies behind `b`, or is it, modulo 2^32 (RFC 9293 section 3.4).
#[inline(always)]
const fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 >= 0
}

#[inline(always)]
const fn later(a: u32, b: u32) -> u32 {
    if is_after(b, a) { b } else { a }
}

/// What a segment is to the connection.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It changes nothing, not even the time the connection was last seen.
    No = 0,
    /// It belongs to it.
    Yes = 1,
    /// The connection is over, and the opener asks for a new one.
    Anew = 2,
}

/// Judges a segment with all that both directions have shown, and moves state and numbers where it fits.
///
/// `sender` and `receiver` are the segment's; `original`: the opener sends it. The flags are a combination there may be
/// ([`TcpFields::has_valid_flags`]).
#[inline(always)]
pub fn judge(state: &mut State, original: bool, sender: &mut Numbers, receiver: &mut Numbers, s: &TcpFields) -> Fit {
    if s.flags & SYN != 0 {
        return syn(state, original, sender, receiver, s);
    }
    if s.flags & RST != 0 {
        return reset(state, sender, receiver, s);
    }
    if !fits(sender, receiver, s) {
        return Fit::No;
    }
    let near = sender.is_near(s);
    match *state {
        // "Established" needs an ACK of the SYN-ACK's own number.
        State::Answered if original => {
            if !near || !acknowledges_syn(sender, receiver, s) {
                return Fit::No;
            }
            sender.seen |= Numbers::ACKED;
            *state = if s.flags & FIN != 0 { State::OriginalFin } else { State::Established };
        }
        State::Opening | State::Answered if !receiver.has(Numbers::SYN) || !sender.has(Numbers::SYN) => {
            return Fit::No;
        }
        // Both have asked at once. The answerer's SYN-ACK was lost, and with the opener's it has no reason to send it again.
        State::Opening
            if !original && near && receiver.has(Numbers::ACKED) && acknowledges_syn(sender, receiver, s) =>
        {
            sender.seen |= Numbers::ACKED;
            *state = State::Established;
        }
        State::Established | State::Assured if s.flags & FIN != 0 && near => {
            *state = if original { State::OriginalFin } else { State::ReplyFin };
        }
        // The answerer is there and has what the opener sent: both are who they say.
        State::Established if !original => *state = State::Assured,
        State::OriginalFin if !original && s.flags & FIN != 0 && near => *state = State::Closed,
        State::ReplyFin if original && s.flags & FIN != 0 && near => *state = State::Closed,
        // Who has sent a reset and goes on has not sent it (RFC 7857 section 2.2). That is no more than was shown before.
        State::Reset if sender.has(Numbers::RESET) && near => {
            sender.seen &= !Numbers::RESET;
            *state = if sender.has(Numbers::ACKED) && receiver.has(Numbers::ACKED) {
                State::Established
            } else if sender.has(Numbers::SYN) && receiver.has(Numbers::SYN) {
                State::Answered
            } else {
                State::Opening
            };
        }
        _ => {}
    }
    *sender = sender.moved(s);
    Fit::Yes
}

/// Whether a segment's numbers are those of the connection, as nf_conntrack asks (van Rooij, "Real Stateful TCP Packet Filtering
/// in IP Filter"): it lies before the edge the receiver has shown and acknowledges only what that has sent. At least one of
/// its numbers is near the last one.
#[inline(always)]
const fn fits(sender: &Numbers, receiver: &Numbers, s: &TcpFields) -> bool {
    if s.flags & ACK == 0 {
        return false;
    }
    let (seq_near, ack_near) = (sender.is_seq_near(s.seq), sender.is_ack_near(s.ack));
    (seq_near || is_after(receiver.edge, s.seq) && is_after(s.end, sender.end.wrapping_sub(SEQ_NEAR)))
        && (ack_near || is_after(s.ack, sender.ack))
        && (!receiver.has(Numbers::SYN) || is_after(receiver.end, s.ack))
        && (seq_near || ack_near)
}

/// Whether it acknowledges the other side's SYN, and no more than that side has sent.
#[inline(always)]
const fn acknowledges_syn(sender: &Numbers, receiver: &Numbers, s: &TcpFields) -> bool {
    s.ack.wrapping_sub(sender.ack) <= receiver.end.wrapping_sub(sender.ack)
}

/// A reset ends the connection if its number is exactly the one its receiver waits for (RFC 5961 section 3.2), as far as that can
/// be known here: the last one the receiver has acknowledged, or the one behind all its sender has sent.
#[inline(always)]
fn reset(state: &mut State, sender: &mut Numbers, receiver: &Numbers, s: &TcpFields) -> Fit {
    let exact = if sender.has(Numbers::SYN) {
        s.seq == sender.end || receiver.has(Numbers::ACKED) && s.seq == receiver.ack
    } else {
        // The answer to a SYN (RFC 9293 section 3.5.2): it acknowledges that, and has no number of its own.
        s.flags & ACK != 0 && acknowledges_syn(sender, receiver, s)
    };
    if !exact {
        return Fit::No;
    }
    sender.seen |= Numbers::RESET;
    *state = State::Reset;
    Fit::Yes
}

#[inline(always)]
fn syn(state: &mut State, original: bool, sender: &mut Numbers, receiver: &mut Numbers, s: &TcpFields) -> Fit {
    let handshake = matches!(*state, State::Opening | State::Answered);
    if original {
        if s.flags & ACK != 0 {
            // Both have asked at once: this answers the other's SYN.
            if !handshake
                || s.end != sender.end
                || !receiver.has(Numbers::SYN)
                || !acknowledges_syn(sender, receiver, s)
            {
                return Fit::No;
            }
            sender.seen |= Numbers::ACKED;
            if receiver.has(Numbers::ACKED) {
                *state = State::Established;
            }
            return Fit::Yes;
        }
        if state.is_ended() {
            return Fit::Anew;
        }
        if handshake && s.end == sender.end {
            return Fit::Yes;
        }
        sender.set_pending(s);
        return Fit::No;
    }
    if s.flags & ACK == 0 {
        // Both ask at once. Until the opener has answered, the last number counts.
        if !matches!(*state, State::Opening) || receiver.has(Numbers::ACKED) {
            return Fit::No;
        }
        sender.end = s.end;
        sender.scale = s.scale;
        sender.seen |= Numbers::SYN;
        receiver.ack = s.seq.wrapping_add(1);
        return Fit::Yes;
    }
    let answers_this = handshake && acknowledges_syn(sender, receiver, s);
    let answers_anew = receiver.has(Numbers::PENDING) && s.ack == receiver.syn_end;
    if !answers_this && !answers_anew {
        return Fit::No;
    }
    let crossed = answers_this && sender.has(Numbers::SYN) && receiver.has(Numbers::ACKED) && s.end == sender.end;
    if !answers_this {
        receiver.end = receiver.syn_end;
        receiver.scale = receiver.seen >> Numbers::PENDING_SCALE_SHIFT;
    }
    // Neither side scales unless both say so.
    if s.scale > TcpFields::MAX_SCALE || receiver.scale > TcpFields::MAX_SCALE {
        sender.scale = 0;
        receiver.scale = 0;
    } else {
        sender.scale = s.scale;
    }
    sender.end = s.end;
    sender.ack = s.ack;
    sender.edge = s.ack.wrapping_add(s.window as u32);
    sender.seen = Numbers::SYN | Numbers::ACKED;
    receiver.ack = s.seq.wrapping_add(1);
    receiver.edge = receiver.ack.wrapping_add(FIRST_WINDOW);
    receiver.seen = Numbers::SYN | if crossed { Numbers::ACKED } else { 0 };
    *state = if crossed { State::Established } else { State::Answered };
    Fit::Yes
}

#[cfg(test)]
mod tests;
