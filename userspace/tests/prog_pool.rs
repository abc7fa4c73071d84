//! SNAT addresses of a network: which pod leaves with which, and what happens when one has no port left or goes.

mod common;
#[macro_use]
mod prog;

use std::net::{IpAddr, UdpSocket};

use netns::datapath::Hook;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::*;

/// Three addresses for a pool; what the uplink has is not among them.
fn pool(v: Version) -> Vec<IpAddr> {
    let addresses = match v {
        V4 => ["203.0.113.7", "203.0.113.8", "203.0.113.9"],
        V6 => ["2001:db8:7::7", "2001:db8:7::8", "2001:db8:7::9"],
    };
    addresses.map(|a| a.parse().expect("an address")).to_vec()
}

/// A pod's packet to a server, what leaves with an address and port, and the flow.
fn leaves(b: &Bench, v: Version, pod: Pod, to: Place, l4: L4, with: (IpAddr, u16)) -> (Packet, Packet, Pair) {
    let (_, dport) = l4.ports();
    let sent = from_pod(pod, to.ip(v), l4);
    let left = sent.translated(with, (to.ip(v), dport)).sent_on();
    let pair = Pair::new(pod.network, &sent, 0, &left, Target::Uplink(b.uplink), Target::Slot(pod.slot));
    (sent, left, pair.owned(pod.slot))
}

both!(
    fn rfc4787_req_2_a_pod_keeps_its_address_of_the_pool(b, v) {
        let pool = pool(v);
        b.set_snat_pool(1, &pool, &pool);
        let mut pairs = Vec::new();
        // Slots 0 to 2, whatever the protocol and wherever to.
        for (pod, address) in [(RED, pool[0]), (BLUE, pool[1]), (GREEN, pool[2])] {
            for (to, l4) in [
                (SERVER, udp(20_100, 53)),
                (SERVER2, udp(20_100, 53)),
                (SERVER, tcp(20_101, 80, flag::SYN)),
                (SERVER2, echo(true, 20_102)),
            ] {
                let (port, _) = l4.ports();
                let (sent, left, pair) = leaves(b, v, pod, to, l4, (address, port));
                pairs.push(pair);
                b.pod_sends(pod, &sent, &Want::neigh(&left).flows(&pairs));
            }
        }
        // Replies come back to each.
        let reply = from_lan(SERVER.ip(v), pool[1], udp(53, 20_100));
        let got = reply.translated((SERVER.ip(v), 53), (BLUE.ip(v), 20_100)).delivered(BLUE);
        pairs[4] = pairs[4].state(State::Established);
        b.lan_sends(&reply, &Want::peer(BLUE, &got).flows(&pairs));
        // Another network's pods leave as ever.
        let (sent, left, pair) = leaves(b, v, TWIN, SERVER, udp(20_100, 53), (HOST.ip(v), 20_100));
        pairs.push(pair);
        b.pod_sends(TWIN, &sent, &Want::neigh(&left).flows(&pairs));
    }
);

both!(
    fn a_pool_of_one_is_everybodys(b, v) {
        let pool = &pool(v)[..1];
        b.set_snat_pool(1, pool, pool);
        let (red, red_left, first) = leaves(b, v, RED, SERVER, udp(20_100, 53), (pool[0], 20_100));
        b.pod_sends(RED, &red, &Want::neigh(&red_left).flows([&first]));
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_100, 20_101));
        let (green, green_left, second) = leaves(b, v, GREEN, SERVER, udp(20_100, 53), (pool[0], 20_101));
        b.pod_sends(GREEN, &green, &Want::neigh(&green_left).flows([&first, &second]));
    }
);

both!(
    fn exhausted_ports_of_one_address_are_found_at_the_next(b, v) {
        let pool = pool(v);
        b.set_snat_pool(1, &pool, &pool);
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_100, 20_101));
        let mut pairs = Vec::new();
        // Blue's own address first, with the port as it is if it can be; then around the pool.
        for (i, (address, port)) in [
            (pool[1], 20_100),
            (pool[1], 20_101),
            (pool[2], 20_100),
            (pool[2], 20_101),
            (pool[0], 20_100),
            (pool[0], 20_101),
        ]
        .into_iter()
        .enumerate()
        {
            // Out of the range, so that none is kept; even ones get an even one while there is one.
            let own = 1000 + i as u16;
            let (sent, left, pair) = leaves(b, v, BLUE, SERVER, udp(own, 53), (address, port));
            pairs.push(pair);
            b.pod_sends(BLUE, &sent, &Want::neigh(&left).flows(&pairs));
        }
        let sent = from_pod(BLUE, SERVER.ip(v), udp(999, 53));
        let error = originated(Problem::Prohibited, GATEWAY.ip(v), &sent, (BLUE.mac, BLUE.gateway_mac()));
        b.pod_sends(BLUE, &sent, &Want::reject_to(BLUE, DropReason::PortsExhausted, &error));
        // Towards another destination all of them are free, and blue's own comes first.
        let (sent, left, pair) = leaves(b, v, BLUE, SERVER2, udp(20_100, 53), (pool[1], 20_100));
        pairs.push(pair);
        b.pod_sends(BLUE, &sent, &Want::neigh(&left).flows(&pairs));
    }
);

both!(
    fn the_own_port_is_kept_at_another_address_too(b, v) {
        let pool = pool(v);
        b.set_snat_pool(1, &pool, &pool);
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_100, 20_100));
        let (sent, left, first) = leaves(b, v, BLUE, SERVER, udp(1000, 53), (pool[1], 20_100));
        b.pod_sends(BLUE, &sent, &Want::neigh(&left).flows([&first]));
        let (sent, left, second) = leaves(b, v, BLUE, SERVER, udp(20_100, 53), (pool[2], 20_100));
        b.pod_sends(BLUE, &sent, &Want::neigh(&left).flows([&first, &second]));
    }
);

both!(
    fn an_address_that_goes_leaves_the_pool_and_an_empty_pool_drops(b, v) {
        let pool = pool(v);
        b.set_snat_pool(1, &pool, &pool[2..]);
        let (sent, left, pair) = leaves(b, v, BLUE, SERVER, udp(20_100, 53), (pool[2], 20_100));
        b.pod_sends(BLUE, &sent, &Want::neigh(&left).flows([&pair]));
        b.set_snat_pool(1, &pool, &[]);
        let sent = from_pod(BLUE, SERVER2.ip(v), udp(20_100, 53));
        b.pod_sends(BLUE, &sent, &Want::drop(DropReason::NoUplinkAddress));
        // What is not masqueraded needs none, nor does a pod of the same network.
        let kept = from_pod(BLUE, KEPT.ip(v), udp(20_100, 53));
        let flow = Pair::new(1, &kept, 0, &kept, Target::Uplink(b.uplink), Target::Slot(BLUE.slot)).owned(BLUE.slot);
        b.pod_sends(BLUE, &kept, &Want::neigh(&kept.sent_on()).flows([&pair, &flow]));
        // The other family has no pool: the uplink's.
        let w = if v == V4 { V6 } else { V4 };
        let (sent, left, other) = leaves(b, w, BLUE, SERVER, udp(20_100, 53), (HOST.ip(w), 20_100));
        b.pod_sends(BLUE, &sent, &Want::neigh(&left).flows([&pair, &flow, &other]));
        // Without a pool again: the uplink's.
        b.set_snat_pool(1, &[], &[]);
        let (sent, left, back) = leaves(b, v, BLUE, SERVER2, udp(20_100, 53), (HOST.ip(v), 20_100));
        b.pod_sends(BLUE, &sent, &Want::neigh(&left).flows([&pair, &flow, &other, &back]));
    }
);

both!(
    fn a_port_of_the_hosts_own_is_not_given_at_a_pools_address(b, v) {
        let pool = [HOST2.ip(v), HOST.ip(v)];
        b.set_snat_pool(1, &pool, &pool);
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_100, 20_100));
        let _held = UdpSocket::bind((HOST2.ip(v), 20_100)).expect("bind");
        // Red's own address is the first, where a process of the host has the port.
        let (sent, left, pair) = leaves(b, v, RED, SERVER, udp(20_100, 53), (HOST.ip(v), 20_100));
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&pair]));
    }
);

both!(
    fn rfc4787_req_4_a_port_that_changes_keeps_its_parity(b, v) {
        for own in [1000_u16, 1001, 40_000, 40_001] {
            b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_007));
            b.datapath().delete_flows(|_| true).expect("delete");
            // Eight flows with one parity: the four ports that have it go first.
            for n in 0..8_u16 {
                let sent = from_pod(RED, SERVER.ip(v), udp(own + 2 * n, 53));
                let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
                assert_eq!(b.run(Hook::FromPod, meta, &sent.bytes()).action, 7, "flow {n} of {own}");
                let table = prog::flows::table(b.datapath());
                let port = table.iter().find(|r| r.original && r.sport == own + 2 * n).expect("the flow").to_sport;
                assert_eq!((port ^ own) & 1, u16::from(n >= 4), "flow {n} of {own} has port {port}");
            }
        }
    }
);
