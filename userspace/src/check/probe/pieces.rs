//! A UDP datagram in pieces, there and back, each sent by hand in an order of the case's choosing.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use bytes::{BufMut, BytesMut};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::datagram::compare;
use super::socket::{datagram, pattern};
use super::{Pair, ProbeError};
use crate::check::case::{Order, Target};

/// Payload bytes of a piece: a multiple of 8 that fits every link, IPv6's smallest included.
const PIECE_BYTES: usize = 1200;
const UDP: u8 = 17;
const HOP_LIMIT: u8 = 64;

pub(super) fn exchange(
    pair: &Pair<'_>,
    bytes: usize,
    target: Target,
    seen_as: IpAddr,
    order: Order,
) -> Result<(), ProbeError> {
    let listen_at = pair.listen_at(target);
    let bind = || ProbeError::socket("receive at", listen_at);
    let answerer = pair.to.run(|| datagram(listen_at))?.map_err(bind())?;
    let answering_at = answerer.local_addr().map_err(bind())?;
    let answerer_raw = pair.to.run(|| raw(listen_at))?.map_err(bind())?;
    let aim = pair.aim(target, answering_at);
    let from = SocketAddr::new(pair.opener_ip(), 0);
    let send = || ProbeError::socket("send from", from);
    let opener = pair.from.run(|| datagram(from))?.map_err(send())?;
    let opener_raw = pair.from.run(|| raw(from))?.map_err(send())?;
    let from = opener.local_addr().map_err(send())?;
    opener.connect(aim).map_err(ProbeError::socket("send to", aim))?;

    let sent = pattern(bytes);
    thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let peer = receive(&answerer, from, &sent, pair.case.to.name)?;
            send_in_pieces(&answerer_raw, answering_at, peer, &sent, order)
                .map_err(ProbeError::socket("send to", peer))?;
            pair.check_seen(peer, seen_as)
        });
        let opened = send_in_pieces(&opener_raw, from, aim, &sent, order)
            .map_err(ProbeError::socket("send to", aim))
            .and_then(|()| receive(&opener, aim, &sent, pair.case.from.name));
        let answered = answering.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        answered.and(opened.map(|_| ()))
    })
}

/// The sender of the next datagram, which must be what was sent.
fn receive(socket: &UdpSocket, from: SocketAddr, sent: &[u8], at: &'static str) -> Result<SocketAddr, ProbeError> {
    let mut block = vec![0; sent.len() + 1];
    let (n, peer) = socket.recv_from(&mut block).map_err(ProbeError::socket("receive from", from))?;
    compare(&block[..n], sent, at)?;
    Ok(peer)
}

/// A socket that sends packets with an IP header of its caller's.
fn raw(at: SocketAddr) -> io::Result<Socket> {
    // IPPROTO_RAW: the header is the caller's, in both families; the kernel fills in IPv4's checksum and length.
    Socket::new(Domain::for_address(at), Type::RAW, Some(Protocol::from(nix::libc::IPPROTO_RAW)))
}

fn send_in_pieces(raw: &Socket, from: SocketAddr, to: SocketAddr, payload: &[u8], order: Order) -> io::Result<()> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let datagram = udp(from, to, payload);
    let pieces: Vec<_> = datagram.chunks(PIECE_BYTES).enumerate().collect();
    let address = SockAddr::from(SocketAddr::new(to.ip(), 0));
    for i in order.of(pieces.len()) {
        let (at, bytes) = pieces[i];
        let packet = piece(from.ip(), to.ip(), id, at * PIECE_BYTES, at + 1 < pieces.len(), bytes)?;
        raw.send_to(&packet, &address)?;
    }
    Ok(())
}

/// A datagram's header and payload, checksum included.
fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> BytesMut {
    let length = (8 + payload.len()) as u16;
    let mut bytes = BytesMut::with_capacity(8 + payload.len());
    for word in [from.port(), to.port(), length, 0] {
        bytes.put_u16(word);
    }
    bytes.put_slice(payload);
    let addresses = [from.ip(), to.ip()].into_iter().map(|ip| match ip {
        IpAddr::V4(a) => sum(&a.octets()),
        IpAddr::V6(a) => sum(&a.octets()),
    });
    let total = addresses.sum::<u64>() + u64::from(UDP) + u64::from(length) + sum(&bytes);
    let mut folded = total;
    while folded > 0xffff {
        folded = (folded & 0xffff) + (folded >> 16);
    }
    // RFC 768: a sum of 0 is sent as all ones, as 0 means none.
    let checksum = match !(folded as u16) {
        0 => 0xffff,
        sum => sum,
    };
    bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// Sum of the 16-bit words.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low))).sum()
}

/// A piece of a datagram with its IP header.
fn piece(src: IpAddr, dst: IpAddr, id: u16, offset: usize, more: bool, bytes: &[u8]) -> io::Result<BytesMut> {
    let mut packet = BytesMut::with_capacity(48 + bytes.len());
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            packet.put_slice(&[0x45, 0]);
            packet.put_u16((20 + bytes.len()) as u16);
            packet.put_u16(id);
            packet.put_u16((offset / 8) as u16 | if more { 0x2000 } else { 0 });
            packet.put_slice(&[HOP_LIMIT, UDP, 0, 0]);
            packet.put_slice(&src.octets());
            packet.put_slice(&dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            const FRAGMENT: u8 = 44;
            packet.put_slice(&[0x60, 0, 0, 0]);
            packet.put_u16((8 + bytes.len()) as u16);
            packet.put_slice(&[FRAGMENT, HOP_LIMIT]);
            packet.put_slice(&src.octets());
            packet.put_slice(&dst.octets());
            packet.put_slice(&[UDP, 0]);
            packet.put_u16(offset as u16 | u16::from(more));
            packet.put_u32(id.into());
        }
        _ => return Err(io::Error::other(format!("{src} and {dst} are of two families"))),
    }
    packet.put_slice(bytes);
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_makes_the_sum_right() {
        for (from, to) in [("10.0.0.1:7", "10.0.0.2:9"), ("[fd00::1]:7", "[fd00::2]:9")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            for bytes in [0, 1, 1000] {
                let datagram = udp(from, to, &pattern(bytes));
                let addresses: u64 = [from.ip(), to.ip()]
                    .map(|ip| match ip {
                        IpAddr::V4(a) => sum(&a.octets()),
                        IpAddr::V6(a) => sum(&a.octets()),
                    })
                    .iter()
                    .sum();
                let total = addresses + 17 + datagram.len() as u64 + sum(&datagram);
                assert_eq!(total % 0xffff, 0, "{from}, {bytes} bytes");
            }
        }
    }

    #[test]
    fn an_order_has_each_piece_once() {
        for order in [Order::Forward, Order::Reverse, Order::Shuffled(7), Order::Shuffled(8)] {
            let mut pieces = order.of(50);
            pieces.sort_unstable();
            assert_eq!(pieces, (0..50).collect::<Vec<_>>(), "{order:?}");
        }
        assert_ne!(Order::Shuffled(7).of(50), Order::Shuffled(8).of(50));
        assert_eq!(Order::Reverse.of(3), [2, 1, 0]);
    }
}
