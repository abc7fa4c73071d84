//! What the RFCs ask of a NAT and no other test shows; the sheet in netns-ebpf-common's docs names each.

mod common;
#[macro_use]
mod prog;

use std::time::Duration;

use netns::datapath::Hook;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::flows::{masqueraded, pair};
use prog::*;

/// When each direction of the only flow was last seen: the opener's, the other's.
fn seen(b: &Bench) -> [u64; 2] {
    let flows = b.datapath().flows().expect("flows");
    assert_eq!(flows.len(), 2, "{flows:#?}");
    [true, false].map(|original| flows.iter().find(|f| f.original == original).expect("an entry").last_seen_ns)
}

/// Longer than a tick of the clock flows are stamped with.
const A_WHILE: Duration = Duration::from_millis(1);

fn reply_of(left: &Packet, l4: L4) -> Packet {
    from_lan(left.dst, left.src, l4)
}

both!(
    fn rfc4787_req_6_each_direction_refreshes_the_mapping(b, v) {
        let (sent, left) = masqueraded(v, SERVER, udp(21_000, 53), 21_000);
        let flow = pair(b, &sent, &left);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
        let [opened, _] = seen(b);
        b.wait(A_WHILE);
        b.pod_sends(RED, &sent, &Want::neigh(&left));
        let [refreshed, other] = seen(b);
        assert!(refreshed > opened, "a pod's packet refreshes the flow");
        b.wait(A_WHILE);
        let reply = reply_of(&left, udp(53, 21_000));
        let got = reply.translated((SERVER.ip(v), 53), (RED.ip(v), 21_000)).delivered(RED);
        b.lan_sends(&reply, &Want::peer(RED, &got).flows([&flow.state(State::Established)]));
        let [pods, lans] = seen(b);
        assert!(lans > other && pods == refreshed, "the answer has a clock of its own");
    }
);

both!(
    fn rfc5508_req_6_an_error_refreshes_nothing(b, v) {
        for l4 in [udp(21_000, 53), tcp(21_000, 80, flag::SYN), echo(true, 21_000)] {
            b.datapath().delete_flows(|_| true).expect("delete");
            let (sent, left) = masqueraded(v, SERVER, l4.clone(), 21_000);
            let flow = pair(b, &sent, &left);
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
            let answer = match l4 {
                L4::Udp { .. } => udp(53, 21_000),
                L4::Tcp { .. } => tcp(80, 21_000, flag::SYN | flag::ACK),
                _ => echo(false, 21_000),
            };
            let reply = reply_of(&left, answer);
            let got = Packet { dst: RED.ip(v), ..reply.clone() }.delivered(RED);
            let state = if sent.proto() == 6 { State::Answered } else { State::Established };
            b.lan_sends(&reply, &Want::peer(RED, &got).flows([&flow.state(state)]));
            let before = seen(b);
            b.wait(A_WHILE);
            for problem in [Problem::PortUnreachable, Problem::HostUnreachable, Problem::TimeExceeded, Problem::TooBig(1300)] {
                let error = from_lan(ROUTER.ip(v), HOST.ip(v), problem.quoting(v, &left.ip_bytes()));
                let mut told = error.clone();
                (told.dst, told.l4) = (RED.ip(v), problem.quoting(v, &sent.sent_on().ip_bytes()));
                b.lan_sends(&error, &Want::peer(RED, &told.delivered(RED)));
                let error = from_pod(RED, SERVER.ip(v), problem.quoting(v, &got.ip_bytes()));
                let mut told = error.clone();
                (told.src, told.l4) = (HOST.ip(v), problem.quoting(v, &Packet { hop_limit: 63, ..reply.clone() }.ip_bytes()));
                b.pod_sends(RED, &error, &Want::neigh(&told.sent_on()));
            }
            assert_eq!(seen(b), before, "errors about protocol {}", sent.proto());
        }
    }
);

both!(
    fn rfc4787_req_8_a_mapping_lets_in_whom_the_pod_talks_to_and_nobody_else(b, v) {
        let (sent, left) = masqueraded(v, SERVER, udp(21_000, 53), 21_000);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&pair(b, &sent, &left)]));
        for (who, port) in [(SERVER2, 53), (CLIENT, 53), (SERVER, 54)] {
            // It is the host's, which has no such socket.
            let stranger = from_lan(who.ip(v), HOST.ip(v), udp(port, 21_000));
            b.lan_sends(&stranger, &Want::pass(&stranger));
        }
        let stranger = from_lan(SERVER.ip(v), HOST2.ip(v), udp(53, 21_000));
        b.lan_sends(&stranger, &Want::pass(&stranger));
    }
);

both!(
    fn rfc5382_req_2_both_ends_may_open_at_once(b, v) {
        let segment = |ports: (u16, u16), seq: u32, ack: u32, flags: u8| L4::Tcp {
            sport: ports.0,
            dport: ports.1,
            seq,
            ack,
            flags,
            window: 512,
            payload: Vec::new(),
        };
        let (sent, left) = masqueraded(v, SERVER, segment((21_000, 80), 100, 0, flag::SYN), 21_000);
        let flow = pair(b, &sent, &left);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
        let pod = |seq, ack, flags, state| {
            let (sent, left) = masqueraded(v, SERVER, segment((21_000, 80), seq, ack, flags), 21_000);
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow.state(state)]));
        };
        let server = |seq, ack, flags, state| {
            let wire = reply_of(&left, segment((80, 21_000), seq, ack, flags));
            let got = Packet { dst: RED.ip(v), ..wire.clone() }.delivered(RED);
            b.lan_sends(&wire, &Want::peer(RED, &got).flows([&flow.state(state)]));
        };
        // RFC 9293 section 3.5, figure 7: the SYNs cross, and each is answered.
        server(900, 0, flag::SYN, State::Opening);
        pod(100, 901, flag::SYN | flag::ACK, State::Opening);
        server(900, 101, flag::SYN | flag::ACK, State::Established);
        pod(101, 901, flag::ACK, State::Established);
        // Closed by both at once, too (figure 13).
        pod(101, 901, flag::FIN | flag::ACK, State::OriginalFin);
        server(901, 101, flag::FIN | flag::ACK, State::Closed);
        pod(102, 902, flag::ACK, State::Closed);
        server(902, 102, flag::ACK, State::Closed);
    }
);

both!(
    fn rfc5382_req_4_an_unsolicited_syn_is_left_to_the_host(b, v) {
        // With and without a mapping of that port towards somebody else.
        let (sent, left) = masqueraded(v, SERVER, tcp(21_000, 80, flag::SYN), 21_000);
        let flow = pair(b, &sent, &left);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
        for port in [21_000, 21_001, 1] {
            let syn = from_lan(SERVER2.ip(v), HOST.ip(v), tcp(80, port, flag::SYN));
            b.lan_sends(&syn, &Want::pass(&syn));
        }
        // A pod that then opens this very connection gets it.
        let (sent, left) = masqueraded(v, SERVER2, tcp(21_001, 80, flag::SYN), 21_001);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow, &pair(b, &sent, &left)]));
    }
);

both!(
    fn rfc5382_req_5_each_state_has_its_timer(b, v) {
        const SHORT: u64 = 1_000_000;
        const LONG: u64 = 3_600_000_000_000;
        let long_idle = Duration::from_millis(20);
        let (open, opened) = masqueraded(v, SERVER, tcp(21_000, 80, flag::SYN), 21_000);
        let (ack, acked) = masqueraded(v, SERVER, tcp(21_000, 80, flag::ACK), 21_000);
        let flow = pair(b, &open, &opened);
        let server = |flags, state| {
            let wire = reply_of(&opened, tcp(80, 21_000, flags));
            let got = Packet { dst: RED.ip(v), ..wire.clone() }.delivered(RED);
            b.lan_sends(&wire, &Want::peer(RED, &got).flows([&flow.state(state)]));
        };
        b.configure(|c| c.timeout_ns = [SHORT, LONG, LONG, LONG]);
        // While it opens: the transitory one.
        b.pod_sends(RED, &open, &Want::neigh(&opened).flows([&flow]));
        b.wait(long_idle);
        b.pod_sends(RED, &ack, &Want::drop(DropReason::NoFlow).flows([]));
        // Open, and half closed: the long one.
        b.configure(|c| c.timeout_ns = [LONG, LONG, LONG, LONG]);
        b.pod_sends(RED, &open, &Want::neigh(&opened).flows([&flow]));
        server(flag::SYN | flag::ACK, State::Answered);
        b.pod_sends(RED, &ack, &Want::neigh(&acked).flows([&flow.state(State::Established)]));
        b.configure(|c| c.timeout_ns = [SHORT, LONG, SHORT, SHORT]);
        b.wait(long_idle);
        server(flag::ACK, State::Assured);
        b.wait(long_idle);
        server(flag::FIN | flag::ACK, State::ReplyFin);
        b.wait(long_idle);
        let (fin, finished) = masqueraded(v, SERVER, tcp(21_000, 80, flag::FIN | flag::ACK), 21_000);
        b.pod_sends(RED, &fin, &Want::neigh(&finished).flows([&flow.state(State::Closed)]));
        // Closed: the transitory one again.
        b.wait(long_idle);
        b.pod_sends(RED, &ack, &Want::drop(DropReason::NoFlow).flows([]));
    }
);

both!(
    fn rfc7857_2_2_a_reset_flow_still_translates(b, v) {
        let (open, opened) = masqueraded(v, SERVER, tcp(21_000, 80, flag::SYN), 21_000);
        let flow = pair(b, &open, &opened);
        b.pod_sends(RED, &open, &Want::neigh(&opened).flows([&flow]));
        let reset = reply_of(&opened, tcp(80, 21_000, flag::RST | flag::ACK));
        let got = Packet { dst: RED.ip(v), ..reset.clone() }.delivered(RED);
        let flow = flow.state(State::Reset);
        b.lan_sends(&reset, &Want::peer(RED, &got).flows([&flow]));
        // Again, and the pod's own.
        b.lan_sends(&reset, &Want::peer(RED, &got).flows([&flow]));
        let (own, left) = masqueraded(v, SERVER, tcp(21_000, 80, flag::RST), 21_000);
        b.pod_sends(RED, &own, &Want::neigh(&left).flows([&flow]));
    }
);

both!(
    fn rfc7857_5_tcp_and_udp_are_mapped_apart(b, v) {
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (21_000, 21_000));
        let mut pairs = Vec::new();
        for l4 in [udp(1000, 53), tcp(1000, 53, flag::SYN), echo(true, 1000)] {
            let (sent, left) = masqueraded(v, SERVER, l4, 21_000);
            pairs.push(pair(b, &sent, &left));
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows(&pairs));
        }
        let reply = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 21_000));
        let got = reply.translated((SERVER.ip(v), 53), (RED.ip(v), 1000)).delivered(RED);
        pairs[0] = pairs[0].state(State::Established);
        b.lan_sends(&reply, &Want::peer(RED, &got).flows(&pairs));
    }
);

both!(
    fn rfc5508_req_3_an_errors_extensions_stay(b, v) {
        // RFC 4884: the quote, zero up to 128 bytes, its length in the header, and an extension (RFC 4950, an MPLS label).
        let (sent, left) = masqueraded(v, SERVER, udp(1000, 53), 20_000);
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_000));
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&pair(b, &sent, &left)]));
        let extended = |about: &Packet| {
            let L4::Icmp { kind, code, mut rest, mut body } = Problem::TimeExceeded.quoting(v, &about.ip_bytes()) else {
                panic!("an error")
            };
            body.resize(128, 0);
            body.extend([0x20, 0, 0xab, 0xcd, 0, 8, 1, 1, 0, 1, 0x41, 0xff]);
            // In 4 bytes' words for IPv4, in 8 bytes' for IPv6.
            if v == V4 { rest[1] = 32 } else { rest[0] = 16 }
            L4::Icmp { kind, code, rest, body }
        };
        let error = from_lan(ROUTER.ip(v), HOST.ip(v), extended(&left));
        let mut got = error.clone();
        (got.dst, got.l4) = (RED.ip(v), extended(&sent.sent_on()));
        b.lan_sends(&error, &Want::peer(RED, &got.delivered(RED)));
    }
);

both!(
    fn rfc5508_req_3_a_wrong_checksum_stays_wrong(b, v) {
        // Of the error itself: whoever gets it drops it. Of the quoted transport: nobody looks.
        let (sent, left) = masqueraded(v, SERVER, udp(21_000, 53), 21_000);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&pair(b, &sent, &left)]));
        let error = from_lan(ROUTER.ip(v), HOST.ip(v), Problem::TimeExceeded.quoting(v, &left.ip_bytes()));
        let mut got = error.clone();
        (got.dst, got.l4) = (RED.ip(v), Problem::TimeExceeded.quoting(v, &sent.sent_on().ip_bytes()));
        let icmp_at = if v == V4 { 34 } else { 54 };
        let (mut wrong, mut passed) = (error.bytes(), got.delivered(RED).bytes());
        // The last byte of the payload that both quote, without its checksum.
        for frame in [&mut wrong, &mut passed] {
            let last = frame.len() - 1;
            frame[last] ^= 0x10;
        }
        let meta = Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() };
        let out = b.run(Hook::FromUplink, meta, &wrong);
        assert_eq!((out.action, out.frame), (7, passed.clone()));
        assert_ne!(Packet::read(&passed).bytes()[icmp_at + 2..icmp_at + 4], passed[icmp_at + 2..icmp_at + 4]);
    }
);
