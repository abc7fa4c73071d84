//! Servers that say who they are, and clients that ask.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use netns::check::{Family, Site};
use socket2::{Domain, Socket, Type};

use super::Isolated;

/// How long an answer may take that takes microseconds.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait for an answer that must not come.
pub const SILENCE: Duration = Duration::from_millis(300);

/// Answers datagrams and connections in a pod with the pod's name, until the test's end.
pub fn serve(here: &Isolated, pod: Site, port: u16) {
    for family in Family::ALL {
        let at = SocketAddr::new(pod.ip(family), port);
        let (datagrams, connections) =
            here.inside(pod.name, || (UdpSocket::bind(at).expect("bind UDP"), TcpListener::bind(at).expect("listen")));
        thread::spawn(move || {
            let mut block = [0; 64];
            while let Ok((_, peer)) = datagrams.recv_from(&mut block) {
                let _ = datagrams.send_to(pod.name.as_bytes(), peer);
            }
        });
        thread::spawn(move || {
            for stream in connections.incoming().map_while(Result::ok) {
                thread::spawn(move || answer(stream, pod.name));
            }
        });
    }
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut block = [0; 64];
    while let Ok(1..) = stream.read(&mut block) {
        if stream.write_all(name.as_bytes()).is_err() {
            return;
        }
    }
}

/// A UDP socket of a place, connected to a published port.
pub fn datagrams(here: &Isolated, from: Site, to: SocketAddr) -> UdpSocket {
    let own = from.ip(if to.is_ipv4() { Family::V4 } else { Family::V6 });
    let socket = here.inside(from.place, || UdpSocket::bind(SocketAddr::new(own, 0)).expect("bind"));
    socket.connect(to).expect("connect");
    socket
}

/// Who answers a datagram; `None` for nobody, or nobody there.
pub fn asked(socket: &UdpSocket, patience: Duration) -> Option<String> {
    socket.set_read_timeout(Some(patience)).expect("set a time-out");
    let mut block = [0; 64];
    // An error that came for the datagram before is told by the next call.
    let _ = socket.take_error();
    socket.send(b"who").ok()?;
    let length = socket.recv(&mut block).ok()?;
    Some(String::from_utf8_lossy(&block[..length]).into_owned())
}

/// A connection from a place's own address to a published port.
pub fn connect(here: &Isolated, from: Site, to: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    let (own, domain) =
        if to.is_ipv4() { (from.ip(Family::V4), Domain::IPV4) } else { (from.ip(Family::V6), Domain::IPV6) };
    let stream = here.inside(from.place, || {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(own, 0).into())?;
        socket.connect_timeout(&to.into(), patience)?;
        Ok::<TcpStream, std::io::Error>(socket.into())
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Who answers on a connection.
pub fn told(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut block = [0; 64];
    stream.write_all(b"who")?;
    match stream.read(&mut block)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        length => Ok(String::from_utf8_lossy(&block[..length]).into_owned()),
    }
}
