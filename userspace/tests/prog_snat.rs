//! Pods and the LAN: source translation, replies, what leaves untranslated, and what does not leave at all.

mod common;
#[macro_use]
mod prog;

use std::time::Duration;

use netns::datapath::Hook;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::flows::{masqueraded, pair};
use prog::*;

both!(
    fn a_port_in_the_range_is_kept_and_replies_come_back(b, v) {
        let rows = [
            (udp(20_000, 53), udp(53, 20_000), udp(53, 20_000)),
            (udp(32_767, 53), udp(53, 32_767), udp(53, 32_767)),
            (echo(true, 25_000), echo(false, 25_000), echo(false, 25_000)),
        ];
        let mut pairs = Vec::new();
        for (ask, wire_reply, pod_reply) in rows {
            let (port, _) = ask.ports();
            let (sent, left) = masqueraded(v, SERVER, ask, port);
            let flow = pair(b, &sent, &left);
            pairs.push(flow);
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows(&pairs));
            // A second packet before any reply: nothing new.
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows(&pairs));
            let reply = from_lan(SERVER.ip(v), HOST.ip(v), wire_reply).hops(57);
            let mut got = reply.clone();
            (got.dst, got.l4) = (RED.ip(v), pod_reply);
            *pairs.last_mut().expect("one") = flow.state(State::Established);
            b.lan_sends(&reply, &Want::peer(RED, &got.delivered(RED)).flows(&pairs));
        }
    }
);

both!(
    fn a_connection_from_handshake_to_its_end(b, v) {
        let (open, left) = masqueraded(v, SERVER, tcp(21_000, 80, flag::SYN), 21_000);
        let flow = pair(b, &open, &left);
        b.pod_sends(RED, &open, &Want::neigh(&left).flows([&flow]));
        let step = |from_server: bool, flags: u8, state: State| {
            let flow = flow.state(state);
            if from_server {
                let wire = from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, 21_000, flags));
                let mut got = wire.clone();
                got.dst = RED.ip(v);
                b.lan_sends(&wire, &Want::peer(RED, &got.delivered(RED)).flows([&flow]));
            } else {
                let (sent, left) = masqueraded(v, SERVER, tcp(21_000, 80, flags), 21_000);
                b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
            }
        };
        step(false, flag::SYN, State::Opening);
        step(true, flag::SYN | flag::ACK, State::Answered);
        step(false, flag::ACK, State::Established);
        step(true, flag::ACK, State::Assured);
        step(false, flag::ACK, State::Assured);
        step(false, flag::ACK | flag::FIN, State::OriginalFin);
        step(true, flag::ACK, State::OriginalFin);
        step(true, flag::ACK | flag::FIN, State::Closed);
        step(false, flag::ACK, State::Closed);
        // A new connection from the same port starts anew.
        step(false, flag::SYN, State::Opening);
        step(true, flag::SYN | flag::ACK, State::Answered);
        step(false, flag::ACK, State::Established);
        step(true, flag::ACK | flag::FIN, State::ReplyFin);
        step(false, flag::ACK | flag::FIN, State::Closed);
    }
);

both!(
    fn an_established_connection_is_not_restarted_by_a_syn(b, v) {
        let (open, left) = masqueraded(v, SERVER, tcp(21_000, 80, flag::SYN), 21_000);
        let flow = pair(b, &open, &left);
        b.pod_sends(RED, &open, &Want::neigh(&left).flows([&flow]));
        let reply = from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, 21_000, flag::SYN | flag::ACK));
        let mut got = reply.clone();
        got.dst = RED.ip(v);
        b.lan_sends(&reply, &Want::peer(RED, &got.delivered(RED)).flows([&flow.state(State::Answered)]));
        let (ack, acked) = masqueraded(v, SERVER, tcp(21_000, 80, flag::ACK), 21_000);
        let flow = flow.state(State::Established);
        b.pod_sends(RED, &ack, &Want::neigh(&acked).flows([&flow]));
        b.pod_sends(RED, &open, &Want::neigh(&left).flows([&flow]));
    }
);

both!(
    fn a_syn_from_the_side_that_did_not_open_restarts_nothing(b, v) {
        let (open, left) = masqueraded(v, SERVER, tcp(21_000, 80, flag::SYN), 21_000);
        let flow = pair(b, &open, &left);
        b.pod_sends(RED, &open, &Want::neigh(&left).flows([&flow]));
        let from_server = |flags: u8, state: State| {
            let wire = from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, 21_000, flags));
            let mut got = wire.clone();
            got.dst = RED.ip(v);
            b.lan_sends(&wire, &Want::peer(RED, &got.delivered(RED)).flows([&flow.state(state)]));
        };
        let from_red = |flags: u8, state: State| {
            let (sent, left) = masqueraded(v, SERVER, tcp(21_000, 80, flags), 21_000);
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow.state(state)]));
        };
        from_server(flag::SYN | flag::ACK, State::Answered);
        from_red(flag::ACK, State::Established);
        from_red(flag::ACK | flag::FIN, State::OriginalFin);
        // The server's is red's to judge, in whatever state the connection is: the flow stays what it is.
        from_server(flag::SYN, State::OriginalFin);
        from_server(flag::ACK | flag::FIN, State::Closed);
        from_server(flag::SYN, State::Closed);
        from_red(flag::ACK, State::Closed);
    }
);

both!(
    fn the_middle_of_a_connection_nobody_knows_is_dropped(b, v) {
        for flags in [flag::ACK, flag::RST, flag::RST | flag::ACK, flag::FIN | flag::ACK, flag::SYN | flag::ACK] {
            let sent = from_pod(RED, SERVER.ip(v), tcp(21_000, 80, flags));
            b.pod_sends(RED, &sent, &Want::drop(DropReason::NoFlow));
        }
        let sent = from_pod(RED, SERVER.ip(v), echo(false, 7));
        b.pod_sends(RED, &sent, &Want::drop(DropReason::NoFlow));
    }
);

both!(
    fn protocols_without_ports_do_not_leave(b, v) {
        for proto in [2, 47, 50, 136, 255] {
            let sent = from_pod(RED, SERVER.ip(v), L4::Raw { proto, bytes: vec![0x5a; 32] });
            b.pod_sends(RED, &sent, &Want::drop(DropReason::UnknownProtocol));
        }
        // Other ICMP than echo and errors (a timestamp, a node information query), and the other family's.
        let kind = if v == V4 { 13 } else { 139 };
        let sent = from_pod(RED, SERVER.ip(v), L4::Icmp { kind, code: 0, rest: [0; 4], body: vec![0; 12] });
        b.pod_sends(RED, &sent, &Want::drop(DropReason::UnknownProtocol));
        let proto = if v == V4 { 58 } else { 1 };
        let sent = from_pod(RED, SERVER.ip(v), L4::Raw { proto, bytes: vec![8, 0, 0, 0, 0, 7, 0, 1] });
        b.pod_sends(RED, &sent, &Want::drop(DropReason::UnknownProtocol));
    }
);

both!(
    fn udp_without_a_checksum_stays_without(b, v) {
        if v == V6 {
            // RFC 8200 section 8.1 forbids it, and the pod's peer will say so: the program makes none up.
            let bare = L4::Udp { sport: 20_000, dport: 53, checksum: false, payload: vec![1, 2, 3] };
            let (sent, left) = masqueraded(v, SERVER, bare, 20_000);
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&pair(b, &sent, &left)]));
            return;
        }
        let bare = |sport, dport| L4::Udp { sport, dport, checksum: false, payload: vec![1, 2, 3] };
        let (sent, left) = masqueraded(v, SERVER, bare(20_000, 53), 20_000);
        let flow = pair(b, &sent, &left);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
        let reply = from_lan(SERVER.ip(v), HOST.ip(v), bare(53, 20_000));
        let got = reply.translated((SERVER.ip(v), 53), (RED.ip(v), 20_000)).delivered(RED);
        b.lan_sends(&reply, &Want::peer(RED, &got).flows([&flow.state(State::Established)]));
    }
);

both!(
    fn checksums_hold_for_every_payload(b, v) {
        // Payloads that walk the checksum through all its high bytes, 0x0000 and 0xffff included for UDP.
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (30_000, 30_000));
        let probe = |word: u16| {
            let payload = word.to_be_bytes().to_vec();
            masqueraded(v, SERVER, L4::Udp { sport: 30_000, dport: 53, checksum: true, payload }, 30_000)
        };
        let (sent, left) = probe(0);
        let flow = pair(b, &sent, &left);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
        let checksum_of = |p: &Packet| {
            let l4 = p.l4.bytes(p.src, p.dst);
            u16::from_be_bytes([l4[6], l4[7]])
        };
        // The payload words for which the checksum before, and after, would be 0 and is sent as 0xffff.
        let zeros: Vec<u16> = (0..=u16::MAX)
            .filter(|w| {
                let (sent, left) = probe(*w);
                checksum_of(&sent) == 0xffff || checksum_of(&left) == 0xffff
            })
            .collect();
        assert!(zeros.len() >= 2, "{zeros:?}");
        for word in zeros.into_iter().chain((0..64).map(|i| i * 1021)) {
            let (sent, left) = probe(word);
            b.pod_sends(RED, &sent, &Want::neigh(&left));
        }
    }
);

both!(
    fn pieces_follow_their_first_one(b, v) {
        let ask = from_pod(RED, SERVER.ip(v), udp(20_000, 53).with_payload(64));
        let left = ask.translated((HOST.ip(v), 20_000), (SERVER.ip(v), 53)).sent_on();
        let flow = pair(b, &ask, &left);
        let ([first, later], [first_left, later_left]) = (ask.in_two(7, 32), left.in_two(7, 32));
        b.pod_sends(RED, &first, &Want::neigh(&first_left).flows([&flow]));
        b.pod_sends(RED, &later, &Want::neigh(&later_left).flows([&flow]));
        // Another datagram's piece is not this one's.
        let [_, other] = ask.in_two(8, 32);
        b.pod_sends(RED, &other, &Want::held());
        // The answer, in two as well.
        let answer = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000).with_payload(64));
        let got = answer.translated((SERVER.ip(v), 53), (RED.ip(v), 20_000)).delivered(RED);
        let flow = flow.state(State::Established);
        let ([first, later], [first_got, later_got]) = (answer.in_two(9, 32), got.in_two(9, 32));
        b.lan_sends(&first, &Want::peer(RED, &first_got).flows([&flow]));
        b.lan_sends(&later, &Want::peer(RED, &later_got));
    }
);

both!(
    fn exceptions_leave_untranslated(b, v) {
        for (l4, back) in [(udp(1000, 53), udp(53, 1000)), (echo(true, 7), echo(false, 7))] {
            b.datapath().delete_flows(|_| true).expect("delete");
            let sent = from_pod(RED, KEPT.ip(v), l4);
            let flow = pair(b, &sent, &sent);
            b.pod_sends(RED, &sent, &Want::neigh(&sent.sent_on()).flows([&flow]));
            let reply = from_lan(KEPT.ip(v), RED.ip(v), back);
            let want = Want::peer(RED, &reply.delivered(RED)).flows([&flow.state(State::Established)]);
            b.lan_sends(&reply, &want);
        }
    }
);

both!(
    fn a_network_that_does_not_masquerade_keeps_its_addresses(b, v) {
        let sent = from_pod(YELLOW, SERVER.ip(v), tcp(1000, 80, flag::SYN));
        let flow =
            Pair::new(2, &sent, 0, &sent, Target::Uplink(b.uplink), Target::Slot(YELLOW.slot)).owned(YELLOW.slot);
        b.pod_sends(YELLOW, &sent, &Want::neigh(&sent.sent_on()).flows([&flow]));
        let reply = from_lan(SERVER.ip(v), YELLOW.ip(v), tcp(80, 1000, flag::SYN | flag::ACK));
        let want = Want::peer(YELLOW, &reply.delivered(YELLOW)).flows([&flow.state(State::Answered)]);
        b.lan_sends(&reply, &want);
    }
);

both!(
    fn where_no_route_leads_the_pod_is_told(b, v) {
        for dst in [NOWHERE, SIDE, YELLOW.at] {
            println!("{}", dst.ip(v));
            let sent = from_pod(RED, dst.ip(v), udp(20_000, 53));
            let error = originated(Problem::NetUnreachable, GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
            b.pod_sends(RED, &sent, &Want::reject_to(RED, DropReason::NoRoute, &error));
        }
    }
);

both!(
    fn an_uplink_without_an_address_translates_nothing(b, v) {
        let sent = from_pod(RED, BARE_SIDE.ip(v), udp(20_000, 53));
        b.pod_sends(RED, &sent, &Want::drop(DropReason::NoUplinkAddress));
        // What keeps its address needs none.
        let sent = from_pod(YELLOW, BARE_SIDE.ip(v), udp(20_000, 53));
        let flow = Pair::new(2, &sent, 0, &sent, Target::Uplink(b.bare), Target::Slot(YELLOW.slot)).owned(YELLOW.slot);
        b.pod_sends(YELLOW, &sent, &Want::neigh(&sent.sent_on()).flows([&flow]));
    }
);

both!(
    fn the_way_out_has_hops_and_an_mtu_too(b, v) {
        b.set_uplink_mtu(1280);
        let header = if v == V4 { 28 } else { 48 };
        let macs = (RED.mac, RED.gateway_mac());
        // Before there is a flow, and in one.
        for _ in 0..2 {
            let last = from_pod(RED, SERVER.ip(v), udp(20_000, 53)).hops(1);
            let error = originated(Problem::TimeExceeded, GATEWAY.ip(v), &last, macs);
            b.pod_sends(RED, &last, &Want::reject_to(RED, DropReason::HopLimit, &error));
            let big = from_pod(RED, SERVER.ip(v), udp(20_000, 53).with_payload(1281 - header));
            let error = originated(Problem::TooBig(1280), GATEWAY.ip(v), &big, macs);
            b.pod_sends(RED, &big, &Want::reject_to(RED, DropReason::TooBig, &error));
            let (sent, left) = masqueraded(v, SERVER, udp(20_000, 53).with_payload(1280 - header), 20_000);
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&pair(b, &sent, &left)]));
        }
    }
);

both!(
    fn a_server_is_told_of_hops_and_mtu_too(b, v) {
        let header = if v == V4 { 28 } else { 48 };
        let (sent, left) = masqueraded(v, SERVER, udp(20_000, 53), 20_000);
        let flow = pair(b, &sent, &left);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
        let flow = flow.state(State::Established);
        let macs = (prog::ROUTER_MAC, prog::UPLINK_MAC);
        let last = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000)).hops(1);
        let error = originated(Problem::TimeExceeded, HOST.ip(v), &last, macs);
        b.lan_sends(&last, &Want::reject(DropReason::HopLimit, &error).rx_dropped(RED).flows([&flow]));
        let big = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000).with_payload(POD_MTU as usize + 1 - header));
        let error = originated(Problem::TooBig(POD_MTU), HOST.ip(v), &big, macs);
        b.lan_sends(&big, &Want::reject(DropReason::TooBig, &error).rx_dropped(RED));
        let fits = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000).with_payload(POD_MTU as usize - header));
        let got = fits.translated((SERVER.ip(v), 53), (RED.ip(v), 20_000)).delivered(RED);
        b.lan_sends(&fits, &Want::peer(RED, &got));
    }
);

both!(
    fn gso_leaves_whole(b, v) {
        let headers = if v == V4 { 40 } else { 60 };
        let (open, left) = masqueraded(v, SERVER, tcp(21_000, 80, flag::SYN), 21_000);
        b.pod_sends(RED, &open, &Want::neigh(&left).flows([&pair(b, &open, &left)]));
        let (sent, left) = masqueraded(v, SERVER, tcp(21_000, 80, flag::ACK).with_payload(3000), 21_000);
        let meta = |gso_size| Meta { ifindex: RED.ifindex(), gso_size, ..Meta::default() };
        b.expect(Hook::FromPod, meta(UPLINK_MTU - headers), &sent.bytes(), &Want::neigh(&left));
        let error = originated(Problem::TooBig(UPLINK_MTU), GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
        let want = Want::reject_to(RED, DropReason::TooBig, &error);
        b.expect(Hook::FromPod, meta(UPLINK_MTU - headers + 1), &sent.bytes(), &want);
    }
);

both!(
    fn a_flow_whose_time_is_over_counts_as_absent(b, v) {
        let (open, left) = masqueraded(v, SERVER, tcp(21_000, 80, flag::SYN), 21_000);
        b.pod_sends(RED, &open, &Want::neigh(&left).flows([&pair(b, &open, &left)]));
        b.configure(|c| c.timeout_ns = [1_000_000; 4]);
        b.wait(Duration::from_millis(20));
        // Its entries are cleared away by the packet that finds them old.
        let (ack, _) = masqueraded(v, SERVER, tcp(21_000, 80, flag::ACK), 21_000);
        b.pod_sends(RED, &ack, &Want::drop(DropReason::NoFlow).flows([]));
        // A reply to one that is over is the host's.
        b.pod_sends(RED, &open, &Want::neigh(&left).flows([&pair(b, &open, &left)]));
        b.wait(Duration::from_millis(20));
        let reply = from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, 21_000, flag::SYN | flag::ACK));
        b.lan_sends(&reply, &Want::pass(&reply).flows([]));
        // And its port is free again, though nothing swept it.
        b.configure(|c| {
            (c.snat_port_min, c.snat_port_max) = (21_000, 21_000);
            c.timeout_ns = [1_000_000; 4];
        });
        b.pod_sends(RED, &open, &Want::neigh(&left).flows([&pair(b, &open, &left)]));
        b.wait(Duration::from_millis(20));
        let blue = from_pod(BLUE, SERVER.ip(v), tcp(21_000, 80, flag::SYN));
        let blue_left = blue.translated((HOST.ip(v), 21_000), (SERVER.ip(v), 80)).sent_on();
        let blue_pair =
            Pair::new(1, &blue, 0, &blue_left, Target::Uplink(b.uplink), Target::Slot(BLUE.slot)).owned(BLUE.slot);
        b.pod_sends(BLUE, &blue, &Want::neigh(&blue_left).flows([&blue_pair]));
    }
);
