//! Whose ports are: shares of pods, flows that yield theirs to others, and that each is counted while it is in use.

mod common;
#[macro_use]
mod prog;

use std::time::Duration;

use netns::datapath::Hook;
use netns_ebpf_common::port::BACK_OFF_NS;
use prog::flows::{opens, table};
use prog::mapping::{independent, range};
use prog::*;

/// The port a flow gets, if it gets one.
#[track_caller]
fn port(b: &Bench, v: Version, pod: Pod, to: Place, l4: L4) -> Option<u16> {
    opens(b, v, pod, to, l4).map(|(_, port)| port)
}

/// Somebody answers the host's port.
fn answers(b: &Bench, v: Version, from: Place, l4: L4) {
    let meta = Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() };
    assert_eq!(b.run(Hook::FromUplink, meta, &from_lan(from.ip(v), HOST.ip(v), l4).bytes()).action, 7);
}

/// SNAT's range is this, without mappings.
fn few(b: &Bench, ports: std::ops::RangeInclusive<u16>) {
    b.configure(|c| (c.snat_port_min, c.snat_port_max) = (*ports.start(), *ports.end()));
}

fn age(b: &Bench, v: Version, seconds: u64) {
    b.age(v, Duration::from_secs(seconds), |_, _| true);
}

fn syn(sport: u16) -> L4 {
    tcp(sport, 80, flag::SYN)
}

fn reset(port: u16) -> L4 {
    tcp(80, port, flag::RST | flag::ACK)
}

both!(
    fn pods_share_the_ports_towards_a_destination(b, v) {
        few(b, 20_000..=20_089);
        for n in 0..80 {
            assert_eq!(port(b, v, RED, SERVER, udp(20_000 + n, 53)), Some(20_000 + n));
        }
        // It has 8 times as many as are free: its own port is free, too.
        assert_eq!(port(b, v, RED, SERVER, udp(20_080, 53)), None);
        assert_eq!(port(b, v, RED, SERVER2, udp(20_080, 53)), Some(20_080), "towards another one");
        assert_eq!(port(b, v, RED, SERVER, udp(20_080, 54)), Some(20_080), "towards another port");
        for n in 0..9 {
            assert!(port(b, v, BLUE, SERVER, udp(20_000 + n, 53)).is_some(), "the newcomer's flow {n}");
        }
        assert_eq!(port(b, v, BLUE, SERVER, udp(20_009, 53)), None);
        assert!(port(b, v, GREEN, SERVER, udp(20_000, 53)).is_some(), "another one");
        assert_eq!(port(b, v, TWIN, SERVER, udp(20_000, 53)), None, "the range is full");
        assert_eq!(b.ports_counted(), [4 * 92, 92]);
        // What red gives back is anybody's.
        b.datapath().delete_flows(|r| r.original && r.owner_slot == Some(RED.slot) && r.sport < 20_040).expect("delete");
        b.end_back_off(v);
        assert!(port(b, v, TWIN, SERVER, udp(20_001, 53)).is_some());
        assert_eq!(b.ports_counted(), [4 * 53, 53]);
    }
);

both!(
    /// A client that asks one server from new ports comes to those it has used before: each of its flows is a conversation then, and the
    /// one that has rested longest gives its port.
    fn a_pod_at_its_share_goes_on_asking(b, v) {
        few(b, 20_000..=20_089);
        let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
        for n in 0..80 {
            let sport = 40_000 + n;
            let at = port(b, v, RED, SERVER, udp(sport, 53)).expect("a port");
            answers(b, v, SERVER, udp(53, at));
            b.run(Hook::FromPod, meta, &from_pod(RED, SERVER.ip(v), udp(sport, 53)).bytes());
        }
        assert_eq!(port(b, v, RED, SERVER, udp(50_000, 53)), None, "all of them are in use");
        age(b, v, 2);
        b.run(Hook::FromPod, meta, &from_pod(RED, SERVER.ip(v), udp(40_005, 53)).bytes());
        for n in 0..40 {
            b.end_back_off(v);
            assert!(port(b, v, RED, SERVER, udp(50_000 + n, 53)).is_some(), "question {n}");
        }
        let sports: Vec<u16> = table(b.datapath()).iter().filter(|r| r.original).map(|r| r.sport).collect();
        assert!(sports.len() == 80 && sports.contains(&40_005), "{sports:?}");
        // Nobody else gets one that way.
        assert_eq!(b.ports_counted()[1], 80);
    }
);

both!(
    /// Pods that fill the range one after the other take 8/9, 8/81, 8/729 ... of it, and in the end all.
    fn who_comes_when_others_have_all_ports_takes_one_that_rests(b, v) {
        few(b, 20_000..=20_080);
        let meta = |pod: Pod| Meta { ifindex: pod.ifindex(), ..Meta::default() };
        for pod in [RED, BLUE, GREEN] {
            let mut sport = 20_000;
            while let Some(at) = port(b, v, pod, SERVER, udp(sport, 53)) {
                // In use on both sides.
                answers(b, v, SERVER, udp(53, at));
                b.run(Hook::FromPod, meta(pod), &from_pod(pod, SERVER.ip(v), udp(sport, 53)).bytes());
                sport += 1;
            }
        }
        assert_eq!(b.ports_counted()[1], 81);
        assert_eq!(port(b, v, TWIN, SERVER, udp(1000, 53)), None, "all of them are in use at the moment");
        age(b, v, 11);
        b.end_back_off(v);
        let at = port(b, v, TWIN, SERVER, udp(1000, 53)).expect("a port");
        answers(b, v, SERVER, udp(53, at));
        b.run(Hook::FromPod, meta(TWIN), &from_pod(TWIN, SERVER.ip(v), udp(1000, 53)).bytes());
        // That was for who had none. Nor is it for whom there are others: those come first.
        b.end_back_off(v);
        assert_eq!(port(b, v, TWIN, SERVER, udp(1001, 53)), None);
        let of_red = |r: &netns::datapath::FlowRecord| r.original && r.owner_slot == Some(RED.slot);
        let freed = table(b.datapath()).into_iter().find(of_red).map(|r| r.to_sport);
        assert_eq!(b.datapath().delete_flows(|r| of_red(r) && Some(r.to_sport) == freed).expect("delete"), 2);
        age(b, v, 61);
        b.end_back_off(v);
        let before = table(b.datapath()).len();
        assert_eq!(port(b, v, TWIN_BLUE, SERVER, udp(1000, 53)), freed, "the one that is free");
        assert_eq!(table(b.datapath()).len(), before + 2);
    }
);

both!(
    fn a_pod_that_maps_all_it_can_leaves_ports_to_others(b, v) {
        independent(b, false);
        // Of these 24 ports 18 are for mappings.
        range(b, 20_000..=20_023);
        for n in 0..16 {
            assert_eq!(port(b, v, RED, SERVER, udp(20_000 + n, 53)), Some(20_000 + n));
        }
        assert_eq!(port(b, v, RED, SERVER, udp(20_016, 53)), None);
        assert_eq!(port(b, v, RED, SERVER2, udp(20_016, 53)), None, "a mapping's port is the same for all destinations");
        // Another pod of the network, whose own port is none for a mapping.
        let mut got = [20_020, 20_021].map(|own| port(b, v, BLUE, SERVER, udp(own, 53)).expect("a port"));
        got.sort_unstable();
        assert_eq!(got, [20_016, 20_017]);
        assert_eq!(port(b, v, GREEN, SERVER, udp(20_023, 53)), None);
        // A network without mappings has the upper quarter, and nothing of theirs though no flow of them goes there.
        let mut got: Vec<_> =
            (0..6).map(|n| port(b, v, TWIN, SERVER2, udp(1000 + n, 53)).expect("a port of the upper quarter")).collect();
        got.sort_unstable();
        assert_eq!(got, (20_018..=20_023).collect::<Vec<_>>());
        assert_eq!(port(b, v, TWIN, SERVER2, udp(1006, 53)), None);
        // The mappings' 18 and the flows of the other network; flows along mappings are counted with those.
        assert_eq!(b.ports_counted(), [4 * 24, 24]);
    }
);

both!(
    fn a_mappings_port_is_one_of_the_lower_part_of_the_range_for_tcp_too(b, v) {
        independent(b, false);
        for own in [50_000, 32_767] {
            let at = port(b, v, RED, SERVER, syn(own)).expect("a port");
            assert!((20_000..29_576).contains(&at), "{own} left as {at}");
        }
    }
);

both!(
    fn a_search_in_vain_stands_for_its_searcher_and_destination_alone(b, v) {
        few(b, 20_000..=20_000);
        assert_eq!(port(b, v, RED, SERVER, udp(20_000, 53)), Some(20_000));
        assert_eq!(port(b, v, RED, SERVER2, udp(20_000, 53)), Some(20_000));
        let before = now_ns();
        assert_eq!(port(b, v, RED, SERVER, udp(1001, 53)), None);
        let searches = b.port_searches(v);
        assert_eq!(searches.len(), 1, "{searches:?}");
        let (searcher, search) = searches[0];
        assert_eq!((searcher, search.refused, search.vain), (RED.slot, 1, 1));
        // The clock of the programs may be a tick behind.
        assert!((before - BACK_OFF_NS..=now_ns() + BACK_OFF_NS).contains(&search.retry_at_ns), "{search:?} at {before}");
        b.back_off_until(v, u64::MAX);
        b.datapath().delete_flows(|_| true).expect("delete");
        assert_eq!(port(b, v, RED, SERVER, udp(1001, 53)), None, "it stands");
        assert_eq!(b.port_searches(v)[0].1.refused, 2);
        assert_eq!(port(b, v, RED, SERVER, udp(20_000, 53)), Some(20_000), "no search");
        b.datapath().delete_flows(|_| true).expect("delete");
        assert_eq!(port(b, v, RED, SERVER, udp(1001, 54)), Some(20_000), "another port");
        assert_eq!(port(b, v, RED, SERVER2, udp(1001, 53)), Some(20_000), "another address");
        assert_eq!(port(b, v, BLUE, SERVER, udp(1001, 53)), Some(20_000), "another pod");
        b.datapath().delete_flows(|_| true).expect("delete");
        b.end_back_off(v);
        assert_eq!(port(b, v, RED, SERVER, udp(1001, 53)), Some(20_000));
    }
);

fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("the clock");
    Duration::from(now).as_nanos() as u64
}

/// All three ports are those of red's flows that have ended 30, 20 and 10 seconds ago.
fn yields_oldest_first(b: &Bench, v: Version, l4: &L4, answer: impl Fn(u16) -> L4) {
    few(b, 20_000..=20_002);
    let from = |own: u16| l4.clone().with_ports(own, l4.ports().1);
    for own in [20_001, 20_000, 20_002] {
        assert_eq!(port(b, v, RED, SERVER, from(own)), Some(own));
        answers(b, v, SERVER, answer(own));
        age(b, v, 10);
    }
    // Whatever parity they have.
    assert_eq!(port(b, v, BLUE, SERVER, from(100)), Some(20_001));
    assert_eq!(port(b, v, BLUE, SERVER, from(101)), Some(20_000));
    assert_eq!(port(b, v, BLUE, SERVER, from(102)), None, "it has more than all others");
    assert_eq!(port(b, v, GREEN, SERVER, from(100)), Some(20_002));
    assert_eq!(port(b, v, TWIN, SERVER, from(100)), None, "those are in use");
    assert_eq!(table(b.datapath()).iter().filter(|r| r.original).count(), 3, "red's are gone");
    b.assert_accounts();
    // Its own is as good as another's; those nobody has answered are not over yet.
    answers(b, v, SERVER, answer(20_001));
    age(b, v, 9);
    b.end_back_off(v);
    assert_eq!(port(b, v, BLUE, SERVER, from(103)), Some(20_001));
}

both!(
    fn ended_connections_yield_their_port_oldest_first(b, v) {
        yields_oldest_first(b, v, &syn(1), reset);
        assert_eq!(b.ports_counted(), [12, 3]);
    }
);

both!(
    fn questions_that_were_answered_yield_their_port_oldest_first(b, v) {
        yields_oldest_first(b, v, &udp(1, 53), |port| udp(53, port));
        assert_eq!(b.ports_counted(), [12, 3]);
        b.datapath().delete_flows(|_| true).expect("delete");
        b.end_back_off(v);
        yields_oldest_first(b, v, &echo(true, 1), |port| echo(false, port));
        assert_eq!(b.ports_counted(), [12, 0], "an identifier is no port anybody binds");
    }
);

both!(
    fn a_free_port_goes_before_one_that_rests(b, v) {
        few(b, 20_000..=20_002);
        assert_eq!(port(b, v, RED, SERVER, syn(20_000)), Some(20_000));
        answers(b, v, SERVER, reset(20_000));
        age(b, v, 10);
        assert_eq!(port(b, v, BLUE, SERVER, syn(100)), Some(20_002));
        assert_eq!(port(b, v, BLUE, SERVER, syn(102)), Some(20_001), "the other parity");
        assert_eq!(port(b, v, GREEN, SERVER, syn(100)), Some(20_000));
    }
);

both!(
    fn what_is_in_use_yields_nothing(b, v) {
        few(b, 20_000..=20_000);
        let ack = |sport, dport| tcp(sport, dport, flag::ACK);
        let syn_ack = tcp(80, 20_000, flag::SYN | flag::ACK);
        let rows = [
            ("one that was followed by another", udp(20_000, 53), vec![udp(53, 20_000), udp(20_000, 53)]),
            ("a binding to be reached by", udp(20_000, 3478), vec![udp(3478, 20_000)]),
            ("a half-open connection", syn(20_000), vec![]),
            ("an answered one", syn(20_000), vec![syn_ack.clone()]),
            ("an open one", syn(20_000), vec![syn_ack.clone(), ack(20_000, 80)]),
            ("one in use", syn(20_000), vec![syn_ack, ack(20_000, 80), ack(80, 20_000)]),
        ];
        for (what, opener, then) in rows {
            b.datapath().delete_flows(|_| true).expect("delete");
            b.end_back_off(v);
            let dport = opener.ports().1;
            assert_eq!(port(b, v, RED, SERVER, opener.clone()), Some(20_000), "{what}");
            for l4 in then {
                if l4.ports().1 == dport {
                    assert_eq!(port(b, v, RED, SERVER, l4), Some(20_000), "{what}");
                } else {
                    answers(b, v, SERVER, l4);
                }
            }
            age(b, v, 100);
            assert_eq!(port(b, v, BLUE, SERVER, opener.with_ports(100, dport)), None, "{what}");
        }
    }
);

both!(
    fn questions_nobody_answers_yield_their_port_after_a_while(b, v) {
        few(b, 20_000..=20_000);
        for dport in [53, 8125] {
            b.datapath().delete_flows(|_| true).expect("delete");
            b.end_back_off(v);
            assert_eq!(port(b, v, RED, SERVER, udp(20_000, dport)), Some(20_000));
            age(b, v, 9);
            assert_eq!(port(b, v, BLUE, SERVER, udp(100, dport)), None, "an answer may be on its way");
            // It is asked again, and again nobody answers.
            b.end_back_off(v);
            assert_eq!(port(b, v, RED, SERVER, udp(20_000, dport)), Some(20_000));
            age(b, v, 9);
            assert_eq!(port(b, v, BLUE, SERVER, udp(100, dport)), None, "its opener goes on");
            b.end_back_off(v);
            age(b, v, 2);
            assert_eq!(port(b, v, BLUE, SERVER, udp(100, dport)), Some(20_000));
        }
    }
);

both!(
    fn a_port_another_cpu_is_about_to_use_yields_to_nobody(b, v) {
        few(b, 20_000..=20_000);
        assert_eq!(port(b, v, RED, SERVER, udp(20_000, 8125)), Some(20_000));
        b.before_opener_entry(v, || {
            assert_eq!(port(b, v, BLUE, SERVER, udp(100, 8125)), None, "its opener's entry is on its way");
        });
        assert_eq!(port(b, v, RED, SERVER, udp(20_000, 8125)), Some(20_000), "it has it still");
    }
);

both!(
    fn a_clients_port_used_again_leaves_as_the_same(b, v) {
        let sends = |flags| {
            let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
            b.run(Hook::FromPod, meta, &from_pod(RED, SERVER.ip(v), tcp(100, 80, flags)).bytes());
        };
        let at = port(b, v, RED, SERVER, syn(100)).expect("a port");
        let answer = |flags| answers(b, v, SERVER, tcp(80, at, flags));
        for is_reset in [true, false] {
            if is_reset {
                answer(flag::RST | flag::ACK);
            } else {
                answer(flag::SYN | flag::ACK);
                sends(flag::ACK);
                sends(flag::FIN | flag::ACK);
                answer(flag::FIN | flag::ACK);
            }
            let ended = table(b.datapath()).iter().filter(|r| r.sport == 100 && r.state.is_ended()).count();
            assert_eq!(ended, 1, "it has ended");
            let other = port(b, v, RED, SERVER, syn(if is_reset { 102 } else { 104 })).expect("a port");
            assert_ne!(other, at);
            assert_eq!(port(b, v, RED, SERVER, syn(100)), Some(at));
        }
        assert_eq!(b.ports_counted(), [12, 3], "each once");
    }
);

both!(
    fn ports_are_counted_while_they_are_in_use(b, v) {
        let gone = |what: &str| {
            b.datapath().delete_flows(|_| true).expect("delete");
            assert_eq!(b.ports_counted(), [0, 0], "{what}");
        };
        // To a published port, by the host's address.
        assert_eq!(port(b, v, RED, HOST, tcp(20_000, 8080, flag::SYN)), Some(20_000));
        assert_eq!(b.ports_counted(), [4, 1]);
        gone("a hairpin");
        // What keeps its source, and what comes in.
        assert_eq!(port(b, v, RED, KEPT, udp(20_000, 53)), Some(20_000));
        answers(b, v, CLIENT, tcp(25_000, 8080, flag::SYN));
        assert_eq!(b.ports_counted(), [0, 0]);
        let pool = [HOST2.ip(v), HOST.ip(v)];
        b.set_snat_pool(1, &pool, &pool);
        assert_eq!(opens(b, v, RED, SERVER, udp(20_000, 53)), Some((pool[0], 20_000)));
        assert_eq!(b.ports_counted(), [4, 1]);
        // The pool changes while it is in use.
        b.set_snat_pool(1, &[], &[]);
        gone("one of a pool");
        independent(b, false);
        for to in [SERVER, SERVER2] {
            assert_eq!(port(b, v, RED, to, udp(20_000, 53)), Some(20_000));
        }
        assert_eq!(b.ports_counted(), [4, 1], "a mapping, once");
        b.datapath().delete_flows(|r| r.original).expect("delete");
        assert_eq!(b.ports_counted(), [4, 1], "the mapping is there");
        gone("a mapping");
        // Time runs out.
        assert_eq!(port(b, v, TWIN, SERVER, udp(20_000, 53)), Some(20_000));
        b.configure(|c| c.timeout_ns = [1_000_000; 4]);
        b.wait(Duration::from_millis(20));
        b.datapath().expire_flows(usize::MAX).expect("sweep");
        assert_eq!(b.ports_counted(), [0, 0], "swept");
    }
);

both!(
    /// Somebody has asked in a client's name, from all its ports, by another address of the host: they are the client's after a while.
    fn handshakes_of_nobody_keep_no_client_from_his_ports(b, v) {
        few(b, 20_000..=20_063);
        let meta = Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() };
        let sends = |to: Place, sport: u16| {
            b.run(Hook::FromUplink, meta, &from_lan(CLIENT.ip(v), to.ip(v), tcp(sport, 9000, flag::SYN)).bytes());
        };
        for sport in (20_000..=20_063).chain([40_000]) {
            sends(HOST2, sport);
        }
        let gets_in = || {
            sends(HOST, 40_000);
            table(b.datapath()).iter().any(|r| r.original && r.dst == HOST.ip(v) && r.sport == 40_000)
        };
        assert!(!gets_in());
        age(b, v, 10);
        b.end_back_off(v);
        assert!(gets_in());
        b.assert_accounts();
    }
);
