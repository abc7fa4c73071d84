//! Ending TCP connections of a namespace from outside, by `sock_diag`.
//!
//! The kernel that has the connection ends it, as if its program had (`tcp_abort`): the other side gets a RST with the
//! sequence number it expects, which nobody else knows for sure, and the program's next call fails with `ECONNABORTED`.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use netns_ebpf_common::proto;
use nix::sys::socket::SockProtocol;

use super::NetlinkError;
use super::raw::{ask, open};
use super::sock_diag::{COOKIE_IN_ANSWER, NO_COOKIE, SOCK_DIAG_BY_FAMILY, STATE_IN_ANSWER, destroy, is_absent, which};
use crate::netns::Netns;

const TCP_LISTEN: u8 = 10;

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
        let socket = open(SockProtocol::NetlinkSockDiag).map_err(NetlinkError::Open)?;
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

/// Ends one; `false` when there is none.
fn abort(socket: &OwnedFd, local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
    // Found first, by a look-up that falls back to a listener on the port; the cookie then stands for that very socket.
    let found = match ask(socket, SOCK_DIAG_BY_FAMILY, 0, &which(proto::TCP, local, remote, NO_COOKIE)) {
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
    destroy(socket, proto::TCP, local, remote, *cookie)
}
