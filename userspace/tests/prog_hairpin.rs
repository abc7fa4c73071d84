//! Hairpin through mappings (RFC 4787 REQ-9): pods that reach each other by what they are on the LAN.

mod common;
#[macro_use]
mod prog;

use std::net::IpAddr;

use netns::datapath::Hook;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::bench::Notes;
use prog::mapping::{UDP, independent};
use prog::*;

/// What a pod is on the LAN.
type At = (IpAddr, u16);

/// A pod's datagram to somebody, what leaves, and its flow.
fn leaves(b: &Bench, pod: (Pod, u16), at: At, to: At) -> (Packet, Packet, Pair) {
    let sent = from_pod(pod.0, to.0, udp(pod.1, to.1));
    let left = sent.translated(at, to).sent_on();
    let flow = Pair::new(pod.0.network, &sent, 0, &left, Target::Uplink(b.uplink), Target::Slot(pod.0.slot));
    (sent, left, flow.owned(pod.0.slot))
}

/// The flow a packet that came back in opens to a pod's mapping.
fn opened(b: &Bench, v: Version, from: At, to: At, pod: (Pod, u16)) -> Pair {
    let after = (pod.0.network, (from.0, from.1, pod.0.ip(v), pod.1));
    Pair::of_tuples(UDP, (0, (from.0, from.1, to.0, to.1)), after, Target::Slot(pod.0.slot), Target::Uplink(b.uplink))
        .owned(pod.0.slot)
        .reply_turns_back()
}

/// How a packet of a pod comes back in.
fn turned_back(b: &Bench) -> Meta {
    let notes = Notes { mark: MARK_HAIRPIN, ..Notes::default() };
    Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, notes, ..Meta::default() }
}

/// Blue has a mapping at port 20000, by a datagram to a server.
fn blue_maps(b: &Bench, v: Version) -> (At, Pair) {
    let at = (HOST.ip(v), 20_000);
    let (sent, left, flow) = leaves(b, (BLUE, 20_000), at, (SERVER.ip(v), 53));
    let mapping = Pair::mapping(b, v, UDP, (BLUE, 20_000), at, 1);
    b.pod_sends(BLUE, &sent, &Want::neigh(&left).flows([&mapping, &flow]));
    (at, flow)
}

/// Red has sent to blue's mapping: both mappings, the flows, and the packet that has left and comes back in by the uplink.
struct Turned {
    blue_at: At,
    red_at: At,
    /// Blue's flow to the server.
    server: Pair,
    /// Red's mapping.
    red: Pair,
    out: Pair,
    left: Packet,
}

fn red_turns_back(b: &Bench, v: Version, open: bool) -> Turned {
    independent(b, open);
    let (blue_at, server) = blue_maps(b, v);
    let red_at = (HOST.ip(v), 20_001);
    let blue = Pair::mapping(b, v, UDP, (BLUE, 20_000), blue_at, 1);
    let red = Pair::mapping(b, v, UDP, (RED, 20_001), red_at, 1);
    // Out as to the LAN.
    let (sent, left, out) = leaves(b, (RED, 20_001), red_at, blue_at);
    let out = out.turns_back();
    b.pod_sends(RED, &sent, &Want::host(&left).marked().flows([&blue, &server, &red, &out]));
    Turned { blue_at, red_at, server, red, out, left }
}

both!(
    fn rfc4787_req_9_a_pod_reaches_another_by_its_mapping_with_its_own(b, v) {
        let Turned { blue_at, red_at, server, red, out, left } = red_turns_back(b, v, true);
        let blue = |flows| Pair::mapping(b, v, UDP, (BLUE, 20_000), blue_at, flows);
        let got = left.translated(red_at, (BLUE.ip(v), 20_000)).delivered(BLUE);
        let back_in = opened(b, v, red_at, blue_at, (BLUE, 20_000));
        let table = [&blue(2), &server, &red, &out, &back_in];
        b.comes_back_in(&left, &Want::peer(BLUE, &got).flows(table));
        // The answer the same way: from blue's port of the host.
        let answer = from_pod(BLUE, red_at.0, udp(20_000, red_at.1));
        let turned = answer.translated(blue_at, red_at).sent_on();
        let back_in = back_in.state(State::Established);
        b.pod_sends(BLUE, &answer, &Want::host(&turned).marked().flows([&blue(2), &server, &red, &out, &back_in]));
        let got = turned.translated(blue_at, (RED.ip(v), 20_001)).delivered(RED);
        let out = out.state(State::Established);
        b.comes_back_in(&turned, &Want::peer(RED, &got).flows([&blue(2), &server, &red, &out, &back_in]));
    }
);

both!(
    fn rfc4787_req_9_the_filter_holds_for_pods_as_for_anybody(b, v) {
        let Turned { blue_at, red_at, server, red, out, left } = red_turns_back(b, v, false);
        let blue = |flows| Pair::mapping(b, v, UDP, (BLUE, 20_000), blue_at, flows);
        b.comes_back_in(&left, &Want::drop(DropReason::Filtered).rx_dropped(BLUE));
        // Blue has sent to red: red has sent to blue before, so red's filter lets it in; and now blue's lets red in.
        let (sent, left, from_blue) = leaves(b, (BLUE, 20_000), blue_at, red_at);
        let from_blue = from_blue.turns_back();
        let table = [&blue(2), &server, &red, &out, &from_blue];
        b.pod_sends(BLUE, &sent, &Want::host(&left).marked().flows(table));
        let got = left.translated(blue_at, (RED.ip(v), 20_001)).delivered(RED);
        let out = out.state(State::Established);
        b.comes_back_in(&left, &Want::peer(RED, &got).flows([&blue(2), &server, &red, &out, &from_blue]));
        let (sent, left, _) = leaves(b, (RED, 20_001), red_at, blue_at);
        let out = out.state(State::Assured);
        b.pod_sends(RED, &sent, &Want::host(&left).marked().flows([&blue(2), &server, &red, &out, &from_blue]));
        let got = left.translated(red_at, (BLUE.ip(v), 20_000)).delivered(BLUE);
        let from_blue = from_blue.state(State::Established);
        b.comes_back_in(&left, &Want::peer(BLUE, &got).flows([&blue(2), &server, &red, &out, &from_blue]));
    }
);

both!(
    fn a_pod_reaches_itself_by_its_mapping(b, v) {
        independent(b, true);
        let (blue_at, server) = blue_maps(b, v);
        let blue = |flows| Pair::mapping(b, v, UDP, (BLUE, 20_000), blue_at, flows);
        let other_at = (HOST.ip(v), 20_001);
        let other = Pair::mapping(b, v, UDP, (BLUE, 20_001), other_at, 1);
        let (sent, left, out) = leaves(b, (BLUE, 20_001), other_at, blue_at);
        let out = out.turns_back();
        b.pod_sends(BLUE, &sent, &Want::host(&left).marked().flows([&blue(1), &server, &other, &out]));
        let got = left.translated(other_at, (BLUE.ip(v), 20_000)).delivered(BLUE);
        let back_in = opened(b, v, other_at, blue_at, (BLUE, 20_000));
        b.comes_back_in(&left, &Want::peer(BLUE, &got).flows([&blue(2), &server, &other, &out, &back_in]));
    }
);

both!(
    fn a_pod_of_a_network_without_mappings_reaches_one_too(b, v) {
        independent(b, true);
        let (blue_at, server) = blue_maps(b, v);
        let blue = |flows| Pair::mapping(b, v, UDP, (BLUE, 20_000), blue_at, flows);
        // Network 3 has no way to the host, network 2 does not masquerade: to the LAN's side of a pod both do as everybody.
        let mut flows = vec![server];
        for (n, (pod, port)) in [(TWIN, 20_001), (YELLOW, 20_002)].into_iter().enumerate() {
            let at = (HOST.ip(v), port);
            let (sent, left, out) = leaves(b, (pod, port), at, blue_at);
            flows.push(out.turns_back());
            let table: Vec<_> = flows.iter().copied().chain([blue(n as u32 + 1)]).collect();
            b.pod_sends(pod, &sent, &Want::host(&left).marked().flows(&table));
            let got = left.translated(at, (BLUE.ip(v), 20_000)).delivered(BLUE);
            flows.push(opened(b, v, at, blue_at, (BLUE, 20_000)));
            let table: Vec<_> = flows.iter().copied().chain([blue(n as u32 + 2)]).collect();
            b.comes_back_in(&left, &Want::peer(BLUE, &got).flows(&table));
        }
    }
);

both!(
    fn errors_find_back_too(b, v) {
        independent(b, true);
        let (blue_at, _) = blue_maps(b, v);
        let red_at = (HOST.ip(v), 20_001);
        let meta = |ifindex| Meta { ifindex, ..Meta::default() };
        let (sent, left, _) = leaves(b, (RED, 20_001), red_at, blue_at);
        let out = b.run(Hook::FromPod, meta(RED.ifindex()), &sent.bytes());
        let out = b.run(Hook::FromUplink, turned_back(b), &out.frame);
        assert_eq!(out.action, 7);
        // Nobody listens at blue's: red is told, about the packet it sent, by the address it sent it to.
        let quote = Packet::new(red_at.0, BLUE.ip(v), udp(20_001, 20_000)).ip_bytes();
        let error = from_pod(BLUE, red_at.0, Problem::PortUnreachable.quoting(v, &quote));
        let about = Packet::new(red_at.0, blue_at.0, udp(20_001, 20_000)).ip_bytes();
        let turned = Packet { src: blue_at.0, l4: Problem::PortUnreachable.quoting(v, &about), ..error.clone() }.sent_on();
        b.pod_sends(BLUE, &error, &Want::host(&turned).marked());
        let about = Packet::new(RED.ip(v), blue_at.0, udp(20_001, 20_000)).ip_bytes();
        let got = Packet { dst: RED.ip(v), l4: Problem::PortUnreachable.quoting(v, &about), ..turned.clone() };
        b.comes_back_in(&turned, &Want::peer(RED, &got.delivered(RED)));
        let _ = left;
    }
);

both!(
    fn what_comes_back_in_too_large_for_the_pod_is_told_to_the_sender(b, v) {
        independent(b, true);
        let green_at = (HOST.ip(v), 20_000);
        let (sent, _, _) = leaves(b, (GREEN, 20_000), green_at, (SERVER.ip(v), 53));
        let meta = |ifindex| Meta { ifindex, ..Meta::default() };
        b.run(Hook::FromPod, meta(GREEN.ifindex()), &sent.bytes());
        let red_at = (HOST.ip(v), 20_001);
        let big = from_pod(RED, green_at.0, udp(20_001, 20_000).with_payload(1320));
        let left = big.translated(red_at, green_at).sent_on();
        let out = b.run(Hook::FromPod, meta(RED.ifindex()), &big.bytes());
        assert_eq!((out.action, &out.frame), (7, &left.bytes()));
        // The error goes the way of the packet: in by the uplink, and from there to red.
        let about = Packet { l4: udp(20_001, 20_000).with_payload(1320), ..left.clone() };
        let error = originated(Problem::TooBig(GREEN_MTU), HOST.ip(v), &about, (left.eth_src, left.eth_dst));
        let out = b.run(Hook::FromUplink, turned_back(b), &left.bytes());
        assert_eq!((out.action, out.frame.len()), (7, error.bytes().len()));
        assert_eq!(out.frame, error.bytes());
        let out = b.run(Hook::FromUplink, turned_back(b), &out.frame);
        assert_eq!(out.action, 7);
        assert_eq!(out.frame[..6], RED.mac);
    }
);
