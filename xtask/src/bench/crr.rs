//! Connect, request, close: a client and a server, as no packaged tool varies its sources.
//!
//! The server closes first: the connection's TIME-WAIT is then on its side, where it does not hold up the client's next
//! use of a port.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// Bytes of the request and of the response.
const MESSAGE_BYTES: usize = 64;

/// The client's ports: all that need no privilege. Taken in turn, so none is used again while its past lives.
const PORTS: std::ops::Range<u16> = 1024..65_000;

/// What the client waits for one answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The two sides; `bench` starts them inside namespaces.
#[derive(clap::Subcommand, Clone)]
pub enum Side {
    /// Answer each connection's request and close it, until killed
    Serve {
        /// The port to listen on, on every address
        #[arg(long)]
        port: u16,
    },
    /// Open one connection after the other, and print a tally as JSON
    Connect {
        /// Where to
        #[arg(long)]
        to: SocketAddr,
        /// Addresses to connect from, in turn
        #[arg(long, value_delimiter = ',', required = true)]
        from: Vec<Ipv4Addr>,
        /// For how long
        #[arg(long)]
        seconds: u64,
        /// The first port to connect from
        #[arg(long)]
        first_port: u16,
    },
}

/// What the client counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Connections that got their answer.
    pub connections: u64,
    /// In this many seconds.
    pub seconds: f64,
}

impl Tally {
    /// Connections per second.
    pub fn per_second(&self) -> f64 {
        self.connections as f64 / self.seconds
    }
}

/// Runs one side.
pub fn run(side: &Side) -> Result<()> {
    match side {
        Side::Serve { port } => serve(*port),
        Side::Connect { to, from, seconds, first_port } => {
            let tally = connect(*to, from, Duration::from_secs(*seconds), *first_port)?;
            println!("{}", serde_json::to_string(&tally)?);
            Ok(())
        }
    }
}

/// The first client port of a round: the rounds start far from each other.
pub fn first_port(round: u32) -> u16 {
    let span = u32::from(PORTS.end - PORTS.start);
    PORTS.start + u16::try_from(round.wrapping_mul(20_011) % span).unwrap_or(0)
}

fn serve(port: u16) -> Result<()> {
    let listener =
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).with_context(|| format!("cannot listen on port {port}"))?;
    let mut message = [0; MESSAGE_BYTES];
    loop {
        let (mut stream, _) = listener.accept().context("cannot accept")?;
        // A client that gave up is its own affair; the next one is waiting.
        let _ = stream.read_exact(&mut message).and_then(|()| stream.write_all(&message));
    }
}

fn connect(to: SocketAddr, from: &[Ipv4Addr], duration: Duration, first_port: u16) -> Result<Tally> {
    let started = Instant::now();
    let mut connections = 0;
    for source in sources(from, first_port) {
        if started.elapsed() >= duration {
            break;
        }
        match one(source, to) {
            Ok(()) => connections += 1,
            // Somebody in this namespace has the port: the next one does as well.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).with_context(|| format!("connection {connections}: {source} to {to}")),
        }
    }
    Ok(Tally { connections, seconds: started.elapsed().as_secs_f64() })
}

/// Addresses and ports to connect from, without end: all addresses with one port, then the next port.
fn sources(from: &[Ipv4Addr], first_port: u16) -> impl Iterator<Item = SocketAddr> {
    let ports = (first_port..PORTS.end).chain(PORTS.cycle());
    ports.flat_map(move |port| from.iter().map(move |address| SocketAddr::new(IpAddr::V4(*address), port)))
}

/// One connection, request, answer, end.
fn one(source: SocketAddr, to: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    let mut message = [0x6e; MESSAGE_BYTES];
    stream.write_all(&message)?;
    stream.read_exact(&mut message)?;
    match stream.read(&mut message)? {
        0 => Ok(()),
        _ => Err(std::io::Error::new(ErrorKind::InvalidData, "more than the answer came back")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_go_through_the_addresses_then_the_ports_and_start_over() {
        let from = [Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 3)];
        let seen: Vec<String> = sources(&from, 64_999).take(5).map(|source| source.to_string()).collect();
        let wanted = ["192.0.2.2:64999", "192.0.2.3:64999", "192.0.2.2:1024", "192.0.2.3:1024", "192.0.2.2:1025"];
        assert_eq!(seen, wanted);
    }

    #[test]
    fn rounds_start_at_ports_of_their_own() {
        let first: std::collections::BTreeSet<u16> = (0..7).map(first_port).collect();
        assert_eq!(first.len(), 7);
        assert!(first.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn a_tally_is_a_rate() {
        assert_eq!(Tally { connections: 30, seconds: 2.0 }.per_second(), 15.0);
    }
}
