//! Namespaces wired with `ip`: a LAN for the product to be plugged into, and controls to hold it against.

use std::time::Duration;

use super::{Isolated, wait_until};

/// The LAN's IPv4 and IPv6 addresses, and a far one of each behind it.
pub const SERVER: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
/// The uplink's addresses.
pub const UPLINK: [&str; 2] = ["192.0.2.2", "2001:db8:1::2"];
/// Another machine of the LAN.
pub const CLIENT: [&str; 2] = ["192.0.2.3", "2001:db8:1::3"];
/// Addresses reached by the default route only.
pub const FAR: [&str; 2] = ["198.51.100.7", "2001:db8:ffff::7"];

impl Isolated {
    /// Makes a namespace `lan` with a server, a client and far addresses, and the uplink `up0` into it with default
    /// routes.
    pub fn lan(&self) {
        self.ip("netns add lan");
        // Link-local addresses that are tentative for a second would change under a test that compares.
        for sysctl in ["all", "default"].map(|which| format!("net.ipv6.conf.{which}.accept_dad=0")) {
            self.tool("sysctl", &format!("-qw {sysctl}"));
            self.ip(&format!("netns exec lan sysctl -qw {sysctl}"));
        }
        self.ip("-n lan link set lo up");
        self.ip(&format!("-n lan addr add {}/32 dev lo", FAR[0]));
        self.ip(&format!("-n lan addr add {}/128 dev lo nodad", FAR[1]));
        self.plug_in();
    }

    /// Makes the cable into the `lan` that is there, with `up0` here.
    pub fn plug_in(&self) {
        self.ip("link add up0 type veth peer name lan0 netns lan");
        self.ip("-n lan link set lan0 up");
        self.ip("link set up0 up");
        for (uplink, length) in UPLINK.iter().zip([24, 64]) {
            self.ip(&format!("addr add {uplink}/{length} dev up0{}", nodad(uplink)));
        }
        for (address, length) in
            [(SERVER, [24, 64]), (CLIENT, [24, 64])].into_iter().flat_map(|(a, l)| a.into_iter().zip(l))
        {
            self.ip(&format!("-n lan addr add {address}/{length} dev lan0{}", nodad(address)));
        }
        self.ip(&format!("-4 route add default via {} dev up0", SERVER[0]));
        self.ip(&format!("-6 route add default via {} dev up0", SERVER[1]));
        // The kernel takes the mark off in its own time, even where it detects no duplicates.
        for place in ["", "-n lan "] {
            let tentative = || self.ip(&format!("{place}-6 addr show tentative"));
            wait_until("addresses are no longer tentative", Duration::from_secs(5), || tentative().is_empty());
        }
    }

    /// Makes a namespace with `eth0` whose other end, in this one, is called `peer`; both ends up, no addresses.
    pub fn cable(&self, name: &str, peer: &str) {
        self.ip(&format!("netns add {name}"));
        self.ip(&format!("link add {peer} type veth peer name eth0 netns {name}"));
        self.ip(&format!("-n {name} link set lo up"));
        self.ip(&format!("-n {name} link set eth0 up"));
        self.ip(&format!("link set {peer} up"));
    }
}

fn nodad(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}
