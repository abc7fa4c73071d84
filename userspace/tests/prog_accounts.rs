//! Accounts of flows: who may open another, who gives way to whom, and that every count is exact.

mod common;
#[macro_use]
mod prog;

use std::thread;
use std::time::{Duration, Instant};

use common::wait_until;
use netns::datapath::{ExhaustedPorts, Hook};
use netns_ebpf_common::flow::TargetKind;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::clients::*;
use prog::flows::{masqueraded, pair, table};
use prog::*;

/// Flows one account gets of an empty table.
const SHARE: u16 = FLOWS as u16 / 2;

/// How long a look in vain, for a flow that may go or for a port, stands for those that would follow.
const BACK_OFF: Duration = Duration::from_millis(10);

both!(
    fn a_pod_has_its_share_and_a_newcomer_has_room(b, v) {
        assert_eq!(uses_many(b, v, RED, 20_000), SHARE);
        let sent = from_pod(RED, SERVER.ip(v), udp(30_000, 53));
        let error = originated(Problem::Prohibited, GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
        b.pod_sends(RED, &sent, &Want::reject_to(RED, DropReason::FlowLimit, &error));
        // What it has goes on; others share what is left by the same rule.
        let (first, left) = masqueraded(v, SERVER, udp(20_000, 53), 20_000);
        b.pod_sends(RED, &first, &Want::neigh(&left));
        assert_eq!(uses_many(b, v, BLUE, 21_000), SHARE / 2);
        assert_eq!(uses_many(b, v, GREEN, 22_000), SHARE / 4);
        assert!(!opens(b, v, RED, 30_000));
        b.assert_accounts();
        // As many as end may be opened.
        let gone = b.datapath().delete_flows(|r| r.original && r.owner_slot == Some(BLUE.slot)).expect("delete");
        assert_eq!(gone, usize::from(SHARE));
        // Red has a half and green an eighth: blue gets half of the rest.
        assert_eq!(uses_many(b, v, BLUE, 23_000), SHARE * 3 / 8);
        b.assert_accounts();
    }
);

both!(
    fn a_cap_goes_before_the_share_and_changes_live(b, v) {
        b.configure(|c| c.flows_per_pod = 3);
        assert_eq!(uses_many(b, v, RED, 20_000), 3);
        assert_eq!(uses_many(b, v, BLUE, 21_000), 3);
        b.configure(|c| c.flows_per_pod = 5);
        assert_eq!(uses_many(b, v, RED, 22_000), 2);
        b.configure(|c| c.flows_per_pod = 0);
        assert_eq!(uses_many(b, v, RED, 23_000), (FLOWS as u16 - 3) / 2 + 1 - 5);
        b.assert_accounts();
    }
);

both!(
    fn a_table_made_larger_or_smaller_keeps_what_it_has(b, v) {
        b.configure(|c| c.flows = 8);
        assert_eq!(uses_many(b, v, RED, 20_000), 4);
        let before = table(b.datapath());
        b.configure(|c| c.flows = 16);
        assert_eq!(uses_many(b, v, RED, 21_000), 4);
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
        assert_eq!(uses_many(b, v, BLUE, 20_000), SHARE / 2);
        assert_eq!(uses_many(b, v, RED, 21_000), SHARE / 4);
        b.assert_accounts();
    }
);

both!(
    /// Finding 10: a look for flows that may go costs and stops nobody but its own account.
    fn a_pod_with_many_flows_in_use_is_in_nobodys_way(b, v) {
        // Many flows of red that stay, then clients of blue that never complete their handshake, then red is at its limit and looks
        // in vain all the time.
        let of_red = uses_many(b, v, RED, 20_000);
        for sport in 40_000..40_000 + SHARE {
            to_web(b, v, sport, flag::SYN);
        }
        for n in 0..SHARE {
            assert!(!opens(b, v, RED, 30_000 + n));
            to_web(b, v, 41_000 + n, flag::SYN);
            assert!(clients(b).iter().any(|(sport, _)| *sport == 41_000 + n), "client {n}");
        }
        assert_eq!(table(b.datapath()).iter().filter(|r| r.original && r.dport == 53).count(), usize::from(of_red));
        b.assert_accounts();
    }
);

both!(
    /// Another's flow makes room only when its time is over.
    fn others_flows_make_room_when_they_are_over(b, v) {
        b.configure(|c| {
            c.flows = 2;
            c.timeout_ns = [20_000_000_000; 4];
        });
        assert!(uses(b, v, RED, 20_000) && uses(b, v, BLUE, 20_001));
        let sent = from_pod(GREEN, SERVER.ip(v), udp(20_002, 53));
        b.pod_sends(GREEN, &sent, &Want::drop(DropReason::FlowTableFull));
        b.age(v, Duration::from_secs(21), |_, target| match target.kind {
            TargetKind::Pod => target.id == RED.slot,
            TargetKind::Uplink => true,
        });
        // Of blue's flow one direction is young.
        wait_until("green to get in", Duration::from_secs(5), || opens(b, v, GREEN, 20_002));
        let owners: Vec<_> = table(b.datapath()).iter().filter(|r| r.original).map(|r| r.owner_slot).collect();
        assert_eq!(owners, [Some(BLUE.slot), Some(GREEN.slot)]);
        b.assert_accounts();
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
        let everything_is_over = || b.age(v, Duration::from_secs(21), |_, _| true);
        b.configure(|c| c.timeout_ns = [20_000_000_000; 4]);
        assert_eq!(uses_many(b, v, RED, 20_000), SHARE);
        for sport in 40_000..40_000 + SHARE / 2 {
            to_web(b, v, sport, flag::SYN);
        }
        everything_is_over();
        b.wait(BACK_OFF);
        // Red has more than its share, now that the clients are there: each try clears one away, until it is at its share.
        let refused = (0..SHARE).position(|n| uses(b, v, RED, 21_000 + n)).expect("one at least");
        assert!(refused <= usize::from(SHARE / 4), "{refused}");
        for n in 0..SHARE / 2 {
            assert!(uses(b, v, RED, 22_000 + n), "flow {n}");
        }
        everything_is_over();
        for n in 0..SHARE / 2 {
            assert!(uses(b, v, RED, 23_000 + n), "flow {n} of the second round");
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
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow.state(State::Assured)]));
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
    fn a_search_in_vain_stands_for_a_moment_whatever_ends_meanwhile(b, v) {
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_001));
        assert_eq!(uses_many(b, v, RED, 1000), 2);
        // What the pod does itself does not call its search back: that a flow of its own ends.
        for sport in 1010.. {
            let before = Instant::now();
            assert!(!opens(b, v, RED, sport));
            let gone = table(b.datapath()).into_iter().find(|r| r.original && r.dst == SERVER.ip(v)).expect("a flow");
            b.datapath().delete_flows(|r| r.original && r.sport == gone.sport).expect("delete");
            let found = opens(b, v, RED, sport);
            if before.elapsed() < BACK_OFF {
                assert!(!found);
                break;
            }
            // The machine was too busy to see it: once more, with all ports taken.
            assert!(sport < 2000, "the machine is too slow for this test");
            wait_until("the moment to pass", Duration::from_secs(5), || uses(b, v, RED, sport));
            b.wait(BACK_OFF);
        }
        // Other destinations never were concerned, nor is another searcher.
        let elsewhere = from_pod(RED, SERVER2.ip(v), udp(1012, 53)).bytes();
        b.run(Hook::FromPod, meta(RED), &elsewhere);
        assert!(table(b.datapath()).iter().any(|r| r.original && r.dst == SERVER2.ip(v)));
        assert!(opens(b, v, BLUE, 1012));
        b.datapath().delete_flows(|r| r.original && r.owner_slot == Some(BLUE.slot)).expect("delete");
        wait_until("the moment to pass", Duration::from_secs(5), || opens(b, v, RED, 3000));
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
