//! What the flow table must hold.

use std::net::IpAddr;

use netns::datapath::{Datapath, FlowRecord, Hook};
use netns_ebpf_common::state::State;

use super::bench::{Bench, Meta};
use super::packet::{L4, Packet, Version, from_pod};
use super::world::{HOST, NOBODY_AT_ALL, Place, Pod, RED};

/// Both directions of a flow as the table must show them.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    original: FlowRecord,
    reply: FlowRecord,
}

/// Where packets of a direction go.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// A pod's slot.
    Slot(u32),
    /// An uplink's index.
    Uplink(u32),
}

impl Pair {
    /// The flow of a packet seen in `zone` that leaves as `after` and whose replies are seen in `peer_zone`.
    pub fn new(zone: u16, before: &Packet, peer_zone: u16, after: &Packet, to: Target, back: Target) -> Self {
        let tuple = |p: &Packet| {
            let (sport, dport) = p.l4.ports();
            (p.src, sport, p.dst, dport)
        };
        Self::of_tuples(before.proto(), (zone, tuple(before)), (peer_zone, tuple(after)), to, back)
    }

    /// As [`Self::new`], from bare tuples (source, port, destination, port).
    pub fn of_tuples(
        proto: u8,
        (zone, before): (u16, Tuple),
        (peer_zone, after): (u16, Tuple),
        to: Target,
        back: Target,
    ) -> Self {
        let record = |zone, tuple: Tuple, to_tuple: Tuple, peer_zone, target, original| {
            let (target_slot, target_uplink) = match target {
                Target::Slot(slot) => (Some(slot), None),
                Target::Uplink(index) => (None, Some(index)),
            };
            FlowRecord {
                zone,
                proto,
                src: tuple.0,
                sport: tuple.1,
                dst: tuple.2,
                dport: tuple.3,
                to_src: to_tuple.0,
                to_sport: to_tuple.1,
                to_dst: to_tuple.2,
                to_dport: to_tuple.3,
                peer_zone,
                target_slot,
                target_uplink,
                original,
                mapping: None,
                hairpin: false,
                state: State::Opening,
                last_seen_ns: 0,
                owner_slot: None,
                publish: None,
            }
        };
        Self {
            original: record(zone, before, after, peer_zone, to, true),
            reply: record(peer_zone, reverse(after), reverse(before), zone, back, false),
        }
    }

    /// A pod's mapping: its own port and the host's, and how many flows it counts.
    pub fn mapping(b: &Bench, v: Version, proto: u8, (pod, port): (Pod, u16), host: (IpAddr, u16), flows: u32) -> Self {
        let nobody = (NOBODY_AT_ALL.ip(v), 0);
        let own = (pod.ip(v), port);
        let tuple = |from: (IpAddr, u16), to: (IpAddr, u16)| (from.0, from.1, to.0, to.1);
        let inside = (pod.network, tuple(own, nobody));
        let outside = (0, tuple(host, nobody));
        let mut pair = Self::of_tuples(proto, inside, outside, Target::Uplink(b.uplink), Target::Slot(pod.slot));
        pair.original.original = false;
        pair.original.mapping = Some(flows);
        pair.reply.mapping = Some(0);
        pair.owned(pod.slot)
    }

    /// Packets of the opener come back in by the uplink: hairpin.
    pub fn turns_back(mut self) -> Self {
        self.original.hairpin = true;
        self
    }

    /// The answers do.
    pub fn reply_turns_back(mut self) -> Self {
        self.reply.hairpin = true;
        self
    }

    /// Accounted to this slot.
    pub fn owned(mut self, slot: u32) -> Self {
        for record in [&mut self.original, &mut self.reply] {
            record.owner_slot = Some(slot);
        }
        self
    }

    /// Came in by this publish.
    pub fn published(mut self, id: u32) -> Self {
        for record in [&mut self.original, &mut self.reply] {
            record.publish = Some(id);
        }
        self
    }

    /// In this state.
    pub fn state(mut self, state: State) -> Self {
        for record in [&mut self.original, &mut self.reply] {
            record.state = state;
        }
        self
    }

    /// Both entries.
    pub fn records(&self) -> [FlowRecord; 2] {
        [self.original, self.reply]
    }
}

/// Source, port, destination, port.
pub type Tuple = (IpAddr, u16, IpAddr, u16);

fn reverse((src, sport, dst, dport): Tuple) -> Tuple {
    (dst, dport, src, sport)
}

/// All entries but for the time each was last seen, in order.
pub fn table(datapath: &Datapath) -> Vec<FlowRecord> {
    let mut records = datapath.flows().expect("flows");
    for record in &mut records {
        record.last_seen_ns = 0;
    }
    sorted(records)
}

/// In an order of their own.
pub fn sorted(mut records: Vec<FlowRecord>) -> Vec<FlowRecord> {
    records.sort_by_key(|r| (r.zone, r.proto, r.src, r.sport, r.dst, r.dport));
    records
}

/// Red's packet to a server, and what leaves by the uplink with this port.
pub fn masqueraded(v: Version, dst: Place, l4: L4, port: u16) -> (Packet, Packet) {
    let (_, dport) = l4.ports();
    let sent = from_pod(RED, dst.ip(v), l4);
    let left = sent.translated((HOST.ip(v), port), (dst.ip(v), dport)).sent_on();
    (sent, left)
}

/// The flow of a packet of red that left so.
pub fn pair(b: &Bench, sent: &Packet, left: &Packet) -> Pair {
    Pair::new(1, sent, 0, left, Target::Uplink(b.uplink), Target::Slot(RED.slot)).owned(RED.slot)
}

/// A pod's packet to somebody opens a flow: its address and port on the wire, or `None` if it was refused for want of a port.
#[track_caller]
pub fn opens(b: &Bench, v: Version, pod: Pod, to: Place, l4: L4) -> Option<(IpAddr, u16)> {
    let refused = || b.datapath().endpoint_counters(pod.slot).expect("counters").refused_ports;
    let before = refused();
    let meta = Meta { ifindex: pod.ifindex(), ..Meta::default() };
    let sent = from_pod(pod, to.ip(v), l4);
    assert_eq!(b.run(Hook::FromPod, meta, &sent.bytes()).action, 7);
    if refused() != before {
        return None;
    }
    let (proto, (sport, dport)) = (sent.proto(), sent.l4.ports());
    let is_it = |r: &FlowRecord| {
        r.original
            && (r.zone, r.proto, r.src, r.sport, r.dst, r.dport)
                == (pod.network, proto, sent.src, sport, sent.dst, dport)
    };
    let found = b.datapath().flows().expect("flows").into_iter().find(is_it).expect("the flow");
    Some((found.to_src, found.to_sport))
}
