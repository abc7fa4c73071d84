//! Who gives way at a limit of flows: what nobody has shown to be in use, and of the rest what has rested longest.

mod common;
#[macro_use]
mod prog;

use std::time::Duration;

use common::wait_until;
use netns::datapath::Hook;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::clients::*;
use prog::flows::table;
use prog::want::{counters, growth};
use prog::*;

/// Flows one account gets of an empty table.
const SHARE: u16 = FLOWS as u16 / 2;

/// How long a look in vain, for a flow that may go or for a port, stands for those that would follow.
const BACK_OFF: Duration = Duration::from_millis(10);

both!(
    fn handshakes_nobody_completes_give_way_oldest_first(b, v) {
        // One client is heard by the server, one completes its handshake and no more, one has ended, one is half-way, the rest
        // never come back.
        for sport in 40_000..40_000 + SHARE {
            to_web(b, v, sport, flag::SYN);
        }
        for sport in [40_000, 40_001] {
            from_web(b, v, sport, flag::SYN | flag::ACK);
            to_web(b, v, sport, flag::ACK);
        }
        from_web(b, v, 40_000, flag::ACK);
        from_web(b, v, 40_002, flag::RST | flag::ACK);
        from_web(b, v, 40_003, flag::SYN | flag::ACK);
        assert_eq!(
            clients(b)[..5],
            [
                (40_000, State::Assured),
                (40_001, State::Established),
                (40_002, State::Reset),
                (40_003, State::Answered),
                (40_004, State::Opening)
            ]
        );
        let before = counters(b);
        for n in 0..5 {
            to_web(b, v, 41_000 + n, flag::SYN);
            let found: Vec<_> = clients(b).iter().map(|(sport, _)| *sport).collect();
            // The handshake that is complete stays while there are others.
            let mut wanted = vec![40_000, 40_001];
            wanted.extend(40_003 + n..40_000 + SHARE);
            wanted.extend(41_000..=41_000 + n);
            assert_eq!(found, wanted);
        }
        let grown = growth(&before, &counters(b));
        assert_eq!(grown.get("verdict from_uplink peer"), Some(&5), "{grown:?}");
        b.assert_accounts();
    }
);

both!(
    fn assured_clients_never_give_way(b, v) {
        for sport in 40_000..40_000 + SHARE {
            assert!(enters(b, v, sport));
        }
        let sent = from_lan(CLIENT.ip(v), HOST.ip(v), tcp(41_000, 8080, flag::SYN));
        for _ in 0..3 {
            b.lan_sends(&sent, &Want::drop(DropReason::FlowLimit).rx_dropped(BLUE));
        }
        // Another pod's clients are not theirs to replace either, nor the other way round.
        let other = from_lan(CLIENT.ip(v), HOST.ip(v), tcp(42_000, 8443, flag::SYN)).bytes();
        b.run(Hook::FromUplink, lan(b), &other);
        b.lan_sends(&sent, &Want::drop(DropReason::FlowLimit).rx_dropped(BLUE));
        assert_eq!(table(b.datapath()).iter().filter(|r| r.original && r.dport == 8443).count(), 1);
        // One that ends makes room, and not before both sides have ended it.
        from_web(b, v, 40_007, flag::FIN | flag::ACK);
        b.wait(BACK_OFF);
        b.lan_sends(&sent, &Want::drop(DropReason::FlowLimit).rx_dropped(BLUE));
        to_web(b, v, 40_007, flag::FIN | flag::ACK);
        // The last look in vain stands for a moment.
        wait_until("the client to get in", Duration::from_secs(5), || {
            to_web(b, v, 41_000, flag::SYN);
            clients(b).iter().any(|(sport, _)| *sport == 41_000)
        });
        let found: Vec<_> = clients(b).iter().map(|(sport, _)| *sport).collect();
        assert!(found.contains(&41_000) && !found.contains(&40_007), "{found:?}");
        b.assert_accounts();
    }
);

both!(
    fn datagrams_give_way_before_conversations_and_the_longest_rested_first(b, v) {
        let all = 40_000..40_000 + SHARE;
        ask(b, v, all.clone());
        answer(b, v, [40_000, 40_001]);
        ask(b, v, [40_000]);
        let states = table(b.datapath()).iter().filter(|r| r.original).map(|r| r.state).take(3).collect::<Vec<_>>();
        assert_eq!(states, [State::Assured, State::Established, State::Opening]);
        b.age(v, Duration::from_secs(1), |_, _| true);
        // The oldest two are in use: none has rested for long, and they least.
        ask(b, v, [40_001, 40_002]);
        ask(b, v, [41_000]);
        let found = openers(b);
        assert_eq!(found.len(), usize::from(SHARE));
        assert_eq!(found[..4], [40_000, 40_001, 40_002, 40_004]);
        b.assert_accounts();
    }
);

both!(
    /// A reset of one's own that is taken back shows nobody that its sender hears.
    fn resets_of_nobody_shut_no_client_out(b, v) {
        let lan_sends = |frame: Vec<u8>| drop(b.run(Hook::FromUplink, lan(b), &frame));
        for sport in 40_000..40_000 + SHARE {
            lan_sends(forged(v, sport, 77, 0, flag::SYN));
            lan_sends(forged(v, sport, 78, 0, flag::RST));
            lan_sends(forged(v, sport, 78, 1, flag::ACK));
        }
        for n in 0..SHARE {
            to_web(b, v, 50_000 + n, flag::SYN);
            assert!(clients(b).iter().any(|(sport, _)| *sport == 50_000 + n), "client {n}");
        }
        b.assert_accounts();
    }
);

both!(
    /// Two datagrams of any source, with an answer between, look like a conversation: they close no publish, of neither protocol.
    fn conversations_of_nobody_shut_no_client_out(b, v) {
        let all = 40_000..40_000 + SHARE;
        for _ in 0..2 {
            ask(b, v, all.clone());
            answer(b, v, all.clone());
        }
        assert!(table(b.datapath()).iter().all(|r| r.state == State::Assured));
        for n in 0..SHARE {
            to_web(b, v, 41_000 + n, flag::SYN);
            assert!(clients(b).iter().any(|(sport, _)| *sport == 41_000 + n), "client {n}");
        }
        b.datapath().delete_flows(|_| true).expect("delete flows");
        for _ in 0..2 {
            ask(b, v, all.clone());
            answer(b, v, all.clone());
        }
        for n in 0..SHARE {
            // Keys of the flows that were deleted may be in front.
            let enters = (0..20).any(|_| {
                ask(b, v, [42_000 + n]);
                openers(b).contains(&(42_000 + n))
            });
            assert!(enters, "question {n}");
        }
        b.assert_accounts();
    }
);

both!(
    /// A pod at its limit keeps what it uses, also what nobody answers and the oldest of all.
    fn a_stream_nobody_answers_stays_while_others_rest(b, v) {
        b.configure(|c| c.flows_per_pod = 16);
        for sport in 20_000..20_016 {
            assert!(opens(b, v, RED, sport));
        }
        for n in 0..40 {
            b.age(v, Duration::from_secs(1), |_, _| true);
            assert!(opens(b, v, RED, 20_000), "the stream at {n}");
            assert!(opens(b, v, RED, 21_000 + n), "flow {n}");
            let found = openers(b);
            assert!(found.len() == 16 && found.contains(&20_000), "{n}: {found:?}");
        }
        b.assert_accounts();
    }
);

both!(
    /// A pod's connections over which nothing has come yet stay while its questions rest.
    fn idle_connections_stay_while_questions_rest(b, v) {
        b.configure(|c| c.flows_per_pod = 16);
        let red = |sport, flags| drop(b.run(Hook::FromPod, meta(RED), &from_pod(RED, SERVER.ip(v), tcp(sport, 80, flags)).bytes()));
        for sport in [21_000, 21_001] {
            red(sport, flag::SYN);
            let reply = from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, sport, flag::SYN | flag::ACK));
            b.run(Hook::FromUplink, lan(b), &reply.bytes());
            red(sport, flag::ACK);
        }
        for n in 0..100 {
            b.age(v, Duration::from_secs(1), |_, _| true);
            assert!(opens(b, v, RED, 22_000 + n), "question {n}");
        }
        let found = openers(b);
        assert_eq!(found[..2], [21_000, 21_001]);
        // A conversation that has rested goes before the pod is refused, one that has not does not.
        b.datapath().delete_flows(|_| true).expect("delete flows");
        assert_eq!(uses_many(b, v, RED, 23_000), 16);
        b.age(v, Duration::from_secs(3), |_, _| true);
        assert!(uses(b, v, RED, 23_000));
        wait_until("the last look in vain to be over", Duration::from_secs(5), || uses(b, v, RED, 24_000));
        let found = openers(b);
        assert!(found.len() == 16 && found.contains(&23_000), "{found:?}");
        b.assert_accounts();
    }
);

both!(
    /// What a pod opens gives way as what is opened to it does: ended, half-open and one-shot flows, the oldest first.
    fn a_pods_own_flows_give_way_to_newer_ones(b, v) {
        b.configure(|c| c.flows_per_pod = 4);
        let red = |sport, flags| drop(b.run(Hook::FromPod, meta(RED), &from_pod(RED, SERVER.ip(v), tcp(sport, 80, flags)).bytes()));
        let server = |port, flags| {
            drop(b.run(Hook::FromUplink, lan(b), &from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, port, flags)).bytes()));
        };
        let states = || -> Vec<_> {
            table(b.datapath()).iter().filter(|r| r.original).map(|r| (r.sport, r.state)).collect()
        };
        // In use; half-open; ended; a question that was answered.
        red(21_000, flag::SYN);
        server(21_000, flag::SYN | flag::ACK);
        red(21_000, flag::ACK);
        server(21_000, flag::ACK);
        red(21_001, flag::SYN);
        red(21_002, flag::SYN);
        server(21_002, flag::RST | flag::ACK);
        assert!(opens(b, v, RED, 21_003));
        b.run(Hook::FromUplink, lan(b), &from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 21_003)).bytes());
        assert_eq!(
            states(),
            [
                (21_000, State::Assured),
                (21_001, State::Opening),
                (21_002, State::Reset),
                (21_003, State::Established)
            ]
        );
        // Each newer one takes the place of the oldest that is not in use.
        for (n, stay) in [(0, vec![21_002, 21_003]), (1, vec![21_003]), (2, vec![])] {
            assert!(uses(b, v, RED, 22_000 + n));
            let wanted: Vec<u16> = [vec![21_000], stay, (22_000..=22_000 + n).collect()].concat();
            assert_eq!(states().iter().map(|s| s.0).collect::<Vec<_>>(), wanted);
        }
        // All are in use now, a half-closed one too.
        red(21_000, flag::FIN | flag::ACK);
        assert_eq!(states()[0], (21_000, State::OriginalFin));
        let sent = from_pod(RED, SERVER.ip(v), udp(23_000, 53));
        let error = originated(Problem::Prohibited, GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
        for _ in 0..2 {
            b.pod_sends(RED, &sent, &Want::reject_to(RED, DropReason::FlowLimit, &error));
            b.wait(BACK_OFF);
        }
        b.assert_accounts();
    }
);

both!(
    /// Accounts that are filled one after the other take a half, a quarter, an eighth ... of the table, and in the end all of it.
    fn who_comes_when_all_is_taken_gets_in_all_the_same(b, v) {
        let total = || table(b.datapath()).iter().filter(|r| r.original).count();
        for pod in [RED, BLUE, GREEN, YELLOW, TWIN] {
            let mut sport = 20_000;
            // By one-way datagrams: nobody has to answer.
            while sport < 20_000 + FLOWS as u16 && opens(b, v, pod, sport) {
                sport += 1;
            }
        }
        ask(b, v, 40_000..40_000 + FLOWS as u16);
        for n in 0..FLOWS as u16 {
            to_web(b, v, 30_000 + n, flag::SYN);
        }
        let full = total();
        assert!(full >= FLOWS as usize - 8, "{full} of {FLOWS}");
        // In use, all at once.
        for n in 0..15 {
            let enters = (0..20).any(|_| uses(b, v, TWIN_BLUE, 21_000 + n) || { b.wait(BACK_OFF); false });
            assert!(enters, "flow {n} of a pod that comes late");
        }
        let late = table(b.datapath()).iter().filter(|r| r.original && (21_000..21_015).contains(&r.sport)).count();
        assert_eq!(late, 15);
        assert!(total() <= FLOWS as usize);
        b.assert_accounts();
    }
);

both!(
    /// A flow that could not follow takes the place of none.
    fn nothing_ends_for_a_flow_that_is_refused_all_the_same(b, v) {
        for sport in 20_000..20_040 {
            assert!(uses(b, v, RED, sport));
        }
        b.age(v, Duration::from_secs(3), |_, _| true);
        b.configure(|c| c.flows_per_pod = 16);
        for n in 0..10 {
            assert!(!opens(b, v, RED, 30_000 + n));
            b.wait(BACK_OFF);
        }
        assert_eq!(openers(b).len(), 40);
        b.configure(|c| (c.flows_per_pod, c.flows) = (0, 32));
        for n in 0..10 {
            assert!(!opens(b, v, RED, 30_000 + n));
            b.wait(BACK_OFF);
        }
        assert_eq!(openers(b).len(), 40);
        b.assert_accounts();
    }
);

both!(
    /// A server that has closed, and a client that never does: its place is another's when it has rested for long.
    fn half_closed_connections_give_way_when_they_have_rested(b, v) {
        for sport in 40_000..40_000 + SHARE {
            assert!(enters(b, v, sport));
        }
        let sent = from_lan(CLIENT.ip(v), HOST.ip(v), tcp(41_000, 8080, flag::SYN));
        b.lan_sends(&sent, &Want::drop(DropReason::FlowLimit).rx_dropped(BLUE));
        from_web(b, v, 40_005, flag::FIN | flag::ACK);
        from_web(b, v, 40_006, flag::FIN | flag::ACK);
        b.wait(BACK_OFF);
        b.lan_sends(&sent, &Want::drop(DropReason::FlowLimit).rx_dropped(BLUE));
        b.age(v, Duration::from_secs(61), |_, _| true);
        // This one goes on.
        to_web(b, v, 40_006, flag::ACK);
        wait_until("the client to get in", Duration::from_secs(5), || {
            to_web(b, v, 41_000, flag::SYN);
            clients(b).iter().any(|(sport, _)| *sport == 41_000)
        });
        let found: Vec<_> = clients(b).iter().map(|(sport, _)| *sport).collect();
        assert!(found.contains(&40_006) && !found.contains(&40_005), "{found:?}");
        b.assert_accounts();
    }
);
