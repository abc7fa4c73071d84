//! The way to the LAN, and the host's own addresses.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netns_ebpf_common::counters::Hook;
use netns_ebpf_common::host::Uplink;
use netns_ebpf_common::{Addr4, Addr6, abi};

use super::{FirstError, Host, WiringError};
use crate::datapath::FlowRecord;
use crate::netlink::{Address, Family, Link, Route, default_routes};
use crate::sysctl;

/// Destinations [`Host::end_rerouted_flows`] asks the kernel about at once: some tenths of a second.
const MOST_ASKED: usize = 4096;

/// An uplink as the data path knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkState {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub ifname: String,
    /// Source address of masqueraded IPv4.
    pub addr4: Option<Ipv4Addr>,
    /// Source address of masqueraded IPv6.
    pub addr6: Option<Ipv6Addr>,
    /// MTU, in bytes.
    pub mtu_bytes: u32,
    /// The hook for its kind of frames.
    pub hook: Hook,
}

/// The names of the interfaces of all default routes among these: IPv4's before IPv6's, and those the kernel would take first.
pub fn default_uplinks(links: &[Link], routes: &[Route]) -> Vec<String> {
    let mut names = Vec::new();
    for family in Family::ALL {
        for route in default_routes(routes, family) {
            for index in route.oif.iter().chain(&route.more_oifs) {
                match links.iter().find(|l| l.index == *index) {
                    Some(link) if !link.loopback && !names.contains(&link.name) => names.push(link.name.clone()),
                    _ => {}
                }
            }
        }
    }
    names
}

/// Why an interface can be no uplink.
pub fn unfit(link: &Link) -> Option<&'static str> {
    if link.loopback {
        return Some("it is the loopback interface");
    }
    (!link.ethernet && !link.bare_ip).then_some("its frames are neither Ethernet nor bare IP")
}

impl Host {
    /// What an interface would be as an uplink. Changes nothing.
    pub fn uplink_state(&self, ifname: &str) -> Result<UplinkState, WiringError> {
        let link = self.uplink_link(ifname)?;
        let addresses = self.netlink.addresses(Some(link.index))?;
        let preferred = |family| -> Result<_, WiringError> {
            Ok(self.netlink.default_route_by(family, link.index)?.and_then(|route| route.preferred_source))
        };
        let addr4 = match preferred(Family::V4)? {
            Some(IpAddr::V4(a)) => Some(a),
            _ => primary4(&addresses),
        };
        let addr6 = match preferred(Family::V6)? {
            Some(IpAddr::V6(a)) => Some(a),
            _ => primary6(&addresses),
        };
        let hook = if link.ethernet { Hook::FromUplink } else { Hook::FromUplinkL3 };
        Ok(UplinkState { ifindex: link.index, ifname: link.name, addr4, addr6, mtu_bytes: link.mtu_bytes, hook })
    }

    /// Whether the kernel drops IPv4 that comes in by an interface from where no route leads out by it.
    fn filters_sources(&self, ifname: &str) -> Result<bool, WiringError> {
        // One that has gone meanwhile filters nothing.
        let read = |name: &str| {
            sysctl::read(&format!("ipv4/conf/{name}/rp_filter")).map_or(0, |text| text.parse::<u8>().unwrap_or(0))
        };
        // The kernel goes by the larger of the two: 2 asks for any route only.
        Ok(self.netns.run(|| read("all").max(read(ifname)))? == 1)
    }

    /// Makes an interface an uplink, or brings what is known of it up to date. May be repeated.
    pub fn wire_uplink(&self, ifname: &str) -> Result<UplinkState, WiringError> {
        let state = self.uplink_state(ifname)?;
        let uplink = Uplink {
            addr4: state.addr4.map_or(Addr4::UNSPECIFIED, Into::into),
            addr6: state.addr6.map_or(Addr6::UNSPECIFIED, Into::into),
            mtu_bytes: state.mtu_bytes,
            flags: if self.filters_sources(ifname)? { Uplink::STRICT_SOURCE } else { 0 },
        };
        let known = self.datapath.uplinks()?.iter().any(|(index, _)| *index == state.ifindex);
        self.datapath.put_uplink(state.ifindex, &uplink)?;
        let attached = self.attach(state.hook, ifname, state.ifindex);
        if attached.is_err()
            && !known
            && let Err(e) = self.unwire_uplink(state.ifindex)
        {
            tracing::warn!("while undoing: {e}");
        }
        attached?;
        Ok(state)
    }

    /// Ends an interface's being an uplink. The interface may be gone.
    pub fn unwire_uplink(&self, ifindex: u32) -> Result<(), WiringError> {
        let mut errors = FirstError::default();
        for hook in [Hook::FromUplink, Hook::FromUplinkL3] {
            errors.note(self.detach(hook, ifindex));
        }
        errors.note(self.datapath.remove_uplink(ifindex));
        errors.done()
    }

    /// Tells the programs which of networks' SNAT addresses the host has at present. A family without any in the list is
    /// the uplink's to give.
    pub fn sync_snat_pools(&self, pools: &[(u16, &[IpAddr])]) -> Result<(), WiringError> {
        let found = if pools.iter().all(|(_, addresses)| addresses.is_empty()) {
            Vec::new()
        } else {
            self.netlink.addresses(None)?
        };
        let live = |address: IpAddr| found.iter().any(|a| a.usable && a.addr() == address);
        for (id, addresses) in pools {
            self.datapath.put_snat_pools(*id, addresses, live)?;
        }
        Ok(())
    }

    /// Tells the programs the host's addresses: all of them but link-local ones, loopback ones included. Says whether one
    /// went.
    pub fn sync_host_addresses(&self) -> Result<bool, WiringError> {
        let addresses: Vec<(IpAddr, u32)> = self
            .netlink
            .addresses(None)?
            .iter()
            .filter(|a| !matches!(a.addr(), IpAddr::V6(a) if a.is_unicast_link_local()))
            .map(|a| (a.addr(), a.index))
            .collect();
        if addresses.len() > abi::MAX_HOST_ADDRS as usize {
            return Err(WiringError::TooManyAddresses { found: addresses.len(), max: abi::MAX_HOST_ADDRS });
        }
        Ok(self.datapath.sync_host_addresses(&addresses)?)
    }

    /// Ends the flows whose uplink is not the one the host's routes lead to their destination by any more, but another one
    /// is: their next packet takes that, with its address. Says how many entries went.
    ///
    /// Connections stay where they are: they do not outlive a change of their address anyway, and the former uplink may
    /// still lead there. With more than some thousand destinations, some are left for the next time.
    pub fn end_rerouted_flows(&self) -> Result<usize, WiringError> {
        let uplinks: HashSet<u32> = self.datapath.uplinks()?.into_iter().map(|(index, _)| index).collect();
        if uplinks.len() < 2 {
            return Ok(0);
        }
        let way = |flow: &FlowRecord| {
            let may_move = flow.original && !flow.is_connection();
            flow.target_uplink.filter(|_| may_move).map(|index| (flow.to_dst, index))
        };
        let asked: HashSet<IpAddr> = self.datapath.flows()?.iter().filter_map(way).map(|(dst, _)| dst).collect();
        let mut led = HashMap::new();
        for destination in asked.into_iter().take(MOST_ASKED) {
            if let Some(route) = self.netlink.route_to(destination)? {
                led.insert(destination, route.oif.into_iter().chain(route.more_oifs).collect::<Vec<_>>());
            }
        }
        let is_elsewhere = |(destination, index): (IpAddr, u32)| {
            led.get(&destination).is_some_and(|oifs| !oifs.contains(&index) && oifs.iter().any(|i| uplinks.contains(i)))
        };
        Ok(self.datapath.delete_flows(|flow| way(flow).is_some_and(is_elsewhere))?)
    }

    fn uplink_link(&self, ifname: &str) -> Result<Link, WiringError> {
        let link = self.netlink.link_by_name(ifname)?;
        let link = link.ok_or_else(|| WiringError::NoUplink(ifname.to_owned()))?;
        match unfit(&link) {
            Some(why) => Err(WiringError::BadUplink(link.name, why)),
            None => Ok(link),
        }
    }
}

/// The first address in the kernel's order, which is the one it takes as source.
fn primary4(addresses: &[Address]) -> Option<Ipv4Addr> {
    addresses.iter().filter(|a| a.usable && a.global && !a.secondary).find_map(|a| match a.addr() {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(_) => None,
    })
}

/// The first stable address, one that is routed everywhere before one that is not (RFC 4193).
fn primary6(addresses: &[Address]) -> Option<Ipv6Addr> {
    let stable = addresses.iter().filter(|a| a.usable && a.global && !a.secondary);
    let mut found: Vec<Ipv6Addr> = stable
        .filter_map(|a| match a.addr() {
            IpAddr::V4(_) => None,
            IpAddr::V6(a) => Some(a),
        })
        .collect();
    found.sort_by_key(Ipv6Addr::is_unique_local);
    found.first().copied()
}
