//! Packets of somebody who knows who talks to whom, and nothing else: no sequence number, no acknowledgement.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netns::check::Family;
use netns::datapath::FlowRecord;
use netns_ebpf_common::abi::ZONE_HOST;

use super::attacker::segment;
use super::{Attacker, PSH, nobody};
use crate::prog::random::Numbers;
use crate::prog::{L4, Packet, echo, flag, udp};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A flow direction as it comes in by the uplink.
#[derive(Clone, Copy, Debug)]
pub struct Tuple {
    pub proto: u8,
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
}

/// The directions that come in by an uplink of these flows.
pub fn from_outside(flows: &[FlowRecord]) -> Vec<Tuple> {
    let outside = flows.iter().filter(|r| r.zone == ZONE_HOST && r.mapping.is_none());
    outside.map(|r| Tuple { proto: r.proto, src: (r.src, r.sport), dst: (r.dst, r.dport) }).collect()
}

/// What of the flow table blind packets must not change: everything but the time.
pub fn states(flows: &[FlowRecord]) -> BTreeMap<String, String> {
    let key = |r: &FlowRecord| format!("{}/{} {}:{} > {}:{}", r.zone, r.proto, r.src, r.sport, r.dst, r.dport);
    let value = |r: &FlowRecord| {
        let to = format!("{}:{} > {}:{}", r.to_src, r.to_sport, r.to_dst, r.to_dport);
        format!("{:?} to {to}, of {:?}, by {:?}", r.state, r.owner_slot, r.publish)
    };
    flows.iter().map(|r| (key(r), value(r))).collect()
}

/// The flows of `before` that are gone or changed.
pub fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let differs = before.iter().filter(|(key, value)| after.get(*key) != Some(value));
    differs.map(|(key, value)| format!("{key}: {value}; then {:?}", after.get(key))).collect()
}

/// One more blind packet towards one of these flows, or towards one that is guessed.
pub fn frame(by: &Attacker, random: &mut Numbers, tuples: &[Tuple]) -> Vec<u8> {
    let mut at = tuples[random.below(tuples.len())];
    // One in eight is a guess: somebody else, or another port of the peer's.
    match random.below(16) {
        0 => {
            let family = if at.src.0.is_ipv4() { Family::V4 } else { Family::V6 };
            at.src.0 = nobody(family, random.word());
        }
        1 => at.src.1 = random.port(),
        _ => {}
    }
    let message = random.below(4) == 0;
    match at.proto {
        TCP if message => icmp_error(by, random, at),
        TCP => by.frame(at.src.0, at.dst.0, tcp(random, at)),
        UDP if message => icmp_error(by, random, at),
        UDP => by.frame(at.src.0, at.dst.0, udp(at.src.1, at.dst.1)),
        _ if message => icmp_error(by, random, at),
        // The far side is an echo reply's: the identifier is the destination's port.
        _ => by.frame(at.src.0, at.dst.0, echo(false, at.dst.1)),
    }
}

fn tcp(random: &mut Numbers, at: Tuple) -> L4 {
    const KINDS: [u8; 12] = [
        flag::SYN,
        flag::SYN | flag::FIN,
        flag::SYN | flag::RST,
        flag::SYN | flag::ACK,
        flag::FIN,
        flag::FIN | flag::ACK,
        flag::RST,
        flag::RST | flag::ACK,
        flag::ACK,
        PSH | flag::ACK,
        0,
        0xff,
    ];
    let flags = KINDS[random.below(KINDS.len())];
    let payload: &[u8] = if flags & PSH != 0 { b"words of somebody else" } else { &[] };
    segment((at.src.1, at.dst.1), flags, random.word(), random.word(), payload)
}

/// An error of some router about a packet that would have gone the other way, had it been sent.
fn icmp_error(by: &Attacker, random: &mut Numbers, at: Tuple) -> Vec<u8> {
    let quoted = match at.proto {
        TCP => segment((at.dst.1, at.src.1), flag::ACK, random.word(), random.word(), &[]),
        UDP => udp(at.dst.1, at.src.1),
        _ => echo(true, at.dst.1),
    };
    let quoted = Packet::new(at.dst.0, at.src.0, quoted).ip_bytes();
    let is_four = at.src.0.is_ipv4();
    // Unreachable (net, host, protocol, port, prohibited), too big, time exceeded, parameter problem.
    let (kind, code) = if is_four {
        [(3, 0), (3, 1), (3, 2), (3, 3), (3, 13), (3, 4), (11, 0), (12, 0)][random.below(8)]
    } else {
        [(1, 0), (1, 3), (1, 4), (1, 1), (2, 0), (3, 0), (4, 0), (4, 1)][random.below(8)]
    };
    let rest = match (is_four, kind, code) {
        (true, 3, 4) => [0, 0, 5, 0],
        (false, 2, _) => [0, 0, 5, 20],
        _ => [0; 4],
    };
    // Routers on the way may be anybody; the peer itself is the best guess.
    let family = if is_four { Family::V4 } else { Family::V6 };
    let router = if random.below(2) == 0 { at.src.0 } else { nobody(family, random.word()) };
    by.frame(router, at.dst.0, L4::Icmp { kind, code, rest, body: quoted })
}
