//! What must not work, and in which way it must not.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;

use super::socket::{PATIENCE, accept, connect, datagram, listen};
use super::{Pair, ProbeError};
use crate::check::case::Target;

/// Three unanswered neighbour requests, a second apart, and some room.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_secs(5);
/// How long something that must not come is waited for: traffic that works takes microseconds.
const SILENCE: Duration = Duration::from_millis(800);
/// Any port will do where no machine is.
const PORT: u16 = 7;

/// Connecting to an address nobody has: the case's answerer is only an address.
pub(super) fn host_unreachable(pair: &Pair<'_>) -> Result<(), ProbeError> {
    let target = SocketAddr::new(pair.answerer_ip(), PORT);
    let from = SocketAddr::new(pair.opener_ip(), 0);
    match pair.from.run(|| connect(from, target, NEIGHBOUR_PATIENCE))? {
        Ok(_) => Err(ProbeError::Open(target)),
        Err(e) if e.raw_os_error() == Some(Errno::EHOSTUNREACH as i32) => Ok(()),
        Err(source) => Err(ProbeError::NotUnreachable { target, source }),
    }
}

/// A datagram to a port nobody listens on: the answerer's kernel says so, and the opener's kernel tells its socket.
pub(super) fn refused(pair: &Pair<'_>, target: Target) -> Result<(), ProbeError> {
    let listen_at = pair.listen_at(target);
    // A port of the kernel's choice that was just free. Linux limits these errors per receiver, not per sender.
    let free = pair.to.run(|| datagram(listen_at).and_then(|socket| socket.local_addr()))?;
    let aim = pair.aim(target, free.map_err(ProbeError::socket("receive at", listen_at))?);
    let from = SocketAddr::new(pair.opener_ip(), 0);
    let socket = pair.from.run(|| datagram(from))?.map_err(ProbeError::socket("send from", from))?;
    socket.connect(aim).and_then(|()| socket.send(b"anybody?")).map_err(ProbeError::socket("send to", aim))?;
    match socket.recv(&mut [0; 64]) {
        Ok(_) => Err(ProbeError::Open(aim)),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(source) => Err(ProbeError::NotRefused { target: aim, source }),
    }
}

/// Connecting to a place that listens, but must not be reached.
pub(super) fn closed(pair: &Pair<'_>, target: Target) -> Result<(), ProbeError> {
    let listen_at = pair.listen_at(target);
    let listener = pair.to.run(|| listen(listen_at))?.map_err(ProbeError::socket("listen at", listen_at))?;
    let listening = listener.local_addr().map_err(ProbeError::socket("listen at", listen_at))?;
    let aim = pair.aim(target, listening);
    let from = SocketAddr::new(pair.opener_ip(), 0);
    let connected = pair.from.run(|| connect(from, aim, SILENCE.min(PATIENCE)))?;
    // Asked as well, because the opener's own time-out could have hidden a connection that was made late.
    match accept(&listener, Duration::ZERO) {
        Ok((_, by)) => return Err(ProbeError::Reached { at: pair.case.to.name, by }),
        Err(e) if e.kind() == io::ErrorKind::TimedOut => {}
        Err(e) => return Err(ProbeError::socket("listen at", listening)(e)),
    }
    match connected {
        Ok(_) => Err(ProbeError::Open(aim)),
        Err(_) => Ok(()),
    }
}
