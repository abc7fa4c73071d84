//! How many flows there may be: limits that change live, refusals with names, and many connections at once.

mod common;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::pods::{BLUE, RED, TOPOLOGY, server};
use common::{Isolated, isolated, wait_until};
use netns::check::{Family, Site};
use netns::datapath::{Datapath, FlowRecord};
use serde_json::Value;

const PORT: u16 = 7000;
const THREADS: u64 = 64;

fn datapath() -> Datapath {
    Datapath::open(Path::new("/sys/fs/bpf/netns-ebpf/default")).expect("open the data path")
}

fn flows() -> Vec<FlowRecord> {
    datapath().flows().expect("list flows")
}

/// Datagrams from a pod to the LAN's server, each from a port of its own: how many the pod was told nobody takes.
fn prohibited(here: &Isolated, pod: Site, family: Family, datagrams: usize) -> usize {
    clients(here, pod, family, datagrams).iter().filter(|socket| is_refused(socket, family)).count()
}

/// The same with a server that answers, and clients that go on after that: flows that give their place to nobody.
fn prohibited_in_use(here: &Isolated, pod: Site, family: Family, datagrams: usize, server: &UdpSocket) -> usize {
    let goes_on = |client: &UdpSocket| {
        let (_, from) = server.recv_from(&mut [0; 8]).expect("the question");
        server.send_to(b"hello", from).expect("answer");
        client.recv(&mut [0; 8]).expect("the answer");
        client.send(b"more").expect("go on");
        assert_eq!(server.recv_from(&mut [0; 8]).expect("more").1, from);
    };
    let clients = clients(here, pod, family, datagrams);
    let (refused, taken): (Vec<_>, Vec<_>) = clients.iter().partition(|client| {
        let refused = is_refused(client, family);
        if !refused {
            goes_on(client);
        }
        refused
    });
    assert_eq!(refused.len() + taken.len(), datagrams);
    refused.len()
}

fn clients(here: &Isolated, pod: Site, family: Family, sockets: usize) -> Vec<UdpSocket> {
    here.inside(pod.place, || (0..sockets).map(|_| patient(SocketAddr::new(pod.ip(family), 0))).collect())
}

/// A socket that waits for seconds at most.
fn patient(at: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(at).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set a time-out");
    socket
}

fn is_refused(socket: &UdpSocket, family: Family) -> bool {
    socket.connect(SocketAddr::new(server().ip(family), PORT)).expect("connect");
    socket.send(b"hello").expect("send");
    // The error comes back before `send` returns; administratively-prohibited is "no route to host" or "permission".
    let told = socket.take_error().expect("ask").map(|e| e.kind());
    matches!(told, Some(ErrorKind::HostUnreachable | ErrorKind::PermissionDenied))
}

fn pod<'a>(status: &'a Value, name: &str) -> &'a Value {
    let pods = status["pods"].as_array().expect("pods");
    pods.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("no pod {name} in {status:#}"))
}

/// Sockets of the LAN's server, one of each family, that take datagrams and say nothing of themselves.
fn silent(here: &Isolated) -> Vec<UdpSocket> {
    here.inside("lan", || Family::ALL.map(|family| patient(SocketAddr::new(server().ip(family), PORT)))).into()
}

#[test]
fn limits_change_live_and_refusals_have_names() {
    isolated(|here| {
        here.lan();
        let servers = silent(here);
        here.up(&format!("[nat]\nflows = 16\n{TOPOLOGY}")).ok();
        for (family, server) in Family::ALL.into_iter().zip(&servers) {
            let before = flows().len();
            assert_eq!(prohibited(here, RED, family, 12), 0, "{family:?}: what nobody answers gives way");
            assert_eq!(flows().len(), before + 16, "{family:?}: half of 16 may be open, each with two entries");
            for _ in 0..12 {
                server.recv(&mut [0; 8]).expect("every question");
            }
            assert_eq!(prohibited_in_use(here, RED, family, 8, server), 0, "{family:?}: it still does");
            assert_eq!(prohibited_in_use(here, RED, family, 4, server), 4, "{family:?}: what is in use does not");
            assert_eq!(flows().len(), before + 16, "{family:?}: and is there still");
            assert_eq!(prohibited_in_use(here, BLUE, family, 3, server), 0, "{family:?}: a newcomer");
        }
        let before = flows();
        let status = here.status();
        assert_eq!(status["flows"], serde_json::json!({"ipv4": 11, "ipv6": 11}));
        assert_eq!(pod(&status, "red")["refused"]["flow_limit"], 8);
        assert_eq!(pod(&status, "red")["flows"]["ipv6_opened"], 8);
        assert_eq!(pod(&status, "blue")["refused"]["flow_limit"], 0);
        let text = here.netns(["status"]).ok();
        let row = |name: &str| {
            let mut rows = text.lines().skip_while(|l| !l.starts_with("REFUSED"));
            rows.find(|l| l.split_whitespace().next() == Some(name)).map(str::to_owned)
        };
        assert!(row("red").is_some_and(|r| r.split_whitespace().eq(["red", "8", "0", "0"])), "{text}");
        assert!(row("blue").is_none(), "{text}");
        assert!(here.drops("flow-limit") == 8);

        // Larger: nothing goes, and more come.
        let grown = here.up(&format!("[nat]\nflows = 1048576\nflows_per_pod = 10\n{TOPOLOGY}")).ok();
        assert!(grown.contains("1048576 of each family, at most 10 for each pod"), "{grown}");
        let untimed = |records: &[FlowRecord]| {
            let mut records: Vec<_> = records.iter().map(|r| FlowRecord { last_seen_ns: 0, ..*r }).collect();
            records.sort_by_key(|r| (r.zone, r.src, r.sport, r.dst, r.dport));
            records
        };
        assert_eq!(untimed(&flows()), untimed(&before));
        for (family, server) in Family::ALL.into_iter().zip(&servers) {
            assert_eq!(prohibited_in_use(here, RED, family, 3, server), 1, "{family:?}: ten");
        }
        // Smaller: what there is stays, and nothing new is opened.
        here.up(&format!("[nat]\nflows = 2\n{TOPOLOGY}")).ok();
        assert_eq!(flows().len(), before.len() + 8);
        here.drops_more("flow-table-full", "a table that was made smaller", || {
            prohibited(here, BLUE, Family::V4, 1);
        });
        here.up(&format!("[nat]\nflows = 0\n{TOPOLOGY}")).fails(2, &["nat.flows", "line 2", "1048576"]);
        here.up(&format!("[nat]\nflows_per_pod = 2000000\n{TOPOLOGY}")).fails(2, &["nat.flows_per_pod", "2000000"]);
    });
}

#[test]
fn a_destination_without_ports_is_named_with_its_top_talkers() {
    isolated(|here| {
        here.lan();
        let _silent = silent(here);
        here.up(&TOPOLOGY.replace("[host]", "[host]\nsnat_ports = \"30000-30009\"")).ok();
        assert_eq!(here.status()["exhausted"], serde_json::json!([]));
        for family in Family::ALL {
            assert_eq!(prohibited(here, RED, family, 7), 0);
            assert_eq!(prohibited(here, BLUE, family, 5), 2);
        }
        let status = here.status();
        for family in Family::ALL {
            let address = server().ip(family).to_string();
            let exhausted = status["exhausted"].as_array().expect("a list");
            let found = exhausted.iter().find(|e| e["address"] == address.as_str()).expect("the server");
            let talkers = serde_json::json!([{"pod": "red", "flows": 7}, {"pod": "blue", "flows": 3}]);
            assert_eq!(
                (&found["network"], &found["port"], &found["refused"], &found["talkers"]),
                (&"pods".into(), &PORT.into(), &2.into(), &talkers)
            );
        }
        assert_eq!(pod(&status, "blue")["refused"]["ports_exhausted"], 4);
        let text = here.netns(["status"]).ok();
        assert!(text.contains("192.0.2.1:7000/udp") && text.contains("red 7,blue 3"), "{text}");
    });
}

/// Retransmitted SYNs of the calling thread's namespace.
fn syn_retransmissions() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").expect("read netstat");
    let mut lines = text.lines().filter(|l| l.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == "TCPSynRetrans").and_then(|(_, v)| v.parse().ok()).expect("TCPSynRetrans")
}

/// 64 threads of a pod open and close connections to one destination: every one is opened at the first try, and all flows are
/// gone when their time is over. `NETNS_STRESS_CONNECTIONS` says how many connections.
#[test]
fn no_syn_is_lost_when_64_threads_connect_to_one_destination() {
    let connections = std::env::var("NETNS_STRESS_CONNECTIONS").map_or(20_000, |n| n.parse().expect("a number"));
    isolated(move |here| {
        here.lan();
        let topology = TOPOLOGY.replace("[host]", "[host]\nsnat_ports = \"2000-65000\"");
        here.up(&format!("[nat.timeouts]\ntcp_transitory = \"1s\"\ntcp_established = \"1s\"\n{topology}")).ok();
        for place in ["lan", "red"] {
            // A pod that is faster than its kernel's own ports last is not what is tested.
            here.inside(place, || {
                for (setting, value) in [("ip_local_port_range", "1024 65535"), ("tcp_max_tw_buckets", "0")] {
                    std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value).expect("write a setting");
                }
            });
        }
        let before = datapath().flow_totals().expect("totals");
        for family in Family::ALL {
            let to = SocketAddr::new(server().ip(family), PORT);
            let listener = here.inside("lan", || listen(to));
            let stop = listener.try_clone().expect("clone");
            let acceptors: Vec<_> = (0..4).map(|_| accept(listener.try_clone().expect("clone"))).collect();
            let (opened, retransmitted) = (AtomicU64::new(0), here.inside("red", syn_retransmissions));
            let started = Instant::now();
            here.inside("red", || {
                thread::scope(|scope| {
                    for _ in 0..THREADS {
                        scope.spawn(|| {
                            while opened.fetch_add(1, Ordering::Relaxed) < connections / 2 {
                                let mut stream = TcpStream::connect(to).expect("connect");
                                // The server closes first.
                                assert_eq!(stream.read(&mut [0; 1]).expect("read"), 0);
                            }
                        });
                    }
                });
            });
            println!("{family:?}: {} connections in {:.1?}", connections / 2, started.elapsed());
            assert_eq!(here.inside("red", syn_retransmissions) - retransmitted, 0, "SYNs were lost");
            drop((stop, acceptors));
        }
        wait_until("the flows to end", Duration::from_secs(20), || {
            datapath().expire_flows(usize::MAX).expect("sweep");
            datapath().flow_totals().expect("totals") == before
        });
        assert_eq!(flows().len(), 0);
    });
}

/// A listener whose queue holds a connection of every thread.
fn listen(at: SocketAddr) -> TcpListener {
    let listener = TcpListener::bind(at).expect("listen");
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1024).expect("a backlog")).expect("listen");
    listener
}

/// Closes whatever connects, until the test's end.
fn accept(listener: TcpListener) -> thread::JoinHandle<()> {
    thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(drop))
}
