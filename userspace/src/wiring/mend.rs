//! Devices of ours that somebody changed, made what they were.

use netns_ebpf_common::Mac;

use super::names::{
    device_group, endpoint_ifindex, gateway_ifindex, gateway_ifname, gateway_mac, host_ifname, is_gateway_mac,
};
use super::{Host, NetworkSpec, PodSpec, WiringError};
use crate::netlink::{Link, Netlink, Request};
use crate::netns::Netns;

/// What a device should be.
struct Wanted<'a> {
    name: &'a str,
    mac: Mac,
    mtu_bytes: u32,
}

/// Where the search for a group of interfaces nobody has begins; the lower ones are administrators'.
const FIRST_GROUP: u32 = 0x6e6e_0000;

impl Host {
    /// Connects a pod again whose cable is there, whatever was done to it, or gone. With `anew`, what is left of the cable is
    /// removed first.
    pub fn mend_pod(
        &self,
        network: &NetworkSpec,
        pod: &PodSpec,
        netns: &Netns,
        ifname: &str,
        mac: Mac,
        anew: bool,
    ) -> Result<(), WiringError> {
        let index = endpoint_ifindex(pod.slot);
        let here = Wanted {
            name: &host_ifname(pod.slot),
            mac: gateway_mac(&self.instance, network.id),
            mtu_bytes: network.mtu_bytes,
        };
        let found = self.netlink.link_by_index(index)?.filter(|link| self.is_ours(link));
        if let Some(link) = &found {
            if anew {
                self.netlink.delete_link(index, &link.name)?;
            } else {
                restore(&self.netlink, link, &here)?;
                let inside = Netlink::in_netns(netns)?;
                let links = inside.links()?;
                let found = links.iter().find(|l| l.name == ifname).or(links.iter().find(|l| l.mac == Some(mac)));
                match found {
                    Some(link) => restore(&inside, link, &Wanted { name: ifname, mac, mtu_bytes: network.mtu_bytes })?,
                    // It was taken elsewhere.
                    None => drop(self.netlink.delete_link(index, here.name)?),
                }
            }
        }
        self.wire_pod_at(network, pod, netns, true)
    }

    /// Makes a network's gateway device what it should be, again.
    pub fn mend_gateway(&self, spec: &NetworkSpec) -> Result<(), WiringError> {
        let (index, name) = (gateway_ifindex(spec.id), gateway_ifname(spec.id));
        let wanted = Wanted { name: &name, mac: gateway_mac(&self.instance, spec.id), mtu_bytes: spec.mtu_bytes };
        if let Some(link) = self.netlink.link_by_index(index)?.filter(|link| self.is_ours(link)) {
            restore(&self.netlink, &link, &wanted)?;
        }
        self.wire_gateway(spec)
    }

    /// Deletes the host's end of a cable, if it is ours by its index and one of its name and link-layer address: somebody
    /// may have changed the other.
    pub fn delete_cable(&self, slot: u32) -> Result<bool, WiringError> {
        let index = endpoint_ifindex(slot);
        match self.netlink.link_by_index(index)?.filter(|link| self.is_ours(link)) {
            Some(link) => Ok(self.netlink.delete_link(index, &link.name)?),
            None => Ok(false),
        }
    }

    /// The same of many cables at once, which takes the kernel no longer than one: in their order, whether each was there.
    pub fn delete_cables(&self, slots: &[u32]) -> Result<Vec<bool>, WiringError> {
        let links = self.netlink.links()?;
        let ours = |slot: &u32| links.iter().find(|l| l.index == endpoint_ifindex(*slot) && self.is_ours(l));
        let found: Vec<Option<&Link>> = slots.iter().map(ours).collect();
        let there: Vec<u32> = found.iter().flatten().map(|link| link.index).collect();
        // Nobody else's: devices get there by what they are, one by one, and go together.
        let Some(group) = (FIRST_GROUP..).find(|group| links.iter().all(|link| link.group != *group)) else {
            return slots.iter().map(|slot| self.delete_cable(*slot)).collect();
        };
        if !there.is_empty() {
            self.netlink
                .request_all(there.iter().map(|index| Request::set_group(*index, group).or_absent()).collect())?;
            self.netlink.request(Request::delete_group(group).or_absent())?;
        }
        Ok(found.into_iter().map(|link| link.is_some()).collect())
    }

    /// The same of a network's gateway device.
    pub fn delete_gateway_device(&self, id: u16) -> Result<bool, WiringError> {
        let index = gateway_ifindex(id);
        match self.netlink.link_by_index(index)?.filter(|link| self.is_ours(link)) {
            Some(link) => Ok(self.netlink.delete_link(index, &link.name)?),
            None => Ok(false),
        }
    }

    /// Whether a veth of one of our indices is ours, by its link-layer address or the group it was made in: somebody may have
    /// changed one of these, and its name, which is nobody's own.
    fn is_ours(&self, link: &Link) -> bool {
        link.kind.as_deref() == Some("veth")
            && (link.group == device_group(&self.instance)
                || link.mac.is_some_and(|mac| is_gateway_mac(&self.instance, mac)))
    }
}

/// Gives a device its name, address and MTU back. What else it had may be lost by that: it is set up again later.
fn restore(netlink: &Netlink, link: &Link, wanted: &Wanted<'_>) -> Result<(), WiringError> {
    if link.name != wanted.name && netlink.request(Request::rename(link.index, wanted.name)).is_err() {
        // Kernels differ in whether a device that is up may change its name.
        netlink.request(Request::set_up(link.index, false))?;
        netlink.request(Request::rename(link.index, wanted.name))?;
    }
    if link.mac != Some(wanted.mac) {
        netlink.request(Request::set_mac(link.index, wanted.mac))?;
    }
    if link.mtu_bytes != wanted.mtu_bytes {
        netlink.request(Request::set_mtu(link.index, wanted.mtu_bytes))?;
    }
    Ok(())
}
