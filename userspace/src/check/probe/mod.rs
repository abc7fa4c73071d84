//! The traffic of a case: one file per protocol.

mod datagram;
mod echo;
mod mapping;
mod pieces;
mod refuse;
mod route;
mod shared;
mod socket;
mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::case::{Case, Probe, Target};
use super::host_state::{HostStateError, host_state};
use super::places::Places;
use crate::netns::{Netns, NetnsError};

/// Why a case did not hold.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A case names a place nobody opened.
    #[error("no namespace is known as {0:?}")]
    NoPlace(&'static str),
    /// A namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A call on a socket failed, or nothing came in time.
    #[error("{what} {peer}: {}", explain(source))]
    Socket {
        /// What was tried, as a verb.
        what: &'static str,
        /// With whom.
        peer: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The answerer sees somebody else.
    #[error("{at} sees the packets come from {seen}, not from {expected}")]
    SeenAs {
        /// The answerer.
        at: &'static str,
        /// The source address it sees.
        seen: IpAddr,
        /// The source address it must see.
        expected: IpAddr,
    },
    /// The bytes that arrived are not those that were sent.
    #[error("byte {offset} of {bytes} arrived wrong at {at}")]
    Corrupt {
        /// Who received.
        at: &'static str,
        /// Position of the first wrong byte.
        offset: usize,
        /// Bytes in all.
        bytes: usize,
    },
    /// The connection ended early.
    #[error("{at} received {received} of {bytes} bytes")]
    Short {
        /// Who received.
        at: &'static str,
        /// Bytes that came.
        received: usize,
        /// Bytes in all.
        bytes: usize,
    },
    /// The hop limit at the answerer is off.
    #[error("the hop limit at {at} is {seen}, not {expected}")]
    HopLimit {
        /// The answerer.
        at: &'static str,
        /// What arrived.
        seen: u8,
        /// What must.
        expected: u8,
    },
    /// The kernel did not say with which hop limit a datagram came.
    #[error("the kernel of {at} did not report the hop limit")]
    NoHopLimit {
        /// The answerer.
        at: &'static str,
    },
    /// No answer to an echo request.
    #[error("no echo reply from {target}: the request {}", arrival(*arrived))]
    NoEcho {
        /// Who was asked.
        target: IpAddr,
        /// Whether the answerer saw the request.
        arrived: bool,
    },
    /// No ICMP error where there should be one.
    #[error("no ICMP error from {expected} for a packet to {target} with {why}")]
    NoIcmpError {
        /// Who should have sent it.
        expected: IpAddr,
        /// Where the packet went.
        target: IpAddr,
        /// What was wrong with the packet.
        why: String,
    },
    /// An ICMP error, but another one.
    #[error("ICMP error {seen}, not {expected}")]
    IcmpError {
        /// What came.
        seen: String,
        /// What should have.
        expected: String,
    },
    /// Connecting worked where it must not.
    #[error("{0} can be connected to, and must not be")]
    Open(SocketAddr),
    /// Connecting failed as it must, but in another way.
    #[error("connecting to {target}: {}, and should be host-unreachable", explain(source))]
    NotUnreachable {
        /// Who was connected to.
        target: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A datagram to nobody was answered in another way than by an ICMP error.
    #[error("a datagram to {target}, where nobody listens: {}, and should be connection refused", explain(source))]
    NotRefused {
        /// Who was sent to.
        target: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Two answerers see one socket by two addresses.
    #[error("one of two it sends to sees {0}, the other one {1}")]
    Unmapped(SocketAddr, SocketAddr),
    /// An answer comes from somebody else than was asked.
    #[error("an answer comes from {by}, not from {expected}")]
    Heard {
        /// Who answered.
        by: SocketAddr,
        /// Who was asked.
        expected: SocketAddr,
    },
    /// Connections to a shared port do not reach all of its pods.
    #[error("none of {connections} connections to {at} has reached {missing}")]
    NotShared {
        /// Where the connections went.
        at: SocketAddr,
        /// How many there were.
        connections: u32,
        /// Who saw none.
        missing: &'static str,
    },
    /// The answerer saw a connection that must not reach it.
    #[error("{at} was reached by {by}")]
    Reached {
        /// The answerer.
        at: &'static str,
        /// Whom it saw.
        by: SocketAddr,
    },
    /// The host is not as it must be.
    #[error(transparent)]
    HostState(#[from] HostStateError),
}

impl ProbeError {
    fn socket(what: &'static str, peer: SocketAddr) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Socket { what, peer, source }
    }
}

/// A socket's time-out comes as "try again" (receive) or "in progress" (connect), which tells a reader nothing.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "nothing came in time".to_owned(),
        _ => error.to_string(),
    }
}

fn arrival(arrived: bool) -> &'static str {
    if arrived { "arrived, the reply did not" } else { "was not seen to arrive" }
}

/// Opener and answerer of a case, resolved to namespaces.
struct Pair<'a> {
    case: &'a Case,
    from: &'a Netns,
    to: &'a Netns,
}

impl Pair<'_> {
    fn opener_ip(&self) -> IpAddr {
        self.case.from.ip(self.case.family)
    }

    fn answerer_ip(&self) -> IpAddr {
        self.case.to.ip(self.case.family)
    }

    /// Where the answerer listens: any port for direct traffic, the pod's port for published.
    fn listen_at(&self, target: Target) -> SocketAddr {
        match target {
            Target::Direct => SocketAddr::new(self.answerer_ip(), 0),
            Target::Published { pod_port, .. } => SocketAddr::new(self.answerer_ip(), pod_port),
        }
    }

    /// Where the opener aims, given where the answerer ended up listening.
    fn aim(&self, target: Target, listening: SocketAddr) -> SocketAddr {
        match target {
            Target::Direct => SocketAddr::new(self.answerer_ip(), listening.port()),
            Target::Published { at, .. } => at,
        }
    }

    fn check_seen(&self, seen: SocketAddr, expected: IpAddr) -> Result<(), ProbeError> {
        check_seen(self.case.to.name, seen, expected)
    }
}

fn check_seen(at: &'static str, seen: SocketAddr, expected: IpAddr) -> Result<(), ProbeError> {
    if seen.ip().to_canonical() == expected {
        return Ok(());
    }
    Err(ProbeError::SeenAs { at, seen: seen.ip(), expected })
}

/// Sends a case's traffic and says whether all that must be seen of it was.
pub(super) fn probe(places: &Places, case: &Case) -> Result<(), ProbeError> {
    let place = |word: &'static str| places.get(word).ok_or(ProbeError::NoPlace(word));
    let pair = Pair { case, from: place(case.from.place)?, to: place(case.to.place)? };
    match &case.probe {
        Probe::Tcp { bytes, target, seen_as } => stream::exchange(&pair, *bytes, *target, *seen_as),
        Probe::Udp { bytes, target, seen_as, hop_limit } => {
            datagram::exchange(&pair, *bytes, *target, *seen_as, *hop_limit)
        }
        Probe::Pieces { bytes, target, seen_as, order } => pieces::exchange(&pair, *bytes, *target, *seen_as, *order),
        Probe::Mapped { also, stranger, seen_as } => mapping::converse(&pair, *also, *stranger, *seen_as),
        Probe::Shared { at, pod_port, with, seen_as } => {
            shared::connect_to_all(&pair, (*with, place(with.place)?), *at, *pod_port, *seen_as)
        }
        Probe::Refused { target } => refuse::refused(&pair, *target),
        Probe::Echo { seen_as } => echo::ask(&pair, *seen_as),
        Probe::Trace { hops } => route::trace(&pair, hops),
        Probe::TooBig { bytes, router, mtu_bytes } => route::too_big(&pair, *bytes, *router, *mtu_bytes),
        Probe::HostUnreachable => refuse::host_unreachable(&pair),
        Probe::Closed { target } => refuse::closed(&pair, *target),
        Probe::HostState => Ok(host_state(pair.from)?),
    }
}
