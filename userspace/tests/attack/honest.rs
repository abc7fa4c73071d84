//! Those who must not notice: clients that come while an attack goes on, or after it.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use netns::check::{Family, Site};

use crate::common::Isolated;
use crate::common::who;

/// Clients that connect from a place at the same time and are answered on the connection.
///
/// `patience` for the handshake: under a second the first SYN must do, a lost one is sent again after one, three and seven.
pub fn connects(here: &Isolated, from: Site, to: SocketAddr, clients: usize, patience: Duration) -> usize {
    thread::scope(|scope| {
        let one = || {
            let stream = who::connect(here, from, to, patience);
            stream.and_then(|mut stream| who::told(&mut stream)).is_ok()
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|t| t.join().expect("a client panicked")).filter(|ok| *ok).count()
    })
}

/// Clients that ask by UDP, each from a port of its own, and are answered.
pub fn asks(here: &Isolated, from: Site, to: SocketAddr, clients: usize, patience: Duration) -> usize {
    thread::scope(|scope| {
        let one = || who::asked(&who::datagrams(here, from, to), patience).is_some();
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|t| t.join().expect("a client panicked")).filter(|ok| *ok).count()
    })
}

/// A server of the LAN that answers datagrams and connections on a port of all its addresses.
pub fn lan_server(here: &Isolated, port: u16) {
    for site in [crate::common::pods::server(), crate::common::pods::far()] {
        who::serve(here, Site { name: "lan", ..site }, port);
    }
}

/// Waits until the LAN's server has read what an attack sent it: a question asked beside it, with no pod in the way, is answered.
///
/// Until then the socket's queue may be full, and an honest question is lost there and not in the data path.
pub fn has_read_all(here: &Isolated, to: SocketAddr) {
    let beside = who::datagrams(here, crate::common::pods::client(), to);
    let answered = (0..100).any(|_| who::asked(&beside, Duration::from_millis(100)).is_some());
    assert!(answered, "{to} never got to the end of its queue");
}

/// A socket of the LAN's server that takes datagrams and says nothing.
pub fn silent(here: &Isolated, port: u16) -> Vec<UdpSocket> {
    let server = crate::common::pods::server();
    here.inside("lan", || Family::ALL.map(|f| UdpSocket::bind(SocketAddr::new(server.ip(f), port)).expect("bind")))
        .into()
}
