//! ICMP errors about flows, both ways: quoted packet, outer header and every checksum as the receiver must see them.

mod common;
#[macro_use]
mod prog;

use std::time::Duration;

use netns::datapath::Hook;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::*;

const PROBLEMS: [Problem; 4] =
    [Problem::PortUnreachable, Problem::HostUnreachable, Problem::TimeExceeded, Problem::TooBig(1280)];

/// Red's flow to a server through a changed port: what red sent, what left, the flow.
fn masqueraded(b: &Bench, v: Version, l4: L4) -> (Packet, Packet, Pair) {
    b.datapath().delete_flows(|_| true).expect("delete");
    b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_000));
    let (_, dport) = l4.ports();
    let sent = from_pod(RED, SERVER.ip(v), l4);
    let left = sent.translated((HOST.ip(v), 20_000), (SERVER.ip(v), dport)).sent_on();
    let flow = Pair::new(1, &sent, 0, &left, Target::Uplink(b.uplink), Target::Slot(RED.slot)).owned(RED.slot);
    b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
    (sent, left, flow)
}

/// A server's answer to red: as it was sent, and as red got it.
fn answered(b: &Bench, v: Version) -> (Packet, Packet) {
    let (_, _, flow) = masqueraded(b, v, udp(1000, 53));
    let answer = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000));
    let got = answer.translated((SERVER.ip(v), 53), (RED.ip(v), 1000)).delivered(RED);
    b.lan_sends(&answer, &Want::peer(RED, &got).flows([&flow.state(State::Established)]));
    (answer, got)
}

/// A client's flow to a published port: what it sent, what the pod got, the flow.
fn published(b: &Bench, v: Version, l4: L4) -> (Packet, Packet) {
    b.datapath().delete_flows(|_| true).expect("delete");
    let (id, port) = if matches!(l4, L4::Tcp { .. }) { (WEB, 80) } else { (DNS, 53) };
    let (sport, _) = l4.ports();
    let sent = from_lan(CLIENT.ip(v), HOST.ip(v), l4);
    let got = sent.translated((CLIENT.ip(v), sport), (BLUE.ip(v), port)).delivered(BLUE);
    let flow =
        Pair::new(0, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Uplink(b.uplink)).owned(BLUE.slot).published(id);
    b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(id).flows([&flow]));
    (sent, got)
}

/// An error that quotes a packet as it was when it ran into the problem, cut to `quoted` bytes.
fn quoting(problem: Problem, v: Version, about: &Packet, quoted: usize) -> L4 {
    let mut bytes = about.ip_bytes();
    bytes.truncate(quoted);
    problem.quoting(v, &bytes)
}

/// The transports a pod's flow may have, from a port that must change.
fn transports() -> [L4; 3] {
    [udp(1000, 53).with_payload(40), tcp(1000, 80, flag::SYN).with_payload(40), echo(true, 7).with_payload(40)]
}

/// How much of a packet is quoted: all of it; the header and 8 bytes, as RFC 792 has it; all before TCP's checksum; an odd
/// number.
fn lengths(v: Version) -> [usize; 4] {
    let header = if v == V4 { 20 } else { 40 };
    [usize::MAX, header + 8, header + 16, header + 21]
}

both!(
    fn a_routers_errors_reach_the_pod_that_asked(b, v) {
        for l4 in transports() {
            let (sent, left, _) = masqueraded(b, v, l4);
            for problem in PROBLEMS {
                for length in lengths(v) {
                    // The router saw the packet some hops later.
                    let (about, seen) = (left.clone().hops(3), sent.clone().hops(3));
                    println!("{problem:?} about protocol {}, {length} bytes", sent.proto());
                    let error = from_lan(ROUTER.ip(v), HOST.ip(v), quoting(problem, v, &about, length)).hops(60);
                    let mut got = error.clone();
                    got.dst = RED.ip(v);
                    got.l4 = quoting(problem, v, &seen, length);
                    // Errors neither refresh nor change a flow.
                    b.lan_sends(&error, &Want::peer(RED, &got.delivered(RED)));
                }
            }
        }
    }
);

both!(
    fn what_stands_behind_an_error_in_its_frame_is_no_part_of_the_quote(b, v) {
        for l4 in transports() {
            let (sent, left, _) = masqueraded(b, v, l4);
            // TCP's checksum would stand in the padding, and so would all of the transport.
            for (length, whole) in [(8, true), (16, true), (0, false), (7, false)] {
                let about = |p: &Packet| quoting(Problem::TimeExceeded, v, p, lengths(v)[1] - 8 + length);
                let error = from_lan(ROUTER.ip(v), HOST.ip(v), about(&left));
                let mut got = error.clone();
                (got.dst, got.l4) = (RED.ip(v), about(&sent.sent_on()));
                let padded = |p: &Packet| [p.bytes(), vec![0x5a; 24]].concat();
                let meta = Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() };
                let out = b.run(Hook::FromUplink, meta, &padded(&error));
                println!("protocol {}, {length} bytes", sent.proto());
                if whole {
                    assert_eq!((out.action, out.frame), (7, padded(&got.delivered(RED))));
                } else {
                    assert_ne!(out.action, 7, "there is no such quote");
                }
            }
        }
    }
);

both!(
    fn an_error_about_a_flow_whose_time_is_over_is_nobodys(b, v) {
        let timeout = Duration::from_millis(50);
        let shorter = |b: &Bench| b.configure(|c| c.timeout_ns = [timeout.as_nanos() as u64; 4]);
        for l4 in transports() {
            let (sent, left, _) = masqueraded(b, v, l4);
            b.configure(|c| c.timeout_ns = [60_000_000_000; 4]);
            let about = |p: &Packet| quoting(Problem::TimeExceeded, v, p, usize::MAX);
            let error = from_lan(ROUTER.ip(v), HOST.ip(v), about(&left));
            let mut got = error.clone();
            (got.dst, got.l4) = (RED.ip(v), about(&sent.sent_on()));
            b.lan_sends(&error, &Want::peer(RED, &got.delivered(RED)));
            shorter(b);
            b.wait(timeout);
            // The host's, which knows nothing of it either; nobody has swept the flow away yet.
            b.lan_sends(&error, &Want::pass(&error));
        }
        for l4 in [tcp(40_000, 8080, flag::SYN), udp(40_000, 5353)] {
            b.configure(|c| c.timeout_ns = [60_000_000_000; 4]);
            let (_, got) = published(b, v, l4);
            let error = from_pod(BLUE, CLIENT.ip(v), quoting(Problem::PortUnreachable, v, &got, usize::MAX));
            shorter(b);
            b.wait(timeout);
            b.pod_sends(BLUE, &error, &Want::drop(DropReason::IcmpUnrelated));
        }
    }
);

both!(
    fn the_servers_own_errors_reach_the_pod(b, v) {
        let (sent, left, _) = masqueraded(b, v, udp(1000, 53));
        let error = from_lan(SERVER.ip(v), HOST.ip(v), quoting(Problem::PortUnreachable, v, &left, usize::MAX));
        let mut got = error.clone();
        (got.dst, got.l4) = (RED.ip(v), quoting(Problem::PortUnreachable, v, &sent.sent_on(), usize::MAX));
        b.lan_sends(&error, &Want::peer(RED, &got.delivered(RED)));
    }
);

both!(
    fn errors_about_untranslated_flows_pass_as_they_are(b, v) {
        let sent = from_pod(RED, KEPT.ip(v), udp(1000, 53));
        let flow = Pair::new(1, &sent, 0, &sent, Target::Uplink(b.uplink), Target::Slot(RED.slot)).owned(RED.slot);
        b.pod_sends(RED, &sent, &Want::neigh(&sent.sent_on()).flows([&flow]));
        let error = from_lan(ROUTER.ip(v), RED.ip(v), quoting(Problem::TooBig(1280), v, &sent.sent_on(), usize::MAX));
        b.lan_sends(&error, &Want::peer(RED, &error.delivered(RED)));
    }
);

both!(
    fn a_quote_with_options_is_read_past_them(b, v) {
        if v == V6 {
            for l4 in transports() {
                let (mut sent, mut left, _) = masqueraded(b, v, l4);
                let options = |kind| (kind, vec![0, 0, 1, 4, 0, 0, 0, 0]);
                for chain in [vec![options(60)], vec![options(0), options(60)], vec![options(0), (60, vec![0; 24])]] {
                    (sent.extensions, left.extensions) = (chain.clone(), chain);
                    let about = quoting(Problem::TimeExceeded, v, &left, usize::MAX);
                    let error = from_lan(ROUTER.ip(v), HOST.ip(v), about);
                    let mut got = error.clone();
                    (got.dst, got.l4) = (RED.ip(v), quoting(Problem::TimeExceeded, v, &sent.sent_on(), usize::MAX));
                    b.lan_sends(&error, &Want::peer(RED, &got.delivered(RED)));
                }
            }
            // A first piece's as well.
            let (sent, left, _) = masqueraded(b, v, udp(1000, 53).with_payload(40));
            let ([about, _], [seen, _]) = (left.in_two(9, 24), sent.sent_on().in_two(9, 24));
            let error = from_lan(ROUTER.ip(v), HOST.ip(v), quoting(Problem::TooBig(1280), v, &about, usize::MAX));
            let mut got = error.clone();
            (got.dst, got.l4) = (RED.ip(v), quoting(Problem::TooBig(1280), v, &seen, usize::MAX));
            b.lan_sends(&error, &Want::peer(RED, &got.delivered(RED)));
            return;
        }
        for l4 in transports() {
            let (mut sent, mut left, _) = masqueraded(b, v, l4);
            // A router on the way recorded itself, or the sender asked for a timestamp.
            for options in [vec![1; 4], vec![7, 7, 8, 1, 2, 3, 4, 0], [vec![68, 40, 5, 0], vec![0; 36]].concat(), vec![1; 40]] {
                (sent.options, left.options) = (options.clone(), options);
                let about = quoting(Problem::TimeExceeded, v, &left, usize::MAX);
                let error = from_lan(ROUTER.ip(v), HOST.ip(v), about);
                let mut got = error.clone();
                (got.dst, got.l4) = (RED.ip(v), quoting(Problem::TimeExceeded, v, &sent.sent_on(), usize::MAX));
                b.lan_sends(&error, &Want::peer(RED, &got.delivered(RED)));
            }
        }
    }
);

both!(
    fn a_quoted_datagram_without_checksum_stays_without(b, v) {
        let bare = L4::Udp { sport: 1000, dport: 53, checksum: false, payload: vec![1, 2, 3, 4] };
        let (sent, left, _) = masqueraded(b, v, bare);
        let error = from_lan(ROUTER.ip(v), HOST.ip(v), quoting(Problem::TimeExceeded, v, &left, usize::MAX));
        let mut got = error.clone();
        (got.dst, got.l4) = (RED.ip(v), quoting(Problem::TimeExceeded, v, &sent.sent_on(), usize::MAX));
        b.lan_sends(&error, &Want::peer(RED, &got.delivered(RED)));
    }
);

both!(
    fn a_pods_errors_reach_the_client_in_the_hosts_name(b, v) {
        for l4 in [udp(40_000, 5353).with_payload(40), tcp(40_000, 8080, flag::SYN).with_payload(40)] {
            let (sent, got, ..) = published(b, v, l4);
            for problem in PROBLEMS {
                for length in lengths(v) {
                    println!("{problem:?} about protocol {}, {length} bytes", sent.proto());
                    let error = from_pod(BLUE, CLIENT.ip(v), quoting(problem, v, &got, length));
                    let mut left = error.clone();
                    (left.src, left.l4) = (HOST.ip(v), quoting(problem, v, &sent.sent_on(), length));
                    b.pod_sends(BLUE, &error, &Want::neigh(&left.sent_on()));
                }
            }
        }
    }
);

both!(
    fn a_pods_error_about_a_reply_reaches_the_server(b, v) {
        // Red closed its socket: it says so about the server's answer.
        let (sent, left, flow) = masqueraded(b, v, udp(1000, 53));
        let answer = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000).with_payload(30));
        let got = answer.translated((SERVER.ip(v), 53), (RED.ip(v), 1000)).delivered(RED);
        b.lan_sends(&answer, &Want::peer(RED, &got).flows([&flow.state(State::Established)]));
        let error = from_pod(RED, SERVER.ip(v), quoting(Problem::PortUnreachable, v, &got, usize::MAX));
        let mut out = error.clone();
        (out.src, out.l4) = (left.src, quoting(Problem::PortUnreachable, v, &answer.sent_on(), usize::MAX));
        b.pod_sends(RED, &error, &Want::neigh(&out.sent_on()));
        drop(sent);
    }
);

both!(
    fn an_error_crosses_a_hairpin(b, v) {
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_000));
        let sent = from_pod(RED, HOST.ip(v), udp(1000, 5353));
        let got = sent.translated((HOST.ip(v), 20_000), (BLUE.ip(v), 53)).delivered(BLUE);
        let flow = Pair::new(1, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Slot(RED.slot))
            .owned(RED.slot)
            .published(DNS);
        b.pod_sends(RED, &sent, &Want::peer(BLUE, &got).hairpin_opens(DNS).flows([&flow]));
        let error = from_pod(BLUE, HOST.ip(v), quoting(Problem::PortUnreachable, v, &got, usize::MAX));
        let mut seen = error.clone();
        (seen.src, seen.dst) = (HOST.ip(v), RED.ip(v));
        seen.l4 = quoting(Problem::PortUnreachable, v, &sent.sent_on(), usize::MAX);
        b.pod_sends(BLUE, &error, &Want::peer(RED, &seen.delivered(RED)));
    }
);

both!(
    fn the_other_end_of_a_hairpin_gets_an_error_too(b, v) {
        // Red closed its socket, and says so about blue's answer.
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_000));
        let sent = from_pod(RED, HOST.ip(v), udp(1000, 5353));
        let got = sent.translated((HOST.ip(v), 20_000), (BLUE.ip(v), 53)).delivered(BLUE);
        let flow = Pair::new(1, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Slot(RED.slot))
            .owned(RED.slot)
            .published(DNS);
        b.pod_sends(RED, &sent, &Want::peer(BLUE, &got).hairpin_opens(DNS).flows([&flow]));
        let answer = from_pod(BLUE, HOST.ip(v), udp(53, 20_000).with_payload(30));
        let seen = answer.translated((HOST.ip(v), 5353), (RED.ip(v), 1000)).delivered(RED);
        let flow = flow.state(State::Established);
        b.pod_sends(BLUE, &answer, &Want::peer(RED, &seen).flows([&flow]));
        for problem in PROBLEMS {
            let error = from_pod(RED, HOST.ip(v), quoting(problem, v, &seen, usize::MAX));
            let mut told = error.clone();
            (told.src, told.dst) = (HOST.ip(v), BLUE.ip(v));
            told.l4 = quoting(problem, v, &answer.sent_on(), usize::MAX);
            b.pod_sends(RED, &error, &Want::peer(BLUE, &told.delivered(BLUE)));
        }
    }
);

both!(
    fn an_error_crosses_networks_by_a_published_port(b, v) {
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_000));
        let sent = from_pod(RED, HOST.ip(v), tcp(1000, 8081, flag::SYN).with_payload(40));
        let got = sent.translated((HOST.ip(v), 20_000), (YELLOW.ip(v), 80)).delivered(YELLOW);
        let flow = Pair::new(1, &sent, 2, &got, Target::Slot(YELLOW.slot), Target::Slot(RED.slot))
            .owned(RED.slot)
            .published(ABROAD);
        b.pod_sends(RED, &sent, &Want::peer(YELLOW, &got).hairpin_opens(ABROAD).flows([&flow]));
        for length in lengths(v) {
            let error = from_pod(YELLOW, HOST.ip(v), quoting(Problem::TooBig(1280), v, &got, length));
            let mut told = error.clone();
            (told.src, told.dst) = (HOST.ip(v), RED.ip(v));
            told.l4 = quoting(Problem::TooBig(1280), v, &sent.sent_on(), length);
            b.pod_sends(YELLOW, &error, &Want::peer(RED, &told.delivered(RED)));
        }
    }
);

both!(
    fn errors_between_pods_of_a_network_are_forwarded_as_they_are(b, v) {
        let about = from_pod(BLUE, RED.ip(v), udp(53, 1000));
        let error = from_pod(RED, BLUE.ip(v), quoting(Problem::PortUnreachable, v, &about, usize::MAX));
        b.pod_sends(RED, &error, &Want::peer(BLUE, &error.delivered(BLUE)));
    }
);

both!(
    /// Without a flow to judge by, an error between pods has to quote its receiver's own packet to that very sender.
    fn a_pod_cannot_forge_an_error_for_its_neighbour(b, v) {
        let forged = [
            ("what blue sent to another pod", from_pod(BLUE, GREEN.ip(v), tcp(53, 1000, flag::ACK))),
            ("what blue sent to a server", from_pod(BLUE, SERVER.ip(v), udp(53, 1000))),
            ("what blue sent to its gateway", from_pod(BLUE, GATEWAY.ip(v), udp(53, 1000))),
            ("what another pod sent to red", from_pod(GREEN, RED.ip(v), udp(53, 1000))),
            ("what red sent itself", from_pod(RED, BLUE.ip(v), udp(1000, 53))),
        ];
        let enough = if v == V4 { 28 } else { 48 };
        for problem in PROBLEMS {
            for (what, about) in &forged {
                println!("{problem:?} about {what}");
                let error = from_pod(RED, BLUE.ip(v), quoting(problem, v, about, usize::MAX));
                b.pod_sends(RED, &error, &Want::drop(DropReason::IcmpUnrelated));
            }
            let about = from_pod(BLUE, RED.ip(v), udp(53, 1000));
            for length in [0, enough - 9, enough - 1] {
                let error = from_pod(RED, BLUE.ip(v), quoting(problem, v, &about, length));
                b.pod_sends(RED, &error, &Want::drop(DropReason::IcmpUnrelated));
            }
            let error = from_pod(RED, BLUE.ip(v), quoting(problem, v, &about, enough));
            b.pod_sends(RED, &error, &Want::peer(BLUE, &error.delivered(BLUE)));
        }
    }
);

both!(
    fn an_error_about_no_flow_is_the_hosts_or_nobodys(b, v) {
        let (_, left, _) = masqueraded(b, v, udp(1000, 53));
        type Change = fn(&mut Packet);
        let changes: [(&str, Change); 5] = [
            ("another port", |p| p.l4 = udp(20_001, 53)),
            ("another server's port", |p| p.l4 = udp(20_000, 54)),
            ("another server", |p| p.dst = if p.dst.is_ipv4() { SERVER2.v4.into() } else { SERVER2.v6.into() }),
            ("another transport", |p| p.l4 = tcp(20_000, 53, flag::SYN)),
            ("a protocol without ports", |p| p.l4 = L4::Raw { proto: 47, bytes: vec![0x5a; 16] }),
        ];
        for (what, change) in changes {
            println!("{what}");
            let mut about = left.clone();
            change(&mut about);
            let error = from_lan(ROUTER.ip(v), HOST.ip(v), quoting(Problem::TimeExceeded, v, &about, usize::MAX));
            b.lan_sends(&error, &Want::pass(&error));
            // A pod's, about something it never got.
            let mut about = Packet::new(SERVER.ip(v), RED.ip(v), udp(53, 9));
            about.l4 = udp(54, 9);
            let error = from_pod(RED, SERVER.ip(v), quoting(Problem::PortUnreachable, v, &about, usize::MAX));
            b.pod_sends(RED, &error, &Want::drop(DropReason::IcmpUnrelated));
        }
        // Sent to another address than the one the quoted packet came from.
        let error = from_lan(ROUTER.ip(v), HOST2.ip(v), quoting(Problem::TimeExceeded, v, &left, usize::MAX));
        b.lan_sends(&error, &Want::pass(&error));
    }
);

both!(
    fn a_pod_cannot_forge_an_error_about_anothers_flow(b, v) {
        // Red has a flow to a server; blue says that it got the server's answer, and could not use it.
        let (_, got) = answered(b, v);
        for problem in PROBLEMS {
            let forged = from_pod(BLUE, SERVER.ip(v), quoting(problem, v, &got, usize::MAX));
            b.pod_sends(BLUE, &forged, &Want::drop(DropReason::IcmpUnrelated));
        }
    }
);

both!(
    fn a_quote_too_short_to_name_a_flow_is_the_hosts(b, v) {
        let (_, left, _) = masqueraded(b, v, udp(1000, 53));
        let enough = if v == V4 { 28 } else { 48 };
        for length in 0..enough {
            let error = from_lan(ROUTER.ip(v), HOST.ip(v), quoting(Problem::TimeExceeded, v, &left, length));
            b.lan_sends(&error, &Want::pass(&error));
        }
        // A later piece's quote names none either.
        let [_, later] = left.clone().in_two(3, 8);
        let error = from_lan(ROUTER.ip(v), HOST.ip(v), quoting(Problem::TimeExceeded, v, &later, usize::MAX));
        b.lan_sends(&error, &Want::pass(&error));
    }
);

both!(
    fn the_wrong_end_of_a_flow_gets_no_error(b, v) {
        // An error about what the server sent, coming from the server's side, is about no packet of ours.
        let (answer, _) = answered(b, v);
        let error = from_lan(ROUTER.ip(v), SERVER.ip(v), quoting(Problem::TimeExceeded, v, &answer, usize::MAX));
        b.lan_sends(&error, &Want::pass(&error));
    }
);

both!(
    fn an_error_on_its_last_hop_ends_here(b, v) {
        let (_, left, _) = masqueraded(b, v, udp(1000, 53));
        let about = quoting(Problem::TimeExceeded, v, &left, usize::MAX);
        let error = from_lan(ROUTER.ip(v), HOST.ip(v), about).hops(1);
        b.lan_sends(&error, &Want::drop(DropReason::HopLimit));
        // The same for a pod's.
        let (_, got, ..) = published(b, v, udp(40_000, 5353));
        let error = from_pod(BLUE, CLIENT.ip(v), quoting(Problem::PortUnreachable, v, &got, usize::MAX)).hops(1);
        b.pod_sends(BLUE, &error, &Want::drop(DropReason::HopLimit));
    }
);

both!(
    fn an_error_for_a_pod_that_is_gone_is_counted(b, v) {
        let (_, left, _) = masqueraded(b, v, udp(1000, 53));
        b.remove(RED);
        let error = from_lan(ROUTER.ip(v), HOST.ip(v), quoting(Problem::TimeExceeded, v, &left, usize::MAX));
        b.lan_sends(&error, &Want::drop(DropReason::BackendGone));
    }
);
