//! What is there of an instance, by identity, and what should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netns_ebpf_common::Mac;
use netns_ebpf_common::counters::Hook;

use crate::netns::NetnsId;
use crate::store::{AttachmentRow, NetworkRow, Phase, State};
use crate::sysctl::PortSet;
use crate::topology::{gateway, same_family};
use crate::wiring::{gateway_ifindex, gateway_ifname, gateway_mac, host_ifname};

/// An interface as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Name.
    pub name: String,
    /// Link-layer address.
    pub mac: Option<Mac>,
    /// Largest IP packet.
    pub mtu_bytes: u32,
    /// Administratively up.
    pub up: bool,
}

/// A pod's side of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// The interface, found by its name or else by its link-layer address.
    pub device: Option<Device>,
    /// Its addresses, but for link-local ones.
    pub addresses: BTreeSet<IpNet>,
    /// Gateways of its default routes.
    pub gateways: BTreeSet<IpAddr>,
}

/// What is there of an instance. What does not matter to it is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// Whether programs and maps are there.
    pub loaded: bool,
    /// Interfaces of the host, by index.
    pub devices: BTreeMap<u32, Device>,
    /// Addresses of gateway devices, but for link-local ones, by index.
    pub addresses: BTreeMap<u32, BTreeSet<IpNet>>,
    /// Families that gateway devices do not forward, by network.
    pub not_forwarding: BTreeSet<(u32, &'static str)>,
    /// Namespaces of pods, by pod; none where there is none of that name.
    pub namespaces: BTreeMap<u64, NetnsId>,
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
}

impl Present {
    /// What should be there by these rows of the instance of this name: those that are live, and done with changing.
    pub fn wanted(instance: &str, all: &State) -> Self {
        let mut wanted = Self { loaded: true, ..Self::default() };
        let Some(row) = all.instance.as_ref().filter(|r| r.phase.is_live()) else { return Self::default() };
        wanted.reserved = row.reserved_ports.clone();
        wanted.uplinks = row.uplinks.iter().map(|u| (u.name.clone(), u.ifindex)).collect();
        let ready = |phase| phase == Phase::Ready;
        for network in all.networks.iter().filter(|r| ready(r.phase)) {
            let Ok(id) = u16::try_from(network.id) else { continue };
            let index = gateway_ifindex(id);
            let mac = Some(gateway_mac(instance, id));
            let device = Device { name: gateway_ifname(id), mac, mtu_bytes: network.mtu_bytes, up: true };
            wanted.devices.insert(index, device);
            wanted.addresses.insert(index, gateway_addresses(network));
            wanted.attached.insert((Hook::FromHost.as_str(), index));
        }
        for row in all.attachments.iter().filter(|r| ready(r.phase)) {
            let Some(network) = all.network(row.network) else { continue };
            let Ok(id) = u16::try_from(network.id) else { continue };
            let mac = Some(gateway_mac(instance, id));
            let device = Device { name: host_ifname(row.slot), mac, mtu_bytes: network.mtu_bytes, up: true };
            wanted.devices.insert(row.ifindex, device);
            wanted.attached.insert((Hook::FromPod.as_str(), row.ifindex));
            let device =
                Device { name: row.ifname.clone(), mac: Some(row.mac), mtu_bytes: network.mtu_bytes, up: true };
            let (addresses, gateways) = nets(row, network);
            wanted.inside.insert(row.id, Inside { device: Some(device), addresses, gateways });
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

/// An attachment's addresses with their prefix lengths, and the gateways of their families.
fn nets(row: &AttachmentRow, network: &NetworkRow) -> (BTreeSet<IpNet>, BTreeSet<IpAddr>) {
    let mut nets = (BTreeSet::new(), BTreeSet::new());
    for address in row.addresses() {
        let subnet = network.network.subnets.iter().find(|s| same_family(**s, address));
        if let Some((net, subnet)) = subnet.and_then(|s| Some((IpNet::new(address, s.prefix_len()).ok()?, *s))) {
            nets.0.insert(net);
            nets.1.insert(gateway(subnet));
        }
    }
    nets
}
