//! One published port for several pods, and for some clients only.

mod common;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData};
use common::pods::{BLUE, GATEWAY, GREEN, RED, TOPOLOGY, client, uplink};
use common::who::{PATIENCE, SILENCE, asked, connect, datagrams, serve, told};
use common::{Isolated, isolated};
use netns::check::{Family, Site};
use netns::datapath::Datapath;
use netns_ebpf_common::family::addr_hash;
use netns_ebpf_common::publish::{Backends, Publish};
use netns_ebpf_common::{Addr4, Addr6};
use serde_json::{Value, json};

const PINS: &str = "/sys/fs/bpf/netns-ebpf/default";
const PORT: u16 = 8100;
const POD_PORT: u16 = 80;

fn aim(site: Site, family: Family) -> SocketAddr {
    SocketAddr::new(site.ip(family), PORT)
}

/// The n-th client of the LAN, an address of its own.
fn lan_client(n: u8) -> Site {
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 7, n.into());
    Site { name: "a client", place: "lan", v4: Ipv4Addr::new(192, 0, 2, 100 + n), v6 }
}

/// Pods that serve, and clients of the LAN with these addresses.
fn world(here: &Isolated, pods: &[Site], clients: u8) {
    here.pods();
    for pod in pods {
        serve(here, *pod, POD_PORT);
    }
    for n in 0..clients {
        here.ip(&format!("-n lan addr add {}/24 dev lan0", lan_client(n).v4));
        here.ip(&format!("-n lan addr add {}/64 dev lan0 nodad", lan_client(n).v6));
    }
}

fn publishes(here: &Isolated, ports: &str) -> Value {
    let all = here.netns(["publish", "list", "-o", "json"]).json();
    all.as_array().expect("a list").iter().find(|p| p["publish"] == ports).cloned().unwrap_or_default()
}

/// Asserts that as many of `n` tries gave red as chance would have it, with this share for its probability: not further from
/// the mean than six standard deviations, which happens once in 500 million times.
#[track_caller]
fn assert_share(case: &str, counts: &BTreeMap<String, u32>, share: f64) {
    let n: u32 = counts.values().sum();
    let red = f64::from(counts.get("red").copied().unwrap_or(0));
    let mean = f64::from(n) * share;
    let spread = 6.0 * (mean * (1.0 - share)).sqrt();
    assert!((red - mean).abs() <= spread, "{case}: {counts:?}, mean {mean}, allowed {spread}");
}

#[test]
fn new_connections_are_spread_by_weight() {
    isolated(|here| {
        world(here, &[RED, BLUE], 0);
        let added = here.netns(["publish", "add", "red:3,blue", "8100:80/tcp", "8100:80/udp", "-o", "json"]).json();
        assert_eq!(added["publishes_added"][0]["pod"], "red:3,blue", "{added:#}");
        assert_eq!(here.netns(["publish", "add", "red:3,blue", "8100:80", "-o", "json"]).json()["changed"], false);
        here.netns(["publish", "add", "red", "8100:80"]).fails(2, &["8100:80", "red,blue"]);
        for family in Family::ALL {
            // From the LAN, from a pod that is none of them, and from one that is.
            for (from, tries) in [(client(), 400), (GREEN, 200), (RED, 100)] {
                let (mut datagram, mut stream) = (BTreeMap::new(), BTreeMap::new());
                for n in 0..tries {
                    let socket = datagrams(here, from, aim(uplink(), family));
                    let first = asked(&socket, PATIENCE).expect("an answer");
                    assert_eq!(asked(&socket, PATIENCE).as_ref(), Some(&first), "a flow stays where it is");
                    *datagram.entry(first).or_default() += 1;
                    if n % 2 == 0 {
                        let mut near = connect(here, from, aim(uplink(), family), PATIENCE).expect("connect");
                        *stream.entry(told(&mut near).expect("an answer")).or_default() += 1;
                    }
                }
                assert_share(&format!("UDP, {family:?} from {}", from.name), &datagram, 0.75);
                assert_share(&format!("TCP, {family:?} from {}", from.name), &stream, 0.75);
            }
            // The host's own processes; each socket stays with its pod, connected or not.
            let loopback = if family == Family::V4 { IpAddr::from([127, 0, 0, 1]) } else { Ipv6Addr::LOCALHOST.into() };
            let (to, any) = (SocketAddr::new(loopback, PORT), SocketAddr::new(unspecified(family), 0));
            let (mut datagram, mut stream) = (BTreeMap::new(), BTreeMap::new());
            for _ in 0..200 {
                let socket = UdpSocket::bind(any).expect("bind");
                socket.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
                let mut seen = Vec::new();
                for _ in 0..3 {
                    let mut block = [0; 16];
                    socket.send_to(b"who", to).expect("send");
                    let (n, from) = socket.recv_from(&mut block).expect("an answer");
                    assert_eq!(from, to);
                    seen.push(String::from_utf8_lossy(&block[..n]).into_owned());
                }
                seen.dedup();
                assert_eq!(seen.len(), 1, "one socket, {seen:?}");
                *datagram.entry(seen.remove(0)).or_default() += 1;
                let mut near = TcpStream::connect(to).expect("connect");
                *stream.entry(told(&mut near).expect("an answer")).or_default() += 1;
            }
            assert_share(&format!("UDP from the host, {family:?}"), &datagram, 0.75);
            assert_share(&format!("TCP from the host, {family:?}"), &stream, 0.75);
        }
    });
}

fn unspecified(family: Family) -> IpAddr {
    if family == Family::V4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// The pod a client's address picks, by the table in the kernel.
fn picked(here: &Isolated, ports: &str, client: IpAddr) -> String {
    let index = publishes(here, ports)["index"].as_u64().expect("an index") as u32;
    let open = |map: &str| MapData::from_pin(Path::new(PINS).join("maps").join(map)).expect("a pin");
    let declared = Array::<_, Publish>::try_from(Map::Array(open("PUBLISHES"))).expect("an array");
    assert_ne!(declared.get(&index, 0).expect("read").flags & Publish::STICKY, 0);
    let tables = HashMap::<_, u32, Backends>::try_from(Map::HashMap(open("BACKENDS"))).expect("a hash");
    let slot = tables.get(&index, 0).expect("a table").slot(match client {
        IpAddr::V4(a) => addr_hash(&Addr4::from(a)),
        IpAddr::V6(a) => addr_hash(&Addr6::from(a)),
    });
    let status = here.status();
    let pods = status["pods"].as_array().expect("pods");
    pods.iter().find(|p| p["slot"] == slot).expect("a pod")["name"].as_str().expect("a name").to_owned()
}

#[test]
fn a_client_stays_with_one_pod_by_every_way_in() {
    const CLIENTS: u8 = 24;
    isolated(|here| {
        world(here, &[RED, BLUE, GREEN], CLIENTS);
        let file = |weight: u8| {
            let shared = |proto| {
                format!(
                    "[[publish]]\nport = \"8100:80/{proto}\"\naffinity = \"client\"\n\
                     backends = [{{ pod = \"red\", weight = {weight} }}, {{ pod = \"blue\" }}, {{ pod = \"green\" }}]\n"
                )
            };
            format!("{TOPOLOGY}\n{}{}", shared("tcp"), shared("udp"))
        };
        let text = here.up(&file(1)).ok();
        assert!(text.contains("+ publish  8100:80/udp  to red,blue,green"), "{text}");
        let answers = |from: Site, family| {
            let mut all = Vec::new();
            for to in [uplink(), GATEWAY] {
                for _ in 0..2 {
                    if to.name == uplink().name || from.place != "lan" {
                        all.extend(asked(&datagrams(here, from, aim(to, family)), PATIENCE));
                        all.push(
                            told(&mut connect(here, from, aim(to, family), PATIENCE).expect("connect")).expect("told"),
                        );
                    }
                }
            }
            all
        };
        let mut seen = BTreeMap::<String, u32>::new();
        for family in Family::ALL {
            for from in (0..CLIENTS).map(lan_client).chain([RED, GREEN]) {
                let pod = picked(here, "8100:80/tcp", from.ip(family));
                assert_eq!(pod, picked(here, "8100:80/udp", from.ip(family)), "ports of the same pods agree");
                let answers = answers(from, family);
                assert!(
                    answers.len() >= 4 && answers.iter().all(|a| *a == pod),
                    "{}: {answers:?}, not {pod}",
                    from.ip(family)
                );
                *seen.entry(pod).or_default() += 1;
            }
            // A process of the host is the client its aim makes it.
            let loopback = if family == Family::V4 { IpAddr::from([127, 0, 0, 1]) } else { Ipv6Addr::LOCALHOST.into() };
            let pod = picked(here, "8100:80/tcp", loopback);
            for _ in 0..8 {
                let mut near = TcpStream::connect((loopback, PORT)).expect("connect");
                assert_eq!(told(&mut near).expect("an answer"), pod, "by {loopback}");
            }
        }
        assert_eq!(seen.len(), 3, "{seen:?}");

        // One of three that goes takes no other client with it but few.
        let before: Vec<_> = (0..CLIENTS).map(|n| picked(here, "8100:80/tcp", lan_client(n).v4.into())).collect();
        let index = publishes(here, "8100:80/tcp")["index"].clone();
        let gone = here.netns(["del", "blue", "-o", "json"]).json();
        assert_eq!(gone["publishes_changed"].as_array().map(Vec::len), Some(2), "{gone:#}");
        assert_eq!(publishes(here, "8100:80/tcp")["pod"], "red,green");
        assert_eq!(publishes(here, "8100:80/tcp")["index"], index);
        let mut moved = 0;
        for (n, before) in before.iter().enumerate() {
            let from = lan_client(n as u8);
            let now = picked(here, "8100:80/tcp", from.v4.into());
            let mut near = connect(here, from, aim(uplink(), Family::V4), PATIENCE).expect("connect");
            assert_eq!(told(&mut near).expect("an answer"), now);
            assert_ne!(now, "blue");
            moved += u8::from(before != "blue" && now != *before);
        }
        assert!(moved <= CLIENTS / 4, "{moved} clients of pods that stayed were moved");
        // The file brings it back, and another weight is set in place.
        here.up(&file(1)).ok();
        assert_eq!(publishes(here, "8100:80/tcp")["pod"], "red,blue,green");
        let text = here.up(&file(5)).ok();
        assert!(text.contains("= publish  8100:80/tcp  to red:5,blue,green"), "{text}");
        for pod in ["red", "green", "blue"] {
            here.netns(["del", pod]).ok();
        }
        assert_eq!(publishes(here, "8100:80/tcp"), Value::Null, "the last pod takes it away");
    });
}

#[test]
fn a_drained_pod_keeps_what_it_has_and_the_others_take_the_rest() {
    isolated(|here| {
        world(here, &[RED, BLUE, GREEN], 0);
        here.netns(["publish", "add", "red,blue", "8100:80/tcp", "8100:80/udp"]).ok();
        let to = |family| aim(uplink(), family);
        let mut open = Vec::new();
        for family in Family::ALL {
            // As many as it takes until each pod has one of each.
            for pod in ["red", "blue"] {
                let stream = (0..200).find_map(|_| {
                    let mut near = connect(here, client(), to(family), PATIENCE).expect("connect");
                    (told(&mut near).expect("an answer") == pod).then_some(near)
                });
                let socket = (0..200).find_map(|_| {
                    let socket = datagrams(here, client(), to(family));
                    (asked(&socket, PATIENCE).expect("an answer") == pod).then_some(socket)
                });
                open.push((pod, stream.expect("a connection"), socket.expect("a socket")));
            }
        }
        let both = ["8100:80/tcp", "8100:80/udp"];
        let drain = |more: &[&str]| here.netns([&["publish", "drain"], &both[..], more].concat()).ok();
        let same = |open: &mut Vec<(&str, TcpStream, UdpSocket)>| {
            for (pod, stream, socket) in open {
                assert_eq!(told(stream).expect("an answer"), *pod, "an established connection");
                assert_eq!(asked(socket, PATIENCE).as_deref(), Some(*pod), "a flow of datagrams");
            }
        };
        let new = || {
            let one = |family| {
                let mut near = connect(here, client(), to(family), PATIENCE).expect("connect");
                [
                    told(&mut near).expect("an answer"),
                    asked(&datagrams(here, client(), to(family)), PATIENCE).expect("one"),
                ]
            };
            let mut seen: Vec<_> = (0..30).flat_map(|_| Family::ALL.into_iter().flat_map(one)).collect();
            seen.sort();
            seen.dedup();
            seen
        };
        drain(&["--backend", "red"]);
        assert!(here.netns(["publish", "list"]).ok().contains("draining at red"));
        same(&mut open);
        assert_eq!(new(), ["blue"]);
        drain(&["--backend", "red", "--undo"]);
        same(&mut open);
        assert_eq!(new(), ["blue", "red"]);
        // The weights change, and nobody who is there is moved.
        for ports in both {
            here.netns(["publish", "move", ports, "--to", "red:2,blue:7,green"]).ok();
        }
        same(&mut open);
        // A pod withdraws: its connections run on, its datagrams find another.
        here.netns(["publish", "del", "red", "8100:80/tcp", "8100:80/udp", "--reset"])
            .fails(2, &["--reset", "--backend"]);
        here.netns(["publish", "del", "red", "8100:80/tcp", "8100:80/udp"]).ok();
        assert_eq!(
            publishes(here, "8100:80/udp")["backends"][0],
            json!({"pod": "blue", "weight": 7, "draining": false})
        );
        for (pod, stream, socket) in &mut open {
            assert_eq!(told(stream).expect("an answer"), *pod);
            let next = asked(socket, PATIENCE).expect("an answer");
            assert!(if *pod == "red" { next != "red" } else { next == *pod }, "{pod}, then {next}");
        }
        assert_eq!(new(), ["blue", "green"]);
    });
}

fn refused<T>(case: &str, outcome: io::Result<T>, kind: ErrorKind) {
    match outcome {
        Ok(_) => panic!("{case} worked"),
        Err(e) => assert_eq!(e.kind(), kind, "{case}: {e}"),
    }
}

/// Everybody there is, and whether the list below has them.
fn everybody() -> [(Site, bool); 5] {
    [(lan_client(0), true), (lan_client(1), false), (client(), false), (GREEN, true), (BLUE, false)]
}

const LISTED: [&str; 6] =
    ["192.0.2.100", "2001:db8:1::7:0/128", "10.244.0.30/32", "fd00:244::30/127", "127.0.0.0/8", "::1"];

#[test]
fn clients_are_judged_by_where_they_come_from() {
    isolated(|here| {
        world(here, &[RED], 2);
        let allow = LISTED.iter().flat_map(|p| ["--allow", p]);
        here.netns(["publish", "add", "red", "8100:80/tcp", "8100:80/udp"].into_iter().chain(allow)).ok();
        assert_eq!(publishes(here, "8100:80/tcp")["allow"][0], "192.0.2.100/32");
        for (from, may) in everybody() {
            for family in Family::ALL {
                let case = format!("{family:?} from {} {}", from.name, from.ip(family));
                let to = aim(uplink(), family);
                if may {
                    let mut near = connect(here, from, to, PATIENCE).unwrap_or_else(|e| panic!("{case}: {e}"));
                    assert_eq!(told(&mut near).expect("an answer"), "red");
                    assert_eq!(asked(&datagrams(here, from, to), PATIENCE).as_deref(), Some("red"), "{case}");
                } else {
                    here.drops_more("not-allowed", &case, || {
                        refused(&case, connect(here, from, to, SILENCE), ErrorKind::TimedOut);
                    });
                    assert_eq!(asked(&datagrams(here, from, to), SILENCE), None, "{case}");
                }
            }
        }
        // Processes of the host come from the address they aim at.
        for family in Family::ALL {
            let loopback = if family == Family::V4 { IpAddr::from([127, 0, 0, 1]) } else { Ipv6Addr::LOCALHOST.into() };
            let mut near = TcpStream::connect((loopback, PORT)).expect("connect by loopback");
            assert_eq!(told(&mut near).expect("an answer"), "red");
            let own = aim(uplink(), family);
            refused("TCP by the uplink's address", TcpStream::connect(own), ErrorKind::PermissionDenied);
            let socket = UdpSocket::bind((unspecified(family), 0)).expect("bind");
            refused("UDP by the uplink's address", socket.send_to(b"who", own), ErrorKind::PermissionDenied);
            refused("UDP, connected", socket.connect(own), ErrorKind::PermissionDenied);
        }
        // The port is taken all the same.
        refused("bind", UdpSocket::bind("0.0.0.0:8100"), ErrorKind::AddrInUse);
        // A list in a file, empty: nobody; and without a file's word on it, everybody.
        let nobody = TOPOLOGY.replace("\"8080:80/tcp\"", "{ port = \"8080:80/tcp\", allow = [] }");
        assert!(here.up(&nobody).ok().contains("= publish  8080:80/tcp  to red  for none"));
        assert_eq!(publishes(here, "8080:80/tcp")["allow"], json!([]));
        let to = SocketAddr::new(uplink().ip(Family::V4), 8080);
        refused("nobody", connect(here, client(), to, SILENCE), ErrorKind::TimedOut);
        refused("nobody of the host", TcpStream::connect("127.0.0.1:8080"), ErrorKind::PermissionDenied);
        here.up(TOPOLOGY).ok();
        assert_eq!(publishes(here, "8080:80/tcp")["allow"], Value::Null);
        connect(here, client(), to, PATIENCE).expect("everybody");
    });
}

#[test]
fn who_is_struck_off_the_list_is_cut_off() {
    isolated(|here| {
        world(here, &[RED], 2);
        here.netns(["publish", "add", "red", "8100:80/tcp", "8100:80/udp"]).ok();
        let mut open = Vec::new();
        for (from, may) in everybody() {
            for family in Family::ALL {
                let to = aim(uplink(), family);
                let mut near = connect(here, from, to, PATIENCE).expect("connect");
                assert_eq!(told(&mut near).expect("an answer"), "red");
                let socket = datagrams(here, from, to);
                assert_eq!(asked(&socket, PATIENCE).as_deref(), Some("red"));
                open.push((format!("{family:?} from {}", from.ip(family)), may, near, socket));
            }
        }
        let both = ["8100:80/tcp", "8100:80/udp"];
        let set = |allow: &[&str]| {
            let flags = allow.iter().flat_map(|p| ["--allow", p]);
            here.netns(["publish", "set"].into_iter().chain(both).chain(flags).chain(["-o", "json"])).json()
        };
        assert_eq!(set(&LISTED)["publishes_changed"].as_array().map(Vec::len), Some(2));
        assert_eq!(set(&LISTED)["changed"], false);
        for (case, may, stream, socket) in &mut open {
            if *may {
                assert_eq!(told(stream).expect("an established connection"), "red", "{case}");
                assert_eq!(asked(socket, PATIENCE).as_deref(), Some("red"), "{case}");
            } else {
                stream.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
                refused(case, stream.read(&mut [0; 4]), ErrorKind::ConnectionReset);
                assert_eq!(asked(socket, SILENCE), None, "{case}");
            }
        }
        let flows = || Datapath::open(Path::new(PINS)).expect("open").flows().expect("flows");
        let udp = flows().iter().filter(|f| f.proto == 17 && f.original).count();
        assert_eq!(udp, open.iter().filter(|(_, may, ..)| *may).count());
        // Nobody, then everybody again.
        set(&["none"]);
        assert!(here.netns(["publish", "list", "red"]).ok().contains("none"));
        for (case, _, stream, socket) in &mut open {
            told(stream).expect_err(case);
            assert_eq!(asked(socket, SILENCE), None, "{case}");
        }
        assert_eq!(set(&["any"])["publishes_changed"][0]["allow"], Value::Null);
        for (case, _, _, socket) in &mut open {
            assert_eq!(asked(socket, PATIENCE).as_deref(), Some("red"), "{case}");
        }
        here.netns(["publish", "set", "8100:80/udp"]).fails(2, &["--allow"]);
        here.netns(["publish", "set", "8100:80/udp", "--allow", "10.0.0.1/8"]).fails(2, &["--allow", "10.0.0.0/8"]);
        here.netns(["publish", "set", "8100:80/udp", "--allow", "none", "--allow", "::/0"]).fails(2, &["none"]);
        here.netns(["publish", "set", "8100:80/udp", "--affinity", "cookie"]).fails(2, &["--affinity", "cookie"]);
        here.netns(["publish", "set", "1:1", "--allow", "any"]).fails(1, &["1:1"]);
    });
}
