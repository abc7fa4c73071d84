//! What is there of an instance, by identity, and what should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netns_ebpf_common::Mac;
use netns_ebpf_common::counters::Hook;

use crate::netlink::Family;
use crate::netns::NetnsId;
use crate::store::{AttachmentRow, NetworkRow, Phase, State};
use crate::sysctl::PortSet;
use crate::topology::{Uplink, gateway, same_family};
use crate::wiring::{
    HOST_END, gateway_ifindex, gateway_ifname, gateway_mac, gateway_peer_ifname, gateway_peer_mac, gateway_settings,
    host_ifname,
};

/// An interface as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Name.
    pub name: String,
    /// Whether it is the one we made, whatever was done to it since.
    pub ours: bool,
    /// Where it is not: what is known of it, in words.
    pub whose: String,
    /// Link-layer address.
    pub mac: Option<Mac>,
    /// Largest IP packet.
    pub mtu_bytes: u32,
    /// Administratively up.
    pub up: bool,
    /// Does not resolve neighbours.
    pub noarp: bool,
    /// Index of the device it is a port of.
    pub master: Option<u32>,
    /// Its settings, by family and name: `ipv4/forwarding`. Those of a family that is off are absent.
    pub settings: BTreeMap<&'static str, i32>,
}

/// A route to a destination by an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Where it leads.
    pub destination: IpNet,
    /// By way of whom; `None`: it is on the link.
    pub gateway: Option<IpAddr>,
}

/// A pod's side of an attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    /// The interface, which is the host's end's other one.
    pub device: Option<Device>,
    /// Another one that has its name.
    pub other: Option<Device>,
    /// Its addresses, but for link-local ones.
    pub addresses: BTreeSet<IpNet>,
    /// Routes by it.
    pub routes: BTreeSet<Way>,
    /// Addresses of it that leave by it, whatever others lead there; of a pod that has others.
    pub own_ways: BTreeSet<IpAddr>,
    /// The data path knows it as it should.
    pub known: bool,
}

/// Where the host's routes lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Led {
    /// The destination of the route.
    pub destination: IpNet,
    /// Index of its interface.
    pub index: u32,
}

/// What is there of an instance. What does not matter to it is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// Whether programs and maps are there.
    pub loaded: bool,
    /// Pins of programs and maps that are not there.
    pub pins_gone: BTreeSet<String>,
    /// Interfaces of the host, by index.
    pub devices: BTreeMap<u32, Device>,
    /// Addresses of gateway devices, but for link-local ones, by index.
    pub addresses: BTreeMap<u32, BTreeSet<IpNet>>,
    /// The other ends of gateway devices, by those's index.
    pub peers: BTreeMap<u32, Device>,
    /// Where the host's routes lead to addresses of networks that it reaches.
    pub led: BTreeMap<IpAddr, Led>,
    /// Namespaces of pods, by pod; none where there is none.
    pub namespaces: BTreeMap<u64, NetnsId>,
    /// Pods whose namespaces are there, but not under their name.
    pub nameless: BTreeSet<u64>,
    /// The pods' sides, by attachment.
    pub inside: BTreeMap<u64, Inside>,
    /// Programs that are attached, by hook and index.
    pub attached: BTreeSet<(&'static str, u32)>,
    /// Socket hooks that are not attached, of an instance that had them.
    pub socket_hooks_off: BTreeSet<&'static str>,
    /// Reserved ports.
    pub reserved: PortSet,
    /// Uplinks that are there, by name, with their index.
    pub uplinks: BTreeMap<String, u32>,
    /// Interfaces the kernel's default routes lead to, by name, with their index; `None` where that does not matter.
    pub default_uplinks: Option<BTreeMap<String, u32>>,
}

impl Present {
    /// What should be there by these rows of the instance of this name: those that are live, and done with changing.
    pub fn wanted(instance: &str, all: &State) -> Self {
        let mut wanted = Self { loaded: true, ..Self::default() };
        let Some(row) = all.instance.as_ref().filter(|r| r.phase.is_live()) else { return Self::default() };
        wanted.reserved = row.reserved_ports.clone();
        wanted.uplinks = row.uplinks.iter().map(|u| (u.name.clone(), u.ifindex)).collect();
        wanted.default_uplinks = (row.host.uplink == Uplink::Auto).then(BTreeMap::new);
        let ready = |phase| phase == Phase::Ready;
        for network in all.networks.iter().filter(|r| ready(r.phase)) {
            let Ok(id) = u16::try_from(network.id) else { continue };
            let index = gateway_ifindex(id);
            let ipv6 = network.network.subnets.iter().any(|s| matches!(s, IpNet::V6(_)));
            let device = Device::wanted(gateway_ifname(id), gateway_mac(instance, id), network.mtu_bytes);
            let settings = gateway_settings(ipv6).into_iter().collect();
            wanted.devices.insert(index, Device { noarp: true, settings, ..device });
            let peer = Device::wanted(gateway_peer_ifname(id), gateway_peer_mac(instance, id), network.mtu_bytes);
            wanted.peers.insert(index, Device { noarp: true, ..peer });
            wanted.addresses.insert(index, gateway_addresses(network));
            wanted.attached.insert((Hook::FromHost.as_str(), index));
            for subnet in network.network.subnets.iter().filter(|_| network.host_access) {
                let led = Led { destination: subnet.trunc(), index };
                wanted.led.extend(beside(gateway(*subnet)).filter(|a| subnet.contains(a)).map(|a| (a, led)));
            }
        }
        for row in all.attachments.iter().filter(|r| ready(r.phase)) {
            let Some(network) = all.network(row.network) else { continue };
            let Ok(id) = u16::try_from(network.id) else { continue };
            let device = Device::wanted(host_ifname(row.slot), gateway_mac(instance, id), network.mtu_bytes);
            let settings = HOST_END.into_iter().collect();
            wanted.devices.insert(row.ifindex, Device { noarp: true, settings, ..device });
            wanted.attached.insert((Hook::FromPod.as_str(), row.ifindex));
            let device = Some(Device::wanted(row.ifname.clone(), row.mac, network.mtu_bytes));
            let (addresses, routes) = nets(row, network);
            for (address, subnet) in row.addresses().filter_map(|a| Some((a, network.subnet_of(a)?))) {
                if network.host_access && ready(network.phase) {
                    wanted.led.insert(address, Led { destination: subnet.trunc(), index: gateway_ifindex(id) });
                }
            }
            let own_ways = row.addresses().filter(|_| all.has_others(row)).collect();
            let inside = Inside { device, addresses, routes, own_ways, known: true, ..Inside::default() };
            wanted.inside.insert(row.id, inside);
        }
        let pods = all.pods.iter().filter(|r| ready(r.phase));
        wanted.namespaces = pods.filter_map(|p| Some((p.id, p.netns?))).collect();
        wanted
    }
}

fn gateway_addresses(row: &NetworkRow) -> BTreeSet<IpNet> {
    let subnets = row.network.subnets.iter().filter(|_| row.host_access);
    subnets.filter_map(|s| IpNet::new(gateway(*s), s.prefix_len()).ok()).collect()
}

/// An attachment's addresses with their prefix lengths, and its routes.
fn nets(row: &AttachmentRow, network: &NetworkRow) -> (BTreeSet<IpNet>, BTreeSet<Way>) {
    let mut nets = (BTreeSet::new(), BTreeSet::new());
    for address in row.addresses() {
        let bits = |s: IpNet| row.own_prefix_bits(address).unwrap_or(s.prefix_len());
        let subnet = network.subnet_of(address);
        if let Some((net, subnet)) = subnet.and_then(|s| Some((IpNet::new(address, bits(s)).ok()?, s))) {
            nets.0.insert(net);
            let gateway = gateway(subnet);
            nets.1.insert(Way { destination: net.trunc(), gateway: None });
            nets.1.insert(Way { destination: Family::of(gateway).default_net(), gateway: Some(gateway) });
        }
    }
    nets
}

/// The address behind another one.
fn beside(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let next = match address {
        IpAddr::V4(a) => u32::from(a).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(a) => u128::from(a).checked_add(1).map(|n| IpAddr::V6(n.into())),
    };
    next.into_iter()
}

impl Device {
    /// One of ours as it should be.
    fn wanted(name: String, mac: Mac, mtu_bytes: u32) -> Self {
        let (whose, settings) = (String::new(), BTreeMap::new());
        Self { name, ours: true, whose, mac: Some(mac), mtu_bytes, up: true, noarp: false, master: None, settings }
    }
}

impl NetworkRow {
    fn subnet_of(&self, address: IpAddr) -> Option<IpNet> {
        self.network.subnets.iter().find(|s| same_family(**s, address)).copied()
    }
}
