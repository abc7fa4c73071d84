//! Two TCP ends that do what ends do, and now and then what they should not.

use netns_ebpf_common::state::State;

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
    /// The answerer remembers the old one, and has said so by an ACK of it.
    Challenged,
    /// The opener has answered that by a reset, which is not the new one's.
    Forgotten,
    /// SYN sent on a connection that is open for the answerer: the opener has started anew.
    Restarting,
    /// The answerer has told it where the old one stands, and the opener has reset that.
    Cleared,
    /// SYN sent by both.
    BothAsked,
    /// And SYN and ACK by the opener.
    OpenerAnswered,
    /// And SYN and ACK by the answerer.
    AnswererAnswered,
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
    /// A stray segment, or one outside the window, was sent. After one, a SYN in the middle makes conntrack guess, and it guesses another connection.
    strayed: bool,
    /// Such a SYN was sent, or conntrack may take the connection for closed.
    probed: bool,
    /// The answerer has sent something of the open connection.
    assured: bool,
    /// Who has sent a reset has gone on: whether the connection is over is anybody's guess.
    unsure: bool,
    /// The connection before had come to its end, and the answerer may remember it.
    remembered: bool,
    next: [u32; 2],
    /// [`Self::next`] of the connection before.
    old: [u32; 2],
}

/// A segment one end sends.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Who.
    pub side: Side,
    /// It may not occur in this phase.
    pub stray: bool,
    /// It is outside the window, or acknowledges what was not sent.
    missed: bool,
    /// What, with ports 0.
    pub l4: L4,
    /// Where the connection stands then, and the sender's next number.
    then: (Phase, u32),
}

const SYN_ACK: u8 = flag::SYN | flag::ACK;
const FIN: u8 = flag::FIN | flag::ACK;
const DATA: u8 = flag::ACK | 8;
const ACK: u8 = flag::ACK;
const SYN: u8 = flag::SYN;
const RST: u8 = flag::RST | flag::ACK;

impl Phase {
    /// Who sends what then, and where the connection stands after it.
    fn options(self, stray: bool) -> &'static [(Side, u8, Self)] {
        use Phase::*;
        match (self, stray) {
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
                (Answerer, ACK, Challenged),
            ],
            (Challenged, _) => {
                &[(Opener, SYN, Challenged), (Opener, flag::RST, Forgotten), (Answerer, ACK, Challenged)]
            }
            (Forgotten | Cleared, _) => &[(Opener, SYN, AskedAgain)],
            (Restarting, _) => &[
                (Opener, SYN, Restarting),
                (Answerer, ACK, Restarting),
                (Opener, flag::RST, Cleared),
                (Answerer, SYN_ACK, Answered),
            ],
            (BothAsked, _) => &[
                (Opener, SYN, BothAsked),
                (Answerer, SYN, BothAsked),
                (Opener, SYN_ACK, OpenerAnswered),
                (Answerer, SYN_ACK, AnswererAnswered),
            ],
            (OpenerAnswered, _) => &[
                (Opener, SYN_ACK, OpenerAnswered),
                (Answerer, SYN_ACK, Open),
                (Answerer, SYN_ACK, Open),
                // Its SYN and ACK was lost.
                (Answerer, ACK, Open),
                (Answerer, RST, Reset),
            ],
            (AnswererAnswered, _) => &[
                (Answerer, SYN_ACK, AnswererAnswered),
                (Opener, SYN_ACK, Open),
                (Opener, ACK, Open),
                (Opener, RST, Reset),
            ],
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
                (Answerer, SYN_ACK, Open),
                (Opener, FIN, OpenerDone),
                (Answerer, FIN, AnswererDone),
                (Opener, RST, Reset),
                (Answerer, RST, Reset),
                (Opener, SYN, Open),
                (Opener, SYN, Restarting),
            ],
            (Open, true) => &[(Answerer, SYN, Open), (Opener, SYN_ACK, Open)],
            (OpenerDone, false) => &[
                (Answerer, DATA, OpenerDone),
                (Answerer, DATA, OpenerDone),
                (Opener, ACK, OpenerDone),
                (Opener, FIN, OpenerDone),
                (Answerer, FIN, Closed),
                (Answerer, ACK, OpenerDone),
                (Opener, RST, Reset),
                (Answerer, RST, Reset),
            ],
            (AnswererDone, false) => &[
                (Opener, DATA, AnswererDone),
                (Opener, DATA, AnswererDone),
                (Answerer, ACK, AnswererDone),
                (Answerer, FIN, AnswererDone),
                (Opener, FIN, Closed),
                (Opener, ACK, AnswererDone),
                (Opener, RST, Reset),
                (Answerer, RST, Reset),
            ],
            (OpenerDone, true) => &[(Answerer, SYN, OpenerDone), (Opener, SYN_ACK, OpenerDone)],
            (AnswererDone, true) => &[(Answerer, SYN, AnswererDone), (Opener, SYN_ACK, AnswererDone)],
            (Closed, _) => &[(Opener, ACK, Closed), (Answerer, ACK, Closed), (Opener, SYN, AskedAgain)],
            (Reset, _) => {
                &[(Opener, ACK, Reset), (Answerer, ACK, Reset), (Opener, SYN, AskedAgain), (Answerer, RST, Reset)]
            }
            (Refused, true) => &[(Opener, ACK, Refused), (Answerer, ACK, Refused)],
            (Refused, false) => &[(Opener, SYN, AskedAgain)],
        }
    }

    /// Whether a packet that ends on its way changes nothing but numbers.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Open | Self::OpenerDone | Self::AnswererDone | Self::Closed)
    }
}

impl Tcp {
    /// A connection that is not open.
    pub fn new(numbers: &mut Numbers) -> Self {
        // Close to the end of the numbers, so that they run over.
        let mut first = || if numbers.percent(30) { u32::MAX - numbers.below(50) as u32 } else { numbers.any() as u32 };
        let next = [first(), first()];
        Self {
            phase: Phase::Fresh,
            strayed: false,
            probed: false,
            assured: false,
            unsure: false,
            remembered: false,
            next,
            old: next,
        }
    }

    /// What a middlebox that has seen all of it must think of it; `None` if that is not certain.
    pub fn state(&self) -> Option<State> {
        use Phase::*;
        let open = if self.assured { State::Assured } else { State::Established };
        let state = match self.phase {
            Fresh => return None,
            Asked | AskedAgain | Challenged | Forgotten | BothAsked | OpenerAnswered => State::Opening,
            Answered | AnswererAnswered => State::Answered,
            Open | Restarting => open,
            OpenerDone => State::OriginalFin,
            AnswererDone => State::ReplyFin,
            Closed => State::Closed,
            Reset | Refused | Cleared => State::Reset,
        };
        (!self.unsure).then_some(state)
    }

    /// What comes next.
    pub fn segment(&self, numbers: &mut Numbers) -> Segment {
        use Phase::*;
        let phase = self.phase;
        let stray =
            numbers.percent(6) && !self.probed && matches!(phase, Asked | Open | OpenerDone | AnswererDone | Refused);
        let (side, flags, then) = match numbers.pick(phase.options(stray)) {
            (side, SYN, _) if phase == Open && !stray && self.strayed => (side, ACK, Open),
            // It would answer the SYN in the middle.
            (side, SYN_ACK, _) if phase == Open && !stray && self.probed => (side, ACK, Open),
            (_, ACK, Challenged) if !self.remembered => (Opener, SYN, phase),
            option => option,
        };
        let mut segment = self.of(side, flags, then, stray, numbers);
        // What misses the window changes nothing. Behind a SYN in the middle conntrack takes any reset for the end.
        if matches!(phase, Open | OpenerDone | AnswererDone)
            && !stray
            && flags & flag::SYN == 0
            && (flags & flag::RST == 0 || !self.probed)
            && numbers.percent(if flags & flag::RST != 0 { 60 } else { 12 })
            && let L4::Tcp { seq, ack, .. } = &mut segment.l4
        {
            let number = if flags & flag::RST == 0 && numbers.percent(50) { ack } else { seq };
            *number = if numbers.percent(50) { number.wrapping_sub(1 << 29) } else { number.wrapping_add(1 << 29) };
            segment.then = (phase, self.next[side as usize]);
            segment.missed = true;
        }
        segment
    }

    fn of(&self, side: Side, flags: u8, then: Phase, stray: bool, numbers: &mut Numbers) -> Segment {
        use Phase::*;
        let payload: Vec<u8> = if flags & 8 != 0 {
            let bytes = numbers.below(300) + 1;
            (0..bytes).map(|_| numbers.any() as u8).collect()
        } else {
            Vec::new()
        };
        let (own, other) = (side as usize, side.other() as usize);
        let (mut seq, mut ack) = (self.next[own], self.next[other]);
        // Of the connection before.
        let old = matches!(self.phase, Challenged | Restarting) && flags & flag::SYN == 0
            || self.phase == AskedAgain && then == Challenged;
        // Again, as on a retransmission: a SYN and a FIN have their own numbers.
        let again = match flags {
            SYN | SYN_ACK => self.sent_syn(side) && then != Restarting || self.phase == Restarting && side == Opener,
            FIN => (self.phase, side) == (OpenerDone, Opener) || (self.phase, side) == (AnswererDone, Answerer),
            _ => false,
        };
        if old {
            (seq, ack) = (self.old[own], self.old[other]);
        } else if again {
            seq = seq.wrapping_sub(1);
        } else if flags & flag::SYN != 0 && !stray && (then == Restarting || numbers.percent(60)) && self.phase != Fresh
        {
            // A new connection's own.
            seq = numbers.any() as u32;
        }
        let moved = payload.len() as u32 + u32::from(flags & (flag::SYN | flag::FIN) != 0);
        let next = if stray || again || old { self.next[own] } else { seq.wrapping_add(moved) };
        let l4 = L4::Tcp {
            sport: 0,
            dport: 0,
            seq,
            ack: if flags & flag::ACK != 0 { ack } else { 0 },
            flags,
            window: 512 + numbers.below(60_000) as u16,
            payload,
        };
        Segment { side, stray, missed: false, l4, then: (then, next) }
    }

    fn sent_syn(&self, side: Side) -> bool {
        use Phase::*;
        match self.phase {
            Fresh | Closed | Reset | Refused => false,
            Asked | AskedAgain | Challenged | Forgotten | Restarting | Cleared => side == Opener,
            _ => true,
        }
    }

    /// The segment was sent.
    pub fn sent(&mut self, segment: &Segment) {
        use Phase::*;
        let L4::Tcp { flags, .. } = segment.l4 else { return };
        let (before, side, then) = (self.phase, segment.side, segment.then.0);
        if then != before && matches!(then, AskedAgain | Restarting) {
            self.old = self.next;
            self.remembered = before == Closed;
        }
        self.next[side as usize] = segment.then.1;
        self.phase = then;
        self.strayed |= segment.stray || segment.missed;
        // After these conntrack may take the connection for closed, or for one it does not know.
        let fin_for_nothing = flags & flag::FIN != 0 && then == before;
        self.probed |= then == Open && flags == SYN || fin_for_nothing || matches!(then, BothAsked | Restarting);
        self.strayed |= fin_for_nothing || matches!(then, BothAsked | Restarting);
        match then {
            Open | Restarting if before == then => {
                self.assured |= side == Answerer && flags & flag::SYN == 0 && !segment.missed;
            }
            Open => self.assured = false,
            Answered => self.unsure = false,
            Reset | Refused if before == then && flags & flag::RST == 0 => self.unsure = true,
            _ => {}
        }
    }
}
