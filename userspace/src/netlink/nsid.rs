//! The numbers by which a network namespace knows others: what `ip netns set` and `list-id` are about.
//!
//! But for [`Netlink::nsid_of`], it is asked in the calling thread's namespace, whose numbers they are.

use std::os::fd::AsRawFd;

use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use super::{Netlink, NetlinkError, Opaque, Socket, SocketError};
use crate::netns::Netns;

/// A number of another namespace; never negative.
pub type Nsid = i32;

const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const NETNSA_TARGET_NSID: u16 = 4;
const NETNSA_CURRENT_NSID: u16 = 5;
/// What the kernel says instead of a number, and is told for "whichever is free".
const NOT_ASSIGNED: i32 = -1;
/// Length of `struct rtgenmsg`, padded; all of it is 0.
const HEADER_BYTES: usize = 4;

/// What one namespace calls another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NsidEntry {
    /// Its number there; `None` if it has none.
    pub nsid: Option<Nsid>,
    /// Where another namespace's numbers were asked for: its number here, if it has one.
    pub current: Option<Option<Nsid>>,
}

impl NsidEntry {
    /// The number `netns` has here.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn of(netns: &Netns) -> Result<Option<Nsid>, NetlinkError> {
        let answer = get(body(&[(NETNSA_FD, netns.as_raw_fd())]));
        let answer = answer.map_err(|e| NetlinkError::sort(format!("ask for the id of {}", netns.label()), e))?;
        Ok(Self::read(&answer).and_then(|entry| entry.nsid))
    }

    /// Gives `netns` a number here, or the next free one. A number stays until the namespace ends.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Exists`] when it has a number, or the number is another's.
    pub fn assign(netns: &Netns, nsid: Option<Nsid>) -> Result<(), NetlinkError> {
        let body = body(&[(NETNSA_FD, netns.as_raw_fd()), (NETNSA_NSID, nsid.unwrap_or(NOT_ASSIGNED))]);
        let done = socket().and_then(|mut s| s.request(0, Opaque { message_type: RTM_NEWNSID, body }));
        done.map_err(|e| NetlinkError::sort(format!("give {} an id", netns.label()), e))
    }

    /// What the namespace with number `nsid` is called here, or by the namespace `target`.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Absent`] when one of the numbers is nobody's.
    pub fn one(nsid: Nsid, target: Option<Nsid>) -> Result<Self, NetlinkError> {
        let what = || format!("ask for id {nsid}{}", of_target(target));
        let answer = get(about(Some(nsid), target));
        let answer = answer.map_err(|e| NetlinkError::sort(what(), e))?;
        Self::read(&answer)
            .ok_or_else(|| NetlinkError::sort(what(), DecodeError::from("an answer without an id").into()))
    }

    /// All numbers there are here, or in the namespace with number `target`, in order.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Absent`] when the target is nobody.
    pub fn all(target: Option<Nsid>) -> Result<Vec<Self>, NetlinkError> {
        let question = Opaque { message_type: RTM_GETNSID, body: about(None, target) };
        let answers: Result<Vec<Opaque>, _> = socket().and_then(|mut s| s.dump(&question));
        let answers = answers.map_err(|e| NetlinkError::sort(format!("list ids{}", of_target(target)), e))?;
        let mut entries: Vec<Self> = answers.iter().filter_map(|answer| Self::read(&answer.body)).collect();
        entries.sort_unstable_by_key(|entry| entry.nsid);
        Ok(entries)
    }

    fn read(message: &[u8]) -> Option<Self> {
        let attributes = message.get(HEADER_BYTES..)?;
        let number = |kind| {
            let mut all = NlasIterator::new(attributes).map_while(Result::ok);
            Some(i32::from_ne_bytes(*all.find(|a| a.kind() == kind)?.value().first_chunk()?))
        };
        let assigned = |number: i32| (number >= 0).then_some(number);
        Some(Self { nsid: assigned(number(NETNSA_NSID)?), current: number(NETNSA_CURRENT_NSID).map(assigned) })
    }
}

impl Netlink {
    /// The number `netns` has in the namespace of this socket.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn nsid_of(&self, netns: &Netns) -> Result<Option<Nsid>, NetlinkError> {
        let question = Opaque { message_type: RTM_GETNSID, body: body(&[(NETNSA_FD, netns.as_raw_fd())]) };
        let answer: Result<Opaque, _> = self.socket().get(question);
        let answer = answer.map_err(|e| NetlinkError::sort(format!("ask for the id of {}", netns.label()), e))?;
        Ok(NsidEntry::read(&answer.body).and_then(|entry| entry.nsid))
    }
}

impl NetlinkError {
    /// Sorts an answer about a namespace that the caller has named by number.
    fn sort(what: String, source: SocketError) -> Self {
        match source.errno() {
            Some(Errno::EEXIST | Errno::ENOSPC) => Self::Exists { what },
            Some(Errno::EINVAL | Errno::ENOENT) => Self::Absent { what },
            _ => Self::of(what, source),
        }
    }
}

fn of_target(target: Option<Nsid>) -> String {
    target.map_or_else(String::new, |target| format!(" in the namespace with id {target}"))
}

fn socket() -> Result<Socket, SocketError> {
    Ok(Socket::open(NETLINK_ROUTE)?)
}

/// The body of what answers this question.
fn get(body: Vec<u8>) -> Result<Vec<u8>, SocketError> {
    let answer: Opaque = socket()?.get(Opaque { message_type: RTM_GETNSID, body })?;
    Ok(answer.body)
}

fn about(nsid: Option<Nsid>, target: Option<Nsid>) -> Vec<u8> {
    let given = [(NETNSA_NSID, nsid), (NETNSA_TARGET_NSID, target)];
    body(&given.into_iter().filter_map(|(kind, value)| Some((kind, value?))).collect::<Vec<_>>())
}

/// The header and attributes of 32 bits.
fn body(attributes: &[(u16, i32)]) -> Vec<u8> {
    const ATTRIBUTE_BYTES: u16 = 8;
    let mut body = vec![0; HEADER_BYTES];
    for (kind, value) in attributes {
        body.extend_from_slice(&ATTRIBUTE_BYTES.to_ne_bytes());
        body.extend_from_slice(&kind.to_ne_bytes());
        body.extend_from_slice(&value.to_ne_bytes());
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let entry = |nsid, current| Some(NsidEntry { nsid, current });
        assert_eq!(NsidEntry::read(&body(&[(NETNSA_NSID, 7)])), entry(Some(7), None));
        assert_eq!(NsidEntry::read(&body(&[(NETNSA_NSID, NOT_ASSIGNED)])), entry(None, None));
        let both = body(&[(NETNSA_CURRENT_NSID, NOT_ASSIGNED), (NETNSA_NSID, 0)]);
        assert_eq!(NsidEntry::read(&both), entry(Some(0), Some(None)));
        assert_eq!(NsidEntry::read(&[0; 3]), None);
        assert_eq!(NsidEntry::read(&body(&[])), None);
    }
}
