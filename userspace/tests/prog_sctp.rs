//! SCTP: only addresses change, the checksum stays right all the same, and no port is ever given away.

mod common;
#[macro_use]
mod prog;

use netns::datapath::PublishPorts;
use netns_ebpf_common::publish::Publish;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::*;

/// The publish `any:2905` to `BLUE:2905`, SCTP.
const M3UA: u32 = 200;
const PORT: u16 = 2905;

/// The publish for one test; its counters are none of those that every run compares.
fn publishing(b: &Bench, body: impl FnOnce()) {
    let ports = PublishPorts { addr: None, proto: 132, host_first: PORT, pod_first: PORT, count: 1 };
    let publish = Publish { slot: BLUE.slot, flags: Publish::ACTIVE, owner: 77 };
    b.datapath().put_publish(M3UA, &publish, &ports).expect("publish");
    body();
    assert!(b.datapath().remove_publish(M3UA, 77, &ports).expect("remove"));
}

/// Red's packet to a server as it leaves, and its flow.
fn masqueraded(b: &Bench, v: Version, to: Place, l4: L4) -> (Packet, Packet, Pair) {
    let ports = l4.ports();
    let sent = from_pod(RED, to.ip(v), l4);
    let left = sent.translated((HOST.ip(v), ports.0), (to.ip(v), ports.1)).sent_on();
    let flow = Pair::new(1, &sent, 0, &left, Target::Uplink(b.uplink), Target::Slot(RED.slot)).owned(RED.slot);
    (sent, left, flow)
}

both!(
    fn a_pods_association_leaves_with_its_own_port(b, v) {
        // In the range of source NAT, below and above it.
        for sport in [2905, 25_000, 60_000] {
            b.datapath().delete_flows(|_| true).expect("delete");
            let (sent, left, flow) = masqueraded(b, v, SERVER, sctp(sport, 2906));
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
            let answer = from_lan(SERVER.ip(v), HOST.ip(v), sctp(2906, sport));
            let got = answer.translated((SERVER.ip(v), 2906), (RED.ip(v), sport)).delivered(RED);
            b.lan_sends(&answer, &Want::peer(RED, &got).flows([&flow.state(State::Established)]));
        }
    }
);

both!(
    fn a_port_that_is_taken_is_no_other_pods(b, v) {
        let (sent, left, flow) = masqueraded(b, v, SERVER, sctp(25_000, 2906));
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
        // Blue has the same port and wants the same server: the range has thousands of others, none of which will do.
        let other = from_pod(BLUE, SERVER.ip(v), sctp(25_000, 2906));
        let error = originated(Problem::Prohibited, GATEWAY.ip(v), &other, (BLUE.mac, BLUE.gateway_mac()));
        b.pod_sends(BLUE, &other, &Want::reject_to(BLUE, DropReason::PortsExhausted, &error));
        // To another one it may go.
        let elsewhere = from_pod(BLUE, SERVER2.ip(v), sctp(25_000, 2906));
        let left = elsewhere.translated((HOST.ip(v), 25_000), (SERVER2.ip(v), 2906)).sent_on();
        let second = Pair::new(1, &elsewhere, 0, &left, Target::Uplink(b.uplink), Target::Slot(BLUE.slot));
        b.pod_sends(BLUE, &elsewhere, &Want::neigh(&left).flows([&flow, &second.owned(BLUE.slot)]));
    }
);

both!(
    fn a_published_port_is_not_taken_from_its_owner(b, v) {
        publishing(b, || {
            let sent = from_pod(RED, SERVER.ip(v), sctp(PORT, 2906));
            let error = originated(Problem::Prohibited, GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
            b.pod_sends(RED, &sent, &Want::reject_to(RED, DropReason::PortsExhausted, &error));
        });
    }
);

both!(
    fn published_ports_lead_to_their_pod(b, v) {
        publishing(b, || {
            let sent = from_lan(CLIENT.ip(v), HOST.ip(v), sctp(40_000, PORT));
            let got = sent.translated((CLIENT.ip(v), 40_000), (BLUE.ip(v), PORT)).delivered(BLUE);
            let flow = Pair::new(0, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Uplink(b.uplink));
            let flow = flow.owned(BLUE.slot).published(M3UA);
            b.lan_sends(&sent, &Want::peer(BLUE, &got).flows([&flow]));
            let answer = from_pod(BLUE, CLIENT.ip(v), sctp(PORT, 40_000));
            let left = answer.translated((HOST.ip(v), PORT), (CLIENT.ip(v), 40_000)).sent_on();
            b.pod_sends(BLUE, &answer, &Want::neigh(&left).flows([&flow.state(State::Established)]));

            // By another address of the host from the same port, the pod could not tell the two apart.
            let twin = from_lan(CLIENT.ip(v), HOST2.ip(v), sctp(40_000, PORT));
            b.lan_sends(&twin, &Want::drop(DropReason::PortsExhausted).rx_dropped(BLUE));
        });
        // What is published for TCP and UDP is not for SCTP.
        for port in [8443, 5353] {
            let sent = from_lan(CLIENT.ip(v), HOST.ip(v), sctp(40_000, port));
            b.lan_sends(&sent, &Want::pass(&sent));
        }
    }
);

both!(
    fn hairpin_keeps_the_port(b, v) {
        publishing(b, || {
            let sent = from_pod(RED, HOST.ip(v), sctp(1000, PORT));
            let got = sent.translated((HOST.ip(v), 1000), (BLUE.ip(v), PORT)).delivered(BLUE);
            let flow = Pair::new(1, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Slot(RED.slot)).owned(RED.slot);
            let flow = flow.published(M3UA);
            b.pod_sends(RED, &sent, &Want::peer(BLUE, &got).flows([&flow]));
            let sent = from_pod(BLUE, HOST.ip(v), sctp(PORT, 1000));
            let got = sent.translated((HOST.ip(v), PORT), (RED.ip(v), 1000)).delivered(RED);
            b.pod_sends(BLUE, &sent, &Want::peer(RED, &got).flows([&flow.state(State::Established)]));
        });
    }
);

both!(
    fn pods_of_a_network_reach_each_other(b, v) {
        let sent = from_pod(RED, BLUE.ip(v), sctp(1000, PORT));
        b.pod_sends(RED, &sent, &Want::peer(BLUE, &sent.delivered(BLUE)));
        let header = if v == V4 { 32 } else { 52 };
        let big = from_pod(RED, BLUE.ip(v), sctp(1000, PORT).with_payload(1401 - header));
        let error = originated(Problem::TooBig(POD_MTU), GATEWAY.ip(v), &big, (RED.mac, RED.gateway_mac()));
        b.pod_sends(RED, &big, &Want::reject_to(RED, DropReason::TooBig, &error));
        // Several packets in one, each as SCTP has cut it: their lengths cannot be seen, and are right.
        let meta = Meta { ifindex: RED.ifindex(), gso_size: 0xffff, ..Meta::default() };
        let out = b.run(netns::datapath::Hook::FromPod, meta, &big.bytes());
        assert_eq!((out.action, out.frame), (7, big.delivered(BLUE).bytes()));
    }
);

both!(
    fn errors_about_an_association_find_it(b, v) {
        let quote = |p: &Packet, bytes: usize| {
            let mut quote = p.ip_bytes();
            quote.truncate(bytes);
            Problem::PortUnreachable.quoting(v, &quote)
        };
        let header = if v == V4 { 20 } else { 40 };
        for bytes in [usize::MAX, header + 8] {
            b.datapath().delete_flows(|_| true).expect("delete");
            // A router's, about what red sent.
            let (sent, left, flow) = masqueraded(b, v, SERVER, sctp(25_000, 2906));
            b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
            let error = from_lan(ROUTER.ip(v), HOST.ip(v), quote(&left, bytes));
            let told = from_lan(ROUTER.ip(v), RED.ip(v), quote(&sent.hops(left.hop_limit), bytes)).delivered(RED);
            b.lan_sends(&error, &Want::peer(RED, &told));
        }
        // The pod's, about what a client sent.
        publishing(b, || {
            let sent = from_lan(CLIENT.ip(v), HOST.ip(v), sctp(40_000, PORT));
            let got = sent.translated((CLIENT.ip(v), 40_000), (BLUE.ip(v), PORT)).delivered(BLUE);
            let flow = Pair::new(0, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Uplink(b.uplink));
            let flow = flow.owned(BLUE.slot).published(M3UA);
            b.datapath().delete_flows(|_| true).expect("delete");
            b.lan_sends(&sent, &Want::peer(BLUE, &got).flows([&flow]));
            let error = from_pod(BLUE, CLIENT.ip(v), quote(&got, usize::MAX));
            let told = Packet { src: HOST.ip(v), l4: quote(&sent.hops(got.hop_limit), usize::MAX), ..error.clone() };
            b.pod_sends(BLUE, &error, &Want::neigh(&told.sent_on()));
        });
    }
);

both!(
    fn pieces_follow_the_first(b, v) {
        let whole = sctp(25_000, 2906).with_payload(100);
        let (sent, left, flow) = masqueraded(b, v, SERVER, whole);
        let [first, second] = sent.in_two(7, 64);
        let [first_left, second_left] = left.in_two(7, 64);
        b.pod_sends(RED, &first, &Want::neigh(&first_left).flows([&flow]));
        b.pod_sends(RED, &second, &Want::neigh(&second_left).flows([&flow]));
    }
);
