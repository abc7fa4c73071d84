//! What changes while pods run: connections that can go on do, what cannot ends, and no namespace is made anew.

mod common;

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use common::lan::{SERVER, UPLINK};
use common::observer::{PATIENCE, Talk, at, serve};
use common::pods::{BLUE, RED, TOPOLOGY, client, far, site, uplink};
use common::{Isolated, isolated, wait_until};
use netns::check::{Family, Site};
use nix::sys::signal::Signal;

/// How long to wait for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(30);
const PORT: u16 = 7;
/// What the host has besides, for pods to leave with.
const POOL: [&str; 2] = ["203.0.113.77", "2001:db8:7::77"];

fn pool() -> Site {
    site("host", "host", POOL)
}

/// By which address all but connections are seen from then on; `None`: by the same one.
type Seen = Option<fn(Family) -> IpAddr>;

/// A talk, what it is, and how the other side sees it.
struct Kept {
    what: String,
    talk: Talk,
    seen: IpAddr,
}

impl Kept {
    fn new(what: &str, mut talk: Talk) -> Self {
        let seen = talk.seen_as(PATIENCE).unwrap_or_else(|| panic!("{what}: no answer"));
        Self { what: what.to_owned(), talk, seen }
    }

    #[track_caller]
    fn goes_on(&mut self, after: &str) {
        assert_eq!(self.talk.seen_as(PATIENCE), Some(self.seen), "{}, {after}", self.what);
    }

    #[track_caller]
    fn follows(&mut self, seen: IpAddr, after: &str) {
        assert_eq!(self.talk.seen_as(PATIENCE), Some(seen), "{}, {after}", self.what);
        self.seen = seen;
    }
}

/// Connections of every kind there is, of both families; those that go to the LAN are the first two.
fn connections(here: &Isolated) -> Vec<Kept> {
    let mut kept = Vec::new();
    for f in Family::ALL {
        let talk = Talk::connection(here, RED, at(far(), f, PORT));
        kept.push(Kept::new(&format!("{f:?} red to the LAN"), talk));
    }
    for f in Family::ALL {
        let new = |what: &str, from, to| Kept::new(&format!("{f:?} {what}"), Talk::connection(here, from, to));
        kept.push(new("the LAN to red's port", client(), at(uplink(), f, 8080)));
        kept.push(new("red to blue", RED, at(BLUE, f, PORT)));
        kept.push(new("blue to red's published port", BLUE, at(uplink(), f, 8080)));
        let host = here.inside_host(at(RED, f, 80));
        kept.push(Kept::new(&format!("{f:?} the host to red"), host));
    }
    kept
}

impl Isolated {
    /// A connection of the host's own.
    fn inside_host(&self, to: std::net::SocketAddr) -> Talk {
        Talk::Connection(std::net::TcpStream::connect_timeout(&to, PATIENCE).expect("connect from the host"))
    }
}

/// Who answers: the far machine, blue, and red behind its published port.
fn servers(here: &Isolated) {
    for f in Family::ALL {
        serve(here, "lan", at(far(), f, PORT));
        serve(here, "blue", at(BLUE, f, PORT));
        serve(here, "red", at(RED, f, 80));
    }
}

fn file(change: impl Fn(&str) -> String) -> String {
    let text = change(TOPOLOGY);
    assert_ne!(text, TOPOLOGY);
    text
}

/// [`TOPOLOGY`] with more in its network's table.
fn network(more: &str) -> String {
    file(|t| t.replace("masquerade = true\n", more))
}

fn identities() -> Vec<u64> {
    ["red", "blue", "green"]
        .map(|pod| std::fs::metadata(format!("/run/netns/{pod}")).expect("a namespace").ino())
        .into()
}

/// Brings a file up: `plan` says so with status 3 before and with 0 after, and no namespace is another.
#[track_caller]
fn change(here: &Isolated, text: &str, told: &str) {
    let pods = identities();
    let path = here.file("topology.toml", text).display().to_string();
    let planned = here.netns(["plan", "-f", &path]);
    assert_eq!(planned.status, 3, "{}", planned.report());
    let done = here.netns(["up", "-f", &path]);
    assert_eq!(done.status, 0, "{}", done.report());
    assert!(done.stdout.contains(told), "{told}: {}", done.report());
    assert_eq!(planned.stdout, done.stdout, "planned, and done");
    assert_eq!(here.netns(["plan", "-f", &path]).ok(), "instance default: nothing to change\n");
    here.netns(["status"]).ok();
    assert_eq!(identities(), pods, "a pod was made anew");
}

#[test]
fn a_networks_settings_change_under_its_connections() {
    isolated(|here| {
        here.pods();
        for (family, address, via, length) in
            [("-4", POOL[0], UPLINK[0], "32"), ("-6", POOL[1], UPLINK[1], "128 nodad")]
        {
            here.ip(&format!("addr add {address}/{length} dev lo"));
            here.ip(&format!("-n lan {family} route add {address} via {via}"));
        }
        // Pods that keep their addresses need a way back.
        here.ip(&format!("-n lan route add 10.244.0.0/24 via {}", uplink().v4));
        here.ip(&format!("-n lan -6 route add fd00:244::/64 via {}", uplink().v6));
        servers(here);
        let mut kept = connections(here);
        let datagrams = |f| Kept::new("datagrams", Talk::datagrams(here, RED, at(far(), f, PORT)));
        let mut loose: Vec<_> = Family::ALL.map(datagrams).into();
        let rounds: [(&str, &str, Seen); 9] = [
            ("masquerade = false\n", "masquerade: true to false", Some(|f| RED.ip(f))),
            ("masquerade = true\n", "masquerade: false to true", Some(|f| uplink().ip(f))),
            (
                "no_masquerade = [\"198.51.100.0/24\", \"2001:db8:ffff::/48\"]\n",
                "no_masquerade: none to 198.51.100.0/24",
                Some(|f| RED.ip(f)),
            ),
            (
                "mapping = \"endpoint-independent\"\n",
                "mapping: address-and-port-dependent to",
                Some(|f| uplink().ip(f)),
            ),
            (
                "mapping = \"endpoint-independent\"\nfiltering = \"endpoint-independent\"\n",
                "filtering: address-and-port-dependent to endpoint-independent",
                None,
            ),
            ("masquerade = true\n", "mapping: endpoint-independent to", None),
            ("mtu = 1400\n", "mtu: 1500 to 1400", None),
            (
                "snat_address = [\"203.0.113.77\", \"2001:db8:7::77\"]\n",
                "snat_address: the uplink's to 203.0.113.77",
                Some(|f| pool().ip(f)),
            ),
            ("subnets_grow = 1\n", "subnets", None),
        ];
        let mut pooled = Vec::new();
        for (more, told, moves) in rounds {
            let text = if more.starts_with("subnets_grow") {
                let pool = "snat_address = [\"203.0.113.77\", \"2001:db8:7::77\"]\n";
                pooled = Family::ALL
                    .map(|f| Kept::new("by the pool", Talk::connection(here, RED, at(far(), f, PORT))))
                    .into();
                network(pool).replace("10.244.0.0/24", "10.244.0.0/16").replace("fd00:244::/64", "fd00:244::/48")
            } else {
                network(if more == "masquerade = true\n" { "masquerade = true\n\n" } else { more })
            };
            change(here, &text, told);
            kept.iter_mut().for_each(|k| k.goes_on(told));
            for (f, talk) in Family::ALL.into_iter().zip(&mut loose) {
                let seen = moves.map_or(talk.seen, |seen| seen(f));
                talk.follows(seen, told);
                let mut new = Kept::new("a new one", Talk::connection(here, RED, at(far(), f, PORT)));
                new.follows(seen, told);
            }
        }
        // An address that is not listed any more is nobody's to leave with.
        change(
            here,
            &network("masquerade = true\n\n")
                .replace("10.244.0.0/24", "10.244.0.0/16")
                .replace("fd00:244::/64", "fd00:244::/48"),
            "snat_address: 203.0.113.77, 2001:db8:7::77 to the uplink's",
        );
        kept.iter_mut().for_each(|k| k.goes_on("after the pool went"));
        for talk in &mut pooled {
            assert_eq!(talk.talk.seen_as(SILENCE), None, "with an address that went");
        }
        here.netns(["down"]).ok();
    });
}

#[test]
fn pods_get_another_mtu_in_their_namespaces() {
    isolated(|here| {
        here.pods();
        servers(here);
        let mut kept = connections(here);
        for (table, mtu) in [("network", 1400), ("host", 1450), ("network", 9000)] {
            let text = match table {
                "host" => file(|t| t.replace("[host]", &format!("[host]\nmtu = {mtu}"))),
                _ => network(&format!("mtu = {mtu}\n")),
            };
            change(here, &text, &format!("to {mtu}"));
            for place in ["-n red link show eth0", "-n blue link show eth0", "link show nn0", "link show nngw1"] {
                assert!(here.ip(place).contains(&format!("mtu {mtu} ")), "{place}: {}", here.ip(place));
            }
            assert_eq!(here.status()["networks"][0]["mtu"], mtu);
            kept.iter_mut().for_each(|k| k.goes_on("with another MTU"));
        }
        // Without one of its own it is the uplink's.
        here.ip("link set up0 mtu 1420");
        change(here, TOPOLOGY, "mtu: 9000 to 1420");
        kept.iter_mut().for_each(|k| k.goes_on("with the uplink's MTU"));
    });
}

#[test]
fn subnets_grow_under_their_pods_and_shrink_around_them() {
    isolated(|here| {
        here.pods();
        servers(here);
        let mut kept = connections(here);
        let wide = |t: &str| t.replace("10.244.0.0/24", "10.244.0.0/16").replace("fd00:244::/64", "fd00:244::/48");
        let inside = here.ip("-n red -o addr show dev eth0");
        change(here, &file(wide), "subnets: 10.244.0.0/24, fd00:244::/64 to 10.244.0.0/16, fd00:244::/48");
        assert_eq!(here.ip("-n red -o addr show dev eth0"), inside, "the pods are not touched");
        kept.iter_mut().for_each(|k| k.goes_on("grown"));
        let more =
            "\n[[pod]]\nname = \"yellow\"\nnetwork = \"pods\"\naddress = [\"10.244.9.9\", \"fd00:244:0:9::9\"]\n";
        here.up(&(file(wide) + more)).ok();
        let yellow = site("yellow", "yellow", ["10.244.9.9", "fd00:244:0:9::9"]);
        for f in Family::ALL {
            serve(here, "yellow", at(yellow, f, PORT));
            kept.push(Kept::new("red to the grown part", Talk::connection(here, RED, at(yellow, f, PORT))));
            kept.push(Kept::new("the host to the grown part", here.inside_host(at(yellow, f, PORT))));
            kept.push(Kept::new("the grown part to red", Talk::connection(here, yellow, at(RED, f, 80))));
        }
        here.netns(["status"]).ok();
        let refused =
            here.up(&(TOPOLOGY.to_owned() + &more.replace("address = [\"10.244.9.9\", \"fd00:244:0:9::9\"]\n", "")));
        refused.fails(2, &["network[0].subnets[0]", "yellow", "10.244.9.9", "outside"]);
        kept.iter_mut().for_each(|k| k.goes_on("after a refusal"));
        here.up(&file(wide)).ok();
        kept.truncate(10);
        change(here, TOPOLOGY, "subnets");
        kept.iter_mut().for_each(|k| k.goes_on("shrunk"));
        assert!(here.ip("-n red -o addr show dev eth0").contains("10.244.0.10/24"));
        // The gateway may move with the subnet: pods are told.
        let moved = |t: &str| t.replace("10.244.0.0/24", "10.240.0.0/12").replace("fd00:244::/64", "fd00::/16");
        change(here, &file(moved), "subnets");
        for (k, kept) in kept.iter_mut().enumerate() {
            // The host leaves with the gateway's address, which is another.
            if k < 5 || (6..9).contains(&k) {
                kept.goes_on("with another gateway");
            }
        }
        assert!(here.ip("-n red route show default").contains("10.240.0.1"));
        assert!(here.ip("-n red -6 route show default").contains("fd00::1"));
        for f in Family::ALL {
            let _new = Kept::new("a new one", Talk::connection(here, RED, at(far(), f, PORT)));
        }
        // A family more: the pods get addresses of it.
        here.netns(["down"]).ok();
        let one = TOPOLOGY
            .replace(", \"fd00:244::/64\"", "")
            .replace(", \"fd00:244::10\"", "")
            .replace(", \"fd00:244::20\"", "")
            .replace(", \"fd00:244::30\"", "");
        here.up(&one).ok();
        serve(here, "red", at(RED, Family::V4, 80));
        let mut old = Kept::new("of the family there was", here.inside_host(at(RED, Family::V4, 80)));
        change(here, TOPOLOGY, "fd00:244::10");
        old.goes_on("with another family");
        serve(here, "red", at(RED, Family::V6, 80));
        let _new = Kept::new("of the new family", Talk::connection(here, BLUE, at(RED, Family::V6, 80)));
        let _published = Kept::new("by a port", Talk::connection(here, client(), at(uplink(), Family::V6, 8080)));
    });
}

#[test]
fn pods_get_other_addresses_and_networks_and_keep_their_processes() {
    isolated(|here| {
        here.pods();
        servers(here);
        let mut kept = connections(here);
        let readdressed = file(|t| t.replace("10.244.0.10", "10.244.0.77"));
        change(here, &readdressed, "pod red address: 10.244.0.10, fd00:244::10 to 10.244.0.77, fd00:244::10");
        assert!(!here.ip("-n red -o addr").contains("10.244.0.10/"), "{}", here.ip("-n red -o addr"));
        for k in &mut kept {
            // Every connection has red at one end.
            if k.what.starts_with("V6") {
                k.goes_on("with the other family's address changed");
            }
        }
        let red = Site { v4: "10.244.0.77".parse().expect("an address"), ..RED };
        serve(here, "red", at(red, Family::V4, 80));
        for (from, to) in [
            (BLUE, at(red, Family::V4, 80)),
            (client(), at(uplink(), Family::V4, 8080)),
            (red, at(far(), Family::V4, PORT)),
        ] {
            let _new = Kept::new("to the new address", Talk::connection(here, from, to));
        }
        // Two swap theirs.
        let swapped = readdressed.replace("0.77\"", "0.x\"").replace("0.20\"", "0.77\"").replace("0.x\"", "0.20\"");
        change(here, &swapped, "pod blue address: 10.244.0.20, fd00:244::20 to 10.244.0.77");
        serve(here, "blue", at(red, Family::V4, 80));
        let _new = Kept::new(
            "to blue's new address",
            Talk::connection(here, Site { place: "red", ..BLUE }, at(red, Family::V4, 80)),
        );
        // Another network.
        let other = "[[network]]\nname = \"lab\"\nsubnets = [\"10.99.0.0/24\", \"fd00:99::/64\"]\n\n[[pod]]\nname = \"red\"\nnetwork = \"lab\"\naddress = [\"10.99.0.9\", \"fd00:99::9\"]";
        let moved = file(|t| {
            t.replace(
                "[[pod]]\nname = \"red\"\nnetwork = \"pods\"\naddress = [\"10.244.0.10\", \"fd00:244::10\"]",
                other,
            )
        });
        here.up(TOPOLOGY).ok();
        change(here, &moved, "pod red network: pods to lab");
        let red = site("red", "red", ["10.99.0.9", "fd00:99::9"]);
        for f in Family::ALL {
            serve(here, "red", at(red, f, 80));
            let _out = Kept::new("out of another network", Talk::connection(here, red, at(far(), f, PORT)));
            let _in = Kept::new("into another network", Talk::connection(here, client(), at(uplink(), f, 8080)));
            let _own = Kept::new("of the host", here.inside_host(at(red, f, 80)));
        }
        let addresses = here.ip("-n red -o addr show dev eth0");
        assert!(!addresses.contains("10.244.") && !addresses.contains("fd00:244:"), "{addresses}");
        // And its former network goes when all have left it.
        here.netns(["down"]).ok();
        here.file("topology.toml", "");
    });
}

#[test]
fn ports_of_source_nat_change_while_old_ones_are_in_use() {
    isolated(|here| {
        here.pods();
        servers(here);
        let mut kept = connections(here);
        let text = file(|t| t.replace("[host]", "[host]\nsnat_ports = \"15000-15999\""));
        change(here, &text, "snat_ports: 20000-32767 to 15000-15999");
        let reserved = here.tool("sysctl", "-n net.ipv4.ip_local_reserved_ports");
        assert!(reserved.contains("15000-15999") && !reserved.contains("20000"), "{reserved}");
        kept.iter_mut().for_each(|k| k.goes_on("with other ports"));
        for f in Family::ALL {
            let Talk::Datagrams(socket) = Talk::datagrams(here, BLUE, at(far(), f, PORT)) else { unreachable!() };
            socket.send(b"who").expect("send");
            let found =
                || common::observer::flows().into_iter().find(|x| x.original && x.proto == 17 && x.src == BLUE.ip(f));
            wait_until("a flow", SOON, || found().is_some());
            let port = found().expect("a flow").to_sport;
            assert!((15000..16000).contains(&port), "{port}");
        }
    });
}

/// A second uplink, `up1`, with a machine at its other end.
fn second(here: &Isolated) -> Site {
    here.ip("netns add wan");
    here.ip("netns exec wan sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0");
    here.ip("link add up1 type veth peer name wan0 netns wan");
    here.ip("link set up1 up");
    here.ip("-n wan link set lo up");
    here.ip("-n wan link set wan0 up");
    for (place, dev, last) in [("", "up1", 2), ("-n wan", "wan0", 1)] {
        here.ip(&format!("{place} addr add 203.0.113.{last}/24 dev {dev}"));
        here.ip(&format!("{place} addr add 2001:db8:2::{last}/64 dev {dev} nodad"));
    }
    site("wan", "wan", ["203.0.113.1", "2001:db8:2::1"])
}

#[test]
fn uplinks_come_go_and_change_their_names() {
    isolated(|here| {
        here.pods();
        let wan = second(here);
        servers(here);
        let mut kept = connections(here);
        let two = file(|t| t.replace("\"up0\"", "[\"up0\", \"up1\"]"));
        change(here, &two, "uplink: up0 to up0 up1");
        let mut by_second = Vec::new();
        for f in Family::ALL {
            serve(here, "wan", at(wan, f, PORT));
            let talk = Kept::new("by the second", Talk::connection(here, RED, at(wan, f, PORT)));
            assert_eq!(talk.seen, site("host", "host", ["203.0.113.2", "2001:db8:2::2"]).ip(f));
            by_second.push(talk);
            let published = at(site("host", "host", ["203.0.113.2", "2001:db8:2::2"]), f, 8080);
            by_second.push(Kept::new("in by the second", Talk::connection(here, wan, published)));
        }
        kept.iter_mut().for_each(|k| k.goes_on("with a second uplink"));
        change(here, TOPOLOGY, "uplink: up0 up1 to up0");
        kept.iter_mut().for_each(|k| k.goes_on("without the second uplink"));
        for talk in &mut by_second {
            assert_eq!(talk.talk.seen_as(SILENCE), None, "by an uplink that is none");
        }
        assert!(!here.tool("bpftool", "net show dev up1").contains("from_uplink"));
        // One that is renamed is the same one.
        here.ip("link set up0 down");
        here.ip("link set up0 name lan9");
        here.ip("link set lan9 up");
        here.ip(&format!("addr add {}/64 dev lan9 nodad", UPLINK[1]));
        here.ip(&format!("-4 route replace default via {} dev lan9", SERVER[0]));
        here.ip(&format!("-6 route replace default via {} dev lan9", SERVER[1]));
        let renamed = file(|t| t.replace("\"up0\"", "\"lan9\""));
        let path = here.file("topology.toml", &renamed).display().to_string();
        here.netns(["up", "-f", &path]).ok();
        here.netns(["status"]).ok();
        kept.iter_mut().filter(|k| k.what.starts_with("V4")).for_each(|k| k.goes_on("renamed"));
        // None at all, and one again.
        let none = file(|t| t.replace("\"up0\"", "\"none\""));
        change(here, &none, "uplink: lan9 to none");
        assert_eq!(kept[0].talk.seen_as(SILENCE), None, "without an uplink");
        kept[3].goes_on("between pods");
        change(here, &renamed, "uplink: none to lan9");
        for f in Family::ALL {
            let _new = Kept::new("again", Talk::connection(here, RED, at(far(), f, PORT)));
        }
        // What cannot be one is refused before anything changes.
        for (name, why) in
            [("nowhere", "no such interface"), ("lo", "uplink"), ("nngw1", "an interface of this instance")]
        {
            here.up(&file(|t| t.replace("\"up0\"", &format!("[\"lan9\", \"{name}\"]"))))
                .fails(2, &["host.uplink[1]", why]);
        }
        let _new = Kept::new("still", Talk::connection(here, RED, at(far(), Family::V4, PORT)));
    });
}

#[test]
fn pods_come_up_before_the_default_route() {
    for how in ["repair", "up", "add", "agent"] {
        isolated(move |here| {
            here.lan();
            for family in ["-4", "-6"] {
                here.ip(&format!("{family} route del default"));
            }
            let text = file(|t| t.replace("\"up0\"", "\"auto\""));
            let path = here.file("topology.toml", &text).display().to_string();
            let up = here.netns(["up", "-f", &path]);
            assert_eq!(up.status, 0, "{}", up.report());
            assert!(up.stderr.contains("no default route"), "{}", up.report());
            servers(here);
            let mut kept: Vec<_> =
                Family::ALL.map(|f| Kept::new("red to blue", Talk::connection(here, RED, at(BLUE, f, PORT)))).into();
            let agent = (how == "agent").then(|| here.netns_background(["agent"]));
            let status = here.status();
            assert_eq!(status["differences"][0]["kind"], "uplink-awaited", "{status:#}");
            for (family, via) in [("-4", SERVER[0]), ("-6", SERVER[1])] {
                here.ip(&format!("{family} route add default via {via} dev up0"));
            }
            match how {
                "repair" => drop(here.netns(["repair"]).ok()),
                "up" => {
                    let told = here.netns(["up", "-f", &path]).ok();
                    assert!(told.contains("mended"), "{told}");
                }
                "add" => {
                    // Who only adds a pod does not look for it.
                    here.netns(["add", "yellow"]).ok();
                    here.netns(["repair"]).ok();
                }
                _ => wait_until("the agent takes the uplink on", Duration::from_secs(3), || {
                    here.status()["uplinks"].as_array().is_some_and(|u| !u.is_empty())
                }),
            }
            assert_eq!(here.status()["uplinks"][0]["name"], "up0");
            for f in Family::ALL {
                let new = Kept::new("to the LAN", Talk::connection(here, RED, at(far(), f, PORT)));
                assert_eq!(new.seen, uplink().ip(f));
                let _in = Kept::new("from the LAN", Talk::connection(here, client(), at(uplink(), f, 8080)));
            }
            kept.iter_mut().for_each(|k| k.goes_on("with an uplink"));
            here.netns(["status"]).ok();
            assert_eq!(here.netns(["plan", "-f", &path]).status, 0);
            if let Some(agent) = agent {
                agent.signal(Signal::SIGTERM);
                agent.finish(SOON).ok();
            }
            here.netns(["down"]).ok();
        });
    }
}
