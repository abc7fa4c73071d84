//! Netlink requests and their answers, without a runtime: enough to look around in a namespace, and for what no crate in use
//! here asks of the kernel.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// Length of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
const NLM_F_REQUEST: u16 = 0x1;
/// Whole tables instead of one thing.
const NLM_F_DUMP: u16 = 0x300;
/// An error, or with code 0 an acknowledgement.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Longer than any kernel takes to answer, shorter than a user waits.
const TIMEOUT_SECONDS: i64 = 2;
/// The kernel fills at most 32 KiB for a dump.
const BLOCK_BYTES: usize = 65_536;

/// A message's answer is acknowledged, if it has no other.
pub(crate) const NLM_F_ACK: u16 = 0x4;

/// A socket for the kernel, in the calling thread's namespace.
pub(crate) fn open(protocol: SockProtocol) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    // The kernel answers before `send` returns: no answer is a fault, and must not stop the caller for ever.
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT_SECONDS, 0))?;
    connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends a request and receives the one message that answers it: what follows its header. An error in it is this function's.
pub(crate) fn ask(socket: &OwnedFd, message_type: u16, flags: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    send(socket.as_raw_fd(), &request(message_type, flags, body), MsgFlags::empty())?;
    let mut block = vec![0; BLOCK_BYTES];
    let n = recv(socket.as_raw_fd(), &mut block, MsgFlags::empty())?;
    match split(&block[..n]) {
        Some((NLMSG_ERROR, message, _)) => failure(message).map_or(Ok(Vec::new()), Err),
        Some((_, message, _)) => Ok(message.to_vec()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Asks for a dump in the calling thread's namespace; returns each answer's bytes after its header.
pub(crate) fn dump(protocol: SockProtocol, message_type: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    dump_by(&open(protocol)?, message_type, body).map(|(answers, _)| answers)
}

/// The same by a socket that is open already, and with it the error that ended the dump early, if one did.
pub(crate) fn dump_by(
    socket: &OwnedFd,
    message_type: u16,
    body: &[u8],
) -> io::Result<(Vec<Vec<u8>>, Option<io::Error>)> {
    send(socket.as_raw_fd(), &request(message_type, NLM_F_DUMP, body), MsgFlags::empty())?;
    let mut answers = Vec::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let n = recv(socket.as_raw_fd(), &mut block, MsgFlags::empty())?;
        let mut rest = &block[..n];
        while let Some((message_type, message, after)) = split(rest) {
            match message_type {
                NLMSG_DONE => return Ok((answers, failure(message))),
                NLMSG_ERROR => {
                    return Err(failure(message).unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()));
                }
                _ => answers.push(message.to_vec()),
            }
            rest = after;
        }
    }
}

/// A request, whose header is its caller's flags and length.
fn request(message_type: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER_BYTES + body.len());
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&message_type.to_ne_bytes());
    request.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(body);
    request
}

/// What a message of type error says; `None` if that all is well.
fn failure(message: &[u8]) -> Option<io::Error> {
    let code = message.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
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
pub(crate) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
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
        assert!(split(&[1, 0, 0]).is_none());
        assert!(split(&[4, 0, 0, 0, 1, 0, 0, 0]).is_none(), "shorter than its own header");
    }
}
