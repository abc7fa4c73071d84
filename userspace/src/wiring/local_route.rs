//! Waits until an IPv6 address takes packets.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::WiringError;
use crate::netlink::{Monitor, Netlink, NetlinkError, RouteKind};
use crate::netns::Netns;

/// Longest wait; the kernel takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Waits until the kernel delivers packets to these addresses.
///
/// It lists an IPv6 address as soon as it is added, but adds the local route from a work item (`addrconf_dad_work`), also
/// when nothing is to be detected: packets that come before are lost.
pub(super) fn wait(netns: &Netns, netlink: &Netlink, addrs: &[IpAddr]) -> Result<(), WiringError> {
    let mut wanted: Vec<Ipv6Addr> =
        addrs.iter().filter_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None }).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    // Before the first look, or what comes between the two would be missed.
    let mut monitor = Monitor::in_netns(netns)?;
    let end = Instant::now() + PATIENCE;
    loop {
        let mut waiting = Vec::new();
        for addr in wanted {
            if !is_local(netlink, addr)? {
                waiting.push(addr);
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            tracing::warn!("the kernel does not deliver packets to {waiting:?} yet");
            return Ok(());
        }
        wanted = waiting;
        monitor.wait(end)?;
    }
}

/// Whether packets for this address are delivered here, by a route of its own.
fn is_local(netlink: &Netlink, addr: Ipv6Addr) -> Result<bool, NetlinkError> {
    let route = netlink.route_to(addr.into())?;
    Ok(route.is_some_and(|r| r.kind == RouteKind::Local && r.destination.addr() == IpAddr::V6(addr)))
}
