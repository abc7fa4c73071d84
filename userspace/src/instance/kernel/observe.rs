//! What is there of an instance, asked of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netns_ebpf_common::counters::Hook;

use super::super::difference::{Device, Inside, Present};
use super::super::platform::{Cause, Object, Op, PlatformError, Tried};
use super::super::specs::id16;
use super::{KernelPlatform, is_pods, open_pod};
use crate::datapath::{Datapath, cgroup_root};
use crate::netlink::{Link, Netlink};
use crate::netns::{Netns, NetnsError, NetnsId};
use crate::store::{AttachmentRow, PodRow, State};

impl KernelPlatform {
    pub(super) fn look(&self, all: &State) -> Result<Present, PlatformError> {
        let loaded = match Datapath::open(self.dirs.pins()) {
            Err(e) if e.is_not_loaded() => false,
            // That of another version is not gone: it works, and is not ours to replace in passing.
            opened => opened.map(|_| true).tried(Op::Open, Object::Datapath)?,
        };
        let mut present = Present { loaded, ..Present::default() };
        if all.instance.is_none() || !present.loaded {
            return Ok(present);
        }
        let links = self.host.netlink().links().tried(Op::Read, Object::Host)?;
        present.devices = links.iter().map(|link| (link.index, device(link))).collect();
        let uplinks = all.instance.iter().flat_map(|row| &row.uplinks);
        let index = |name: &str| links.iter().find(|l| l.name == name).map(|l| l.index);
        present.uplinks = uplinks.filter_map(|u| Some((u.name.clone(), index(&u.name)?))).collect();
        present.reserved = self.read_ports()?.reserved;
        for address in self.host.netlink().addresses(None).tried(Op::Read, Object::Host)? {
            if !is_link_local(address.addr()) {
                present.addresses.entry(address.index).or_default().insert(address.net);
            }
        }
        for network in &all.networks {
            let families = self.host.not_forwarding(id16(network.id)).tried(Op::Read, Object::Host)?;
            present.not_forwarding.extend(families.into_iter().map(|family| (network.id, family)));
        }
        self.look_at_programs(&links, &mut present)?;
        for pod in &all.pods {
            self.look_into(pod, all, &mut present)?;
        }
        Ok(present)
    }

    fn look_at_programs(&self, links: &[Link], present: &mut Present) -> Result<(), PlatformError> {
        let datapath = self.host.datapath();
        for hook in Hook::ALL {
            let interfaces = links.iter().map(|l| (l.index, l.name.as_str()));
            let found = self.host.netns().run(|| datapath.attached_to(hook, interfaces));
            let found = found.tried(Op::Read, Object::Datapath)?.tried(Op::Read, Object::Datapath)?;
            present.attached.extend(found.into_iter().map(|index| (hook.as_str(), index)));
        }
        if datapath.has_socket_hooks() {
            let root = cgroup_root().tried(Op::Read, Object::Datapath)?;
            present.socket_hooks_off = datapath.socket_hooks_off(&root).tried(Op::Read, Object::Datapath)?;
        }
        Ok(())
    }

    /// A pod's namespace and what is in it. One that is not the pod's is only told apart, never entered.
    fn look_into(&self, pod: &PodRow, all: &State, present: &mut Present) -> Result<(), PlatformError> {
        let failed = |source: Cause| PlatformError::new(Op::Read, Object::of(&pod.clone().into(), all), source);
        let netns = match open_pod(&PodRow { netns: None, cookie: None, ..pod.clone() }) {
            Ok(netns) => netns,
            Err(e) if e.is_absent() => return Ok(()),
            // A file that stands for none, as an unmounted name is.
            Err(NetnsError::NotNetns { .. }) => return Ok(()),
            Err(e) => return Err(failed(e.into())),
        };
        // The kernel has given the number of one that is gone to another.
        let number_again = pod.netns == Some(netns.id()) && !is_pods(pod, &netns);
        let id = if number_again { NetnsId { ino: 0, ..netns.id() } } else { netns.id() };
        present.namespaces.insert(pod.id, id);
        if pod.netns.is_some_and(|id| id != netns.id()) {
            return Ok(());
        }
        let rows: Vec<&AttachmentRow> = all.attachments_of(pod.id).collect();
        let inside = look_inside(&netns, &rows).map_err(failed)?;
        present.inside.extend(inside);
        Ok(())
    }
}

fn look_inside(netns: &Netns, rows: &[&AttachmentRow]) -> Result<BTreeMap<u64, Inside>, Cause> {
    let netlink = Netlink::in_netns(netns)?;
    let (links, addresses, routes) = (netlink.links()?, netlink.addresses(None)?, netlink.routes()?);
    let mut found = BTreeMap::new();
    for row in rows {
        let by_name = links.iter().find(|l| l.name == row.ifname);
        let link = by_name.or_else(|| links.iter().find(|l| l.mac == Some(row.mac)));
        let of = |index: u32| link.is_some_and(|l| l.index == index);
        let addresses = addresses.iter().filter(|a| of(a.index) && !is_link_local(a.addr()));
        let defaults = routes.iter().filter(|r| r.is_default() && r.oif.is_some_and(of));
        let inside = Inside {
            device: link.map(device),
            addresses: addresses.map(|a| a.net).collect(),
            gateways: defaults.filter_map(|r| r.gateway).collect::<BTreeSet<_>>(),
        };
        found.insert(row.id, inside);
    }
    Ok(found)
}

fn device(link: &Link) -> Device {
    Device { name: link.name.clone(), mac: link.mac, mtu_bytes: link.mtu_bytes, up: link.up }
}

const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}
