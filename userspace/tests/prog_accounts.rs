//! Accounts of flows: who may open another, who gives way to whom, and that every count is exact.

mod common;
#[macro_use]
mod prog;

use std::thread;
use std::time::Duration;

use common::wait_until;
use netns::datapath::{ExhaustedPorts, Hook};
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::flows::{masqueraded, pair, table};
use prog::want::{counters, growth};
use prog::*;

/// Flows one account gets of an empty table.
const SHARE: u16 = FLOWS as u16 / 2;

fn meta(pod: Pod) -> Meta {
    Meta { ifindex: pod.ifindex(), ..Meta::default() }
}

fn lan(b: &Bench) -> Meta {
    Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() }
}

/// Whether a pod gets to open a flow to a server from this port.
fn opens(b: &Bench, v: Version, pod: Pod, sport: u16) -> bool {
    let sent = from_pod(pod, SERVER.ip(v), udp(sport, 53)).bytes();
    b.run(Hook::FromPod, meta(pod), &sent);
    table(b.datapath()).iter().any(|r| r.original && r.src == pod.ip(v) && r.sport == sport)
}

/// How many flows a pod gets to open from `first` on.
fn opens_many(b: &Bench, v: Version, pod: Pod, first: u16) -> u16 {
    (0..u16::MAX).take_while(|n| opens(b, v, pod, first + n)).count() as u16
}

/// A client's packet to the web server blue publishes.
fn to_web(b: &Bench, v: Version, sport: u16, flags: u8) {
    b.run(Hook::FromUplink, lan(b), &from_lan(CLIENT.ip(v), HOST.ip(v), tcp(sport, 8080, flags)).bytes());
}

/// The web server's packet to a client.
fn from_web(b: &Bench, v: Version, dport: u16, flags: u8) {
    b.run(Hook::FromPod, meta(BLUE), &from_pod(BLUE, CLIENT.ip(v), tcp(80, dport, flags)).bytes());
}

/// The ports of the clients that have a flow to the web server, with its state.
fn clients(b: &Bench) -> Vec<(u16, State)> {
    table(b.datapath()).iter().filter(|r| r.original && r.dport == 8080).map(|r| (r.sport, r.state)).collect()
}

both!(
    fn a_pod_has_its_share_and_a_newcomer_has_room(b, v) {
        assert_eq!(opens_many(b, v, RED, 20_000), SHARE);
        let sent = from_pod(RED, SERVER.ip(v), udp(30_000, 53));
        let error = originated(Problem::Prohibited, GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
        b.pod_sends(RED, &sent, &Want::reject_to(RED, DropReason::FlowLimit, &error));
        // What it has goes on; others share what is left by the same rule.
        let (first, left) = masqueraded(v, SERVER, udp(20_000, 53), 20_000);
        b.pod_sends(RED, &first, &Want::neigh(&left));
        assert_eq!(opens_many(b, v, BLUE, 21_000), SHARE / 2);
        assert_eq!(opens_many(b, v, GREEN, 22_000), SHARE / 4);
        assert!(!opens(b, v, RED, 30_000));
        b.assert_accounts();
        // As many as end may be opened.
        let gone = b.datapath().delete_flows(|r| r.original && r.owner_slot == Some(BLUE.slot)).expect("delete");
        assert_eq!(gone, usize::from(SHARE));
        // Red has a half and green an eighth: blue gets half of the rest.
        assert_eq!(opens_many(b, v, BLUE, 23_000), SHARE * 3 / 8);
        b.assert_accounts();
    }
);

both!(
    fn a_cap_goes_before_the_share_and_changes_live(b, v) {
        b.configure(|c| c.flows_per_pod = 3);
        assert_eq!(opens_many(b, v, RED, 20_000), 3);
        assert_eq!(opens_many(b, v, BLUE, 21_000), 3);
        b.configure(|c| c.flows_per_pod = 5);
        assert_eq!(opens_many(b, v, RED, 22_000), 2);
        b.configure(|c| c.flows_per_pod = 0);
        assert_eq!(opens_many(b, v, RED, 23_000), (FLOWS as u16 - 3) / 2 + 1 - 5);
        b.assert_accounts();
    }
);

both!(
    fn a_table_made_larger_or_smaller_keeps_what_it_has(b, v) {
        b.configure(|c| c.flows = 8);
        assert_eq!(opens_many(b, v, RED, 20_000), 4);
        let before = table(b.datapath());
        b.configure(|c| c.flows = 16);
        assert_eq!(opens_many(b, v, RED, 21_000), 4);
        let after = table(b.datapath());
        assert!(before.iter().all(|r| after.contains(r)));
        b.configure(|c| c.flows = 2);
        let (first, left) = masqueraded(v, SERVER, udp(20_000, 53), 20_000);
        b.pod_sends(RED, &first, &Want::neigh(&left));
        let sent = from_pod(BLUE, SERVER.ip(v), udp(22_000, 53));
        b.pod_sends(BLUE, &sent, &Want::drop(DropReason::FlowTableFull));
        assert_eq!(table(b.datapath()), after);
    }
);

both!(
    fn nobody_gets_in_when_every_share_is_taken(b, v) {
        b.configure(|c| c.flows = 3);
        for (pod, sport) in [(RED, 20_000), (RED, 20_001), (GREEN, 20_002)] {
            assert!(opens(b, v, pod, sport));
        }
        let sent = from_pod(YELLOW, HOST.ip(v), udp(20_003, 5353));
        b.pod_sends(YELLOW, &sent, &Want::drop(DropReason::FlowTableFull));
        // A client of a published port finds nothing that would give way to it.
        let sent = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 5353));
        b.lan_sends(&sent, &Want::drop(DropReason::FlowTableFull).rx_dropped(BLUE));
    }
);

both!(
    fn a_flood_from_outside_leaves_the_pods_own_flows_alone(b, v) {
        for sport in 0..3 * FLOWS as u16 {
            to_web(b, v, 40_000 + sport, flag::SYN);
        }
        let [of_4, of_6] = b.datapath().flow_counts(BLUE.slot).expect("counts");
        let count = if v == V4 { of_4 } else { of_6 };
        assert_eq!((count.opened, count.incoming), (0, SHARE.into()));
        assert_eq!(opens_many(b, v, BLUE, 20_000), SHARE / 2);
        assert_eq!(opens_many(b, v, RED, 21_000), SHARE / 4);
        b.assert_accounts();
    }
);

both!(
    fn handshakes_nobody_completes_give_way_oldest_first(b, v) {
        // One client completes its handshake, one is half-way, one has ended, the rest never come back.
        for sport in 40_000..40_000 + SHARE {
            to_web(b, v, sport, flag::SYN);
        }
        from_web(b, v, 40_000, flag::SYN | flag::ACK);
        to_web(b, v, 40_000, flag::ACK);
        from_web(b, v, 40_001, flag::SYN | flag::ACK);
        from_web(b, v, 40_002, flag::RST);
        assert_eq!(
            clients(b)[..4],
            [
                (40_000, State::Established),
                (40_001, State::Answered),
                (40_002, State::Reset),
                (40_003, State::Opening)
            ]
        );
        let before = counters(b);
        for n in 0..4 {
            to_web(b, v, 41_000 + n, flag::SYN);
            let found: Vec<_> = clients(b).iter().map(|(sport, _)| *sport).collect();
            let mut wanted = vec![40_000];
            wanted.extend(40_002 + n..40_000 + SHARE);
            wanted.extend(41_000..=41_000 + n);
            assert_eq!(found, wanted);
        }
        let grown = growth(&before, &counters(b));
        assert_eq!(grown.get("verdict from_uplink peer"), Some(&4), "{grown:?}");
        b.assert_accounts();
    }
);

both!(
    fn established_clients_never_give_way(b, v) {
        for sport in 40_000..40_000 + SHARE {
            to_web(b, v, sport, flag::SYN);
            from_web(b, v, sport, flag::SYN | flag::ACK);
            to_web(b, v, sport, flag::ACK);
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
        // One that ends makes room.
        from_web(b, v, 40_007, flag::FIN | flag::ACK);
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
    fn datagrams_that_were_answered_do_not_give_way(b, v) {
        let ask = |sport| {
            b.run(Hook::FromUplink, lan(b), &from_lan(CLIENT.ip(v), HOST.ip(v), udp(sport, 5353)).bytes());
        };
        for sport in 40_000..40_000 + SHARE {
            ask(sport);
        }
        let answer = from_pod(BLUE, CLIENT.ip(v), udp(53, 40_000)).bytes();
        b.run(Hook::FromPod, meta(BLUE), &answer);
        ask(41_000);
        let found: Vec<_> = table(b.datapath()).iter().filter(|r| r.original).map(|r| r.sport).collect();
        assert!(found.contains(&40_000) && !found.contains(&40_001) && found.contains(&41_000), "{found:?}");
        assert_eq!(found.len(), usize::from(SHARE));
    }
);

both!(
    fn a_hairpin_is_the_senders(b, v) {
        let sent = from_pod(RED, HOST.ip(v), tcp(20_000, 8080, flag::SYN)).bytes();
        b.run(Hook::FromPod, meta(RED), &sent);
        let count = |pod: Pod| {
            let [of_4, of_6] = b.datapath().flow_counts(pod.slot).expect("counts");
            let count = if v == V4 { of_4 } else { of_6 };
            (count.opened, count.incoming)
        };
        assert_eq!((count(RED), count(BLUE)), ((1, 0), (0, 0)));
        // A publish that goes leaves the count to whom it was.
        b.datapath().orphan_flows(&[WEB].into()).expect("orphan");
        to_web(b, v, 40_000, flag::SYN);
        b.datapath().orphan_flows(&[WEB].into()).expect("orphan");
        assert!(table(b.datapath()).iter().all(|r| r.publish.is_none()));
        assert_eq!((count(RED), count(BLUE)), ((1, 0), (0, 1)));
        assert_eq!(b.datapath().delete_flows(|_| true).expect("delete"), 4);
        assert_eq!((count(RED), count(BLUE)), ((0, 0), (0, 0)));
    }
);

both!(
    fn a_flow_that_ends_by_itself_leaves_its_account(b, v) {
        // A packet that finds its flow old, a port search that does, and a sweep.
        b.configure(|c| {
            c.timeout_ns = [1_000_000; 4];
            (c.snat_port_min, c.snat_port_max) = (20_000, 20_000);
        });
        for pod in [RED, BLUE, BLUE, RED] {
            b.run(Hook::FromPod, meta(pod), &from_pod(pod, SERVER.ip(v), udp(20_000, 53)).bytes());
            assert_eq!(table(b.datapath()).len(), 2);
            b.assert_accounts();
            b.wait(Duration::from_millis(20));
        }
        assert_eq!(b.datapath().expire_flows(usize::MAX).expect("sweep"), 2);
        assert_eq!(b.datapath().flow_totals().expect("totals"), [0, 0]);
        b.assert_accounts();
    }
);

both!(
    fn flows_that_are_over_take_no_room_though_nothing_sweeps_them(b, v) {
        b.configure(|c| c.timeout_ns = [1_000_000_000; 4]);
        assert_eq!(opens_many(b, v, RED, 20_000), SHARE);
        for sport in 40_000..40_000 + SHARE / 2 {
            to_web(b, v, sport, flag::SYN);
        }
        b.wait(Duration::from_millis(1020));
        // Red has more than its share, now that the clients are there: some tries clear away what is over, then all succeed.
        let refused = (0..SHARE).position(|n| opens(b, v, RED, 21_000 + n)).expect("one at least");
        assert!(refused < 8, "{refused}");
        for n in 0..SHARE / 2 {
            assert!(opens(b, v, RED, 22_000 + n), "flow {n}");
        }
        b.wait(Duration::from_millis(1020));
        for n in 0..SHARE {
            assert!(opens(b, v, RED, 23_000 + n), "flow {n} of the second round");
        }
        let total: u64 = b.datapath().flow_totals().expect("totals").iter().sum();
        assert!(total <= u64::from(SHARE) * 3 / 2, "{total}");
        b.assert_accounts();
    }
);

both!(
    fn sweeping_asks_for_the_time_once_more(b, v) {
        let (sent, left) = masqueraded(v, SERVER, udp(20_000, 53), 20_000);
        let flow = pair(b, &sent, &left);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
        assert_eq!(b.datapath().expire_flows(usize::MAX).expect("sweep"), 0);
        // Old in one direction, alive in the other.
        b.configure(|c| c.timeout_ns = [3_000_000_000; 4]);
        b.wait(Duration::from_millis(3100));
        let reply = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000));
        b.configure(|c| c.timeout_ns = [60_000_000_000; 4]);
        b.run(Hook::FromUplink, lan(b), &reply.bytes());
        b.configure(|c| c.timeout_ns = [3_000_000_000; 4]);
        assert_eq!(b.datapath().expire_flows(usize::MAX).expect("sweep"), 0);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow.state(State::Established)]));
    }
);

both!(
    fn exhaustion_is_counted_by_pod_and_by_destination(b, v) {
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_001));
        let found = || {
            let found = b.datapath().exhausted_ports().expect("list");
            found.into_iter().filter(|e| e.addr == SERVER.ip(v) && e.port == 7053).collect::<Vec<_>>()
        };
        let before: u64 = found().iter().map(|e| e.refused).sum();
        let refused = |pod: Pod| b.datapath().endpoint_counters(pod.slot).expect("counters").refused_ports;
        let (red, blue) = (refused(RED), refused(BLUE));
        for (pod, sport) in [(RED, 1), (RED, 2), (RED, 3), (BLUE, 1), (RED, 4)] {
            b.run(Hook::FromPod, meta(pod), &from_pod(pod, SERVER.ip(v), udp(sport, 7053)).bytes());
        }
        let wanted = ExhaustedPorts { network: 1, proto: 17, addr: SERVER.ip(v), port: 7053, refused: before + 3 };
        assert_eq!(found(), [wanted]);
        assert_eq!((refused(RED) - red, refused(BLUE) - blue), (2, 1));
        b.assert_accounts();
    }
);

both!(
    fn a_search_in_vain_stands_for_a_moment_or_until_a_flow_ends(b, v) {
        let range = |last| b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, last));
        range(20_001);
        assert_eq!(opens_many(b, v, RED, 1000), 2);
        // A port that comes free by another way than a flow's end is found a little later.
        range(20_002);
        assert!(!opens(b, v, RED, 1010));
        wait_until("the moment to pass", Duration::from_secs(5), || opens(b, v, RED, 1011));
        assert!(!opens(b, v, RED, 1012));
        // One that a flow leaves is found at once, and other destinations never were concerned.
        let elsewhere = from_pod(RED, SERVER2.ip(v), udp(1012, 53)).bytes();
        b.run(Hook::FromPod, meta(RED), &elsewhere);
        assert!(table(b.datapath()).iter().any(|r| r.original && r.dst == SERVER2.ip(v)));
        b.datapath().delete_flows(|r| r.original && r.sport == 1000).expect("delete");
        assert!(opens(b, v, RED, 1013));
        b.assert_accounts();
    }
);

both!(
    /// Eight threads open, answer and end the same few flows, and sweep, all at once.
    fn counts_are_exact_whoever_ends_a_flow(b, v) {
        const ROUNDS: u16 = 10_000;
        b.configure(|c| {
            c.timeout_ns = [1_000_000; 4];
            (c.snat_port_min, c.snat_port_max) = (20_000, 20_007);
        });
        thread::scope(|scope| {
            for thread in 0..8_u16 {
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let n = round.wrapping_mul(7).wrapping_add(thread) % 12;
                        let pod = if n % 2 == 0 { RED } else { BLUE };
                        let sent = from_pod(pod, SERVER.ip(v), tcp(20_000 + n, 80, flag::SYN));
                        b.run(Hook::FromPod, meta(pod), &sent.bytes());
                        let flags = if round % 3 == 0 { flag::RST } else { flag::SYN | flag::ACK };
                        let reply = from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, 20_000 + n % 8, flags));
                        b.run(Hook::FromUplink, lan(b), &reply.bytes());
                        to_web(b, v, 40_000 + n, flag::SYN);
                        if round % 16 == 0 {
                            b.datapath().expire_flows(usize::MAX).expect("sweep");
                        }
                    }
                });
            }
        });
        b.assert_accounts();
        b.datapath().delete_flows(|_| true).expect("delete");
        assert_eq!(b.datapath().flow_totals().expect("totals"), [0, 0]);
        b.assert_accounts();
    }
);
