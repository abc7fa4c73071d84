//! One socket as several others see it.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::socket::datagram;
use super::{Pair, ProbeError};

/// What is sent to each, and back.
const SENT: &[u8] = b"who am I?";

/// One socket sends to two addresses, and a third one answers that was not asked.
pub(super) fn converse(pair: &Pair<'_>, also: IpAddr, stranger: IpAddr, seen_as: IpAddr) -> Result<(), ProbeError> {
    let from = SocketAddr::new(pair.opener_ip(), 0);
    let opener = pair.from.run(|| datagram(from))?.map_err(ProbeError::socket("send from", from))?;
    let there = |ip| {
        let at = SocketAddr::new(ip, 0);
        let socket = pair.to.run(|| datagram(at).and_then(|socket| Ok((socket.local_addr()?, socket))))?;
        socket.map_err(ProbeError::socket("receive at", at))
    };
    let (first, second, third) = (there(pair.answerer_ip())?, there(also)?, there(stranger)?);
    let seen = ask(pair, &opener, &first, seen_as)?;
    let seen_there = ask(pair, &opener, &second, seen_as)?;
    if seen != seen_there {
        return Err(ProbeError::Unmapped(seen, seen_there));
    }
    third.1.send_to(SENT, seen).map_err(ProbeError::socket("send to", seen))?;
    hear(&opener, third.0)
}

/// Sends to an answerer and hears back from it; says whom that saw.
fn ask(
    pair: &Pair<'_>,
    opener: &UdpSocket,
    (at, answerer): &(SocketAddr, UdpSocket),
    seen_as: IpAddr,
) -> Result<SocketAddr, ProbeError> {
    opener.send_to(SENT, at).map_err(ProbeError::socket("send to", *at))?;
    let (_, seen) = answerer.recv_from(&mut [0; 64]).map_err(ProbeError::socket("receive at", *at))?;
    pair.check_seen(seen, seen_as)?;
    answerer.send_to(SENT, seen).map_err(ProbeError::socket("send to", seen))?;
    hear(opener, *at)?;
    Ok(seen)
}

/// Receives from this peer, and nobody else.
fn hear(opener: &UdpSocket, by: SocketAddr) -> Result<(), ProbeError> {
    let received = opener.recv_from(&mut [0; 64]);
    match received.map_err(ProbeError::socket("receive from", by))? {
        (_, peer) if peer == by => Ok(()),
        (_, peer) => Err(ProbeError::Heard { by: peer, expected: by }),
    }
}
