//! A pod's cable: a veth with one end in the pod, the other in the host with `from_pod` on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netns_ebpf_common::counters::Hook;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::{Addr4, Addr6};

use super::names::{POD_IFNAME, device_group, endpoint_ifindex, gateway_mac, host_ifname, pod_mac};
use super::{FirstError, Host, NetworkSpec, WiringError, local_route, write_settings};
use crate::netlink::{AddressOptions, Netlink, Request, RouteSpec, VethEnd, VethPair};
use crate::netns::{Netns, NetnsName};

/// The index of a namespace's loopback interface: the kernel makes it first (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// A pod, as the data path is to know it. Its namespace exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// The store's id of the pod, not 0.
    pub owner: u64,
    /// Slot, below `abi::MAX_ENDPOINTS`.
    pub slot: u32,
    /// The namespace's name.
    pub netns: NetnsName,
    /// IPv4 address, in its network's subnet.
    pub addr4: Option<Ipv4Addr>,
    /// IPv6 address, in its network's subnet.
    pub addr6: Option<Ipv6Addr>,
}

impl Host {
    /// Connects a pod to its network. May be repeated.
    ///
    /// When it returns, packets flow: addresses are not tentative, routes are there, the endpoint is live.
    pub fn wire_pod(&self, network: &NetworkSpec, pod: &PodSpec) -> Result<(), WiringError> {
        self.wire_pod_at(network, pod, &Netns::open_named(&pod.netns)?, true)
    }

    /// The same for a namespace that is open. Without `up` the pod has not got its addresses yet, which another one still has.
    pub fn wire_pod_at(
        &self,
        network: &NetworkSpec,
        pod: &PodSpec,
        netns: &Netns,
        up: bool,
    ) -> Result<(), WiringError> {
        if netns.is_same(&self.netns) {
            return Err(WiringError::HostNamespace(pod.netns.clone()));
        }
        let inside = &Netlink::in_netns(netns)?;
        // Before the slot is touched: a device that is not ours must not lead to the removal of anything.
        let there = self.is_wired(network, inside, pod)?;
        let mut endpoint = self.endpoint_of(network, pod);
        if there {
            endpoint.flags = self.datapath.endpoint(pod.slot)?.map_or(0, |e| e.flags);
        }
        self.datapath.put_endpoint(pod.slot, &endpoint)?;
        endpoint.flags |= if up { Endpoint::UP } else { 0 };
        let done = self.connect(network, pod, netns, inside, there);
        let done = match done {
            Ok(()) => self.datapath.put_endpoint(pod.slot, &endpoint).map_err(Into::into),
            Err(e) => Err(e),
        };
        if done.is_err()
            && !there
            && let Err(e) = self.unwire_pod(pod.slot, pod.owner)
        {
            tracing::warn!("while undoing: {e}");
        }
        done
    }

    /// Disconnects the pod of this owner from its slot, and forgets its flows. Its namespace may be gone already.
    ///
    /// `false`: the slot is another owner's, and left as it is.
    pub fn unwire_pod(&self, slot: u32, owner: u64) -> Result<bool, WiringError> {
        let found = match self.datapath.endpoint(slot) {
            Err(e) if e.is_not_loaded() => None,
            found => found?,
        };
        if found.is_some_and(|e| e.owner != owner) {
            return Ok(false);
        }
        let mut errors = FirstError::default();
        if let Some(mut endpoint) = found {
            // No new flows towards it: its addresses are unknown from here on.
            endpoint.flags &= !Endpoint::UP;
            errors.note(self.datapath.put_endpoint(slot, &endpoint));
        }
        let index = endpoint_ifindex(slot);
        errors.note(self.delete_cable(slot));
        errors.note(self.datapath.detach(Hook::FromPod, index));
        if found.is_some() {
            errors.note(self.datapath.delete_flows(|flow| flow.concerns_slot(slot)));
            // Last, and only after all else: a slot that still has something is not free.
            if errors.is_none() {
                errors.note(self.datapath.remove_endpoint(slot, owner));
            }
        }
        errors.done().map(|()| true)
    }

    fn endpoint_of(&self, network: &NetworkSpec, pod: &PodSpec) -> Endpoint {
        Endpoint {
            ifindex: endpoint_ifindex(pod.slot),
            network: u32::from(network.id),
            addr4: pod.addr4.map_or(Addr4::UNSPECIFIED, Into::into),
            addr6: pod.addr6.map_or(Addr6::UNSPECIFIED, Into::into),
            mac: pod_mac(&self.instance, pod.slot),
            flags: 0,
            mtu_bytes: network.mtu_bytes,
            owner: pod.owner,
        }
    }

    /// Whether the pod's veth is there, both ends of it.
    fn is_wired(&self, network: &NetworkSpec, inside: &Netlink, pod: &PodSpec) -> Result<bool, WiringError> {
        let index = endpoint_ifindex(pod.slot);
        let Some(link) = self.netlink.link_by_index(index)? else { return Ok(false) };
        let here = link.name == host_ifname(pod.slot) && link.mac == Some(gateway_mac(&self.instance, network.id));
        let peer = inside.link_by_name(POD_IFNAME)?;
        let there = peer.is_some_and(|p| p.mac == Some(pod_mac(&self.instance, pod.slot)));
        if here && there { Ok(true) } else { Err(WiringError::Taken { name: link.name, index }) }
    }

    fn connect(
        &self,
        network: &NetworkSpec,
        pod: &PodSpec,
        netns: &Netns,
        inside: &Netlink,
        there: bool,
    ) -> Result<(), WiringError> {
        let (index, name) = (endpoint_ifindex(pod.slot), host_ifname(pod.slot));
        if !there {
            let here = VethEnd {
                name: name.clone(),
                index: Some(index),
                mac: gateway_mac(&self.instance, network.id),
                noarp: true,
                group: device_group(&self.instance),
            };
            let peer = VethEnd {
                name: POD_IFNAME.to_owned(),
                index: None,
                mac: pod_mac(&self.instance, pod.slot),
                noarp: false,
                group: 0,
            };
            let pair = VethPair { here: &here, peer: &peer, peer_netns: Some(netns), mtu_bytes: network.mtu_bytes };
            self.netlink.create_veth(&pair)?;
        }
        let settings = [
            // Nothing reaches the host's own stack by this device: it needs no address of its own. Should the program go, whatever the
            // pod sends ends here, and is not forwarded with any source it likes.
            (format!("ipv6/conf/{name}/disable_ipv6"), "1"),
            (format!("ipv4/conf/{name}/forwarding"), "0"),
            (format!("ipv4/conf/{name}/rp_filter"), "1"),
        ];
        self.netns.run(|| {
            write_settings(&settings)?;
            self.datapath.attach(Hook::FromPod, &name, index).map_err(WiringError::from)
        })??;
        self.netlink.set_up(index, true)?;
        self.set_up_inside(network, pod, netns, inside)
    }

    fn set_up_inside(
        &self,
        network: &NetworkSpec,
        pod: &PodSpec,
        netns: &Netns,
        inside: &Netlink,
    ) -> Result<(), WiringError> {
        let settings = [
            // An IPv4-only pod has no IPv6 of its own making either: nobody would answer it.
            (format!("ipv6/conf/{POD_IFNAME}/disable_ipv6"), if pod.addr6.is_some() { "0" } else { "1" }),
            (format!("ipv6/conf/{POD_IFNAME}/accept_ra"), "0"),
            (format!("ipv6/conf/{POD_IFNAME}/autoconf"), "0"),
            // The kernel looks at both. Addresses are ours to give, so there is nothing to detect.
            ("ipv6/conf/all/accept_dad".to_owned(), "0"),
            (format!("ipv6/conf/{POD_IFNAME}/accept_dad"), "0"),
            // The link-local address follows from the MAC; `from_pod` lets only that one out.
            (format!("ipv6/conf/{POD_IFNAME}/addr_gen_mode"), "0"),
        ];
        netns.run(|| write_settings(&settings))??;
        let Some(eth) = inside.link_by_name(POD_IFNAME)? else {
            return Err(WiringError::Taken { name: POD_IFNAME.to_owned(), index: 0 });
        };
        let options = AddressOptions { nodad: true, noprefixroute: false };
        let mut changes = vec![Request::set_up(LOOPBACK, true), Request::set_up(eth.index, true)];
        for (net, gateway) in nets(network, pod) {
            changes.push(Request::add_address(eth.index, net, options).or_exists());
            changes.push(Request::add_route(&RouteSpec::default_via(gateway, eth.index)).or_exists());
        }
        inside.request_all(changes)?;
        local_route::wait(netns, inside, pod.addr6.map(IpAddr::V6).as_slice())
    }
}

/// A pod's addresses with their subnet's prefix length, each with its gateway.
fn nets(network: &NetworkSpec, pod: &PodSpec) -> Vec<(IpNet, IpAddr)> {
    let mut nets = Vec::new();
    if let (Some(addr), Some(gateway)) = (pod.addr4, network.gateway4)
        && let Ok(net) = Ipv4Net::new(addr, gateway.prefix_len())
    {
        nets.push((net.into(), gateway.addr().into()));
    }
    if let (Some(addr), Some(gateway)) = (pod.addr6, network.gateway6)
        && let Ok(net) = Ipv6Net::new(addr, gateway.prefix_len())
    {
        nets.push((net.into(), gateway.addr().into()));
    }
    nets
}
