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

/// A client of blue's web server gets in, and its connection stays.
pub fn enters(b: &Bench, v: Version, sport: u16) -> bool {
    to_web(b, v, sport, flag::SYN);
    from_web(b, v, sport, flag::SYN | flag::ACK);
    to_web(b, v, sport, flag::ACK);
    from_web(b, v, sport, flag::ACK);
    clients(b).contains(&(sport, State::Assured))
}

/// The ports of the clients that have a flow to the web server, with its state.
pub fn clients(b: &Bench) -> Vec<(u16, State)> {
    table(b.datapath()).iter().filter(|r| r.original && r.dport == 8080).map(|r| (r.sport, r.state)).collect()
}

/// A segment in a client's name to the web server blue publishes, with a checksum nobody takes it for.
pub fn forged(v: Version, sport: u16, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let l4 = L4::Tcp { sport, dport: 8080, seq, ack, flags, window: 512, payload: Vec::new() };
    let mut frame = from_lan(CLIENT.ip(v), HOST.ip(v), l4).bytes();
    let checksum_at = 14 + if v == V4 { 20 } else { 40 } + 16;
    frame[checksum_at] ^= 0x55;
    frame
}

/// A client's question to the resolver blue publishes, from these ports.
pub fn ask(b: &Bench, v: Version, sports: impl IntoIterator<Item = u16>) {
    for sport in sports {
        b.run(Hook::FromUplink, lan(b), &from_lan(CLIENT.ip(v), HOST.ip(v), udp(sport, 5353)).bytes());
    }
}

/// Its answers.
pub fn answer(b: &Bench, v: Version, sports: impl IntoIterator<Item = u16>) {
    for sport in sports {
        b.run(Hook::FromPod, meta(BLUE), &from_pod(BLUE, CLIENT.ip(v), udp(53, sport)).bytes());
    }
}

/// Ports of whoever has opened a flow.
pub fn openers(b: &Bench) -> Vec<u16> {
    table(b.datapath()).iter().filter(|r| r.original).map(|r| r.sport).collect()
}
