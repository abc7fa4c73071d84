//! What a TCP segment does to its flow, by its numbers: from the LAN's side and from the pod's, of connections a pod opens and of
//! those opened to it.

mod common;
#[macro_use]
mod prog;

use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::flags::{NONSENSE, VALID};
use prog::*;

/// A blind guess, far from any number a connection has here.
const JUNK: u32 = 0x7654_3210;

/// A connection: red's to a server, or a client's to the web server blue publishes. The opener's SYN is number 100, the other's
/// 5000.
struct Connection<'a> {
    b: &'a Bench,
    v: Version,
    incoming: bool,
    flow: Pair,
}

fn segment(seq: u32, ack: u32, flags: u8) -> L4 {
    L4::Tcp { sport: 0, dport: 0, seq, ack, flags, window: 4, payload: Vec::new() }
}

impl<'a> Connection<'a> {
    /// The opener's SYN.
    #[track_caller]
    fn begun(b: &'a Bench, v: Version, incoming: bool) -> Self {
        b.datapath().delete_flows(|_| true).expect("delete");
        let mut c =
            Self { b, v, incoming, flow: Pair::of_tuples(6, (0, ANY), (0, ANY), Target::Slot(0), Target::Slot(0)) };
        let (sent, got) = c.packets(true, segment(100, 0, flag::SYN));
        let (pod, lan) = (if incoming { BLUE } else { RED }, Target::Uplink(b.uplink));
        let inside = Target::Slot(pod.slot);
        c.flow = if incoming {
            Pair::new(0, &sent, 1, &got, inside, lan).owned(pod.slot).published(WEB)
        } else {
            Pair::new(1, &sent, 0, &got, lan, inside).owned(pod.slot)
        };
        if incoming {
            b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(WEB).flows([&c.flow]));
        } else {
            b.pod_sends(RED, &sent, &Want::neigh(&got).flows([&c.flow]));
        }
        c
    }

    /// As it is when both have sent their SYNs, and the opener has answered the other's.
    #[track_caller]
    fn established(b: &'a Bench, v: Version, incoming: bool) -> Self {
        let c = Self::begun(b, v, incoming);
        c.other(segment(5000, 101, flag::SYN | flag::ACK), State::Answered);
        c.opener(segment(101, 5001, flag::ACK), State::Established);
        c
    }

    /// As it is when the other side has answered that.
    #[track_caller]
    fn assured(b: &'a Bench, v: Version, incoming: bool) -> Self {
        let c = Self::established(b, v, incoming);
        c.other(segment(5001, 101, flag::ACK), State::Assured);
        c
    }

    /// A segment as its sender sends it, and as the receiver gets it.
    fn packets(&self, by_opener: bool, l4: L4) -> (Packet, Packet) {
        let v = self.v;
        match (self.incoming, by_opener) {
            (false, true) => {
                let sent = from_pod(RED, SERVER.ip(v), l4.with_ports(21_000, 80));
                let left = sent.translated((HOST.ip(v), 21_000), (SERVER.ip(v), 80)).sent_on();
                (sent, left)
            }
            (false, false) => {
                let sent = from_lan(SERVER.ip(v), HOST.ip(v), l4.with_ports(80, 21_000));
                let got = sent.translated((SERVER.ip(v), 80), (RED.ip(v), 21_000)).delivered(RED);
                (sent, got)
            }
            (true, true) => {
                let sent = from_lan(CLIENT.ip(v), HOST.ip(v), l4.with_ports(40_000, 8080));
                let got = sent.translated((CLIENT.ip(v), 40_000), (BLUE.ip(v), 80)).delivered(BLUE);
                (sent, got)
            }
            (true, false) => {
                let sent = from_pod(BLUE, CLIENT.ip(v), l4.with_ports(80, 40_000));
                let left = sent.translated((HOST.ip(v), 8080), (CLIENT.ip(v), 40_000)).sent_on();
                (sent, left)
            }
        }
    }

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "a row of a test is read more easily so")]
    fn sends(&self, by_opener: bool, sent: &Packet, want: Want) {
        if self.incoming == by_opener {
            self.b.lan_sends(sent, &want);
        } else {
            self.b.pod_sends(if self.incoming { BLUE } else { RED }, sent, &want);
        }
    }

    /// The segment gets through, and the flow is in this state then.
    #[track_caller]
    fn passes(&self, by_opener: bool, l4: L4, state: State) {
        let (sent, got) = self.packets(by_opener, l4);
        let want = match (self.incoming, by_opener) {
            (false, false) => Want::peer(RED, &got),
            (true, true) => Want::peer(BLUE, &got).publish(WEB),
            _ => Want::neigh(&got),
        };
        self.sends(by_opener, &sent, want.flows([&self.flow.state(state)]));
    }

    #[track_caller]
    fn opener(&self, l4: L4, state: State) {
        self.passes(true, l4, state);
    }

    #[track_caller]
    fn other(&self, l4: L4, state: State) {
        self.passes(false, l4, state);
    }

    /// The segment gets through, to an end that judges for itself, and changes nothing, not even when the flow was last seen.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "a row of a test is read more easily so")]
    fn is_nothing(&self, by_opener: bool, l4: L4, state: State) {
        let seen = || {
            let mut seen: Vec<_> = self.b.datapath().flows().expect("flows").iter().map(|f| f.last_seen_ns).collect();
            seen.sort_unstable();
            seen
        };
        let before = seen();
        self.b.tick();
        self.passes(by_opener, l4.clone(), state);
        assert_eq!(seen(), before, "{l4:?} was noted");
    }

    /// The segment is dropped for its flags, and the flow stays.
    #[track_caller]
    fn drops(&self, by_opener: bool, l4: L4, state: State) {
        let (sent, _) = self.packets(by_opener, l4);
        self.sends(by_opener, &sent, Want::drop(DropReason::TcpFlags).flows([&self.flow.state(state)]));
    }
}

/// No ends.
const ANY: flows::Tuple = (
    std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    0,
    std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    0,
);

both!(
    /// Finding 4: a stranger who does not see the SYN-ACK makes nothing of a connection that stays.
    fn only_the_syn_acks_own_number_establishes(b, v) {
        for incoming in [false, true] {
            let c = Connection::begun(b, v, incoming);
            // Nothing of the opener's counts before there is a SYN-ACK, nor a SYN-ACK of something else.
            c.is_nothing(true, segment(101, 5001, flag::ACK), State::Opening);
            c.is_nothing(false, segment(5001, 101, flag::ACK), State::Opening);
            for ack in [100, 102, JUNK] {
                c.is_nothing(false, segment(5000, ack, flag::SYN | flag::ACK), State::Opening);
            }
            c.other(segment(5000, 101, flag::SYN | flag::ACK), State::Answered);
            for (seq, ack) in [(101, 5000), (101, 5002), (101, JUNK), (101, 0), (JUNK, JUNK), (JUNK, 5001)] {
                c.is_nothing(true, segment(seq, ack, flag::ACK), State::Answered);
            }
            c.is_nothing(true, segment(101, 5002, flag::FIN | flag::ACK), State::Answered);
            c.opener(segment(101, 5001, flag::ACK), State::Established);
        }
    }
);

both!(
    /// What one side does alone, with whatever numbers, does not make a connection one that gives no place.
    fn only_the_other_side_assures(b, v) {
        for incoming in [false, true] {
            let c = Connection::established(b, v, incoming);
            c.opener(segment(101, 5001, flag::ACK).with_payload(10), State::Established);
            for (seq, ack) in [(5001, 500), (JUNK, JUNK), (JUNK, 101), (5001, JUNK)] {
                c.is_nothing(false, segment(seq, ack, flag::ACK), State::Established);
            }
            // The SYN-ACK once more is none.
            c.other(segment(5001, 111, flag::ACK), State::Assured);
            // An ordinary segment is judged, too.
            for (seq, ack) in [(JUNK, JUNK), (JUNK, 111), (5001, JUNK)] {
                c.is_nothing(false, segment(seq, ack, flag::ACK), State::Assured);
                c.is_nothing(true, segment(seq, ack, flag::ACK), State::Assured);
            }
        }
    }
);

both!(
    /// Finding 2.
    fn a_fin_ends_its_side_only_with_the_connections_numbers(b, v) {
        for incoming in [false, true] {
            for opener_first in [true, false] {
                let c = Connection::assured(b, v, incoming);
                let numbers = |by_opener| if by_opener { (101, 5001) } else { (5001, 101) };
                let half = if opener_first { State::OriginalFin } else { State::ReplyFin };
                for (by_opener, before, after) in
                    [(opener_first, State::Assured, half), (!opener_first, half, State::Closed)]
                {
                    let (seq, ack) = numbers(by_opener);
                    let far = 1 << 18;
                    for (seq, ack) in [
                        (JUNK, JUNK),
                        (JUNK, ack),
                        (seq, JUNK),
                        (seq.wrapping_add(far), ack),
                        (seq.wrapping_sub(far), ack),
                        // What nobody has sent yet.
                        (seq, ack + 2),
                        (seq, ack.wrapping_sub(far)),
                    ] {
                        c.is_nothing(by_opener, segment(seq, ack, flag::FIN | flag::ACK), before);
                    }
                    c.passes(by_opener, segment(seq, ack, flag::FIN | flag::ACK), after);
                    // Once more, as it was lost.
                    c.passes(by_opener, segment(seq, ack, flag::FIN | flag::ACK), after);
                }
                // The last ACKs.
                c.opener(segment(102, 5002, flag::ACK), State::Closed);
                c.other(segment(5002, 102, flag::ACK), State::Closed);
            }
        }
    }
);

both!(
    /// Finding 16: one guess in 2^32, and not the window's width.
    fn a_reset_ends_only_with_the_exact_number(b, v) {
        for incoming in [false, true] {
            for by_opener in [true, false] {
                let c = Connection::assured(b, v, incoming);
                let (seq, ack) = if by_opener { (101_u32, 5001) } else { (5001, 101) };
                for off in [1, u32::MAX, 4, 4 << 14, 1 << 30, 2 << 30, 3 << 30, JUNK] {
                    c.is_nothing(by_opener, segment(seq.wrapping_add(off), 0, flag::RST), State::Assured);
                    c.is_nothing(by_opener, segment(seq.wrapping_add(off), ack, flag::RST | flag::ACK), State::Assured);
                }
                c.passes(by_opener, segment(seq, 0, flag::RST), State::Reset);
                // RFC 7857 section 2.2: its sender goes on, so it was not the sender's. What the receiver sends shows nothing.
                c.passes(!by_opener, segment(ack, seq, flag::ACK), State::Reset);
                c.is_nothing(by_opener, segment(JUNK, ack, flag::ACK), State::Reset);
                c.passes(by_opener, segment(seq, ack, flag::ACK), State::Established);
                c.passes(by_opener, segment(seq, ack, flag::RST | flag::ACK), State::Reset);
            }
        }
    }
);

both!(
    fn a_reset_answers_a_syn_only_if_it_acknowledges_it(b, v) {
        for incoming in [false, true] {
            let c = Connection::begun(b, v, incoming);
            for l4 in [
                segment(0, 0, flag::RST),
                segment(101, 0, flag::RST),
                segment(0, 100, flag::RST | flag::ACK),
                segment(0, 102, flag::RST | flag::ACK),
                segment(101, JUNK, flag::RST | flag::ACK),
            ] {
                c.is_nothing(false, l4, State::Opening);
            }
            c.other(segment(0, 101, flag::RST | flag::ACK), State::Reset);
            // The opener's own, which takes its SYN back.
            let c = Connection::begun(b, v, incoming);
            c.is_nothing(true, segment(100, 0, flag::RST), State::Opening);
            c.opener(segment(101, 0, flag::RST), State::Reset);
        }
    }
);

both!(
    /// Finding 2: a SYN, wherever it is from, touches no connection that lives; what answers it does.
    fn a_syn_restarts_a_live_connection_only_by_its_answer(b, v) {
        for incoming in [false, true] {
            for half_closed in [None, Some(true), Some(false)] {
                let c = Connection::assured(b, v, incoming);
                let state = match half_closed {
                    None => State::Assured,
                    Some(true) => State::OriginalFin,
                    Some(false) => State::ReplyFin,
                };
                match half_closed {
                    None => {}
                    Some(true) => c.opener(segment(101, 5001, flag::FIN | flag::ACK), state),
                    Some(false) => c.other(segment(5001, 101, flag::FIN | flag::ACK), state),
                }
                let (end, other_end) =
                    (101 + u32::from(half_closed == Some(true)), 5001 + u32::from(half_closed == Some(false)));
                // The other side's is the opener's to judge.
                c.is_nothing(false, segment(JUNK, 0, flag::SYN), state);
                // The opener's goes along; the peer, which knows the connection, answers with an ACK (RFC 5961 section 4).
                c.is_nothing(true, segment(JUNK, 0, flag::SYN), state);
                c.other(segment(other_end, 101, flag::ACK), state);
                // Nor does a SYN-ACK of anything else change it.
                c.is_nothing(false, segment(9000, JUNK + 2, flag::SYN | flag::ACK), state);
                c.is_nothing(false, segment(9000, end, flag::SYN | flag::ACK), state);
                // The connection goes on.
                if half_closed != Some(true) {
                    c.opener(segment(101, other_end, flag::ACK).with_payload(3), state);
                }
                // A peer that has forgotten it accepts the SYN, and the new connection has its own numbers.
                c.is_nothing(true, segment(70_000, 0, flag::SYN), state);
                c.other(segment(900_000, 70_001, flag::SYN | flag::ACK), State::Answered);
                c.is_nothing(true, segment(101, 5001, flag::ACK), State::Answered);
                c.opener(segment(70_001, 900_001, flag::ACK), State::Established);
                c.other(segment(900_001, 70_001, flag::ACK), State::Assured);
            }
        }
    }
);

both!(
    /// Once it is over the opener's SYN opens it anew at once, and nobody else's.
    fn a_syn_opens_an_ended_connection_anew(b, v) {
        for incoming in [false, true] {
            for reset in [false, true] {
                let c = Connection::assured(b, v, incoming);
                let state = if reset { State::Reset } else { State::Closed };
                if reset {
                    c.other(segment(5001, 101, flag::RST | flag::ACK), state);
                } else {
                    c.opener(segment(101, 5001, flag::FIN | flag::ACK), State::OriginalFin);
                    c.other(segment(5001, 102, flag::FIN | flag::ACK), state);
                }
                c.is_nothing(false, segment(900_000, 0, flag::SYN), state);
                c.is_nothing(false, segment(900_000, 70_001, flag::SYN | flag::ACK), state);
                c.drops(true, segment(70_000, 0, flag::SYN | flag::FIN), state);
                let (sent, got) = c.packets(true, segment(70_000, 0, flag::SYN));
                let want = if incoming { Want::peer(BLUE, &got).publish_opens(WEB) } else { Want::neigh(&got) };
                c.sends(true, &sent, want.flows([&c.flow]));
                c.is_nothing(false, segment(900_000, 101, flag::SYN | flag::ACK), State::Opening);
                c.other(segment(900_000, 70_001, flag::SYN | flag::ACK), State::Answered);
            }
        }
    }
);

both!(
    /// Finding 2: flags no end sends together are nobody's segment.
    fn flags_that_go_not_together_are_dropped_and_change_nothing(b, v) {
        for incoming in [false, true] {
            let c = Connection::assured(b, v, incoming);
            for (i, flags) in NONSENSE.into_iter().enumerate() {
                // With the connection's own numbers and others; the flags that mean nothing here beside them.
                let more = [0, 8, 0x20, 0xc8][i % 4];
                for by_opener in [true, false] {
                    let (seq, ack) = if by_opener { (101, 5001) } else { (5001, 101) };
                    c.drops(by_opener, segment(seq, ack, flags | more), State::Assured);
                    c.drops(by_opener, segment(JUNK, JUNK, flags), State::Assured);
                }
            }
            c.opener(segment(101, 5001, flag::ACK), State::Assured);
            // All of the states: what has ended as well, and what opens.
            let c = Connection::begun(b, v, incoming);
            c.drops(true, segment(100, 0, flag::SYN | flag::RST), State::Opening);
            c.drops(false, segment(5000, 101, flag::SYN | flag::ACK | flag::FIN), State::Opening);
        }
    }
);

both!(
    fn flags_that_go_not_together_open_nothing(b, v) {
        for flags in NONSENSE {
            for dst in [SERVER, HOST, GATEWAY, KEPT] {
                for dport in [80, 8080] {
                    let sent = from_pod(RED, dst.ip(v), tcp(21_000, dport, flags));
                    b.pod_sends(RED, &sent, &Want::drop(DropReason::TcpFlags).flows([]));
                }
            }
            // From the LAN it is the host's, as all is that opens no flow.
            let sent = from_lan(CLIENT.ip(v), HOST.ip(v), tcp(40_000, 8080, flags));
            b.lan_sends(&sent, &Want::pass(&sent).flows([]));
        }
        for flags in VALID.into_iter().filter(|f| *f != flag::SYN) {
            let sent = from_lan(CLIENT.ip(v), HOST.ip(v), tcp(40_000, 8080, flags));
            b.lan_sends(&sent, &Want::pass(&sent).flows([]));
        }
    }
);

both!(
    /// Finding 15: a later piece has no header of TCP's, and says nothing of the connection.
    fn a_later_piece_changes_nothing(b, v) {
        for incoming in [false, true] {
            let check = |c: &Connection<'_>, id: u16, by_opener: bool, state: State| {
                // Its first piece is of a segment that does not fit, so that whatever changes is the later one's doing.
                let (sent, got) = c.packets(by_opener, segment(JUNK, JUNK, flag::ACK).with_payload(64));
                let seen = || c.b.datapath().flows().expect("flows").iter().map(|f| f.last_seen_ns).max();
                let before = seen();
                c.b.tick();
                for (piece, got) in sent.in_two(id, 40).iter().zip(got.in_two(id, 40)) {
                    let want = match (incoming, by_opener) {
                        (false, false) => Want::peer(RED, &got),
                        (true, true) => Want::peer(BLUE, &got).publish(WEB),
                        _ => Want::neigh(&got),
                    };
                    c.sends(by_opener, piece, want.flows([&c.flow.state(state)]));
                }
                assert_eq!(seen(), before);
            };
            let c = Connection::begun(b, v, incoming);
            check(&c, 1, false, State::Opening);
            check(&c, 2, true, State::Opening);
            let c = Connection::assured(b, v, incoming);
            c.opener(segment(101, 5001, flag::FIN | flag::ACK), State::OriginalFin);
            check(&c, 3, false, State::OriginalFin);
            c.other(segment(5001, 102, flag::FIN | flag::ACK), State::Closed);
            check(&c, 4, false, State::Closed);
            check(&c, 5, true, State::Closed);
        }
    }
);
