//! What `sock_diag` is asked: which socket, and to end it.
//!
//! Ending needs `CONFIG_INET_DIAG_DESTROY`, which distributions have, and `CAP_NET_ADMIN` in the namespace.

use std::net::SocketAddr;

use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, SockDiagDestroy, SockDiagMessage};
use nix::errno::Errno;

use super::{Socket, SocketError};

/// "Whichever socket has these addresses".
pub(super) const NO_COOKIE: [u8; 8] = [0xff; 8];

/// The question for the socket with these ends, or for all of a family if they are unspecified.
pub(super) fn which(proto: u8, local: SocketAddr, remote: SocketAddr, cookie: [u8; 8]) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: proto,
        extensions: ExtensionFlags::empty(),
        // All of them, those that have no name here included.
        states: StateFlags::from_bits_retain(u32::MAX),
        socket_id: SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address: local.ip(),
            destination_address: remote.ip(),
            interface_id: 0,
            cookie,
        },
    })
}

/// Both ends of a socket.
pub(super) fn ends(id: &SocketId) -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(id.source_address, id.source_port), SocketAddr::new(id.destination_address, id.destination_port))
}

/// Ends a socket as if its program had; `false` when it has ended by itself meanwhile.
pub(super) fn destroy(
    socket: &mut Socket,
    proto: u8,
    local: SocketAddr,
    remote: SocketAddr,
    cookie: [u8; 8],
) -> Result<bool, SocketError> {
    match socket.request(0, SockDiagDestroy::new(which(proto, local, remote, cookie))) {
        // The latter: another one by now.
        Err(e) if matches!(e.errno(), Some(Errno::ENOENT | Errno::ESTALE)) => Ok(false),
        done => done.map(|()| true),
    }
}
