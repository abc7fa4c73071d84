//! UDP there and back, with the hop limit as it arrives.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};

use super::socket::{datagram, first_difference, pattern};
use super::{Pair, ProbeError};
use crate::check::case::{Family, Target};

/// What everything is sent with.
const SENT_HOP_LIMIT: i32 = 64;

pub(super) fn exchange(
    pair: &Pair<'_>,
    bytes: usize,
    target: Target,
    seen_as: IpAddr,
    hop_limit: u8,
) -> Result<(), ProbeError> {
    let family = pair.case.family;
    let listen_at = pair.listen_at(target);
    let bind = || ProbeError::socket("receive at", listen_at);
    let answerer = pair.to.run(|| datagram(listen_at))?.map_err(bind())?;
    report_hop_limit(&answerer, family).map_err(bind())?;
    let aim = pair.aim(target, answerer.local_addr().map_err(bind())?);
    let from = SocketAddr::new(pair.opener_ip(), 0);
    let opener = pair.from.run(|| datagram(from))?.map_err(ProbeError::socket("send from", from))?;
    set_hop_limit(&opener, family).map_err(ProbeError::socket("send from", from))?;
    // Connected, it takes answers from that address and port only, and hears of ICMP errors.
    opener.connect(aim).map_err(ProbeError::socket("send to", aim))?;

    let sent = pattern(bytes);
    thread::scope(|scope| {
        let answering = scope.spawn(|| answer(pair, &answerer, &sent, seen_as, hop_limit));
        let opened = open(pair, &opener, aim, &sent);
        let answered = answering.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (opened, answered) {
            // What the answerer saw wrong explains more than the opener's silence; its own silence explains less.
            (Err(opener), Err(ProbeError::Socket { .. })) => Err(opener),
            (opened, answered) => answered.and(opened),
        }
    })
}

fn open(pair: &Pair<'_>, opener: &UdpSocket, aim: SocketAddr, sent: &[u8]) -> Result<(), ProbeError> {
    opener.send(sent).map_err(ProbeError::socket("send to", aim))?;
    let mut block = vec![0; sent.len() + 1];
    let n = opener.recv(&mut block).map_err(ProbeError::socket("receive from", aim))?;
    compare(&block[..n], sent, pair.case.from.name)
}

fn answer(
    pair: &Pair<'_>,
    answerer: &UdpSocket,
    sent: &[u8],
    seen_as: IpAddr,
    hop_limit: u8,
) -> Result<(), ProbeError> {
    let at = pair.case.to.name;
    let from = SocketAddr::new(pair.opener_ip(), 0);
    let mut block = vec![0; sent.len() + 1];
    let (n, peer, seen) = receive(answerer, &mut block).map_err(ProbeError::socket("receive from", from))?;
    // Answered first: a wrong source or hop limit is then reported as such, not as the opener's silence.
    answerer.send_to(&block[..n], peer).map_err(ProbeError::socket("send to", peer))?;
    pair.check_seen(peer, seen_as)?;
    compare(&block[..n], sent, at)?;
    match seen {
        Some(seen) if seen == hop_limit => Ok(()),
        Some(seen) => Err(ProbeError::HopLimit { at, seen, expected: hop_limit }),
        None => Err(ProbeError::NoHopLimit { at }),
    }
}

pub(super) fn compare(received: &[u8], sent: &[u8], at: &'static str) -> Result<(), ProbeError> {
    if let Some(offset) = first_difference(received, sent) {
        return Err(ProbeError::Corrupt { at, offset, bytes: sent.len() });
    }
    if received.len() != sent.len() {
        return Err(ProbeError::Short { at, received: received.len(), bytes: sent.len() });
    }
    Ok(())
}

fn set_hop_limit(socket: &UdpSocket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => setsockopt(socket, sockopt::Ipv4Ttl, &SENT_HOP_LIMIT)?,
        Family::V6 => setsockopt(socket, sockopt::Ipv6Ttl, &SENT_HOP_LIMIT)?,
    }
    Ok(())
}

fn report_hop_limit(socket: &UdpSocket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => setsockopt(socket, sockopt::Ipv4RecvTtl, &true)?,
        Family::V6 => setsockopt(socket, sockopt::Ipv6RecvHopLimit, &true)?,
    }
    Ok(())
}

/// Length, sender and hop limit of the next datagram.
fn receive(socket: &UdpSocket, block: &mut [u8]) -> io::Result<(usize, SocketAddr, Option<u8>)> {
    let mut control = cmsg_space!(i32);
    let mut pieces = [IoSliceMut::new(block)];
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut pieces, Some(&mut control), MsgFlags::empty())?;
    let hop_limit = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => u8::try_from(ttl).ok(),
        _ => None,
    });
    let peer = message.address.as_ref().and_then(socket_address);
    let peer = peer.ok_or_else(|| io::Error::other("the kernel did not name the sender"))?;
    Ok((message.bytes, peer, hop_limit))
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())))
}
