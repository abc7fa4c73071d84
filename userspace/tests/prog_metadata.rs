//! What a packet comes with beside its bytes: the host's notes on it, and a sum a device has taken.

mod common;
#[macro_use]
mod prog;

use std::net::IpAddr;

use netns::datapath::Hook;
use prog::bench::Notes;
use prog::*;

/// `TC_ACT_REDIRECT` and `TC_ACT_UNSPEC`.
const REDIRECT: i32 = 7;
const PASS: i32 = -1;

fn pod(pod: Pod) -> Meta {
    Meta { ifindex: pod.ifindex(), ..Meta::default() }
}

fn lan(b: &Bench) -> Meta {
    Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() }
}

both!(
    fn what_the_host_noted_on_a_packet_does_not_enter_a_pod(b, v) {
        let notes = Notes { mark: 0xcafe, priority: 7 };
        let question = from_pod(RED, SERVER.ip(v), udp(20_000, 53));
        assert_eq!(b.run(Hook::FromPod, pod(RED), &question.bytes()).action, REDIRECT);
        let rows = [
            ("pod to pod", Hook::FromPod, pod(RED), from_pod(RED, BLUE.ip(v), udp(1000, 53))),
            ("hairpin", Hook::FromPod, pod(RED), from_pod(RED, HOST.ip(v), udp(1000, 5353))),
            ("to a published port", Hook::FromUplink, lan(b), from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 5353))),
            ("a reply", Hook::FromUplink, lan(b), from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000))),
        ];
        for (what, hook, meta, sent) in rows {
            let out = b.run(hook, Meta { notes, ..meta }, &sent.bytes());
            assert_eq!((out.action, out.notes), (REDIRECT, Notes::default()), "{what}");
        }
        // What is the host's stays as the host has it.
        let own = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 9));
        let out = b.run(Hook::FromUplink, Meta { notes, ..lan(b) }, &own.bytes());
        assert_eq!((out.action, out.notes), (PASS, notes));
    }
);

both!(
    fn a_sum_over_the_whole_packet_stays_right(b, v) {
        let run = |what: &str, hook, meta, sent: &Packet, want: &Packet| {
            let (action, frame) = b.run_summed(hook, meta, &sent.bytes()).unwrap_or_else(|e| panic!("{what}: {e}"));
            // A way out by the kernel's neighbour table writes the link layer later.
            assert_eq!((action, &frame[14..]), (REDIRECT, &want.bytes()[14..]), "{what}");
        };
        let (server, host) = (SERVER.ip(v), HOST.ip(v));
        for hops in [2, 64, 255] {
            for l4 in [tcp(1000, 80, flag::ACK), udp(1000, 53), echo(true, 7), sctp(1000, 80)] {
                let sent = from_pod(RED, BLUE.ip(v), l4).hops(hops);
                run("pod to pod", Hook::FromPod, pod(RED), &sent, &sent.delivered(BLUE));
            }
        }
        for l4 in [tcp(20_000, 80, flag::SYN), udp(20_000, 53), echo(true, 20_000), sctp(20_000, 80)] {
            let (sport, dport) = l4.ports();
            let sent = from_pod(RED, server, l4.clone());
            let left = sent.translated((host, sport), (server, dport)).sent_on();
            run("source NAT", Hook::FromPod, pod(RED), &sent, &left);
            let answer = match l4 {
                L4::Tcp { .. } => tcp(dport, sport, flag::SYN | flag::ACK),
                L4::Echo { id, .. } => echo(false, id),
                other => other.with_ports(dport, sport),
            };
            let reply = from_lan(server, host, answer);
            let mut got = reply.clone();
            got.dst = RED.ip(v);
            run("its reply", Hook::FromUplink, lan(b), &reply, &got.delivered(RED));
        }
        let whole = from_pod(RED, server, udp(21_000, 53).with_payload(64));
        let mut left = whole.translated((host, 21_000), (server, 53));
        left.hop_limit -= 1;
        let [first, later] = whole.in_two(7, 32);
        let [left_first, left_later] = left.in_two(7, 32);
        run("the first piece", Hook::FromPod, pod(RED), &first, &left_first);
        run("a later one", Hook::FromPod, pod(RED), &later, &left_later);
        for l4 in [tcp(40_000, 8080, flag::SYN), udp(40_000, 5353)] {
            let backend = if matches!(l4, L4::Tcp { .. }) { 80 } else { 53 };
            let sent = from_lan(CLIENT.ip(v), host, l4);
            let got = sent.translated((CLIENT.ip(v), 40_000), (BLUE.ip(v), backend)).delivered(BLUE);
            run("to a published port", Hook::FromUplink, lan(b), &sent, &got);
        }
    }
);

#[test]
fn a_wrong_sum_is_seen() {
    // A program that writes without telling: an error has a header of its own before the packet it quotes.
    bench(|b| {
        let sent = from_pod(RED, NOBODY.ip(V6), udp(1000, 53));
        let found = b.run_summed(Hook::FromPod, pod(RED), &sent.bytes()).expect_err("the sum is not told of the error");
        assert_eq!(found.raw_os_error(), Some(nix::libc::EBADMSG));
    });
}

both!(
    fn a_packet_without_a_link_layer_gets_all_of_one(b, v) {
        // BPF_PROG_TEST_RUN takes the protocol from where an Ethernet header has it, here a part of the source, and the station
        // from its first byte, here with the traffic class.
        let client = match v {
            V4 => IpAddr::from([8, 0, 1, 2]),
            V6 => IpAddr::from([0x2001, 0xdb8, 0x86dd, 0, 0, 0, 0, 2]),
        };
        let sent = Packet { class: 0x10, ..from_lan(client, HOST.ip(v), tcp(40_000, 8080, flag::SYN)) };
        let got = sent.translated((client, 40_000), (BLUE.ip(v), 80)).delivered(BLUE);
        let out = b.run(Hook::FromUplinkL3, lan(b), &sent.ip_bytes());
        assert_eq!((out.action, out.frame), (REDIRECT, got.bytes()));
    }
);
