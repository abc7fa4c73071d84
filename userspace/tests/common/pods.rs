//! A topology of three pods on the test's own machine, and what the data path says of it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use netns::check::{Places, Site};
use serde_json::Value;

use super::frame::Tap;
use super::lan::{CLIENT, FAR, SERVER, UPLINK};
use super::wait::wait_for;
use super::{Finished, Isolated};

/// Three pods of one network behind the uplink of [`Isolated::lan`].
pub const TOPOLOGY: &str = r#"
[host]
uplink = "up0"

[[network]]
name = "pods"
subnets = ["10.244.0.0/24", "fd00:244::/64"]
masquerade = true

[[pod]]
name = "red"
network = "pods"
address = ["10.244.0.10", "fd00:244::10"]
publish = ["8080:80/tcp", "8080:80/udp", "9000-9010:7000-7010/tcp"]

[[pod]]
name = "blue"
network = "pods"
address = ["10.244.0.20", "fd00:244::20"]

[[pod]]
name = "green"
network = "pods"
address = ["10.244.0.30", "fd00:244::30"]
"#;

const fn pod(name: &'static str, last: u8, last6: u16) -> Site {
    let v6 = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, last6);
    Site { name, place: name, v4: Ipv4Addr::new(10, 244, 0, last), v6 }
}

/// The pods of [`TOPOLOGY`].
pub const RED: Site = pod("red", 10, 0x10);
/// See [`RED`].
pub const BLUE: Site = pod("blue", 20, 0x20);
/// See [`RED`].
pub const GREEN: Site = pod("green", 30, 0x30);
/// The gateway of [`TOPOLOGY`]'s network, on the host.
pub const GATEWAY: Site = Site { place: "host", ..pod("gateway", 1, 1) };

/// A site by addresses as `lan` writes them.
pub fn site(name: &'static str, place: &'static str, addresses: [&str; 2]) -> Site {
    let [v4, v6] = addresses;
    Site { name, place, v4: v4.parse().expect("an IPv4 address"), v6: v6.parse().expect("an IPv6 address") }
}

/// The LAN's server.
pub fn server() -> Site {
    site("server", "lan", SERVER)
}

/// The LAN's client.
pub fn client() -> Site {
    site("client", "lan", CLIENT)
}

/// The far machine.
pub fn far() -> Site {
    site("far", "lan", FAR)
}

/// The host by its uplink's address.
pub fn uplink() -> Site {
    site("host", "host", UPLINK)
}

impl Isolated {
    /// Brings a topology up; [`Isolated::lan`] comes first if it has an uplink.
    pub fn up(&self, topology: &str) -> Finished {
        let file = self.file("topology.toml", topology);
        self.netns(["up", "-f", &file.display().to_string()])
    }

    /// LAN and [`TOPOLOGY`], up.
    pub fn pods(&self) {
        self.lan();
        self.up(TOPOLOGY).ok();
    }

    /// Namespaces for traffic between the pods of [`TOPOLOGY`] and of others in tests that are there, the host and the LAN.
    pub fn places(&self) -> Places {
        let names = ["lan", "wan", "red", "blue", "green", "disk", "box"].map(|name| (name, name));
        let there = names.into_iter().filter(|(_, name)| Path::new("/run/netns").join(name).exists());
        let host = netns::netns::Netns::current().expect("open the own namespace");
        Places::open(there).expect("open the namespaces").with("host", host)
    }

    /// `netns status -o json`, whether all is as it should be (status 0) or not (3).
    #[track_caller]
    pub fn status(&self) -> Value {
        let told = self.netns(["status", "-o", "json"]);
        assert!(matches!(told.status, 0 | 3), "{}", told.report());
        serde_json::from_str(&told.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {}", told.report()))
    }

    /// Packets dropped for a reason so far.
    pub fn drops(&self, reason: &str) -> u64 {
        let status = self.status();
        let drops = status["drops"].as_array().unwrap_or_else(|| panic!("no drops in {status:#}"));
        drops.iter().filter(|drop| drop["reason"] == reason).filter_map(|drop| drop["packets"].as_u64()).sum()
    }

    /// A packet socket on a pod's `eth0`.
    pub fn tap(&self, pod: &str) -> Tap {
        self.inside(pod, || Tap::open("eth0"))
    }

    /// MAC of an interface of a namespace.
    pub fn mac(&self, namespace: &str, ifname: &str) -> [u8; 6] {
        mac_after("link/ether", &self.ip(&format!("-n {namespace} link show {ifname}")))
    }

    /// MAC of an interface of the test's own namespace.
    pub fn own_mac(&self, ifname: &str) -> [u8; 6] {
        mac_after("link/ether", &self.ip(&format!("link show {ifname}")))
    }

    /// The one MAC all of a pod's neighbours have; the pod must have talked to somebody before.
    pub fn gateway_mac(&self, pod: &str) -> [u8; 6] {
        mac_after("lladdr", &self.ip(&format!("-n {pod} neigh show dev eth0")))
    }

    /// The neighbour tables of a pod, without states, which age by themselves.
    pub fn neighbours(&self, pod: &str) -> Vec<String> {
        let text = self.ip(&format!("-n {pod} neigh show nud all"));
        let mut lines: Vec<_> = text
            .lines()
            .filter(|line| !line.contains("NOARP"))
            .map(|line| line.rsplit_once(' ').map_or(line, |(entry, _)| entry).to_owned())
            .collect();
        lines.sort();
        lines
    }

    /// Asserts that `act` makes the data path drop one packet or more for this reason.
    #[track_caller]
    pub fn drops_more(&self, reason: &str, what: &str, act: impl FnOnce()) {
        let before = self.drops(reason);
        act();
        let more = wait_for(Duration::from_secs(2), || (self.drops(reason) > before).then_some(()));
        assert!(more.is_some(), "{what}: no drop counted for {reason}; {:#}", self.status()["drops"]);
    }
}

/// The MAC behind a word in what `ip` prints.
fn mac_after(word: &str, text: &str) -> [u8; 6] {
    let mac = text.split_whitespace().skip_while(|w| *w != word).nth(1);
    let mac = mac.unwrap_or_else(|| panic!("no {word} in\n{text}"));
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a hex byte")).collect();
    bytes.try_into().expect("six bytes")
}
