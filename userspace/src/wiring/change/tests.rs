use netns_ebpf_common::state::State;

use super::*;

const POD: [&str; 2] = ["10.244.0.10", "fd00:244::10"];
const FAR: [&str; 2] = ["198.51.100.7", "2001:db8:ffff::7"];
const UPLINK: [&str; 2] = ["192.0.2.2", "2001:db8:1::2"];
const POOL: [&str; 2] = ["203.0.113.7", "2001:db8:7::7"];
const GONE: [&str; 2] = ["203.0.113.8", "2001:db8:7::8"];

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn flow(family: usize, proto: u8, to_src: [&str; 2]) -> FlowRecord {
    FlowRecord {
        zone: 1,
        proto,
        src: ip(POD[family]),
        sport: 5000,
        dst: ip(FAR[family]),
        dport: 7,
        to_src: ip(to_src[family]),
        to_sport: 20000,
        to_dst: ip(FAR[family]),
        to_dport: 7,
        peer_zone: 0,
        target_slot: None,
        target_uplink: Some(7),
        original: true,
        mapping: None,
        hairpin: false,
        state: State::Assured,
        last_seen_ns: 0,
        owner_slot: Some(0),
        publish: None,
    }
}

fn spec(masquerade: bool, pool: bool, independent: bool, except: &[&str]) -> NetworkSpec {
    NetworkSpec {
        id: 1,
        gateway4: None,
        gateway6: None,
        mtu_bytes: 1500,
        masquerade,
        snat_addresses: if pool { POOL.map(ip).to_vec() } else { vec![] },
        endpoint_independent: independent,
        open_to_all: false,
        host_access: true,
        no_masquerade: except.iter().map(|n| n.parse().unwrap()).collect(),
    }
}

#[test]
fn connections_keep_their_address_as_long_as_it_is_one() {
    let (v4, v6) = (UPLINK[0].parse::<std::net::Ipv4Addr>().unwrap(), UPLINK[1].parse::<std::net::Ipv6Addr>().unwrap());
    let uplink = Uplink { addr4: v4.into(), addr6: v6.into(), mtu_bytes: 1500, flags: 0 };
    let uplink = Some(&uplink);
    let left = GONE.map(ip);
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let plain = spec(true, false, false, &[]);
    let pooled = spec(true, true, false, &[]);
    let off = spec(false, false, false, &[]);
    let except = spec(true, false, false, &["198.51.100.0/24", "2001:db8:ffff::/48"]);
    for (settings, what, [tcp, udp]) in [
        (&plain, UPLINK, [false, false]),
        (&plain, POD, [false, true]),
        (&plain, GONE, [true, true]),
        (&pooled, UPLINK, [false, true]),
        (&pooled, POOL, [false, false]),
        (&pooled, GONE, [true, true]),
        (&off, UPLINK, [false, true]),
        (&off, POD, [false, false]),
        (&except, UPLINK, [false, true]),
        (&except, POD, [false, false]),
    ] {
        let pool: Vec<IpAddr> = settings.snat_addresses.clone();
        for family in 0..2 {
            for (proto, ends) in [(TCP, tcp), (UDP, udp)] {
                let flow = flow(family, proto, what);
                assert_eq!(is_stale(&flow, settings, &pool, uplink, &left), ends, "{proto} as {what:?}: {settings:?}");
            }
        }
    }
    for (settings, ends) in [(&plain, true), (&spec(true, false, true, &["0.0.0.0/0"]), false), (&off, true)] {
        let mapping = FlowRecord { mapping: Some(1), original: false, ..flow(0, TCP, UPLINK) };
        assert_eq!(is_stale(&mapping, settings, &[], uplink, &left), ends, "a mapping: {settings:?}");
    }
    let pool: Vec<IpAddr> = POOL.map(ip).to_vec();
    let mapping = FlowRecord { mapping: Some(1), original: false, ..flow(0, UDP, UPLINK) };
    assert!(
        is_stale(&mapping, &spec(true, true, true, &[]), &pool, uplink, &left),
        "with an address that is not the pool's"
    );
}
