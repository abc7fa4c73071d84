//! Floods from the LAN, with sources that are nobody's, against a published port: whoever is honest gets in all the same.

mod attack;
mod common;
#[macro_use]
mod prog;

use std::time::Duration;

use attack::attacker::{host, segment, spoil};
use attack::{Aftermath, Attacker, honest, nobody, sized};
use common::pods::{BLUE, RED, TOPOLOGY, client, server};
use common::{Isolated, isolated, who};
use netns::check::Family;
use prog::{flag, udp};

/// Honest clients, at the same time.
const CLIENTS: usize = 30;
/// How long each may take: two SYNs may be lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Senders of the flood of one call.
const BATCH: u32 = 256;
/// Where in a TCP header the checksum is.
const TCP_CHECKSUM_AT: usize = 16;

/// A table of which the short form fills a pod's part three times over, and the senders of the flood for it.
fn sizes() -> (u32, u32) {
    sized((4096, 6144), (131_072, 90_000))
}

/// The pods with a table of this size, and red's port 8080 served by TCP and UDP.
fn begin(here: &Isolated, flows: u32) -> Attacker {
    here.lan();
    here.up(&format!("[nat]\nflows = {flows}\n{TOPOLOGY}")).ok();
    who::serve(here, RED, 80);
    Attacker::on_lan(here)
}

/// Honest clients of red's published port that get in: by TCP, by UDP.
fn get_in(here: &Isolated, family: Family) -> (usize, usize) {
    let to = host(family, 8080);
    let tcp = honest::connects(here, client(), to, CLIENTS, PATIENCE);
    (tcp, honest::asks(here, client(), to, CLIENTS, PATIENCE))
}

/// Every family's flood, then its clients; all of them get in.
fn nobody_is_locked_out(what: &'static str, flood: impl Fn(&Attacker, Family, u32) + Send + 'static) {
    isolated(move |here| {
        let (flows, senders) = sizes();
        let attacker = begin(here, flows);
        let aftermath = Aftermath::new();
        let mut left = Vec::new();
        for family in Family::ALL {
            assert_eq!(get_in(here, family), (CLIENTS, CLIENTS), "before the attack");
            flood(&attacker, family, senders);
            let (tcp, udp) = get_in(here, family);
            println!("{what} of {senders}, {family:?}: {tcp} of {CLIENTS} get in by TCP, {udp} by UDP");
            left.push((tcp, udp));
        }
        assert_eq!(left, [(CLIENTS, CLIENTS); 2], "{what}: who gets in by TCP, and by UDP");
        aftermath.finds_nothing();
    });
}

#[test]
fn handshakes_nobody_answers_lock_nobody_out() {
    nobody_is_locked_out("SYNs", |attacker, family, senders| {
        let to = host(family, 8080);
        let frames = |n| attacker.frame(nobody(family, n), to.ip(), segment((40_000, to.port()), flag::SYN, n, 0, &[]));
        for first in (0..senders).step_by(BATCH as usize) {
            attacker.send(&(first..first + BATCH).map(frames).collect::<Vec<_>>());
        }
    });
}

/// An ACK that answers no SYN-ACK, and that no end host looks at, makes no connection of a SYN.
#[test]
fn handshakes_with_acks_of_no_meaning_lock_nobody_out() {
    nobody_is_locked_out("SYNs with ACKs", |attacker, family, senders| {
        let to = host(family, 8080);
        let mut random = attack::random();
        let mut frame = |n, flags, ack| {
            attacker.frame(nobody(family, n), to.ip(), segment((40_000, to.port()), flags, random.word(), ack, &[]))
        };
        let mut acks: Vec<Vec<u8>> = Vec::new();
        for first in (0..senders).step_by(BATCH as usize) {
            let syns: Vec<_> = (first..first + BATCH).map(|n| frame(n, flag::SYN, 0)).collect();
            attacker.send(&syns);
            // Those of the batch before: their SYNs have been answered.
            attacker.send(&acks);
            acks = (first..first + BATCH).map(|n| frame(n, flag::ACK, n)).collect();
            acks.iter_mut().for_each(|ack| spoil(ack, family, TCP_CHECKSUM_AT));
        }
        attacker.send(&acks);
    });
}

#[test]
fn questions_of_nobody_lock_nobody_out() {
    nobody_is_locked_out("questions", |attacker, family, senders| {
        let to = host(family, 8080);
        let frames = |n| attacker.frame(nobody(family, n), to.ip(), udp(40_000, to.port()));
        for first in (0..senders).step_by(BATCH as usize) {
            attacker.send(&(first..first + BATCH).map(frames).collect::<Vec<_>>());
        }
    });
}

/// A reset that its own sender takes back, of a connection nobody has answered.
#[test]
fn resets_that_are_taken_back_lock_nobody_out() {
    nobody_is_locked_out("SYNs with resets", |attacker, family, senders| {
        let to = host(family, 8080);
        let frames = |n| {
            [(flag::SYN, 77, 0), (flag::RST, 78, 0), (flag::ACK, 78, 1)].map(|(flags, seq, ack)| {
                let l4 = segment((40_000, to.port()), flags, seq, ack, &[]);
                let mut frame = attacker.frame(nobody(family, n), to.ip(), l4);
                spoil(&mut frame, family, TCP_CHECKSUM_AT);
                frame
            })
        };
        for first in (0..senders).step_by(BATCH as usize) {
            attacker.send(&(first..first + BATCH).flat_map(frames).collect::<Vec<_>>());
        }
    });
}

/// Two questions of one sender with an answer between look like a conversation.
#[test]
fn conversations_of_nobody_lock_nobody_out() {
    nobody_is_locked_out("pairs of questions", |attacker, family, senders| {
        let to = host(family, 8080);
        let frames = |n| attacker.frame(nobody(family, n), to.ip(), udp(40_000, to.port()));
        let batch = |first: u32| (first..first + BATCH).map(frames).collect::<Vec<_>>();
        attacker.send(&batch(0));
        for first in (BATCH..senders).step_by(BATCH as usize) {
            attacker.send(&batch(first));
            // Those of the batch before have been answered.
            attacker.send(&batch(first - BATCH));
        }
    });
}

/// Blue's port is flooded by SYNs while red, which has nothing to do with it, has as many flows as it may: each of blue's clients
/// gets in by its first or second SYN.
#[test]
fn a_neighbours_many_flows_do_not_slow_the_clients_of_a_flooded_pod() {
    isolated(|here| {
        const PUBLISH: &str = "publish = [\"8080:80/tcp\", \"8080:80/udp\", \"9000-9010:7000-7010/tcp\"]";
        here.lan();
        let topology =
            TOPOLOGY.replace(PUBLISH, "").replace("\"fd00:244::20\"]", &format!("\"fd00:244::20\"]\n{PUBLISH}"));
        here.up(&format!("[nat]\nflows = 65536\nflows_per_pod = 20000\n{topology}")).ok();
        who::serve(here, BLUE, 80);
        let _silent = honest::silent(here, 5300);
        let (lan, red) = (Attacker::on_lan(here), Attacker::in_pod(here, RED));
        let aftermath = Aftermath::new();
        let mut left = Vec::new();
        for family in Family::ALL {
            let to = host(family, 8080);
            // 5,000 to each of four ports of a server that says nothing.
            for port in 5300..5304 {
                let one = |sport| red.frame(RED.ip(family), server().ip(family), udp(sport, port));
                red.send(&(20_000..25_000).map(one).collect::<Vec<_>>());
            }
            // More than blue may have.
            for first in (0..22_000).step_by(BATCH as usize) {
                let syn = |n| lan.frame(nobody(family, n), to.ip(), segment((40_000, to.port()), flag::SYN, n, 0, &[]));
                lan.send(&(first..first + BATCH).map(syn).collect::<Vec<_>>());
            }
            let entered = honest::connects(here, client(), to, CLIENTS, Duration::from_millis(2500));
            println!("{family:?}: {entered} of {CLIENTS} get in by two SYNs");
            left.push(entered);
        }
        assert_eq!(left, [CLIENTS; 2]);
        aftermath.finds_nothing();
    });
}
