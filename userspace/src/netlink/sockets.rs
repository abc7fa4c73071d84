//! Ending sockets of a namespace's own processes that are connected to somewhere, by `sock_diag`.
//!
//! As in [`super::abort`], it is the kernel that ends them; a connected UDP socket is not connected any more after that
//! (`udp_abort`, kernel 4.9).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_sock_diag::inet::InetResponseHeader;
use netlink_packet_sock_diag::{SockDiagMessage, TCP_LISTEN, TCP_TIME_WAIT};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::sock_diag::{NO_COOKIE, destroy, ends, which};
use super::{NetlinkError, Socket, SocketError};
use crate::netns::Netns;

/// States of sockets that are connected to nobody: TIME_WAIT, LISTEN and NEW_SYN_RECV.
const NOBODYS: [u8; 3] = [TCP_TIME_WAIT, TCP_LISTEN, 12];

/// A connected socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connected {
    local: SocketAddr,
    remote: SocketAddr,
    cookie: [u8; 8],
}

/// Ends the connected sockets of a protocol (TCP or UDP) that `picked` names by their remote end, in its own family, and their
/// cookie; says how many there were. Their programs' next call fails with `ECONNABORTED`.
///
/// # Errors
///
/// The kernel refuses; sockets before that one have ended.
pub fn abort_sockets(
    netns: &Netns,
    proto: u8,
    picked: impl Fn(SocketAddr, [u8; 8]) -> bool + Sync,
) -> Result<usize, NetlinkError> {
    netns.run(|| {
        let mut socket = Socket::open(NETLINK_SOCK_DIAG).map_err(NetlinkError::Open)?;
        let mut ended = 0;
        // An IPv6 socket may be connected to IPv4; it is listed among the IPv6 ones.
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let found = list(&mut socket, proto, any).map_err(|e| NetlinkError::of("list sockets", e))?;
            for Connected { local, remote, cookie } in found {
                let end = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                if !picked(end, cookie) {
                    continue;
                }
                let refused = |e| NetlinkError::of(format!("end the socket {local} to {remote}"), e);
                ended += usize::from(destroy(&mut socket, proto, local, remote, cookie).map_err(refused)?);
            }
        }
        Ok(ended)
    })?
}

/// The connected sockets of a protocol and of the family of `any`.
fn list(socket: &mut Socket, proto: u8, any: IpAddr) -> Result<Vec<Connected>, SocketError> {
    let nobody = SocketAddr::new(any, 0);
    let found = socket.dump(&which(proto, nobody, nobody, NO_COOKIE))?;
    let sockets = found.iter().filter_map(|message| match message {
        SockDiagMessage::InetResponse(found) => connected(&found.header),
        _ => None,
    });
    Ok(sockets.collect())
}

/// `None` for a socket that is connected to nobody.
fn connected(found: &InetResponseHeader) -> Option<Connected> {
    let (local, remote) = ends(&found.socket_id);
    let cookie = found.socket_id.cookie;
    (remote.port() != 0 && !NOBODYS.contains(&found.state)).then_some(Connected { local, remote, cookie })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn only_connected_sockets_are_listed() {
        let udp = |to: &UdpSocket| to.local_addr().unwrap();
        let [a, b, unconnected] = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        a.connect(udp(&b)).unwrap();
        let mapped = UdpSocket::bind("[::ffff:127.0.0.1]:0").unwrap();
        mapped.connect(SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), udp(&b).port())).unwrap();
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut socket = Socket::open(NETLINK_SOCK_DIAG).unwrap();
        let mut found = |proto, any: IpAddr| list(&mut socket, proto, any).unwrap();
        let (v4, v6) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
        let of = |list: &[Connected], local: SocketAddr| list.iter().find(|c| c.local == local).map(|c| c.remote);
        let udp4 = found(17, v4);
        assert_eq!(of(&udp4, udp(&a)), Some(udp(&b)));
        assert_eq!((of(&udp4, udp(&b)), of(&udp4, udp(&unconnected))), (None, None));
        assert!(udp4.iter().all(|c| c.local.is_ipv4()));
        assert_eq!(of(&found(17, v6), udp(&mapped)).map(|r| r.ip().to_canonical()), Some(udp(&b).ip()));
        let tcp6 = found(6, v6);
        assert_eq!(of(&tcp6, near.local_addr().unwrap()), Some(listener.local_addr().unwrap()));
        let cookies: std::collections::HashSet<_> = udp4.iter().chain(&tcp6).map(|c| c.cookie).collect();
        assert_eq!(cookies.len(), udp4.len() + tcp6.len(), "a cookie names one socket");
    }
}
