//! What is live brought to something else, so that connections go on that can.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netns_ebpf_common::host::Uplink;
use netns_ebpf_common::{Addr4, Addr6};

use super::names::{endpoint_ifindex, gateway_ifindex};
use super::pod::{nets, own_table};
use super::{Host, NetworkSpec, PodSpec, WiringError, local_route};
use crate::datapath::FlowRecord;
use crate::netlink::{AddressOptions, Netlink, Request, RouteSpec};
use crate::netns::Netns;
use crate::topology::same_family;

/// Nobody is there to have an address of ours.
const OPTIONS: AddressOptions = AddressOptions { nodad: true, noprefixroute: false };

impl Host {
    /// Brings a live network to other settings, subnets or another MTU, and ends the flows that cannot go on as they are: see
    /// [`Host::end_changed_flows`], for which `left` are the addresses that are not its pods' to leave with any more. May be repeated.
    pub fn change_gateway(&self, spec: &NetworkSpec, left: &[IpAddr]) -> Result<(), WiringError> {
        let index = gateway_ifindex(spec.id);
        if spec.host_access && self.netlink.link_by_index(index)?.is_some() {
            self.move_gateway(spec, index)?;
        }
        self.mend_gateway(spec, false)?;
        // A program that runs now may still make a flow of what was before.
        self.datapath.wait_for_programs()?;
        self.end_changed_flows(spec, left)?;
        Ok(())
    }

    /// Gives the gateway device new addresses before the former ones go, and lets no packet for a pod go astray meanwhile.
    fn move_gateway(&self, spec: &NetworkSpec, index: u32) -> Result<(), WiringError> {
        let found: Vec<IpNet> = self.netlink.addresses(Some(index))?.iter().map(|a| a.net).collect();
        let mut kept_ways = Vec::new();
        let has_family = |net: &IpNet| found.iter().any(|f| same_family(*f, net.addr()));
        // A family that is new to the device is switched on before.
        for net in spec.gateways().filter(|net| has_family(net) && !found.contains(net)) {
            let former = found.iter().find(|f| f.addr() == net.addr() && net.addr().is_ipv6());
            // IPv6 has an address once, whatever its prefix: until the new one is there, a route stands in for it.
            let way = former.map(|_| RouteSpec::connected(net.trunc(), index));
            let mut changes: Vec<Request> = way.iter().map(|way| Request::add_route(way).or_exists()).collect();
            changes.extend(former.map(|f| Request::delete_address(index, *f).or_absent()));
            changes.push(Request::add_address(index, net, OPTIONS).or_exists());
            self.netlink.request_all(changes)?;
            kept_ways.extend(way);
        }
        let v6: Vec<IpAddr> = spec.gateways().map(|net| net.addr()).collect();
        local_route::wait(&self.netns, &self.netlink, &v6)?;
        self.netlink.request_all(kept_ways.iter().map(|way| Request::delete_route(way).or_absent()).collect())?;
        Ok(())
    }

    /// Ends the flows from a network to the LAN that its settings do not allow as they are.
    ///
    /// With an address its pods have `left`, every one. Connections keep any other; all else ends unless it would leave with the same
    /// address again, and so do mappings.
    pub fn end_changed_flows(&self, spec: &NetworkSpec, left: &[IpAddr]) -> Result<usize, WiringError> {
        let uplinks: HashMap<u32, Uplink> = self.datapath.uplinks()?.into_iter().collect();
        let pool = self.datapath.snat_addresses(spec.id)?;
        let is_stale = |flow: &FlowRecord| {
            let Some(uplink) = flow.target_uplink else { return false };
            if flow.zone != spec.id || !(flow.original || flow.mapping.is_some()) {
                return false;
            }
            is_stale(flow, spec, &pool, uplinks.get(&uplink), left)
        };
        Ok(self.datapath.delete_flows(is_stale)?)
    }

    /// Makes way for other addresses of live pods: what they had and give up is free for each other after it. The data path only.
    pub fn leave_addresses(&self, network: u16, pod: &PodSpec) -> Result<(), WiringError> {
        Ok(self.datapath.leave_addresses(
            pod.slot,
            pod.owner,
            network,
            [pod.addr4.map(IpAddr::V4), pod.addr6.map(IpAddr::V6)],
        )?)
    }

    /// Brings a live pod's interface to another address, prefix, network or MTU. May be repeated.
    ///
    /// Flows of addresses it has no more end.
    pub fn change_pod(&self, network: &NetworkSpec, pod: &PodSpec, netns: &Netns) -> Result<(), WiringError> {
        let before = self.datapath.endpoint(pod.slot)?.filter(|e| e.owner == pod.owner);
        let former: Vec<IpAddr> = before.iter().flat_map(|e| addresses(e.addr4, e.addr6)).collect();
        let moves = before.is_some_and(|e| e.network != u32::from(network.id));
        let left: Vec<IpAddr> = former.into_iter().filter(|a| moves || !has(pod, *a)).collect();
        let inside = Netlink::in_netns(netns)?;
        let links = inside.links()?;
        let here = self.netlink.link_by_index(endpoint_ifindex(pod.slot))?.filter(|link| self.is_ours(link));
        // Whatever it is called by now.
        let eth = here.map(|here| self.pods_end(&here, netns, &links)).transpose()?.flatten();
        if let Some(eth) = eth {
            readdress(&inside, eth.index, (network, pod), &left)?;
        }
        self.mend_pod(network, pod, netns, false)?;
        if !left.is_empty() {
            self.datapath.wait_for_programs()?;
            let is_of = |flow: &FlowRecord, a: &IpAddr| [flow.src, flow.dst, flow.to_src, flow.to_dst].contains(a);
            self.datapath.delete_flows(|flow| flow.concerns_slot(pod.slot) && left.iter().any(|a| is_of(flow, a)))?;
        }
        Ok(())
    }
}

/// Whether a flow that leaves by an uplink has no place among what its network's settings say.
fn is_stale(flow: &FlowRecord, spec: &NetworkSpec, pool: &[IpAddr], uplink: Option<&Uplink>, left: &[IpAddr]) -> bool {
    let has = |uplink: &Uplink, address| addresses(uplink.addr4, uplink.addr6).any(|a| a == address);
    let translated = flow.src != flow.to_src || flow.mapping.is_some();
    if translated && left.contains(&flow.to_src) {
        return true;
    }
    let is_mapping = flow.mapping.is_some();
    if flow.is_connection() && !is_mapping {
        return false;
    }
    let to_itself = !is_mapping && spec.no_masquerade.iter().any(|net| net.contains(&flow.to_dst));
    if !spec.masquerade || to_itself || (is_mapping && !spec.endpoint_independent) {
        return translated;
    }
    let is_pooled = spec.snat_addresses.iter().any(|a| a.is_ipv4() == flow.src.is_ipv4());
    let as_it_would_be =
        if is_pooled { pool.contains(&flow.to_src) } else { uplink.is_some_and(|u| has(u, flow.to_src)) };
    !(translated && as_it_would_be)
}

fn addresses(v4: Addr4, v6: Addr6) -> impl Iterator<Item = IpAddr> {
    [v4.into(), v6.into()].into_iter().filter(|a: &IpAddr| !a.is_unspecified())
}

fn has(pod: &PodSpec, address: IpAddr) -> bool {
    pod.addr4.map(IpAddr::V4) == Some(address) || pod.addr6.map(IpAddr::V6) == Some(address)
}

/// Gives an interface in a pod its addresses, and its default routes by their gateways, before it loses what it has `left` and
/// what it had with another prefix.
fn readdress(
    inside: &Netlink,
    index: u32,
    (network, pod): (&NetworkSpec, &PodSpec),
    left: &[IpAddr],
) -> Result<(), WiringError> {
    let wanted = nets(network, pod);
    let link_local = |a: &IpNet| matches!(a.addr(), IpAddr::V6(a) if a.is_unicast_link_local());
    let found: Vec<IpNet> = inside.addresses(Some(index))?.iter().map(|a| a.net).filter(|a| !link_local(a)).collect();
    let routes = inside.routes()?;
    let (mut changes, mut last) = (Vec::new(), Vec::new());
    // A family that is new to the interface is switched on before.
    for (net, gateway) in wanted.iter().filter(|(net, _)| found.iter().any(|f| same_family(*f, net.addr()))) {
        let delete = |f: &IpNet| Request::delete_address(index, *f).or_absent();
        let other_prefix = found.iter().filter(|f| f.addr() == net.addr() && *f != net);
        // IPv6 has an address once, whatever its prefix.
        match net {
            IpNet::V4(_) => last.extend(other_prefix.map(delete)),
            IpNet::V6(_) => changes.extend(other_prefix.map(delete)),
        }
        changes.push(Request::add_address(index, *net, OPTIONS).or_exists());
        let default = |r: &&crate::netlink::Route| {
            r.is_default() && r.oif == Some(index) && r.destination.addr().is_ipv4() == gateway.is_ipv4()
        };
        if routes.iter().filter(default).any(|r| r.gateway.is_some_and(|found| found != *gateway)) {
            changes.push(Request::replace_route(&pod.default_route(*gateway, index)));
        }
    }
    let gone = found.iter().filter(|f| left.contains(&f.addr()) && !wanted.iter().any(|(net, _)| net == *f));
    last.extend(gone.map(|f| Request::delete_address(index, *f).or_absent()));
    // Rules that speak of an address it has no more.
    let table = own_table(pod.slot);
    let stale = inside.rules()?.into_iter().filter(|r| r.table == table && left.contains(&r.from));
    last.extend(stale.map(|rule| Request::delete_rule(&rule).or_absent()));
    changes.extend(last);
    Ok(inside.request_all(changes)?)
}

#[cfg(test)]
mod tests;
