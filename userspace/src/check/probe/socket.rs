//! Sockets with a source address and short time-outs, and the bytes sent over them.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// Longest wait for anything that should come within microseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Longest wait for the next piece of a bulk transfer: many run side by side, on few CPUs.
const BULK_PATIENCE: Duration = Duration::from_secs(5);

/// Listens for TCP; a port another check's connection has just left is taken again.
pub(super) fn listen(at: SocketAddr) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(8)?;
    Ok(Listener(socket.into()))
}

/// A socket that listens, and does no more when it is dropped: a process another thread forks has a copy of it until it begins
/// its program, which alone would keep the port.
pub(super) struct Listener(TcpListener);

impl Deref for Listener {
    type Target = TcpListener;

    fn deref(&self) -> &TcpListener {
        &self.0
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // All it could fail for is that it does not listen.
        let _ = SockRef::from(&self.0).shutdown(Shutdown::Both);
    }
}

/// Connects by TCP from a given source address.
pub(super) fn connect(from: SocketAddr, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&SockAddr::from(to), patience)?;
    let stream = TcpStream::from(socket);
    set_patience(&stream)?;
    Ok(stream)
}

/// Accepts one connection, or fails with a time-out.
pub(super) fn accept(listener: &TcpListener, patience: Duration) -> io::Result<(TcpStream, SocketAddr)> {
    wait(listener, PollFlags::POLLIN, patience)?;
    let (stream, peer) = listener.accept()?;
    set_patience(&stream)?;
    Ok((stream, peer))
}

fn set_patience(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(BULK_PATIENCE))?;
    stream.set_write_timeout(Some(BULK_PATIENCE))
}

/// A UDP socket with a time-out for receiving. A port of its caller's choice is taken again from a copy of a former socket, see
/// [`Listener`]: the last one bound is the one that receives.
pub(super) fn datagram(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    // With it the kernel might choose another's port.
    socket.set_reuse_address(at.port() != 0)?;
    socket.bind(&at.into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

/// A raw ICMP or ICMPv6 socket; the standard library's UDP type is only its handle.
///
/// For IPv4 what is received starts with the IP header, for IPv6 with the ICMPv6 header; the kernel fills in the
/// ICMPv6 checksum.
pub(super) fn raw_icmp(at: SocketAddr) -> io::Result<UdpSocket> {
    let (domain, protocol) = match at {
        SocketAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        SocketAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.bind(&SocketAddr::new(at.ip(), 0).into())?;
    Ok(socket.into())
}

/// Waits until a socket is ready, or fails with a time-out.
pub(super) fn wait(socket: &impl AsFd, events: PollFlags, patience: Duration) -> io::Result<()> {
    wait_for_any([socket.as_fd()], events, patience).map(drop)
}

/// Waits until one of several sockets is ready, and says which, or fails with a time-out.
pub(super) fn wait_for_any<const N: usize>(
    sockets: [BorrowedFd<'_>; N],
    events: PollFlags,
    patience: Duration,
) -> io::Result<usize> {
    let end = Instant::now() + patience;
    let mut wishes = sockets.map(|socket| PollFd::new(socket, events));
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match poll(&mut wishes, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(wishes.iter().position(|wish| wish.any().unwrap_or(false)).unwrap_or_default()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Bytes whose every position differs from those a segment, a page or a power of two away, so that a piece that
/// arrives twice, not at all or in another's place is seen.
pub(super) fn pattern(bytes: usize) -> Vec<u8> {
    static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
        // The low bits of a linear congruential generator repeat soon, the high ones do not.
        let mut state = 0x2545_f491_u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(BLOCK_BYTES).collect()
    });
    let mut pattern = Vec::with_capacity(bytes);
    while pattern.len() < bytes {
        let missing = bytes - pattern.len();
        pattern.extend_from_slice(&BLOCK[..missing.min(BLOCK_BYTES)]);
    }
    pattern
}

/// A prime: a pattern of several blocks repeats at no distance anything on the way works in.
const BLOCK_BYTES: usize = 1_048_573;

/// Position of the first difference.
pub(super) fn first_difference(received: &[u8], sent: &[u8]) -> Option<usize> {
    let bytes = received.len().min(sent.len());
    // Whole blocks first: byte by byte, a debug build would spend the check's time here.
    if received[..bytes] == sent[..bytes] {
        return None;
    }
    received.iter().zip(sent).position(|(a, b)| a != b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_pattern_differs() {
        let bytes = pattern(3_000_000);
        for shift in [1, 256, 1448, 4096, 65_536] {
            let difference = first_difference(&bytes[shift..], &bytes);
            assert!(difference.is_some_and(|at| at < 64), "shift by {shift}: {difference:?}");
        }
    }
}
