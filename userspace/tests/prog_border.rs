//! The border to the host's stack: what a program takes away from it comes from where the stack would have believed it, and what is
//! the stack's reaches it as it came.

mod common;
#[macro_use]
mod prog;

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use netns::datapath::Hook;
use netns_ebpf_common::host::Uplink;
use netns_ebpf_common::publish::Publish;
use netns_ebpf_common::verdict::DropReason;
use prog::bench::Notes;
use prog::flows::table;
use prog::mapping::{independent, leaves, reaches};
use prog::*;
use socket2::{Domain, Socket, Type};

/// Marks of the programs' own: a pod's packet that is sent back in by the uplink, and a copy that is the host's.
const HAIRPIN: u32 = 0x6e6e_6801;
const HOSTS: u32 = 0x6e6e_6802;
/// `TC_ACT_UNSPEC` and `TC_ACT_REDIRECT`.
const PASS: i32 = -1;
const REDIRECT: i32 = 7;

fn lan(b: &Bench) -> Meta {
    Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() }
}

/// Sources no packet has that comes in by a wire: the host, gateways, pods of networks the host has routes to, the rest of their
/// subnets, and everybody.
fn martians(v: Version) -> Vec<IpAddr> {
    let places =
        [HOST, HOST2, GATEWAY, GATEWAY2, RED.at, BLUE.at, GREEN.at, YELLOW.at, NOBODY, NOBODY_AT_ALL, LOOPBACK];
    let more: &[&str] = match v {
        V4 => &["192.0.2.255", "10.244.0.255", "10.244.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.9"],
        V6 => &["ff02::1", "fd00:244::", "fe80::1"],
    };
    places.iter().map(|p| p.ip(v)).chain(more.iter().map(|a| a.parse().expect("an address"))).collect()
}

both!(
    /// Finding 5.
    fn a_published_port_takes_nothing_from_whom_no_wire_leads_to(b, v) {
        for (port, l4) in [(8080, tcp(40_000, 8080, flag::SYN)), (5353, udp(40_000, 5353))] {
            for src in martians(v) {
                println!("{src} to {port}");
                let sent = from_lan(src, HOST.ip(v), l4.clone());
                refused(b, &sent);
            }
        }
        // Nor because pods may ask it: that is for those who come by their own way.
        let pods: [&str; 2] = if v == V4 { ["10.244.0.0/24", "192.0.2.1/32"] } else { ["fd00:244::/64", "2001:db8:1::1/128"] };
        b.configure_publish(DNS, |p| p.flags |= Publish::RESTRICTED);
        b.datapath().sync_allowed(DNS, &pods.map(|p| p.parse().expect("a prefix"))).expect("prefixes");
        for src in [RED.ip(v), GATEWAY.ip(v), HOST.ip(v)] {
            let sent = from_lan(src, HOST.ip(v), udp(40_000, 5353));
            b.lan_sends(&sent, &Want::drop(DropReason::Martian));
        }
    }
);

both!(
    fn nor_does_an_open_mapping(b, v) {
        independent(b, true);
        let at = (HOST.ip(v), 20_000);
        let (sent, left, flow) = leaves(b, v, BLUE, SERVER, udp(20_000, 53), at);
        let mapping = Pair::mapping(b, v, prog::mapping::UDP, (BLUE, 20_000), at, 1);
        b.pod_sends(BLUE, &sent, &Want::neigh(&left).flows([&mapping, &flow]));
        for src in martians(v) {
            println!("{src}");
            refused(b, &from_lan(src, HOST.ip(v), udp(40_000, 20_000)));
        }
        // Anybody else may.
        let mapping = Pair::mapping(b, v, prog::mapping::UDP, (BLUE, 20_000), at, 2);
        let opened = prog::mapping::opened(b, v, (CLIENT, 40_000), at, (BLUE, 20_000));
        reaches(b, v, (CLIENT, 40_000), at, (BLUE, 20_000), &[mapping, flow, opened]);
    }
);

/// It opens nothing and reaches no pod: dropped, or left to the host, which believes it no more.
#[track_caller]
fn refused(b: &Bench, sent: &Packet) {
    let before = flows::table(b.datapath());
    let out = b.run(Hook::FromUplink, lan(b), &sent.bytes());
    assert!(out.action == 2 || out.action == PASS && out.frame == sent.bytes(), "{}: action {}", sent.src, out.action);
    assert_eq!(flows::table(b.datapath()), before);
    // What is somebody's of this host is dropped, and counted as what it is.
    let of_this_host = [HOST, HOST2, GATEWAY, GATEWAY2, RED.at, BLUE.at, GREEN.at, YELLOW.at, NOBODY, LOOPBACK]
        .iter()
        .any(|p| p.ip(sent.version()) == sent.src);
    if of_this_host {
        b.lan_sends(sent, &Want::drop(DropReason::Martian));
    }
}

both!(
    fn a_client_no_answer_reaches_opens_nothing(b, v) {
        let sent = from_lan(NOWHERE.ip(v), HOST.ip(v), tcp(40_000, 8080, flag::SYN));
        b.lan_sends(&sent, &Want::drop(DropReason::NoRoute));
        // By whichever way: the answer may take another uplink.
        let sent = from_lan(BARE_SIDE.ip(v), HOST.ip(v), tcp(40_000, 8080, flag::SYN));
        assert_eq!(b.run(Hook::FromUplink, lan(b), &sent.bytes()).action, REDIRECT);
    }
);

#[test]
fn a_host_that_filters_sources_takes_none_that_is_routed_elsewhere() {
    prog::bench::bench(|b| {
        let sent = from_lan(BARE_SIDE.ip(V4), HOST.ip(V4), tcp(40_000, 8080, flag::SYN));
        let uplinks = b.datapath().uplinks().expect("the uplinks");
        let (_, loose) = uplinks.into_iter().find(|(index, _)| *index == b.uplink).expect("the uplink");
        let strict = Uplink { flags: Uplink::STRICT_SOURCE, ..loose };
        b.datapath().put_uplink(b.uplink, &strict).expect("make it strict");
        b.lan_sends(&sent, &Want::drop(DropReason::Martian));
        let near = from_lan(CLIENT.ip(V4), HOST.ip(V4), tcp(40_000, 8080, flag::SYN));
        assert_eq!(b.run(Hook::FromUplink, lan(b), &near.bytes()).action, REDIRECT);
        // IPv6 has no such filter.
        let sent6 = from_lan(BARE_SIDE.ip(V6), HOST.ip(V6), tcp(40_000, 8080, flag::SYN));
        assert_eq!(b.run(Hook::FromUplink, lan(b), &sent6.bytes()).action, REDIRECT);
        b.datapath().put_uplink(b.uplink, &loose).expect("make it as it was");
        assert_eq!(b.run(Hook::FromUplink, lan(b), &sent.bytes()).action, REDIRECT);
    });
}

both!(
    /// The kernel shows a pod's packet no socket that is bound to a device: whose the port is shows at the answer.
    fn what_is_for_a_socket_bound_to_the_uplink_is_the_hosts(b, v) {
        let port = 20_501;
        let domain = if v == V4 { Domain::IPV4 } else { Domain::IPV6 };
        let bound = |kind| {
            let socket = Socket::new(domain, kind, None).expect("socket");
            socket.bind_device(Some(b"up0")).expect("bind to the uplink");
            socket.bind(&SocketAddr::new(HOST.ip(v), port).into()).expect("bind");
            socket
        };
        let _udp = bound(Type::DGRAM);
        let listener = bound(Type::STREAM);
        listener.listen(1).expect("listen");
        let red = |l4| b.run(Hook::FromPod, Meta { ifindex: RED.ifindex(), ..Meta::default() }, &from_pod(RED, SERVER.ip(v), l4).bytes());
        let left_to_the_host = |l4| {
            let frame = from_lan(SERVER.ip(v), HOST.ip(v), l4).bytes();
            let out = b.run(Hook::FromUplink, lan(b), &frame);
            assert_eq!((out.action, out.frame == frame), (PASS, true));
            assert_eq!(table(b.datapath()).len(), 0, "the pod's flow goes");
        };
        red(udp(port, 53));
        assert_eq!(table(b.datapath()).iter().find(|r| r.original).map(|r| r.to_sport), Some(port));
        left_to_the_host(udp(53, port));
        red(tcp(port, 443, flag::SYN));
        assert_eq!(table(b.datapath()).iter().find(|r| r.original).map(|r| r.to_sport), Some(port));
        // A stray segment is no reason: the listener has no part in it.
        let stray = from_lan(SERVER.ip(v), HOST.ip(v), tcp(443, port, flag::ACK)).bytes();
        b.run(Hook::FromUplink, lan(b), &stray);
        assert_eq!(table(b.datapath()).len(), 2);
        left_to_the_host(tcp(443, port, flag::SYN));
    }
);

both!(
    /// A port is published that a socket of the host uses towards somebody: their packets stay the host's.
    fn a_published_port_takes_nothing_from_a_connected_socket(b, v) {
        let udp_socket = UdpSocket::bind((HOST.ip(v), 5353)).expect("bind");
        udp_socket.connect((CLIENT.ip(v), 40_000)).expect("connect");
        let theirs = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 5353)).bytes();
        assert_eq!(b.run(Hook::FromUplink, lan(b), &theirs).action, PASS);
        let others = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_001, 5353)).bytes();
        assert_eq!(b.run(Hook::FromUplink, lan(b), &others).action, REDIRECT);
        drop(udp_socket);
        assert_eq!(b.run(Hook::FromUplink, lan(b), &theirs).action, REDIRECT);
        // TCP, that has asked for a connection: nobody answers here.
        let socket = Socket::new(if v == V4 { Domain::IPV4 } else { Domain::IPV6 }, Type::STREAM, None).expect("socket");
        socket.bind(&SocketAddr::new(HOST.ip(v), 8080).into()).expect("bind");
        socket.set_nonblocking(true).expect("non-blocking");
        let _under_way = socket.connect(&SocketAddr::new(SERVER.ip(v), 443).into());
        let theirs = from_lan(SERVER.ip(v), HOST.ip(v), tcp(443, 8080, flag::SYN)).bytes();
        assert_eq!(b.run(Hook::FromUplink, lan(b), &theirs).action, PASS);
        let others = from_lan(SERVER.ip(v), HOST.ip(v), tcp(444, 8080, flag::SYN)).bytes();
        assert_eq!(b.run(Hook::FromUplink, lan(b), &others).action, REDIRECT);
    }
);

both!(
    /// The source is asked for when a flow is opened: packets of one pay nothing, and are the flow's by its numbers.
    fn a_pods_packet_that_was_sent_back_may_have_the_hosts_address(b, v) {
        let sent = from_lan(HOST.ip(v), HOST2.ip(v), udp(20_000, 5353));
        b.lan_sends(&sent, &Want::drop(DropReason::Martian));
        let meta = |mark| Meta { notes: Notes { mark, priority: 0 }, ..lan(b) };
        // Any other mark is the host's own affair.
        for mark in [1, HAIRPIN ^ 1, HAIRPIN & 0xffff, HAIRPIN << 1] {
            let out = b.run(Hook::FromUplink, meta(mark), &sent.bytes());
            assert_eq!((out.action, flows::table(b.datapath()).len()), (2, 0), "{mark:#x}");
        }
        let out = b.run(Hook::FromUplink, meta(HAIRPIN), &sent.bytes());
        // The mark ends with it.
        assert_eq!((out.action, out.notes), (REDIRECT, Notes::default()));
        assert_eq!(flows::table(b.datapath()).len(), 2);
    }
);

both!(
    /// What does not fit a connection changes nothing in it, whatever socket of the host has its port.
    fn a_syn_ack_of_nobody_ends_no_connection_where_the_host_listens(b, v) {
        let port = 45_679;
        let red = |l4| b.run(Hook::FromPod, Meta { ifindex: RED.ifindex(), ..Meta::default() }, &from_pod(RED, SERVER.ip(v), l4).bytes());
        let server = |l4| b.run(Hook::FromUplink, lan(b), &from_lan(SERVER.ip(v), HOST.ip(v), l4).bytes());
        for established in [false, true] {
            b.datapath().delete_flows(|_| true).expect("delete flows");
            red(tcp(port, 443, flag::SYN));
            let flow = table(b.datapath()).into_iter().find(|r| r.original).expect("the flow");
            let wire = flow.to_sport;
            if established {
                server(tcp(443, wire, flag::SYN | flag::ACK));
                red(tcp(port, 443, flag::ACK));
            }
            let before = table(b.datapath());
            let _listener = TcpListener::bind((HOST.ip(v), wire)).expect("listen");
            let (flags, window, payload) = (flag::SYN | flag::ACK, 512, Vec::new());
            server(L4::Tcp { sport: 443, dport: wire, seq: 0xdead_beef, ack: 0x1234_5678, flags, window, payload });
            assert_eq!(table(b.datapath()), before, "established: {established}");
        }
    }
);

both!(
    fn a_frame_for_another_station_passes(b, v) {
        let opened = from_pod(RED, SERVER.ip(v), udp(20_000, 53)).bytes();
        b.run(Hook::FromPod, Meta { ifindex: RED.ifindex(), ..Meta::default() }, &opened);
        let rows = [
            from_lan(CLIENT.ip(v), HOST.ip(v), tcp(40_000, 8080, flag::SYN)),
            from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 5353)),
            from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000)),
            from_lan(CLIENT.ip(v), RED.ip(v), udp(40_000, 53)),
            from_lan(CLIENT.ip(v), LOOPBACK.ip(v), udp(40_000, 53)),
        ];
        for sent in rows {
            let sent = Packet { eth_dst: [2, 0, 0, 0, 9, 9], ..sent };
            b.lan_sends(&sent, &Want::pass(&sent));
        }
    }
);

both!(
    /// What is marked as the host's is, and the mark was the programs' own: it goes no further.
    fn a_copy_for_the_host_passes_without_its_mark(b, v) {
        let opened = from_pod(RED, SERVER.ip(v), echo(true, 20_000)).bytes();
        b.run(Hook::FromPod, Meta { ifindex: RED.ifindex(), ..Meta::default() }, &opened);
        let before = flows::table(b.datapath());
        for sent in [
            from_lan(SERVER.ip(v), HOST.ip(v), echo(false, 20_000)),
            from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 5353)),
        ] {
            let meta = Meta { notes: Notes { mark: HOSTS, priority: 3 }, ..lan(b) };
            let out = b.run(Hook::FromUplink, meta, &sent.bytes());
            assert_eq!((out.action, &out.frame, out.notes), (PASS, &sent.bytes(), Notes { mark: 0, priority: 3 }));
        }
        assert_eq!(flows::table(b.datapath()), before);
        // The answer itself reaches the pod, with nothing noted on it.
        let answer = from_lan(SERVER.ip(v), HOST.ip(v), echo(false, 20_000));
        let out = b.run(Hook::FromUplink, lan(b), &answer.bytes());
        assert_eq!((out.action, out.notes), (REDIRECT, Notes::default()));
    }
);
