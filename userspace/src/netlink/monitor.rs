//! Changes of a namespace, as they happen.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::socket::each;
use super::{NetlinkError, Netns};

/// `RTNLGRP_LINK`, and addresses and routes of both families.
const GROUPS: [u32; 5] = [1, 5, 9, 7, 11];
/// The kernel's messages of changes are no longer than a page or two.
const BLOCK_BYTES: usize = 65_536;
/// Blocks read at once: a storm does not keep the caller from all else.
const MOST_BLOCKS: usize = 1024;
/// What fails when it does.
const WHAT: &str = "follow changes of a network";

/// That something changed; what it is now is to be read anew, because messages can be lost when many come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// The interface of this index came, went or changed.
    Link(u32),
    /// An address of the interface of this index came or went.
    Address(u32),
    /// A route came or went.
    Route,
    /// Messages were lost: read everything anew.
    Unknown,
}

/// The changes of one namespace's links, addresses and routes from now on. Its descriptor is readable when there are some.
#[derive(Debug)]
pub struct Monitor {
    socket: netlink_sys::Socket,
    block: Vec<u8>,
}

impl Monitor {
    /// In the calling thread's namespace.
    pub fn in_current() -> Result<Self, NetlinkError> {
        Self::open().map_err(NetlinkError::Open)
    }

    /// In `netns`.
    pub fn in_netns(netns: &Netns) -> Result<Self, NetlinkError> {
        netns.run(Self::in_current)?
    }

    fn open() -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Self { socket, block: Vec::with_capacity(BLOCK_BYTES) })
    }

    /// What has changed since the last call; waits for nothing. Where the kernel had more to tell than there was room for,
    /// [`Change::Unknown`] stands for it.
    pub fn read(&mut self) -> Result<HashSet<Change>, NetlinkError> {
        let mut changes = HashSet::new();
        for _ in 0..MOST_BLOCKS {
            self.block.clear();
            match self.socket.recv(&mut self.block, libc::MSG_TRUNC) {
                Ok(length) if length > self.block.len() => drop(changes.insert(Change::Unknown)),
                Ok(_) => read_block(&self.block, &mut changes),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(Errno::ENOBUFS as i32) => drop(changes.insert(Change::Unknown)),
                Err(e) => return Err(NetlinkError::Failed { what: WHAT.to_owned(), source: e.into() }),
            }
        }
        Ok(changes)
    }

    /// Waits until something changes, and no longer than until then.
    pub fn wait(&mut self, until: Instant) -> Result<HashSet<Change>, NetlinkError> {
        let left = until.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => self.read(),
            Err(e) => Err(NetlinkError::Failed { what: WHAT.to_owned(), source: io::Error::from(e).into() }),
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn read_block(block: &[u8], changes: &mut HashSet<Change>) {
    let read = each(block, |_, message| {
        // One that cannot be read is a change all the same.
        let payload = NetlinkMessage::deserialize(message).map(|m| m.payload);
        changes.extend(payload.map_or(Some(Change::Unknown), |payload| change(&payload)));
        Ok(())
    });
    if read.is_err() {
        changes.insert(Change::Unknown);
    }
}

fn change(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Change> {
    use RouteNetlinkMessage as M;
    match payload {
        NetlinkPayload::InnerMessage(M::NewLink(m) | M::DelLink(m)) => Some(Change::Link(m.header.index)),
        NetlinkPayload::InnerMessage(M::NewAddress(m) | M::DelAddress(m)) => Some(Change::Address(m.header.index)),
        NetlinkPayload::InnerMessage(M::NewRoute(_) | M::DelRoute(_)) => Some(Change::Route),
        NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => Some(Change::Unknown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_a_change() {
        for block in [&[1, 2, 3][..], &[17, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]] {
            let mut changes = HashSet::new();
            read_block(block, &mut changes);
            assert_eq!(changes, HashSet::from([Change::Unknown]), "{block:?}");
        }
    }
}
