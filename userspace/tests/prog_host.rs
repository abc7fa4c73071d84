//! Pods and the host's own sockets: from the pod to the gateway and to the host's addresses, and from the host to pods.

mod common;
#[macro_use]
mod prog;

use std::net::IpAddr;

use netns::datapath::Hook;
use netns_ebpf_common::verdict::DropReason;
use prog::*;

both!(
    fn the_host_gets_a_pods_packets_untouched(b, v) {
        for dst in [GATEWAY, HOST, HOST2, GATEWAY2] {
            for l4 in [
                tcp(1000, 22, flag::SYN),
                tcp(1000, 22, flag::ACK),
                tcp(1000, 22, flag::RST),
                udp(1000, 53),
                echo(true, 7),
                echo(false, 7),
                L4::Raw { proto: 132, bytes: vec![0x5a; 40] },
            ] {
                let sent = from_pod(RED, dst.ip(v), l4);
                b.pod_sends(RED, &sent, &Want::host(&sent));
            }
        }
    }
);

both!(
    fn the_host_is_the_last_hop(b, v) {
        let sent = from_pod(RED, GATEWAY.ip(v), udp(1000, 33434)).hops(1);
        b.pod_sends(RED, &sent, &Want::host(&sent));
    }
);

both!(
    fn a_network_without_access_reaches_its_gateways_echo_only(b, v) {
        let ask = from_pod(TWIN, GATEWAY.ip(v), echo(true, 7));
        let mut reply = ask.clone();
        (reply.src, reply.dst) = (ask.dst, ask.src);
        reply.l4 = echo(false, 7);
        (reply.eth_dst, reply.eth_src) = (TWIN.mac, TWIN.gateway_mac());
        b.pod_sends(TWIN, &ask, &Want::out(reply.bytes()));
        for (dst, l4) in [
            (GATEWAY, udp(1000, 53)),
            (GATEWAY, tcp(1000, 22, flag::SYN)),
            (GATEWAY, echo(false, 7)),
            (HOST, echo(true, 7)),
            (HOST, tcp(1000, 22, flag::SYN)),
            (GATEWAY2, echo(true, 7)),
        ] {
            let sent = from_pod(TWIN, dst.ip(v), l4);
            b.pod_sends(TWIN, &sent, &Want::drop(DropReason::NoHostAccess));
        }
    }
);

both!(
    /// RFC 1624 section 3: an IPv4 echo reply of zeros only has a checksum of 0xffff, which no change of another one gives.
    fn an_echo_reply_of_zeros_has_a_right_checksum(b, v) {
        let ask = from_pod(TWIN, GATEWAY.ip(v), zeros(true, v));
        let mut reply = ask.clone();
        (reply.src, reply.dst) = (ask.dst, ask.src);
        reply.l4 = zeros(false, v);
        (reply.eth_dst, reply.eth_src) = (TWIN.mac, TWIN.gateway_mac());
        b.pod_sends(TWIN, &ask, &Want::out(reply.bytes()));
    }
);

both!(
    fn networks_with_one_subnet_do_not_meet(b, v) {
        // The same addresses in another network are another network's pods.
        let sent = from_pod(TWIN, BLUE.ip(v), udp(1000, 53));
        b.pod_sends(TWIN, &sent, &Want::peer(TWIN_BLUE, &sent.delivered(TWIN_BLUE)));
        let sent = from_pod(RED, BLUE.ip(v), udp(1000, 53));
        b.pod_sends(RED, &sent, &Want::peer(BLUE, &sent.delivered(BLUE)));
        // Green is in network 1 only.
        let sent = from_pod(TWIN, GREEN.ip(v), udp(1000, 53));
        let error = originated(Problem::HostUnreachable, GATEWAY.ip(v), &sent, (TWIN.mac, TWIN.gateway_mac()));
        b.pod_sends(TWIN, &sent, &Want::reject_to(TWIN, DropReason::UnknownAddress, &error));
    }
);

both!(
    fn an_error_about_the_hosts_own_packets_goes_up(b, v) {
        let about = |src: Place, dst: IpAddr| Packet::new(src.ip(v), dst, udp(53, 1000)).ip_bytes();
        let error = |pod, dst: Place, about: &[u8]| from_pod(pod, dst.ip(v), Problem::PortUnreachable.quoting(v, about));
        for dst in [GATEWAY, HOST] {
            let sent = error(RED, dst, &about(dst, RED.ip(v)));
            b.pod_sends(RED, &sent, &Want::host(&sent));
            // Of what another address of the host has sent, of what went to somebody else, and of what the pod itself has sent, it
            // can have seen nothing.
            let other = if dst == HOST { GATEWAY } else { HOST };
            for forged in [
                about(other, RED.ip(v)),
                about(dst, BLUE.ip(v)),
                about(dst, SERVER.ip(v)),
                Packet::new(RED.ip(v), dst.ip(v), udp(1000, 53)).ip_bytes(),
            ] {
                b.pod_sends(RED, &error(RED, dst, &forged), &Want::drop(DropReason::IcmpUnrelated));
            }
        }
        let sent = error(TWIN, GATEWAY, &about(GATEWAY, RED.ip(v)));
        b.pod_sends(TWIN, &sent, &Want::drop(DropReason::IcmpUnrelated));
    }
);

both!(
    fn the_host_reaches_its_pods(b, v) {
        for l4 in [
            tcp(1000, 80, flag::SYN),
            tcp(1000, 80, flag::ACK),
            udp(1000, 53),
            echo(true, 7),
            echo(false, 7),
            L4::Raw { proto: 132, bytes: vec![0x5a; 40] },
        ] {
            for (src, hops) in [(GATEWAY, 64), (HOST, 64), (GATEWAY, 1), (GATEWAY, 255)] {
                let sent = from_host(1, src.ip(v), BLUE.ip(v), l4.clone()).hops(hops);
                let mut got = sent.clone();
                (got.eth_dst, got.eth_src) = (BLUE.mac, BLUE.gateway_mac());
                b.host_sends(1, &sent, &Want::out_to(BLUE, &got));
            }
        }
    }
);

both!(
    fn the_host_is_told_of_an_address_nobody_has(b, v) {
        let sent = from_host(1, GATEWAY.ip(v), NOBODY.ip(v), tcp(1000, 80, flag::SYN));
        let mac = gateway_mac(1);
        let error = originated(Problem::HostUnreachable, NOBODY.ip(v), &sent, (mac, mac));
        b.host_sends(1, &sent, &Want::reject_host(DropReason::UnknownAddress, &error));
        // A pod of another network is none of this one.
        let sent = from_host(1, GATEWAY.ip(v), YELLOW.ip(v), udp(1000, 53));
        let error = originated(Problem::HostUnreachable, YELLOW.ip(v), &sent, (mac, mac));
        b.host_sends(1, &sent, &Want::reject_host(DropReason::UnknownAddress, &error));
    }
);

both!(
    fn the_host_is_told_the_mtu(b, v) {
        let mac = gateway_mac(1);
        let sent = from_host(1, GATEWAY.ip(v), GREEN.ip(v), udp(1000, 53).with_payload(1300));
        let error = originated(Problem::TooBig(GREEN_MTU), GREEN.ip(v), &sent, (mac, mac));
        let want = Want::reject_host(DropReason::TooBig, &error).rx_dropped(GREEN);
        b.host_sends(1, &sent, &want);
    }
);

both!(
    fn the_hosts_gso_is_judged_by_its_segments(b, v) {
        let headers = if v == V4 { 40 } else { 60 };
        let sent = from_host(1, GATEWAY.ip(v), GREEN.ip(v), tcp(1000, 80, flag::ACK).with_payload(3000));
        let meta = |gso_size| Meta { ifindex: gateway_ifindex(1), gso_size, ..Meta::default() };
        let mut got = sent.clone();
        (got.eth_dst, got.eth_src) = (GREEN.mac, GREEN.gateway_mac());
        b.expect(Hook::FromHost, meta(GREEN_MTU - headers), &sent.bytes(), &Want::out_to(GREEN, &got));
        let mac = gateway_mac(1);
        let error = originated(Problem::TooBig(GREEN_MTU), GREEN.ip(v), &sent, (mac, mac));
        let want = Want::reject_host(DropReason::TooBig, &error).rx_dropped(GREEN);
        b.expect(Hook::FromHost, meta(GREEN_MTU - headers + 1), &sent.bytes(), &want);
    }
);

both!(
    fn only_the_hosts_own_packets_take_the_gateway_device(b, v) {
        let sent = from_host(1, CLIENT.ip(v), BLUE.ip(v), udp(1000, 53)).bytes();
        let meta = Meta { ifindex: gateway_ifindex(1), ingress_ifindex: b.uplink, ..Meta::default() };
        b.expect(Hook::FromHost, meta, &sent, &Want::drop(DropReason::NotFromHost));
        // A device that is no network's gateway.
        let meta = Meta { ifindex: b.uplink, ..Meta::default() };
        b.expect(Hook::FromHost, meta, &sent, &Want::drop(DropReason::NoEndpoint));
    }
);

both!(
    fn the_host_sends_nothing_to_groups_or_its_link(b, v) {
        let rows = match v {
            V4 => ["224.0.0.251", "255.255.255.255", "239.0.0.1"],
            V6 => ["ff02::1", "ff02::16", "fe80::1"],
        };
        for dst in rows {
            let sent = from_host(1, GATEWAY.ip(v), dst.parse().expect("address"), udp(1000, 53));
            b.host_sends(1, &sent, &Want::drop(DropReason::Multicast));
        }
        let mut frame = from_host(1, GATEWAY.ip(v), BLUE.ip(v), udp(1000, 53)).bytes();
        frame[12..14].copy_from_slice(&[8, 6]);
        let meta = Meta { ifindex: gateway_ifindex(1), ..Meta::default() };
        b.expect(Hook::FromHost, meta, &frame, &Want::drop(DropReason::UnknownEtherType));
    }
);
