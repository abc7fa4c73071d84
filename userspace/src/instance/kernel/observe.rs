//! What is there of an instance, asked of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netns_ebpf_common::counters::Hook;

use super::super::difference::{Device, Inside, Led, Present, Way};
use super::super::platform::{Cause, Object, Op, PlatformError, Tried};
use super::super::specs::{id16, network_spec_of};
use super::mend::Nameless;
use super::{KernelPlatform, is_pods, open_pod, pod_spec};
use crate::datapath::{Datapath, cgroup_root};
use crate::netlink::{Family, Link, Netlink};
use crate::netns::{Netns, NetnsError, NetnsId};
use crate::store::{AttachmentRow, PodRow, State};
use crate::topology::Uplink;
use crate::wiring::{gateway_ifindex, own_table, unfit, whose};

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
        present.pins_gone = self.host.datapath().pins_gone().tried(Op::Read, Object::Datapath)?;
        if !present.pins_gone.is_empty() {
            return Ok(present);
        }
        let links = self.host.netlink().links().tried(Op::Read, Object::Host)?;
        let ours = |link: &Link| device(link, self.host.is_ours(link));
        present.devices = links.iter().map(|link| (link.index, ours(link))).collect();
        let uplinks = all.instance.iter().flat_map(|row| &row.uplinks);
        let index = |name: &str| links.iter().find(|l| l.name == name).map(|l| l.index);
        present.uplinks = uplinks.filter_map(|u| Some((u.name.clone(), index(&u.name)?))).collect();
        if all.instance.as_ref().is_some_and(|row| row.host.uplink == Uplink::Auto) {
            present.default_uplinks = Some(self.led_by_default(&links)?);
        }
        present.reserved = self.read_ports()?.reserved;
        for address in self.host.netlink().addresses(None).tried(Op::Read, Object::Host)? {
            if !is_link_local(address.addr()) {
                present.addresses.entry(address.index).or_default().insert(address.net);
            }
        }
        for index in all.networks.iter().map(|n| gateway_ifindex(id16(n.id))) {
            let here = links.iter().find(|link| link.index == index && self.host.is_ours(link));
            let end = here.and_then(|here| self.host.gateways_end(here, &links));
            present.peers.extend(end.map(|end| (index, ours(end))));
        }
        for address in Present::wanted(self.dirs.name(), all).led.into_keys() {
            let route = self.host.netlink().route_to(address).tried(Op::Read, Object::Host)?;
            let led = route.and_then(|r| Some(Led { destination: r.destination, index: r.oif? }));
            present.led.extend(led.map(|led| (address, led)));
        }
        self.look_at_programs(&links, &mut present)?;
        let nameless = Nameless::default();
        for pod in &all.pods {
            self.look_into(pod, all, (&links, &nameless), &mut present)?;
        }
        Ok(present)
    }

    /// The interfaces the host's best default routes lead to, those that can be uplinks. Asked of the kernel, which knows them without
    /// a look at all routes.
    pub(super) fn led_by_default(&self, links: &[Link]) -> Result<BTreeMap<String, u32>, PlatformError> {
        let mut found = BTreeMap::new();
        for family in Family::ALL {
            let route = self.host.netlink().best_default(family).tried(Op::Read, Object::Host)?;
            let indexes = route.into_iter().flat_map(|r| r.oif.into_iter().chain(r.more_oifs));
            let links = indexes.filter_map(|index| links.iter().find(|l| l.index == index));
            found.extend(links.filter(|l| unfit(l).is_none()).map(|l| (l.name.clone(), l.index)));
        }
        Ok(found)
    }

    fn look_at_programs(&self, links: &[Link], present: &mut Present) -> Result<(), PlatformError> {
        let datapath = self.host.datapath();
        for hook in Hook::ALL {
            let found = self.host.attached_to(hook, links).tried(Op::Read, Object::Datapath)?;
            present.attached.extend(found.into_iter().map(|index| (hook.as_str(), index)));
        }
        if datapath.wants_socket_hooks().tried(Op::Read, Object::Datapath)?
            // Without its mount nobody can tell, and they go on.
            && let Ok(root) = cgroup_root()
        {
            present.socket_hooks_off = datapath.socket_hooks_off(&root).tried(Op::Read, Object::Datapath)?;
        }
        Ok(())
    }

    /// A pod's namespace and what is in it. One that is not the pod's is only told apart, never entered.
    fn look_into(
        &self,
        pod: &PodRow,
        all: &State,
        (links, nameless): (&[Link], &Nameless),
        present: &mut Present,
    ) -> Result<(), PlatformError> {
        let failed = |source: Cause| PlatformError::new(Op::Read, Object::of(&pod.clone().into(), all), source);
        let netns = match open_pod(&PodRow { netns: None, cookie: None, ..pod.clone() }) {
            Ok(netns) => Some(netns),
            Err(e) if e.is_absent() => None,
            // A file that stands for none, as an unmounted name is.
            Err(NetnsError::NotNetns { .. }) => None,
            Err(e) => return Err(failed(e.into())),
        };
        let netns = match netns {
            Some(netns) => netns,
            None => match nameless.find(pod).map_err(|e| failed(e.into()))? {
                Some(netns) => {
                    present.nameless.insert(pod.id);
                    netns
                }
                None => return Ok(()),
            },
        };
        // The kernel has given the number of one that is gone to another.
        let number_again = pod.netns == Some(netns.id()) && !is_pods(pod, &netns);
        let id = if number_again { NetnsId { ino: 0, ..netns.id() } } else { netns.id() };
        present.namespaces.insert(pod.id, id);
        if pod.netns.is_some_and(|id| id != netns.id()) {
            return Ok(());
        }
        let rows: Vec<&AttachmentRow> = all.attachments_of(pod.id).collect();
        let inside = self.look_inside(&netns, (pod, &rows), all, links).map_err(failed)?;
        present.inside.extend(inside);
        Ok(())
    }

    fn look_inside(
        &self,
        netns: &Netns,
        (pod, rows): (&PodRow, &[&AttachmentRow]),
        all: &State,
        host: &[Link],
    ) -> Result<BTreeMap<u64, Inside>, Cause> {
        let netlink = Netlink::in_netns(netns)?;
        let (links, addresses, routes) = (netlink.links()?, netlink.addresses(None)?, netlink.routes()?);
        // Nobody asks of a pod with one interface.
        let rules = if rows.len() > 1 { netlink.rules()? } else { Vec::new() };
        let mut found = BTreeMap::new();
        for row in rows {
            let here = host.iter().find(|link| link.index == row.ifindex && self.host.is_ours(link));
            let link = here.map(|here| self.host.pods_end(here, netns, &links)).transpose()?.flatten();
            let of = |index: u32| link.is_some_and(|l| l.index == index);
            // What is left of a cable whose other end was taken elsewhere is ours, and in nobody's way.
            let is_other =
                |l: &&Link| l.name == row.ifname && !of(l.index) && (here.is_some() || l.mac != Some(row.mac));
            let addresses = addresses.iter().filter(|a| of(a.index) && !is_link_local(a.addr()));
            let ways = routes.iter().filter(|r| r.oif.is_some_and(of));
            let known = match all.network(row.network) {
                Some(network) => self.host.knows_pod(&network_spec_of(row, network), &pod_spec(row, pod, all)?)?,
                None => false,
            };
            let table = own_table(row.slot);
            let mut own_ways = BTreeSet::new();
            for rule in rules.iter().filter(|rule| rule.table == table) {
                let mut ways = netlink.routes_in(table, Family::of(rule.from), None)?.into_iter();
                if ways.any(|r| r.is_default() && r.oif.is_some_and(of)) {
                    own_ways.insert(rule.from);
                }
            }
            let inside = Inside {
                known,
                own_ways,
                device: link.map(|link| device(link, true)),
                other: links.iter().find(is_other).map(|link| device(link, false)),
                addresses: addresses.map(|a| a.net).collect(),
                routes: ways.map(|r| Way { destination: r.destination, gateway: r.gateway }).collect(),
            };
            found.insert(row.id, inside);
        }
        Ok(found)
    }
}

fn device(link: &Link, ours: bool) -> Device {
    Device {
        name: link.name.clone(),
        ours,
        whose: if ours { String::new() } else { whose(link.kind.as_deref(), link.group) },
        mac: link.mac,
        mtu_bytes: link.mtu_bytes,
        up: link.up,
        noarp: link.noarp,
        master: link.master,
        settings: link.settings.clone(),
    }
}

const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}
