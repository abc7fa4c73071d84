//! What a pod that floods costs the pod beside it, more than a pod costs that burns as much of the machine by itself.
//!
//! Connections of blue to the LAN, each with a question and an answer, are counted while red floods, and while red sends as fast to
//! itself, which no program of ours sees; in turns, so that what else the machine does meets both.

mod attack;
mod common;
#[macro_use]
mod prog;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use attack::attacker::segment;
use attack::spray::Spray;
use attack::{Aftermath, Attacker, SERVICE, datapath, nobody, sized};
use common::pods::{BLUE, RED, server};
use common::{Isolated, isolated};
use netns::check::Family;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use prog::{L4, Packet, flag, udp};

/// Destinations of a flood.
const PLACES: u32 = 512;
/// Pieces and datagrams in pieces that may be left of a pod: they wait for others to displace them.
const PIECES_LEFT: usize = 600;
/// Where the ports of the one server are that red has no port left towards.
const DEAD: u16 = 5300;

/// A flood: frames, and where in them a number stands that must not be the same twice.
struct Flood {
    what: &'static str,
    frames: Vec<Vec<u8>>,
    number_at: usize,
}

/// Offset of the transport in a frame.
fn transport_at(family: Family) -> usize {
    14 + if family == Family::V4 { 20 } else { 40 }
}

fn floods(red: &Attacker, family: Family) -> Vec<Flood> {
    let own = RED.ip(family);
    let to_all = |l4: &L4| (0..PLACES).map(|n| red.frame(own, nobody(family, n), l4.clone())).collect();
    let port_at = transport_at(family);
    let piece = |n: u32| {
        let whole = Packet::new(own, nobody(family, n), udp(4444, 53).with_payload(1200));
        red.wrap(whole.piece(1, 512, true, &[0; 512]))
    };
    let expired = |n| red.wrap(Packet::new(own, nobody(family, n), udp(4444, 53).with_payload(512)).hops(1));
    vec![
        Flood { what: "new UDP flows", frames: to_all(&udp(0, 53)), number_at: port_at },
        Flood { what: "SYNs", frames: to_all(&segment((0, 80), flag::SYN, 1, 0, &[])), number_at: port_at },
        // The identification: that of IPv4, the low half of that of the IPv6 fragment header.
        Flood {
            what: "fragments",
            frames: (0..PLACES).map(piece).collect(),
            number_at: if family == Family::V4 { 18 } else { port_at + 6 },
        },
        Flood { what: "errors", frames: (0..PLACES).map(expired).collect(), number_at: port_at },
        Flood {
            what: "exhausted ports",
            frames: (0..PLACES).map(|_| red.frame(own, nobody(family, 1), udp(0, DEAD))).collect(),
            number_at: port_at,
        },
    ]
}

/// What red does, until it is told to stop; how many frames that were.
fn flood(red: &Attacker, flood: &mut Flood, stop: &AtomicBool) -> u64 {
    let (mut sent, mut number) = (0, 0_u16);
    while !stop.load(Ordering::Relaxed) {
        for frames in flood.frames.chunks_mut(64) {
            for frame in frames.iter_mut() {
                // The checksums are not worth the sender's time: nobody of those it goes to looks.
                frame[flood.number_at..flood.number_at + 2].copy_from_slice(&number.to_be_bytes());
                if flood.what == "exhausted ports" || flood.what == "fragments" {
                    number = number.wrapping_add(1);
                }
            }
            red.send(frames);
            sent += frames.len() as u64;
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        number = number.wrapping_add(1);
    }
    sent
}

/// Red sends to itself as fast as it can.
struct Burn {
    spray: Spray,
    frames: Vec<Vec<u8>>,
    _sink: UdpSocket,
}

impl Burn {
    fn new(here: &Isolated) -> Self {
        let (spray, sink) =
            here.inside(RED.name, || (Spray::open("lo"), UdpSocket::bind((Ipv4Addr::LOCALHOST, 9)).expect("bind")));
        let lo = Ipv4Addr::LOCALHOST.into();
        let frames = (0..64).map(|n| Packet::new(lo, lo, udp(2000 + n, 9)).bytes()).collect();
        Self { spray, frames, _sink: sink }
    }

    fn run(&self, stop: &AtomicBool) -> u64 {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            self.spray.send(&self.frames);
            sent += self.frames.len() as u64;
        }
        sent
    }
}

/// Blue, which connects to the LAN, asks, is answered and closes, over and over: each time by a flow of its own.
struct Talk<'a> {
    here: &'a Isolated,
    to: SocketAddr,
}

impl<'a> Talk<'a> {
    fn new(here: &'a Isolated, family: Family) -> Self {
        let to = SocketAddr::new(server().ip(family), SERVICE);
        for place in [BLUE.name, "lan"] {
            // A kernel that keeps its own ports for a minute is not what is measured.
            here.inside(place, || {
                for (setting, value) in [("ip_local_port_range", "1024 65535"), ("tcp_max_tw_buckets", "0")] {
                    std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value).expect("write a setting");
                }
            });
        }
        let listener = here.inside("lan", || TcpListener::bind(to).expect("listen"));
        thread::spawn(move || {
            let mut block = [0; 16];
            for mut stream in listener.incoming().map_while(Result::ok) {
                let _ = stream.read_exact(&mut block).and_then(|()| stream.write_all(&block));
            }
        });
        Self { here, to }
    }

    /// Connections that were answered a second, for a time.
    fn rate(&self, time: Duration) -> f64 {
        let ask = || {
            let mut stream = TcpStream::connect_timeout(&self.to, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(&[7; 16])?;
            stream.read_exact(&mut [0; 16])
        };
        self.here.inside(BLUE.name, || {
            let (started, mut answers) = (Instant::now(), 0_u32);
            while started.elapsed() < time {
                ask().expect("an answer");
                answers += 1;
            }
            f64::from(answers) / started.elapsed().as_secs_f64()
        })
    }

    /// As [`Self::rate`], while red does something: answers a second, and frames of red's a second.
    fn beside(&self, time: Duration, red: impl FnOnce(&AtomicBool) -> u64 + Send) -> (f64, f64) {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let started = Instant::now();
            let red = scope.spawn(|| red(&stop));
            let rate = self.rate(time);
            stop.store(true, Ordering::Relaxed);
            let sent = red.join().expect("red panicked");
            (rate, sent as f64 / started.elapsed().as_secs_f64())
        })
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// All threads of the test share the first CPU there is.
fn share_a_cpu() {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the CPUs of this thread");
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false)).expect("a CPU");
    let mut one = CpuSet::new();
    one.set(first).expect("a CPU's number");
    sched_setaffinity(Pid::from_raw(0), &one).expect("stay on one CPU");
}

/// All share one CPU: with several it is chance who is beside whom, and frames the programs refuse at once make as much difference as
/// any. The short form has few and short rounds; its floor catches what is gross.
#[test]
fn a_flooding_pod_costs_its_neighbour_no_more_than_one_that_burns_by_itself() {
    isolated(|here| {
        here.pods();
        share_a_cpu();
        let _silent = attack::honest::silent(here, DEAD);
        let (red, burn, aftermath) = (Attacker::in_pod(here, RED), Burn::new(here), Aftermath::new());
        let (rounds, time) = sized((5, Duration::from_millis(120)), (15, Duration::from_secs(1)));
        let floor = sized(0.7, 0.9);
        let mut slow = Vec::new();
        for family in Family::ALL {
            let talk = Talk::new(here, family);
            let alone = talk.rate(time);
            println!("{family:?}: {alone:.0} answers/s alone");
            for mut attack in floods(&red, family) {
                let mut ratios = Vec::new();
                let (mut beside_burn, mut beside_flood, mut frames) = (Vec::new(), Vec::new(), Vec::new());
                for _ in 0..rounds {
                    // Each round begins with nothing: red opens flows as long as it may, and blue's ports last.
                    datapath().delete_flows(|_| true).expect("delete flows");
                    if attack.what == "exhausted ports" {
                        let one = |port| red.frame(RED.ip(family), nobody(family, 1), udp(port, DEAD));
                        red.send(&(20_000..=32_767).map(one).collect::<Vec<_>>());
                    }
                    let (burnt, _) = talk.beside(time, |stop| burn.run(stop));
                    let (flooded, sent) = talk.beside(time, |stop| flood(&red, &mut attack, stop));
                    ratios.push(flooded / burnt);
                    beside_burn.push(burnt);
                    beside_flood.push(flooded);
                    frames.push(sent);
                }
                let ratio = median(ratios);
                println!(
                    "{family:?}: {:.0} answers/s beside {} ({:.0} frames/s), {:.0} beside its own loopback: {ratio:.2}",
                    median(beside_flood),
                    attack.what,
                    median(frames),
                    median(beside_burn)
                );
                if ratio < floor {
                    slow.push(format!("{family:?}, {}: {ratio:.2}", attack.what));
                }
            }
        }
        assert!(slow.is_empty(), "below {floor}: {slow:?}");
        aftermath.finds_nothing_but(PIECES_LEFT);
    });
}
