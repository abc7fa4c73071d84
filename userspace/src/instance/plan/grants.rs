//! Numbers and addresses for what a plan makes.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use netns_ebpf_common::abi;

use super::around::Surroundings;
use super::live::Settings;
use super::rows::{NextId, Plan};
use crate::instance::InstanceError;
use crate::instance::platform::Numbered;
use crate::ipam;
use crate::netns::RUN_DIR;
use crate::store::{
    AttachmentRow, BackendRow, NetworkRow, Origin, Phase, PodRow, PublishRow, Source, State, Withdrawal,
};
use crate::topology::{
    self, Adopt, Attachment, Backend, HostFacts, InputError, Network, Pod, Problem, SharedPublish, Topology,
};
use crate::wiring::{endpoint_ifindex, gateway_ifname, gateway_peer_ifname, host_ifname, pod_mac};

/// What the file says of a live interface: nothing of one that a verb added, or whose pod one did. With its place in the file.
fn declared<'a>(state: &State, row: &AttachmentRow, wanted: &'a Topology) -> Option<(usize, usize, &'a Attachment)> {
    let pod = state.pod_of(row.id).filter(|p| p.origin == Origin::File && row.origin == Origin::File)?;
    let i = wanted.pods.iter().position(|p| p.name == pod.name)?;
    let mut interfaces = wanted.pods[i].interfaces().enumerate();
    interfaces.find(|(_, (ifname, _))| *ifname == row.ifname).map(|(k, (_, attachment))| (i, k, attachment))
}

/// Whether a pod has to be told of it that its network is another: not that there are more addresses behind the gateway.
fn is_felt_inside(before: &NetworkRow, after: &NetworkRow) -> bool {
    let is_known = |old: &ipnet::IpNet| {
        let new = after.network.subnets.iter().find(|new| topology::same_family(**new, old.addr()));
        new.is_some_and(|new| new.contains(old) && topology::gateway(*new) == topology::gateway(*old))
    };
    before.mtu_bytes != after.mtu_bytes || !before.network.subnets.iter().all(is_known)
}

/// The lengths of the prefixes an interface has in its pod, of IPv4 and IPv6.
fn prefix_bits(row: &AttachmentRow, network: &NetworkRow) -> [Option<u8>; 2] {
    let of = |subnet: Option<ipnet::IpNet>, own: Option<u8>| own.or(subnet.map(|s| s.prefix_len()));
    let [four, six] = row.prefix_bits;
    [of(network.network.subnet4().map(Into::into), four), of(network.network.subnet6().map(Into::into), six)]
}

/// Whose namespace a declared pod is.
pub(super) fn source_of(pod: &Pod) -> Source {
    match &pod.adopt {
        None => Source::Made,
        Some(Adopt::Name(name)) if *name == pod.name => Source::Named,
        Some(Adopt::Name(name)) => Source::Path(Path::new(RUN_DIR).join(name)),
        Some(Adopt::Path(path)) => Source::Path(path.clone()),
        Some(Adopt::Pid(pid)) => Source::Pid(*pid),
    }
}

fn pod_row(pod: &Pod, id: u64, origin: Origin) -> PodRow {
    let (name, source) = (pod.name.clone(), source_of(pod));
    PodRow { id, name, netns: None, cookie: None, source, origin, phase: Phase::Creating }
}

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
    rests: &'a dyn Fn(Numbered) -> bool,
    instance: &'a str,
}

impl<'a> Grants<'a> {
    pub(super) fn new(state: &State, host: &'a Surroundings<'_>, plan: &Plan) -> Self {
        let (facts, instance, rests) = (host.facts, host.instance, host.rests);
        let staying = |a: &&AttachmentRow| !plan.removes_attachment(a);
        let addresses = state.attachments.iter().filter(staying);
        let networks = state.networks.iter().filter(|n| !plan.remove_networks.contains(&n.id));
        let networks = networks.map(|n| plan.networks_changed.iter().find(|c| c.id == n.id).unwrap_or(n));
        Self {
            networks: networks.cloned().collect(),
            ids: state.networks.iter().map(|n| n.id).collect(),
            slots: state.attachments.iter().map(|a| a.slot).collect(),
            indexes: state.publishes.iter().map(|q| q.index).collect(),
            ifindexes: facts.interfaces.iter().map(|i| i.index).collect(),
            ifnames: facts.interfaces.iter().map(|i| i.name.as_str()).collect(),
            addresses: addresses.flat_map(|row| row.addresses().map(|a| (row.network, a))).collect(),
            facts,
            rests,
            instance,
        }
    }

    /// The lowest number that is free and, where it stands for an interface's index and name, taken by no interface; one that rests only if all
    /// do.
    fn lowest(
        used: &mut HashSet<u32>,
        taken: impl Fn(u32) -> bool,
        rests: impl Fn(u32) -> bool,
        from: u32,
        limit: u32,
    ) -> Result<u32, Problem> {
        let free = || (from..limit).filter(|n| !used.contains(n) && !taken(*n));
        let free = free().find(|n| !rests(*n)).or_else(|| free().next()).ok_or(Problem::TooMany(limit - from))?;
        used.insert(free);
        Ok(free)
    }

    pub(super) fn network(&mut self, network: &Network, mtu_bytes: u32) -> Result<NetworkRow, Problem> {
        let taken = |id| {
            let names =
                u16::try_from(id).map_or_else(|_| Vec::new(), |id| vec![gateway_ifname(id), gateway_peer_ifname(id)]);
            self.ifindexes.contains(&(abi::IFINDEX_GATEWAY + id))
                || names.iter().any(|name| self.ifnames.contains(name.as_str()))
        };
        let id = Self::lowest(&mut self.ids, taken, |_| false, 1, abi::MAX_NETWORKS)?;
        let overlaps = |other: &NetworkRow| {
            let pairs = network.subnets.iter().flat_map(|a| other.network.subnets.iter().map(move |b| (a, b)));
            pairs.into_iter().any(|(a, b)| a.contains(b) || b.contains(a))
        };
        let row = NetworkRow {
            id,
            network: network.clone(),
            mtu_bytes,
            // Of two networks with the same addresses the host can have routes to one: the earlier.
            host_access: !self.networks.iter().any(overlaps),
            snat_left: Vec::new(),
            last4: None,
            last6: None,
            origin: Origin::File,
            phase: Phase::Creating,
        };
        self.networks.push(row.clone());
        Ok(row)
    }

    /// Addresses that are asked for come before those that are chosen.
    fn ask(&mut self, wanted: &Topology) {
        for attachment in wanted.pods.iter().flat_map(Pod::attachments) {
            let network = self.id_of(&attachment.network);
            self.addresses.extend(attachment.address.iter().map(|a| (network, *a)));
        }
    }

    fn id_of(&self, network: &str) -> u32 {
        self.networks.iter().find(|n| n.network.name == network).map_or(0, |n| n.id)
    }

    /// Interfaces that stay and are to be something else: the file says so of theirs, or their network is.
    pub(super) fn change(&mut self, state: &State, wanted: &Topology, plan: &mut Plan) -> Result<(), InputError> {
        // Whoever gets another address leaves his own to others.
        let told = state.attachments.iter().filter_map(|row| Some((declared(state, row, wanted)?, row)));
        for ((.., said), row) in told {
            let gives_up = |a: &IpAddr| said.address.iter().any(|b| b.is_ipv4() == a.is_ipv4() && b != a);
            let moves = self.id_of(&said.network) != row.network;
            for address in row.addresses().filter(|a| moves || gives_up(a)) {
                self.addresses.remove(&(row.network, address));
            }
        }
        self.ask(wanted);
        let staying: Vec<_> = state.attachments.iter().filter(|a| !plan.removes_attachment(a)).collect();
        for row in staying {
            let name = state.pod_name(row.id);
            let place = declared(state, row, wanted);
            let said = place.map(|(.., said)| said);
            let of = said.map_or(row.network, |said| self.id_of(&said.network));
            let Some(network) = self.networks.iter().find(|n| n.id == of).cloned() else { continue };
            let mut new = AttachmentRow { network: of, ..row.clone() };
            if of != row.network {
                (new.addr4, new.addr6) = (None, None);
            }
            if let Some(said) = said {
                new.mac = said.mac.unwrap_or_else(|| pod_mac(self.instance, row.slot));
            }
            for address in said.iter().flat_map(|said| &said.address) {
                match address {
                    IpAddr::V4(a) => new.addr4 = Some(*a),
                    IpAddr::V6(a) => new.addr6 = Some(*a),
                }
            }
            self.allot(&mut new).map_err(|p| {
                InputError::new(place.map_or("pod".to_owned(), |(i, k, _)| Pod::field(i, k, "address")), name, p)
            })?;
            let before = state.network(row.network);
            let object = if row.rank == 0 { format!("pod {name}") } else { format!("pod {name} {}", row.ifname) };
            let mut settings = Settings::of(&object, &mut plan.settings);
            let network_name = before.map_or("", |n| n.network.name.as_str());
            settings.compare("network", &network_name, &network.network.name.as_str(), |n| (*n).to_owned());
            let (now, then): (Vec<_>, Vec<_>) = (row.addresses().collect(), new.addresses().collect());
            settings.compare("address", &now, &then, |list| {
                list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            });
            settings.compare("mac", &row.mac, &new.mac, ToString::to_string);
            let grown = before.filter(|before| before.network.subnets != network.network.subnets && of == row.network);
            let felt = before.is_some_and(|before| is_felt_inside(before, &network));
            let mut told = |bits: [Option<u8>; 2]| new.prefix_bits = bits;
            match grown {
                // It goes by what it knows.
                Some(before) if !felt => told(prefix_bits(row, before)),
                Some(_) => told([None; 2]),
                None if of != row.network => told([None; 2]),
                None => {}
            }
            if new != *row || felt {
                let of = |row: &AttachmentRow| (row.network, row.addr4, row.addr6, row.mac);
                let moves = of(&new) != of(row);
                let phase = if moves || felt { Phase::Updating } else { Phase::Ready };
                plan.attachments_changed.push(AttachmentRow { phase, ..new });
            }
        }
        Ok(())
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
        self.ask(wanted);
        for (i, pod) in wanted.pods.iter().enumerate() {
            let live = state.pod(&pod.name);
            if live.is_some_and(|row| row.origin != origin) {
                continue;
            }
            let id = match live {
                Some(row) => row.id,
                None => {
                    let row = pod_row(pod, next_id()?, origin);
                    let id = row.id;
                    plan.pods.push(row);
                    id
                }
            };
            for (k, (ifname, attachment)) in pod.interfaces().enumerate() {
                if state.attachments_of(id).any(|a| a.ifname == ifname && !plan.removes_attachment(a)) {
                    continue;
                }
                let used: Vec<u32> = plan.attachments_after(state).filter(|a| a.pod == id).map(|a| a.rank).collect();
                let place = u32::try_from(k).unwrap_or(u32::MAX);
                let rank =
                    if used.contains(&place) { used.iter().max().copied().unwrap_or_default() + 1 } else { place };
                let row = self.attachment(attachment, (id, next_id()?), (ifname, rank), origin);
                let row = row.map_err(|(key, p)| error(InputError::new(Pod::field(i, k, key), &pod.name, p)))?;
                plan.attachments.push(row);
            }
        }
        plan.tell_firsts(state);
        self.publishes(state, wanted, origin, plan, next_id, error)?;
        let moved = self.networks.iter().filter(|n| state.network(n.id).is_some_and(|old| old != *n));
        let is_changed = |n: &&NetworkRow| plan.networks_changed.iter().any(|c| c.id == n.id);
        plan.touched = moved.filter(|n| !is_changed(n)).cloned().collect();
        for row in plan.networks.iter_mut().chain(&mut plan.networks_changed) {
            if let Some(moved) = self.networks.iter().find(|n| n.id == row.id) {
                row.clone_from(moved);
            }
        }
        Ok(())
    }

    /// Plans a further interface of a live pod; what is wrong is said of a key of its table.
    pub(super) fn connect(
        &mut self,
        state: &State,
        pod: &PodRow,
        wanted: &Attachment,
        plan: &mut Plan,
        next_id: NextId<'_>,
    ) -> Result<(), (&'static str, Problem)> {
        for address in &wanted.address {
            self.addresses.insert((self.id_of(&wanted.network), *address));
        }
        let used: Vec<u32> = state.attachments_of(pod.id).map(|a| a.rank).collect();
        let rank = used.iter().max().map_or(0, |last| last + 1);
        let id = next_id().map_err(|e| ("name", Problem::Usage(e.to_string())))?;
        let ifname = wanted.interface.clone().unwrap_or_else(|| Attachment::default_ifname(used.len()));
        let row = self.attachment(wanted, (pod.id, id), (ifname, rank), Origin::Verb)?;
        plan.attachments.push(row);
        plan.tell_firsts(state);
        let moved = self.networks.iter().filter(|n| state.network(n.id).is_some_and(|old| old != *n));
        plan.touched = moved.cloned().collect();
        Ok(())
    }

    /// The row of a new interface, with a slot and addresses; what is wrong is said of a key of its table.
    fn attachment(
        &mut self,
        wanted: &Attachment,
        (pod, id): (u64, u64),
        (ifname, rank): (String, u32),
        origin: Origin,
    ) -> Result<AttachmentRow, (&'static str, Problem)> {
        let taken = |slot| {
            self.ifindexes.contains(&endpoint_ifindex(slot)) || self.ifnames.contains(host_ifname(slot).as_str())
        };
        let slot = Self::lowest(&mut self.slots, taken, |n| (self.rests)(Numbered::Slot(n)), 0, abi::MAX_ENDPOINTS)
            .map_err(|p| ("name", p))?;
        let Some(network) = self.networks.iter().find(|n| n.network.name == wanted.network) else {
            return Err(("network", Problem::UnknownNetwork("declare it first".to_owned())));
        };
        let asked = |v4: bool| wanted.address.iter().find(|a| a.is_ipv4() == v4).copied();
        let mut row = AttachmentRow {
            id,
            pod,
            network: network.id,
            slot,
            ifname,
            rank,
            mac: wanted.mac.unwrap_or_else(|| pod_mac(self.instance, slot)),
            ifindex: endpoint_ifindex(slot),
            prefix_bits: [None; 2],
            addr4: asked(true).and_then(|a| if let IpAddr::V4(a) = a { Some(a) } else { None }),
            addr6: asked(false).and_then(|a| if let IpAddr::V6(a) = a { Some(a) } else { None }),
            origin,
            phase: Phase::Creating,
        };
        self.allot(&mut row).map_err(|p| ("address", p))?;
        Ok(row)
    }

    /// Gives an interface an address of each family of its network, where it has none yet.
    fn allot(&mut self, row: &mut AttachmentRow) -> Result<(), Problem> {
        let Some(network) = self.networks.iter_mut().find(|n| n.id == row.network) else { return Ok(()) };
        for subnet in network.network.subnets.clone() {
            let has = row.addresses().find(|a| topology::same_family(subnet, *a));
            let address = match has {
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
        Ok(())
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
            let rests = |n| (self.rests)(Numbered::Publish(n));
            let index = Self::lowest(&mut self.indexes, |_| false, rests, 0, abi::MAX_PUBLISHES).map_err(located)?;
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
