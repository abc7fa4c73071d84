//! TCP there and back, compared byte for byte.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use super::socket::{PATIENCE, accept, connect, first_difference, listen, pattern};
use super::{Pair, ProbeError};
use crate::check::case::Target;

/// One write: well over a GSO packet's 64 KiB, so that the kernel makes the biggest it can.
const WRITE_BYTES: usize = 1 << 20;

pub(super) fn exchange(pair: &Pair<'_>, bytes: usize, target: Target, seen_as: IpAddr) -> Result<(), ProbeError> {
    let listen_at = pair.listen_at(target);
    let listener = pair.to.run(|| listen(listen_at))?.map_err(ProbeError::socket("listen at", listen_at))?;
    let listening = listener.local_addr().map_err(ProbeError::socket("listen at", listen_at))?;
    let aim = pair.aim(target, listening);
    let sent = pattern(bytes);

    thread::scope(|scope| {
        let answerer = scope.spawn(|| answer(pair, &listener, &sent, seen_as));
        let opened = open(pair, aim, &sent);
        let answered = answerer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What the answerer saw wrong explains more than the opener's silence; its own silence explains less.
        match (opened, answered) {
            (_, Err(e @ (ProbeError::SeenAs { .. } | ProbeError::Corrupt { .. } | ProbeError::Short { .. }))) => Err(e),
            (opened, answered) => opened.and(answered),
        }
    })
}

fn open(pair: &Pair<'_>, aim: SocketAddr, sent: &[u8]) -> Result<(), ProbeError> {
    let from = SocketAddr::new(pair.opener_ip(), 0);
    let mut stream = pair.from.run(|| connect(from, aim, PATIENCE))?.map_err(ProbeError::socket("connect to", aim))?;
    send(&mut stream, sent).map_err(ProbeError::socket("send to", aim))?;
    receive(&mut stream, sent, pair.case.from.name, aim)
}

fn answer(pair: &Pair<'_>, listener: &TcpListener, sent: &[u8], seen_as: IpAddr) -> Result<(), ProbeError> {
    let from = SocketAddr::new(pair.opener_ip(), 0);
    let (mut stream, peer) = accept(listener, PATIENCE).map_err(ProbeError::socket("be connected to by", from))?;
    pair.check_seen(peer, seen_as)?;
    receive(&mut stream, sent, pair.case.to.name, peer)?;
    send(&mut stream, sent).map_err(ProbeError::socket("send to", peer))
}

fn send(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    bytes.chunks(WRITE_BYTES).try_for_each(|chunk| stream.write_all(chunk))
}

/// Receives as many bytes as were sent and compares them.
fn receive(stream: &mut TcpStream, sent: &[u8], at: &'static str, peer: SocketAddr) -> Result<(), ProbeError> {
    let mut block = vec![0; WRITE_BYTES.min(sent.len().max(1))];
    let mut received = 0;
    while received < sent.len() {
        let wanted = block.len().min(sent.len() - received);
        let n = match stream.read(&mut block[..wanted]) {
            Ok(0) => return Err(ProbeError::Short { at, received, bytes: sent.len() }),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) if received > 0 && e.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(ProbeError::Short { at, received, bytes: sent.len() });
            }
            Err(e) => return Err(ProbeError::socket("receive from", peer)(e)),
        };
        if let Some(offset) = first_difference(&block[..n], &sent[received..]) {
            return Err(ProbeError::Corrupt { at, offset: received + offset, bytes: sent.len() });
        }
        received += n;
    }
    Ok(())
}
