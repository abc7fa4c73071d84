//! What `sock_diag` is asked: which socket, and to end it. Layouts are those of `linux/inet_diag.h`.
//!
//! Needs `CONFIG_INET_DIAG_DESTROY`, which distributions have, and `CAP_NET_ADMIN` in the namespace.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::raw::{NLM_F_ACK, ask};

pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// "Whichever socket has these addresses".
pub(super) const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Where `struct inet_diag_msg`, which answers, has family and state and, in this order, ports, local and remote address and
/// cookie.
pub(super) const FAMILY_IN_ANSWER: usize = 0;
pub(super) const STATE_IN_ANSWER: usize = 1;
pub(super) const PORTS_IN_ANSWER: usize = 4;
pub(super) const ADDRS_IN_ANSWER: usize = 8;
pub(super) const COOKIE_IN_ANSWER: usize = 44;

/// `struct inet_diag_req_v2`: family, protocol, two bytes unused here, a set of states, and the socket's id: ports, addresses,
/// interface and cookie.
pub(super) fn which(proto: u8, local: SocketAddr, remote: SocketAddr, cookie: [u8; 8]) -> Vec<u8> {
    let family = if local.is_ipv4() { nix::libc::AF_INET } else { nix::libc::AF_INET6 };
    let address = |addr: IpAddr| match addr {
        IpAddr::V4(a) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&a.octets());
            bytes
        }
        IpAddr::V6(a) => a.octets(),
    };
    let mut out = Vec::new();
    #[expect(clippy::cast_possible_truncation, reason = "the two families are small numbers")]
    out.extend_from_slice(&[family as u8, proto, 0, 0]);
    out.extend_from_slice(&u32::MAX.to_ne_bytes());
    out.extend_from_slice(&local.port().to_be_bytes());
    out.extend_from_slice(&remote.port().to_be_bytes());
    out.extend_from_slice(&address(local.ip()));
    out.extend_from_slice(&address(remote.ip()));
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&cookie);
    out
}

/// Ends a socket as if its program had; `false` when it has ended by itself meanwhile.
pub(super) fn destroy(
    socket: &OwnedFd,
    proto: u8,
    local: SocketAddr,
    remote: SocketAddr,
    cookie: [u8; 8],
) -> io::Result<bool> {
    match ask(socket, SOCK_DESTROY, NLM_F_ACK, &which(proto, local, remote, cookie)) {
        // The latter: another one by now.
        Err(e) if is_absent(&e) || e.raw_os_error() == Some(Errno::ESTALE as i32) => Ok(false),
        done => done.map(|_| true),
    }
}

/// Whether there is no such socket.
pub(super) fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOENT as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 56 bytes, the cookie last.
    #[test]
    fn requests_are_as_long_as_the_kernel_wants() {
        let ends = ["192.0.2.1:80", "192.0.2.2:4000"].map(|s| s.parse().unwrap());
        let bytes = which(6, ends[0], ends[1], [7; 8]);
        assert_eq!((bytes.len(), &bytes[48..]), (56, &[7; 8][..]));
        assert_eq!(bytes[8..12], [0, 80, 0x0f, 0xa0]);
    }
}
