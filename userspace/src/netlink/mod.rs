//! Links, addresses and routes of one network namespace, and its sockets' ends, over netlink.
//!
//! A socket ([`Socket`]) belongs to the namespace it was opened in and may be used from any thread after that: only opening it
//! takes a thread inside the namespace. Nothing here waits but [`Monitor`], which the caller polls.

mod abort;
mod addr;
mod link;
mod monitor;
mod neighbour;
mod nsid;
mod route;
mod rule;
mod settings;
mod sock_diag;
mod socket;
mod sockets;
mod tc;

use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use crate::netns::{Netns, NetnsError};

pub use abort::abort_connections;
pub use addr::{Address, AddressOptions};
pub use link::{Link, VethEnd, VethPair};
pub use monitor::{Change, Monitor};
pub use nsid::{Nsid, NsidEntry};
pub use route::{Family, Route, RouteKind, RouteSpec, default_routes};
pub use rule::Rule;
pub use socket::{Opaque, Refusal, Socket, SocketError};
pub use sockets::abort_sockets;
pub use tc::BlockFilter;
pub(crate) use tc::PRIORITY as BLOCK_PRIORITY;

/// What can go wrong with a link, an address or a route.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// What was to be made is there already.
    #[error("{what}: it exists already")]
    Exists {
        /// The action and its object.
        what: String,
    },
    /// What was asked for, or what it refers to, is not there.
    #[error("{what}: no such object")]
    Absent {
        /// The action and its object.
        what: String,
    },
    /// Index and name belong to different interfaces: somebody else's device has the index.
    #[error("interface {index} is {found:?}, not {expected:?}: left alone")]
    NotOurs {
        /// The index.
        index: u32,
        /// The name it should have.
        expected: String,
        /// The name it has.
        found: String,
    },
    /// The kernel refused.
    #[error("{what}: {source}")]
    Refused {
        /// The action and its object.
        what: String,
        /// The kernel's answer.
        source: Refusal,
    },
    /// There was no answer, or none that can be read.
    #[error("{what}: {source}")]
    Failed {
        /// The action and its object.
        what: String,
        /// What was wrong.
        source: SocketError,
    },
}

impl NetlinkError {
    /// Sorts an error of the kernel: existing and absent objects are expected by callers that repeat themselves.
    fn of(what: impl Into<String>, error: SocketError) -> Self {
        let what = what.into();
        match error {
            SocketError::Refused(refusal) => Self::refused(what, refusal),
            source => Self::Failed { what, source },
        }
    }

    fn refused(what: String, source: Refusal) -> Self {
        match source.errno {
            Errno::EEXIST => Self::Exists { what },
            Errno::ENODEV | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENOENT => Self::Absent { what },
            _ => Self::Refused { what, source },
        }
    }

    /// Whether it failed because the object was there already.
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::Exists { .. })
    }

    /// Whether the kernel has nothing of the kind.
    pub fn is_unsupported(&self) -> bool {
        let Self::Refused { source, .. } = self else { return false };
        matches!(source.errno, Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)
    }

    /// Whether it failed because the object, or its device, is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }
}

/// A change of links, addresses or routes, to be made alone or with others ([`Netlink::request_all`]).
#[derive(Debug, Clone)]
pub struct Request {
    what: String,
    flags: u16,
    message: RouteNetlinkMessage,
    may_exist: bool,
    may_be_absent: bool,
}

impl Request {
    const fn new(what: String, flags: u16, message: RouteNetlinkMessage) -> Self {
        Self { what, flags, message, may_exist: false, may_be_absent: false }
    }

    /// "It exists already" is success.
    pub fn or_exists(self) -> Self {
        Self { may_exist: true, ..self }
    }

    /// "No such object" is success.
    pub fn or_absent(self) -> Self {
        Self { may_be_absent: true, ..self }
    }
}

/// Links, addresses and routes of one namespace.
#[derive(Debug)]
pub struct Netlink {
    // Its answers are for whoever asked last.
    socket: Mutex<Socket>,
}

impl Netlink {
    /// In the calling thread's namespace.
    pub fn in_current() -> Result<Self, NetlinkError> {
        let socket = Socket::open(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        Ok(Self { socket: Mutex::new(socket) })
    }

    /// In `netns`.
    pub fn in_netns(netns: &Netns) -> Result<Self, NetlinkError> {
        netns.run(Self::in_current)?
    }

    /// Makes one change.
    pub fn request(&self, request: Request) -> Result<(), NetlinkError> {
        self.request_all(vec![request])
    }

    /// Makes changes in this order, all in one message to the kernel. One that fails does not stop those behind it; the first
    /// that failed is the error.
    pub fn request_all(&self, requests: Vec<Request>) -> Result<(), NetlinkError> {
        let messages = requests.iter().map(|r| (r.flags, r.message.clone())).collect();
        let answers = self.socket().batch(messages);
        let first = || requests.first().map_or_else(String::new, |r| r.what.clone());
        let answers = answers.map_err(|e| NetlinkError::of(first(), e))?;
        for (request, answer) in requests.into_iter().zip(answers) {
            match answer.map_err(|refusal| NetlinkError::refused(request.what, refusal)) {
                Err(e) if (e.is_exists() && request.may_exist) || (e.is_absent() && request.may_be_absent) => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn get(
        &self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, NetlinkError> {
        self.socket().get(message).map_err(|e| NetlinkError::of(what(), e))
    }

    fn dump(&self, what: &str, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.socket().dump(message).map_err(|e| NetlinkError::of(what, e))
    }

    fn socket(&self) -> MutexGuard<'_, Socket> {
        // Whoever panicked left answers behind at worst, which are told by their numbers.
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
