use super::*;
use proptest::prelude::*;

use Side::{Answerer, Opener};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Opener,
    Answerer,
}

/// A connection as both entries hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tracked {
    state: State,
    opener: Numbers,
    answerer: Numbers,
}

const ISN: [u32; 2] = [1_000, 0xffff_fff0];

fn segment(flags: u8, seq: u32, ack: u32, payload: u32) -> TcpFields {
    let end = seq.wrapping_add(payload).wrapping_add(u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0));
    TcpFields { seq, end, ack, window: 0x4000, flags, scale: if flags & SYN != 0 { 7 } else { TcpFields::NO_SCALE } }
}

impl Tracked {
    fn opened() -> Self {
        let syn = segment(SYN, ISN[0], 0, 0);
        Self { state: State::Opening, opener: Numbers::opener(&syn), answerer: Numbers::answerer(&syn) }
    }

    fn sends(&mut self, side: Side, s: &TcpFields) -> Fit {
        assert!(s.has_valid_flags());
        let (sender, receiver) = match side {
            Opener => (&mut self.opener, &mut self.answerer),
            Answerer => (&mut self.answerer, &mut self.opener),
        };
        judge(&mut self.state, side == Opener, sender, receiver, s)
    }

    fn fits(&mut self, side: Side, s: &TcpFields, then: State) {
        assert_eq!((self.sends(side, s), self.state), (Fit::Yes, then), "{side:?} {s:?}");
    }

    fn changes_nothing(&mut self, side: Side, s: &TcpFields) {
        let before = *self;
        assert_eq!(self.sends(side, s), Fit::No, "{side:?} {s:?}");
        assert_eq!(*self, before, "{side:?} {s:?}");
    }

    /// After the handshake.
    fn established() -> Self {
        let mut t = Self::opened();
        t.fits(Answerer, &segment(SYN | ACK, ISN[1], ISN[0] + 1, 0), State::Answered);
        t.fits(Opener, &segment(ACK, ISN[0] + 1, ISN[1].wrapping_add(1), 0), State::Established);
        t
    }

    /// After a question of 100 bytes and an answer of 1000.
    fn assured() -> Self {
        let mut t = Self::established();
        t.fits(Opener, &segment(ACK, ISN[0] + 1, ISN[1].wrapping_add(1), 100), State::Established);
        t.fits(Answerer, &segment(ACK, ISN[1].wrapping_add(1), ISN[0] + 101, 1000), State::Assured);
        t.fits(Opener, &segment(ACK, NEXT[0], NEXT[1], 0), State::Assured);
        t
    }
}

/// The sides' next numbers in [`Tracked::assured`].
const NEXT: [u32; 2] = [ISN[0] + 101, ISN[1].wrapping_add(1001)];

#[test]
fn a_life() {
    let mut t = Tracked::assured();
    t.fits(Opener, &segment(FIN | ACK, NEXT[0], NEXT[1], 0), State::OriginalFin);
    t.fits(Answerer, &segment(ACK, NEXT[1], NEXT[0] + 1, 500), State::OriginalFin);
    t.fits(Answerer, &segment(FIN | ACK, NEXT[1] + 500, NEXT[0] + 1, 0), State::Closed);
    t.fits(Opener, &segment(ACK, NEXT[0] + 1, NEXT[1] + 501, 0), State::Closed);
    assert_eq!(t.sends(Opener, &segment(SYN, 77, 0, 0)), Fit::Anew);

    let mut t = Tracked::assured();
    t.fits(Answerer, &segment(FIN | ACK, NEXT[1], NEXT[0], 0), State::ReplyFin);
    t.fits(Opener, &segment(FIN | ACK, NEXT[0], NEXT[1] + 1, 0), State::Closed);
}

#[test]
fn established_needs_the_ack_of_the_syn_acks_own_number() {
    let mut t = Tracked::opened();
    t.fits(Answerer, &segment(SYN | ACK, ISN[1], ISN[0] + 1, 0), State::Answered);
    for off in [0, 2, 0x8000_0000, 0xffff_ff00] {
        t.changes_nothing(Opener, &segment(ACK, ISN[0] + 1, ISN[1].wrapping_add(off), 0));
    }
    t.changes_nothing(Opener, &segment(ACK, ISN[0] + 1 + 0x2_0000, ISN[1].wrapping_add(1), 0));
    t.fits(Opener, &segment(ACK, ISN[0] + 1, ISN[1].wrapping_add(1), 0), State::Established);
    // The answerer that does not believe it sends its SYN-ACK once more: still nothing shows that it has got there.
    t.changes_nothing(Answerer, &segment(SYN | ACK, ISN[1], ISN[0] + 1, 0));
    assert_eq!(t.state, State::Established);
    t.fits(Answerer, &segment(ACK, ISN[1].wrapping_add(1), ISN[0] + 1, 0), State::Assured);
}

#[test]
fn an_answer_to_another_syn_is_none() {
    let mut t = Tracked::opened();
    t.changes_nothing(Answerer, &segment(SYN | ACK, ISN[1], ISN[0], 0));
    t.changes_nothing(Answerer, &segment(SYN | ACK, ISN[1], ISN[0] + 2, 0));
    t.changes_nothing(Answerer, &segment(ACK, ISN[1], ISN[0] + 1, 0));
    t.changes_nothing(Answerer, &segment(FIN | ACK, ISN[1], ISN[0] + 1, 0));
    t.fits(Opener, &segment(SYN, ISN[0], 0, 0), State::Opening);
}

#[test]
fn resets_end_by_the_exact_number_only() {
    for side in [Opener, Answerer] {
        let (mine, theirs) = if side == Opener { (NEXT[0], NEXT[1]) } else { (NEXT[1], NEXT[0]) };
        for off in [1, 2, 100, 0x3fff, 0xffff_ffff, 0x8000_0000] {
            Tracked::assured().changes_nothing(side, &segment(RST, mine.wrapping_add(off), 0, 0));
            Tracked::assured().changes_nothing(side, &segment(RST | ACK, mine.wrapping_add(off), theirs, 0));
        }
        Tracked::assured().fits(side, &segment(RST, mine, 0, 0), State::Reset);
    }
    // Data the receiver has not acknowledged: its sender counts it, and the receiver may wait for what it has acknowledged.
    let mut t = Tracked::assured();
    t.fits(Opener, &segment(ACK, NEXT[0], NEXT[1], 300), State::Assured);
    let mut other = t;
    t.fits(Opener, &segment(RST, NEXT[0] + 300, 0, 0), State::Reset);
    other.fits(Opener, &segment(RST, NEXT[0], 0, 0), State::Reset);
}

#[test]
fn a_refused_syn_is_refused_by_its_number() {
    let mut t = Tracked::opened();
    t.changes_nothing(Answerer, &segment(RST, 0, 0, 0));
    t.changes_nothing(Answerer, &segment(RST | ACK, 0, ISN[0], 0));
    t.changes_nothing(Answerer, &segment(RST | ACK, 0, ISN[0] + 2, 0));
    t.fits(Answerer, &segment(RST | ACK, 0, ISN[0] + 1, 0), State::Reset);
    assert_eq!(t.sends(Opener, &segment(SYN, 9, 0, 0)), Fit::Anew);
    let mut t = Tracked::opened();
    t.fits(Opener, &segment(RST, ISN[0] + 1, 0, 0), State::Reset);
}

#[test]
fn only_its_sender_takes_a_reset_back() {
    let mut t = Tracked::assured();
    t.fits(Opener, &segment(RST, NEXT[0], 0, 0), State::Reset);
    t.fits(Answerer, &segment(ACK, NEXT[1], NEXT[0], 200), State::Reset);
    t.fits(Opener, &segment(ACK, NEXT[0], NEXT[1], 10), State::Established);
    t.fits(Answerer, &segment(ACK, NEXT[1] + 200, NEXT[0] + 10, 0), State::Assured);
}

/// Else three segments of a stranger, whose SYN nobody has answered, were a connection that stays.
#[test]
fn a_reset_that_is_taken_back_shows_no_more_than_there_was() {
    let (rst, ack) = (segment(RST, ISN[0] + 1, 0, 0), segment(ACK, ISN[0] + 1, 1, 0));
    let mut t = Tracked::opened();
    t.fits(Opener, &rst, State::Reset);
    t.fits(Opener, &ack, State::Opening);
    let mut t = Tracked::opened();
    t.fits(Answerer, &segment(SYN | ACK, ISN[1], ISN[0] + 1, 0), State::Answered);
    t.fits(Opener, &rst, State::Reset);
    t.fits(Opener, &segment(ACK, ISN[0] + 1, ISN[1].wrapping_add(1), 0), State::Answered);
    t.fits(Opener, &segment(ACK, ISN[0] + 1, ISN[1].wrapping_add(1), 0), State::Established);
    // The pod refuses, and the stranger goes on.
    let mut t = Tracked::opened();
    t.fits(Answerer, &segment(RST | ACK, 0, ISN[0] + 1, 0), State::Reset);
    t.fits(Opener, &rst, State::Reset);
    t.fits(Opener, &ack, State::Opening);
}

#[test]
fn fins_are_judged_by_their_numbers() {
    for side in [Opener, Answerer] {
        let (mine, theirs) = if side == Opener { (NEXT[0], NEXT[1]) } else { (NEXT[1], NEXT[0]) };
        Tracked::assured().changes_nothing(side, &segment(FIN | ACK, mine.wrapping_add(0x4000_0000), theirs, 0));
        Tracked::assured().changes_nothing(side, &segment(FIN | ACK, mine, theirs.wrapping_add(0x4000_0000), 0));
        Tracked::assured().changes_nothing(side, &segment(FIN | ACK, mine, theirs.wrapping_add(1), 0));
    }
}

#[test]
fn a_syn_goes_along_and_restarts_only_when_it_is_answered() {
    let half_closed = {
        let mut t = Tracked::assured();
        t.fits(Opener, &segment(FIN | ACK, NEXT[0], NEXT[1], 0), State::OriginalFin);
        t
    };
    for before in [Tracked::assured(), half_closed] {
        let mut t = before;
        assert_eq!(t.sends(Opener, &segment(SYN, 0x5555, 0, 0)), Fit::No);
        assert_eq!(t.state, before.state);
        // The challenge ACK of a live connection, and an answer to something else.
        assert_eq!(t.sends(Answerer, &segment(ACK, NEXT[1], t.opener.ack.max(NEXT[0]), 0)), Fit::Yes);
        assert_eq!(t.sends(Answerer, &segment(SYN | ACK, 9, 0x5555, 0)), Fit::No);
        assert_eq!(t.state, before.state);
        t.fits(Answerer, &segment(SYN | ACK, 9, 0x5556, 0), State::Answered);
        assert_eq!((t.opener.scale, t.answerer.scale), (7, 7));
        t.fits(Opener, &segment(ACK, 0x5556, 10, 0), State::Established);
    }
}

#[test]
fn both_may_ask_at_once() {
    let mut t = Tracked::opened();
    t.fits(Answerer, &segment(SYN, ISN[1], 0, 0), State::Opening);
    t.fits(Opener, &segment(SYN | ACK, ISN[0], ISN[1].wrapping_add(1), 0), State::Opening);
    t.fits(Answerer, &segment(SYN | ACK, ISN[1], ISN[0] + 1, 0), State::Established);
    t.fits(Answerer, &segment(ACK, ISN[1].wrapping_add(1), ISN[0] + 1, 10), State::Assured);
    // The answerer's SYN-ACK was lost on its way here; with the opener's it does not send it again.
    let mut t = Tracked::opened();
    t.fits(Answerer, &segment(SYN, ISN[1], 0, 0), State::Opening);
    let early = segment(ACK, ISN[1].wrapping_add(1), ISN[0] + 1, 0);
    assert_eq!((t.sends(Answerer, &early), t.state), (Fit::Yes, State::Opening), "the opener has not answered");
    t.fits(Opener, &segment(SYN | ACK, ISN[0], ISN[1].wrapping_add(1), 0), State::Opening);
    t.fits(Answerer, &early, State::Established);
    t.fits(Opener, &segment(ACK, ISN[0] + 1, ISN[1].wrapping_add(1), 10), State::Established);
    // A SYN of somebody else in between does not keep the right answer out.
    let mut t = Tracked::opened();
    t.fits(Answerer, &segment(SYN, 0x1234, 0, 0), State::Opening);
    t.fits(Answerer, &segment(SYN | ACK, ISN[1], ISN[0] + 1, 0), State::Answered);
    t.fits(Opener, &segment(ACK, ISN[0] + 1, ISN[1].wrapping_add(1), 0), State::Established);
}

#[test]
fn windows_scale_if_both_say_so() {
    let t = Tracked::assured();
    assert_eq!(t.opener.edge, NEXT[1].wrapping_add(0x4000 << 7));
    let mut t = Tracked::opened();
    let plain = TcpFields { scale: TcpFields::NO_SCALE, ..segment(SYN | ACK, ISN[1], ISN[0] + 1, 0) };
    t.fits(Answerer, &plain, State::Answered);
    assert_eq!((t.opener.scale, t.answerer.scale), (0, 0));
}

#[test]
fn what_was_lost_before_it_came_here_stops_nothing() {
    // A megabyte of the window went lost; what follows it fits by its acknowledgement and the edge.
    let mut t = Tracked::assured();
    let far = NEXT[0] + 0x10_0000;
    t.fits(Opener, &segment(ACK, far, NEXT[1], 1000), State::Assured);
    assert_eq!(t.opener.end, far + 1000);
    // Beyond the edge it does not.
    let mut t = Tracked::assured();
    t.changes_nothing(Opener, &segment(ACK, NEXT[0] + 0x40_0000, NEXT[1], 1000));
}

prop_compose! {
    fn any_segment()(
        flags in prop::sample::select(std::vec![SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK]),
        seq: u32, ack: u32, payload in 0_u32..2000, window: u16, scale in 0_u8..20,
    ) -> TcpFields {
        let scale = if flags & SYN != 0 && scale <= 14 { scale } else { TcpFields::NO_SCALE };
        TcpFields { window, scale, ..segment(flags, seq, ack, payload) }
    }
}

proptest! {
    /// Of what somebody sends who knows no number nothing changes a live connection, but for a SYN that is noted.
    #[test]
    fn blind_segments_change_no_state(segments in prop::collection::vec((any::<bool>(), any_segment()), 1..200)) {
        let mut t = Tracked::assured();
        for (opener, s) in segments {
            let side = if opener { Opener } else { Answerer };
            t.sends(side, &s);
            prop_assert_eq!(t.state, State::Assured);
            prop_assert_eq!((t.opener.end, t.answerer.end), (NEXT[0], NEXT[1]));
        }
        t.fits(Opener, &segment(FIN | ACK, NEXT[0], NEXT[1], 0), State::OriginalFin);
    }

    /// An ordinary connection is followed whatever is lost, repeated or reordered within its window.
    #[test]
    fn real_connections_are_followed(
        steps in prop::collection::vec((any::<bool>(), 1_u32..60_000, 0_u8..8), 1..100),
        isn: (u32, u32),
    ) {
        let syn = segment(SYN, isn.0, 0, 0);
        let mut t = Tracked { state: State::Opening, opener: Numbers::opener(&syn), answerer: Numbers::answerer(&syn) };
        let mut next = [isn.0.wrapping_add(1), isn.1.wrapping_add(1)];
        t.fits(Answerer, &segment(SYN | ACK, isn.1, next[0], 0), State::Answered);
        t.fits(Opener, &segment(ACK, next[0], next[1], 0), State::Established);
        t.fits(Answerer, &segment(ACK, next[1], next[0], 0), State::Assured);
        for (opener, bytes, luck) in steps {
            let (side, i) = if opener { (Opener, 0) } else { (Answerer, 1) };
            let s = segment(ACK, next[i], next[1 - i], bytes);
            next[i] = s.end;
            match luck {
                // Lost before it came here: what follows it is seen first.
                0 => {
                    let behind = segment(ACK, s.end, next[1 - i], 1000);
                    next[i] = behind.end;
                    t.fits(side, &behind, State::Assured);
                    t.fits(side, &s, State::Assured);
                }
                // Twice.
                1 => { t.fits(side, &s, State::Assured); t.fits(side, &s, State::Assured); }
                _ => t.fits(side, &s, State::Assured),
            }
            // It is acknowledged.
            let other = if opener { Answerer } else { Opener };
            t.fits(other, &segment(ACK, next[1 - i], next[i], 0), State::Assured);
        }
        t.fits(Opener, &segment(FIN | ACK, next[0], next[1], 0), State::OriginalFin);
        t.fits(Answerer, &segment(FIN | ACK, next[1], next[0].wrapping_add(1), 0), State::Closed);
    }
}
