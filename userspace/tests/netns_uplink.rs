//! Uplinks that change: addresses that are replaced, removed and come back, interfaces that go down and come anew.

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::frame::Tap;
use common::lan::{CLIENT, SERVER, UPLINK};
use common::observer::{PATIENCE, Talk, at, flows, serve};
use common::pods::{RED, TOPOLOGY, client, server, site};
use common::{Background, Isolated, isolated, wait_until};
use netns::check::{Family, Site};
use nix::sys::signal::Signal;

/// How long to wait for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_secs(60);
/// What takes the uplink's addresses' place.
const OTHER: [&str; 2] = ["192.0.2.9", "2001:db8:1::9"];
/// The server's port.
const PORT: u16 = 7;
/// The port red publishes 8080 to.
const POD_PORT: u16 = 80;

fn other() -> Site {
    site("host", "host", OTHER)
}

fn old() -> Site {
    site("host", "host", UPLINK)
}

fn flows_of(address: IpAddr) -> usize {
    flows().iter().filter(|f| [f.src, f.dst, f.to_src, f.to_dst].contains(&address)).count()
}

/// Takes the uplink's addresses away.
fn remove(here: &Isolated, addresses: [&str; 2]) {
    for (address, length) in addresses.iter().zip([24, 64]) {
        here.ip(&format!("addr del {address}/{length} dev up0"));
    }
}

/// Gives it addresses, and the default routes that went with the last ones.
fn give(here: &Isolated, addresses: [&str; 2]) {
    here.ip(&format!("addr add {}/24 dev up0", addresses[0]));
    here.ip(&format!("addr add {}/64 dev up0 nodad", addresses[1]));
    for (flag, via) in [("-4", SERVER[0]), ("-6", SERVER[1])] {
        here.ip(&format!("{flag} route replace default via {via} dev up0"));
    }
}

/// How the instance learns of a change: a verb is called, or `run` watches.
enum Following {
    Verbs,
    Run(Background),
}

impl Following {
    fn both(body: impl Fn(&Isolated, &Self) + Send + Sync + Clone + 'static) {
        let verbs = body.clone();
        isolated(move |here| {
            here.pods();
            verbs(here, &Self::Verbs);
            here.netns(["down"]).ok();
        });
        isolated(move |here| {
            here.lan();
            let file = here.file("topology.toml", TOPOLOGY).display().to_string();
            let mut run = here.netns_background(["run", "--config", &file]);
            run.wait_for_output("green", SOON);
            let following = Self::Run(run);
            body(here, &following);
            let Self::Run(run) = following else { unreachable!() };
            run.signal(Signal::SIGTERM);
            run.finish(SOON).ok();
        });
    }

    /// Waits until the instance has followed; `done` says so.
    #[track_caller]
    fn settled(&self, here: &Isolated, what: &str, mut done: impl FnMut() -> bool) {
        match self {
            Self::Verbs => {
                here.up(TOPOLOGY).ok();
                assert!(done(), "{what}: not after a verb\n{:#?}", flows());
            }
            Self::Run(_) => wait_until(what, SOON, done),
        }
    }
}

/// A talk of each kind of red with the LAN's server, and of a machine of the LAN with red; with how each is seen.
fn talks(here: &Isolated, host: Site) -> Vec<(String, Talk, IpAddr)> {
    let mut talks = Vec::new();
    for family in Family::ALL {
        let (out, published) = (at(server(), family, PORT), at(host, family, 8080));
        talks.push((format!("{family:?} datagrams out"), Talk::datagrams(here, RED, out)));
        talks.push((format!("{family:?} connection out"), Talk::connection(here, RED, out)));
        talks.push((format!("{family:?} datagrams in"), Talk::datagrams(here, client(), published)));
        talks.push((format!("{family:?} connection in"), Talk::connection(here, client(), published)));
    }
    let begun = |(what, mut talk): (String, Talk)| {
        let seen = talk.seen_as(PATIENCE).unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!(what.contains("out"), Family::ALL.iter().any(|f| host.ip(*f) == seen), "{what}: seen as {seen}");
        (what, talk, seen)
    };
    talks.into_iter().map(begun).collect()
}

fn serve_everywhere(here: &Isolated) {
    for family in Family::ALL {
        serve(here, "lan", at(server(), family, PORT));
        serve(here, "red", at(RED, family, POD_PORT));
    }
}

/// Whether a frame has one of these as its IP source.
fn is_from(frame: &[u8], addresses: Site) -> bool {
    let source = |from: usize, length: usize| frame.get(from..from + length);
    match frame.get(12..14) {
        Some([0x08, 0x00]) => source(26, 4) == Some(&addresses.v4.octets()[..]),
        Some([0x86, 0xdd]) => source(22, 16) == Some(&addresses.v6.octets()[..]),
        _ => false,
    }
}

#[test]
fn an_address_that_is_replaced_takes_its_flows_along() {
    Following::both(|here, following| {
        serve_everywhere(here);
        let mut before = talks(here, old());
        assert_ne!(flows_of(old().v4.into()), 0);
        remove(here, UPLINK);
        give(here, OTHER);
        following.settled(here, "the flows of the old address end", || {
            let none = |site: Site| Family::ALL.iter().all(|f| flows_of(site.ip(*f)) == 0);
            none(old()) && here.status()["uplinks"][0]["addresses"][0] == OTHER[0]
        });

        let lan = here.inside("lan", || Tap::open("lan0"));
        for (what, talk, _) in &mut before {
            // Red's datagrams go on under the new address; what is bound to the old one has ended.
            let expected = match (&talk, what.starts_with("V4"), what.contains("out")) {
                (Talk::Datagrams(_), true, true) => Some(other().v4.into()),
                (Talk::Datagrams(_), false, true) => Some(other().v6.into()),
                _ => None,
            };
            let patience = if expected.is_some() { PATIENCE } else { SILENCE };
            assert_eq!(talk.seen_as(patience), expected, "{what}, begun before");
        }
        drop(talks(here, other()));
        assert!(lan.find(Duration::ZERO, |f| is_from(f, other())).is_some(), "nothing was seen at all");
        let stale = lan.find(Duration::ZERO, |f| is_from(f, old()));
        assert!(stale.is_none(), "left from an address the host no longer has: {stale:02x?}");
    });
}

#[test]
fn an_address_that_comes_back_works_again() {
    Following::both(|here, following| {
        serve_everywhere(here);
        let before = talks(here, old());
        remove(here, UPLINK);
        following.settled(here, "the flows end", || flows().is_empty());
        let mut lost = Talk::datagrams(here, RED, at(server(), Family::V6, PORT));
        assert_eq!(lost.seen_as(SILENCE), None, "there is no address to leave with");
        drop(before);
        give(here, UPLINK);
        following.settled(here, "it is the source again", || {
            let addresses = &here.status()["uplinks"][0]["addresses"];
            addresses[0] == UPLINK[0] && addresses[1] == UPLINK[1]
        });
        assert_eq!(lost.seen_as(PATIENCE), Some(old().v6.into()));
        talks(here, old());
    });
}

#[test]
fn an_uplink_that_was_down_goes_on_with_what_it_still_has() {
    Following::both(|here, following| {
        serve_everywhere(here);
        let mut before = talks(here, old());
        here.ip("link set up0 down");
        // The kernel takes IPv6 addresses from an interface that goes down; IPv4 ones stay.
        following.settled(here, "IPv6 flows end", || flows().iter().all(|f| f.src.is_ipv4()) && !flows().is_empty());
        for (what, talk, _) in before.iter_mut().filter(|(what, ..)| what.contains("out")) {
            assert_eq!(talk.seen_as(SILENCE), None, "{what}, while it is down");
        }
        here.ip("link set up0 up");
        here.ip(&format!("addr add {}/64 dev up0 nodad", UPLINK[1]));
        for (flag, via) in [("-4", SERVER[0]), ("-6", SERVER[1])] {
            here.ip(&format!("{flag} route replace default via {via} dev up0"));
        }
        following.settled(here, "it has both addresses", || here.status()["uplinks"][0]["addresses"][1] == UPLINK[1]);
        for (what, talk, seen) in before.iter_mut().filter(|(what, ..)| what.starts_with("V4")) {
            // TCP has doubled its time-out while nothing came back.
            assert_eq!(talk.seen_as(SOON), Some(*seen), "{what}, begun before it was down");
        }
        talks(here, old());
    });
}

#[test]
fn an_uplink_that_is_made_anew_is_taken_up_again() {
    Following::both(|here, following| {
        serve_everywhere(here);
        drop(talks(here, old()));
        here.ip("link del up0");
        following
            .settled(here, "the flows end", || flows().is_empty() && here.status()["uplinks"][0]["attached"] == false);
        here.ip("link add up0 type veth peer name lan0 netns lan");
        here.ip("-n lan link set lan0 up");
        here.ip("link set up0 up");
        for address in [SERVER, CLIENT] {
            here.ip(&format!("-n lan addr add {}/24 dev lan0", address[0]));
            here.ip(&format!("-n lan addr add {}/64 dev lan0 nodad", address[1]));
        }
        give(here, UPLINK);
        following.settled(here, "it is there", || {
            here.status()["uplinks"][0]["attached"] == true && here.status()["uplinks"][0]["addresses"][1] == UPLINK[1]
        });
        talks(here, old());
    });
}
