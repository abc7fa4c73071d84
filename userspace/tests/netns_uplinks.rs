//! Several uplinks at once.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::frame::Tap;
use common::lan::{FAR, SERVER, UPLINK};
use common::observer::{PATIENCE, Talk, at, flows, serve};
use common::packet::{ethernet, ipv4, ipv6, udp, udp6};
use common::pods::{BLUE, GATEWAY, RED, TOPOLOGY, far, server, site, uplink};
use common::traffic::{both, closed, direct, published};
use common::{Isolated, isolated};
use netns::check::{Family, Probe, Site, Target};

const PORT: u16 = 7;
/// How long to wait for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(200);
/// The second uplink's addresses, and those of the machine at its other end.
const SECOND: [&str; 2] = ["203.0.113.2", "2001:db8:2::2"];
const WAN: [&str; 2] = ["203.0.113.1", "2001:db8:2::1"];
const SECOND_MTU: u32 = 1400;

fn second() -> Site {
    site("host", "host", SECOND)
}

fn wan() -> Site {
    site("wan", "wan", WAN)
}

/// The LAN, and the uplink `up1` into another one.
fn two_lans(here: &Isolated) {
    here.lan();
    here.ip("netns add wan");
    here.ip("netns exec wan sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0");
    here.ip(&format!("link add up1 mtu {SECOND_MTU} type veth peer name wan0 netns wan mtu {SECOND_MTU}"));
    here.ip("link set up1 up");
    here.ip("-n wan link set lo up");
    here.ip("-n wan link set wan0 up");
    for (place, dev, [v4, v6]) in [("", "up1", SECOND), ("-n wan", "wan0", WAN)] {
        here.ip(&format!("{place} addr add {v4}/24 dev {dev}"));
        here.ip(&format!("{place} addr add {v6}/64 dev {dev} nodad"));
    }
}

fn topology(uplink: &str, more: &str) -> String {
    TOPOLOGY.replace("uplink = \"up0\"", &format!("uplink = {uplink}\n{more}"))
}

/// Makes the far machine one of the second LAN as well, and routes to it by that one.
///
/// A host with several uplinks says by rules which way its addresses leave; IPv6's routes ask for nothing else.
fn far_by_wan(here: &Isolated) {
    here.ip(&format!("-6 rule add from {} lookup 100", UPLINK[1]));
    here.ip(&format!("-6 route add default via {} dev up0 table 100", SERVER[1]));
    here.ip(&format!("-n wan addr add {}/32 dev lo", FAR[0]));
    here.ip(&format!("-n wan addr add {}/128 dev lo nodad", FAR[1]));
    here.ip(&format!("route add {}/32 via {} dev up1", FAR[0], WAN[0]));
    here.ip(&format!("-6 route add {}/128 via {} dev up1", FAR[1], WAN[1]));
}

#[test]
fn each_uplink_has_its_source_its_published_ports_and_its_mtu() {
    isolated(|here| {
        two_lans(here);
        here.file("topology.toml", "");
        let before = here.snapshot();
        here.up(&topology(r#"["up0", "up1"]"#, "mtu = 1500")).ok();
        let status = here.status();
        assert_eq!(status["uplinks"][0]["name"], "up0");
        assert_eq!((&status["uplinks"][1]["name"], &status["uplinks"][1]["mtu"]), (&"up1".into(), &SECOND_MTU.into()));
        assert_eq!(status["uplinks"][1]["addresses"][1], SECOND[1]);
        let text = here.netns(["status"]).ok();
        assert!(text.contains("uplink      up1 (203.0.113.2,2001:db8:2::2, MTU 1400)\n"), "{text}");

        let mut cases = direct(RED, server(), uplink(), 63);
        cases.extend(direct(RED, wan(), second(), 63));
        for (from, host, port) in [(server(), uplink(), 9000), (wan(), second(), 9001)] {
            cases.extend(published(from, RED, host, port, port - 2000, from));
            cases.extend(closed(from, RED, host, port - 100, port - 2100));
        }
        // The host is one host: by the other uplink its addresses are reached as well, and nobody else's.
        here.ip("-n wan route add 192.0.2.0/24 via 203.0.113.2");
        here.ip("-n wan -6 route add 2001:db8:1::/64 via 2001:db8:2::2");
        here.ip("-n wan route add 10.244.0.0/24 via 203.0.113.2");
        here.ip("-n wan -6 route add fd00:244::/64 via 2001:db8:2::2");
        cases.extend(published(wan(), RED, uplink(), 9002, 7002, wan()));
        cases.extend(both(wan(), BLUE, |_| Probe::Closed { target: Target::Direct }));
        // The host's own.
        cases.extend(direct(second(), wan(), second(), 64));
        cases.extend(direct(wan(), second(), wan(), 64));
        here.flows(&cases);
        let router = |f| GATEWAY.ip(f);
        here.flows(&both(RED, wan(), |f| Probe::TooBig { bytes: 1450, router: router(f), mtu_bytes: SECOND_MTU }));

        here.netns(["down"]).ok();
        here.file("topology.toml", "");
        before.assert_unchanged("after down");
    });
}

#[test]
fn replies_come_in_by_any_uplink() {
    isolated(|here| {
        two_lans(here);
        here.up(&topology(r#"["up0", "up1"]"#, "")).ok();
        let wire = here.inside("wan", || Tap::open("wan0"));
        let (to, from) = (here.own_mac("up1"), here.mac("wan", "wan0"));
        for family in Family::ALL {
            // Nobody answers on the LAN; the answer comes by the other uplink, to the address the packet left with.
            let Talk::Datagrams(socket) = Talk::datagrams(here, RED, at(far(), family, PORT)) else { unreachable!() };
            socket.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
            socket.send(b"who").expect("send");
            let left = flows().into_iter().find(|f| f.original && f.src == RED.ip(family)).expect("a flow");
            assert_eq!(left.to_src, uplink().ip(family));
            let frame = match family {
                Family::V4 => {
                    let datagram = udp(PORT, left.to_sport, b"here");
                    ethernet(to, from, 0x0800, &ipv4(far().v4, uplink().v4, 17, &datagram))
                }
                Family::V6 => {
                    let datagram = udp6(far().v6, uplink().v6, PORT, left.to_sport, b"here");
                    ethernet(to, from, 0x86dd, &ipv6(far().v6, uplink().v6, 17, 64, &datagram))
                }
            };
            wire.send(&frame);
            let mut block = [0; 16];
            // What the LAN said of the closed port may come first.
            let length = socket.recv(&mut block).or_else(|_| socket.recv(&mut block)).expect("the answer");
            assert_eq!(&block[..length], b"here", "{family:?}");
        }
    });
}

#[test]
fn connections_keep_their_uplink_until_that_goes() {
    isolated(|here| {
        two_lans(here);
        here.up(&topology(r#"["up0", "up1"]"#, "")).ok();
        let aims: Vec<SocketAddr> = Family::ALL.map(|f| at(far(), f, PORT)).into();
        aims.iter().for_each(|aim| serve(here, "lan", *aim));
        let begin = || -> Vec<(Family, Talk)> {
            let kinds = |aim: &SocketAddr| [Talk::datagrams(here, RED, *aim), Talk::connection(here, RED, *aim)];
            Family::ALL.into_iter().zip(&aims).flat_map(|(f, aim)| kinds(aim).map(|talk| (f, talk))).collect()
        };
        let mut old = begin();
        for (f, talk) in &mut old {
            assert_eq!(talk.seen_as(PATIENCE), Some(uplink().ip(*f)));
        }
        far_by_wan(here);
        aims.iter().for_each(|aim| serve(here, "wan", *aim));
        let mut new = begin();
        for (f, talk) in &mut new {
            assert_eq!(talk.seen_as(PATIENCE), Some(second().ip(*f)), "a new flow takes the new route");
        }
        for (f, talk) in &mut old {
            assert_eq!(talk.seen_as(PATIENCE), Some(uplink().ip(*f)), "an old flow stays where it was");
        }
        let two = topology(r#"["up0", "up1"]"#, "");
        here.up(&two).ok();
        let kept = |talk: &Talk| matches!(talk, Talk::Connection(_));
        for (f, talk) in &mut old {
            let host = if kept(talk) { uplink() } else { second() };
            assert_eq!(talk.seen_as(PATIENCE), Some(host.ip(*f)), "{f:?}: after a verb all but connections follow");
        }
        // One route with both ways is no reason to move.
        here.ip(&format!("route add 198.51.100.0/24 nexthop via {} nexthop via {}", SERVER[0], WAN[0]));
        here.ip(&format!("route del {}/32", FAR[0]));
        here.up(&two).ok();
        assert!(flows().iter().any(|f| f.original && f.proto == 17 && f.to_src == second().ip(Family::V4)));
        here.ip(&format!("route add {}/32 via {} dev up1", FAR[0], WAN[0]));
        here.ip("link del up0");
        let again = here.up(&two);
        assert!(again.stderr.contains("uplink \"up0\" is gone"), "{}", again.report());
        for (f, talk) in &mut old {
            let expected = matches!(talk, Talk::Datagrams(_)).then(|| second().ip(*f));
            let patience = if expected.is_some() { PATIENCE } else { SILENCE };
            assert_eq!(talk.seen_as(patience), expected, "{f:?}: what can go on does so by the new route");
        }
        for (f, talk) in &mut new {
            assert_eq!(talk.seen_as(PATIENCE), Some(second().ip(*f)), "the other uplink's flows are not disturbed");
        }
    });
}

#[test]
fn auto_takes_every_interface_with_a_default_route() {
    isolated(|here| {
        two_lans(here);
        here.ip("-6 route del default");
        here.ip(&format!("-6 route add default via {} dev up1", WAN[1]));
        here.ip(&format!("-n wan addr add {}/128 dev lo nodad", FAR[1]));
        here.up(&topology("\"auto\"", "")).ok();
        let names = || here.status()["uplinks"].as_array().expect("a list").iter().map(|u| u["name"].clone()).collect();
        let found: Vec<_> = names();
        assert_eq!(found, ["up0", "up1"], "IPv4's before IPv6's");
        for (family, place, host) in [(Family::V4, "lan", uplink()), (Family::V6, "wan", second())] {
            let aim = at(far(), family, PORT);
            serve(here, place, aim);
            assert_eq!(Talk::connection(here, RED, aim).seen_as(PATIENCE), Some(host.ip(family)), "{family:?}");
        }
        here.netns(["down"]).ok();
        here.ip("-6 route del default");
        here.up(&topology("\"auto\"", "")).ok();
        let found: Vec<_> = names();
        assert_eq!(found, ["up0"]);
        // Of an interface that is none, packets do not leave.
        here.drops_more("no-route", "to the second LAN", || {
            here.flows(&both(RED, wan(), |_| Probe::Closed { target: Target::Direct }));
        });
    });
}

#[test]
fn uplinks_are_judged_before_anything_changes() {
    isolated(|here| {
        two_lans(here);
        here.file("topology.toml", "");
        let before = here.snapshot();
        for (uplink, words) in [
            (r#"["up0", "up9"]"#, ["host.uplink[1]", "up9"]),
            (r#"["up0", "up0"]"#, ["host.uplink[1]", "used twice"]),
            (r#"["up0", "auto"]"#, ["host.uplink", "list of names"]),
            ("7", ["host.uplink", "list of names"]),
        ] {
            here.up(&topology(uplink, "")).fails(2, &words);
        }
        here.file("topology.toml", "");
        before.assert_unchanged("after refused files");
        here.up(&topology(r#"["up0", "up1"]"#, "")).ok();
        for (uplink, words) in
            [(r#"["up0", "up9"]"#, ["host.uplink[1]", "up9"]), (r#"["up1", "lo"]"#, ["host.uplink[1]", "lo"])]
        {
            let before = here.snapshot();
            here.up(&topology(uplink, "")).fails(2, &words);
            before.assert_unchanged("after a refused change");
        }
    });
}
