//! Packets along endpoint-independent mappings.

use std::net::IpAddr;

use netns_ebpf_common::host::HostConfig;
use netns_ebpf_common::network::Network;

use super::*;

/// Protocol number.
pub const UDP: u8 = 17;
/// Protocol number.
pub const TCP: u8 = 6;

/// Network 1 with endpoint-independent mapping, and filtering if `open`.
pub fn independent(b: &Bench, open: bool) {
    let flags = Network::ENDPOINT_INDEPENDENT | if open { Network::OPEN_TO_ALL } else { 0 };
    b.configure_network(1, |n| n.flags |= flags);
    b.datapath().set_mappings(true).expect("settings");
}

/// Settings with mappings in use.
pub fn configure(b: &Bench, change: impl FnOnce(&mut HostConfig)) {
    b.configure(|c| {
        c.flags |= HostConfig::MAPPINGS;
        change(c);
    });
}

/// SNAT's range is this.
pub fn range(b: &Bench, ports: std::ops::RangeInclusive<u16>) {
    configure(b, |c| (c.snat_port_min, c.snat_port_max) = (*ports.start(), *ports.end()));
}

/// A pod's packet to somebody, what leaves with an address and port, and the flow.
pub fn leaves(b: &Bench, v: Version, pod: Pod, to: Place, l4: L4, with: (IpAddr, u16)) -> (Packet, Packet, Pair) {
    let (_, dport) = l4.ports();
    let sent = from_pod(pod, to.ip(v), l4);
    let left = sent.translated(with, (to.ip(v), dport)).sent_on();
    let pair = Pair::new(pod.network, &sent, 0, &left, Target::Uplink(b.uplink), Target::Slot(pod.slot));
    (sent, left, pair.owned(pod.slot))
}

/// A pod's packet leaves so; the table holds these and its flow.
#[track_caller]
pub fn sends(b: &Bench, v: Version, pod: Pod, to: Place, l4: L4, with: (IpAddr, u16), table: &[Pair]) -> Pair {
    let (sent, left, pair) = leaves(b, v, pod, to, l4, with);
    let all: Vec<_> = table.iter().copied().chain([pair]).collect();
    b.pod_sends(pod, &sent, &Want::neigh(&left).flows(&all));
    pair
}

/// Somebody's packet to the host reaches a pod, whose port is this; the table holds these afterwards.
#[track_caller]
pub fn reaches(b: &Bench, v: Version, from: (Place, u16), to: (IpAddr, u16), pod: (Pod, u16), table: &[Pair]) {
    let sent = from_lan(from.0.ip(v), to.0, udp(from.1, to.1));
    let got = sent.translated((from.0.ip(v), from.1), (pod.0.ip(v), pod.1)).delivered(pod.0);
    b.lan_sends(&sent, &Want::peer(pod.0, &got).flows(table));
}

/// The flow somebody opened to a pod's mapping.
pub fn opened(b: &Bench, v: Version, from: (Place, u16), to: (IpAddr, u16), pod: (Pod, u16)) -> Pair {
    let (from, own) = ((from.0.ip(v), from.1), (pod.0.ip(v), pod.1));
    let before = (0, (from.0, from.1, to.0, to.1));
    let after = (pod.0.network, (from.0, from.1, own.0, own.1));
    Pair::of_tuples(UDP, before, after, Target::Slot(pod.0.slot), Target::Uplink(b.uplink)).owned(pod.0.slot)
}
