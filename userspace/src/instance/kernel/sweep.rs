//! Taking an instance down without its store: by what can be recognised as its own.

use netns_ebpf_common::abi;

use super::super::platform::{Object, Op, PlatformError, Tried, Wreck};
use super::KernelPlatform;
use crate::netlink::Netlink;
use crate::netns::{Netns, NetnsId, NetnsName, delete_named_if, list_named};
use crate::sysctl::PortSet;
use crate::wiring::{gateway_ifindex, pod_mac};

impl KernelPlatform {
    /// Devices by index and by link-layer address or group, namespaces by the address of an interface.
    pub(super) fn recognised(&self) -> Result<Wreck, PlatformError> {
        if self.host_is_gone {
            return Ok(Wreck::default());
        }
        let (mut links, mut slots) = (Vec::new(), Vec::new());
        for link in self.host.netlink().links().tried(Op::Read, Object::Host)? {
            let slot = link.index.wrapping_sub(abi::IFINDEX_ENDPOINT);
            let network = u16::try_from(link.index.wrapping_sub(abi::IFINDEX_GATEWAY)).unwrap_or(0);
            let is_pods = slot < abi::MAX_ENDPOINTS;
            if !(is_pods || network > 0 && link.index == gateway_ifindex(network)) || !self.host.is_ours(&link) {
                continue;
            }
            slots.extend(is_pods.then_some(slot));
            links.push((link.index, link.name));
        }
        let pods = if slots.is_empty() { Vec::new() } else { self.pods_behind(&slots)? };
        Ok(Wreck { pods, links })
    }

    /// Removes that, pins by their directory, and reserved ports by the settings map; returns the pods. `None`: there was nothing of all that.
    pub(super) fn sweep_recognised(&self) -> Result<Option<Vec<String>>, PlatformError> {
        let Wreck { pods, links } = self.recognised()?;
        if links.is_empty() && !self.dirs.pins().exists() {
            return Ok(None);
        }
        let ports = self.recorded_ports();
        for (index, name) in links {
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
