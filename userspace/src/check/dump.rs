//! One netlink dump request and its answers, without a runtime: enough to look around in a namespace.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use nix::sys::time::TimeVal;

/// Length of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const REQUEST_DUMP: u16 = 0x1 | 0x300;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// Longer than any kernel takes to answer, shorter than a user waits.
const TIMEOUT_SECONDS: i64 = 2;

/// Asks for a dump in the calling thread's namespace; returns each answer's bytes after its header.
pub(super) fn dump(protocol: SockProtocol, message_type: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let timeout = TimeVal::new(TIMEOUT_SECONDS, 0);
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &timeout)?;
    let mut request = Vec::with_capacity(HEADER_BYTES + body.len());
    let length = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&message_type.to_ne_bytes());
    request.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(body);
    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;

    let mut answers = Vec::new();
    // The kernel fills at most 32 KiB for a dump.
    let mut block = vec![0; 65_536];
    loop {
        let n = recv(socket.as_raw_fd(), &mut block, MsgFlags::empty())?;
        let mut rest = &block[..n];
        while let Some((message_type, message, after)) = split(rest) {
            match message_type {
                DONE => return Ok(answers),
                ERROR => {
                    let code = message.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => answers.push(message.to_vec()),
            }
            rest = after;
        }
    }
}

/// Type, body and what follows of the first message.
fn split(block: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*block.first_chunk()?)).ok()?;
    let message_type = u16::from_ne_bytes(*block.get(4..)?.first_chunk()?);
    let body = block.get(HEADER_BYTES..length)?;
    let next = length.next_multiple_of(4).min(block.len());
    Some((message_type, body, &block[next..]))
}

/// The value of the first attribute of this type; nested attributes are searched by calling it again.
pub(super) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// `NLA_TYPE_MASK`: the upper two bits are flags.
    const TYPE_MASK: u16 = 0x3fff;
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?) & TYPE_MASK;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_behind_others_and_lies_are_survived() {
        let bytes = [5, 0, 1, 0, 9, 0, 0, 0, 6, 0, 2, 0x80, 7, 8, 0, 0];
        assert_eq!(attribute(&bytes, 1), Some(&[9][..]));
        assert_eq!(attribute(&bytes, 2), Some(&[7, 8][..]));
        assert_eq!(attribute(&bytes, 3), None);
        assert_eq!(attribute(&[200, 0, 1, 0], 1), None);
        assert_eq!(attribute(&[0, 0, 1, 0], 2), None);
    }

    #[test]
    fn a_cut_message_is_no_message() {
        assert!(split(&[20, 0, 0, 0, 3, 0]).is_none());
        assert!(split(&[]).is_none());
    }
}
