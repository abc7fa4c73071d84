//! A neighbour on the LAN, with any source address and any frame, against a published port and those who use it.

mod attack;
mod common;
#[macro_use]
mod prog;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use attack::attacker::{host, segment};
use attack::live::held_connection;
use attack::{Aftermath, Attacker, blind, flows};
use common::pods::{BLUE, GATEWAY, RED, TOPOLOGY, client, uplink};
use common::{Isolated, isolated};
use netns::check::{Family, Site};
use prog::random::Numbers;
use prog::{L4, flag};

/// Connections of an attack.
const CONNECTIONS: usize = 10;
/// A port that leads to two pods: who is taken for another connection is as likely as not sent to the wrong one.
const SHARED: &str = r#"
[[publish]]
port = "8090:80/tcp"
backends = [{ pod = "red" }, { pod = "blue" }]
"#;

/// Connections by a published port of two pods, both ends at hand: client, and pod.
struct Scene {
    attacker: Attacker,
    connections: Vec<(TcpStream, TcpStream)>,
}

impl Scene {
    /// Connections over which nothing has been said: the pods have advertised one window only, that of the SYN-ACK.
    fn fresh(here: &Isolated, family: Family) -> Self {
        let listen = |pod: Site| {
            here.inside(pod.name, || TcpListener::bind(SocketAddr::new(pod.ip(family), 80)).expect("listen"))
        };
        let listeners = [RED, BLUE].map(listen);
        let to = host(family, 8090);
        let connections = (0..CONNECTIONS).map(|_| held_connection(here, &listeners, to)).collect();
        Self { attacker: Attacker::on_lan(here), connections }
    }

    /// Connections that have been used.
    fn new(here: &Isolated, family: Family) -> Self {
        let mut scene = Self::fresh(here, family);
        assert_eq!(scene.alive(), CONNECTIONS, "before the attack");
        scene
    }

    /// Segments as if of the client of every connection, with numbers of no meaning.
    fn as_clients(&self, random: &mut Numbers, flags: u8) {
        let frame = |(near, _): &(TcpStream, TcpStream)| {
            let (from, to) = (near.local_addr().expect("own"), near.peer_addr().expect("the host's"));
            let l4 = segment((from.port(), to.port()), flags, random.word(), random.word(), &[]);
            self.attacker.frame(from.ip(), to.ip(), l4)
        };
        self.attacker.send(&self.connections.iter().map(frame).collect::<Vec<_>>());
    }

    /// How many go on, there and back.
    fn alive(&mut self) -> usize {
        let both_ways = |(near, far): &mut (TcpStream, TcpStream)| said(near, far) && said(far, near);
        self.connections.iter_mut().filter_map(|c| both_ways(c).then_some(())).count()
    }
}

/// Whether words arrive.
fn said(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    let mut block = [0; 5];
    from.write_all(b"words").and_then(|()| to.read_exact(&mut block)).is_ok() && block == *b"words"
}

/// Attacks the connections of each family in turn; all must go on, and none of their flows may have changed.
fn all_survive(
    what: &'static str,
    begin: impl Fn(&Isolated, Family) -> Scene + Send + 'static,
    attack: impl Fn(&Scene, &mut Numbers) + Send + 'static,
) {
    isolated(move |here| {
        here.lan();
        here.up(&format!("{TOPOLOGY}{SHARED}")).ok();
        let aftermath = Aftermath::new();
        let mut random = attack::random();
        let mut left = Vec::new();
        for family in Family::ALL {
            let mut scene = begin(here, family);
            let before = blind::states(&flows());
            attack(&scene, &mut random);
            let changed = blind::changed(&before, &blind::states(&flows()));
            let alive = scene.alive();
            println!(
                "{what}, {family:?}: {alive} of {CONNECTIONS} connections go on, {} entries changed",
                changed.len()
            );
            left.push((alive, changed.len()));
        }
        assert_eq!(left, [(CONNECTIONS, 0); 2], "{what}: connections that go on, entries changed");
        aftermath.finds_nothing();
    });
}

#[test]
fn two_segments_with_syn_and_fin_end_no_connection() {
    all_survive("two SYN|FIN", Scene::new, |scene, random| {
        scene.as_clients(random, flag::SYN | flag::FIN);
        scene.as_clients(random, flag::SYN | flag::FIN);
    });
}

#[test]
fn a_fin_and_a_syn_end_no_connection() {
    all_survive("a FIN, a SYN", Scene::new, |scene, random| {
        scene.as_clients(random, flag::FIN | flag::ACK);
        scene.as_clients(random, flag::SYN);
    });
}

/// Four guesses, a quarter of all sequence numbers apart: one lies in any window whose scale is taken for the largest.
#[test]
fn four_resets_end_no_connection() {
    all_survive("four RSTs", Scene::fresh, |scene, random| {
        let first = random.word();
        for guess in 0..4_u32 {
            let frame = |(near, _): &(TcpStream, TcpStream)| {
                let (from, to) = (near.local_addr().expect("own"), near.peer_addr().expect("the host's"));
                let seq = first.wrapping_add(guess << 30);
                scene.attacker.frame(from.ip(), to.ip(), segment((from.port(), to.port()), flag::RST, seq, 0, &[]))
            };
            scene.attacker.send(&scene.connections.iter().map(frame).collect::<Vec<_>>());
        }
    });
}

/// The client has said all; what the pod still has to say must reach it, whatever SYNs come meanwhile.
#[test]
fn a_syn_ends_no_half_closed_connection() {
    isolated(|here| {
        here.lan();
        here.up(&format!("{TOPOLOGY}{SHARED}")).ok();
        let aftermath = Aftermath::new();
        let mut random = attack::random();
        let mut left = Vec::new();
        for family in Family::ALL {
            let mut scene = Scene::new(here, family);
            for (near, far) in &mut scene.connections {
                near.shutdown(Shutdown::Write).expect("say no more");
                assert_eq!(far.read(&mut [0; 1]).expect("read"), 0, "the client's end");
            }
            let before = blind::states(&flows());
            scene.as_clients(&mut random, flag::SYN);
            let changed = blind::changed(&before, &blind::states(&flows())).len();
            let served = scene.connections.iter_mut().filter_map(|(near, far)| said(far, near).then_some(())).count();
            println!(
                "a SYN on half-closed connections, {family:?}: {served} of {CONNECTIONS} are served to the end, {changed} \
                 entries changed"
            );
            left.push((served, changed));
        }
        assert_eq!(left, [(CONNECTIONS, 0); 2], "connections that are served to the end, entries changed");
        aftermath.finds_nothing();
    });
}

/// What nobody on the LAN can be: the host itself, the gateway, a pod, everybody, nobody.
fn impossible(family: Family) -> Vec<(IpAddr, &'static str)> {
    let mut all = vec![
        (uplink().ip(family), "the host's own address"),
        (GATEWAY.ip(family), "the gateway's address"),
        (BLUE.ip(family), "a pod's address"),
        (RED.ip(family), "the publishing pod's own address"),
    ];
    match family {
        Family::V4 => all.extend([
            (Ipv4Addr::new(192, 0, 2, 255).into(), "the LAN's broadcast address"),
            (Ipv4Addr::BROADCAST.into(), "the broadcast address"),
            (Ipv4Addr::UNSPECIFIED.into(), "no address"),
            (Ipv4Addr::new(224, 0, 0, 1).into(), "a group's address"),
            (Ipv4Addr::LOCALHOST.into(), "the loopback address"),
        ]),
        Family::V6 => all.extend([
            (Ipv6Addr::UNSPECIFIED.into(), "no address"),
            (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(), "a group's address"),
            (Ipv6Addr::LOCALHOST.into(), "the loopback address"),
        ]),
    }
    all
}

/// A port for everybody, and ports whose `allow` lists have just those addresses.
fn with_lists() -> String {
    let lists = r#"
[[publish]]
port = "6000:6000/udp"
backends = [{ pod = "red" }]
allow = ["10.244.0.0/24", "fd00:244::/64"]

[[publish]]
port = "6001:6001/udp"
backends = [{ pod = "red" }]
allow = ["192.0.2.2/32", "192.0.2.255/32", "2001:db8:1::2/128"]
"#;
    format!("{TOPOLOGY}{lists}")
}

#[test]
fn sources_that_cannot_be_on_the_lan_reach_no_pod() {
    isolated(|here| {
        here.lan();
        here.up(&with_lists()).ok();
        let aftermath = Aftermath::new();
        let attacker = Attacker::on_lan(here);
        let red = here.tap(RED.name);
        let (mut reached, mut sent) = (Vec::new(), 0);
        for family in Family::ALL {
            for (source, what) in impossible(family) {
                for port in [8080, 6000, 6001] {
                    // No two frames look alike: red's errors about those of before are on its wire too.
                    sent += 1;
                    let [mark, last] = ["must reach nobody", "comes behind it"].map(|w| format!("datagram {sent} {w}"));
                    let datagram = |source, port, words: &str| {
                        let l4 = L4::Udp { sport: 4444, dport: port, checksum: true, payload: words.into() };
                        attacker.frame(source, uplink().ip(family), l4)
                    };
                    attacker.send(&[datagram(source, port, &mark), datagram(client().ip(family), 8080, &last)]);
                    let mut seen = false;
                    let arrived = red.find(Duration::from_secs(5), |f| {
                        seen |= holds(f, mark.as_bytes());
                        holds(f, last.as_bytes())
                    });
                    assert!(arrived.is_some(), "an honest datagram");
                    if seen {
                        reached.push(format!("{what} ({source}) to port {port}"));
                    }
                }
            }
        }
        assert!(reached.is_empty(), "{} of them reached red: {reached:#?}", reached.len());
        aftermath.finds_nothing();
    });
}

/// TCP too: no SYN of such a source reaches the pod, and no flow is made of it.
#[test]
fn handshakes_of_such_sources_open_no_flow() {
    isolated(|here| {
        here.lan();
        here.up(&with_lists()).ok();
        let aftermath = Aftermath::new();
        let attacker = Attacker::on_lan(here);
        let mut opened = Vec::new();
        for family in Family::ALL {
            for (source, what) in impossible(family) {
                let before = flows().len();
                attacker.send(&[attacker.frame(
                    source,
                    uplink().ip(family),
                    segment((4444, 8080), flag::SYN, 1, 0, &[]),
                )]);
                // The program has run when the frame is sent.
                if flows().len() != before {
                    opened.push(format!("{what} ({source})"));
                }
            }
        }
        assert!(opened.is_empty(), "flows of {opened:#?}");
        aftermath.finds_nothing();
    });
}

fn holds(frame: &[u8], mark: &[u8]) -> bool {
    frame.windows(mark.len()).any(|w| w == mark)
}

/// Two floods of SYNs of one client, the second to another address of the host: where the client's port towards the pod is taken by
/// the first, and with it the whole range.
#[test]
fn a_flood_of_the_dearest_packets_goes_as_fast_as_another() {
    const RANGE: std::ops::RangeInclusive<u16> = 20_000..=32_767;
    isolated(|here| {
        here.pods();
        let aftermath = Aftermath::new();
        let attacker = Attacker::on_lan(here);
        let mut slow = Vec::new();
        for family in Family::ALL {
            let syn = |source: u32, to: IpAddr, port: u16| {
                attacker.frame(attack::nobody(family, source), to, segment((port, 8080), flag::SYN, 1, 0, &[]))
            };
            let ordinary: Vec<_> = (0..4000).map(|n| syn(n + 1, host(family, 0).ip(), 30_000)).collect();
            attacker.send(&RANGE.map(|port| syn(0, host(family, 0).ip(), port)).collect::<Vec<_>>());
            let dear: Vec<_> = RANGE.step_by(4).map(|port| syn(0, GATEWAY.ip(family), port)).collect();
            slow.push(attack::relative_rate(&attacker, family, &dear, &ordinary));
        }
        assert!(slow.iter().all(|ratio| *ratio >= 0.2), "{slow:.3?}");
        aftermath.finds_nothing();
    });
}
