//! Talks that go on while things change, in which the other side says by which address it sees us.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::Duration;

use netns::check::{Family, Site};
use netns::datapath::{Datapath, FlowRecord};

use super::Isolated;

/// How long an answer may take that takes microseconds.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Answers datagrams and connections with the address they come from, until the test's end.
pub fn serve(here: &Isolated, place: &str, at: SocketAddr) {
    let (datagrams, connections) =
        here.inside(place, || (UdpSocket::bind(at).expect("bind UDP"), TcpListener::bind(at).expect("listen")));
    thread::spawn(move || {
        let mut block = [0; 64];
        while let Ok((_, peer)) = datagrams.recv_from(&mut block) {
            let _ = datagrams.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
    thread::spawn(move || {
        for mut stream in connections.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let peer = stream.peer_addr().map(|p| format!("{}\n", p.ip())).unwrap_or_default();
                let mut block = [0; 64];
                while let Ok(1..) = stream.read(&mut block) {
                    let _ = stream.write_all(peer.as_bytes());
                }
            });
        }
    });
}

/// A talk that goes on: by which address the other side sees us.
pub enum Talk {
    /// A socket that is connected to the other side.
    Datagrams(UdpSocket),
    /// TCP.
    Connection(TcpStream),
}

impl Talk {
    /// Datagrams of a place to an address.
    pub fn datagrams(here: &Isolated, from: Site, to: SocketAddr) -> Self {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let socket = here.inside(from.place, || UdpSocket::bind(SocketAddr::new(from.ip(family), 0)).expect("bind"));
        socket.connect(to).expect("connect");
        Self::Datagrams(socket)
    }

    /// A connection of a place to an address.
    #[track_caller]
    pub fn connection(here: &Isolated, from: Site, to: SocketAddr) -> Self {
        let stream = here.inside(from.place, || TcpStream::connect_timeout(&to, PATIENCE));
        Self::Connection(stream.unwrap_or_else(|e| panic!("connect to {to}: {e}")))
    }

    /// The address the other side sees; `None` if it does not answer.
    pub fn seen_as(&mut self, patience: Duration) -> Option<IpAddr> {
        let mut block = [0; 64];
        let length = match self {
            Self::Datagrams(socket) => {
                socket.set_read_timeout(Some(patience)).expect("set a time-out");
                // An error that came for the datagram before is told by the next call.
                let _ = socket.take_error();
                socket.send(b"who").ok()?;
                socket.recv(&mut block).ok()?
            }
            Self::Connection(stream) => {
                stream.set_read_timeout(Some(patience)).expect("set a time-out");
                stream.write_all(b"who").ok()?;
                stream.read(&mut block).ok().filter(|n| *n > 0)?
            }
        };
        // On a connection the answer to an earlier question may come first.
        String::from_utf8_lossy(&block[..length]).lines().last()?.parse().ok()
    }
}

/// A port of a place.
pub fn at(site: Site, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(site.ip(family), port)
}

/// The flow entries of the instance `default`.
pub fn flows() -> Vec<FlowRecord> {
    let datapath = Datapath::open(Path::new("/sys/fs/bpf/netns-ebpf/default")).expect("open the data path");
    datapath.flows().expect("list flows")
}
