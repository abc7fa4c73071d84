//! What a case is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The word for it in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// A place and the addresses by which it is reached there.
///
/// The place is a name of [`super::Places`]; one place can be several sites (the LAN's server and its client).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The word for it in tables.
    pub name: &'static str,
    /// The namespace it is in.
    pub place: &'static str,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Site {
    /// Its address of one family.
    pub const fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        }
    }
}

/// One thing that must hold.
#[derive(Clone, Debug)]
pub struct Case {
    /// The path it belongs to, e.g. `pod to pod`.
    pub path: &'static str,
    /// Who opens.
    pub from: Site,
    /// Who answers.
    pub to: Site,
    /// Family of the traffic.
    pub family: Family,
    /// The traffic, and what must be seen of it.
    pub probe: Probe,
}

/// Traffic, and what must be seen of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A TCP connection over which `bytes` go there and back, compared byte for byte.
    Tcp {
        /// Bytes each way; a few million make GSO-sized packets.
        bytes: usize,
        /// Where the opener connects to.
        target: Target,
        /// The source address the answerer must see.
        seen_as: IpAddr,
    },
    /// A UDP datagram of `bytes` and one back.
    Udp {
        /// Payload bytes each way.
        bytes: usize,
        /// Where the opener sends to.
        target: Target,
        /// The source address the answerer must see.
        seen_as: IpAddr,
        /// Hop limit the answerer must see; sent with 64.
        hop_limit: u8,
    },
    /// A UDP datagram of `bytes` and one back, each cut in pieces by the sender and sent piece by piece.
    Pieces {
        /// Payload bytes each way.
        bytes: usize,
        /// Where the opener sends to.
        target: Target,
        /// The source address the answerer must see.
        seen_as: IpAddr,
        /// In which order.
        order: Order,
    },
    /// A UDP datagram to where nobody listens: the opener's socket is told by ICMP.
    Refused {
        /// Where the opener sends to.
        target: Target,
    },
    /// Datagrams from one socket to two addresses of the answerer's machine: both see the same source, and at that address a third
    /// one, which was sent nothing, reaches the socket (RFC 4787 sections 4.1 and 5, endpoint-independent both).
    Mapped {
        /// The second address.
        also: IpAddr,
        /// The third one.
        stranger: IpAddr,
        /// The source address they must see.
        seen_as: IpAddr,
    },
    /// TCP connections to one address and port reach the answerer, and another pod.
    Shared {
        /// Where the opener connects to.
        at: SocketAddr,
        /// The port both listen on.
        pod_port: u16,
        /// The other pod.
        with: Site,
        /// The source address they must see.
        seen_as: IpAddr,
    },
    /// An ICMP echo request and its reply.
    Echo {
        /// The source address the answerer must see; none where no namespace's kernel answers, but the data path.
        seen_as: Option<IpAddr>,
    },
    /// `traceroute`: the answerer's address is reached over exactly these hops.
    Trace {
        /// Addresses that answer for the hop limits 1, 2, ..., the answerer's own last.
        hops: Vec<IpAddr>,
    },
    /// A datagram of `bytes` that must not be fragmented is refused by `router` with this MTU.
    TooBig {
        /// Payload bytes.
        bytes: usize,
        /// Who must say so.
        router: IpAddr,
        /// What it must say.
        mtu_bytes: u32,
    },
    /// Connecting to the answerer's address fails with host-unreachable, and an answerer that listens sees nothing.
    HostUnreachable,
    /// Connecting to this address and port fails in any way, and an answerer that listens sees nothing.
    Closed {
        /// Where the opener connects to.
        target: Target,
    },
    /// What must be so on the host while all this works: see [`super::host_state()`].
    HostState,
}

/// Where the opener of a connection aims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The answerer's own address, on a port chosen by its kernel.
    Direct,
    /// This published address, where the answerer listens on the given port of its own.
    Published {
        /// Address and port the opener uses.
        at: SocketAddr,
        /// The answerer's port.
        pod_port: u16,
    },
}

/// The order in which a datagram's pieces are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first one first.
    Forward,
    /// The first one last.
    Reverse,
    /// As this seed, not 0, has it.
    Shuffled(u64),
}

impl Order {
    /// The numbers of `n` pieces in this order.
    pub fn of(self, n: usize) -> Vec<usize> {
        let mut pieces: Vec<usize> = (0..n).collect();
        match self {
            Self::Forward => {}
            Self::Reverse => pieces.reverse(),
            Self::Shuffled(mut seed) => {
                for left in (1..n).rev() {
                    // Marsaglia's xorshift.
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    pieces.swap(left, (seed % (left as u64 + 1)) as usize);
                }
            }
        }
        pieces
    }
}

impl Probe {
    /// The word for the protocol in tables and JSON.
    pub fn protocol(&self) -> &'static str {
        match self {
            Self::Tcp { bytes, .. } if *bytes > 65_536 => "tcp gso",
            Self::Tcp { .. } => "tcp",
            Self::Udp { .. } => "udp",
            Self::Pieces { order: Order::Forward, .. } => "udp pieces",
            Self::Pieces { .. } => "udp disorder",
            Self::Mapped { .. } => "udp full cone",
            Self::Shared { .. } => "tcp shared",
            Self::Refused { .. } => "icmp error",
            Self::Echo { .. } => "icmp echo",
            Self::Trace { .. } => "traceroute",
            Self::TooBig { .. } => "too big",
            Self::HostUnreachable => "unreachable",
            Self::Closed { .. } => "closed",
            Self::HostState => "host state",
        }
    }
}

impl Case {
    /// The opener, with its address.
    pub fn from_text(&self) -> String {
        format!("{} {}", self.from.name, self.from.ip(self.family))
    }

    /// The answerer, with the address and port the opener uses.
    pub fn to_text(&self) -> String {
        let published = match &self.probe {
            Probe::Tcp { target, .. }
            | Probe::Udp { target, .. }
            | Probe::Pieces { target, .. }
            | Probe::Refused { target }
            | Probe::Closed { target } => *target,
            Probe::Shared { at, pod_port, .. } => Target::Published { at: *at, pod_port: *pod_port },
            _ => Target::Direct,
        };
        match published {
            Target::Direct => format!("{} {}", self.to.name, self.to.ip(self.family)),
            Target::Published { at, .. } => format!("{} by {at}", self.to.name),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}, {}", self.path, self.from_text(), self.to_text(), self.probe.protocol())
    }
}
