//! Who may come in by a published port, and which of several pods a new flow goes to.

mod common;
#[macro_use]
mod prog;

use std::array;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netns::datapath::Hook;
use netns_ebpf_common::family::addr_hash;
use netns_ebpf_common::publish::{BUCKETS, Backends, Publish};
use netns_ebpf_common::verdict::DropReason;
use netns_ebpf_common::{Addr4, Addr6};
use prog::*;

/// Restricts [`DNS`] to clients of these prefixes.
fn allow(b: &Bench, prefixes: &[&str]) {
    let prefixes: Vec<IpNet> = prefixes.iter().map(|p| p.parse().expect("a prefix")).collect();
    b.datapath().sync_allowed(DNS, &prefixes).expect("prefixes");
    b.configure_publish(DNS, |p| p.flags |= Publish::RESTRICTED);
}

/// A client's datagram to [`DNS`], what a pod gets of it, and the flow.
fn question(b: &Bench, client: IpAddr, to: IpAddr, sport: u16, pod: Pod) -> (Packet, Packet, Pair) {
    let sent = from_lan(client, to, udp(sport, 5353));
    let at: IpAddr = if client.is_ipv4() { pod.at.v4.into() } else { pod.at.v6.into() };
    let got = sent.translated((client, sport), (at, 53)).delivered(pod);
    let flow = Pair::new(0, &sent, pod.network, &got, Target::Slot(pod.slot), Target::Uplink(b.uplink));
    (sent, got, flow.owned(pod.slot).published(DNS))
}

both!(
    fn clients_are_judged_by_the_list(b, v) {
        let client = CLIENT.ip(v);
        // The list, and whether the client, 192.0.2.100 or 2001:db8:1::100, may come in.
        let rows: [(&[&str], bool); 9] = [
            (&["192.0.2.0/24", "2001:db8:1::/64"], true),
            (&["192.0.2.100/32", "2001:db8:1::100/128"], true),
            (&["192.0.2.101/32", "2001:db8:1::101/128"], false),
            (&["0.0.0.0/0", "::/0"], true),
            (&["192.0.2.96/29", "2001:db8:1::100/121"], true),
            (&["192.0.2.64/27", "2001:db8:1::80/121"], false),
            // A wide one that does not match beside a narrow one that does.
            (&["10.0.0.0/8", "192.0.2.100/31", "fd00::/8", "2001:db8:1::100/127"], true),
            (if v == V4 { &["::/0"] } else { &["0.0.0.0/0"] }, false),
            (&[], false),
        ];
        for (list, enters) in rows {
            println!("{list:?}");
            b.datapath().delete_flows(|_| true).expect("delete");
            allow(b, list);
            let (sent, got, flow) = question(b, client, HOST.ip(v), 40_000, BLUE);
            if !enters {
                b.lan_sends(&sent, &Want::drop(DropReason::NotAllowed).flows([]));
                continue;
            }
            b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(DNS).flows([&flow]));
            // Only the first packet is judged.
            allow(b, &[]);
            b.lan_sends(&sent, &Want::peer(BLUE, &got).publish(DNS).flows([&flow]));
            let (other, ..) = question(b, client, HOST.ip(v), 40_001, BLUE);
            b.lan_sends(&other, &Want::drop(DropReason::NotAllowed));
        }
    }
);

both!(
    fn a_list_is_one_publishs_own(b, v) {
        // The neighbours' lists in the same trie let nobody in, and theirs keep nobody out of one without a list.
        let all = ["0.0.0.0/0", "::/0"].map(|p| p.parse().expect("a prefix"));
        for id in [DNS - 1, DNS + 1, 0] {
            b.datapath().sync_allowed(id, &all).expect("prefixes");
        }
        allow(b, &[]);
        let (sent, ..) = question(b, CLIENT.ip(v), HOST.ip(v), 40_000, BLUE);
        b.lan_sends(&sent, &Want::drop(DropReason::NotAllowed));
        b.datapath().sync_allowed(RANGE, &[]).expect("prefixes");
        let sent = from_lan(CLIENT.ip(v), HOST.ip(v), tcp(40_000, 9000, flag::SYN));
        let got = sent.translated((CLIENT.ip(v), 40_000), (BLUE.ip(v), 7000)).delivered(BLUE);
        let flow = Pair::new(0, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Uplink(b.uplink));
        let flow = flow.owned(BLUE.slot).published(RANGE);
        b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(RANGE).flows([&flow]));
        b.datapath().sync_allowed(0, &[]).expect("prefixes");
    }
);

both!(
    fn a_refused_client_learns_nothing_of_a_drain(b, v) {
        allow(b, &[]);
        b.configure_publish(DNS, |p| p.flags &= !Publish::ACTIVE);
        let (sent, ..) = question(b, CLIENT.ip(v), HOST.ip(v), 40_000, BLUE);
        b.lan_sends(&sent, &Want::drop(DropReason::NotAllowed));
        // The middle of a connection is the host's to reset, as for every port nobody listens on.
        b.configure_publish(WEB, |p| p.flags |= Publish::RESTRICTED);
        let sent = from_lan(CLIENT.ip(v), HOST.ip(v), tcp(40_000, 8080, flag::ACK));
        b.lan_sends(&sent, &Want::pass(&sent));
    }
);

both!(
    fn pods_are_judged_by_their_own_address(b, v) {
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_000));
        // Red and the host's own address, which red's packets have after translation.
        allow(b, &["10.244.0.10/32", "fd00:244::10/128"]);
        let sent = prog::from_pod(RED, HOST.ip(v), udp(1000, 5353));
        let got = sent.translated((HOST.ip(v), 20_000), (BLUE.ip(v), 53)).delivered(BLUE);
        let flow = Pair::new(1, &sent, 1, &got, Target::Slot(BLUE.slot), Target::Slot(RED.slot)).owned(RED.slot);
        let flow = flow.published(DNS);
        b.pod_sends(RED, &sent, &Want::peer(BLUE, &got).hairpin_opens(DNS).flows([&flow]));
        for pod in [GREEN, BLUE, YELLOW] {
            let sent = prog::from_pod(pod, HOST.ip(v), udp(1000, 5353));
            b.pod_sends(pod, &sent, &Want::drop(DropReason::NotAllowed));
        }
        allow(b, &["192.0.2.0/24", "2001:db8:1::/64"]);
        let sent = prog::from_pod(RED, HOST.ip(v), udp(1001, 5353));
        b.pod_sends(RED, &sent, &Want::drop(DropReason::NotAllowed));
    }
);

/// Makes [`DNS`] one of several backends, by bucket.
fn backends(b: &Bench, flags: u32, of_bucket: impl Fn(usize) -> Pod) {
    let slots = array::from_fn(|bucket| of_bucket(bucket).slot as u16);
    b.datapath().set_backends(DNS, Some(&Backends { slots })).expect("backends");
    b.configure_publish(DNS, |p| p.flags |= Publish::SEVERAL | flags);
}

/// The n-th client of the LAN.
fn client(v: Version, n: u32) -> IpAddr {
    match v {
        V4 => Ipv4Addr::from_bits(Ipv4Addr::new(198, 51, 0, 0).to_bits() + n).into(),
        V6 => Ipv6Addr::from_bits(SERVER.v6.to_bits() + (u128::from(n) << 64)).into(),
    }
}

fn bucket_of(client: IpAddr) -> usize {
    let hash = match client {
        IpAddr::V4(a) => addr_hash(&Addr4::from(a)),
        IpAddr::V6(a) => addr_hash(&Addr6::from(a)),
    };
    hash as usize % BUCKETS
}

const THREE: [Pod; 3] = [RED, BLUE, GREEN];

both!(
    fn a_sticky_client_has_one_backend(b, v) {
        let of_bucket = |bucket: usize| THREE[bucket % 3];
        backends(b, Publish::STICKY, of_bucket);
        let mut seen = Vec::new();
        for n in 0..40 {
            b.datapath().delete_flows(|_| true).expect("delete");
            let client = client(v, n * 7);
            let pod = of_bucket(bucket_of(client));
            seen.push(pod.slot);
            let mut flows = Vec::new();
            // Whatever its port and whichever of the host's addresses it takes.
            for (to, sport) in [(HOST, 40_000), (HOST, 40_001), (HOST2, 40_002), (GATEWAY, 50_000)] {
                let (sent, got, flow) = question(b, client, to.ip(v), sport, pod);
                flows.push(flow);
                b.lan_sends(&sent, &Want::peer(pod, &got).publish_opens(DNS).flows(&flows));
            }
            let (sent, got, _) = question(b, client, HOST.ip(v), 40_000, pod);
            b.lan_sends(&sent, &Want::peer(pod, &got).publish(DNS).flows(&flows));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, THREE.map(|p| p.slot), "the clients are spread");
    }
);

both!(
    fn a_pod_as_a_client_is_sticky_as_well(b, v) {
        b.configure(|c| (c.snat_port_min, c.snat_port_max) = (20_000, 20_000));
        let home = bucket_of(RED.ip(v));
        backends(b, Publish::STICKY, |bucket| if bucket == home { GREEN } else { BLUE });
        let sent = prog::from_pod(RED, HOST.ip(v), udp(1000, 5353));
        let got = sent.translated((HOST.ip(v), 20_000), (GREEN.ip(v), 53)).delivered(GREEN);
        let flow = Pair::new(1, &sent, 1, &got, Target::Slot(GREEN.slot), Target::Slot(RED.slot));
        let flow = flow.owned(RED.slot).published(DNS);
        b.pod_sends(RED, &sent, &Want::peer(GREEN, &got).hairpin_opens(DNS).flows([&flow]));
    }
);

both!(
    fn others_are_spread_by_chance_and_stay_where_they_are(b, v) {
        // 192 of 256 buckets.
        backends(b, 0, |bucket| if bucket < 192 { BLUE } else { GREEN });
        const FLOWS: u32 = 1200;
        let meta = Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() };
        let mut blue = 0;
        for n in 0..FLOWS {
            if n % 50 == 0 {
                b.datapath().delete_flows(|_| true).expect("delete");
            }
            let sport = 30_000 + n as u16;
            let [to_blue, to_green] = [BLUE, GREEN].map(|pod| question(b, CLIENT.ip(v), HOST.ip(v), sport, pod));
            let out = b.run(Hook::FromUplink, meta, &to_blue.0.bytes());
            let is_blue = out.frame == to_blue.1.bytes();
            assert!(is_blue || out.frame == to_green.1.bytes(), "{out:?}");
            blue += u32::from(is_blue);
            // The flow has its backend: whatever the dice would say, its packets go there.
            for _ in 0..3 {
                assert_eq!(b.run(Hook::FromUplink, meta, &to_blue.0.bytes()), out);
            }
        }
        // Binomial with p = 3/4: mean 900, standard deviation 15. Six of them: one run in 500 million fails by chance.
        assert!((810..=990).contains(&blue), "{blue} of {FLOWS}");
    }
);

both!(
    fn without_its_table_a_publish_has_its_first_backend(b, v) {
        b.configure_publish(DNS, |p| p.flags |= Publish::SEVERAL);
        let (sent, got, flow) = question(b, CLIENT.ip(v), HOST.ip(v), 40_000, BLUE);
        b.lan_sends(&sent, &Want::peer(BLUE, &got).publish_opens(DNS).flows([&flow]));
    }
);

both!(
    fn a_backend_of_the_table_that_is_gone_is_counted(b, v) {
        backends(b, 0, |_| GREEN);
        b.remove(GREEN);
        let (sent, ..) = question(b, CLIENT.ip(v), HOST.ip(v), 40_000, GREEN);
        b.lan_sends(&sent, &Want::drop(DropReason::BackendGone));
    }
);

both!(
    fn a_range_leads_to_its_backends_port_by_port(b, v) {
        let slots = array::from_fn(|bucket| THREE[bucket % 3].slot as u16);
        b.datapath().set_backends(RANGE, Some(&Backends { slots })).expect("backends");
        b.configure_publish(RANGE, |p| p.flags |= Publish::SEVERAL | Publish::STICKY);
        let mut flows = Vec::new();
        for n in 0..4 {
            let client = client(v, u32::from(n));
            let pod = THREE[bucket_of(client) % 3];
            let sent = from_lan(client, HOST.ip(v), tcp(40_000, 9000 + n, flag::SYN));
            let got = sent.translated((client, 40_000), (pod.ip(v), 7000 + n)).delivered(pod);
            let flow = Pair::new(0, &sent, 1, &got, Target::Slot(pod.slot), Target::Uplink(b.uplink));
            flows.push(flow.owned(pod.slot).published(RANGE));
            b.lan_sends(&sent, &Want::peer(pod, &got).publish_opens(RANGE).flows(&flows));
        }
    }
);
