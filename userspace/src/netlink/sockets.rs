//! Ending sockets of a namespace's own processes that are connected to somewhere, by `sock_diag`.
//!
//! As in [`super::abort`], it is the kernel that ends them; a connected UDP socket is not connected any more after that
//! (`udp_abort`, kernel 4.9).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recv, send};

use super::NetlinkError;
use super::abort::{
    COOKIE_IN_ANSWER, HEADER, NLM_F_ACK, NLM_F_REQUEST, NO_COOKIE, SOCK_DESTROY, SOCK_DIAG_BY_FAMILY, ask, is_gone,
    open, request,
};
use crate::netns::Netns;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Whole tables instead of one socket.
const NLM_F_DUMP: u16 = 0x300;
/// Where a request has the protocol.
const PROTO_IN_REQUEST: usize = HEADER + 1;
/// Where an answer has the family and, in this order, ports, local and remote address.
const FAMILY_IN_ANSWER: usize = HEADER;
const PORTS_IN_ANSWER: usize = HEADER + 4;
const ADDRS_IN_ANSWER: usize = HEADER + 8;
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
        let socket = open().map_err(|e| NetlinkError::Open(e.into()))?;
        let refused = |what: String| move |source| NetlinkError::Refused { what, source };
        let mut ended = 0;
        // An IPv6 socket may be connected to IPv4; it is listed among the IPv6 ones.
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let found = list(&socket, proto, any).map_err(refused("list sockets".to_owned()))?;
            for Connected { local, remote, cookie } in found {
                let end = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                if !picked(end, cookie) {
                    continue;
                }
                let mut destroy = request(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, local, remote, cookie);
                destroy[PROTO_IN_REQUEST] = proto;
                match ask(&socket, &destroy) {
                    Ok(_) => ended += 1,
                    // It has ended by itself meanwhile.
                    Err(e) if is_gone(&e) => {}
                    Err(e) => return Err(refused(format!("end the socket {local} to {remote}"))(e)),
                }
            }
        }
        Ok(ended)
    })?
}

/// The connected sockets of a protocol and of the family of `any`.
fn list(socket: &OwnedFd, proto: u8, any: IpAddr) -> io::Result<Vec<Connected>> {
    let nobody = SocketAddr::new(any, 0);
    let mut dump = request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, nobody, nobody, NO_COOKIE);
    dump[PROTO_IN_REQUEST] = proto;
    send(socket.as_raw_fd(), &dump, MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut block = vec![0; 65_536];
    loop {
        let length = recv(socket.as_raw_fd(), &mut block, MsgFlags::empty())?;
        let mut rest = &block[..length];
        while let Some((kind, message, next)) = split(rest) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => {
                    let error =
                        message.get(HEADER..).and_then(<[u8]>::first_chunk).map_or(0, |b| i32::from_ne_bytes(*b));
                    return Err(io::Error::from_raw_os_error(-error));
                }
                _ => found.extend(connected(message)),
            }
            rest = next;
        }
    }
}

/// The first message's kind, the message, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let message = bytes.get(..length).filter(|m| m.len() >= HEADER)?;
    // Messages begin at multiples of four.
    Some((kind, message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
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
        let socket = open().unwrap();
        let found = |proto, any: IpAddr| list(&socket, proto, any).unwrap();
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
        assert!(split(&[1, 0, 0]).is_none());
        assert!(split(&[4, 0, 0, 0, 1, 0, 0, 0]).is_none(), "shorter than its own header");
    }
}
