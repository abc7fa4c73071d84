//! Live connections that an attack must not touch: real sockets, many of them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use netns::check::{Family, Site};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};

use super::{SERVICE, attacker::host};
use crate::common::pods::{BLUE, RED, client, server};
use crate::common::{Isolated, wait_for, who};

/// How long an answer may take that takes microseconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the next one may take, when one has failed already.
const HURRY: Duration = Duration::from_millis(50);
/// Length of a question and of its answer.
const WORDS: usize = 16;

/// How a client talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connection.
    Tcp,
    /// A UDP socket of its own.
    Udp,
    /// Echo requests with an identifier of its own.
    Ping,
}

/// A group of clients: a thread that has their sockets in a file table of its own, so that a thousand fit under the usual limit.
struct Group {
    label: String,
    order: Sender<()>,
    broken: Receiver<Vec<String>>,
}

/// All live connections of a test.
pub struct Live {
    groups: Vec<Group>,
    stop: Arc<AtomicBool>,
}

impl Live {
    /// Nobody yet.
    pub fn new() -> Self {
        Self { groups: Vec::new(), stop: Arc::default() }
    }

    /// Connections of every kind in a family, `scale` times 50: in by red's published port and out by SNAT.
    pub fn everywhere(&mut self, here: &Isolated, family: Family, scale: usize) {
        let service = SocketAddr::new(server().ip(family), SERVICE);
        self.server(here, RED.name, SocketAddr::new(RED.ip(family), 80));
        self.server(here, "lan", service);
        let groups = [
            (client(), host(family, 8080), Kind::Tcp, 20),
            (BLUE, service, Kind::Tcp, 20),
            (client(), host(family, 8080), Kind::Udp, 4),
            (BLUE, service, Kind::Udp, 4),
            (BLUE, SocketAddr::new(service.ip(), 0), Kind::Ping, 2),
        ];
        for (from, to, kind, share) in groups {
            self.clients(here, from, to, kind, share * scale);
        }
    }

    /// Answers connections and datagrams with what they say.
    pub fn server(&self, here: &Isolated, place: &str, at: SocketAddr) {
        let (ready, is_ready) = channel();
        let stop = Arc::clone(&self.stop);
        here.inside(place, || {
            thread::spawn(move || {
                own_file_table();
                let listener = TcpListener::bind(at).expect("listen");
                nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::MAXCONN).expect("a longer queue");
                let datagrams = UdpSocket::bind(at).expect("bind");
                listener.set_nonblocking(true).expect("set non-blocking");
                datagrams.set_nonblocking(true).expect("set non-blocking");
                ready.send(()).expect("the test waits");
                answer_all(&listener, &datagrams, &stop);
            })
        });
        is_ready.recv().expect("a server");
    }

    /// Opens connections, each of which has been answered when this returns.
    pub fn clients(&mut self, here: &Isolated, from: Site, to: SocketAddr, kind: Kind, count: usize) {
        let ((order, orders), (tell, broken)) = (channel(), channel());
        if kind == Kind::Ping {
            here.inside(from.place, || {
                std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").expect("allow pings");
            });
        }
        here.inside(from.place, || {
            thread::spawn(move || {
                own_file_table();
                let mut clients: Vec<_> = (0..count).map(|_| Client::open(from, to, kind)).collect();
                let mut question = 0_u64;
                while orders.recv().is_ok() {
                    let mut patience = PATIENCE;
                    let mut broken = Vec::new();
                    for client in &mut clients {
                        question += 1;
                        if let Err(e) = client.asks(question, patience) {
                            broken.push(format!("{}: {e}", client.own));
                            patience = HURRY;
                        }
                    }
                    tell.send(broken).expect("the test waits");
                }
            })
        });
        let label = format!("{} to {to} by {kind:?}", from.name);
        self.groups.push(Group { label, order, broken });
        let broken = self.broken();
        assert_eq!(broken, [] as [String; 0], "before the attack");
    }

    /// Has every client ask once more; names those that were not answered.
    pub fn broken(&self) -> Vec<String> {
        for group in &self.groups {
            group.order.send(()).expect("the clients are there");
        }
        let told = |g: &Group| {
            let broken = g.broken.recv().unwrap_or_else(|_| panic!("{}: clients panicked", g.label));
            broken.into_iter().map(|why| format!("{}: {why}", g.label)).collect::<Vec<_>>()
        };
        self.groups.iter().flat_map(told).collect()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Gives the calling thread a table of open files of its own, with nothing in it but the standard ones.
#[expect(unsafe_code, reason = "no safe crate in use here closes a range of files")]
fn own_file_table() {
    unshare(CloneFlags::CLONE_FILES).expect("unshare the thread's open files");
    // SAFETY: the table is the thread's own since the line above, and nothing on this thread has a file in it yet.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    assert_eq!(done, 0, "close what is open: {}", io::Error::last_os_error());
}

/// Echoes until it is told to stop.
fn answer_all(listener: &TcpListener, datagrams: &UdpSocket, stop: &AtomicBool) {
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut block = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let mut wish: Vec<_> = streams.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
        wish.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        wish.push(PollFd::new(datagrams.as_fd(), PollFlags::POLLIN));
        poll(&mut wish, PollTimeout::from(50_u8)).expect("poll");
        let ready: Vec<bool> = wish.iter().map(|fd| fd.any() == Some(true)).collect();
        let mut ready_of = ready.iter();
        streams.retain_mut(|stream| {
            if ready_of.next() != Some(&true) {
                return true;
            }
            match stream.read(&mut block) {
                Ok(n @ 1..) => stream.write_all(&block[..n]).is_ok(),
                Ok(0) => false,
                Err(e) => e.kind() == ErrorKind::WouldBlock,
            }
        });
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nodelay(true).expect("set no-delay");
            stream.set_nonblocking(true).expect("set non-blocking");
            streams.push(stream);
        }
        // An error is one of a datagram sent before.
        while let Ok((n, peer)) = datagrams.recv_from(&mut block) {
            let _ = datagrams.send_to(&block[..n], peer);
        }
    }
}

/// One client.
struct Client {
    own: String,
    kind: Kind,
    socket: Socket,
}

impl Client {
    fn open(from: Site, to: SocketAddr, kind: Kind) -> Self {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let protocol = match (kind, family) {
            (Kind::Ping, Family::V4) => Some(Protocol::ICMPV4),
            (Kind::Ping, Family::V6) => Some(Protocol::ICMPV6),
            _ => None,
        };
        let kind_of_socket = if kind == Kind::Tcp { Type::STREAM } else { Type::DGRAM };
        let socket = Socket::new(domain, kind_of_socket, protocol).expect("a socket");
        socket.bind(&SocketAddr::new(from.ip(family), 0).into()).expect("bind");
        socket.connect_timeout(&to.into(), PATIENCE).unwrap_or_else(|e| panic!("{} to {to}: {e}", from.name));
        if kind == Kind::Tcp {
            socket.set_tcp_nodelay(true).expect("set no-delay");
        }
        let own = socket.local_addr().ok().and_then(|a| a.as_socket()).map_or_else(String::new, |a| a.to_string());
        Self { own, kind, socket }
    }

    /// Asks something and is answered with just that.
    fn asks(&mut self, n: u64, patience: Duration) -> io::Result<()> {
        let words = [n.to_be_bytes(), (!n).to_be_bytes()].concat();
        if self.kind == Kind::Tcp {
            self.socket.set_read_timeout(Some(patience))?;
            self.socket.write_all(&words)?;
            let mut answer = [0; WORDS];
            self.socket.read_exact(&mut answer)?;
            return if answer[..] == words[..] { Ok(()) } else { Err(io::Error::other("another's words")) };
        }
        // What an attacker sends to a socket without sequence numbers may stand before the answer, push it out of the queue, or
        // be an error.
        self.socket.set_read_timeout(Some(patience / 6))?;
        let mut last = ErrorKind::TimedOut.into();
        for _ in 0..6 {
            let _ = self.socket.take_error();
            match self.ask_once(&words) {
                Ok(()) => return Ok(()),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn ask_once(&mut self, words: &[u8]) -> io::Result<()> {
        let header = [if self.own.starts_with('[') { 128 } else { 8 }, 0, 0, 0, 0, 0, 0, 1];
        let question = if self.kind == Kind::Ping { [&header[..], words].concat() } else { words.to_vec() };
        self.socket.send(&question)?;
        let mut block = [0; 2048];
        loop {
            let n = self.socket.read(&mut block)?;
            if block[..n].ends_with(words) {
                return Ok(());
            }
        }
    }
}

/// A connection of the LAN's client to a published port, whose ends are both the test's: client, and whichever pod listens.
pub fn held_connection(here: &Isolated, listeners: &[TcpListener], to: SocketAddr) -> (TcpStream, TcpStream) {
    let near = who::connect(here, client(), to, PATIENCE).expect("connect to a published port");
    let accepted = wait_for(PATIENCE, || {
        listeners.iter().find_map(|listener| {
            listener.set_nonblocking(true).expect("set non-blocking");
            listener.accept().ok()
        })
    });
    let (far, _) = accepted.expect("one of the pods accepts");
    far.set_nonblocking(false).expect("set blocking");
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("set a time-out");
        stream.set_nodelay(true).expect("set no-delay");
    }
    (near, far)
}
