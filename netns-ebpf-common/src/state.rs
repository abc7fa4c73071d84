//! Where a flow stands in its life, and which timer runs.

use crate::proto;

/// Where a flow stands; the numbers are stored in maps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Opened, no reply seen. For UDP and ICMP queries: unreplied.
    Opening = 0,
    /// TCP: the reply's SYN was seen. Not used by others.
    Answered = 1,
    /// TCP: the opener has acknowledged that; others: replied.
    Established = 2,
    /// The opener sent FIN.
    OriginalFin = 3,
    /// The other side sent FIN.
    ReplyFin = 4,
    /// Both sent FIN.
    Closed = 5,
    /// A RST with the exact number was seen (RFC 7857 section 2.2: wait, do not remove at once).
    Reset = 6,
    /// Both sides have shown that they are there: TCP, the other side has sent more than its SYN; others, the opener has gone on
    /// after a reply. What a stranger cannot bring about by sending alone.
    Assured = 7,
}

/// Which idle timer applies; index into [`crate::host::HostConfig::timeout_ns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutClass {
    /// TCP before the handshake is done and after it was closed (RFC 5382 REQ-5: at least 4 minutes).
    TcpTransitory = 0,
    /// TCP established or half-closed (RFC 5382 REQ-5: at least 2 hours 4 minutes).
    TcpEstablished = 1,
    /// UDP (RFC 4787 REQ-5: at least 2 minutes, 5 recommended), and SCTP, whose associations are not followed.
    Udp = 2,
    /// ICMP queries (RFC 5508 REQ-1: at least 60 seconds).
    Icmp = 3,
}

/// How long a flow that has ended, or was one question and one answer, keeps its port from others while there are more: what
/// TIME_WAIT lasts on Linux.
pub const REST_NS: u64 = 60_000_000_000;

/// How long one that was one question and one answer keeps its port and place in any case: another answer may come, or the
/// question once more.
pub const ONE_SHOT_NS: u64 = 2_000_000_000;

/// The states of a connection that is there to stay, as bits by number.
const LONG_LIVED: u8 = 1 << State::Established as u8
    | 1 << State::OriginalFin as u8
    | 1 << State::ReplyFin as u8
    | 1 << State::Assured as u8;

/// How long a question nobody has answered keeps its port in any case: the answer may still be on its way.
pub const UNANSWERED_NS: u64 = 10_000_000_000;

impl State {
    /// All of them, by number.
    pub const ALL: [Self; 8] = [
        Self::Opening,
        Self::Answered,
        Self::Established,
        Self::OriginalFin,
        Self::ReplyFin,
        Self::Closed,
        Self::Reset,
        Self::Assured,
    ];

    /// From a map's byte, of which the lower three bits count.
    #[inline(always)]
    pub const fn from_u8(v: u8) -> Self {
        Self::ALL[(v & 7) as usize]
    }

    /// The state after a packet of a protocol without connections.
    #[inline(always)]
    pub const fn after_datagram(self, original: bool) -> Self {
        match (self, original) {
            (Self::Opening, false) => Self::Established,
            (Self::Established, true) => Self::Assured,
            (state, _) => state,
        }
    }

    /// Whether the connection is over: what follows is the wait for stragglers.
    #[inline(always)]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Closed | Self::Reset)
    }

    /// Whether a connection is one that may give way some time: at least one of its sides has closed.
    #[inline(always)]
    pub const fn may_rest(self) -> bool {
        self.is_ended() || matches!(self, Self::OriginalFin | Self::ReplyFin)
    }

    /// Whether a flow gives its port to another of the pod that opened it, if no other is found: one of datagrams that has rested for a
    /// moment. A client that asks one server again and again comes to ports it has used before, and each looks like a conversation then.
    #[inline(always)]
    pub const fn yields_to_own(self, proto: u8, idle_ns: u64) -> bool {
        proto != proto::TCP && matches!(self, Self::Established | Self::Assured) && idle_ns >= ONE_SHOT_NS
    }

    /// Whether a flow gives its port to one of a pod that has next to none where others have all, if no other is found: all but
    /// connections that are there do, when they have rested for a while.
    #[inline(always)]
    pub const fn yields_to_newcomer(self, proto: u8, idle_ns: u64) -> bool {
        (proto != proto::TCP || LONG_LIVED >> self as u8 & 1 == 0) && idle_ns >= UNANSWERED_NS
    }

    /// Whether a flow gives its port to a new one, another's too, when ports are short (RFC 4787 REQ-5a for the questions to
    /// well-known ports): one that has ended, that nobody has answered for a while, or that was one question and one answer a while ago.
    ///
    /// `idle_ns` is the time since its last packet of either direction, `dport` the port it was opened to. `is_incoming`: a client
    /// opened it to a pod, and whoever is on the LAN may have sent that in a client's name, to keep his port from him.
    #[inline(always)]
    pub const fn yields_port(self, proto: u8, dport: u16, is_incoming: bool, idle_ns: u64) -> bool {
        let is_tcp = proto == proto::TCP;
        match self {
            Self::Closed | Self::Reset => is_tcp,
            Self::Opening | Self::Answered => (is_incoming || !is_tcp) && idle_ns >= UNANSWERED_NS,
            Self::Established if is_tcp => false,
            Self::Established => is_incoming && idle_ns >= UNANSWERED_NS || dport < 1024 && idle_ns >= ONE_SHOT_NS,
            Self::OriginalFin | Self::ReplyFin | Self::Assured => false,
        }
    }

    /// The idle timer that applies.
    #[inline(always)]
    pub const fn timeout_class(self, proto: u8) -> TimeoutClass {
        match proto {
            proto::TCP if LONG_LIVED >> self as u8 & 1 != 0 => TimeoutClass::TcpEstablished,
            proto::TCP => TimeoutClass::TcpTransitory,
            proto::ICMP | proto::ICMPV6 => TimeoutClass::Icmp,
            _ => TimeoutClass::Udp,
        }
    }
}

const _: () = assert!(TimeoutClass::Icmp as usize == 3);

#[cfg(test)]
mod tests {
    use super::State::*;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn datagrams_are_assured_by_a_question_after_the_answer() {
        let after = |states: &[(bool, State)]| {
            let mut state = Opening;
            for (original, then) in states {
                state = state.after_datagram(*original);
                assert_eq!(state, *then);
            }
        };
        after(&[(true, Opening), (true, Opening), (false, Established), (false, Established), (true, Assured)]);
        after(&[(false, Established), (true, Assured), (false, Assured), (true, Assured)]);
    }

    #[test]
    fn states_survive_the_map() {
        for state in State::ALL {
            assert_eq!(State::from_u8(state as u8), state);
        }
        assert_eq!(State::from_u8(200), Opening);
    }

    #[test]
    fn ended_connections_and_answered_questions_yield_their_port() {
        let yields = |proto, dport, idle_ns| -> Vec<_> {
            State::ALL.into_iter().filter(|s| s.yields_port(proto, dport, false, idle_ns)).collect()
        };
        assert_eq!(yields(proto::TCP, 443, u64::MAX), [Closed, Reset]);
        assert_eq!(yields(proto::UDP, 53, ONE_SHOT_NS), [Established]);
        assert_eq!(yields(proto::UDP, 53, ONE_SHOT_NS - 1), []);
        assert_eq!(yields(proto::UDP, 53, UNANSWERED_NS - 1), [Established]);
        assert_eq!(yields(proto::UDP, 53, UNANSWERED_NS), [Opening, Answered, Established]);
        assert_eq!(yields(proto::UDP, 8125, UNANSWERED_NS), [Opening, Answered]);
        assert_eq!(yields(proto::UDP, 3478, u64::MAX), [Opening, Answered], "a STUN binding is there to be reached");
        assert_eq!(yields(proto::ICMP, 0, ONE_SHOT_NS), [Established]);
    }

    /// Whoever is on the LAN may have sent them in a client's name.
    #[test]
    fn what_a_client_has_not_gone_on_with_yields_its_port_after_a_while() {
        let yields = |proto, idle_ns| -> Vec<_> {
            State::ALL.into_iter().filter(|s| s.yields_port(proto, 5000, true, idle_ns)).collect()
        };
        assert_eq!(yields(proto::TCP, UNANSWERED_NS - 1), [Closed, Reset]);
        assert_eq!(yields(proto::TCP, UNANSWERED_NS), [Opening, Answered, Closed, Reset]);
        assert_eq!(yields(proto::UDP, UNANSWERED_NS - 1), []);
        assert_eq!(yields(proto::UDP, UNANSWERED_NS), [Opening, Answered, Established]);
    }

    #[test]
    fn timers() {
        use TimeoutClass::*;
        let classes = [
            TcpTransitory,
            TcpTransitory,
            TcpEstablished,
            TcpEstablished,
            TcpEstablished,
            TcpTransitory,
            TcpTransitory,
            TcpEstablished,
        ];
        for (state, class) in State::ALL.into_iter().zip(classes) {
            assert_eq!(state.timeout_class(proto::TCP), class, "{state:?}");
            assert_eq!(state.timeout_class(proto::UDP), Udp);
            assert_eq!(state.timeout_class(proto::SCTP), Udp);
            assert_eq!(state.timeout_class(proto::ICMP), Icmp);
            assert_eq!(state.timeout_class(proto::ICMPV6), Icmp);
        }
    }
}
