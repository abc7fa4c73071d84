//! Numbers and addresses for what a plan makes.

use std::collections::HashSet;
use std::net::IpAddr;

use netns_ebpf_common::abi;

use super::rows::{NextId, Plan};
use crate::instance::InstanceError;
use crate::ipam;
use crate::store::{
    AttachmentRow, BackendRow, NetworkRow, Origin, Phase, PodRow, PublishRow, Source, State, Withdrawal,
};
use crate::topology::{self, Backend, HostFacts, InputError, Network, Pod, Problem, SharedPublish, Topology};
use crate::wiring::{POD_IFNAME, endpoint_ifindex, gateway_ifname, gateway_peer_ifname, host_ifname, pod_mac};

/// Numbers and addresses that are still free.
pub(super) struct Grants<'a> {
    networks: Vec<NetworkRow>,
    ids: HashSet<u32>,
    slots: HashSet<u32>,
    indexes: HashSet<u32>,
    ifindexes: HashSet<u32>,
    ifnames: HashSet<&'a str>,
    addresses: HashSet<(u32, IpAddr)>,
    facts: &'a HostFacts,
    instance: &'a str,
}

impl<'a> Grants<'a> {
    pub(super) fn new(instance: &'a str, state: &State, facts: &'a HostFacts, plan: &Plan) -> Self {
        let staying = |a: &&AttachmentRow| !plan.remove_pods.contains(&a.pod);
        let addresses = state.attachments.iter().filter(staying);
        Self {
            networks: state.networks.iter().filter(|n| !plan.remove_networks.contains(&n.id)).cloned().collect(),
            ids: state.networks.iter().map(|n| n.id).collect(),
            slots: state.attachments.iter().map(|a| a.slot).collect(),
            indexes: state.publishes.iter().map(|q| q.index).collect(),
            ifindexes: facts.interfaces.iter().map(|i| i.index).collect(),
            ifnames: facts.interfaces.iter().map(|i| i.name.as_str()).collect(),
            addresses: addresses.flat_map(|row| row.addresses().map(|a| (row.network, a))).collect(),
            facts,
            instance,
        }
    }

    /// The lowest number that is free and, where it stands for an interface's index and name, taken by no interface.
    fn lowest(used: &mut HashSet<u32>, taken: impl Fn(u32) -> bool, from: u32, limit: u32) -> Result<u32, Problem> {
        let free = (from..limit).find(|n| !used.contains(n) && !taken(*n)).ok_or(Problem::TooMany(limit - from))?;
        used.insert(free);
        Ok(free)
    }

    pub(super) fn network(&mut self, network: &Network, host_mtu: u32) -> Result<NetworkRow, Problem> {
        let taken = |id| {
            let names =
                u16::try_from(id).map_or_else(|_| Vec::new(), |id| vec![gateway_ifname(id), gateway_peer_ifname(id)]);
            self.ifindexes.contains(&(abi::IFINDEX_GATEWAY + id))
                || names.iter().any(|name| self.ifnames.contains(name.as_str()))
        };
        let id = Self::lowest(&mut self.ids, taken, 1, abi::MAX_NETWORKS)?;
        let overlaps = |other: &NetworkRow| {
            let pairs = network.subnets.iter().flat_map(|a| other.network.subnets.iter().map(move |b| (a, b)));
            pairs.into_iter().any(|(a, b)| a.contains(b) || b.contains(a))
        };
        let row = NetworkRow {
            id,
            network: network.clone(),
            mtu_bytes: network.mtu.unwrap_or(host_mtu),
            // Of two networks with the same addresses the host can have routes to one: the earlier.
            host_access: !self.networks.iter().any(overlaps),
            last4: None,
            last6: None,
            origin: Origin::File,
            phase: Phase::Creating,
        };
        self.networks.push(row.clone());
        Ok(row)
    }

    /// Rows of the pods that are not there yet and of publishes that are not, with their addresses.
    pub(super) fn pods(
        &mut self,
        state: &State,
        wanted: &Topology,
        origin: Origin,
        plan: &mut Plan,
        next_id: NextId<'_>,
        error: &dyn Fn(InputError) -> InstanceError,
    ) -> Result<(), InstanceError> {
        // Addresses that are asked for come before those that are chosen.
        for pod in &wanted.pods {
            let network = self.networks.iter().find(|n| n.network.name == pod.network).map_or(0, |n| n.id);
            self.addresses.extend(pod.address.iter().map(|a| (network, *a)));
        }
        for (i, pod) in wanted.pods.iter().enumerate() {
            if state.pod(&pod.name).is_some() {
                continue;
            }
            let field = |f: &str| format!("pod[{i}].{f}");
            let taken = |slot| {
                self.ifindexes.contains(&endpoint_ifindex(slot)) || self.ifnames.contains(host_ifname(slot).as_str())
            };
            let slot = Self::lowest(&mut self.slots, taken, 0, abi::MAX_ENDPOINTS)
                .map_err(|p| error(InputError::new(field("name"), &pod.name, p)))?;
            let row = PodRow {
                id: next_id()?,
                name: pod.name.clone(),
                netns: None,
                cookie: None,
                source: Source::Made,
                origin,
                phase: Phase::Creating,
            };
            let attachment = self.attachment(pod, row.id, next_id()?, slot, origin);
            plan.attachments.push(attachment.map_err(|p| error(InputError::new(field("address"), "", p)))?);
            plan.pods.push(row);
        }
        self.publishes(state, wanted, origin, plan, next_id, error)?;
        let moved = self.networks.iter().filter(|n| state.network(n.id).is_some_and(|old| old != *n));
        plan.touched = moved.cloned().collect();
        for row in &mut plan.networks {
            if let Some(moved) = self.networks.iter().find(|n| n.id == row.id) {
                row.clone_from(moved);
            }
        }
        Ok(())
    }

    fn attachment(&mut self, pod: &Pod, of: u64, id: u64, slot: u32, origin: Origin) -> Result<AttachmentRow, Problem> {
        let Some(network) = self.networks.iter_mut().find(|n| n.network.name == pod.network) else {
            return Err(Problem::UnknownNetwork("declare it first".to_owned()));
        };
        let mut row = AttachmentRow {
            id,
            pod: of,
            network: network.id,
            slot,
            ifname: POD_IFNAME.to_owned(),
            mac: pod_mac(self.instance, slot),
            ifindex: endpoint_ifindex(slot),
            addr4: None,
            addr6: None,
            origin,
            phase: Phase::Creating,
        };
        for subnet in network.network.subnets.clone() {
            let asked = pod.address.iter().find(|a| topology::same_family(subnet, **a)).copied();
            let address = match asked {
                Some(address) => address,
                None => {
                    let last = match subnet {
                        ipnet::IpNet::V4(_) => network.last4.map(IpAddr::V4),
                        ipnet::IpNet::V6(_) => network.last6.map(IpAddr::V6),
                    };
                    let is_taken = |a| self.addresses.contains(&(network.id, a)) || self.facts.holder(a).is_some();
                    let address = ipam::next_free(subnet, last, is_taken)
                        .ok_or_else(|| Problem::Exhausted(subnet.to_string()))?;
                    network.handed_out(address);
                    address
                }
            };
            self.addresses.insert((network.id, address));
            match address {
                IpAddr::V4(a) => row.addr4 = Some(a),
                IpAddr::V6(a) => row.addr6 = Some(a),
            }
        }
        Ok(row)
    }

    /// Rows of the publishes that are not there yet; those that are stay, whatever they lead to.
    pub(super) fn publishes(
        &mut self,
        state: &State,
        wanted: &Topology,
        origin: Origin,
        plan: &mut Plan,
        next_id: NextId<'_>,
        error: &dyn Fn(InputError) -> InstanceError,
    ) -> Result<(), InstanceError> {
        for declared in wanted.declared() {
            let SharedPublish { port, backends, affinity, allow } = declared.publish;
            if state.publishes.iter().any(|q| q.publish == port && !plan.remove_publishes.contains(&q.id)) {
                continue;
            }
            let located = |p| error(InputError::new(&declared.field, port, p));
            let index = Self::lowest(&mut self.indexes, |_| false, 0, abi::MAX_PUBLISHES).map_err(located)?;
            let backend = |b: &Backend| {
                let attachment = plan.attachment(state, &b.pod)?;
                Some(BackendRow { attachment, weight: b.weight, draining: false })
            };
            let backends = backends.iter().filter_map(backend).collect();
            plan.publishes.push(PublishRow {
                id: next_id()?,
                index,
                publish: port,
                backends,
                affinity,
                allow,
                draining: false,
                withdrawal: Withdrawal::RunOn,
                origin,
                phase: Phase::Creating,
            });
        }
        Ok(())
    }
}
