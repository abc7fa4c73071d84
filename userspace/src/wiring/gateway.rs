//! The host's own leg in a network.
//!
//! A veth pair of which only one end does anything. It resolves no neighbours (`from_host` addresses the frames), and
//! its `forwarding` is on because `bpf_fib_lookup` asks for it, while the host's own forwarding stays as it is.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netns_ebpf_common::Addr4;
use netns_ebpf_common::Addr6;
use netns_ebpf_common::counters::Hook;
use netns_ebpf_common::network::Network;

use super::device::{gateway_settings, in_the_way, write_device_settings};
use super::names::{device_group, gateway_ifindex, gateway_ifname, gateway_mac, gateway_peer_ifname, gateway_peer_mac};
use super::{FirstError, Host, WiringError, local_route, write_settings};
use crate::netlink::{AddressOptions, Request, RouteSpec, VethEnd, VethPair};
use crate::sysctl::{self, SysctlError};

/// A network, as the data path is to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Id, from 1; below `abi::MAX_NETWORKS`.
    pub id: u16,
    /// The gateway's IPv4 address with the subnet's prefix length.
    pub gateway4: Option<Ipv4Net>,
    /// The gateway's IPv6 address with the subnet's prefix length.
    pub gateway6: Option<Ipv6Net>,
    /// MTU of the network's devices, in bytes.
    pub mtu_bytes: u32,
    /// Pods leave for the LAN with an address of the host.
    pub masquerade: bool,
    /// Which ones; a family that is not here: the uplink's.
    pub snat_addresses: Vec<IpAddr>,
    /// Endpoint-independent mapping.
    pub endpoint_independent: bool,
    /// Endpoint-independent filtering besides.
    pub open_to_all: bool,
    /// Host and pods reach each other: no other network of the host has these subnets.
    pub host_access: bool,
    /// Destinations that are not masqueraded; empty means none.
    pub no_masquerade: Vec<IpNet>,
}

impl NetworkSpec {
    /// The gateway's addresses with prefix lengths.
    pub fn gateways(&self) -> impl Iterator<Item = IpNet> {
        self.gateway4.map(IpNet::V4).into_iter().chain(self.gateway6.map(IpNet::V6))
    }

    fn network(&self, instance: &str) -> Network {
        let mut flags = 0;
        for (on, flag) in [
            (self.masquerade, Network::MASQUERADE),
            (self.host_access, Network::HOST_ACCESS),
            (self.endpoint_independent, Network::ENDPOINT_INDEPENDENT),
            (self.open_to_all, Network::OPEN_TO_ALL),
        ] {
            flags |= if on { flag } else { 0 };
        }
        Network {
            gateway_ifindex: gateway_ifindex(self.id),
            flags,
            gateway4: self.gateway4.map_or(Addr4::UNSPECIFIED, |n| n.addr().into()),
            mask4: self.gateway4.map_or(Addr4::UNSPECIFIED, |n| n.netmask().into()),
            gateway6: self.gateway6.map_or(Addr6::UNSPECIFIED, |n| n.addr().into()),
            mask6: self.gateway6.map_or(Addr6::UNSPECIFIED, |n| n.netmask().into()),
            mac: gateway_mac(instance, self.id),
            _pad: 0,
            mtu_bytes: self.mtu_bytes,
        }
    }
}

impl Host {
    /// Makes a network's gateway device and declares the network. May be repeated, also to change flags, MTU and
    /// `no_masquerade`.
    pub fn wire_gateway(&self, spec: &NetworkSpec) -> Result<(), WiringError> {
        let made = self.make_gateway_device(spec)?;
        let done = self.set_up_gateway(spec, made);
        if done.is_err()
            && made
            && let Err(e) = self.unwire_gateway(spec.id)
        {
            tracing::warn!("while undoing: {e}");
        }
        done
    }

    /// Switches networks' gateway devices to forwarding, which clearing the host's own (`net.ipv4.ip_forward`) cleared: without, the
    /// kernel names no route to the LAN.
    pub fn keep_forwarding(&self, ids: &[u16]) -> Result<(), WiringError> {
        let settings: Vec<_> = ids.iter().flat_map(|id| forwarding(*id).map(|(_, key)| (key, "1"))).collect();
        Ok(self.netns.run(|| write_settings(&settings))??)
    }

    /// Families of which a network's gateway device does not forward. One that is switched off for it has nothing to forward.
    pub fn not_forwarding(&self, id: u16) -> Result<Vec<&'static str>, WiringError> {
        let is = |key: &str, wanted: &str| match sysctl::read(key) {
            Err(e) if e.is_absent() => Ok(false),
            value => value.map(|found| found == wanted),
        };
        let no_ipv6 = format!("ipv6/conf/{}/disable_ipv6", gateway_ifname(id));
        Ok(self.netns.run(|| {
            let mut found = Vec::new();
            for (family, key) in forwarding(id) {
                if is(&key, "0")? && (family == "IPv4" || is(&no_ipv6, "0")?) {
                    found.push(family);
                }
            }
            Ok::<_, SysctlError>(found)
        })??)
    }

    /// Removes a network and its gateway device. Its pods are to be gone before.
    pub fn unwire_gateway(&self, id: u16) -> Result<(), WiringError> {
        let mut errors = FirstError::default();
        errors.note(self.detach(Hook::FromHost, gateway_ifindex(id)));
        errors.note(self.delete_gateway_device(id));
        errors.note(self.datapath.remove_network(id));
        errors.done()
    }

    /// Whether the device had to be made.
    fn make_gateway_device(&self, spec: &NetworkSpec) -> Result<bool, WiringError> {
        let (index, name) = (gateway_ifindex(spec.id), gateway_ifname(spec.id));
        let mac = gateway_mac(&self.instance, spec.id);
        if let Some(link) = self.netlink.link_by_index(index)? {
            if link.name != name || link.mac != Some(mac) {
                return Err(in_the_way(&link, &name));
            }
            if link.mtu_bytes != spec.mtu_bytes {
                self.netlink.set_mtu(index, spec.mtu_bytes)?;
            }
            return Ok(false);
        }
        let here = VethEnd { name, index: Some(index), mac, noarp: true, group: device_group(&self.instance) };
        let peer = VethEnd {
            name: gateway_peer_ifname(spec.id),
            index: None,
            mac: gateway_peer_mac(&self.instance, spec.id),
            noarp: true,
            group: device_group(&self.instance),
        };
        let pair = VethPair { here: &here, peer: &peer, peer_netns: None, mtu_bytes: spec.mtu_bytes };
        if let Err(e) = self.netlink.create_veth(&pair) {
            if e.is_exists() {
                Self::is_free(&self.netlink, &here.name)?;
                Self::is_free(&self.netlink, &peer.name)?;
            }
            return Err(e.into());
        }
        Ok(true)
    }

    fn set_up_gateway(&self, spec: &NetworkSpec, is_new: bool) -> Result<(), WiringError> {
        let (index, name, peer) = (gateway_ifindex(spec.id), gateway_ifname(spec.id), gateway_peer_ifname(spec.id));
        let settings = [
            (format!("ipv6/conf/{peer}/disable_ipv6"), "1"),
            (format!("ipv6/conf/{name}/accept_dad"), "0"),
            // No link-local address: nothing on this link would answer for it, and nothing needs it.
            (format!("ipv6/conf/{name}/addr_gen_mode"), "1"),
        ];
        self.netns.run(|| {
            write_settings(&settings)?;
            write_device_settings(&name, &gateway_settings(spec.gateway6.is_some()))
        })??;
        // Before the network: no packet leaves with the uplink's address that should have the pool's.
        self.sync_snat_pools(&[(spec.id, &spec.snat_addresses)])?;
        if spec.endpoint_independent {
            self.datapath.set_mappings(true)?;
        }
        self.datapath.put_network(spec.id, &spec.network(&self.instance))?;
        self.datapath.sync_no_masquerade(spec.id, &spec.no_masquerade)?;
        self.attach(Hook::FromHost, &name, index)?;
        let peer = self.netlink.link_by_name(&peer)?;
        let both = peer.map(|peer| peer.index).into_iter().chain([index]);
        self.netlink.request_all(both.map(|index| Request::set_up(index, true)).collect())?;
        self.set_gateway_addresses(spec, index, is_new)
    }

    /// Gives the device the gateway's addresses if the host is to have routes to the network, else none.
    fn set_gateway_addresses(&self, spec: &NetworkSpec, index: u32, is_new: bool) -> Result<(), WiringError> {
        let wanted: Vec<IpNet> = if spec.host_access { spec.gateways().collect() } else { Vec::new() };
        let options = AddressOptions { nodad: true, noprefixroute: false };
        let mut changes = Vec::new();
        for found in self.netlink.addresses(Some(index))? {
            let link_local = matches!(found.addr(), IpAddr::V6(a) if a.is_unicast_link_local());
            if !link_local && !wanted.contains(&found.net) {
                changes.push(Request::delete_address(index, found.net).or_absent());
            }
        }
        changes.extend(wanted.iter().map(|net| Request::add_address(index, *net, options).or_exists()));
        if !is_new {
            // The kernel makes it with the address, and not again when somebody has taken it away.
            let route = |net: &IpNet| Request::lead_by(&RouteSpec::of_address(*net, index)).or_exists();
            changes.extend(wanted.iter().map(route));
        }
        self.netlink.request_all(changes)?;
        let addrs: Vec<IpAddr> = wanted.iter().map(IpNet::addr).collect();
        local_route::wait(&self.netns, &self.netlink, &addrs)
    }
}

/// The settings that make a network's gateway device forward, by family.
fn forwarding(id: u16) -> [(&'static str, String); 2] {
    let name = gateway_ifname(id);
    [("IPv4", "ipv4"), ("IPv6", "ipv6")].map(|(family, key)| (family, format!("{key}/conf/{name}/forwarding")))
}
