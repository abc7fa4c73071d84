//! ICMP echo over raw sockets: whether the reply comes, and from whom the answerer sees the request come.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use nix::poll::PollFlags;

use super::socket::{PATIENCE, raw_icmp, wait};
use super::{Pair, ProbeError};
use crate::check::case::Family;

/// Length of the ICMP echo header.
const HEADER_BYTES: usize = 8;
/// Payload as `ping` sends it.
const PAYLOAD_BYTES: usize = 56;

pub(super) fn ask(pair: &Pair<'_>, seen_as: Option<IpAddr>) -> Result<(), ProbeError> {
    let family = pair.case.family;
    let from = SocketAddr::new(pair.opener_ip(), 0);
    let target = SocketAddr::new(pair.answerer_ip(), 0);
    // Raw sockets see requests too: this one is the witness for the source address.
    let witness = match seen_as {
        Some(expected) => {
            let socket = pair.to.run(|| raw_icmp(target))?.map_err(ProbeError::socket("watch", target))?;
            Some((socket, expected))
        }
        None => None,
    };
    let socket = pair.from.run(|| raw_icmp(from))?.map_err(ProbeError::socket("send from", from))?;

    let request = request(family);
    socket.send_to(&request, target).map_err(ProbeError::socket("send to", target))?;

    let (request_type, reply_type) = types(family);
    let reply =
        find(&socket, family, reply_type, &request, PATIENCE).map_err(ProbeError::socket("receive from", target))?;
    if let Some((witness, expected)) = witness {
        // The kernel hands a request to raw sockets before it answers, so after a reply, and after the wait for one, it
        // is there or never comes.
        let seen = find(&witness, family, request_type, &request, Duration::ZERO)
            .map_err(ProbeError::socket("watch", target))?;
        let Some(seen) = seen else {
            return Err(ProbeError::NoEcho { target: target.ip(), arrived: false });
        };
        pair.check_seen(SocketAddr::new(seen, 0), expected)?;
    }
    match reply {
        Some(replier) if replier == target.ip() => Ok(()),
        Some(seen) => Err(ProbeError::SeenAs { at: pair.case.from.name, seen, expected: target.ip() }),
        None => Err(ProbeError::NoEcho { target: target.ip(), arrived: seen_as.is_some() }),
    }
}

/// Types of request and reply.
const fn types(family: Family) -> (u8, u8) {
    match family {
        Family::V4 => (8, 0),
        Family::V6 => (128, 129),
    }
}

/// A request whose payload no other request of this process has. NAT may change the identifier, never the payload.
fn request(family: Family) -> Bytes {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut message = BytesMut::with_capacity(HEADER_BYTES + PAYLOAD_BYTES);
    message.put_u8(types(family).0);
    message.put_u8(0);
    message.put_u16(0);
    message.put_u16(number);
    message.put_u16(1);
    let token = (u64::from(std::process::id()) << 16) | u64::from(number);
    for _ in 0..PAYLOAD_BYTES / 8 {
        message.put_u64(token);
    }
    if family == Family::V4 {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message.freeze()
}

/// RFC 1071, over a message of even length whose checksum field is zero.
fn checksum(message: &[u8]) -> u16 {
    let sum: u32 = message.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !(folded as u16)
}

/// The sender of the message of this type with this payload, if it comes in time.
fn find(
    socket: &UdpSocket,
    family: Family,
    wanted: u8,
    request: &[u8],
    patience: Duration,
) -> io::Result<Option<IpAddr>> {
    let end = Instant::now() + patience;
    let mut block = [0; 2048];
    loop {
        match wait(socket, PollFlags::POLLIN, end.saturating_duration_since(Instant::now())) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(None),
            Err(e) => return Err(e),
        }
        let (n, peer) = socket.recv_from(&mut block)?;
        let message = icmp(&block[..n], family);
        if message.first() == Some(&wanted) && message.get(HEADER_BYTES..) == request.get(HEADER_BYTES..) {
            return Ok(Some(peer.ip()));
        }
    }
}

/// The ICMP message in what a raw socket received.
fn icmp(packet: &[u8], family: Family) -> &[u8] {
    let header = match family {
        Family::V4 => packet.first().map_or(0, |first| usize::from(first & 0xf) * 4),
        Family::V6 => 0,
    };
    packet.get(header..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_whole_message_is_zero() {
        let message = request(Family::V4);
        assert_eq!(checksum(&message), 0);
    }

    #[test]
    fn requests_are_told_apart_by_their_payload() {
        assert_ne!(request(Family::V6)[HEADER_BYTES..], request(Family::V6)[HEADER_BYTES..]);
    }

    #[test]
    fn a_short_packet_is_no_message() {
        assert!(icmp(&[0x45; 10], Family::V4).is_empty());
        assert!(icmp(&[], Family::V4).is_empty());
    }
}
