//! Taking an instance down without its store: by what can be recognised as its own.

use netns_ebpf_common::abi;

use super::{Applied, Fabric, FabricError, Instance, InstanceError, KernelFabric};
use crate::netlink::{Netlink, NetlinkError};
use crate::netns::{Netns, NetnsName, delete_named, list_named};
use crate::store::StoreError;
use crate::sysctl::PortSet;
use crate::wiring::{POD_IFNAME, gateway_ifindex, gateway_ifname, gateway_mac, host_ifname, is_gateway_mac, pod_mac};

/// Devices of an instance in its host namespace.
#[derive(Debug, Default)]
struct Devices {
    /// Slots whose host end is there.
    slots: Vec<u32>,
    /// Index and name of each.
    links: Vec<(u32, String)>,
}

impl Instance<KernelFabric> {
    /// [`Instance::down`]; if the store is damaged or another version's, removes what can be recognised: devices by index, name and MAC,
    /// namespaces by the MAC of their interface, pins by their directory, reserved ports by the settings map.
    ///
    /// The calling thread must be in the instance's host namespace.
    ///
    /// # Errors
    ///
    /// As [`Instance::down`]; what had been removed by then stays removed.
    pub fn down_force(&mut self) -> Result<Applied, InstanceError> {
        match self.down() {
            Err(InstanceError::Store(e @ (StoreError::Damaged { .. } | StoreError::Version { .. }))) => {
                tracing::warn!("{e}: removing what can be recognised");
                self.sweep()
            }
            done => done,
        }
    }

    fn sweep(&mut self) -> Result<Applied, InstanceError> {
        let mut applied = Applied { instance: self.dirs.name().to_owned(), ..Applied::default() };
        let Some(lock) = self.dirs.lock(false)? else { return Ok(applied) };
        applied.changed = true;
        let devices = self.devices()?;
        applied.pods_removed = self.pods_behind(&devices.slots)?.iter().map(ToString::to_string).collect();
        let ports = self.reserved_ports();
        for (index, name) in devices.links {
            let gone = self.fabric.host().netlink().delete_link(index, &name);
            gone.map_err(|e| step(format!("delete interface {name:?}"), e))?;
        }
        for name in &applied.pods_removed {
            let name = NetnsName::new(name).map_err(|e| FabricError::step("read a name", e))?;
            match delete_named(&name) {
                Err(e) if !e.is_absent() => {
                    return Err(FabricError::step(format!("delete network namespace {name:?}"), e).into());
                }
                _ => {}
            }
        }
        self.fabric.unload()?;
        if let Some(ports) = ports {
            let given_back = self.fabric.host().release_ports(&ports);
            given_back.map_err(|e| FabricError::step("give reserved ports back", e))?;
        }
        self.dirs.remove_state(&lock)?;
        Ok(applied)
    }

    fn devices(&self) -> Result<Devices, FabricError> {
        let instance = self.dirs.name();
        let links = self.fabric.host().netlink().links().map_err(|e| step("list interfaces", e))?;
        let mut devices = Devices::default();
        for link in links {
            let slot = link.index.wrapping_sub(abi::IFINDEX_ENDPOINT);
            let network = u16::try_from(link.index.wrapping_sub(abi::IFINDEX_GATEWAY)).unwrap_or(0);
            let is_pods = slot < abi::MAX_ENDPOINTS
                && link.name == host_ifname(slot)
                && link.mac.is_some_and(|mac| is_gateway_mac(instance, mac));
            let is_gateway = link.index == gateway_ifindex(network)
                && link.name == gateway_ifname(network)
                && link.mac == Some(gateway_mac(instance, network));
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
    fn pods_behind(&self, slots: &[u32]) -> Result<Vec<NetnsName>, FabricError> {
        let mut found = Vec::new();
        for name in list_named().map_err(|e| FabricError::step("list network namespaces", e))? {
            // Somebody's half-made or already deleted one: none of ours, which were complete.
            let Ok(netns) = Netns::open_named(&name) else { continue };
            let inside = Netlink::in_netns(&netns).map_err(|e| step(format!("look into {name:?}"), e))?;
            let eth = inside.link_by_name(POD_IFNAME).map_err(|e| step(format!("look into {name:?}"), e))?;
            let is_ours = |mac| slots.iter().any(|slot| mac == pod_mac(self.dirs.name(), *slot));
            if eth.and_then(|l| l.mac).is_some_and(is_ours) {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// The range SNAT was told to use and the ports that are published; what part of them was reserved before us is not
    /// known any more.
    fn reserved_ports(&self) -> Option<PortSet> {
        let datapath = self.fabric.host().datapath();
        let config = datapath.host_config().ok()?;
        let snat = (config.snat_port_min > 0).then(|| (config.snat_port_min..=config.snat_port_max).into())?;
        let published = datapath.published_ports().unwrap_or_default();
        Some(published.into_iter().fold(snat, |all: PortSet, port| all.union(&(port..=port).into())))
    }
}

fn step(what: impl Into<String>, error: NetlinkError) -> FabricError {
    FabricError::step(what, error)
}
