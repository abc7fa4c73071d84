//! A pod's cable: a veth with one end in the pod, the other in the host with `from_pod` on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netns_ebpf_common::counters::Hook;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::{Addr4, Addr6, Mac};

use super::device::{HOST_END, in_the_way, write_device_settings};
use super::names::{device_group, endpoint_ifindex, gateway_mac, host_ifname};
use super::{FirstError, Host, NetworkSpec, WiringError, local_route, write_settings};
use crate::netlink::{AddressOptions, Link, Netlink, Request, RouteSpec, Rule, VethEnd, VethPair};
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
    /// Name of the interface in the pod.
    pub ifname: String,
    /// Its link-layer address.
    pub mac: Mac,
    /// Its place among the pod's interfaces: the default route of the lowest one leads.
    pub rank: u32,
    /// The pod has other interfaces: what leaves with an address of this one leaves by it.
    pub has_others: bool,
    /// The namespace is somebody else's.
    pub is_adopted: bool,
}

/// Above the priority IPv6's routes have by default (`IP6_RT_PRIO_USER`).
const METRIC: u32 = 1024;

impl PodSpec {
    /// Priority of its default routes.
    fn metric(&self) -> Option<u32> {
        Some(METRIC + self.rank).filter(|_| self.rank > 0)
    }

    /// Its default route in the main table by a gateway.
    pub(super) fn default_route(&self, gateway: IpAddr, index: u32) -> RouteSpec {
        RouteSpec::default_via(gateway, index).with_metric(self.metric())
    }
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
        let there = self.wired(pod, netns, inside)?;
        let mut endpoint = self.endpoint_of(network, pod);
        if there.is_some() {
            endpoint.flags = self.datapath.endpoint(pod.slot)?.map_or(0, |e| e.flags);
        }
        let found = self.datapath.endpoint(pod.slot)?;
        if found.is_some_and(|e| e.is_resting() && e.owner != pod.owner) {
            // No other was to be had.
            self.datapath.mark_resting()?;
            self.datapath.sweep_resting()?;
        }
        self.datapath.put_endpoint(pod.slot, &endpoint)?;
        endpoint.flags |= if up { Endpoint::UP } else { 0 };
        let is_there = there.is_some();
        let done = self.connect(network, pod, netns, inside, there);
        let done = match done {
            Ok(()) => self.datapath.put_endpoint(pod.slot, &endpoint).map_err(Into::into),
            Err(e) => Err(e),
        };
        if done.is_err()
            && !is_there
            && let Err(e) = self.unwire_pod(pod.slot, pod.owner)
        {
            tracing::warn!("while undoing: {e}");
        }
        done
    }

    /// Disconnects the pod of this owner from its slot. Its namespace may be gone already.
    ///
    /// Its flows end, or count as absent from then on: among many they are not looked for, which would take longer the more there
    /// are. The slot rests then until somebody sweeps ([`Datapath::sweep_resting`]).
    ///
    /// [`Datapath::sweep_resting`]: crate::datapath::Datapath::sweep_resting
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
        if let Some(mut endpoint) = found.filter(|e| !e.is_resting()) {
            // No new flows towards it: its addresses are unknown from here on.
            endpoint.flags &= !Endpoint::UP;
            errors.note(self.datapath.put_endpoint(slot, &endpoint));
        }
        let index = endpoint_ifindex(slot);
        if errors.note(self.delete_cable(slot)) != Some(true) {
            errors.note(self.detach(Hook::FromPod, index));
        }
        if found.is_some() {
            let few = errors.note(self.datapath.has_few_flows()) == Some(true);
            if few {
                errors.note(self.datapath.delete_flows(|flow| flow.concerns_slot(slot)));
            }
            // Last, and only after all else: a slot that still has something is not free.
            if errors.is_none() {
                errors.note(if few {
                    self.datapath.remove_endpoint(slot, owner)
                } else {
                    self.datapath.rest_endpoint(slot, owner)
                });
            }
        }
        errors.done().map(|()| true)
    }

    /// Takes out of a pod's namespace that stays what was put there beside an interface and does not go with it.
    pub fn forget_ways(&self, slot: u32, netns: &Netns) -> Result<(), WiringError> {
        let inside = Netlink::in_netns(netns)?;
        let ours = inside.rules()?.into_iter().filter(|rule| rule.table == own_table(slot));
        Ok(inside.request_all(ours.map(|rule| Request::delete_rule(&rule).or_absent()).collect())?)
    }

    /// Whether the data path has the pod as it is to know it, and live.
    pub fn knows_pod(&self, network: &NetworkSpec, pod: &PodSpec) -> Result<bool, WiringError> {
        let endpoint = Endpoint { flags: Endpoint::UP, ..self.endpoint_of(network, pod) };
        Ok(self.datapath.has_endpoint(pod.slot, &endpoint)?)
    }

    fn endpoint_of(&self, network: &NetworkSpec, pod: &PodSpec) -> Endpoint {
        Endpoint {
            ifindex: endpoint_ifindex(pod.slot),
            network: u32::from(network.id),
            addr4: pod.addr4.map_or(Addr4::UNSPECIFIED, Into::into),
            addr6: pod.addr6.map_or(Addr6::UNSPECIFIED, Into::into),
            mac: pod.mac,
            flags: 0,
            mtu_bytes: network.mtu_bytes,
            owner: pod.owner,
        }
    }

    /// The pod's end of its veth, if that is there, both ends of it.
    fn wired(&self, pod: &PodSpec, netns: &Netns, inside: &Netlink) -> Result<Option<Link>, WiringError> {
        let Some(here) = self.netlink.link_by_index(endpoint_ifindex(pod.slot))? else { return Ok(None) };
        let there = if self.is_ours(&here) { self.pods_end(&here, netns, &inside.links()?)?.cloned() } else { None };
        there.map_or_else(|| Err(in_the_way(&here, &host_ifname(pod.slot))), |link| Ok(Some(link)))
    }

    fn connect(
        &self,
        network: &NetworkSpec,
        pod: &PodSpec,
        netns: &Netns,
        inside: &Netlink,
        there: Option<Link>,
    ) -> Result<(), WiringError> {
        let (index, name) = (endpoint_ifindex(pod.slot), host_ifname(pod.slot));
        let is_new = there.is_none();
        let eth = match there {
            Some(link) => link,
            None => self.lay(network, pod, netns, inside)?,
        };
        self.netns.run(|| write_device_settings(&name, &HOST_END))??;
        self.attach(Hook::FromPod, &name, index)?;
        self.netlink.set_up(index, true)?;
        self.set_up_inside(network, pod, netns, inside, &eth, is_new)
    }

    /// Makes the cable; the pod's end of it.
    fn lay(&self, network: &NetworkSpec, pod: &PodSpec, netns: &Netns, inside: &Netlink) -> Result<Link, WiringError> {
        let here = VethEnd {
            name: host_ifname(pod.slot),
            index: Some(endpoint_ifindex(pod.slot)),
            mac: gateway_mac(&self.instance, network.id),
            noarp: true,
            group: device_group(&self.instance),
        };
        let peer = VethEnd { name: pod.ifname.clone(), index: None, mac: pod.mac, noarp: false, group: 0 };
        let pair = VethPair { here: &here, peer: &peer, peer_netns: Some(netns), mtu_bytes: network.mtu_bytes };
        if let Err(e) = self.netlink.create_veth(&pair) {
            if e.is_exists() {
                Self::is_free(&self.netlink, &here.name)?;
                Self::is_free(inside, &peer.name)?;
            }
            return Err(e.into());
        }
        inside.link_by_name(&pod.ifname)?.ok_or_else(|| WiringError::Gone(pod.ifname.clone()))
    }

    fn set_up_inside(
        &self,
        network: &NetworkSpec,
        pod: &PodSpec,
        netns: &Netns,
        inside: &Netlink,
        eth: &Link,
        is_new: bool,
    ) -> Result<(), WiringError> {
        let ifname = &pod.ifname;
        let mut settings = vec![
            // An IPv4-only pod has no IPv6 of its own making either: nobody would answer it.
            (format!("ipv6/conf/{ifname}/disable_ipv6"), if pod.addr6.is_some() { "0" } else { "1" }),
            (format!("ipv6/conf/{ifname}/accept_ra"), "0"),
            (format!("ipv6/conf/{ifname}/autoconf"), "0"),
            (format!("ipv6/conf/{ifname}/accept_dad"), "0"),
            // The link-local address follows from the MAC; `from_pod` lets only that one out.
            (format!("ipv6/conf/{ifname}/addr_gen_mode"), "0"),
        ];
        if !pod.is_adopted {
            // The kernel looks at both. Addresses are ours to give, so there is nothing to detect.
            settings.push(("ipv6/conf/all/accept_dad".to_owned(), "0"));
        }
        netns.run(|| write_settings(&settings))??;
        let options = AddressOptions { nodad: true, noprefixroute: false };
        let mut changes = vec![Request::set_up(LOOPBACK, true), Request::set_up(eth.index, true)];
        if !is_new {
            // An interface has an IPv6 address once, whatever the length of its prefix.
            let is_changed =
                |found: &IpNet| nets(network, pod).iter().any(|(n, _)| n.addr() == found.addr() && n != found);
            let found = inside.addresses(Some(eth.index))?.into_iter().map(|a| a.net).filter(is_changed);
            changes.extend(found.map(|net| Request::delete_address(eth.index, net).or_absent()));
        }
        let pod_nets = nets(network, pod);
        for (net, gateway) in pod_nets.iter().copied() {
            changes.push(Request::add_address(eth.index, net, options).or_exists());
            let default = pod.default_route(gateway, eth.index);
            if is_new {
                changes.push(Request::add_route(&default).or_exists());
            } else {
                // The kernel makes it with the address, and not again when somebody has taken it away.
                changes.push(Request::lead_by(&RouteSpec::of_address(net, eth.index)).or_exists());
                // Another one may be in its place.
                changes.push(Request::put_route(&default).or_exists());
            }
        }
        if pod.has_others {
            changes.extend(ways_of_its_own(&pod_nets, pod.slot, eth.index));
        }
        inside.request_all(changes)?;
        local_route::wait(netns, inside, pod.addr6.map(IpAddr::V6).as_slice())
    }
}

/// The routing table in a pod of what leaves with an address of the interface in this slot: numbers as high are nobody's.
pub fn own_table(slot: u32) -> u32 {
    endpoint_ifindex(slot)
}

/// Has what leaves with an interface's addresses leave by that interface, whichever others lead to the same destination: a pod may
/// send with no address but the interface's.
fn ways_of_its_own(nets: &[(IpNet, IpAddr)], slot: u32, index: u32) -> Vec<Request> {
    let table = own_table(slot);
    let ways = nets.iter().flat_map(|(net, gateway)| {
        let way = RouteSpec::default_via(*gateway, index).in_table(table);
        [Request::put_route(&way).or_exists(), Request::add_rule(&Rule { from: net.addr(), table }).or_exists()]
    });
    ways.collect()
}

/// A pod's addresses with their subnet's prefix length, each with its gateway.
pub(super) fn nets(network: &NetworkSpec, pod: &PodSpec) -> Vec<(IpNet, IpAddr)> {
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
