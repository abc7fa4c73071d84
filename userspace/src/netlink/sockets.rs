//! Ending sockets of a namespace's own processes that are connected to somewhere, by `sock_diag`.
//!
//! As in [`super::abort`], it is the kernel that ends them; a connected UDP socket is not connected any more after that
//! (`udp_abort`, kernel 4.9).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::sys::socket::SockProtocol;

use super::NetlinkError;
use super::raw::{dump, open};
use super::sock_diag::{
    ADDRS_IN_ANSWER, COOKIE_IN_ANSWER, FAMILY_IN_ANSWER, NO_COOKIE, PORTS_IN_ANSWER, SOCK_DIAG_BY_FAMILY, destroy,
    which,
};
use crate::netns::Netns;

/// States of sockets that are connected to nobody: TIME_WAIT, LISTEN and NEW_SYN_RECV.
const NOBODYS: [u8; 3] = [6, 10, 12];

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
        let socket = open(SockProtocol::NetlinkSockDiag).map_err(NetlinkError::Open)?;
        let refused = |what: String| move |source| NetlinkError::Refused { what, source };
        let mut ended = 0;
        // An IPv6 socket may be connected to IPv4; it is listed among the IPv6 ones.
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let found = list(proto, any).map_err(refused("list sockets".to_owned()))?;
            for Connected { local, remote, cookie } in found {
                let end = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                if !picked(end, cookie) {
                    continue;
                }
                let refused = refused(format!("end the socket {local} to {remote}"));
                ended += usize::from(destroy(&socket, proto, local, remote, cookie).map_err(refused)?);
            }
        }
        Ok(ended)
    })?
}

/// The connected sockets of a protocol and of the family of `any`.
fn list(proto: u8, any: IpAddr) -> io::Result<Vec<Connected>> {
    let nobody = SocketAddr::new(any, 0);
    let messages = dump(SockProtocol::NetlinkSockDiag, SOCK_DIAG_BY_FAMILY, &which(proto, nobody, nobody, NO_COOKIE))?;
    Ok(messages.iter().filter_map(|message| connected(message)).collect())
}

/// What a message tells of a socket; `None` for one that is connected to nobody.
fn connected(message: &[u8]) -> Option<Connected> {
    let [family, state, ..] = *message.get(FAMILY_IN_ANSWER..)?.first_chunk::<4>()?;
    let port = |at: usize| Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?));
    let address = |at: usize| {
        let bytes: [u8; 16] = *message.get(at..)?.first_chunk()?;
        Some(if i32::from(family) == nix::libc::AF_INET {
            let [a, b, c, d, ..] = bytes;
            IpAddr::from([a, b, c, d])
        } else {
            IpAddr::from(bytes)
        })
    };
    let local = SocketAddr::new(address(ADDRS_IN_ANSWER)?, port(PORTS_IN_ANSWER)?);
    let remote = SocketAddr::new(address(ADDRS_IN_ANSWER + 16)?, port(PORTS_IN_ANSWER + 2)?);
    let cookie = *message.get(COOKIE_IN_ANSWER..)?.first_chunk()?;
    (remote.port() != 0 && !NOBODYS.contains(&state)).then_some(Connected { local, remote, cookie })
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
        let found = |proto, any: IpAddr| list(proto, any).unwrap();
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

    #[test]
    fn broken_messages_are_no_sockets() {
        assert_eq!(connected(&[0; 20]), None);
    }
}
