//! Blind packets from the LAN: who does not know the sequence numbers changes no flow, whatever else they know.

mod attack;
mod common;
#[macro_use]
mod prog;

use attack::{Aftermath, Attacker, Live, blind, flows, sized};
use common::isolated;
use netns::check::Family;

/// Live flows of a family, in units of 50: 1,000 in all.
const SCALE: usize = 10;
/// Packets of one call.
const BATCH: usize = 1000;

/// SYN, FIN, RST, ACK and any mixture of them, data, datagrams and ICMP errors, each with what is secret chosen at random, among
/// 1,000 live flows in and out of both families: no flow changes its state, and every connection goes on.
#[test]
fn blind_packets_change_no_flow() {
    isolated(|here| {
        here.pods();
        let aftermath = Aftermath::new();
        let mut live = Live::new();
        for family in Family::ALL {
            live.everywhere(here, family, SCALE);
        }
        let attacker = Attacker::on_lan(here);
        let mut random = attack::random();
        let before = flows();
        assert!(before.len() >= 2000, "{} entries of 1,000 flows", before.len());
        let (tuples, before) = (blind::from_outside(&before), blind::states(&before));
        let packets = sized(100_000, 1_000_000);
        for _ in 0..packets / BATCH {
            let frames: Vec<_> = (0..BATCH).map(|_| blind::frame(&attacker, &mut random, &tuples)).collect();
            attacker.send(&frames);
        }
        let changed = blind::changed(&before, &blind::states(&flows()));
        let broken = live.broken();
        println!(
            "{packets} blind packets: {} of {} entries changed, {} connections broken",
            changed.len(),
            before.len(),
            broken.len()
        );
        assert!(changed.is_empty() && broken.is_empty(), "{:#?}\n{:#?}", some(&changed), some(&broken));
        drop(live);
        aftermath.finds_nothing();
    });
}

/// Enough of a list to see what is in it.
fn some(list: &[String]) -> &[String] {
    &list[..list.len().min(8)]
}
