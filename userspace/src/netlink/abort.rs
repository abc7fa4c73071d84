//! Ending TCP connections of a namespace from outside, by `sock_diag`.
//!
//! The kernel that has the connection ends it, as if its program had (`tcp_abort`): the other side gets a RST with the
//! sequence number it expects, which nobody else knows for sure, and the program's next call fails with `ECONNABORTED`.

use std::collections::HashSet;
use std::net::SocketAddr;

use netlink_packet_sock_diag::{SockDiagMessage, TCP_LISTEN};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netns_ebpf_common::proto;
use nix::errno::Errno;

use super::sock_diag::{NO_COOKIE, destroy, which};
use super::{NetlinkError, Socket, SocketError};
use crate::netns::Netns;

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
        let mut socket = Socket::open(NETLINK_SOCK_DIAG).map_err(NetlinkError::Open)?;
        let mut ended = HashSet::new();
        for (local, remote) in connections {
            let refused = |e| NetlinkError::of(format!("end connection {local} to {remote}"), e);
            if abort(&mut socket, *local, *remote).map_err(refused)? {
                ended.insert((*local, *remote));
            }
        }
        Ok(ended)
    })?
}

/// Ends one; `false` when there is none.
fn abort(socket: &mut Socket, local: SocketAddr, remote: SocketAddr) -> Result<bool, SocketError> {
    // Found first, by a look-up that falls back to a listener on the port; the cookie then stands for that very socket.
    match socket.get(which(proto::TCP, local, remote, NO_COOKIE)) {
        Ok(SockDiagMessage::InetResponse(found)) if found.header.state != TCP_LISTEN => {
            destroy(socket, proto::TCP, local, remote, found.header.socket_id.cookie)
        }
        Ok(_) => Ok(false),
        Err(e) if e.errno() == Some(Errno::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}
