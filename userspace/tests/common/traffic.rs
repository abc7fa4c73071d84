//! Traffic by the probes of `--check`, and connections that stay open while things happen.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use netns::check::{self, Case, Family, Probe, Report, Site, Target};
use socket2::SockRef;

use super::Isolated;

/// What each of these tests takes for too long on a path that takes microseconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// A case for both families.
pub fn both(from: Site, to: Site, probe: impl Fn(Family) -> Probe) -> Vec<Case> {
    Family::ALL.into_iter().map(|family| Case { path: "test", from, to, family, probe: probe(family) }).collect()
}

/// TCP, UDP and ICMP echo straight to an address, in both families.
pub fn direct(from: Site, to: Site, seen_as: Site, hop_limit: u8) -> Vec<Case> {
    let target = Target::Direct;
    let mut cases = both(from, to, |f| Probe::Tcp { bytes: 100_000, target, seen_as: seen_as.ip(f) });
    cases.extend(both(from, to, |f| Probe::Udp { bytes: 100, target, seen_as: seen_as.ip(f), hop_limit }));
    cases.extend(both(from, to, |f| Probe::Echo { seen_as: Some(seen_as.ip(f)) }));
    cases
}

/// TCP by a published address, in both families.
pub fn published(from: Site, to: Site, host: Site, port: u16, pod_port: u16, seen_as: Site) -> Vec<Case> {
    both(from, to, |f| {
        let target = Target::Published { at: SocketAddr::new(host.ip(f), port), pod_port };
        Probe::Tcp { bytes: 100_000, target, seen_as: seen_as.ip(f) }
    })
}

/// Connecting to a published address and port must fail, in both families.
pub fn closed(from: Site, to: Site, host: Site, port: u16, pod_port: u16) -> Vec<Case> {
    both(from, to, |f| Probe::Closed { target: Target::Published { at: SocketAddr::new(host.ip(f), port), pod_port } })
}

impl Isolated {
    /// Sends traffic between the pods, the host and the LAN.
    pub fn traffic(&self, cases: &[Case]) -> Report {
        check::run(&self.places(), cases)
    }

    /// Sends traffic and asserts that every case holds.
    #[track_caller]
    pub fn flows(&self, cases: &[Case]) {
        let report = self.traffic(cases);
        assert!(report.ok, "{report}");
    }

    /// Opens a TCP connection that stays; `place` names are those of [`Isolated::places`].
    pub fn connection(&self, from: Site, to: Site, aim: SocketAddr, listen_port: u16) -> Connection {
        let places = self.places();
        let place = |site: Site| places.get(site.place).expect("a place").clone();
        let family = if aim.is_ipv4() { Family::V4 } else { Family::V6 };
        let at = SocketAddr::new(to.ip(family), listen_port);
        let listener = place(to).run(|| TcpListener::bind(at)).expect("enter").expect("listen");
        let aim = SocketAddr::new(aim.ip(), if aim.port() == 0 { local_port(&listener) } else { aim.port() });
        let near = place(from).run(|| TcpStream::connect_timeout(&aim, PATIENCE)).expect("enter");
        let near = near.unwrap_or_else(|e| panic!("connect {} to {aim}: {e}", from.name));
        let (far, peer) = listener.accept().expect("accept");
        // A process another test forks has a copy of the listener until it begins its program, and would keep the port.
        SockRef::from(&listener).shutdown(Shutdown::Both).expect("stop listening");
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
            stream.set_nodelay(true).expect("set no-delay");
        }
        Connection { near, far, peer: peer.ip() }
    }
}

fn local_port(listener: &TcpListener) -> u16 {
    listener.local_addr().expect("own address").port()
}

/// An open TCP connection, both ends.
pub struct Connection {
    near: TcpStream,
    far: TcpStream,
    /// The opener as the answerer sees it.
    pub peer: IpAddr,
}

impl Connection {
    /// Sends something there and back.
    #[track_caller]
    pub fn works(&mut self, when: &str) {
        self.try_once().unwrap_or_else(|e| panic!("{when}: the connection is broken: {e}"));
    }

    /// As [`Connection::works`], but says so.
    pub fn try_once(&mut self) -> std::io::Result<()> {
        let mut block = [0; 4];
        self.near.write_all(b"ping")?;
        self.far.read_exact(&mut block)?;
        self.far.write_all(b"pong")?;
        self.near.read_exact(&mut block)
    }
}
