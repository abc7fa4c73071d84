//! How many ICMP errors a sender gets (RFC 4443 section 2.4 (f), RFC 1812 section 4.3.2.8), each from a ration of its own.

mod common;
#[macro_use]
mod prog;

use std::time::{Duration, Instant};

use netns::datapath::Hook;
use netns_ebpf_common::area::{ERROR_BURST, lan_area};
use netns_ebpf_common::verdict::DropReason;
use netns_ebpf_common::{Addr4, Addr6};
use prog::flows::masqueraded;
use prog::*;

/// Long enough for a test to be over before another error is paid for.
const LONG: Duration = Duration::from_secs(3600);

/// The actions of an answer and of none.
const REDIRECT: i32 = 7;
const SHOT: i32 = 2;

/// A pod's packet with a problem, and what answers it.
fn last_hop(pod: Pod, v: Version) -> (Packet, Want) {
    let sent = from_pod(pod, SERVER.ip(v), udp(1000, 33434)).hops(1);
    let error = originated(Problem::TimeExceeded, GATEWAY.ip(v), &sent, (pod.mac, pod.gateway_mac()));
    let want = Want::reject_to(pod, DropReason::HopLimit, &error);
    (sent, want)
}

/// The area of a machine on the LAN.
fn area_of(machine: Place, v: Version) -> u32 {
    match v {
        V4 => lan_area(&Addr4::from(machine.v4)),
        V6 => lan_area(&Addr6::from(machine.v6)),
    }
}

both!(
    fn a_flood_of_problems_is_answered_as_far_as_time_pays_for(b, v) {
        let frame = last_hop(RED, v).0.bytes();
        let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
        let started = Instant::now();
        let told = (0..3 * ERROR_BURST).filter(|_| match b.run(Hook::FromPod, meta, &frame).action {
            REDIRECT => true,
            SHOT => false,
            action => panic!("action {action}"),
        });
        let told = told.count() as u64;
        // The clock moves by ticks, of 10 ms at most.
        let paid_for = ERROR_BURST + started.elapsed().as_millis() as u64 + 10;
        assert!((ERROR_BURST..=paid_for).contains(&told), "{told} of at most {paid_for}");
        b.set_error_debt(&[RED.slot], Duration::from_millis(1));
        b.wait(Duration::from_millis(2));
        let (sent, want) = last_hop(RED, v);
        b.pod_sends(RED, &sent, &want);
    }
);

both!(
    fn a_pod_that_has_had_too_many_errors_costs_nobody_else_any(b, v) {
        b.set_error_debt(&[RED.slot], LONG);
        b.pod_sends(RED, &last_hop(RED, v).0, &Want::drop(DropReason::HopLimit));
        let nowhere = from_pod(RED, NOBODY.ip(v), udp(1000, 53));
        b.pod_sends(RED, &nowhere, &Want::drop(DropReason::UnknownAddress));
        let (sent, want) = last_hop(BLUE, v);
        b.pod_sends(BLUE, &sent, &want);
        // What a path takes is told always: whoever does not hear of it sends in vain.
        let header = if v == V4 { 28 } else { 48 };
        let big = from_pod(RED, GREEN.ip(v), udp(1000, 53).with_payload(GREEN_MTU as usize + 1 - header));
        let error = originated(Problem::TooBig(GREEN_MTU), GATEWAY.ip(v), &big, (RED.mac, RED.gateway_mac()));
        b.pod_sends(RED, &big, &Want::reject_to(RED, DropReason::TooBig, &error));
    }
);

both!(
    fn machines_of_the_lan_have_rations_of_their_own(b, v) {
        let macs = (prog::ROUTER_MAC, prog::UPLINK_MAC);
        let last = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 5353)).hops(1);
        let error = originated(Problem::TimeExceeded, HOST.ip(v), &last, macs);
        let told = Want::reject(DropReason::HopLimit, &error).rx_dropped(BLUE);
        b.lan_sends(&last, &told);
        b.set_error_debt(&[area_of(CLIENT, v)], LONG);
        b.lan_sends(&last, &Want::drop(DropReason::HopLimit).rx_dropped(BLUE));
        let (sent, want) = last_hop(RED, v);
        b.pod_sends(RED, &sent, &want);
        b.set_error_debt(&[area_of(CLIENT, v)], Duration::ZERO);
        b.lan_sends(&last, &told);
    }
);

both!(
    /// The host is shown echo replies to pods, as its own pings may have the same identifier, from a ration of their own.
    fn echo_replies_use_up_no_errors_of_the_pod(b, v) {
        let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
        b.run(Hook::FromPod, meta, &from_pod(RED, SERVER.ip(v), echo(true, 20_000)).bytes());
        let reply = from_lan(SERVER.ip(v), HOST.ip(v), echo(false, 20_000)).bytes();
        let lan = Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() };
        for _ in 0..3 * ERROR_BURST {
            b.run(Hook::FromUplink, lan, &reply);
        }
        let (sent, want) = last_hop(RED, v);
        b.pod_sends(RED, &sent, &want);
    }
);

/// The kernel's neighbour table, as somebody on the LAN answers or does not.
fn neighbour(v: Version, change: &str) {
    let via = if v == V4 { "192.0.2.254" } else { "2001:db8:1::fe" };
    let arguments = format!("neigh {change} {via} dev up0");
    let done = std::process::Command::new("ip").args(arguments.split(' ')).status().expect("ip");
    assert!(done.success(), "ip {arguments}");
}

both!(
    fn a_next_hop_nobody_answers_for_is_said_once_a_search(b, v) {
        for (port, l4) in [(20_000, tcp(20_000, 80, flag::SYN)), (20_001, udp(20_001, 53))] {
            let (sent, left) = masqueraded(v, SERVER, l4, port);
            let goes_out = || b.pod_sends(RED, &sent, &Want::neigh(&left));
            let error = originated(Problem::HostUnreachable, GATEWAY.ip(v), &sent, (RED.mac, RED.gateway_mac()));
            let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
            assert_eq!(b.run(Hook::FromPod, meta, &sent.bytes()).frame, left.bytes());
            goes_out();
            for _ in 0..2 {
                b.age(v, Duration::from_secs(3), |_, _| true);
                b.pod_sends(RED, &sent, &Want::reject_to(RED, DropReason::UnknownAddress, &error));
                // The kernel is to look for it again, however late the next one is.
                b.age(v, Duration::from_secs(4), |_, _| true);
                goes_out();
            }
            // Somebody is there and says nothing.
            neighbour(v, "replace lladdr 02:00:00:00:00:fe nud permanent");
            b.age(v, Duration::from_secs(3), |_, _| true);
            goes_out();
            neighbour(v, "del");
            // It has answered once.
            let (there, back) = (sent.l4.ports().1, port);
            let reply = if sent.proto() == 17 { udp(there, back) } else { tcp(there, back, flag::SYN | flag::ACK) };
            let meta = Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() };
            b.run(Hook::FromUplink, meta, &from_lan(SERVER.ip(v), HOST.ip(v), reply).bytes());
            b.age(v, Duration::from_secs(3), |_, _| true);
            let meta = Meta { ifindex: RED.ifindex(), ..Meta::default() };
            assert_eq!(b.run(Hook::FromPod, meta, &sent.bytes()).frame, left.bytes());
        }
    }
);
