//! The sandbox: a pod host to play with, in namespaces of its own.
//!
//! It has a host namespace with one uplink, a LAN at the other end of it, and the topology of `default.toml`. Nothing
//! of the machine's own network is touched.

pub mod layout;
mod picture;
mod record;
mod stage;

use std::io;

use crate::netlink::NetlinkError;
use crate::netns::NetnsError;
use crate::sysctl::SysctlError;

/// The topology of the sandbox, as a file would say it.
pub const DEFAULT_TOPOLOGY: &str = include_str!("default.toml");

/// Why the sandbox cannot be.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Another process runs it.
    #[error("a sandbox is running already: end it first, or look at it with `netns --instance sandbox status`")]
    Running,
    /// A name it needs is taken.
    #[error(
        "a network namespace named {0:?} exists already, and the sandbox needs the name: delete it with `netns del {0}` or `ip netns del {0}`"
    )]
    Taken(String),
    /// Its own file is out of reach.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file.
        path: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A namespace cannot be made, entered or removed.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A link, address or route cannot be made.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A setting cannot be made.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}
