//! Conversations: what one program lets out is what the other side reads, answers, and sends into the next.

mod common;
#[macro_use]
mod prog;

use netns::datapath::Hook;
use netns_ebpf_common::state::State;
use prog::flows::table;
use prog::*;

/// The bench as one side of a conversation after the other sees it.
struct Wire<'a> {
    b: &'a Bench,
}

impl Wire<'_> {
    /// What comes out when a pod sends: read back from the bytes, which must be right to the last checksum.
    #[track_caller]
    fn pod(&self, pod: Pod, sent: &Packet) -> Packet {
        self.run(Hook::FromPod, Meta { ifindex: pod.ifindex(), ..Meta::default() }, sent)
    }

    /// What comes out when a frame comes in from the LAN.
    #[track_caller]
    fn lan(&self, sent: &Packet) -> Packet {
        let uplink = self.b.uplink;
        // The kernel writes the link layer behind the program; what comes back by it is for the uplink.
        let sent = Packet { eth_dst: UPLINK_MAC, eth_src: ROUTER_MAC, ..sent.clone() };
        self.run(Hook::FromUplink, Meta { ifindex: uplink, ingress_ifindex: uplink, ..Meta::default() }, &sent)
    }

    /// What comes out when the host sends to network 1.
    #[track_caller]
    fn host(&self, sent: &Packet) -> Packet {
        self.run(Hook::FromHost, Meta { ifindex: gateway_ifindex(1), ..Meta::default() }, sent)
    }

    #[track_caller]
    fn run(&self, hook: Hook, meta: Meta, sent: &Packet) -> Packet {
        let out = self.b.run(hook, meta, &sent.bytes());
        assert_eq!(out.action, 7, "redirected");
        let read = Packet::read(&out.frame);
        assert_eq!(read.bytes(), out.frame, "lengths and checksums are right");
        read
    }

    #[track_caller]
    fn assert_states(&self, state: State) {
        let table = table(self.b.datapath());
        assert!(!table.is_empty() && table.iter().all(|r| r.state == state), "{state:?}: {table:#?}");
    }
}

/// The answer to a packet: ends swapped, as a socket that got it would send it.
fn answer(to: &Packet, flags: u8) -> Packet {
    let mut p = to.clone();
    (p.src, p.dst) = (to.dst, to.src);
    (p.eth_src, p.eth_dst) = (to.eth_dst, to.eth_src);
    p.hop_limit = 64;
    p.l4 = match &to.l4 {
        L4::Tcp { sport, dport, seq, ack, flags: got, window, payload } => L4::Tcp {
            sport: *dport,
            dport: *sport,
            seq: if *ack == 0 { 5_000_000 } else { *ack },
            ack: seq.wrapping_add(payload.len() as u32).wrapping_add(u32::from(got & (flag::SYN | flag::FIN) != 0)),
            flags,
            window: *window,
            payload: Vec::new(),
        },
        L4::Udp { sport, dport, checksum, payload } => L4::Udp {
            sport: *dport,
            dport: *sport,
            checksum: *checksum,
            payload: [payload, &b", answered"[..]].concat(),
        },
        L4::Echo { id, payload, .. } => L4::Echo { request: false, id: *id, payload: payload.clone() },
        other => panic!("nobody answers {other:?}"),
    };
    p
}

both!(
    fn a_pod_opens_uses_and_closes_a_connection_to_the_lan(b, v) {
        let w = Wire { b };
        // From a port that must change on the way.
        let wire = w.pod(RED, &from_pod(RED, SERVER.ip(v), tcp(1000, 80, flag::SYN)));
        assert_eq!((wire.src, wire.dst), (HOST.ip(v), SERVER.ip(v)));
        assert!(SNAT.contains(&wire.l4.ports().0));
        w.assert_states(State::Opening);
        let mut at_pod = w.lan(&answer(&wire, flag::SYN | flag::ACK));
        assert_eq!((at_pod.src, at_pod.dst, at_pod.l4.ports()), (SERVER.ip(v), RED.ip(v), (80, 1000)));
        w.assert_states(State::Answered);
        for (pod_flags, server_flags, state) in [
            (flag::ACK, flag::ACK, State::Assured),
            (flag::ACK, flag::ACK, State::Assured),
            (flag::ACK | flag::FIN, flag::ACK | flag::FIN, State::Closed),
            (flag::ACK, flag::ACK, State::Closed),
        ] {
            let at_server = w.pod(RED, &answer(&at_pod, pod_flags));
            assert_eq!((at_server.src, at_server.l4.ports()), (HOST.ip(v), wire.l4.ports()));
            at_pod = w.lan(&answer(&at_server, server_flags));
            assert_eq!((at_pod.dst, at_pod.l4.ports()), (RED.ip(v), (80, 1000)));
            w.assert_states(state);
        }
    }
);

both!(
    fn a_pod_asks_and_is_answered(b, v) {
        let w = Wire { b };
        for l4 in [udp(1000, 53), echo(true, 7)] {
            let sent = from_pod(RED, SERVER.ip(v), l4);
            let wire = w.pod(RED, &sent);
            let at_pod = w.lan(&answer(&wire, 0));
            let direct = answer(&sent, 0);
            assert_eq!((at_pod.src, at_pod.dst, &at_pod.l4), (direct.src, direct.dst, &direct.l4));
        }
        w.assert_states(State::Established);
    }
);

both!(
    fn a_client_opens_uses_and_closes_a_connection_to_a_published_port(b, v) {
        let w = Wire { b };
        let mut at_pod = w.lan(&from_lan(CLIENT.ip(v), HOST.ip(v), tcp(40_000, 8080, flag::SYN)));
        for (pod_flags, client_flags, state) in [
            (flag::SYN | flag::ACK, flag::ACK, State::Established),
            (flag::ACK, flag::ACK, State::Assured),
            (flag::ACK | flag::FIN, flag::ACK | flag::FIN, State::Closed),
        ] {
            assert_eq!((at_pod.src, at_pod.dst, at_pod.l4.ports()), (CLIENT.ip(v), BLUE.ip(v), (40_000, 80)));
            let at_client = w.pod(BLUE, &answer(&at_pod, pod_flags));
            assert_eq!((at_client.src, at_client.dst, at_client.l4.ports()), (HOST.ip(v), CLIENT.ip(v), (8080, 40_000)));
            at_pod = w.lan(&answer(&at_client, client_flags));
            w.assert_states(state);
        }
    }
);

both!(
    fn a_pod_reaches_another_through_the_published_port(b, v) {
        let w = Wire { b };
        let mut at_blue = w.pod(RED, &from_pod(RED, HOST.ip(v), tcp(1000, 8080, flag::SYN)));
        for (blue_flags, red_flags, state) in [
            (flag::SYN | flag::ACK, flag::ACK, State::Established),
            (flag::ACK, flag::ACK, State::Assured),
            (flag::RST, flag::RST, State::Reset),
        ] {
            assert_eq!((at_blue.src, at_blue.dst, at_blue.l4.ports().1), (HOST.ip(v), BLUE.ip(v), 80));
            let at_red = w.pod(BLUE, &answer(&at_blue, blue_flags));
            assert_eq!((at_red.src, at_red.dst, at_red.l4.ports()), (HOST.ip(v), RED.ip(v), (8080, 1000)));
            at_blue = w.pod(RED, &answer(&at_red, red_flags));
            w.assert_states(state);
        }
    }
);

both!(
    fn a_pod_answers_its_neighbour_and_its_host(b, v) {
        let w = Wire { b };
        for l4 in [udp(1000, 53), tcp(1000, 80, flag::SYN), echo(true, 7)] {
            let at_blue = w.pod(RED, &from_pod(RED, BLUE.ip(v), l4.clone()));
            assert_eq!((at_blue.eth_dst, at_blue.hop_limit), (BLUE.mac, 63));
            let at_red = w.pod(BLUE, &answer(&at_blue, flag::SYN | flag::ACK));
            assert_eq!((at_red.eth_dst, at_red.src, at_red.dst), (RED.mac, BLUE.ip(v), RED.ip(v)));
            let at_red = w.host(&from_host(1, GATEWAY.ip(v), RED.ip(v), l4));
            assert_eq!((at_red.eth_dst, at_red.hop_limit), (RED.mac, 64));
            let at_host = w.pod(RED, &answer(&at_red, flag::SYN | flag::ACK));
            assert_eq!((at_host.src, at_host.dst, at_host.hop_limit), (RED.ip(v), GATEWAY.ip(v), 64));
        }
        assert_eq!(table(b.datapath()), [], "none of it needs a flow");
    }
);

both!(
    fn a_traceroute_shows_the_gateway_and_the_routers_behind(b, v) {
        let w = Wire { b };
        let probe = |hops| from_pod(RED, SERVER.ip(v), udp(1000, 33_434)).hops(hops);
        let error = w.pod(RED, &probe(1));
        assert_eq!((error.src, error.dst, error.eth_dst), (GATEWAY.ip(v), RED.ip(v), RED.mac));
        let wire = w.pod(RED, &probe(2));
        assert_eq!(wire.hop_limit, 1, "the next router sends its own error");
        let quote = Problem::TimeExceeded.quoting(v, &wire.ip_bytes());
        let error = w.lan(&from_lan(ROUTER.ip(v), HOST.ip(v), quote));
        assert_eq!((error.src, error.dst), (ROUTER.ip(v), RED.ip(v)));
        let L4::Icmp { body, .. } = &error.l4 else { panic!("{error:?}") };
        assert_eq!(*body, probe(1).ip_bytes(), "what the pod sent, one hop on");
    }
);

both!(
    fn a_pod_learns_the_mtu_of_the_way_and_gets_through(b, v) {
        let w = Wire { b };
        b.set_uplink_mtu(1280);
        let header = if v == V4 { 28 } else { 48 };
        let sized = |ip_bytes: usize| from_pod(RED, SERVER.ip(v), udp(1000, 53).with_payload(ip_bytes - header));
        let error = w.pod(RED, &sized(1400));
        let L4::Icmp { rest, .. } = &error.l4 else { panic!("{error:?}") };
        let mtu = u32::from_be_bytes(*rest);
        assert_eq!(mtu, 1280);
        let wire = w.pod(RED, &sized(mtu as usize));
        // A router further on has a smaller one.
        let quote = Problem::TooBig(1200).quoting(v, &wire.ip_bytes()[..header]);
        let error = w.lan(&from_lan(ROUTER.ip(v), HOST.ip(v), quote));
        let L4::Icmp { rest, body, .. } = &error.l4 else { panic!("{error:?}") };
        assert_eq!(u32::from_be_bytes(*rest), 1200);
        assert_eq!(*body, sized(1280).sent_on().ip_bytes()[..header], "the quote is of the packet the pod sent");
    }
);

both!(
    fn a_closed_port_of_a_pod_is_told_to_the_client_and_its_socket_finds_the_flow(b, v) {
        let w = Wire { b };
        let sent = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 5353));
        let at_pod = w.lan(&sent);
        let quote = Problem::PortUnreachable.quoting(v, &at_pod.ip_bytes());
        let error = w.pod(BLUE, &from_pod(BLUE, CLIENT.ip(v), quote));
        assert_eq!((error.src, error.dst), (HOST.ip(v), CLIENT.ip(v)));
        let L4::Icmp { body, .. } = &error.l4 else { panic!("{error:?}") };
        assert_eq!(*body, sent.sent_on().ip_bytes());
    }
);
