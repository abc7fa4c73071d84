//! How a packet is handed over: as one for whoever gets it, and large ones whole.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use common::frame::Tap;
use common::pods::{BLUE, RED, client, server, uplink};
use common::traffic::direct;
use common::{Isolated, isolated};
use netns::check::{Family, Site};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

const PATIENCE: Duration = Duration::from_secs(3);

#[test]
fn what_a_pod_sends_is_for_the_host_and_what_it_gets_is_for_the_pod() {
    isolated(|here| {
        here.pods();
        // Where `from_pod` sees them: a redirect into a pod kept what they were taken for until kernel 6.15.
        let at_the_host = ["nn0", "nn1"].map(Tap::open);
        let at_the_pods = ["red", "blue"].map(|pod| here.tap(pod));
        here.flows(&direct(RED, BLUE, RED, 63));
        for ethertype in [[8, 0], [0x86, 0xdd]] {
            for (tap, pod) in at_the_host.iter().zip(["red", "blue"]) {
                let mac = here.mac(pod, "eth0");
                let is_sent = |frame: &[u8]| frame[6..12] == mac && frame[12..14] == ethertype && frame[0] & 1 == 0;
                let (_, kind) = tap.find_kind(PATIENCE, is_sent).expect("a frame of the pod's");
                assert_eq!(kind, libc::PACKET_HOST, "{pod}'s, {ethertype:x?}");
            }
            for (tap, pod) in at_the_pods.iter().zip(["red", "blue"]) {
                let mac = here.mac(pod, "eth0");
                let is_received = |frame: &[u8]| frame[..6] == mac && frame[12..14] == ethertype;
                let (_, kind) = tap.find_kind(PATIENCE, is_received).expect("a frame for the pod");
                assert_eq!(kind, libc::PACKET_HOST, "to {pod}, {ethertype:x?}");
            }
        }
    });
}

/// Bytes of a datagram, and how many go in one packet of the kernel's.
const SEGMENT_BYTES: usize = 1000;
const SEGMENTS: usize = 20;

/// Sends datagrams as one packet the device cuts; they arrive, and the packet got there whole.
fn sends_in_one(here: &Isolated, from: Site, at: (&str, &str), to: (IpAddr, u16), listen: SocketAddr) {
    let (place, device) = at;
    let (tap, receiver) =
        here.inside(place, || (Tap::open(device), UdpSocket::bind(listen).expect("bind the receiver")));
    receiver.set_read_timeout(Some(PATIENCE)).expect("time");
    here.inside(from.place, || {
        let family = if to.0.is_ipv4() { Family::V4 } else { Family::V6 };
        let sender = UdpSocket::bind((from.ip(family), 0)).expect("bind the sender");
        setsockopt(&sender, sockopt::UdpGsoSegment, &(SEGMENT_BYTES as i32)).expect("UDP_SEGMENT");
        let payload: Vec<u8> = (0..SEGMENTS).flat_map(|i| [i as u8; SEGMENT_BYTES]).collect();
        assert_eq!(sender.send_to(&payload, to).expect("send"), payload.len());
    });
    let mut block = [0; 2 * SEGMENT_BYTES];
    for i in 0..SEGMENTS {
        let n = receiver.recv(&mut block).unwrap_or_else(|e| panic!("{place}, datagram {i} to {to:?}: {e}"));
        assert_eq!(block[..n], [i as u8; SEGMENT_BYTES], "{place}, datagram {i}");
    }
    let whole = tap.find(PATIENCE, |frame| frame.len() > SEGMENTS * SEGMENT_BYTES);
    assert!(whole.is_some(), "{place}: no packet to {to:?} held all {SEGMENTS} datagrams");
}

#[test]
fn datagrams_the_device_cuts_go_everywhere() {
    isolated(|here| {
        here.pods();
        for f in Family::ALL {
            let (blue, red, lan) = (BLUE.ip(f), RED.ip(f), server().ip(f));
            sends_in_one(here, RED, ("blue", "eth0"), (blue, 5000), (blue, 5000).into());
            sends_in_one(here, RED, ("lan", "lan0"), (lan, 5001), (lan, 5001).into());
            sends_in_one(here, client(), ("red", "eth0"), (uplink().ip(f), 8080), (red, 80).into());
        }
        assert_eq!(here.drops("malformed"), 0, "their length is that of all");
    });
}
