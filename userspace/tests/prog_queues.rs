//! The queues of accounts and the ring of all flows: each flow that may go is in them once, whatever was opened, ended or swept, and
//! by however many CPUs.

mod common;
#[macro_use]
mod prog;

use std::thread;
use std::time::Duration;

use common::wait_until;
use netns::datapath::Hook;
use netns_ebpf_common::abi::OPENED_RING;
use netns_ebpf_common::state::State;
use prog::clients::*;
use prog::*;

/// Flows one account gets of an empty table.
const SHARE: u16 = FLOWS as u16 / 2;

/// Somebody opens a tuple anew, over and over, by resets of his own.
fn opens_anew(b: &Bench, v: Version, times: u32) {
    for _ in 0..times {
        b.run(Hook::FromUplink, lan(b), &forged(v, 50_000, 77, 0, flag::SYN));
        b.run(Hook::FromUplink, lan(b), &forged(v, 50_000, 78, 0, flag::RST));
    }
}

both!(
    /// A connection that is ended and goes on, over and over, is in the queue once.
    fn a_flow_is_queued_once_however_often_it_ends(b, v) {
        b.configure(|c| c.flows_per_pod = 4);
        let ends_and_goes_on = |sport: u16, seq: u32, ack: u32| {
            for _ in 0..200 {
                b.run(Hook::FromUplink, lan(b), &forged(v, sport, seq, 0, flag::RST));
                b.run(Hook::FromUplink, lan(b), &forged(v, sport, seq, ack, flag::ACK));
            }
        };
        // A handshake of nobody; a connection.
        b.run(Hook::FromUplink, lan(b), &forged(v, 40_000, 77, 0, flag::SYN));
        ends_and_goes_on(40_000, 78, 1);
        assert!(enters(b, v, 40_001));
        let (seq, ack) = match tcp(40_001, 8080, flag::ACK) {
            L4::Tcp { seq, ack, .. } => (seq, ack),
            _ => unreachable!("a TCP segment"),
        };
        ends_and_goes_on(40_001, seq, ack);
        assert_eq!(b.queue_len(v, BLUE), 2);
        // Clients push the first one out, and the connection out of the queue, into which its end brings it back.
        from_web(b, v, 40_001, flag::ACK);
        for sport in 41_000..41_020 {
            to_web(b, v, sport, flag::SYN);
        }
        assert!(clients(b).contains(&(40_001, State::Assured)), "{:?}", clients(b));
        assert_eq!(b.queue_len(v, BLUE), 3);
        ends_and_goes_on(40_001, seq, ack);
        assert_eq!(b.queue_len(v, BLUE), 4);
        b.assert_accounts();
    }
);

both!(
    /// The queues of all accounts share their memory: none keeps what it once had.
    fn queues_shrink_with_their_accounts(b, v) {
        for sport in 40_000..40_000 + SHARE {
            to_web(b, v, sport, flag::SYN);
        }
        assert_eq!(b.queue_len(v, BLUE), u64::from(SHARE));
        b.datapath().delete_flows(|_| true).expect("delete flows");
        assert!(b.queue_len(v, BLUE) <= 64, "{}", b.queue_len(v, BLUE));
        // However often one tuple is opened anew.
        for _ in 0..500 {
            to_web(b, v, 40_000, flag::SYN);
            from_web(b, v, 40_000, flag::RST | flag::ACK);
        }
        assert!(b.queue_len(v, BLUE) <= 80, "{}", b.queue_len(v, BLUE));
        b.assert_accounts();
    }
);

both!(
    /// Connections whose clients have vanished, with more openings since than are remembered by age.
    fn no_flow_stays_for_good_where_nobody_sweeps(b, v) {
        for sport in 40_000..40_000 + SHARE {
            assert!(enters(b, v, sport));
        }
        let pod = meta(RED);
        for n in 0..OPENED_RING + 1000 {
            let l4 = udp(20_000 + (n % 5000) as u16, 53 + (n / 5000) as u16);
            b.run(Hook::FromPod, pod, &from_pod(RED, SERVER.ip(v), l4).bytes());
        }
        b.datapath().delete_flows(|r| r.owner_slot == Some(RED.slot)).expect("delete flows");
        b.age(v, Duration::from_secs(7441), |_, _| true);
        let mut tries = 0;
        wait_until("a client to get in", Duration::from_secs(20), || {
            tries += 1;
            to_web(b, v, 50_000, flag::SYN);
            clients(b).iter().any(|(sport, _)| *sport == 50_000)
        });
        assert!(tries < 2000, "{tries}");
        b.assert_accounts();
    }
);

both!(
    /// Flows that have gone leave their keys in the queue: to get past them takes no time but the packets'.
    fn keys_of_flows_that_are_gone_hold_nobody_up(b, v) {
        ask(b, v, 40_000..40_000 + SHARE);
        b.datapath().delete_flows(|_| true).expect("delete flows");
        ask(b, v, 41_000..41_000 + SHARE);
        let tries = (0..SHARE).position(|_| {
            ask(b, v, [42_000]);
            openers(b).contains(&42_000)
        });
        assert!(tries.is_some_and(|n| n < usize::from(SHARE) / 4), "{tries:?}");
        assert_eq!(openers(b).len(), usize::from(SHARE));
        b.assert_accounts();
    }
);

both!(
    /// A tuple that is opened anew, over and over, pushes nobody's key out of the queue.
    fn no_tuple_makes_an_account_forget_its_flows(b, v) {
        for sport in 40_000..40_000 + SHARE - 2 {
            b.run(Hook::FromUplink, lan(b), &forged(v, sport, 77, 0, flag::SYN));
        }
        opens_anew(b, v, 1500);
        assert!(b.queue_len(v, BLUE) <= 3 * u64::from(SHARE), "{}", b.queue_len(v, BLUE));
        // Whose handshake is done at once gets in, as long as there is one that was never completed; behind keys of what has gone with
        // one of its next SYNs.
        for n in 0..SHARE - 1 {
            assert!((0..20).any(|_| enters(b, v, 52_000 + n)), "client {n}");
        }
        b.assert_accounts();
    }
);

both!(
    fn no_tuple_makes_the_ring_forget_flows(b, v) {
        for sport in 40_000..40_000 + SHARE {
            assert!(enters(b, v, sport));
        }
        let pod = meta(RED);
        let frame = |l4| from_pod(RED, SERVER.ip(v), l4).bytes();
        let (syn, refused) = (
            frame(tcp(20_000, 80, flag::SYN)),
            from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, 20_000, flag::RST | flag::ACK)).bytes(),
        );
        for n in 0..2 * OPENED_RING {
            b.run(Hook::FromPod, pod, &syn);
            b.run(Hook::FromUplink, lan(b), &refused);
            if n % 3001 == 0 {
                b.run(Hook::FromPod, pod, &frame(udp(21_000, 53)));
                b.datapath().delete_flows(|r| r.sport == 21_000).expect("delete");
            }
        }
        b.datapath().delete_flows(|r| r.owner_slot == Some(RED.slot)).expect("delete flows");
        b.age(v, Duration::from_secs(7441), |_, _| true);
        wait_until("a client to get in", Duration::from_secs(20), || {
            to_web(b, v, 50_000, flag::SYN);
            clients(b).iter().any(|(sport, _)| *sport == 50_000)
        });
    }
);

both!(
    /// Two CPUs that look for a flow that may go, and put others back, lose none of a short queue.
    fn no_key_is_lost_between_two_cpus(b, v) {
        const ROTATING: u16 = 2;
        for n in 0..SHARE - ROTATING {
            assert!(enters(b, v, 40_000 + n));
        }
        for n in 0..ROTATING {
            to_web(b, v, 41_000 + n, flag::SYN);
        }
        // Those in use leave the queue.
        for n in 0..SHARE {
            to_web(b, v, 42_000 + n, flag::SYN);
            b.wait(Duration::from_millis(10));
        }
        thread::scope(|scope| {
            for t in 0..2 {
                scope.spawn(move || {
                    let syn = |n| from_lan(SERVER2.ip(v), HOST.ip(v), tcp(1000 + t * 10_000 + n, 8080, flag::SYN)).bytes();
                    let frames: Vec<_> = (0..5000_u16).map(syn).collect();
                    for frame in frames.iter().cycle().take(100_000) {
                        b.run(Hook::FromUplink, lan(b), frame);
                    }
                });
            }
        });
        let before: Vec<_> = clients(b);
        let enter = (0..20).filter(|n| {
            b.wait(Duration::from_millis(10));
            to_web(b, v, 45_000 + n, flag::SYN);
            clients(b).iter().any(|(sport, _)| *sport == 45_000 + n)
        });
        assert_eq!(enter.count(), 20, "{} flows, queue {}", before.len(), b.queue_len(v, BLUE));
        b.assert_accounts();
    }
);
