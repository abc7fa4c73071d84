//! What keeps an endpoint-independent mapping and what ends it.

mod common;
#[macro_use]
mod prog;

use std::time::Duration;

use netns_ebpf_common::flow::FlowFlags;
use netns_ebpf_common::host::HostConfig;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::mapping::{TCP, UDP, configure, independent, leaves, range, reaches, sends};
use prog::state::is_inside;
use prog::*;

both!(
    fn a_mapping_is_kept_while_it_has_flows_and_then_for_its_timer(b, v) {
        independent(b, false);
        range(b, 20_000..=20_002);
        let at = (HOST.ip(v), 20_000);
        let mapping = |flows| Pair::mapping(b, v, UDP, (RED, 20_000), at, flows);
        let one = sends(b, v, RED, SERVER, udp(20_000, 53), at, &[mapping(1)]);
        let two = sends(b, v, RED, SERVER2, udp(20_000, 53), at, &[mapping(2), one]);
        // UDP's time is over for the flows; a counted mapping lives on until they are found so.
        let short = |c: &mut HostConfig| {
            c.timeout_ns = [1_000_000; 4];
            c.timeout_ns[1] = 7_440_000_000_000;
            (c.snat_port_min, c.snat_port_max) = (20_000, 20_002);
        };
        configure(b, short);
        b.wait(Duration::from_millis(20));
        let left = from_lan(SERVER.ip(v), at.0, udp(53, at.1));
        b.lan_sends(&left, &Want::drop(DropReason::Filtered).rx_dropped(RED).flows([&mapping(1), &two]));
        // A new flow of red finds it, and the port is still nobody else's.
        let again = sends(b, v, RED, SERVER, udp(20_000, 53), at, &[mapping(2), two]);
        b.wait(Duration::from_millis(20));
        let left = from_lan(SERVER.ip(v), at.0, udp(53, at.1));
        b.lan_sends(&left, &Want::drop(DropReason::Filtered).rx_dropped(RED).flows([&mapping(1), &two]));
        let left = from_lan(SERVER2.ip(v), at.0, udp(53, at.1));
        // The last flow goes, and with it the mapping's time is over too: it was as idle.
        b.lan_sends(&left, &Want::pass(&left).flows([&mapping(0)]));
        let blue = Pair::mapping(b, v, UDP, (BLUE, 20_000), at, 1);
        sends(b, v, BLUE, SERVER, udp(20_000, 53), at, &[blue]);
        let _ = again;
    }
);

both!(
    fn sweeping_takes_mappings_whose_time_is_over_and_leaves_those_with_flows(b, v) {
        independent(b, false);
        let at = |port| (HOST.ip(v), port);
        let idle = Pair::mapping(b, v, UDP, (RED, 20_000), at(20_000), 1);
        let gone = sends(b, v, RED, SERVER, udp(20_000, 53), at(20_000), &[idle]);
        let live = Pair::mapping(b, v, TCP, (RED, 20_000), at(20_000), 1);
        let kept = sends(b, v, RED, SERVER, tcp(20_000, 80, flag::SYN), at(20_000), &[idle, gone, live]);
        let reply = from_lan(SERVER.ip(v), HOST.ip(v), tcp(80, 20_000, flag::SYN | flag::ACK));
        let got = reply.translated((SERVER.ip(v), 80), (RED.ip(v), 20_000)).delivered(RED);
        let answered = kept.state(State::Answered);
        b.lan_sends(&reply, &Want::peer(RED, &got).flows([&idle, &gone, &live, &answered]));
        let (ack, left, _) = leaves(b, v, RED, SERVER, tcp(20_000, 80, flag::ACK), at(20_000));
        let kept = kept.state(State::Established);
        b.pod_sends(RED, &ack, &Want::neigh(&left).flows([&idle, &gone, &live, &kept]));
        configure(b, |c| {
            c.timeout_ns = [1_000_000; 4];
            c.timeout_ns[1] = 7_440_000_000_000;
        });
        b.wait(Duration::from_millis(20));
        // Flows first, in whatever order the table has: what they held is over at the second look.
        let removed = b.datapath().expire_flows(usize::MAX).expect("sweep");
        let again = b.datapath().expire_flows(usize::MAX).expect("sweep");
        assert_eq!(removed + again, 4, "two entries of the flow and two of its mapping");
        assert_eq!(prog::flows::table(b.datapath()), table([&live, &kept]));
        // What is deleted by rule leaves its mapping too.
        b.datapath().delete_flows(|r| r.original).expect("delete");
        let live = Pair::mapping(b, v, TCP, (RED, 20_000), at(20_000), 0);
        assert_eq!(prog::flows::table(b.datapath()), table([&live]));
        b.wait(Duration::from_millis(20));
        assert_eq!(b.datapath().expire_flows(usize::MAX).expect("sweep"), 2);
    }
);

/// The table with these in it.
fn table<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> Vec<netns::datapath::FlowRecord> {
    prog::flows::sorted(pairs.into_iter().flat_map(Pair::records).collect())
}

both!(
    fn rfc4787_req_6_the_pods_packets_keep_a_mapping_and_those_that_come_in_do_not(b, v) {
        independent(b, false);
        let at = (HOST.ip(v), 20_000);
        let mapping = Pair::mapping(b, v, UDP, (RED, 20_000), at, 1);
        let flow = sends(b, v, RED, SERVER, udp(20_000, 53), at, &[mapping]).state(State::Established);
        let stamp = || {
            let flows = b.datapath().flows().expect("flows");
            flows.iter().find(|r| r.mapping == Some(1)).expect("the mapping").last_seen_ns
        };
        // Longer than flows stamp their mapping.
        let long = Duration::from_secs(70);
        b.age(v, long, |flags, target| is_inside(flags, target) || !flags.has(FlowFlags::MAPPING));
        let before = stamp();
        reaches(b, v, (SERVER, 53), at, (RED, 20_000), &[mapping, flow]);
        assert_eq!(stamp(), before);
        let (sent, left, _) = leaves(b, v, RED, SERVER, udp(20_000, 53), at);
        let flow = flow.state(State::Assured);
        b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&mapping, &flow]));
        assert!(stamp() >= before + 70_000_000_000 - 1_000_000_000, "{} after {before}", stamp());
    }
);

both!(
    fn a_count_that_was_lost_keeps_no_mapping_for_ever(b, v) {
        independent(b, false);
        let at = (HOST.ip(v), 20_000);
        let mapping = Pair::mapping(b, v, UDP, (RED, 20_000), at, 1);
        sends(b, v, RED, SERVER, udp(20_000, 53), at, &[mapping]);
        // Its flow goes, and nobody counts that.
        b.datapath().delete_flows(|r| r.original).expect("delete");
        b.forge_mapped_flows(v, 1);
        let short = |c: &mut HostConfig| {
            c.timeout_ns = [1_000_000; 4];
            (c.snat_port_min, c.snat_port_max) = (20_000, 20_000);
        };
        configure(b, short);
        b.wait(Duration::from_millis(20));
        let sent = from_pod(BLUE, SERVER.ip(v), udp(20_000, 53));
        let error = originated(Problem::Prohibited, GATEWAY.ip(v), &sent, (BLUE.mac, BLUE.gateway_mac()));
        b.pod_sends(BLUE, &sent, &Want::reject_to(BLUE, DropReason::PortsExhausted, &error).flows([&mapping]));
        // No flow lives as long without stamping it.
        b.age(v, Duration::from_secs(140), is_inside);
        b.end_back_off(v);
        let blue = Pair::mapping(b, v, UDP, (BLUE, 20_000), at, 1);
        sends(b, v, BLUE, SERVER, udp(20_000, 53), at, &[blue]);
    }
);

both!(
    fn a_closed_connection_frees_its_mapping_after_the_transitory_timer(b, v) {
        independent(b, false);
        let at = (HOST.ip(v), 20_000);
        let mapping = |flows| Pair::mapping(b, v, TCP, (RED, 20_000), at, flows);
        let flow = sends(b, v, RED, SERVER, tcp(20_000, 80, flag::SYN), at, &[mapping(1)]);
        let reset = from_lan(SERVER.ip(v), at.0, tcp(80, at.1, flag::RST | flag::ACK));
        let got = reset.translated((SERVER.ip(v), 80), (RED.ip(v), 20_000)).delivered(RED);
        b.lan_sends(&reset, &Want::peer(RED, &got).flows([&mapping(1), &flow.state(State::Reset)]));
        // The next SYN takes the old flow out and opens a new one: counted once.
        sends(b, v, RED, SERVER, tcp(20_000, 80, flag::SYN), at, &[mapping(1)]);
    }
);
