//! Bugs that others' programs of this kind have had, each with the packet that showed it.

mod common;
#[macro_use]
mod prog;

use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::flows::{masqueraded, pair};
use prog::*;

both!(
    /// CVE-2025-67499 of CNI's portmap: whatever had a forwarded port was forwarded, whomever it was for.
    fn a_forward_catches_nothing_that_is_for_somebody_else(b, v) {
        // 8080 TCP is published at the host's first address, 5353 UDP at all of them.
        let ports = [tcp(21_000, 8080, flag::SYN), udp(21_000, 5353)];
        for l4 in ports.clone() {
            let sent = from_pod(RED, GREEN.ip(v), l4.clone());
            b.pod_sends(RED, &sent, &Want::peer(GREEN, &sent.delivered(GREEN)));
            let sent = from_host(1, GATEWAY.ip(v), GREEN.ip(v), l4.clone());
            let mut got = sent.clone();
            (got.eth_dst, got.eth_src) = (GREEN.mac, GREEN.gateway_mac());
            b.host_sends(1, &sent, &Want::out_to(GREEN, &got));
            for dst in [SERVER, CLIENT] {
                b.datapath().delete_flows(|_| true).expect("delete");
                let (sent, left) = masqueraded(v, dst, l4.clone(), 21_000);
                b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&pair(b, &sent, &left)]));
            }
            b.datapath().delete_flows(|_| true).expect("delete");
            // In transit through a host that forwards.
            let sent = from_lan(CLIENT.ip(v), SERVER.ip(v), l4);
            b.lan_sends(&sent, &Want::pass(&sent));
        }
        let [tcp, _] = ports;
        let sent = from_pod(RED, HOST2.ip(v), tcp);
        b.pod_sends(RED, &sent, &Want::host(&sent));
    }
);

both!(
    /// Cilium took a piece shorter than an ICMP header for a broken header.
    fn the_smallest_last_pieces_follow_their_first(b, v) {
        for (i, last) in (1..=8_usize).enumerate() {
            let id = 100 + i as u16;
            for l4 in [udp(21_000, 53), echo(true, 21_000)] {
                // The transport has 8 bytes before its payload, so the first piece has 40.
                let l4 = l4.with_payload(32 + last);
                let between = from_pod(RED, BLUE.ip(v), l4.clone());
                for piece in between.in_two(id, 40) {
                    b.pod_sends(RED, &piece, &Want::peer(BLUE, &piece.delivered(BLUE)));
                }
                b.datapath().delete_flows(|_| true).expect("delete");
                let (sent, left) = masqueraded(v, SERVER, l4, 21_000);
                let flow = pair(b, &sent, &left);
                for (piece, piece_left) in sent.in_two(id, 40).iter().zip(left.in_two(id, 40)) {
                    b.pod_sends(RED, piece, &Want::neigh(&piece_left).flows([&flow]));
                }
            }
            b.datapath().delete_flows(|_| true).expect("delete");
            let sent = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 5353).with_payload(32 + last));
            let got = sent.translated((CLIENT.ip(v), 40_000), (BLUE.ip(v), 53)).delivered(BLUE);
            let flow = Pair::new(0, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Uplink(b.uplink))
                .owned(BLUE.slot)
                .published(DNS);
            let ([first, later], [first_got, later_got]) = (sent.in_two(id, 40), got.in_two(id, 40));
            b.lan_sends(&first, &Want::peer(BLUE, &first_got).publish_opens(DNS).flows([&flow]));
            b.lan_sends(&later, &Want::peer(BLUE, &later_got).publish(DNS));
        }
    }
);

both!(
    /// "Port shadow" (2021): behind a NAT, one takes the port somebody else's answers come to.
    fn a_pod_gets_no_answer_that_is_anothers(b, v) {
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (21_000, 21_001));
        // Red asks a server; blue, with the same port, asks it as well.
        let (sent, left) = masqueraded(v, SERVER, udp(21_000, 53), 21_000);
        let red = pair(b, &sent, &left);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&red]));
        let sent = from_pod(BLUE, SERVER.ip(v), udp(21_000, 53));
        let left = sent.translated((HOST.ip(v), 21_001), (SERVER.ip(v), 53)).sent_on();
        let blue = Pair::new(1, &sent, 0, &left, Target::Uplink(b.uplink), Target::Slot(BLUE.slot)).owned(BLUE.slot);
        b.pod_sends(BLUE, &sent, &Want::neigh(&left).flows([&red, &blue]));
        for (pod, port) in [(RED, 21_000), (BLUE, 21_001)] {
            let answer = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, port));
            let got = answer.translated((SERVER.ip(v), 53), (pod.ip(v), 21_000)).delivered(pod);
            let flows =
                if pod == RED { [red.state(State::Established), blue] } else { [red, blue].map(|f| f.state(State::Established)) };
            b.lan_sends(&answer, &Want::peer(pod, &got).flows(&flows));
        }
        // What a client asks the host itself, by the very port, is the host's.
        for port in [21_000, 21_001] {
            let asked = from_lan(CLIENT.ip(v), HOST.ip(v), udp(53, port));
            b.lan_sends(&asked, &Want::pass(&asked));
        }
    }
);

both!(
    /// Cilium poisoned new connections by entries of old ones: a late FIN made a flow of its own, and the next SYN a reply.
    fn a_late_fin_makes_no_flow_and_the_next_connection_is_new(b, v) {
        let server = |flags| from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, 21_000, flags));
        let late = server(flag::FIN | flag::ACK);
        b.lan_sends(&late, &Want::pass(&late));
        let (fin, _) = masqueraded(v, SERVER, tcp(21_000, 80, flag::FIN | flag::ACK), 21_000);
        b.pod_sends(RED, &fin, &Want::drop(DropReason::NoFlow));
        let (open, left) = masqueraded(v, SERVER, tcp(21_000, 80, flag::SYN), 21_000);
        let flow = pair(b, &open, &left);
        b.pod_sends(RED, &open, &Want::neigh(&left).flows([&flow]));
        // It is over, both ends are late once more, and the next one begins from the beginning.
        // (Only the reset that answers the SYN ends it: a late one of before acknowledges nothing.)
        for (flags, state) in [(flag::RST, State::Opening), (flag::RST | flag::ACK, State::Reset)] {
            let reset = server(flags);
            let got = Packet { dst: RED.ip(v), ..reset.clone() }.delivered(RED);
            b.lan_sends(&reset, &Want::peer(RED, &got).flows([&flow.state(state)]));
        }
        b.pod_sends(RED, &open, &Want::neigh(&left).flows([&flow.state(State::Opening)]));
        let answer = server(flag::SYN | flag::ACK);
        let got = Packet { dst: RED.ip(v), ..answer.clone() }.delivered(RED);
        b.lan_sends(&answer, &Want::peer(RED, &got).flows([&flow.state(State::Answered)]));
    }
);
