//! Links, addresses and routes of one network namespace, over one netlink socket.
//!
//! The socket belongs to the namespace it was opened in and may be used from any thread after that: only opening it
//! takes a thread inside the namespace.

mod abort;
mod addr;
mod link;
mod monitor;
mod nsid;
pub(crate) mod raw;
mod route;
mod sock_diag;
mod sockets;

use std::io;

use nix::errno::Errno;

use crate::netns::{Netns, NetnsError};

pub use abort::abort_connections;
pub use addr::{Address, AddressOptions};
pub use link::{Link, VethEnd, VethPair};
pub use monitor::{Change, Monitor};
pub use nsid::{Nsid, NsidEntry};
pub use route::{Family, Route, RouteKind, RouteSpec};
pub use sockets::abort_sockets;

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
        source: io::Error,
    },
    /// The answer was none.
    #[error("{what}: {source}")]
    Protocol {
        /// The action and its object.
        what: String,
        /// What was wrong.
        source: rtnetlink::Error,
    },
}

impl NetlinkError {
    /// Sorts an error of the kernel: existing and absent objects are expected by callers that repeat themselves.
    fn of(what: impl Into<String>, error: rtnetlink::Error) -> Self {
        let what = what.into();
        let rtnetlink::Error::NetlinkError(message) = &error else {
            return Self::Protocol { what, source: error };
        };
        let source = message.to_io();
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EEXIST) => Self::Exists { what },
            Some(Errno::ENODEV | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENOENT) => Self::Absent { what },
            _ => Self::Refused { what, source },
        }
    }

    /// Whether it failed because the object was there already.
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::Exists { .. })
    }

    /// Whether it failed because the object, or its device, is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }
}

/// Makes repeating an action harmless.
pub trait Idempotent {
    /// "It exists already" is success.
    fn or_exists(self) -> Self;
    /// "No such object" is success.
    fn or_absent(self) -> Self;
}

impl Idempotent for Result<(), NetlinkError> {
    fn or_exists(self) -> Self {
        self.or_else(|e| if e.is_exists() { Ok(()) } else { Err(e) })
    }

    fn or_absent(self) -> Self {
        self.or_else(|e| if e.is_absent() { Ok(()) } else { Err(e) })
    }
}

/// A netlink socket in one namespace.
///
/// Needs a tokio runtime; its connection ends soon after this is dropped ([`Netlink::close`]: at once).
#[derive(Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Netlink {
    /// In the calling thread's namespace. Call it inside a tokio runtime.
    pub fn in_current() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// In `netns`. Call it inside a tokio runtime.
    pub fn in_netns(netns: &Netns) -> Result<Self, NetlinkError> {
        let runtime = tokio::runtime::Handle::current();
        netns.run(|| {
            let _context = runtime.enter();
            Self::in_current()
        })?
    }
}

impl Netlink {
    /// Closes the socket and waits until it is: an open one keeps its namespace alive.
    pub async fn close(mut self) {
        self.connection.abort();
        // That it was aborted is what is waited for.
        let _ = (&mut self.connection).await;
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
