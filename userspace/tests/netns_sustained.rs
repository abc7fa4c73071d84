//! What the defaults carry for long: no connection or question refused, no SYN sent twice, beside the kernel's own masquerade on the
//! same machine in turns. The long form (`NETNS_TESTS=long`) takes ten minutes each.
//!
//! Rates and their ratio are printed and not judged: what is judged is that nothing is lost.

mod attack;
mod common;
#[macro_use]
mod prog;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::ops::AddAssign;
use std::thread;
use std::time::{Duration, Instant};

use attack::sized;
use common::pods::{RED, TOPOLOGY, server, uplink};
use common::{Isolated, isolated, open_files};
use netns::check::Family;
use socket2::{Domain, Socket, Type};

/// Port of the servers.
const PORT: u16 = 7000;
/// Ports a server of many has, from [`PORT`] on.
const MANY: u16 = 64;
/// A question or a connection that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

fn lasts() -> Duration {
    sized(Duration::from_secs(4), Duration::from_secs(600))
}

/// What came of a load.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    done: u64,
    failed: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.done += other.done;
        self.failed += other.failed;
    }
}

/// A counter of `TcpExt` in a namespace.
fn tcp_counter(here: &Isolated, name: &str, counter: &str) -> u64 {
    here.inside(name, || {
        let text = std::fs::read_to_string("/proc/thread-self/net/netstat").expect("netstat");
        let mut rows = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
        let at = names.split(' ').position(|name| name == counter).expect("a counter");
        values.split(' ').nth(at).expect("a value").parse().expect("a number")
    })
}

/// What may be lost, and by whom.
#[derive(Clone, Debug)]
struct Losses {
    /// SYNs the clients' namespace has sent more than once.
    syns_again: u64,
    /// Packets the machine had no room for between two devices, whoever sent them (`softnet_stat`, `netdev_max_backlog`).
    no_room: u64,
    /// Connections the server's kernel did not take.
    not_taken: u64,
    /// Drops of the instance by reason.
    drops: Vec<(String, u64)>,
}

impl Losses {
    fn of(here: &Isolated, client: &str, server: &str) -> Self {
        let softnet = std::fs::read_to_string("/proc/net/softnet_stat").expect("softnet_stat");
        let dropped = |line: &str| {
            let word = line.split_ascii_whitespace().nth(1).expect("a second column");
            u64::from_str_radix(word, 16).expect("a number")
        };
        let status = here.status();
        let drops = status["drops"].as_array().expect("drops").iter();
        let drops =
            drops.map(|d| (d["reason"].as_str().expect("a word").to_owned(), d["packets"].as_u64().unwrap_or(0)));
        Self {
            syns_again: tcp_counter(here, client, "TCPSynRetrans"),
            no_room: softnet.lines().map(dropped).sum(),
            not_taken: tcp_counter(here, server, "ListenDrops") + tcp_counter(here, server, "TCPReqQFullDrop"),
            drops: drops.collect(),
        }
    }

    fn since(&self, before: &Self) -> Self {
        let had = |reason: &str| before.drops.iter().find(|(r, _)| r == reason).map_or(0, |(_, n)| *n);
        let drops = self.drops.iter().map(|(reason, n)| (reason.clone(), n - had(reason))).filter(|(_, n)| *n > 0);
        Self {
            syns_again: self.syns_again - before.syns_again,
            no_room: self.no_room - before.no_room,
            not_taken: self.not_taken - before.not_taken,
            drops: drops.collect(),
        }
    }
}

/// A server in a place that answers each connection and closes it first, and each datagram.
fn serve(here: &Isolated, place: &str, at: SocketAddr) {
    let (listener, datagrams) = here.inside(place, || {
        let listener = Socket::new(Domain::for_address(at), Type::STREAM, None).expect("socket");
        listener.set_reuse_address(true).expect("reuse");
        listener.bind(&at.into()).expect("bind");
        listener.listen(4096).expect("listen");
        (std::net::TcpListener::from(listener), UdpSocket::bind(at).expect("bind UDP"))
    });
    for _ in 0..4 {
        let listener = listener.try_clone().expect("clone");
        thread::spawn(move || {
            let mut block = [0; 64];
            while let Ok((mut stream, _)) = listener.accept() {
                let _gone = stream.read(&mut block).and_then(|_| stream.write_all(b"here"));
            }
        });
    }
    thread::spawn(move || {
        let mut block = [0; 64];
        while let Ok((_, peer)) = datagrams.recv_from(&mut block) {
            let _gone = datagrams.send_to(b"here", peer);
        }
    });
}

/// One connection, as `Connection: close` has it.
fn connects(to: SocketAddr) -> bool {
    let asks = || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"hello")?;
        let mut said = Vec::new();
        stream.read_to_end(&mut said).map(|_| said == b"here")
    };
    asks().unwrap_or(false)
}

/// One question from a port of its own.
fn asks(from: IpAddr, to: SocketAddr) -> bool {
    let asks = || {
        let socket = UdpSocket::bind((from, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"hello", to)?;
        socket.recv(&mut [0; 64])
    };
    asks().is_ok()
}

/// Clients in a namespace that do something over and over for a time, together no more often than `pace` a second.
fn load(
    here: &Isolated,
    name: &str,
    (clients, pace): (u32, Option<u32>),
    time: Duration,
    one: impl Fn(u32) -> bool + Sync,
) -> Tally {
    let client = |n: u32| {
        let (began, mut tally, mut turn) = (Instant::now(), Tally::default(), n);
        while began.elapsed() < time {
            if let Some(pace) = pace {
                let due =
                    began + Duration::from_secs(1) * (turn / pace) + Duration::from_secs(1) / pace * (turn % pace);
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            if one(turn) {
                tally.done += 1;
            } else {
                tally.failed += 1;
            }
            turn += clients;
        }
        tally
    };
    thread::scope(|scope| {
        let inside = |n| scope.spawn(move || here.inside(name, || client(n)));
        let mut all = Tally::default();
        for client in (0..clients).map(inside).collect::<Vec<_>>() {
            all += client.join().expect("a client panicked");
        }
        all
    })
}

/// Judges a load of a place: nothing failed, and no SYN was sent again but for those the machine itself lost; returns how many there
/// were a second.
#[track_caller]
fn flawless(
    here: &Isolated,
    (name, server): (&str, &str),
    what: &str,
    time: Duration,
    load: impl FnOnce() -> Tally,
) -> f64 {
    let before = Losses::of(here, name, server);
    let tally = load();
    let lost = Losses::of(here, name, server).since(&before);
    let rate = tally.done as f64 / time.as_secs_f64();
    println!("{what}, {name}: {rate:.0} a second, {} failed, {} SYNs again", tally.failed, lost.syns_again);
    let good = tally.done > 0 && tally.failed == 0 && lost.syns_again <= lost.no_room + lost.not_taken;
    assert!(good, "{what}, {name}: {tally:?}, {lost:?}");
    if lost.syns_again > 0 {
        println!("{what}, {name}: {lost:?}");
    }
    rate
}

/// The pods, and a namespace `plain` whose traffic the kernel masquerades.
fn begin(here: &Isolated) {
    open_files(4096);
    here.lan();
    here.tool("sysctl", "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    here.up(TOPOLOGY).ok();
    here.cable("plain", "plain0");
    for (own, peer, all) in [("10.245.0.2/24", "10.245.0.1", "-4"), ("fd00:245::2/64", "fd00:245::1", "-6")] {
        let (_, length) = own.split_once('/').expect("a length");
        here.ip(&format!("{all} addr add {peer}/{length} dev plain0"));
        here.ip(&format!("{all} -n plain addr add {own} dev eth0"));
        here.ip(&format!("{all} -n plain route add default via {peer}"));
    }
    let rules = here.file(
        "masquerade.nft",
        "table inet plain {
            chain out {
                type nat hook postrouting priority srcnat
                iifname plain0 oifname up0 masquerade
            }
        }
        ",
    );
    here.tool("nft", &format!("-f {}", rules.display()));
}

/// As many connections as clients can make, one after the other, to one server that closes them first.
#[test]
fn connections_to_one_server() {
    isolated(|here| {
        begin(here);
        for family in Family::ALL {
            let to = SocketAddr::new(server().ip(family), PORT);
            serve(here, "lan", to);
            for clients in [1, 64] {
                let time = lasts() / 4;
                let [ours, kernels] = [RED.name, "plain"].map(|name| {
                    flawless(here, (name, "lan"), &format!("{family:?}, {clients} clients"), time, || {
                        load(here, name, (clients, None), time, |_| connects(to))
                    })
                });
                println!("{family:?}, {clients} clients: {:.3} of the kernel's masquerade", ours / kernels);
            }
        }
    });
}

#[test]
fn two_thousand_questions_a_second_to_one_resolver() {
    isolated(|here| {
        begin(here);
        for family in Family::ALL {
            let to = SocketAddr::new(server().ip(family), 53);
            serve(here, "lan", to);
            let time = lasts() / 2;
            flawless(here, (RED.name, "lan"), &format!("{family:?}, questions"), time, || {
                load(here, RED.name, (8, Some(2000)), time, |_| asks(RED.ip(family), to))
            });
        }
    });
}

#[test]
fn five_thousand_connections_a_second_to_many_servers() {
    isolated(|here| {
        begin(here);
        for family in Family::ALL {
            let at = |n: u32| SocketAddr::new(server().ip(family), PORT + (n % u32::from(MANY)) as u16);
            (0..MANY.into()).for_each(|n| serve(here, "lan", at(n)));
            let time = lasts() / 2;
            flawless(here, (RED.name, "lan"), &format!("{family:?}, many servers"), time, || {
                load(here, RED.name, (16, Some(5000)), time, |n| connects(at(n)))
            });
        }
    });
}

#[test]
fn five_thousand_connections_a_second_to_a_published_port() {
    const CLIENTS: u32 = 50;
    isolated(|here| {
        begin(here);
        let clients: Vec<Ipv4Addr> = (0..CLIENTS).map(|n| Ipv4Addr::new(192, 0, 2, 100 + n as u8)).collect();
        for client in &clients {
            here.ip(&format!("-n lan addr add {client}/24 dev lan0"));
        }
        serve(here, RED.name, SocketAddr::new(RED.ip(Family::V4), 80));
        let to = SocketAddr::new(uplink().ip(Family::V4), 8080);
        let one = |n: u32| {
            let asks = || {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                socket.bind(&SocketAddr::new(clients[(n % CLIENTS) as usize].into(), 0).into())?;
                socket.connect_timeout(&to.into(), PATIENCE)?;
                let mut stream = TcpStream::from(socket);
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(b"hello")?;
                stream.read_to_end(&mut Vec::new())
            };
            asks().is_ok_and(|bytes| bytes > 0)
        };
        let time = lasts();
        flawless(here, ("lan", RED.name), "a published port", time, || load(here, "lan", (16, Some(5000)), time, one));
    });
}
