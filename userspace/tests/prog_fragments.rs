//! Datagrams in pieces, in any order: what waits, what comes by once more, and what becomes of it then.

mod common;
#[macro_use]
mod prog;

use std::time::Duration;

use common::frame::Tap;
use netns_ebpf_common::network::Network;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::flows::{masqueraded, pair};
use prog::*;

/// Bytes of the transport in each piece.
const CUT: usize = 64;
/// How long a frame may take from one queue of the kernel to the next.
const PATIENCE: Duration = Duration::from_secs(5);

/// What comes in by a device once more.
struct Again {
    tap: Tap,
    sender: [u8; 6],
}

impl Again {
    fn of(pod: Pod) -> Self {
        Self { tap: Tap::open(&format!("nn{}", pod.slot)), sender: pod.mac }
    }

    fn of_lan() -> Self {
        Self { tap: Tap::open("up0"), sender: ROUTER_MAC }
    }

    /// These frames came in once more, in this order.
    #[track_caller]
    fn expect<'a>(&self, wanted: impl IntoIterator<Item = &'a Packet>) {
        for (i, wanted) in wanted.into_iter().enumerate() {
            let found = self
                .tap
                .find(PATIENCE, |frame| frame[6..12] == self.sender)
                .unwrap_or_else(|| panic!("nothing comes as number {i}"));
            assert_eq!(found, wanted.bytes(), "number {i}");
        }
        self.expect_nothing();
    }

    /// What comes in once more is queued before a run ends, so what is not there will not come.
    #[track_caller]
    fn expect_nothing(&self) {
        assert_eq!(self.tap.find(Duration::ZERO, |frame| frame[6..12] == self.sender), None, "nothing else comes");
    }
}

/// Three pieces of an answer to red, the last one first: they wait, come by once more, and reach it.
#[track_caller]
fn comes_in_reverse(b: &Bench, answer: &[Packet], got: &[Packet], flow: Pair) {
    let again = Again::of_lan();
    for i in [2, 1, 0] {
        b.lan_sends(&answer[i], &Want::held());
    }
    again.expect([&answer[0], &answer[2], &answer[1]]);
    let flow = flow.state(State::Established);
    for i in [0, 2, 1] {
        b.lan_sends(&answer[i], &Want::peer(RED, &got[i]).flows([&flow]));
    }
}

/// Red's datagram to the server and what leaves, in pieces each, and its flow.
fn asked(b: &Bench, v: Version, id: u16, pieces: usize) -> (Vec<Packet>, Vec<Packet>, Pair) {
    let (sent, left) = masqueraded(v, SERVER, udp(20_000, 53).with_payload(pieces * CUT - 8), 20_000);
    (sent.in_pieces(id, CUT), left.in_pieces(id, CUT), pair(b, &sent, &left))
}

/// The client's datagram to a published port and what blue gets, in pieces each, and its flow.
fn from_client(b: &Bench, v: Version, id: u16, pieces: usize) -> (Vec<Packet>, Vec<Packet>, Pair) {
    let sent = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 5353).with_payload(pieces * CUT - 8));
    let got = sent.translated((CLIENT.ip(v), 40_000), (BLUE.ip(v), 53)).delivered(BLUE);
    let flow = Pair::new(0, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Uplink(b.uplink));
    (sent.in_pieces(id, CUT), got.in_pieces(id, CUT), flow.owned(BLUE.slot).published(DNS))
}

both!(
    fn pieces_in_reverse_leave_in_order(b, v) {
        let (sent, left, flow) = asked(b, v, 7, 5);
        let again = Again::of(RED);
        for piece in sent[1..].iter().rev() {
            b.pod_sends(RED, piece, &Want::held());
        }
        again.expect_nothing();
        assert_eq!(b.held(), 4);
        b.pod_sends(RED, &sent[0], &Want::held());
        assert_eq!(b.held(), 0, "none waits any more");
        let order = [0, 4, 3, 2, 1];
        again.expect(order.map(|i| &sent[i]));
        for i in order {
            b.pod_sends(RED, &sent[i], &Want::neigh(&left[i]).flows([&flow]));
        }
        again.expect_nothing();
    }
);

both!(
    fn a_published_port_gets_pieces_in_reverse(b, v) {
        let (sent, got, flow) = from_client(b, v, 7, 5);
        let again = Again::of_lan();
        for piece in sent[1..].iter().rev() {
            b.lan_sends(piece, &Want::held());
        }
        b.lan_sends(&sent[0], &Want::held());
        let order = [0, 4, 3, 2, 1];
        again.expect(order.map(|i| &sent[i]));
        b.lan_sends(&sent[0], &Want::peer(BLUE, &got[0]).publish_opens(DNS).flows([&flow]));
        for i in &order[1..] {
            b.lan_sends(&sent[*i], &Want::peer(BLUE, &got[*i]).publish(DNS));
        }
        again.expect_nothing();
    }
);

both!(
    fn an_answer_in_reverse_reaches_its_pod(b, v) {
        let (sent, left) = masqueraded(v, SERVER, udp(20_000, 53), 20_000);
        let flow = pair(b, &sent, &left);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
        let answer = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000).with_payload(3 * CUT - 8));
        let got = answer.translated((SERVER.ip(v), 53), (RED.ip(v), 20_000)).delivered(RED);
        let (answer, got) = (answer.in_pieces(9, CUT), got.in_pieces(9, CUT));
        comes_in_reverse(b, &answer, &got, flow);
    }
);

both!(
    fn an_answer_to_a_pods_own_address_waits_too(b, v) {
        let sent = from_pod(RED, KEPT.ip(v), udp(1000, 53));
        let flow = pair(b, &sent, &sent);
        b.pod_sends(RED, &sent, &Want::neigh(&sent.sent_on()).flows([&flow]));
        let answer = from_lan(KEPT.ip(v), RED.ip(v), udp(53, 1000).with_payload(3 * CUT - 8));
        let (answer, got) = (answer.in_pieces(9, CUT), answer.delivered(RED).in_pieces(9, CUT));
        comes_in_reverse(b, &answer, &got, flow);
        // Unasked for, it stays out, in whatever order.
        let again = Again::of_lan();
        let unasked = from_lan(SERVER.ip(v), RED.ip(v), udp(53, 1000).with_payload(2 * CUT - 8)).in_pieces(10, CUT);
        b.lan_sends(&unasked[1], &Want::held());
        b.lan_sends(&unasked[0], &Want::held());
        again.expect([&unasked[0], &unasked[1]]);
        for piece in &unasked {
            b.lan_sends(piece, &Want::drop(DropReason::NotPublished).rx_dropped(RED));
        }
    }
);

both!(
    fn the_hosts_own_datagrams_are_never_touched(b, v) {
        let again = Again::of_lan();
        let datagram = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 4444).with_payload(4 * CUT - 8));
        // In order, twice, overlapping, and in lies.
        for (id, order) in [(1, vec![0, 1, 2, 3]), (2, vec![0, 0, 1, 1, 2, 1, 3])] {
            let pieces = datagram.in_pieces(id, CUT);
            for i in order {
                b.lan_sends(&pieces[i], &Want::pass(&pieces[i]));
            }
        }
        let overlap = [datagram.piece(4, 0, true, &[1; 64]), datagram.piece(4, 56, true, &[2; 64])];
        for piece in overlap.iter().chain([&datagram.piece(5, 8, true, &[1; 12])]) {
            b.lan_sends(piece, &Want::pass(piece));
        }
        again.expect_nothing();
        // In reverse nobody knows whose it is until the first one comes.
        let pieces = datagram.in_pieces(3, CUT);
        for piece in pieces.iter().rev() {
            b.lan_sends(piece, &Want::held());
        }
        let order = [0, 3, 2, 1];
        again.expect(order.map(|i| &pieces[i]));
        for i in order {
            b.lan_sends(&pieces[i], &Want::pass(&pieces[i]));
        }
    }
);

both!(
    fn the_host_gets_what_finds_no_room(b, v) {
        // 64 of one sender wait. What comes then, the host may put together; a pod's is lost.
        let to = |place: Place| from_lan(CLIENT.ip(v), place.ip(v), udp(40_000, 4444).with_payload(3 * CUT - 8));
        for id in 0..64 {
            b.lan_sends(&to(HOST).in_pieces(id, CUT)[1], &Want::held());
        }
        let piece = &to(HOST).in_pieces(99, CUT)[1];
        b.lan_sends(piece, &Want::pass(piece));
        b.lan_sends(&to(RED.at).in_pieces(99, CUT)[1], &Want::drop(DropReason::Fragment));
        assert_eq!(b.held(), 64);
    }
);

both!(
    fn the_hosts_sockets_get_a_pods_pieces_behind_their_first(b, v) {
        let sent = from_pod(RED, GATEWAY.ip(v), udp(1000, 53).with_payload(3 * CUT - 8)).in_pieces(7, CUT);
        let again = Again::of(RED);
        b.pod_sends(RED, &sent[2], &Want::held());
        b.pod_sends(RED, &sent[1], &Want::held());
        b.pod_sends(RED, &sent[0], &Want::held());
        again.expect([&sent[0], &sent[2], &sent[1]]);
        for i in [0, 2, 1] {
            b.pod_sends(RED, &sent[i], &Want::host(&sent[i]));
        }
    }
);

both!(
    fn a_pod_of_the_network_gets_pieces_as_they_come(b, v) {
        let sent = from_pod(RED, BLUE.ip(v), udp(1000, 53).with_payload(3 * CUT - 8)).in_pieces(7, CUT);
        for i in [2, 1, 1, 0] {
            b.pod_sends(RED, &sent[i], &Want::peer(BLUE, &sent[i].delivered(BLUE)));
        }
        assert_eq!(b.datagrams(v), 0, "nobody keeps anything");
    }
);

both!(
    fn a_hairpin_gets_pieces_in_reverse(b, v) {
        let sent = from_pod(RED, HOST.ip(v), udp(20_000, 5353).with_payload(3 * CUT - 8));
        let got = sent.translated((HOST.ip(v), 20_000), (BLUE.ip(v), 53)).delivered(BLUE);
        let flow = Pair::new(1, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Slot(RED.slot)).owned(RED.slot).published(DNS);
        let (sent, got) = (sent.in_pieces(7, CUT), got.in_pieces(7, CUT));
        let again = Again::of(RED);
        for i in [2, 1, 0] {
            b.pod_sends(RED, &sent[i], &Want::held());
        }
        again.expect([&sent[0], &sent[2], &sent[1]]);
        b.pod_sends(RED, &sent[0], &Want::peer(BLUE, &got[0]).hairpin_opens(DNS).flows([&flow]));
        for i in [2, 1] {
            b.pod_sends(RED, &sent[i], &Want::peer(BLUE, &got[i]));
        }
    }
);

both!(
    fn datagrams_and_pods_are_told_apart(b, v) {
        // Two of red's, and blue's with the identification of red's first; all by one server, piece by piece in turns.
        let ask = |pod, port: u16| {
            let sent = from_pod(pod, SERVER.ip(v), udp(port, 53).with_payload(3 * CUT - 8));
            let left = sent.translated((HOST.ip(v), port), (SERVER.ip(v), 53)).sent_on();
            let flow = Pair::new(1, &sent, 0, &left, Target::Uplink(b.uplink), Target::Slot(pod.slot)).owned(pod.slot);
            (pod, sent, left, flow)
        };
        let all = [(ask(RED, 20_000), 7), (ask(RED, 20_001), 8), (ask(BLUE, 20_002), 7)];
        let taps: Vec<_> = all.iter().map(|((pod, ..), _)| Again::of(*pod)).collect();
        for i in [2, 1] {
            for ((pod, sent, ..), id) in &all {
                b.pod_sends(*pod, &sent.in_pieces(*id, CUT)[i], &Want::held());
            }
        }
        let mut flows: Vec<&Pair> = Vec::new();
        for (((pod, sent, left, flow), id), again) in all.iter().zip(&taps).rev() {
            let (sent, left) = (sent.in_pieces(*id, CUT), left.in_pieces(*id, CUT));
            // What the others' made come is not this one's.
            while again.tap.find(Duration::ZERO, |_| true).is_some() {}
            b.pod_sends(*pod, &sent[0], &Want::held());
            again.expect([&sent[0], &sent[2], &sent[1]]);
            flows.push(flow);
            for i in [0, 2, 1] {
                b.pod_sends(*pod, &sent[i], &Want::neigh(&left[i]).flows(flows.iter().copied()));
            }
        }
    }
);

both!(
    fn a_piece_twice_is_dropped_and_the_datagram_lives(b, v) {
        let (sent, left, flow) = asked(b, v, 7, 4);
        let again = Again::of(RED);
        b.pod_sends(RED, &sent[2], &Want::held());
        b.pod_sends(RED, &sent[2], &Want::held());
        b.pod_sends(RED, &sent[0], &Want::held());
        again.expect([&sent[0], &sent[2], &sent[2]]);
        let twice = Want::drop(DropReason::FragmentOverlap);
        b.pod_sends(RED, &sent[0], &Want::neigh(&left[0]).flows([&flow]));
        b.pod_sends(RED, &sent[2], &Want::neigh(&left[2]));
        b.pod_sends(RED, &sent[2], &twice);
        b.pod_sends(RED, &sent[0], &twice);
        b.pod_sends(RED, &sent[1], &Want::neigh(&left[1]));
        b.pod_sends(RED, &sent[1], &twice);
        b.pod_sends(RED, &sent[3], &Want::neigh(&left[3]));
    }
);

both!(
    fn an_overlap_ends_the_datagram(b, v) {
        let (sent, left, flow) = asked(b, v, 7, 4);
        let bad = Want::drop(DropReason::FragmentOverlap);
        b.pod_sends(RED, &sent[0], &Want::neigh(&left[0]).flows([&flow]));
        // One unit of it has come.
        let overlap = sent[1].piece(7, CUT - 8, true, &[0x5a; CUT]);
        b.pod_sends(RED, &overlap, &bad);
        for piece in &sent {
            b.pod_sends(RED, piece, &bad);
        }
        // RFC 1858 section 4: over the ports of the first one.
        let (sent, left, _) = asked(b, v, 8, 4);
        b.pod_sends(RED, &sent[0], &Want::neigh(&left[0]));
        b.pod_sends(RED, &sent[1].piece(8, 0, true, &[0x5a; 2 * CUT]), &bad);
        b.pod_sends(RED, &sent[2], &bad);
        // Waiting, they are found to overlap when they come by again.
        let (sent, left, _) = asked(b, v, 9, 4);
        let again = Again::of(RED);
        let overlap = sent[1].piece(9, 2 * CUT - 8, true, &[0x5a; CUT]);
        for piece in [&sent[1], &overlap, &sent[0]] {
            b.pod_sends(RED, piece, &Want::held());
        }
        again.expect([&sent[0], &sent[1], &overlap]);
        for i in [0, 1] {
            b.pod_sends(RED, &sent[i], &Want::neigh(&left[i]));
        }
        b.pod_sends(RED, &overlap, &bad);
        b.pod_sends(RED, &sent[3], &bad);
        // From the LAN as well.
        let (sent, got, incoming) = from_client(b, v, 9, 4);
        b.lan_sends(&sent[0], &Want::peer(BLUE, &got[0]).publish_opens(DNS).flows([&flow, &incoming]));
        b.lan_sends(&sent[1].piece(9, CUT - 8, true, &[0x5a; CUT]), &bad);
        b.lan_sends(&sent[2], &bad);
    }
);

both!(
    fn two_ends_end_the_datagram(b, v) {
        let (sent, left, flow) = asked(b, v, 7, 4);
        let bad = Want::drop(DropReason::FragmentOverlap);
        b.pod_sends(RED, &sent[0], &Want::neigh(&left[0]).flows([&flow]));
        b.pod_sends(RED, &sent[2].piece(7, 2 * CUT, false, &[0x5a; CUT]), &Want::neigh(&left[2].piece(7, 2 * CUT, false, &[0x5a; CUT])));
        b.pod_sends(RED, &sent[3], &bad);
        b.pod_sends(RED, &sent[1], &bad);
    }
);

both!(
    fn pieces_that_lie_are_malformed(b, v) {
        let sent = from_pod(RED, SERVER.ip(v), udp(20_000, 53).with_payload(2 * CUT - 8));
        let tcp = from_pod(RED, SERVER.ip(v), tcp(20_000, 80, flag::SYN));
        let tcp_bytes = tcp.l4.bytes(tcp.src, tcp.dst);
        let rows = [
            ("a tiny first one of UDP", sent.piece(1, 0, true, &[])),
            ("a tiny first one of TCP", tcp.piece(1, 0, true, &tcp_bytes[..16])),
            ("no multiple of 8", sent.piece(1, 8, true, &[0; 12])),
            ("nothing in it", sent.piece(1, 8, false, &[])),
            ("beyond 65535", sent.piece(1, 65_528, false, &[0; 64])),
        ];
        for (what, piece) in rows {
            println!("{what}");
            b.pod_sends(RED, &piece, &Want::drop(DropReason::Malformed));
        }
        assert_eq!(b.datagrams(v), 0, "no state is made");
    }
);

both!(
    fn a_datagram_without_its_first_piece_stays_where_it_is(b, v) {
        let (sent, left, flow) = asked(b, v, 7, 3);
        let again = Again::of(RED);
        b.pod_sends(RED, &sent[1], &Want::held());
        b.pod_sends(RED, &sent[2], &Want::held());
        // Another one's first piece, to the same port, is no business of theirs.
        let (other, other_left, _) = asked(b, v, 8, 3);
        b.pod_sends(RED, &other[0], &Want::neigh(&other_left[0]).flows([&flow]));
        again.expect_nothing();
        assert_eq!(left.len(), 3);
    }
);

both!(
    fn an_identification_serves_again_when_its_datagram_is_complete(b, v) {
        let (sent, left, flow) = asked(b, v, 7, 3);
        for _ in 0..3 {
            for i in [0, 2, 1] {
                b.pod_sends(RED, &sent[i], &Want::neigh(&left[i]).flows([&flow]));
            }
        }
        // And with other ports: what the datagram before said is forgotten.
        let (ask, left) = masqueraded(v, SERVER, udp(20_001, 53).with_payload(3 * CUT - 8), 20_001);
        let other = pair(b, &ask, &left);
        for (piece, left) in ask.in_pieces(7, CUT).iter().zip(&left.in_pieces(7, CUT)) {
            b.pod_sends(RED, piece, &Want::neigh(left).flows([&flow, &other]));
        }
    }
);

both!(
    fn a_flood_of_pieces_from_one_pod_costs_the_others_nothing(b, v) {
        let sent = from_pod(BLUE, SERVER.ip(v), udp(20_005, 53).with_payload(20 * CUT - 8));
        let left = sent.translated((HOST.ip(v), 20_005), (SERVER.ip(v), 53)).sent_on();
        let flow = Pair::new(1, &sent, 0, &left, Target::Uplink(b.uplink), Target::Slot(BLUE.slot)).owned(BLUE.slot);
        let (sent, left) = (sent.in_pieces(7, CUT), left.in_pieces(7, CUT));
        let (asking, asking_left, asking_flow) = from_client(b, v, 7, 3);
        let again = (Again::of(BLUE), Again::of_lan());
        for piece in &sent[1..] {
            b.pod_sends(BLUE, piece, &Want::held());
        }
        b.lan_sends(&asking[2], &Want::held());
        let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
        let flood = from_pod(RED, SERVER.ip(v), udp(20_001, 53).with_payload(3 * CUT - 8));
        let later = flood.in_pieces(0, CUT)[1].clone();
        for id in 0..5000 {
            let mut piece = later.clone();
            piece.piece.as_mut().expect("a piece").id = id;
            assert_eq!(b.run(netns::datapath::Hook::FromPod, meta, &piece.bytes()).action, 2);
        }
        // 256 places of red's, one of blue's, one of the LAN's.
        assert_eq!(b.datagrams(v), 258);
        b.pod_sends(BLUE, &sent[0], &Want::held());
        again.0.expect(&sent);
        for (piece, left) in sent.iter().zip(&left) {
            b.pod_sends(BLUE, piece, &Want::neigh(left).flows([&flow]));
        }
        b.lan_sends(&asking[0], &Want::held());
        again.1.expect([&asking[0], &asking[2]]);
        let want = Want::peer(BLUE, &asking_left[0]).publish_opens(DNS);
        b.lan_sends(&asking[0], &want.flows([&flow, &asking_flow]));
        // Red itself goes on, too.
        let (sent, left, red_flow) = asked(b, v, 9000, 3);
        for (piece, left) in sent.iter().zip(&left) {
            b.pod_sends(RED, piece, &Want::neigh(left).flows([&flow, &asking_flow, &red_flow]));
        }
    }
);

both!(
    fn only_the_newest_pieces_of_a_pod_wait(b, v) {
        // A datagram of 64 KiB has 44 over Ethernet. Of 70 the oldest six are lost.
        let (sent, left, flow) = asked(b, v, 7, 71);
        let again = Again::of(RED);
        for piece in &sent[1..] {
            b.pod_sends(RED, piece, &Want::held());
        }
        b.pod_sends(RED, &sent[0], &Want::held());
        again.expect([&sent[0]].into_iter().chain(&sent[7..]));
        b.pod_sends(RED, &sent[0], &Want::neigh(&left[0]).flows([&flow]));
        b.pod_sends(RED, &sent[3], &Want::neigh(&left[3]));
    }
);

both!(
    fn a_later_piece_says_nothing_of_its_protocol(b, v) {
        let (sent, left, flow) = asked(b, v, 7, 3);
        b.pod_sends(RED, &sent[0], &Want::neigh(&left[0]).flows([&flow]));
        // A first TCP header, as far as this piece's own bytes go.
        let lie = |p: &Packet| {
            let mut p = p.clone();
            p.l4 = L4::Raw { proto: 6, bytes: [&[0x4e, 0x20, 0, 80][..], &[0; CUT - 4]].concat() };
            p
        };
        // RFC 8200 section 4.5: only the first one's number counts. In IPv4 the number tells datagrams apart.
        let want = if v == V4 { Want::held() } else { Want::neigh(&lie(&left[1])) };
        b.pod_sends(RED, &lie(&sent[1]), &want);
    }
);

both!(
    fn an_open_mapping_gets_pieces_in_reverse_and_a_filtered_one_none(b, v) {
        for open in [true, false] {
            b.reset();
            let flags = Network::ENDPOINT_INDEPENDENT | if open { Network::OPEN_TO_ALL } else { 0 };
            b.configure_network(1, |n| n.flags |= flags);
            b.datapath().set_mappings(true).expect("settings");
            let at = (HOST.ip(v), 20_000);
            let mapping = |flows| Pair::mapping(b, v, 17, (RED, 20_000), at, flows);
            let (ask, left) = masqueraded(v, SERVER, udp(20_000, 53), 20_000);
            let asked = pair(b, &ask, &left);
            b.pod_sends(RED, &ask, &Want::neigh(&left).flows([&mapping(1), &asked]));
            let again = Again::of_lan();
            // Of somebody red has not sent to.
            let sent = from_lan(CLIENT.ip(v), at.0, udp(40_000, at.1).with_payload(3 * CUT - 8));
            let got = sent.translated((CLIENT.ip(v), 40_000), (RED.ip(v), 20_000)).delivered(RED);
            let flow = Pair::new(0, &sent, 1, &got, Target::Slot(RED.slot), Target::Uplink(b.uplink)).owned(RED.slot);
            let (sent, got) = (sent.in_pieces(8, CUT), got.in_pieces(8, CUT));
            for i in [2, 1, 0] {
                b.lan_sends(&sent[i], &Want::held());
            }
            again.expect([0, 2, 1].map(|i| &sent[i]));
            if open {
                for i in [0, 2, 1] {
                    b.lan_sends(&sent[i], &Want::peer(RED, &got[i]).flows([&mapping(2), &asked, &flow]));
                }
            } else {
                b.lan_sends(&sent[0], &Want::drop(DropReason::Filtered).rx_dropped(RED));
                // Without its first piece a datagram is none, for the host either.
                b.lan_sends(&sent[2], &Want::pass(&sent[2]));
            }
        }
    }
);
