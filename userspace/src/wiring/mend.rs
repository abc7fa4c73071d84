//! Devices of ours that somebody changed, made what they were.

use netns_ebpf_common::Mac;

use super::device::{in_the_way, is_veth};
use super::names::{
    endpoint_ifindex, gateway_ifindex, gateway_ifname, gateway_mac, gateway_peer_ifname, gateway_peer_mac, host_ifname,
};
use super::pod::nets;
use super::{Host, NetworkSpec, PodSpec, WiringError};
use crate::netlink::{Link, Netlink, Request};
use crate::netns::Netns;

/// What a device should be.
struct Wanted<'a> {
    name: &'a str,
    mac: Mac,
    mtu_bytes: u32,
    noarp: bool,
}

/// Where the search for a group of interfaces nobody has begins; the lower ones are administrators'.
const FIRST_GROUP: u32 = 0x6e6e_0000;

impl Host {
    /// Connects a pod again whose cable is there, whatever was done to it, or gone. With `anew`, what is left of the cable is
    /// removed first.
    ///
    /// # Errors
    ///
    /// [`WiringError::Taken`] when another device has the index or a name of one of the cable's ends: then nothing is changed.
    pub fn mend_pod(&self, network: &NetworkSpec, pod: &PodSpec, netns: &Netns, anew: bool) -> Result<(), WiringError> {
        let (ifname, mac) = (pod.ifname.as_str(), pod.mac);
        let (index, name) = (endpoint_ifindex(pod.slot), host_ifname(pod.slot));
        let inside = Netlink::in_netns(netns)?;
        let links = inside.links()?;
        let here = self.netlink.link_by_index(index)?;
        let there = match &here {
            Some(link) if !self.is_ours(link) => return Err(in_the_way(link, &name)),
            Some(link) => self.pods_end(link, netns, &links)?,
            None => None,
        };
        if here.as_ref().is_none_or(|link| link.name != name) {
            Self::is_free(&self.netlink, &name)?;
        }
        // An end without its other one here: that was taken elsewhere, and goes with it.
        let is_remnant = |l: &&Link| here.is_none() && is_veth(l) && l.mac == Some(mac);
        let remnants: Vec<&Link> = links.iter().filter(is_remnant).collect();
        let is_anothers = |l: &&Link| l.name == ifname && there != Some(*l) && !remnants.contains(l);
        if let Some(other) = links.iter().find(is_anothers) {
            return Err(in_the_way(other, ifname));
        }
        match here.as_ref().zip(there) {
            Some((here, there)) if !anew => {
                let mtu_bytes = network.mtu_bytes;
                let host_mac = gateway_mac(&self.instance, network.id);
                restore(&self.netlink, here, &Wanted { name: &name, mac: host_mac, mtu_bytes, noarp: true })?;
                restore(&inside, there, &Wanted { name: ifname, mac, mtu_bytes, noarp: false })?;
                if here.mac != Some(host_mac) {
                    // What the pod has found out of its gateways is another device's by now.
                    let gateways = nets(network, pod).into_iter().map(|(_, gateway)| gateway);
                    inside.request_all(
                        gateways.map(|a| Request::forget_neighbour(there.index, a).or_absent()).collect(),
                    )?;
                }
            }
            _ => {
                for link in &remnants {
                    inside.delete_link(link.index, &link.name)?;
                }
                if let Some(link) = &here {
                    self.netlink.delete_link(index, &link.name)?;
                }
            }
        }
        self.wire_pod_at(network, pod, netns, true)
    }

    /// Makes a network's gateway device what it should be, again. With `anew`, what is left of it is removed first.
    ///
    /// # Errors
    ///
    /// [`WiringError::Taken`] when another device has its index or a name of one of its ends: then nothing is changed.
    pub fn mend_gateway(&self, spec: &NetworkSpec, anew: bool) -> Result<(), WiringError> {
        let (index, name, peer_name) =
            (gateway_ifindex(spec.id), gateway_ifname(spec.id), gateway_peer_ifname(spec.id));
        let links = self.netlink.links()?;
        let here = links.iter().find(|link| link.index == index);
        if let Some(link) = here.filter(|link| !self.is_ours(link)) {
            return Err(in_the_way(link, &name));
        }
        let there = here.and_then(|link| self.gateways_end(link, &links));
        let remnants: Vec<&Link> =
            links.iter().filter(|link| here.is_none() && self.is_gateways_end(link, spec.id)).collect();
        for wanted in [&name, &peer_name] {
            let is_anothers =
                |l: &&Link| l.name == *wanted && ![here, there].contains(&Some(*l)) && !remnants.contains(l);
            if let Some(other) = links.iter().find(is_anothers) {
                return Err(in_the_way(other, wanted));
            }
        }
        match here.zip(there) {
            Some((here, there)) if !anew => {
                let (mac, mtu_bytes) = (gateway_mac(&self.instance, spec.id), spec.mtu_bytes);
                restore(&self.netlink, here, &Wanted { name: &name, mac, mtu_bytes, noarp: true })?;
                let mac = gateway_peer_mac(&self.instance, spec.id);
                restore(&self.netlink, there, &Wanted { name: &peer_name, mac, mtu_bytes, noarp: true })?;
            }
            _ => {
                for link in here.into_iter().chain(remnants) {
                    self.netlink.delete_link(link.index, &link.name)?;
                }
            }
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
}

/// Gives a device its name, address and MTU back. What else it had may be lost by that: it is set up again later.
fn restore(netlink: &Netlink, link: &Link, wanted: &Wanted<'_>) -> Result<(), WiringError> {
    if link.master.is_some() {
        netlink.request(Request::release(link.index))?;
    }
    if link.noarp != wanted.noarp {
        netlink.request(Request::set_noarp(link.index, wanted.noarp))?;
    }
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
