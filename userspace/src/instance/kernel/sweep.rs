//! Taking an instance down without its store: by what can be recognised as its own.

use netns_ebpf_common::abi;

use super::super::platform::{Object, Op, PlatformError, Tried};
use super::KernelPlatform;
use crate::netlink::Netlink;
use crate::netns::{Netns, NetnsId, NetnsName, delete_named_if, list_named};
use crate::sysctl::PortSet;
use crate::wiring::{gateway_ifindex, pod_mac};

/// Devices of an instance in its host namespace.
#[derive(Debug, Default)]
struct Devices {
    /// Slots whose host end is there.
    slots: Vec<u32>,
    /// Index and name of each.
    links: Vec<(u32, String)>,
}

impl KernelPlatform {
    /// Removes devices by index, name and MAC, namespaces by the MAC of their interface, pins by their directory, reserved ports by
    /// the settings map; returns the pods. `None`: there was nothing of all that.
    pub(super) fn sweep_recognised(&self) -> Result<Option<Vec<String>>, PlatformError> {
        let devices = if self.host_is_gone { Devices::default() } else { self.devices()? };
        if devices.links.is_empty() && !self.dirs.pins().exists() {
            return Ok(None);
        }
        let pods = self.pods_behind(&devices.slots)?;
        let ports = self.recorded_ports();
        for (index, name) in devices.links {
            self.host.netlink().delete_link(index, &name).tried(Op::Remove, Object::Host)?;
        }
        for (name, id) in &pods {
            delete_named_if(name, |found| found.map(Netns::id) == Some(*id)).tried(Op::Remove, Object::Host)?;
        }
        self.unload()?;
        if let Some(ports) = ports.filter(|_| !self.host_is_gone) {
            self.release_ports(&ports)?;
        }
        Ok(Some(pods.into_iter().map(|(name, _)| name.to_string()).collect()))
    }

    fn devices(&self) -> Result<Devices, PlatformError> {
        let links = self.host.netlink().links().tried(Op::Read, Object::Host)?;
        let mut devices = Devices::default();
        for link in links {
            let slot = link.index.wrapping_sub(abi::IFINDEX_ENDPOINT);
            let network = u16::try_from(link.index.wrapping_sub(abi::IFINDEX_GATEWAY)).unwrap_or(0);
            let is_pods = slot < abi::MAX_ENDPOINTS && self.host.is_ours(&link);
            let is_gateway = network > 0 && link.index == gateway_ifindex(network) && self.host.is_ours(&link);
            if is_pods {
                devices.slots.push(slot);
            }
            if is_pods || is_gateway {
                devices.links.push((link.index, link.name));
            }
        }
        Ok(devices)
    }

    /// The named namespaces whose interface is the other end of one of these slots.
    fn pods_behind(&self, slots: &[u32]) -> Result<Vec<(NetnsName, NetnsId)>, PlatformError> {
        let mut found = Vec::new();
        for name in list_named().tried(Op::Read, Object::Host)? {
            // Somebody's half-made or already deleted one: none of ours, which were complete.
            let Ok(netns) = Netns::open_named(&name) else { continue };
            let inside = Netlink::in_netns(&netns).tried(Op::Read, Object::Host)?;
            let links = inside.links().tried(Op::Read, Object::Host)?;
            // A device we made has this address, whatever it is called.
            let is_ours = |mac| slots.iter().any(|slot| mac == pod_mac(self.dirs.name(), *slot));
            if links.iter().any(|l| l.kind.as_deref() == Some("veth") && l.mac.is_some_and(is_ours)) {
                found.push((name, netns.id()));
            }
        }
        Ok(found)
    }

    /// The range SNAT was told to use and the ports that are published; what part of them was reserved before us is not
    /// known any more.
    fn recorded_ports(&self) -> Option<PortSet> {
        let datapath = self.host.datapath();
        let config = datapath.host_config().ok()?;
        let snat = (config.snat_port_min > 0).then(|| (config.snat_port_min..=config.snat_port_max).into())?;
        let published = datapath.published_ports().unwrap_or_default();
        Some(published.into_iter().fold(snat, |all: PortSet, port| all.union(&(port..=port).into())))
    }
}
