//! Pods that open flows to a server, and clients of the web server blue publishes: what tests of accounts do again and again.

use netns::datapath::Hook;
use netns_ebpf_common::state::State;

use super::flows::table;
use super::*;

/// Of a frame a pod sends.
pub fn meta(pod: Pod) -> Meta {
    Meta { ifindex: pod.ifindex(), ..Meta::default() }
}

/// Of one that comes in by the uplink.
pub fn lan(b: &Bench) -> Meta {
    Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() }
}

/// Whether a pod gets to open a flow to a server from this port.
pub fn opens(b: &Bench, v: Version, pod: Pod, sport: u16) -> bool {
    let sent = from_pod(pod, SERVER.ip(v), udp(sport, 53)).bytes();
    b.run(Hook::FromPod, meta(pod), &sent);
    table(b.datapath()).iter().any(|r| r.original && r.src == pod.ip(v) && r.sport == sport)
}

/// The same, and if it does the server answers and the pod goes on: a flow in use, which gives way to none.
pub fn uses(b: &Bench, v: Version, pod: Pod, sport: u16) -> bool {
    let opened = opens(b, v, pod, sport);
    if opened {
        let flow = table(b.datapath()).into_iter().find(|r| r.original && r.src == pod.ip(v) && r.sport == sport);
        let flow = flow.expect("the flow");
        let answer = from_lan(SERVER.ip(v), flow.to_src, udp(53, flow.to_sport)).bytes();
        b.run(Hook::FromUplink, lan(b), &answer);
        b.run(Hook::FromPod, meta(pod), &from_pod(pod, SERVER.ip(v), udp(sport, 53)).bytes());
    }
    opened
}

/// How many flows a pod gets to use from `first` on.
pub fn uses_many(b: &Bench, v: Version, pod: Pod, first: u16) -> u16 {
    (0..2 * FLOWS as u16).take_while(|n| uses(b, v, pod, first + n)).count() as u16
}

/// A client's packet to the web server blue publishes.
pub fn to_web(b: &Bench, v: Version, sport: u16, flags: u8) {
    b.run(Hook::FromUplink, lan(b), &from_lan(CLIENT.ip(v), HOST.ip(v), tcp(sport, 8080, flags)).bytes());
}

/// The web server's packet to a client.
pub fn from_web(b: &Bench, v: Version, dport: u16, flags: u8) {
    b.run(Hook::FromPod, meta(BLUE), &from_pod(BLUE, CLIENT.ip(v), tcp(80, dport, flags)).bytes());
}

/// The ports of the clients that have a flow to the web server, with its state.
pub fn clients(b: &Bench) -> Vec<(u16, State)> {
    table(b.datapath()).iter().filter(|r| r.original && r.dport == 8080).map(|r| (r.sport, r.state)).collect()
}
