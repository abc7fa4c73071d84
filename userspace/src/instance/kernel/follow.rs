//! What the data path knows of the host, kept up to date.

use netns_ebpf_common::abi;
use netns_ebpf_common::host::HostConfig;

use super::super::platform::{Note, Object, Op, PlatformError, Tried};
use super::super::specs::id16;
use super::KernelPlatform;
use crate::datapath::DatapathError;
use crate::store::{InstanceRow, NetworkRow, UplinkRow};
use crate::sysctl;
use crate::topology::{Behaviour, Flows};

impl KernelPlatform {
    /// Whether the kernel gives odd ports to those of the host who ask for none, as a setting of the data path.
    pub(super) fn host_takes_odd(&self) -> u32 {
        let ports = self.host.netns().run(sysctl::local_ports).ok().and_then(Result::ok);
        let first = ports.and_then(|ports| ports.ranges().next().map(|range| *range.start()));
        if first.is_some_and(|port| port & 1 == 1) { HostConfig::HOST_TAKES_ODD } else { 0 }
    }

    /// Gives the data path the ports, timers and limits of the row.
    fn sync_settings(&self, instance: &InstanceRow) -> Result<(), PlatformError> {
        let fail = |e: DatapathError| PlatformError::new(Op::Change, Object::Datapath, e);
        let found = self.host.datapath().host_config().map_err(fail)?;
        let wanted = with_settings(found, instance);
        if wanted == found {
            return Ok(());
        }
        self.host.datapath().set_host_config(&wanted).map_err(fail)
    }

    /// Brings what the programs know of an uplink up to date; its name and index, the former ones while it is away.
    ///
    /// It is told by its index: whoever has it called otherwise has not taken it away.
    fn refresh_uplink(&self, uplink: &UplinkRow) -> Result<UplinkRow, PlatformError> {
        let UplinkRow { name, ifindex } = uplink;
        let of = || Object::Uplink(name.clone());
        let renamed = self.host.netlink().link_by_index(*ifindex).tried(Op::Read, of())?.filter(|l| l.name != *name);
        if let Some(link) = renamed {
            tracing::info!("uplink {name:?} is called {:?} now", link.name);
            let state = self.host.wire_uplink(&link.name).tried(Op::Make, of())?;
            return Ok(UplinkRow { name: state.ifname, ifindex: state.ifindex });
        }
        let present = self.host.netlink().link_by_name(name);
        if present.tried(Op::Read, of())?.is_none() {
            tracing::warn!("uplink {name:?} is gone: no pod reaches the LAN by it until it is back");
            self.host.unwire_uplink(*ifindex).tried(Op::Remove, of())?;
            return Ok(uplink.clone());
        }
        let state = self.host.wire_uplink(name);
        let state = state.tried(Op::Make, of())?;
        if state.ifindex != *ifindex {
            self.host.unwire_uplink(*ifindex).tried(Op::Remove, of())?;
        }
        Ok(UplinkRow { name: state.ifname, ifindex: state.ifindex })
    }

    /// Makes the uplinks those of the row: new ones are there before others go.
    fn sync_uplinks(&self, instance: &InstanceRow) -> Result<Vec<UplinkRow>, PlatformError> {
        let mut uplinks = instance.uplinks.clone();
        for uplink in &mut uplinks {
            *uplink = self.refresh_uplink(uplink)?;
        }
        let fail = |e| PlatformError::new(Op::Remove, Object::Host, e);
        for (index, _) in self.host.datapath().uplinks().tried(Op::Read, Object::Datapath)? {
            if !uplinks.iter().any(|u| u.ifindex == index) {
                self.host.unwire_uplink(index).map_err(fail)?;
            }
        }
        Ok(uplinks)
    }

    /// Adds the interfaces of the host's default routes to the uplinks, which the next look at the host wires. One that is known by
    /// another name goes on by its present one, and one that is gone is forgotten.
    pub(super) fn take_on_uplinks(&self, instance: &InstanceRow, note: Note<'_>) -> Result<(), PlatformError> {
        let links = self.host.netlink().links().tried(Op::Read, Object::Host)?;
        let found = self.led_by_default(&links)?;
        let is_there = |u: &UplinkRow| links.iter().any(|l| l.name == u.name);
        let mut uplinks: Vec<_> = instance.uplinks.iter().filter(|u| is_there(u)).cloned().collect();
        for (name, ifindex) in found {
            if !uplinks.iter().any(|u| u.name == name) && uplinks.len() < abi::MAX_UPLINKS as usize {
                uplinks.push(UplinkRow { name, ifindex });
            }
        }
        note(InstanceRow { uplinks, ..instance.clone() }.into()).tried(Op::Mend, Object::Host)
    }

    /// Brings ports, timers and uplinks to what the row says. Flows of what went end with the next look at the host.
    pub(super) fn change_instance(&self, instance: &InstanceRow) -> Result<(), PlatformError> {
        self.sync_settings(instance)?;
        self.sync_uplinks(instance).map(drop)
    }

    pub(super) fn refresh_host(&self, instance: &InstanceRow) -> Result<Vec<UplinkRow>, PlatformError> {
        self.sync_settings(instance)?;
        let stale = |e: DatapathError| PlatformError::new(Op::Remove, Object::Flows, e);
        let before = self.host.datapath().uplinks().map_err(stale)?;
        let went = self.host.sync_host_addresses();
        let went = went.tried(Op::Read, Object::Host)?;
        let uplinks = self.sync_uplinks(instance)?;
        // A program that runs now may still make a flow of what was before. Where something went, that is seen to with the flows.
        if !went && self.host.datapath().uplinks().map_err(stale)? != before {
            self.host.datapath().wait_for_programs().map_err(stale)?;
        }
        let ended = self.host.datapath().end_stale_flows().map_err(stale)?;
        if ended > 0 {
            tracing::debug!("ended {ended} flow entries of former addresses");
        }
        let rerouted = self.host.end_rerouted_flows();
        rerouted.tried(Op::Remove, Object::Flows)?;
        Ok(uplinks)
    }

    /// Brings what the data path knows of all networks' source NAT up to date: the addresses the host has at present, and whether
    /// there are mappings. Their gateway devices forward, whatever somebody did to the host's own setting.
    pub(super) fn refresh_networks(&self, networks: &[NetworkRow]) -> Result<(), PlatformError> {
        let some = networks.iter().any(|n| n.network.mapping == Behaviour::EndpointIndependent);
        self.host.datapath().set_mappings(some).tried(Op::Change, Object::Datapath)?;
        let pools: Vec<_> = networks.iter().map(|n| (id16(n.id), n.network.snat_address.as_slice())).collect();
        self.host.sync_snat_pools(&pools).tried(Op::Change, Object::Datapath)?;
        let ids: Vec<_> = networks.iter().map(|n| id16(n.id)).collect();
        self.host.keep_forwarding(&ids).tried(Op::Change, Object::Host)
    }
}

/// Settings with those of `[host]` and `[nat]`.
pub(super) fn with_settings(config: HostConfig, row: &InstanceRow) -> HostConfig {
    let InstanceRow { host, nat, .. } = row;
    HostConfig {
        snat_port_min: host.snat_ports.start(),
        snat_port_max: host.snat_ports.end(),
        timeout_ns: nat.timeouts.by_class(),
        flows: nat.flows.get(),
        flows_per_pod: nat.flows_per_pod.map_or(0, Flows::get),
        ..config
    }
}
