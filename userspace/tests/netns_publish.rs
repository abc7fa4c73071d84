//! Published ports that change while connections use them, and flows that end by themselves.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use common::pods::{BLUE, GREEN, RED, TOPOLOGY, client, uplink};
use common::who::{self, PATIENCE, SILENCE, asked, told};
use common::{Isolated, isolated, wait_for, wait_until};
use netns::check::{Family, Site};
use netns::datapath::{Datapath, FlowRecord};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// The published port 8080, and the pods' port 80 it leads to.
const PORT: u16 = 8080;
const POD_PORT: u16 = 80;

fn published(family: Family) -> SocketAddr {
    SocketAddr::new(uplink().ip(family), PORT)
}

fn serve(here: &Isolated, pod: Site) {
    who::serve(here, pod, POD_PORT);
}

fn datagrams(here: &Isolated, from: Site, family: Family) -> UdpSocket {
    who::datagrams(here, from, published(family))
}

/// A connection and a socket for datagrams from everywhere, red having answered on both.
fn talking_to_red(here: &Isolated) -> Vec<(Family, Site, TcpStream, UdpSocket)> {
    let talk = |(family, from)| {
        let mut stream = connect(here, from, family, PATIENCE).expect("connect");
        told(&mut stream).expect("red answers");
        let socket = datagrams(here, from, family);
        assert_eq!(asked(&socket, PATIENCE).as_deref(), Some("red"));
        (family, from, stream, socket)
    };
    everywhere().map(talk).collect()
}

fn connect(here: &Isolated, from: Site, family: Family, patience: Duration) -> std::io::Result<TcpStream> {
    who::connect(here, from, published(family), patience)
}

/// Every family from the LAN and from another pod.
fn everywhere() -> impl Iterator<Item = (Family, Site)> {
    Family::ALL.into_iter().flat_map(|family| [client(), BLUE].map(|from| (family, from)))
}

fn flows() -> Vec<FlowRecord> {
    let datapath = Datapath::open(Path::new("/sys/fs/bpf/netns-ebpf/default")).expect("open the data path");
    datapath.flows().expect("list flows")
}

fn publishes(here: &Isolated) -> Vec<Value> {
    here.netns(["publish", "list", "-o", "json"]).json().as_array().expect("a list").clone()
}

#[test]
fn a_moved_publish_sends_what_is_new_to_the_new_pod() {
    isolated(|here| {
        here.pods();
        for pod in [RED, GREEN] {
            serve(here, pod);
        }
        let mut open: Vec<_> = everywhere()
            .map(|(family, from)| {
                let mut stream = connect(here, from, family, PATIENCE).expect("connect");
                assert_eq!(told(&mut stream).expect("red answers"), "red");
                let socket = datagrams(here, from, family);
                assert_eq!(asked(&socket, PATIENCE).as_deref(), Some("red"), "{family:?} from {}", from.name);
                (family, from, stream, socket)
            })
            .collect();

        // By what was published, and by id.
        let moved = here.netns(["publish", "move", "8080:80/tcp", "--to", "green", "-o", "json"]).json();
        assert_eq!(moved["publishes_changed"][0]["pod"], "green", "{moved:#}");
        let udp = publishes(here).into_iter().find(|p| p["publish"] == "8080:80/udp").expect("listed");
        here.netns(["publish", "move", &udp["id"].to_string(), "--to", "green"]).ok();
        for (family, from, stream, socket) in &mut open {
            let case = format!("{family:?} from {}", from.name);
            assert_eq!(told(stream).expect("the old connection"), "red", "{case}: an established connection stays");
            assert_eq!(asked(socket, PATIENCE).as_deref(), Some("green"), "{case}: the very next datagram");
            let mut new = connect(here, *from, *family, PATIENCE).expect("connect");
            assert_eq!(told(&mut new).expect("an answer"), "green", "{case}: a new connection");
        }
        assert!(
            !here.netns(["publish", "move", "8080:80/tcp", "--to", "green", "-o", "json"]).json()["changed"]
                .as_bool()
                .expect("a bool")
        );
        here.netns(["publish", "move", "8080:80/tcp", "--to", "nobody"]).fails(2, &["--to", "nobody"]);
        here.netns(["publish", "move", "8081:80/tcp", "--to", "green"]).fails(1, &["8081:80/tcp"]);
        here.netns(["publish", "move", "8080", "--to", "green"]).fails(1, &["8080"]);
        here.netns(["publish", "move", "what", "--to", "green"]).fails(2, &["what"]);

        // The old pod may go now; what came in by the new one stays.
        here.netns(["del", "red"]).ok();
        let (family, from, _, socket) = &open[0];
        assert_eq!(asked(socket, PATIENCE).as_deref(), Some("green"));
        let mut new = connect(here, *from, *family, PATIENCE).expect("connect");
        assert_eq!(told(&mut new).expect("an answer"), "green");
        // What the file says is what `up` makes: red is back, and has its ports.
        here.up(TOPOLOGY).ok();
        serve(here, RED);
        assert_eq!(asked(socket, PATIENCE).as_deref(), Some("red"));
        here.netns(["publish", "move", "8080:80/tcp", "--to", "green"]).ok();
        here.netns(["publish", "move", "8080:80/udp", "--to", "green"]).ok();
        here.netns(["publish", "del", "green", "8080:80/tcp", "8080:80/udp"]).ok();
    });
}

#[test]
fn a_draining_publish_takes_nothing_new_and_finishes_what_it_has() {
    isolated(|here| {
        here.pods();
        serve(here, RED);
        let mut open = talking_to_red(here);
        here.netns(["publish", "drain", "8080:80/tcp", "8080:80/udp"]).ok();
        assert!(here.netns(["publish", "list"]).ok().contains("draining"));
        assert_eq!(publishes(here).iter().filter(|p| p["draining"] == true).count(), 2);
        here.drops_more("draining", "a connection to a draining publish", || {
            for (family, from, stream, socket) in &mut open {
                assert_eq!(told(stream).expect("the old connection"), "red");
                assert_eq!(asked(socket, SILENCE), None, "{family:?} from {}", from.name);
                connect(here, *from, *family, SILENCE).expect_err("a new connection to what drains");
            }
        });
        here.netns(["publish", "drain", "--undo", "8080:80/tcp", "8080:80/udp"]).ok();
        for (family, from, stream, socket) in &mut open {
            assert_eq!(told(stream).expect("the old connection"), "red");
            assert_eq!(asked(socket, PATIENCE).as_deref(), Some("red"));
            connect(here, *from, *family, PATIENCE).expect("connect again");
        }
    });
}

#[test]
fn a_withdrawn_publish_lets_connections_run_and_gives_datagrams_to_the_next_owner() {
    isolated(|here| {
        here.pods();
        for pod in [RED, GREEN] {
            serve(here, pod);
        }
        let mut open = talking_to_red(here);
        here.netns(["publish", "del", "red", "8080:80/tcp", "8080:80/udp"]).ok();
        assert!(flows().iter().all(|f| f.proto == 6 && f.publish.is_none()), "{:#?}", flows());
        for (family, from, stream, socket) in &mut open {
            let case = format!("{family:?} from {}", from.name);
            assert_eq!(told(stream).expect("the old connection"), "red", "{case}");
            assert_eq!(asked(socket, SILENCE), None, "{case}");
            connect(here, *from, *family, SILENCE).expect_err("a new connection to what is withdrawn");
        }
        // The indexes are the next owner's now: neither its coming nor its going is the old connections' business.
        here.netns(["publish", "add", "green", "8080:80/tcp", "8080:80/udp"]).ok();
        for (family, from, stream, socket) in &mut open {
            assert_eq!(asked(socket, PATIENCE).as_deref(), Some("green"), "{family:?} from {}", from.name);
            assert_eq!(told(stream).expect("the old connection"), "red");
            let mut new = connect(here, *from, *family, PATIENCE).expect("connect");
            assert_eq!(told(&mut new).expect("an answer"), "green");
        }
        here.netns(["publish", "del", "--reset", "green", "8080:80/tcp", "8080:80/udp"]).ok();
        for (_, _, stream, _) in &mut open {
            assert_eq!(told(stream).expect("the old connection, after its successor was reset"), "red");
        }
    });
}

#[test]
fn datagrams_sent_while_nobody_listened_do_not_bind_the_next_owner() {
    isolated(|here| {
        here.pods();
        let sockets: Vec<_> = everywhere().map(|(family, from)| (family, datagrams(here, from, family))).collect();
        for (_, socket) in &sockets {
            assert_eq!(asked(socket, SILENCE), None, "nobody listens in red");
        }
        assert_eq!(flows().iter().filter(|f| f.proto == 17).count(), 2 * sockets.len());
        here.netns(["publish", "del", "red", "8080:80/udp"]).ok();
        for (_, socket) in &sockets {
            assert_eq!(asked(socket, SILENCE), None, "nothing is published");
        }
        serve(here, GREEN);
        here.netns(["publish", "add", "green", "8080:80/udp"]).ok();
        for (family, socket) in &sockets {
            assert_eq!(asked(socket, PATIENCE).as_deref(), Some("green"), "{family:?}");
        }
    });
}

#[test]
fn a_reset_reaches_both_ends_and_nobody_else() {
    isolated(|here| {
        here.pods();
        let mut ends = Vec::new();
        for family in Family::ALL {
            // IPv4 by a socket of both families, as most servers have it.
            let at = match family {
                Family::V4 => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), POD_PORT),
                Family::V6 => SocketAddr::new(RED.ip(family), POD_PORT),
            };
            let listener = here.inside("red", || TcpListener::bind(at)).expect("listen");
            for from in [client(), BLUE] {
                // One that was used and one that was not.
                for used in [true, false] {
                    let mut near = connect(here, from, family, PATIENCE).expect("connect");
                    let (mut far, _) = listener.accept().expect("accept");
                    far.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
                    if used {
                        near.write_all(b"ping").expect("send");
                        far.read_exact(&mut [0; 4]).expect("receive");
                    }
                    ends.push((format!("{family:?} from {}, used: {used}", from.name), near, far));
                }
            }
            // By another publish, and straight: these stay.
            let other = SocketAddr::new(uplink().ip(family), 9000);
            let at = SocketAddr::new(RED.ip(family), 7000);
            let elsewhere = here.inside("red", || TcpListener::bind(at)).expect("listen");
            let mut near = here.inside("lan", || TcpStream::connect(other)).expect("connect");
            let (mut far, _) = elsewhere.accept().expect("accept");
            let listening = SocketAddr::new(RED.ip(family), POD_PORT);
            let mut straight = here.inside("blue", || TcpStream::connect(listening)).expect("connect");
            let (mut straight_far, _) = listener.accept().expect("accept");

            here.netns(["publish", "del", "red", "8080:80/tcp", "--reset"]).ok();
            for (case, near, far) in &mut ends {
                for (end, stream) in [("client", near), ("pod", far)] {
                    stream.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
                    let error = stream.read(&mut [0; 4]).expect_err("a connection that was reset");
                    let ended = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted);
                    assert!(ended, "{case}, at the {end}: {error}");
                }
            }
            ends.clear();
            assert!(flows().iter().all(|f| f.publish.is_none() || f.dport == 9000 || f.sport == 7000));
            for (near, far) in [(&mut near, &mut far), (&mut straight, &mut straight_far)] {
                near.write_all(b"ping").expect("send by another way");
                far.read_exact(&mut [0; 4]).expect("receive by another way");
            }
            // The pod still listens.
            here.netns(["publish", "add", "red", "8080:80/tcp"]).ok();
            connect(here, client(), family, PATIENCE).expect("connect again");
            listener.accept().expect("accept again");
        }
    });
}

#[test]
fn idle_flows_are_swept_by_whoever_runs() {
    isolated(|here| {
        here.lan();
        let quick = format!("[nat.timeouts]\nudp = \"1s\"\n{TOPOLOGY}");
        let file = here.file("topology.toml", &quick).display().to_string();
        let talk = || {
            for (family, from) in everywhere() {
                let _ = asked(&datagrams(here, from, family), SILENCE);
            }
        };
        // Nothing runs: what is over lies there until a verb changes something.
        here.netns(["up", "-f", &file]).ok();
        talk();
        assert_eq!(flows().len(), 8);
        wait_until("their time to be over", SOON, || {
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("the clock the programs stamp with");
            let over =
                |f: &FlowRecord| Duration::from(now) > Duration::from_nanos(f.last_seen_ns) + Duration::from_secs(1);
            flows().iter().all(over)
        });
        here.netns(["status"]).ok();
        assert_eq!(flows().len(), 8);
        here.netns(["publish", "add", "blue", "8090:80/udp"]).ok();
        assert_eq!(flows().len(), 0);
        here.netns(["down"]).ok();

        let mut run = here.netns_background(["run", "--config", &file]);
        run.wait_for_output("green", SOON);
        talk();
        assert_eq!(flows().len(), 8);
        wait_until("the sweep", Duration::from_secs(12), || flows().is_empty());
        run.signal(Signal::SIGTERM);
        run.finish(SOON);
    });
}

#[test]
fn idle_timers_are_shown_and_change_live() {
    isolated(|here| {
        here.pods();
        serve(here, RED);
        assert_eq!(here.status()["nat"]["timeouts"]["tcp_established"], "2h4m");
        let mut stream = connect(here, client(), Family::V4, PATIENCE).expect("connect");
        let changed = here.up(&format!("[nat]\nprofile = \"fast\"\n[nat.timeouts]\nudp = \"90s\"\n{TOPOLOGY}"));
        assert!(changed.ok().contains("UDP 1m30s"));
        let status = here.status();
        assert_eq!((&status["nat"]["profile"], &status["nat"]["timeouts"]["udp"]), (&"fast".into(), &"1m30s".into()));
        assert!(here.netns(["status"]).ok().contains("TCP 20m"));
        let datapath = Datapath::open(Path::new("/sys/fs/bpf/netns-ebpf/default")).expect("open the data path");
        let [transitory, established, udp, icmp] = datapath.host_config().expect("read").timeout_ns;
        let s = 1_000_000_000;
        assert_eq!([transitory, established, udp, icmp], [30 * s, 1200 * s, 90 * s, 30 * s]);
        assert_eq!(told(&mut stream).expect("a connection made before"), "red");
        here.up(&format!("[nat.timeouts]\nudp = \"soon\"\n{TOPOLOGY}")).fails(2, &["nat.timeouts.udp", "line 2"]);
        assert!(wait_for(SILENCE, || (here.status()["nat"] == status["nat"]).then_some(())).is_some());
    });
}
