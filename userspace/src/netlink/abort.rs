//! Ending TCP connections of a namespace from outside, by `sock_diag`.
//!
//! The kernel that has the connection ends it, as if its program had (`tcp_abort`): the other side gets a RST with the
//! sequence number it expects, which nobody else knows for sure, and the program's next call fails with `ECONNABORTED`.
//! Needs `CONFIG_INET_DIAG_DESTROY`, which distributions have, and `CAP_NET_ADMIN` in the namespace.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use super::NetlinkError;
use crate::netns::Netns;

const NLMSG_ERROR: u16 = 2;
pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
pub(super) const SOCK_DESTROY: u16 = 21;
pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
/// Length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// Where `struct inet_diag_sockid` has its cookie, from the start of a message of either direction (see [`request`]).
const COOKIE_IN_REQUEST: usize = HEADER + 48;
pub(super) const COOKIE_IN_ANSWER: usize = HEADER + 44;
/// Where `struct inet_diag_msg` has the state.
const STATE_IN_ANSWER: usize = HEADER + 1;
const TCP_LISTEN: u8 = 10;
/// "Whichever socket has these addresses".
pub(super) const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Ends the TCP connections with these local and remote ends; says which there were. A listening socket is never ended.
///
/// # Errors
///
/// The kernel refuses; connections before that one have ended.
pub fn abort_connections(
    netns: &Netns,
    connections: &[(SocketAddr, SocketAddr)],
) -> Result<HashSet<(SocketAddr, SocketAddr)>, NetlinkError> {
    netns.run(|| {
        let socket = open().map_err(|e| NetlinkError::Open(e.into()))?;
        let mut ended = HashSet::new();
        for (local, remote) in connections {
            let refused =
                |source| NetlinkError::Refused { what: format!("end connection {local} to {remote}"), source };
            if abort(&socket, *local, *remote).map_err(refused)? {
                ended.insert((*local, *remote));
            }
        }
        Ok(ended)
    })?
}

pub(super) fn open() -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    // The kernel answers before `send` returns: no answer is a fault, and must not stop the caller for ever.
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(2, 0))?;
    connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

/// Ends one; `false` when there is none.
fn abort(socket: &OwnedFd, local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
    // Found first, by a look-up that falls back to a listener on the port; the cookie then stands for that very socket.
    let found = match ask(socket, &request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, local, remote, NO_COOKIE)) {
        Err(e) if is_absent(&e) => return Ok(false),
        found => found?,
    };
    let (Some(state), Some(cookie)) =
        (found.get(STATE_IN_ANSWER), found.get(COOKIE_IN_ANSWER..).and_then(<[u8]>::first_chunk))
    else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    if *state == TCP_LISTEN {
        return Ok(false);
    }
    match ask(socket, &request(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, local, remote, *cookie)) {
        // It has ended by itself meanwhile.
        Err(e) if is_gone(&e) => Ok(false),
        done => done.map(|_| true),
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOENT as i32)
}

/// Whether there is no such socket, or another one by now.
pub(super) fn is_gone(error: &io::Error) -> bool {
    is_absent(error) || error.raw_os_error() == Some(Errno::ESTALE as i32)
}

/// Sends a request and receives the one message that answers it; an error in it is this function's.
pub(super) fn ask(socket: &OwnedFd, request: &[u8]) -> io::Result<Vec<u8>> {
    send(socket.as_raw_fd(), request, MsgFlags::empty())?;
    let mut answer = vec![0; 8192];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    let kind = answer.get(4..).and_then(<[u8]>::first_chunk).map(|b| u16::from_ne_bytes(*b));
    let error = answer.get(HEADER..).and_then(<[u8]>::first_chunk).map(|b| i32::from_ne_bytes(*b));
    match (kind, error) {
        (None, _) | (_, None) => Err(io::ErrorKind::UnexpectedEof.into()),
        (Some(NLMSG_ERROR), Some(error)) if error != 0 => Err(io::Error::from_raw_os_error(-error)),
        _ => Ok(answer),
    }
}

/// `struct nlmsghdr`, then `struct inet_diag_req_v2`: family, protocol, two bytes unused here, a set of states, and the
/// socket's id: ports, addresses, interface and cookie.
pub(super) fn request(kind: u16, flags: u16, local: SocketAddr, remote: SocketAddr, cookie: [u8; 8]) -> Vec<u8> {
    let family = if local.is_ipv4() { nix::libc::AF_INET } else { nix::libc::AF_INET6 };
    let address = |addr: IpAddr| match addr {
        IpAddr::V4(a) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&a.octets());
            bytes
        }
        IpAddr::V6(a) => a.octets(),
    };
    let mut out = Vec::with_capacity(COOKIE_IN_REQUEST + cookie.len());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    #[expect(clippy::cast_possible_truncation, reason = "the two families and the protocol are small numbers")]
    out.extend_from_slice(&[family as u8, nix::libc::IPPROTO_TCP as u8, 0, 0]);
    out.extend_from_slice(&u32::MAX.to_ne_bytes());
    out.extend_from_slice(&local.port().to_be_bytes());
    out.extend_from_slice(&remote.port().to_be_bytes());
    out.extend_from_slice(&address(local.ip()));
    out.extend_from_slice(&address(remote.ip()));
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&cookie);
    let length = u32::try_from(out.len()).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_ne_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout of `linux/inet_diag.h`: 16 + 56 bytes, the cookie last.
    #[test]
    fn requests_are_as_long_as_the_kernel_wants() {
        let ends = ["192.0.2.1:80", "192.0.2.2:4000"].map(|s| s.parse().unwrap());
        let bytes = request(SOCK_DESTROY, NLM_F_REQUEST, ends[0], ends[1], [7; 8]);
        assert_eq!((bytes.len(), &bytes[COOKIE_IN_REQUEST..]), (72, &[7; 8][..]));
        assert_eq!(bytes[24..28], [0, 80, 0x0f, 0xa0]);
    }
}
