//! What the dearest packets cost that anybody can send, in the program alone: no sender, no configuration and nothing done before
//! makes one packet dearer than the bound.
//!
//! Times are the kernel's own, of one run. Each packet is tried several times, in turns with an ordinary one, and judged by the
//! medians of both: neither a slow machine nor one that does something else meanwhile fails the test.

mod attack;
mod common;
#[macro_use]
mod prog;

use std::cell::Cell;
use std::time::Duration;

use aya::TestRun;
use aya::programs::{SchedClassifier, TestRunOptions};
use netns_ebpf_common::abi;
use netns_ebpf_common::host::HostConfig;
use netns_ebpf_common::network::Network;
use prog::bench::with_table;
use prog::*;

/// Flows of each family the table is made for, as in the product.
const TABLE: u32 = 1_048_576;
/// What no packet may cost on a machine that opens an ordinary flow in [`ORDINARY`], and on a slower one as much more.
const BOUND: Duration = Duration::from_micros(15);
/// What an ordinary packet that opens a flow costs where the bounds were set.
const ORDINARY: Duration = Duration::from_nanos(2400);
/// What one may that looks for one of few ports left, or lets many pieces go on. Nobody repeats that at will: a search in vain stands
/// for a while, one that finds a port takes it, and pieces go on once.
const SEARCH_BOUND: Duration = Duration::from_micros(80);
/// Runs of a packet.
const RUNS: u16 = 51;
/// A port of the clients no other test step uses.
const FREE: u16 = 40_000;

/// Programs to run with a clock, and what was found.
struct Costs<'a> {
    bench: &'a Bench,
    v: Version,
    from_pod: SchedClassifier,
    from_uplink: SchedClassifier,
    /// Those that are too dear: what, median, longest.
    found: Vec<(&'static str, Duration, Duration)>,
    /// What the packets that are noted may cost.
    bound: Duration,
    /// Ordinary flows opened so far.
    ordinary: Cell<u16>,
}

impl Costs<'_> {
    fn run(&self, program: &SchedClassifier, ifindex: u32, ingress: u32, frame: &[u8]) -> Duration {
        let mut context = [0_u8; 192];
        context[36..40].copy_from_slice(&ingress.to_ne_bytes());
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::default() };
        program.test_run(options).expect("run").duration
    }

    /// A pod sends.
    fn pod(&self, pod: Pod, packet: &Packet) -> Duration {
        self.run(&self.from_pod, pod.ifindex(), 0, &packet.bytes())
    }

    /// Somebody on the LAN sends.
    fn lan(&self, packet: &Packet) -> Duration {
        self.run(&self.from_uplink, self.bench.uplink, self.bench.uplink, &packet.bytes())
    }

    /// A pod opens connections to one server, from each of these ports.
    fn fill(&self, pod: Pod, v: Version, ports: std::ops::Range<u16>) {
        let began = std::time::Instant::now();
        let mut frame = from_pod(pod, SERVER.ip(v), syn(0, 80)).bytes();
        let port_at = 14 + if v == V4 { 20 } else { 40 };
        // Twice: who is refused tries again, as anybody would.
        for port in ports.clone().chain(ports) {
            frame[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
            self.run(&self.from_pod, pod.ifindex(), 0, &frame);
        }
        let totals = self.bench.datapath().flow_totals().expect("totals");
        println!("{v:?}: {totals:?} flows after {:.1?}", began.elapsed());
    }

    /// A pod nobody attacks opens a flow that needs no port.
    fn ordinary(&self) -> Duration {
        let n = self.ordinary.replace(self.ordinary.get() + 1);
        self.pod(YELLOW, &from_pod(YELLOW, SERVER2.ip(self.v), syn(1024 + n, 80)))
    }

    /// Notes what a packet costs: `one` sends the n-th of its kind.
    fn note(&mut self, what: &'static str, one: impl Fn(&Self, u16) -> Duration) {
        let (mut ordinary, mut times): (Vec<_>, Vec<_>) = (0..RUNS).map(|n| (self.ordinary(), one(self, n))).unzip();
        ordinary.sort();
        times.sort();
        let (median, max) = (times[times.len() / 2], times[times.len() - 1]);
        let slowness = ordinary[ordinary.len() / 2].div_duration_f64(ORDINARY);
        println!("{:?}: {median:>10.2?} median, {max:>10.2?} max, machine {slowness:.2}: {what}", self.v);
        if median > self.bound.mul_f64(slowness.max(1.0)) {
            self.found.push((what, median, max));
        }
    }
}

/// Runs a body for each family over a bench with a large table and a bound for flows that nobody reaches; no packet it notes may
/// be dearer than the bound.
fn costs(body: impl Fn(&mut Costs<'_>, Version) + Sync + Send) {
    with_table(2 * TABLE, |b| {
        let mut dear = Vec::new();
        for v in [V4, V6] {
            b.reset();
            b.configure(|c| c.flows = TABLE);
            let open = |name: &str| SchedClassifier::from_pin(format!("/sys/fs/bpf/prog/progs/{name}")).expect("open");
            let (from_pod, from_uplink) = (open("from_pod"), open("from_uplink"));
            let mut costs =
                Costs { bench: b, v, from_pod, from_uplink, found: Vec::new(), bound: BOUND, ordinary: Cell::new(0) };
            body(&mut costs, v);
            dear.extend(costs.found.iter().map(|found| (v, *found)));
            b.assert_accounts();
            b.datapath().delete_flows(|_| true).expect("delete flows");
            assert_eq!(b.datapath().flow_totals().expect("totals"), [0, 0]);
            b.assert_accounts();
        }
        assert!(dear.is_empty(), "too dear (median, max): {dear:#.2?}");
    });
}

fn syn(sport: u16, dport: u16) -> L4 {
    tcp(sport, dport, flag::SYN)
}

/// What a flow's first packet and its next ones cost: the measure for the rest.
#[test]
fn ordinary_packets() {
    costs(|c, v| {
        c.note("a pod's SYN to the LAN", |c, n| c.pod(RED, &from_pod(RED, SERVER.ip(v), syn(20_000 + n, 80))));
        c.note("a pod's SYN from a port outside the range", |c, n| {
            c.pod(RED, &from_pod(RED, SERVER.ip(v), syn(FREE + n, 80)))
        });
        c.note("a client's SYN to a published port", |c, n| {
            c.lan(&from_lan(CLIENT.ip(v), HOST.ip(v), syn(FREE + n, 9000)))
        });
        c.note("a datagram along a flow", |c, _| c.pod(RED, &from_pod(RED, SERVER.ip(v), udp(20_000, 53))));
    });
}

/// A client's ports towards a pod are taken by flows to one of the host's addresses; the same ports come to another one.
#[test]
fn a_search_from_the_lan() {
    costs(|c, v| {
        for port in SNAT {
            c.lan(&from_lan(CLIENT.ip(v), HOST.ip(v), syn(port, 9000)));
        }
        c.note("a SYN whose port and whole range are taken", |c, n| {
            c.lan(&from_lan(CLIENT.ip(v), HOST2.ip(v), syn(20_000 + n, 9000)))
        });
        c.note("the same SYN again", |c, _| c.lan(&from_lan(CLIENT.ip(v), HOST2.ip(v), syn(20_000, 9000))));
        c.note("another client's SYN from such a port", |c, n| {
            c.lan(&from_lan(ROUTER.ip(v), HOST2.ip(v), syn(20_000 + n, 9000)))
        });
    });
}

/// All ports towards one server are taken; then one of the flows is ended and opened again, and another one is wanted.
fn search_from_a_pod(c: &mut Costs<'_>, v: Version, what: &'static str) {
    c.note(what, |c, n| {
        let again = |flags| from_pod(RED, SERVER.ip(v), tcp(20_000, 80, flags));
        c.pod(RED, &again(flag::RST));
        c.pod(RED, &again(flag::SYN));
        c.pod(RED, &from_pod(RED, SERVER.ip(v), syn(400 + n, 80)))
    });
    c.note("a neighbour's, while there is no port", |c, n| {
        c.pod(BLUE, &from_pod(BLUE, SERVER.ip(v), syn(400 + n, 80)))
    });
}

#[test]
fn a_search_from_a_pod() {
    costs(|c, v| {
        c.fill(RED, v, *SNAT.start()..*SNAT.end() + 1);
        search_from_a_pod(c, v, "a SYN when there is no port");
    });
}

#[test]
fn a_search_in_a_wide_range() {
    costs(|c, v| {
        c.bench.configure(|config| {
            config.flows = TABLE;
            (config.snat_port_min, config.snat_port_max) = (2000, 65_535);
        });
        c.fill(RED, v, 2000..65_535);
        c.pod(RED, &from_pod(RED, SERVER.ip(v), syn(65_535, 80)));
        search_from_a_pod(c, v, "a SYN when there is no port of 63,536");
    });
}

#[test]
fn a_search_in_a_pool() {
    costs(|c, v| {
        let pool: Vec<_> = (1..=8_u8)
            .map(|n| match v {
                V4 => format!("203.0.113.{}", 100 + n),
                V6 => format!("2001:db8:7::{n}"),
            })
            .map(|a| a.parse().expect("an address"))
            .collect();
        // One address at a time, so that it does not take a search through those before to fill the next.
        for (n, address) in pool.iter().enumerate() {
            c.bench.set_snat_pool(1, &[*address], &[*address]);
            let (pod, first) = ([RED, BLUE][n / 4], 1000 + (n % 4 * SNAT.len()) as u16);
            c.fill(pod, v, first..first + SNAT.len() as u16);
        }
        c.bench.set_snat_pool(1, &pool, &pool);
        search_from_a_pod(c, v, "a SYN when there is no port of 8 addresses");
    });
}

/// A pod of an endpoint-independent network has made mappings of all ports it gets.
#[test]
fn mappings_exhausted() {
    costs(|c, v| {
        c.bench.configure_network(3, |n| n.flags |= Network::ENDPOINT_INDEPENDENT);
        c.bench.datapath().set_mappings(true).expect("settings");
        c.bench.configure(|config| {
            config.flows = TABLE;
            config.flags |= HostConfig::MAPPINGS;
        });
        for port in 1..=SNAT.len() as u16 {
            c.pod(TWIN, &from_pod(TWIN, SERVER.ip(v), udp(port, 53)));
        }
        c.note("its next datagram from a new port", |c, n| {
            c.pod(TWIN, &from_pod(TWIN, SERVER.ip(v), udp(FREE + n, 53)))
        });
        c.bound = SEARCH_BOUND;
        c.note("its neighbour's first datagrams", |c, n| {
            c.pod(TWIN_BLUE, &from_pod(TWIN_BLUE, SERVER.ip(v), udp(FREE + n, 53)))
        });
        c.note("a datagram of another network's pod to new servers", |c, n| {
            c.pod(RED, &from_pod(RED, SERVER2.ip(v), udp(FREE, 1000 + n)))
        });
        c.bound = BOUND;
        c.note("a stranger's datagram to a mapping's port", |c, n| {
            c.lan(&from_lan(SERVER2.ip(v), HOST.ip(v), udp(53, 20_000 + n)))
        });
    });
}

/// Flows of an account at its limit.
const AT_LIMIT: u16 = 20_000;

/// Accounts at their limit: blue's by handshakes nobody answers, behind very many flows of red; red's own; and one whose flows all
/// stay, which is looked through in vain.
#[test]
fn accounts_at_their_limit() {
    costs(|c, v| {
        let limit = |flows: u16| {
            c.bench.configure(|config| {
                config.flows = TABLE;
                config.flows_per_pod = flows.into();
            });
        };
        limit(1000);
        for (pod, ports) in [(RED, 22_000..23_000), (BLUE, 23_000..24_000)] {
            for port in ports {
                let ask = from_pod(pod, SERVER.ip(v), udp(port, 53));
                c.pod(pod, &ask);
                c.lan(&from_lan(SERVER.ip(v), HOST.ip(v), udp(53, port)));
                c.pod(pod, &ask);
            }
        }
        c.note("a flow of a pod whose flows all stay", |c, n| {
            // A look in vain stands for a while. A processor that has slept has forgotten the programs: to read them again is
            // not the packet's to pay, so another pod's comes first.
            c.bench.wait(Duration::ZERO);
            c.pod(RED, &from_pod(RED, SERVER2.ip(v), udp(FREE + n, 53)));
            c.pod(BLUE, &from_pod(BLUE, SERVER2.ip(v), udp(FREE + n, 53)))
        });
        c.bench.datapath().delete_flows(|_| true).expect("delete flows");
        limit(AT_LIMIT);
        for port in 0..AT_LIMIT {
            c.pod(RED, &from_pod(RED, SERVER.ip(v), udp(20_000 + port % 10_000, 53 + port / 10_000)));
        }
        for n in 0..AT_LIMIT + 100 {
            c.lan(&from_lan(attack::nobody(family(v), n.into()), HOST.ip(v), syn(FREE, 9000)));
        }
        c.note("a SYN to the pod at its limit", |c, n| {
            c.lan(&from_lan(attack::nobody(family(v), 100_000 + u32::from(n)), HOST.ip(v), syn(FREE, 9000)))
        });
        c.note("a flow of the pod at its own limit", |c, n| {
            c.pod(RED, &from_pod(RED, SERVER2.ip(v), udp(FREE + n, 53)))
        });
    });
}

fn family(v: Version) -> netns::check::Family {
    if v == V4 { netns::check::Family::V4 } else { netns::check::Family::V6 }
}

/// The n-th piece of 8 bytes of a pod's datagram, none of which is its first.
fn later_piece(v: Version, id: u16, n: u16) -> Packet {
    from_pod(RED, SERVER.ip(v), udp(FREE, 53).with_payload(2000)).piece(id, usize::from(8 + 8 * n), true, &[0; 8])
}

#[test]
fn pieces_of_datagrams() {
    costs(|c, v| {
        c.note("a piece that waits for its first", |c, n| c.pod(RED, &later_piece(v, n, 0)));
        c.note("another datagram, when all places are taken", |c, n| {
            for more in 0..64 {
                c.pod(RED, &later_piece(v, 1000 + 64 * n + more, 0));
            }
            c.pod(RED, &later_piece(v, 9000 + n, 0))
        });
        c.note("another piece of one datagram, when many wait", |c, n| c.pod(RED, &later_piece(v, 500, n)));
        c.note("a piece that contradicts another", |c, n| {
            let overlapping = |bytes: usize| {
                let whole = from_pod(RED, SERVER.ip(v), udp(FREE, 53).with_payload(2000));
                whole.piece(30_000 + n, 64, true, &vec![0; bytes])
            };
            c.pod(RED, &overlapping(1200));
            c.pod(RED, &overlapping(1208))
        });
        c.note("a piece from the LAN", |c, n| {
            let whole = from_lan(attack::nobody(family(v), n.into()), HOST.ip(v), udp(FREE, 5353).with_payload(2000));
            c.lan(&whole.piece(n, 1200, true, &[0; 64]))
        });
    });
}

/// Whoever sends the first piece when others wait pays for all of them. Their number is bounded, and each has been a packet
/// of its own that is let go on once: together they are no dearer than others.
#[test]
fn a_piece_that_lets_others_go_on() {
    const WAITING: u16 = 64;
    costs(|c, v| {
        let all = |c: &Costs<'_>, n: u16| {
            let waiting: Duration = (0..WAITING).map(|more| c.pod(RED, &later_piece(v, 20_000 + n, more))).sum();
            let whole = from_pod(RED, SERVER.ip(v), udp(20_000 + n, 53).with_payload(2000));
            let [first, _] = whole.in_two(20_000 + n, 8);
            (waiting, c.pod(RED, &first))
        };
        c.bound = SEARCH_BOUND;
        c.note("a first piece for which 64 wait", |c, n| all(c, n).1);
        c.bound = BOUND / 3;
        c.note("any of them, one with the other", |c, n| {
            let (waiting, first) = all(c, 1000 + n);
            (waiting + first) / u32::from(WAITING + 1)
        });
    });
}

#[test]
fn packets_that_provoke_errors_and_errors() {
    costs(|c, v| {
        // Each is answered: nobody has sent errors before.
        let may_tell = |c: &Costs<'_>| {
            let lan = (0..abi::LAN_AREAS).map(|n| abi::MAX_ENDPOINTS + n);
            c.bench.set_error_debt(&lan.chain([RED.slot]).collect::<Vec<_>>(), Duration::ZERO);
        };
        c.note("a datagram whose hops are used up", |c, n| {
            may_tell(c);
            c.pod(RED, &from_pod(RED, SERVER.ip(v), udp(20_000 + n, 53).with_payload(1300)).hops(1))
        });
        c.note("a datagram too large for the other pod", |c, n| {
            may_tell(c);
            c.pod(RED, &from_pod(RED, GREEN.ip(v), udp(20_000 + n, 53).with_payload(1340)))
        });
        c.note("a datagram to where no route leads", |c, n| {
            may_tell(c);
            c.pod(RED, &from_pod(RED, NOWHERE.ip(v), udp(20_000 + n, 53).with_payload(1300)))
        });
        c.note("a client's segment too large for the pod", |c, n| {
            may_tell(c);
            c.lan(&from_lan(CLIENT.ip(v), HOST.ip(v), syn(FREE + n, 8443).with_payload(1400)))
        });
        c.pod(RED, &from_pod(RED, SERVER.ip(v), udp(20_000, 53)));
        let error = |src: Place, dst: Place, quoted: &Packet| {
            let (kind, code) = if v == V4 { (3, 3) } else { (1, 4) };
            let body = quoted.ip_bytes();
            Packet::new(src.ip(v), dst.ip(v), L4::Icmp { kind, code, rest: [0; 4], body })
        };
        let quoted = |port| Packet::new(HOST.ip(v), SERVER.ip(v), udp(port, 53).with_payload(500));
        c.note("an error about a flow", |c, _| c.lan(&error(ROUTER, HOST, &quoted(20_000))));
        c.note("an error about no flow", |c, n| c.lan(&error(ROUTER, HOST, &quoted(21_000 + n))));
        c.note("a pod's error about a neighbour's packet", |c, n| {
            let quoted = Packet::new(BLUE.ip(v), SERVER.ip(v), udp(FREE + n, 53).with_payload(500));
            let L4::Icmp { kind, code, rest, body } = error(RED.at, BLUE.at, &quoted).l4 else { return Duration::ZERO };
            c.pod(RED, &from_pod(RED, BLUE.ip(v), L4::Icmp { kind, code, rest, body }))
        });
    });
}
