//! Sockets with a source address and short time-outs, and the bytes sent over them.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Longest wait for anything that should come within microseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Longest wait for the next piece of a bulk transfer: many run side by side, on few CPUs.
const BULK_PATIENCE: Duration = Duration::from_secs(5);

/// Listens for TCP; a port another check's connection has just left is taken again.
pub(super) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    when_free(|| socket.bind(&at.into()))?;
    socket.listen(8)?;
    Ok(socket.into())
}

/// Binds a port another check may just have left: its socket is open until each process that was forked meanwhile, by whatever
/// thread, has begun its program.
fn when_free<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        match bind() {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                thread::sleep(Duration::from_millis(1));
            }
            bound => return bound,
        }
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

/// A UDP socket with a time-out for receiving.
pub(super) fn datagram(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = when_free(|| UdpSocket::bind(at))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
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
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut wish = [PollFd::new(socket.as_fd(), events)];
        match poll(&mut wish, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
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
