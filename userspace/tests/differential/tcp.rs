//! Two TCP ends that do what ends do, and now and then what they should not.

use super::Numbers;
use crate::prog::{L4, flag};

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The opener.
    Opener = 0,
    /// The other.
    Answerer = 1,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Self {
        if self == Self::Opener { Self::Answerer } else { Self::Opener }
    }
}

use Side::{Answerer, Opener};

/// Where the connection stands for both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing sent.
    Fresh,
    /// SYN sent.
    Asked,
    /// SYN sent on a connection that was over. Conntrack may hold on to the old one, whose last ACK it has not seen.
    AskedAgain,
    /// SYN sent by both.
    BothAsked,
    /// SYN and ACK sent back.
    Answered,
    /// Open.
    Open,
    /// The opener is done.
    OpenerDone,
    /// The answerer is done.
    AnswererDone,
    /// Both are.
    Closed,
    /// Reset after an answer was seen.
    Reset,
    /// Reset before any answer: conntrack has forgotten it.
    Refused,
}

/// A connection.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Where it stands.
    pub phase: Phase,
    /// A stray segment, or a reset outside the window, was sent. After one, a SYN in the middle makes conntrack guess, and it guesses another connection.
    strayed: bool,
    /// Such a SYN was sent.
    probed: bool,
    next: [u32; 2],
}

/// A segment one end sends.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Who.
    pub side: Side,
    /// It may not occur in this phase.
    pub stray: bool,
    /// It is a reset outside the window.
    missed: bool,
    /// What, with ports 0.
    pub l4: L4,
    /// Where the connection stands then.
    then: (Phase, u32),
}

impl Tcp {
    /// A connection that is not open.
    pub fn new(numbers: &mut Numbers) -> Self {
        // Close to the end of the numbers, so that they run over.
        let mut first = || if numbers.percent(30) { u32::MAX - numbers.below(50) as u32 } else { numbers.any() as u32 };
        Self { phase: Phase::Fresh, strayed: false, probed: false, next: [first(), first()] }
    }

    /// What comes next.
    pub fn segment(&self, numbers: &mut Numbers) -> Segment {
        use Phase::*;
        const SYN_ACK: u8 = flag::SYN | flag::ACK;
        const FIN: u8 = flag::FIN | flag::ACK;
        const DATA: u8 = flag::ACK | 8;
        const ACK: u8 = flag::ACK;
        const SYN: u8 = flag::SYN;
        const RST: u8 = flag::RST | flag::ACK;
        let phase = self.phase;
        let stray = numbers.percent(6)
            && !self.probed
            && !matches!(phase, Fresh | AskedAgain | BothAsked | Answered | Reset | Closed);
        let options: &[(Side, u8, Phase)] = match (phase, stray) {
            (Fresh, _) => &[(Opener, SYN, Asked)],
            (Asked, false) => &[
                (Opener, SYN, Asked),
                (Answerer, SYN_ACK, Answered),
                (Answerer, SYN_ACK, Answered),
                (Answerer, SYN_ACK, Answered),
                (Answerer, SYN_ACK, Answered),
                (Answerer, SYN, BothAsked),
                (Answerer, RST, Refused),
                (Opener, flag::RST, Refused),
            ],
            (Asked, true) => {
                &[(Opener, ACK, Asked), (Opener, DATA, Asked), (Opener, FIN, Asked), (Answerer, FIN, Asked)]
            }
            (AskedAgain, _) => &[
                (Opener, SYN, AskedAgain),
                (Answerer, SYN_ACK, Answered),
                (Answerer, SYN_ACK, Answered),
                (Answerer, RST, Refused),
            ],
            (BothAsked, _) => &[(Opener, SYN_ACK, Answered), (Answerer, SYN_ACK, Answered)],
            (Answered, _) => &[
                (Opener, ACK, Open),
                (Opener, ACK, Open),
                (Opener, DATA, Open),
                (Opener, FIN, OpenerDone),
                (Answerer, SYN_ACK, Answered),
                (Answerer, RST, Reset),
                (Opener, RST, Reset),
            ],
            (Open, false) => &[
                (Opener, DATA, Open),
                (Opener, DATA, Open),
                (Opener, DATA, Open),
                (Answerer, DATA, Open),
                (Answerer, DATA, Open),
                (Answerer, DATA, Open),
                (Opener, ACK, Open),
                (Answerer, ACK, Open),
                (Opener, FIN, OpenerDone),
                (Answerer, FIN, AnswererDone),
                (Opener, RST, Reset),
                (Answerer, RST, Reset),
                (Opener, SYN, Open),
            ],
            (Open, true) => &[(Answerer, SYN, Open), (Opener, SYN_ACK, Open)],
            (OpenerDone, false) => &[
                (Answerer, DATA, OpenerDone),
                (Opener, ACK, OpenerDone),
                (Answerer, FIN, Closed),
                (Answerer, ACK, OpenerDone),
            ],
            (AnswererDone, false) => &[
                (Opener, DATA, AnswererDone),
                (Answerer, ACK, AnswererDone),
                (Opener, FIN, Closed),
                (Opener, ACK, AnswererDone),
            ],
            (OpenerDone | AnswererDone, true) => &[(Answerer, SYN, phase), (Opener, SYN_ACK, phase)],
            (Closed, _) => &[(Opener, ACK, Closed), (Answerer, ACK, Closed), (Opener, SYN, AskedAgain)],
            (Reset, _) => {
                &[(Opener, ACK, Reset), (Answerer, ACK, Reset), (Opener, SYN, AskedAgain), (Answerer, RST, Reset)]
            }
            (Refused, true) => &[(Opener, ACK, Refused), (Answerer, ACK, Refused)],
            (Refused, false) => &[(Opener, SYN, AskedAgain)],
        };
        let (side, flags, then) = numbers.pick(options);
        let (side, flags, then) = match (phase, flags) {
            (Open, SYN) if self.strayed && !stray => (Opener, ACK, Open),
            _ => (side, flags, then),
        };
        let mut segment = self.of(side, flags, then, stray, numbers);
        // A reset that misses the window is no end. Behind a SYN in the middle conntrack takes any for one.
        if phase == Open
            && !self.probed
            && flags & flag::RST != 0
            && numbers.percent(60)
            && let L4::Tcp { seq, .. } = &mut segment.l4
        {
            *seq = if numbers.percent(50) { seq.wrapping_sub(1 << 29) } else { seq.wrapping_add(1 << 29) };
            segment.then.0 = Open;
            // It ends a connection that conntrack is not sure of, for it alone, and a SYN would show that.
            segment.missed = true;
        }
        segment
    }

    fn of(&self, side: Side, flags: u8, then: Phase, stray: bool, numbers: &mut Numbers) -> Segment {
        let payload: Vec<u8> = if flags & 8 != 0 {
            let bytes = numbers.below(300) + 1;
            (0..bytes).map(|_| numbers.any() as u8).collect()
        } else {
            Vec::new()
        };
        let (mut seq, ack) = (self.next[side as usize], self.next[side.other() as usize]);
        // Again, as on a retransmission: a SYN has its own number.
        if flags & flag::SYN != 0
            && !matches!(self.phase, Phase::Fresh | Phase::Closed | Phase::Reset | Phase::Refused)
            && self.sent_syn(side)
        {
            seq = seq.wrapping_sub(1);
        }
        let again = seq != self.next[side as usize];
        let moved = payload.len() as u32 + u32::from(flags & (flag::SYN | flag::FIN) != 0);
        let moved = if stray || again { 0 } else { moved };
        let l4 = L4::Tcp {
            sport: 0,
            dport: 0,
            seq,
            ack: if flags & flag::ACK != 0 { ack } else { 0 },
            flags,
            window: 512 + numbers.below(60_000) as u16,
            payload,
        };
        Segment { side, stray, missed: false, l4, then: (then, moved) }
    }

    fn sent_syn(&self, side: Side) -> bool {
        match self.phase {
            Phase::Asked | Phase::AskedAgain => side == Opener,
            Phase::Fresh => false,
            _ => true,
        }
    }

    /// The segment was sent.
    pub fn sent(&mut self, segment: &Segment) {
        let side = segment.side as usize;
        self.next[side] = self.next[side].wrapping_add(segment.then.1);
        self.phase = segment.then.0;
        self.strayed |= segment.stray || segment.missed;
        self.probed |= self.phase == Phase::Open && matches!(segment.l4, L4::Tcp { flags: flag::SYN, .. });
    }
}
