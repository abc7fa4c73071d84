//! Many flows: what one greedy pod or a flood costs the others, and what a flow costs in memory and time.
//!
//! Sizes are for every run of the suite; `NETNS_STRESS_FLOWS=2000000` makes each test that large. The figures are printed.

mod common;
#[macro_use]
mod prog;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::TestRun;
use aya::maps::MapData;
use aya::programs::{SchedClassifier, TestRunOptions};
use netns::datapath::Hook;
use netns_ebpf_common::port::Range;
use netns_ebpf_common::state::State;
use prog::bench::with_table;
use prog::*;

/// Flows of each family the table is made for, as in the product.
const TABLE: u32 = 1_048_576;
/// The default of `nat.flows`.
const DEFAULT: u32 = 131_072;

/// How many flows a test opens.
fn flows() -> u32 {
    std::env::var("NETNS_STRESS_FLOWS").map_or(200_000, |n| n.parse().expect("a number"))
}

/// Runs a body over the bench with a table of the product's size.
fn stress(body: impl Fn(&Bench, Version) + Sync + Send) {
    with_table(2 * TABLE, |b| {
        for v in [V4, V6] {
            b.reset();
            b.configure(|c| c.flows = DEFAULT);
            body(b, v);
        }
    });
}

/// A packet whose addresses and ports are changed in place: to build 2,000,000 takes longer than to run them.
struct Template {
    frame: Vec<u8>,
    v: Version,
}

impl Template {
    fn new(packet: &Packet) -> Self {
        Self { frame: packet.bytes(), v: packet.version() }
    }

    fn l3(&self) -> (usize, usize) {
        match self.v {
            V4 => (14 + 12, 4),
            V6 => (14 + 8, 16),
        }
    }

    /// The destination becomes the n-th of a network nobody has.
    fn to(&mut self, n: u32) -> &mut Self {
        let (src, len) = self.l3();
        let at = src + len;
        match far(self.v, n) {
            IpAddr::V4(a) => self.frame[at..at + len].copy_from_slice(&a.octets()),
            IpAddr::V6(a) => self.frame[at..at + len].copy_from_slice(&a.octets()),
        }
        self
    }

    /// The source becomes such an address.
    fn from(&mut self, n: u32) -> &mut Self {
        let (at, len) = self.l3();
        match far(self.v, n) {
            IpAddr::V4(a) => self.frame[at..at + len].copy_from_slice(&a.octets()),
            IpAddr::V6(a) => self.frame[at..at + len].copy_from_slice(&a.octets()),
        }
        self
    }

    fn sport(&mut self, port: u16) -> &mut Self {
        let (src, len) = self.l3();
        let at = src + 2 * len;
        self.frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
        self
    }
}

fn far(v: Version, n: u32) -> IpAddr {
    match v {
        V4 => Ipv4Addr::from(0x0b00_0000 + n).into(),
        V6 => Ipv6Addr::from(0x2001_0db8_aaaa_0000_0000_0000_0000_0000 + u128::from(n)).into(),
    }
}

fn meta(pod: Pod) -> Meta {
    Meta { ifindex: pod.ifindex(), ..Meta::default() }
}

fn lan(b: &Bench) -> Meta {
    Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() }
}

/// Flows of a family that are in the table.
fn total(b: &Bench, v: Version) -> u64 {
    let [of_4, of_6] = b.datapath().flow_totals().expect("totals");
    if v == V4 { of_4 } else { of_6 }
}

/// Opens `n` UDP flows of a pod, from a number on: 8000 to each destination. How many were opened.
fn open(b: &Bench, v: Version, pod: Pod, first: u32, n: u32) -> u64 {
    let mut packet = Template::new(&from_pod(pod, SERVER.ip(v), udp(20_000, 53)));
    let before = total(b, v);
    for i in first..first + n {
        packet.to(i / 8000).sport(20_000 + (i % 8000) as u16);
        b.run(Hook::FromPod, meta(pod), &packet.frame);
    }
    total(b, v) - before
}

/// Establishes `n` TCP connections of a pod to a server, by the server's answers: it sends what it was asked for as well, and they give
/// way to nothing.
fn establish(b: &Bench, v: Version, pod: Pod, n: u16) {
    for port in 20_000..20_000 + n {
        b.run(Hook::FromPod, meta(pod), &from_pod(pod, SERVER.ip(v), tcp(port, 80, flag::SYN)).bytes());
        let reply = from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, port, flag::SYN | flag::ACK));
        b.run(Hook::FromUplink, lan(b), &reply.bytes());
        b.run(Hook::FromPod, meta(pod), &from_pod(pod, SERVER.ip(v), tcp(port, 80, flag::ACK)).bytes());
        let data = from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, port, flag::ACK));
        b.run(Hook::FromUplink, lan(b), &data.bytes());
    }
}

/// Established connections of a pod to that server.
fn established(b: &Bench, v: Version, pod: Pod) -> usize {
    let mut n = 0;
    let server = SERVER.ip(v);
    let count = |r: netns::datapath::FlowRecord| {
        let is_one = r.original && r.dst == server && r.owner_slot == Some(pod.slot);
        n += usize::from(is_one && r.state == State::Assured);
    };
    b.datapath().visit_flows(count).expect("flows");
    n
}

/// Data goes both ways on each of them.
fn still_work(b: &Bench, v: Version, pod: Pod, n: u16) {
    for port in 20_000..20_000 + n {
        let sent = from_pod(pod, SERVER.ip(v), tcp(port, 80, flag::ACK));
        assert_eq!(b.run(Hook::FromPod, meta(pod), &sent.bytes()).action, 7, "port {port}");
        let reply = from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, port, flag::ACK));
        let out = b.run(Hook::FromUplink, lan(b), &reply.bytes());
        assert_eq!((out.action, Packet::read(&out.frame).dst), (7, pod.ip(v)), "port {port}");
    }
}

#[test]
fn a_pod_that_opens_all_it_can_takes_nothing_from_others() {
    stress(|b, v| {
        const LIVE: u16 = 10_000;
        establish(b, v, BLUE, LIVE);
        let started = Instant::now();
        let opened = open(b, v, RED, 0, flows());
        println!("{v:?}: {} new flows in {:.1?}, {opened} admitted", flows(), started.elapsed());
        // It may have as many as there is room left.
        assert_eq!(opened, u64::from((DEFAULT - u32::from(LIVE)) / 2).min(flows().into()));
        assert_eq!(established(b, v, BLUE), usize::from(LIVE));
        still_work(b, v, BLUE, LIVE);
        assert_eq!(open(b, v, BLUE, 1 << 22, 5000), 5000);
        assert_eq!(open(b, v, GREEN, 1 << 22, 5000), 5000, "one that had nothing");
        // Red has more than its share by now: it gets no more, and each new flow takes the place of one of its own.
        let refused = || b.datapath().endpoint_counters(RED.slot).expect("counters").refused_limit;
        let before = refused();
        assert_eq!(open(b, v, RED, 1 << 21, 1000), 0);
        assert_eq!(refused(), before);
        b.assert_accounts();
    });
}

#[test]
fn a_flood_of_handshakes_does_not_close_a_published_port() {
    stress(|b, v| {
        b.configure(|c| c.flows = 16_384);
        let mut syn = Template::new(&from_lan(CLIENT.ip(v), HOST.ip(v), tcp(40_000, 8080, flag::SYN)));
        let clients = 1000;
        let every = flows() / clients;
        let mut slowest = Duration::ZERO;
        for n in 0..flows() {
            let started = Instant::now();
            b.run(Hook::FromUplink, lan(b), &syn.from(n).frame);
            slowest = slowest.max(started.elapsed());
            if n % every == 0 {
                // A client that completes its handshake after some more of the flood, and is sent something.
                let port = 10_000 + (n / every) as u16;
                let client = |flags| from_lan(CLIENT.ip(v), HOST.ip(v), tcp(port, 8080, flags)).bytes();
                assert_eq!(b.run(Hook::FromUplink, lan(b), &client(flag::SYN)).action, 7, "client {port}");
                for later in 0..100 {
                    b.run(Hook::FromUplink, lan(b), &syn.from((1 << 23) + n + later).frame);
                }
                let answer = from_pod(BLUE, CLIENT.ip(v), tcp(80, port, flag::SYN | flag::ACK));
                assert_eq!(b.run(Hook::FromPod, meta(BLUE), &answer.bytes()).action, 7, "the answer to {port}");
                b.run(Hook::FromUplink, lan(b), &client(flag::ACK));
                let data = from_pod(BLUE, CLIENT.ip(v), tcp(80, port, flag::ACK));
                assert_eq!(b.run(Hook::FromPod, meta(BLUE), &data.bytes()).action, 7, "what {port} asked for");
            }
        }
        println!("{v:?}: {} SYNs, the slowest in {slowest:.1?}, the call included", flows());
        let mut alive = 0;
        let client = CLIENT.ip(v);
        b.datapath()
            .visit_flows(|r| alive += u32::from(r.original && r.src == client && r.state == State::Assured))
            .expect("flows");
        assert_eq!(alive, flows().div_ceil(every).min(clients + 1));
        assert_eq!(open(b, v, BLUE, 0, 1000), 1000, "the pod's own");
        b.assert_accounts();
    });
}

/// Locked bytes of a map, as `bpftool map` shows them.
fn memlock(name: &str) -> u64 {
    let map = MapData::from_pin(Path::new("/sys/fs/bpf/prog/maps").join(name)).expect("open");
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd(&map))).expect("fdinfo");
    let line = text.lines().find_map(|l| l.strip_prefix("memlock:")).expect("memlock");
    line.trim().parse().expect("a number")
}

fn fd(map: &MapData) -> i32 {
    use std::os::fd::AsFd;
    map.fd().as_fd().as_raw_fd()
}

#[test]
fn a_full_table_keeps_all_it_has_and_is_swept() {
    stress(|b, v| {
        b.configure(|c| c.flows = TABLE.min(flows()));
        let name = if v == V4 { "FLOWS4" } else { "FLOWS6" };
        let empty = memlock(name);
        establish(b, v, BLUE, 1000);
        let mut held = 1000;
        for (i, pod) in PODS.into_iter().cycle().enumerate() {
            // Each takes its share, until nobody gets anything.
            let share = (u64::from(TABLE.min(flows())) - held) / 2 + 1;
            let opened = open(b, v, pod, (i as u32) << 20, share as u32);
            held += opened;
            if opened == 0 && i > PODS.len() {
                break;
            }
        }
        let full = memlock(name);
        println!(
            "{v:?}: {held} flows of {}; {} bytes each, {} with the buckets",
            TABLE.min(flows()),
            (full - empty) / held,
            full / held
        );
        assert_eq!(total(b, v), held);
        assert!(held * 100 >= u64::from(TABLE.min(flows())) * 96, "{held}");
        assert!((full - empty) / held <= if v == V4 { 256 } else { 352 });
        still_work(b, v, BLUE, 1000);
        b.configure(|c| {
            c.flows = TABLE;
            c.timeout_ns = [1_000_000; 4];
        });
        b.wait(Duration::from_millis(20));
        let started = Instant::now();
        assert_eq!(b.datapath().expire_flows(usize::MAX).expect("sweep"), 2 * held as usize);
        println!("{v:?}: {} entries swept in {:.2?}", 2 * held, started.elapsed());
        assert_eq!(total(b, v), 0);
    });
}

/// Time a run of the program takes, as the kernel measures it.
fn timed(program: &SchedClassifier, ifindex: u32, frame: &[u8]) -> Duration {
    let mut context = [0_u8; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::default() };
    program.test_run(options).expect("run").duration
}

#[test]
fn the_last_port_is_found_in_bounded_time() {
    stress(|b, v| {
        let program = SchedClassifier::from_pin("/sys/fs/bpf/prog/progs/from_pod").expect("open");
        let range = Range { min: *SNAT.start(), max: *SNAT.end() };
        // As many as one pod gets; the rest but the last is nobody's.
        const OWN: u16 = 11_000;
        let mut packet = Template::new(&from_pod(RED, SERVER.ip(v), udp(1, 53)));
        // The first flows tell what opening one costs.
        let mut times: Vec<Duration> = (range.min..range.min + OWN)
            .map(|port| timed(&program, RED.ifindex(), &packet.sport(port).frame))
            .collect();
        assert_eq!(total(b, v), u64::from(OWN));
        times.sort();
        let opening = times[times.len() / 2];
        b.occupy(v, (SERVER, 53), HOST.ip(v), range.min + OWN..range.max);
        let (mut vain, mut last, mut most) = (Vec::new(), Vec::new(), 0);
        for _ in 0..10 {
            b.datapath().delete_flows(|r| r.original && r.sport == 1).expect("delete");
            for searches in 1.. {
                b.end_back_off(v);
                let time = timed(&program, RED.ifindex(), &packet.sport(1).frame);
                if total(b, v) > u64::from(OWN) {
                    last.push(time);
                    most = most.max(searches);
                    break;
                }
                vain.push(time);
                assert!(searches < range.searches(), "the last one was not found");
            }
        }
        let existing = timed(&program, RED.ifindex(), &packet.sport(20_000).frame);
        let mut refused = |again: bool| {
            if !again {
                b.end_back_off(v);
            }
            timed(&program, RED.ifindex(), &packet.sport(2).frame)
        };
        let none_left = (0..10).map(|_| refused(false)).min().unwrap_or_default();
        let again = (0..10).map(|_| refused(true)).min().unwrap_or_default();
        assert_eq!(total(b, v), u64::from(OWN) + 1, "there is none");
        assert!(again < none_left / 2, "a search in vain stands: {again:?} after {none_left:?}");
        vain.extend_from_slice(&last);
        vain.sort();
        last.sort();
        let max = vain[vain.len() - 1];
        println!(
            "{v:?}: opening {opening:?}, along {existing:?}, the last of {} ports {:?} in the last of at most {most} searches \
             (any of them: median {:?}, worst {max:?}), none left {none_left:?}, and again {again:?}",
            range.count(),
            last[last.len() / 2],
            vain[vain.len() / 2],
        );
        assert!(vain[vain.len() / 2] < Duration::from_millis(1), "a search has its bound, whatever the range");
        assert!(max < Duration::from_millis(50), "{max:?}");
    });
}
