//! Flows of pods and publishes that are gone: nobody looks for them, and nobody gets them.

mod common;
#[macro_use]
mod prog;

use netns::datapath::Hook;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::state::State;
use netns_ebpf_common::verdict::DropReason;
use prog::clients::{from_web, lan, meta, to_web};
use prog::flows::{masqueraded, pair, table};
use prog::mapping::independent;
use prog::*;

/// A pod that comes after another and has its addresses; its slot is green's.
fn heir(of: Pod) -> Pod {
    Pod { at: of.at, ..GREEN }
}

/// The pod goes, and its heir comes. What was there is put back when the value goes.
struct Gone<'a> {
    b: &'a Bench,
    before: [(u32, Endpoint); 2],
}

impl<'a> Gone<'a> {
    fn new(b: &'a Bench, pod: Pod) -> Self {
        let of = |slot| (slot, b.datapath().endpoint(slot).expect("read").expect("a pod"));
        let before = [of(GREEN.slot), of(pod.slot)];
        let (slot, old) = before[1];
        assert!(b.datapath().rest_endpoint(slot, old.owner).expect("rest"));
        assert!(b.datapath().endpoint_rests(slot).expect("read"));
        let new = Endpoint { addr4: old.addr4, addr6: old.addr6, ..before[0].1 };
        b.datapath().put_endpoint(GREEN.slot, &new).expect("the heir");
        Self { b, before }
    }
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        for (slot, endpoint) in self.before {
            self.b.datapath().put_endpoint(slot, &endpoint).expect("put back");
        }
    }
}

/// Red asks a server.
fn red_asks(b: &Bench, v: Version) {
    let (sent, left) = masqueraded(v, SERVER, udp(20_000, 53), 20_000);
    let flow = pair(b, &sent, &left);
    b.pod_sends(RED, &sent, &Want::neigh(&left).flows([&flow]));
}

both!(
    fn what_comes_for_a_pod_that_is_gone_is_the_hosts(b, v) {
        red_asks(b, v);
        let _gone = Gone::new(b, RED);
        let answer = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000));
        b.lan_sends(&answer, &Want::pass(&answer).flows([]));
        b.assert_accounts();
    }
);

both!(
    fn a_pod_with_the_same_address_opens_flows_of_its_own(b, v) {
        red_asks(b, v);
        let _gone = Gone::new(b, RED);
        let heir = heir(RED);
        let sent = from_pod(heir, SERVER.ip(v), udp(20_000, 53));
        let left = sent.translated((HOST.ip(v), 20_000), (SERVER.ip(v), 53)).sent_on();
        let flow = Pair::new(1, &sent, 0, &left, prog::Target::Uplink(b.uplink), prog::Target::Slot(heir.slot));
        let flow = flow.owned(heir.slot);
        b.pod_sends(heir, &sent, &Want::neigh(&left).flows([&flow]));
        let answer = from_lan(SERVER.ip(v), HOST.ip(v), udp(53, 20_000));
        let got = answer.translated((SERVER.ip(v), 53), (heir.ip(v), 20_000)).delivered(heir);
        b.lan_sends(&answer, &Want::peer(heir, &got).flows([&flow.state(State::Established)]));
        b.assert_accounts();
    }
);

both!(
    fn a_connection_to_a_pod_that_is_gone_is_not_its_heirs(b, v) {
        let connect = || {
            to_web(b, v, 40_000, flag::SYN);
            from_web(b, v, 40_000, flag::SYN | flag::ACK);
            to_web(b, v, 40_000, flag::ACK);
            from_web(b, v, 40_000, flag::ACK);
            assert_eq!(table(b.datapath()).len(), 2);
        };
        // The client goes on: the host, which has no such connection, resets it.
        connect();
        let gone = Gone::new(b, BLUE);
        let sent = from_lan(CLIENT.ip(v), HOST.ip(v), tcp(40_000, 8080, flag::ACK));
        b.lan_sends(&sent, &Want::pass(&sent).flows([]));
        drop(gone);
        // The heir sends what would be an answer.
        connect();
        let _gone = Gone::new(b, BLUE);
        let heir = heir(BLUE);
        let sent = from_pod(heir, CLIENT.ip(v), tcp(80, 40_000, flag::ACK));
        b.pod_sends(heir, &sent, &Want::drop(DropReason::NoFlow).flows([]));
        b.assert_accounts();
    }
);

both!(
    fn a_pods_flow_to_a_pod_that_is_gone_is_not_its_heirs(b, v) {
        let sent = from_pod(RED, HOST.ip(v), tcp(20_000, 8080, flag::SYN));
        b.run(Hook::FromPod, meta(RED), &sent.bytes());
        assert_eq!(table(b.datapath()).len(), 2, "hairpin");
        let _gone = Gone::new(b, BLUE);
        let heir = heir(BLUE);
        // As blue would have answered: to red by the host's address.
        let sent = from_pod(heir, HOST.ip(v), tcp(80, 20_000, flag::SYN | flag::ACK));
        b.run(Hook::FromPod, meta(heir), &sent.bytes());
        assert_eq!(table(b.datapath()), []);
        b.assert_accounts();
    }
);

both!(
    fn a_mapping_of_a_pod_that_is_gone_is_nobodys(b, v) {
        independent(b, true);
        let sent = from_pod(RED, SERVER.ip(v), udp(20_000, 53));
        b.run(Hook::FromPod, meta(RED), &sent.bytes());
        assert_eq!(table(b.datapath()).len(), 4, "a flow and a mapping");
        let _gone = Gone::new(b, RED);
        // Whoever sends to it reaches nobody.
        let asked = from_lan(SERVER2.ip(v), HOST.ip(v), udp(53, 20_000));
        let done = b.run(Hook::FromUplink, lan(b), &asked.bytes());
        assert_eq!(done.frame, asked.bytes(), "as it was");
        // The heir has one of its own.
        let heir = heir(RED);
        let sent = from_pod(heir, SERVER.ip(v), udp(20_000, 53));
        b.run(Hook::FromPod, meta(heir), &sent.bytes());
        let records = table(b.datapath());
        assert_eq!(records.len(), 4);
        assert!(records.iter().all(|r| r.owner_slot == Some(heir.slot)), "{records:#?}");
        b.assert_accounts();
    }
);

both!(
    fn of_a_publish_that_is_gone_connections_go_on_and_other_flows_do_not(b, v) {
        to_web(b, v, 40_000, flag::SYN);
        let asked = from_lan(CLIENT.ip(v), HOST.ip(v), udp(40_000, 5353));
        b.run(Hook::FromUplink, lan(b), &asked.bytes());
        assert_eq!(table(b.datapath()).len(), 4);
        for id in [WEB, DNS] {
            b.datapath().rest_publish(id).expect("rest");
        }
        from_web(b, v, 40_000, flag::SYN | flag::ACK);
        b.run(Hook::FromUplink, lan(b), &asked.bytes());
        let left = table(b.datapath());
        assert_eq!(left.len(), 2, "{left:#?}");
        assert!(left.iter().all(|r| r.is_connection() && r.state == State::Answered), "{left:#?}");
        b.datapath().sweep_resting().expect("sweep");
        let left = table(b.datapath());
        assert!(left.len() == 2 && left.iter().all(|r| r.publish.is_none()), "{left:#?}");
        assert_eq!([WEB, DNS].map(|id| b.datapath().publish(id).expect("read")), [None, None]);
        b.assert_accounts();
    }
);

both!(
    fn a_sweep_gives_a_slot_to_whoever_comes_next(b, v) {
        red_asks(b, v);
        let gone = Gone::new(b, RED);
        let owner = gone.before[1].1.owner;
        let other = Endpoint { owner: owner + 1000, addr4: Default::default(), addr6: Default::default(), ..gone.before[1].1 };
        b.datapath().put_endpoint(RED.slot, &other).expect_err("it rests");
        b.datapath().sweep_resting().expect("sweep");
        assert_eq!(table(b.datapath()), []);
        assert_eq!(b.datapath().flow_totals().expect("totals"), [0, 0]);
        assert_eq!(b.datapath().endpoint(RED.slot).expect("read"), None);
        b.datapath().put_endpoint(RED.slot, &other).expect("it is free");
        // One that has woken and rests again for another is left to the next sweep.
        assert!(b.datapath().remove_endpoint(RED.slot, owner + 1000).expect("remove"));
    }
);
