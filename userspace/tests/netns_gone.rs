//! A pod goes and another comes with its name and addresses: the connections of the one are never the other's, whoever sweeps.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use common::pods::{TOPOLOGY, server, uplink};
use common::{BPFFS, Isolated, isolated};
use netns::datapath::Datapath;

const PATIENCE: Duration = Duration::from_secs(5);

fn slot(here: &Isolated, pod: &str) -> u64 {
    let list = here.netns(["list", "-o", "json"]).json();
    let pods = list.as_array().expect("a list");
    pods.iter().find(|p| p["name"] == pod).expect("the pod")["slot"].as_u64().expect("a slot")
}

fn sweep() {
    let pins = Path::new(BPFFS).join("netns-ebpf/default");
    Datapath::open(&pins).expect("open").sweep_resting().expect("sweep");
}

/// So many flows of another pod that nobody looks through all of them.
fn many_flows(here: &Isolated) {
    here.inside("blue", || {
        let socket = UdpSocket::bind("10.244.0.20:4000").expect("bind");
        let server = server().v4;
        for port in 10_000..15_000 {
            // What the LAN answers with an error is none of this test's.
            let _refused = socket.send_to(b"x", (server, port));
            let _refused = socket.send_to(b"x", (server, port));
        }
    });
    let flows = here.status()["flows"]["ipv4"].as_u64().expect("a number");
    assert!(flows > 4500, "{flows}");
}

/// A connection from the LAN to the pod, by a published port; both ends of it.
fn connect(here: &Isolated, to: SocketAddr) -> (TcpStream, TcpStream) {
    let any = if to.is_ipv4() { "0.0.0.0:80" } else { "[::]:80" };
    let listener = here.inside("violet", || TcpListener::bind(any).expect("listen"));
    let client = here.inside("lan", || TcpStream::connect_timeout(&to, PATIENCE).expect("connect"));
    let (server, _) = listener.accept().expect("accept");
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
    }
    (client, server)
}

fn exchange(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"hello").expect("write");
    let mut got = [0; 5];
    to.read_exact(&mut got).expect("read");
    assert_eq!(&got, b"hello");
}

#[test]
fn a_pod_that_comes_after_another_has_none_of_its_connections() {
    isolated(|here| {
        here.pods();
        many_flows(here);
        let add =
            ["add", "violet", "--address", "10.244.0.77", "--address", "fd00:244::77", "--publish", "8099:80/tcp"];
        let site = uplink();
        for to in [SocketAddr::new(site.v4.into(), 8099), SocketAddr::new(site.v6.into(), 8099)] {
            here.netns(add).ok();
            let first = slot(here, "violet");
            let (mut client, mut server) = connect(here, to);
            exchange(&mut client, &mut server);
            here.netns(["del", "violet"]).ok();
            here.netns(add).ok();
            assert_ne!(slot(here, "violet"), first, "the slot of one whose flows may be there rests");
            // The client of the former one hears from the host that nobody has its connection.
            client.write_all(b"still there?").expect("write");
            let mut got = [0; 1];
            let ended = client.read(&mut got).expect_err("a reset");
            assert_eq!(ended.kind(), ErrorKind::ConnectionReset, "{ended}");
            let (mut client, mut server) = connect(here, to);
            exchange(&mut client, &mut server);
            exchange(&mut server, &mut client);
            here.netns(["del", "violet"]).ok();
            // Swept, slots are free again.
            sweep();
            here.netns(add).ok();
            assert_eq!(slot(here, "violet"), first);
            here.netns(["del", "violet"]).ok();
            sweep();
        }
        assert_eq!(here.status()["flows"]["ipv6"], 0);
        // Where there are few it is free at once.
        here.netns(["down"]).ok();
        here.up(TOPOLOGY).ok();
        let slots = [(); 2].map(|()| {
            here.netns(add).ok();
            let found = slot(here, "violet");
            here.netns(["del", "violet"]).ok();
            found
        });
        assert_eq!(slots[0], slots[1]);
    });
}

#[test]
fn a_publish_that_comes_after_another_has_none_of_its_flows() {
    isolated(|here| {
        here.pods();
        many_flows(here);
        here.netns(["add", "violet", "--publish", "8099:80/tcp"]).ok();
        let to = SocketAddr::new(uplink().v4.into(), 8099);
        let (mut client, mut server) = connect(here, to);
        exchange(&mut client, &mut server);
        here.netns(["publish", "del", "violet", "8099:80/tcp"]).ok();
        // A connection stays with its pod.
        exchange(&mut client, &mut server);
        here.inside("lan", || TcpStream::connect_timeout(&to, PATIENCE)).expect_err("nothing is published");
        here.netns(["publish", "add", "violet", "8099:80/tcp"]).ok();
        exchange(&mut server, &mut client);
        sweep();
        exchange(&mut client, &mut server);
        let (mut client, mut server) = connect(here, to);
        exchange(&mut client, &mut server);
    });
}
