//! A cable between two namespaces: a veth pair, and nothing of the data path.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::names::cable_mac;
use super::{WiringError, write_settings};
use crate::netlink::{Address, AddressOptions, Link, Monitor, Netlink, Request, VethEnd, VethPair};
use crate::netns::Netns;

/// How long an end may take to send and to hear, which is a matter of milliseconds; a cable is laid all the same.
const READY: Duration = Duration::from_secs(2);

/// One end of a cable.
#[derive(Clone, Debug)]
pub struct CableEnd {
    /// Its namespace.
    pub netns: Netns,
    /// What the namespace is called: with [`CableEnd::ifname`] and those of the other end it names the cable.
    pub namespace: String,
    /// Name of the interface, at most 15 bytes.
    pub ifname: String,
    /// Addresses it is to have, with the lengths of their prefixes.
    pub addresses: Vec<IpNet>,
}

/// A cable; which end is first does not matter.
#[derive(Clone, Debug)]
pub struct Cable {
    ends: [CableEnd; 2],
    macs: [netns_ebpf_common::Mac; 2],
}

/// Both ends of a cable, seen from their namespaces.
struct Sight {
    netlink: [Netlink; 2],
    links: [Option<Link>; 2],
}

impl Cable {
    /// A cable with these ends.
    pub fn new(ends: [CableEnd; 2]) -> Self {
        let mut names = [0, 1].map(|i| format!("{}\0{}", ends[i].namespace, ends[i].ifname));
        let second = names[0] > names[1];
        names.sort();
        let seed = names.join("\0");
        let macs = [cable_mac(&seed, second), cable_mac(&seed, !second)];
        Self { ends, macs }
    }

    /// Lays it, with both ends up and their addresses usable; `false` when it was laid like that already.
    ///
    /// Addresses that are there besides stay. When it fails, a cable that was not there before is not there after.
    ///
    /// # Errors
    ///
    /// An interface of one of the names is there and is no end of this cable, or the kernel refuses.
    pub fn lay(&self, mtu_bytes: u32) -> Result<bool, WiringError> {
        let sight = self.look()?;
        let there = self.is_laid(&sight)?;
        let done = self.connect(&sight.netlink, there, mtu_bytes);
        if done.is_err()
            && !there
            && let Err(e) = self.take_away(&sight.netlink[0])
        {
            tracing::warn!("while undoing: {e}");
        }
        done.map(|changed| changed || !there)
    }

    /// Removes it; `false` when it was not there.
    ///
    /// # Errors
    ///
    /// An interface of one of the names is no end of this cable, or the kernel refuses.
    pub fn remove(&self) -> Result<bool, WiringError> {
        let sight = self.look()?;
        if self.is_laid(&sight)? { self.take_away(&sight.netlink[0]) } else { Ok(false) }
    }

    fn look(&self) -> Result<Sight, WiringError> {
        let [a, b] = &self.ends;
        let netlink = [Netlink::in_netns(&a.netns)?, Netlink::in_netns(&b.netns)?];
        let links = [netlink[0].link_by_name(&a.ifname)?, netlink[1].link_by_name(&b.ifname)?];
        Ok(Sight { netlink, links })
    }

    /// Whether both ends are there and each other's; anything else of their names is somebody else's.
    fn is_laid(&self, sight: &Sight) -> Result<bool, WiringError> {
        if let [Some(a), Some(b)] = &sight.links
            && (a.peer_index, b.peer_index) == (Some(b.index), Some(a.index))
            && [a.mac, b.mac] == self.macs.map(Some)
        {
            return Ok(true);
        }
        match (0..2).find(|&i| sight.links[i].is_some()) {
            Some(i) => Err(WiringError::NameTaken {
                ifname: self.ends[i].ifname.clone(),
                namespace: self.ends[i].namespace.clone(),
            }),
            None => Ok(false),
        }
    }

    /// Makes what is missing; says whether anything was, besides the cable.
    fn connect(&self, netlink: &[Netlink; 2], there: bool, mtu_bytes: u32) -> Result<bool, WiringError> {
        if !there {
            let end = |i: usize| VethEnd {
                name: self.ends[i].ifname.clone(),
                index: None,
                mac: self.macs[i],
                noarp: false,
                group: 0,
            };
            let pair = VethPair { here: &end(0), peer: &end(1), peer_netns: Some(&self.ends[1].netns), mtu_bytes };
            netlink[0].create_veth(&pair)?;
        }
        let mut monitors = [Monitor::in_netns(&self.ends[0].netns)?, Monitor::in_netns(&self.ends[1].netns)?];
        let mut changed = false;
        for (end, netlink) in self.ends.iter().zip(netlink) {
            changed |= end.set_up(netlink)?;
        }
        // The end that was up first hears later of the other one, and an address listens later than it is there: until then
        // what they are sent is lost, and asked for again after a second.
        let deadline = Instant::now() + READY;
        for ((end, netlink), monitor) in self.ends.iter().zip(netlink).zip(&mut monitors) {
            while !end.is_ready(netlink)? && Instant::now() < deadline {
                // A group is joined before the address's own route is told of.
                monitor.wait(deadline)?;
            }
        }
        Ok(changed)
    }

    /// One end takes the other along.
    fn take_away(&self, netlink: &Netlink) -> Result<bool, WiringError> {
        let ifname = &self.ends[0].ifname;
        match netlink.link_by_name(ifname)? {
            Some(link) if link.mac == Some(self.macs[0]) => Ok(netlink.delete_link(link.index, ifname)?),
            _ => Ok(false),
        }
    }
}

impl CableEnd {
    fn set_up(&self, netlink: &Netlink) -> Result<bool, WiringError> {
        let absent = || WiringError::NameTaken { ifname: self.ifname.clone(), namespace: self.namespace.clone() };
        let link = netlink.link_by_name(&self.ifname)?.ok_or_else(absent)?;
        // Before it is up: whoever has the other end must not become this one's router.
        self.netns.run(|| write_settings(&[(format!("ipv6/conf/{}/accept_ra", self.ifname), "0")]))??;
        let found: Vec<IpNet> = netlink.addresses(Some(link.index))?.iter().map(|a: &Address| a.net).collect();
        let mut changed = !link.up;
        // Nobody else is on the cable to have the address.
        let options = AddressOptions { nodad: true, noprefixroute: false };
        for address in self.addresses.iter().filter(|address| !found.contains(address)) {
            netlink.request(Request::add_address(link.index, *address, options).or_exists())?;
            changed = true;
        }
        if !link.up {
            netlink.set_up(link.index, true)?;
        }
        Ok(changed)
    }
}

impl CableEnd {
    fn is_ready(&self, netlink: &Netlink) -> Result<bool, WiringError> {
        let running = netlink.link_by_name(&self.ifname)?.is_none_or(|link| link.running);
        Ok(running && self.netns.run(|| self.hears_neighbours())?)
    }

    /// Whether it is in the groups in which neighbours ask for its IPv6 addresses.
    fn hears_neighbours(&self) -> bool {
        let Ok(groups) = fs::read_to_string("/proc/thread-self/net/igmp6") else { return true };
        self.addresses.iter().all(|net| match net.addr() {
            IpAddr::V6(address) => is_member(&groups, &self.ifname, address),
            IpAddr::V4(_) => true,
        })
    }
}

/// Looks for an address's solicited-node group (RFC 4291, 2.7.1) in the text of `/proc/net/igmp6`.
fn is_member(groups: &str, ifname: &str, address: Ipv6Addr) -> bool {
    let [.., a, b, c] = address.octets();
    let group = format!("ff0200000000000000000001ff{a:02x}{b:02x}{c:02x}");
    groups.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(ifname) && words.next() == Some(&group)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_on_its_interface_only() {
        let groups = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n\
                      2    veth-blue       ff0200000000000000000001ff00000a     1 00000004 0\n";
        let address = "fd09::a".parse().unwrap();
        assert!(is_member(groups, "veth-blue", address));
        assert!(!is_member(groups, "lo", address));
        assert!(!is_member(groups, "veth-blue", "fd09::b".parse().unwrap()));
    }
}
