//! Frames nobody honest sends: cut short, lying about lengths, with every kind of option and extension header.

mod common;
#[macro_use]
mod prog;

use std::net::IpAddr;

use netns::datapath::Hook;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::flows::opens;
use prog::want::{counters, growth};
use prog::*;

/// IPv6 extension headers, each with its number.
type Chain = Vec<(u8, Vec<u8>)>;

/// Destination options that mean nothing: padding only, `length` bytes with the header's first two.
fn options_header(kind: u8, length: usize) -> (u8, Vec<u8>) {
    let mut bytes = vec![0, 0, 1, (length - 4) as u8];
    bytes.resize(length, 0);
    (kind, bytes)
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTH: u8 = 51;
const DEST_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;

/// One of each kind a hook takes apart, with the hook, the device and what a cut one comes to.
fn whole_frames(b: &Bench, v: Version) -> Vec<(&'static str, Hook, Meta, Vec<u8>)> {
    let pod = Meta { ifindex: RED.ifindex(), ..Meta::default() };
    let lan = Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() };
    let host = Meta { ifindex: gateway_ifindex(1), ..Meta::default() };
    let quoted = Packet::new(SERVER.ip(v), RED.ip(v), udp(53, 1000)).ip_bytes();
    let with_options = |mut p: Packet| {
        match v {
            V4 => p.options = vec![1, 1, 7, 7, 4, 0, 0, 0, 0, 1, 0, 0],
            V6 => p.extensions = vec![options_header(HOP_BY_HOP, 8), options_header(DEST_OPTIONS, 16)],
        }
        p
    };
    let mut frames = Vec::new();
    for l4 in [tcp(1000, 80, flag::SYN), udp(1000, 53), echo(true, 7)] {
        for dst in [BLUE.ip(v), SERVER.ip(v), GATEWAY.ip(v), NOBODY.ip(v)] {
            frames.push(("a pod's", Hook::FromPod, pod, from_pod(RED, dst, l4.clone()).bytes()));
        }
        let p = with_options(from_pod(RED, SERVER.ip(v), l4.clone()));
        frames.push(("a pod's with options", Hook::FromPod, pod, p.bytes()));
        let [first, later] = from_pod(RED, SERVER.ip(v), l4.clone()).in_two(3, 8);
        frames.push(("a pod's first piece", Hook::FromPod, pod, first.bytes()));
        frames.push(("a pod's later piece", Hook::FromPod, pod, later.bytes()));
        let p = from_host(1, GATEWAY.ip(v), BLUE.ip(v), l4.clone());
        frames.push(("the host's", Hook::FromHost, host, p.bytes()));
        frames.push(("the host's with options", Hook::FromHost, host, with_options(p).bytes()));
    }
    let p = from_pod(RED, SERVER.ip(v), Problem::PortUnreachable.quoting(v, &quoted));
    frames.push(("a pod's error", Hook::FromPod, pod, p.bytes()));
    for l4 in [tcp(40_000, 8080, flag::SYN), udp(40_000, 5353), echo(true, 7)] {
        let p = from_lan(CLIENT.ip(v), HOST.ip(v), l4);
        frames.push(("a client's", Hook::FromUplink, lan, p.bytes()));
        frames.push(("a client's with options", Hook::FromUplink, lan, with_options(p).bytes()));
    }
    let p = from_lan(ROUTER.ip(v), HOST.ip(v), Problem::PortUnreachable.quoting(v, &quoted));
    frames.push(("a router's error", Hook::FromUplink, lan, p.bytes()));
    frames
}

both!(
    fn a_frame_cut_anywhere_is_dropped_or_left_alone(b, v) {
        let mut runs = 0_u64;
        let before = counters(b);
        for (what, hook, meta, whole) in whole_frames(b, v) {
            for length in 0..whole.len() {
                let Ok(out) = b.try_run(hook, meta, &whole[..length]) else {
                    // BPF_PROG_TEST_RUN itself takes no frame without a link-layer header, newer kernels none with less than an
                    // IP header either; the parser's own tests have those.
                    assert!(length < if v == V4 { 34 } else { 54 }, "{what}, {length} of {} bytes", whole.len());
                    continue;
                };
                let action = if hook == Hook::FromUplink { -1 } else { 2 };
                assert_eq!(out.action, action, "{what}, {length} of {} bytes", whole.len());
                assert_eq!(out.frame, whole[..length], "{what}, {length} of {} bytes", whole.len());
                runs += u64::from(hook != Hook::FromUplink);
            }
        }
        assert_eq!(prog::flows::table(b.datapath()), [], "no state is made");
        assert_eq!(b.datagrams(v), 0, "no state is made");
        let grown = growth(&before, &counters(b));
        assert_eq!(grown.get("drop malformed"), Some(&runs), "{grown:?}");
        assert_eq!(grown.keys().filter(|k| k.starts_with("drop")).count(), 1, "{grown:?}");
    }
);

/// A change of a frame's bytes that makes it wrong.
type Change = Box<dyn Fn(&mut Vec<u8>)>;

fn set(at: usize, bytes: &'static [u8]) -> Change {
    Box::new(move |f| f[at..at + bytes.len()].copy_from_slice(bytes))
}

/// Lies of the IP header and of TCP's, by name; offsets count from the start of the frame.
fn lies(v: Version) -> Vec<(&'static str, L4, Change)> {
    let t = || tcp(1000, 80, flag::SYN);
    let u = || udp(1000, 53);
    let l4_at = if v == V4 { 34 } else { 54 };
    let mut rows: Vec<(&'static str, L4, Change)> = vec![
        ("a TCP header of 0 bytes", t(), set(l4_at + 12, &[0])),
        ("a TCP header of 16 bytes", t(), set(l4_at + 12, &[0x40])),
        ("a TCP header of 24 bytes in 20", t(), set(l4_at + 12, &[0x60])),
        ("a TCP header of 60 bytes in 20", t(), set(l4_at + 12, &[0xf0])),
        ("a UDP length of 0", u(), set(l4_at + 4, &[0, 0])),
        ("a UDP length of 7", u(), set(l4_at + 4, &[0, 7])),
        ("a UDP length of a byte too much", u(), set(l4_at + 4, &[0, 19])),
        ("the largest UDP length", u(), set(l4_at + 4, &[0xff, 0xff])),
        ("version 0", u(), set(14, &[0x05])),
        ("version 5", u(), set(14, &[0x55])),
        ("version 15", u(), set(14, &[0xf5])),
    ];
    match v {
        V4 => rows.extend([
            ("version 6", u(), set(14, &[0x65])),
            ("a header of 0 bytes", u(), set(14, &[0x40])),
            ("a header of 16 bytes", u(), set(14, &[0x44])),
            ("a header of 60 bytes in 38", u(), set(14, &[0x4f])),
            ("total length 0", u(), set(16, &[0, 0])),
            ("total length 19", u(), set(16, &[0, 19])),
            ("a total length without room for TCP", t(), set(16, &[0, 39])),
            ("a total length without room for UDP", u(), set(16, &[0, 27])),
            ("a total length without room for ICMP", echo(true, 7), set(16, &[0, 27])),
            ("a total length beyond the frame", u(), set(16, &[0, 39])),
            ("the largest total length", u(), set(16, &[0xff, 0xff])),
        ]),
        V6 => rows.extend([
            ("version 4", u(), set(14, &[0x45])),
            ("payload length 0", u(), set(18, &[0, 0])),
            ("a payload length without room for TCP", t(), set(18, &[0, 19])),
            ("a payload length without room for UDP", u(), set(18, &[0, 7])),
            ("a payload length without room for ICMP", echo(true, 7), set(18, &[0, 7])),
            ("a payload length beyond the frame", u(), set(18, &[0, 19])),
            ("the largest payload length", u(), set(18, &[0xff, 0xff])),
        ]),
    }
    rows
}

both!(
    fn lengths_that_lie_are_dropped_or_left_alone(b, v) {
        for (what, l4, change) in lies(v) {
            println!("{what}");
            for dst in [BLUE.ip(v), SERVER.ip(v), GATEWAY.ip(v)] {
                let mut frame = from_pod(RED, dst, l4.clone()).bytes();
                change(&mut frame);
                b.pod_sends_bytes(RED, &frame, &Want::drop(DropReason::Malformed));
            }
            let mut frame = from_host(1, GATEWAY.ip(v), BLUE.ip(v), l4.clone()).bytes();
            change(&mut frame);
            let meta = Meta { ifindex: gateway_ifindex(1), ..Meta::default() };
            b.expect(Hook::FromHost, meta, &frame, &Want::drop(DropReason::Malformed));
            let published = match &l4 {
                L4::Tcp { .. } => tcp(40_000, 8080, flag::SYN),
                L4::Udp { .. } => udp(40_000, 5353),
                _ => l4.clone(),
            };
            let mut frame = from_lan(CLIENT.ip(v), HOST.ip(v), published).bytes();
            change(&mut frame);
            b.lan_sends_bytes(&frame, &Want::pass_bytes(&frame));
        }
    }
);

both!(
    fn padding_behind_a_packet_does_no_harm(b, v) {
        let sent = from_pod(RED, BLUE.ip(v), L4::Raw { proto: 59, bytes: Vec::new() });
        let pad = |p: &Packet| [p.bytes(), vec![0; 26]].concat();
        let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
        let out = b.run(Hook::FromPod, meta, &pad(&sent));
        assert_eq!((out.action, out.frame), (7, pad(&sent.delivered(BLUE))));
        let sent = from_pod(RED, SERVER.ip(v), udp(20_000, 53));
        let out = b.run(Hook::FromPod, meta, &pad(&sent));
        let left = sent.translated((HOST.ip(v), 20_000), (SERVER.ip(v), 53)).sent_on();
        assert_eq!((out.action, out.frame), (7, pad(&left)));
    }
);

#[test]
fn ipv4_options_pass_unless_they_route() {
    bench(|b| {
        let lsrr = [131, 7, 4, 198, 51, 100, 8];
        let ssrr = [137, 7, 4, 198, 51, 100, 8];
        let fill = |options: &[u8]| {
            let mut o = options.to_vec();
            o.resize(o.len().next_multiple_of(4), 0);
            o
        };
        let ok = None;
        let source_route = Some(DropReason::SourceRoute);
        let malformed = Some(DropReason::Malformed);
        let rows = [
            ("end", fill(&[0]), ok),
            ("nothing, 40 times", vec![1; 40], ok),
            ("record route", fill(&[7, 7, 4, 0, 0, 0, 0]), ok),
            ("timestamp", fill(&[68, 8, 5, 0, 0, 0, 0, 0]), ok),
            ("router alert", fill(&[148, 4, 0, 0]), ok),
            ("security", fill(&[130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0]), ok),
            ("an unknown one", fill(&[222, 4, 1, 2]), ok),
            ("loose source route", fill(&lsrr), source_route),
            ("strict source route", fill(&ssrr), source_route),
            ("loose behind nothing", fill(&[&[1, 1, 1][..], &lsrr].concat()), source_route),
            ("strict behind record route", fill(&[&[7, 7, 4, 0, 0, 0, 0][..], &ssrr].concat()), source_route),
            ("loose at the very end", fill(&[&[1; 33][..], &lsrr].concat()), source_route),
            ("a bare kind at the very end", [vec![1; 39], vec![131]].concat(), source_route),
            ("loose behind the end of options", fill(&[&[0][..], &lsrr].concat()), ok),
            ("one inside another", fill(&[222, 8, 131, 7, 4, 1, 2, 3]), ok),
            ("an option of no length", fill(&[7, 0, 0, 0]), malformed),
            ("an option of length 1", fill(&[68, 1, 0, 0]), malformed),
            ("an option far longer than the header", fill(&[7, 255, 4, 0]), malformed),
            ("an option a byte longer than the header", fill(&[1, 7, 4, 0]), malformed),
            ("an option whose length is no more in the header", vec![1, 1, 1, 7], malformed),
        ];
        for (what, options, reason) in rows {
            println!("{what}");
            assert!(options.len() <= 40 && options.len().is_multiple_of(4));
            let mut sent = from_pod(RED, BLUE.ip(V4), udp(1000, 53));
            sent.options = options.clone();
            let want = reason.map_or_else(|| Want::peer(BLUE, &sent.delivered(BLUE)), Want::drop);
            b.pod_sends(RED, &sent, &want);
            b.datapath().delete_flows(|_| true).expect("delete");
            let mut sent = from_pod(RED, SERVER.ip(V4), tcp(20_000, 80, flag::SYN));
            sent.options = options.clone();
            let left = sent.translated((HOST.ip(V4), 20_000), (SERVER.ip(V4), 80)).sent_on();
            let flow = Pair::new(1, &sent, 0, &left, Target::Uplink(b.uplink), Target::Slot(RED.slot)).owned(RED.slot);
            let want = reason.map_or_else(|| Want::neigh(&left).flows([&flow]), Want::drop);
            b.pod_sends(RED, &sent, &want);
            // From the LAN, what cannot be read or routes itself is the host's to refuse.
            let mut reply = from_lan(SERVER.ip(V4), HOST.ip(V4), tcp(80, 20_000, flag::SYN | flag::ACK));
            reply.options = options;
            let got = reply.translated((SERVER.ip(V4), 80), (RED.ip(V4), 20_000)).delivered(RED);
            let want = if reason.is_some() {
                Want::pass(&reply)
            } else {
                Want::peer(RED, &got).flows([&flow.state(State::Answered)])
            };
            b.lan_sends(&reply, &want);
        }
    });
}

#[test]
fn ipv6_extension_headers_are_followed_so_far() {
    bench(|b| {
        let dest = |n| vec![options_header(DEST_OPTIONS, 8); n];
        let first = |mut rest: Vec<(u8, Vec<u8>)>| {
            rest.insert(0, options_header(HOP_BY_HOP, 8));
            rest
        };
        let with = |kind, length| vec![options_header(kind, length)];
        let ok = None;
        let refused = Some(DropReason::ExtensionHeader);
        let mut rows: Vec<(String, Chain, Option<DropReason>)> =
            (0..=8).map(|n| (format!("{n} deep"), dest(n), ok)).collect();
        rows.extend([
            ("9 deep".to_owned(), dest(9), refused),
            ("20 deep".to_owned(), dest(20), refused),
            ("hop-by-hop".to_owned(), first(dest(0)), ok),
            ("hop-by-hop and 7".to_owned(), first(dest(7)), ok),
            ("hop-by-hop and 8".to_owned(), first(dest(8)), refused),
            ("hop-by-hop second".to_owned(), [dest(1), with(HOP_BY_HOP, 8)].concat(), refused),
            ("hop-by-hop twice".to_owned(), first(with(HOP_BY_HOP, 8)), refused),
            ("routing".to_owned(), with(ROUTING, 24), Some(DropReason::SourceRoute)),
            ("routing third".to_owned(), [first(dest(1)), with(ROUTING, 8)].concat(), Some(DropReason::SourceRoute)),
            ("authentication of 12 bytes".to_owned(), vec![(AUTH, vec![0; 12])], ok),
            ("authentication of 24 bytes".to_owned(), vec![(AUTH, vec![0; 24])], ok),
            ("mobility".to_owned(), with(MOBILITY, 8), ok),
            ("a long one".to_owned(), with(DEST_OPTIONS, 256), ok),
            ("several long ones".to_owned(), vec![options_header(DEST_OPTIONS, 256); 3], ok),
            ("far too long ones".to_owned(), vec![options_header(DEST_OPTIONS, 256); 4], refused),
            ("an atomic fragment".to_owned(), vec![(FRAGMENT, vec![0, 0, 0, 0, 1, 2, 3, 4])], ok),
            ("two of them".to_owned(), vec![(FRAGMENT, vec![0, 0, 0, 0, 1, 2, 3, 4]); 2], ok),
            (
                "a first piece in a first piece".to_owned(),
                vec![(FRAGMENT, vec![0, 0, 0, 1, 1, 2, 3, 4]), (FRAGMENT, vec![0, 0, 0, 1, 1, 2, 3, 5])],
                refused,
            ),
        ]);
        for (what, extensions, reason) in rows {
            println!("{what}");
            let mut sent = from_pod(RED, BLUE.ip(V6), udp(1000, 53));
            sent.extensions = extensions.clone();
            let want = reason.map_or_else(|| Want::peer(BLUE, &sent.delivered(BLUE)), Want::drop);
            b.pod_sends(RED, &sent, &want);
            b.datapath().delete_flows(|_| true).expect("delete");
            let mut sent = from_pod(RED, SERVER.ip(V6), udp(1000, 53));
            sent.l4 = sent.l4.with_ports(20_000, 53);
            sent.extensions = extensions.clone();
            let left = sent.translated((HOST.ip(V6), 20_000), (SERVER.ip(V6), 53)).sent_on();
            let flow = Pair::new(1, &sent, 0, &left, Target::Uplink(b.uplink), Target::Slot(RED.slot)).owned(RED.slot);
            let want = reason.map_or_else(|| Want::neigh(&left).flows([&flow]), Want::drop);
            b.pod_sends(RED, &sent, &want);
            let mut reply = from_lan(SERVER.ip(V6), HOST.ip(V6), udp(53, 20_000));
            reply.extensions = extensions;
            let got = reply.translated((SERVER.ip(V6), 53), (RED.ip(V6), 20_000)).delivered(RED);
            let want = if reason.is_some() {
                Want::pass(&reply)
            } else {
                Want::peer(RED, &got).flows([&flow.state(State::Established)])
            };
            b.lan_sends(&reply, &want);
        }
    });
}

#[test]
fn an_extension_header_that_leaves_the_packet_is_dropped() {
    bench(|b| {
        for (what, kind, length) in
            [("options", DEST_OPTIONS, 0xff), ("authentication", AUTH, 0xff), ("one more", 60, 3)]
        {
            println!("{what}");
            let mut sent = from_pod(RED, BLUE.ip(V6), udp(1000, 53));
            sent.extensions = vec![options_header(kind, 8)];
            let mut frame = sent.bytes();
            frame[55] = length;
            let out = b.run(Hook::FromPod, Meta { ifindex: RED.ifindex(), ..Meta::default() }, &frame);
            assert_eq!(out.action, 2);
        }
    });
}

/// A generator of numbers: the same ones in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }
}

both!(
    fn whatever_a_pod_sends_leaves_with_its_own_source(b, v) {
        let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
        let frames: Vec<_> = whole_frames(b, v).into_iter().filter(|(_, hook, ..)| *hook == Hook::FromPod).collect();
        let before = counters(b);
        let runs = 4000;
        for _ in 0..runs {
            let (_, hook, meta, whole) = &frames[numbers.next(frames.len())];
            let mut frame = whole.clone();
            for _ in 0..=numbers.next(3) {
                let at = numbers.next(frame.len());
                frame[at] = numbers.next(256) as u8;
            }
            let out = b.run(*hook, *meta, &frame);
            assert!([2, 7].contains(&out.action), "a pod's frame goes nowhere unseen: {}", out.action);
            if out.action == 2 {
                continue;
            }
            let (at, length) = if out.frame[12..14] == [8, 0] { (26, 4) } else { (22, 16) };
            let source = &out.frame[at..at + length];
            let allowed = [RED.ip(v), HOST.ip(v), GATEWAY.ip(v)].map(octets);
            assert!(allowed.iter().any(|a| a == source), "{frame:02x?} left as {:02x?}", out.frame);
        }
        let grown = growth(&before, &counters(b));
        let total = |prefix: &str| grown.iter().filter(|(k, _)| k.starts_with(prefix)).map(|(_, n)| n).sum::<u64>();
        assert_eq!(total("verdict from_pod"), runs, "{grown:?}");
        assert_eq!(grown["slot 0 tx packets"] + total("verdict from_pod held"), runs, "{grown:?}");
        assert_eq!(grown["slot 0 tx dropped"], total("drop "), "{grown:?}");
        assert!(!grown.contains_key("drop internal"), "{grown:?}");
    }
);

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

both!(
    fn with_identifier_0_a_reply_is_no_request_and_a_request_no_reply(b, v) {
        let sent = from_pod(RED, SERVER.ip(v), echo(true, 0));
        let pod = Meta { ifindex: RED.ifindex(), ..Meta::default() };
        assert_eq!(b.run(Hook::FromPod, pod, &sent.bytes()).action, 7);
        b.pod_sends(RED, &from_pod(RED, SERVER.ip(v), echo(false, 0)), &Want::drop(DropReason::NoFlow));
        let sent = from_pod(YELLOW, SERVER.ip(v), echo(true, 0));
        let pod = Meta { ifindex: YELLOW.ifindex(), ..Meta::default() };
        assert_eq!(b.run(Hook::FromPod, pod, &sent.bytes()).action, 7);
        let asked = from_lan(SERVER.ip(v), YELLOW.ip(v), echo(true, 0));
        b.lan_sends(&asked, &Want::drop(DropReason::NotPublished).rx_dropped(YELLOW));
        let answer = from_lan(SERVER.ip(v), YELLOW.ip(v), echo(false, 0));
        let meta = Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() };
        assert_eq!(b.run(Hook::FromUplink, meta, &answer.bytes()).action, 7);
    }
);

both!(
    /// RFC 1624 section 3: such a reply has a checksum of 0xffff, which no change of another checksum gives.
    fn a_reply_of_zeros_keeps_a_right_checksum(b, v) {
        let (_, id) = opens(b, v, RED, SERVER, echo(true, 0)).expect("an identifier");
        let [high, low] = id.to_be_bytes();
        let kind = if v == V4 { 0 } else { 129 };
        let of = |rest| L4::Icmp { kind, code: 0, rest, body: vec![0; 8] };
        let answer = from_lan(SERVER.ip(v), HOST.ip(v), of([high, low, 0, 0]));
        let mut got = answer.clone();
        (got.dst, got.l4) = (RED.ip(v), of([0; 4]));
        let meta = Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() };
        let first = b.run(Hook::FromUplink, meta, &answer.bytes());
        assert_eq!(first.frame, got.delivered(RED).bytes());
        // As others: the flow, answered once, stays as it is.
        b.lan_sends(&answer, &Want::peer(RED, &got.delivered(RED)));
    }
);
