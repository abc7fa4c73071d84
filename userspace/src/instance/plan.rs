//! From what is wanted and what is there to the rows to make and to remove. Pure: no kernel, no store.

use std::collections::HashSet;
use std::net::IpAddr;

use super::InstanceError;
use super::grants::Grants;
use crate::store::{
    AttachmentRow, BackendRow, InstanceRow, NetworkRow, Origin, Phase, PodRow, PublishRow, Row, State, StoreError,
    UplinkRow,
};
use crate::topology::{
    self, Backend, Document, HostFacts, InputError, Interface, Pod, PortProbe, Problem, Publish, SharedPublish, Taken,
    TakenPod, Topology,
};

/// MTU where neither file nor uplink name one, in bytes.
const DEFAULT_MTU_BYTES: u32 = 1500;

/// Rows to remove and rows to make; made rows are [`Phase::Creating`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The instance, when it is not up yet.
    pub instance: Option<InstanceRow>,
    /// The live instance with other timers.
    pub retimed: Option<InstanceRow>,
    /// Ids of publishes to remove.
    pub remove_publishes: Vec<u64>,
    /// End the TCP connections of those.
    pub reset: bool,
    /// Ids of pods to remove.
    pub remove_pods: Vec<u64>,
    /// Ids of networks to remove.
    pub remove_networks: Vec<u32>,
    /// Networks to make.
    pub networks: Vec<NetworkRow>,
    /// Live networks whose record of handed-out addresses moves on.
    pub touched: Vec<NetworkRow>,
    /// Pods to make.
    pub pods: Vec<PodRow>,
    /// Interfaces to make.
    pub attachments: Vec<AttachmentRow>,
    /// Publishes to make.
    pub publishes: Vec<PublishRow>,
    /// Live publishes that change in place, once all else is done.
    pub switched: Vec<PublishRow>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self { touched: self.touched.clone(), reset: self.reset, ..Self::default() }
    }

    /// What is to be made, in that order.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row> {
        let instance = self.instance.iter().cloned().map(Row::Instance);
        let networks = self.networks.iter().cloned().map(Row::Network);
        let pods = self.pods.iter().cloned().map(Row::Pod);
        let attachments = self.attachments.iter().cloned().map(Row::Attachment);
        instance.chain(networks).chain(pods).chain(attachments).chain(self.publishes.iter().cloned().map(Row::Publish))
    }

    /// Whether something changes or goes that is there already.
    pub(super) fn changes_what_is_there(&self) -> bool {
        let removes =
            !(self.remove_publishes.is_empty() && self.remove_pods.is_empty() && self.remove_networks.is_empty());
        removes || self.retimed.is_some() || !self.switched.is_empty()
    }

    /// What a publish leads to when the pods are gone that go.
    pub(super) fn backends_left(&self, state: &State, row: &PublishRow) -> Vec<BackendRow> {
        let stays = |b: &&BackendRow| {
            let pod = self.attachments.iter().chain(&state.attachments).find(|a| a.id == b.attachment).map(|a| a.pod);
            pod.is_some_and(|pod| !self.remove_pods.contains(&pod))
        };
        row.backends.iter().filter(stays).copied().collect()
    }

    /// Whether a publish goes: it is to, or all its pods do and none takes over.
    pub(super) fn removes_publish(&self, state: &State, row: &PublishRow) -> bool {
        let switched = self.switched.iter().any(|q| q.id == row.id);
        self.remove_publishes.contains(&row.id) || (!switched && self.backends_left(state, row).is_empty())
    }

    /// The interface by which ports lead to the pod of this name once the plan is carried out: its first.
    pub(super) fn attachment(&self, state: &State, pod: &str) -> Option<u64> {
        let stays = |p: &&PodRow| p.name == pod && !self.remove_pods.contains(&p.id);
        let pod = self.pods.iter().chain(&state.pods).find(stays)?.id;
        self.attachments.iter().chain(&state.attachments).find(|a| a.pod == pod).map(|a| a.id)
    }
}

/// A pod asked for by a verb.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodRequest {
    /// Name.
    pub name: String,
    /// Its network; may be left out when there is one.
    pub network: Option<String>,
    /// Addresses; a family that is not here is allocated.
    pub addresses: Vec<IpAddr>,
    /// Published ports.
    pub publishes: Vec<Publish>,
}

/// What is around an instance.
pub(super) struct Surroundings<'a> {
    /// What the host has.
    pub(super) facts: &'a HostFacts,
    /// Who listens on the host's ports.
    pub(super) ports: &'a dyn PortProbe,
    /// The instance's name.
    pub(super) instance: &'a str,
    /// Which host namespace it is.
    pub(super) host_id: String,
    /// The other instances on the same host namespace, by name.
    pub(super) others: &'a [(String, State)],
}

impl Surroundings<'_> {
    /// What other instances publish on this host.
    fn publishes(&self) -> impl Iterator<Item = (String, Publish)> {
        self.others.iter().flat_map(|(name, state)| {
            state
                .publish_views()
                .into_iter()
                .zip(&state.publishes)
                .map(move |(view, row)| (format!("{} of instance {name}", view.pod), row.publish))
        })
    }

    /// Two instances that translate to the same address must not hand out the same ports.
    fn check_snat_ports(&self, wanted: &Topology, uplinks: &[&Interface]) -> Result<(), InputError> {
        let ports = wanted.host.snat_ports;
        for (name, state) in self.others {
            let Some(other) = state.instance.as_ref().filter(|other| other.host.snat_ports.overlaps(ports)) else {
                continue;
            };
            let theirs = other.host.snat_ports.to_string();
            let pooled = |a: &ipnet::IpNet| state.networks.iter().any(|n| n.network.snat_address.contains(&a.addr()));
            if uplinks.iter().any(|u| other.has_uplink(&u.name) || u.addresses.iter().any(pooled)) {
                let problem = Problem::SnatPortsTaken(name.clone(), theirs);
                return Err(InputError::new("host.snat_ports", ports, problem));
            }
            for (i, network) in wanted.networks.iter().enumerate() {
                let mut addresses = network.snat_address.iter().enumerate();
                if let Some((k, address)) = addresses.find(|(_, a)| self.translates_to(state, **a)) {
                    let problem = Problem::SnatAddressShared(name.clone(), theirs);
                    return Err(InputError::new(format!("network[{i}].snat_address[{k}]"), address, problem));
                }
            }
        }
        Ok(())
    }

    /// Whether packets of another instance may leave with this address.
    fn translates_to(&self, other: &State, address: IpAddr) -> bool {
        let uplinks = other.instance.iter().flat_map(|row| &row.uplinks);
        let mut uplinks = uplinks.filter_map(|u| self.facts.interface(&u.name));
        other.networks.iter().any(|n| n.network.snat_address.contains(&address))
            || uplinks.any(|u| u.addresses.iter().any(|a| a.addr() == address))
    }
}

/// Hands out ids of rows.
pub(super) type NextId<'a> = &'a mut dyn FnMut() -> Result<u64, StoreError>;

/// Whether [`up`] would add subnets or uplinks, which are judged against the host's routes.
pub(super) fn adds_subnets(state: &State, wanted: &Topology) -> bool {
    let is_live = |name: &str| state.networks.iter().any(|n| n.network.name == name);
    state.instance.is_none() || wanted.networks.iter().any(|n| !is_live(&n.name))
}

/// What `up` has to do to turn `state` into `document`.
///
/// # Errors
///
/// The document breaks a rule, or asks for a change that cannot be made live.
pub(super) fn up(
    state: &State,
    host_netns: Option<&str>,
    document: &Document,
    host: &Surroundings<'_>,
    next_id: NextId<'_>,
) -> Result<Plan, InstanceError> {
    let (wanted, facts) = (&document.topology, host.facts);
    let located = |e| InstanceError::Input(document.locate(e));
    unchanged(state, wanted).map_err(located)?;
    let (mut taken, mut plan) = divide(state, wanted);
    taken.publishes.extend(host.publishes());
    let kept = taken.live.clone();
    let uplinks = match &state.instance {
        None => {
            topology::validate(wanted, facts, host.ports, &taken).map_err(located)?;
            topology::resolve_uplinks(&wanted.host.uplink, facts).map_err(located)?
        }
        Some(live) => {
            // The uplink was judged when the instance came up, and is the same; it may be away for a moment now.
            let mut wanted = wanted.clone();
            wanted.host.uplink = topology::Uplink::None;
            topology::validate(&wanted, facts, host.ports, &taken).map_err(located)?;
            live.uplinks.iter().filter_map(|u| facts.interface(&u.name)).collect()
        }
    };
    host.check_snat_ports(wanted, &uplinks).map_err(located)?;
    if state.instance.is_none() {
        plan.instance = Some(InstanceRow {
            host_netns: host_netns.map(str::to_owned),
            host_id: host.host_id.clone(),
            host: wanted.host.clone(),
            nat: wanted.nat,
            uplinks: uplinks.iter().map(|u| UplinkRow { name: u.name.clone(), ifindex: u.index }).collect(),
            reserved_ports: crate::sysctl::PortSet::default(),
            phase: Phase::Creating,
        });
    }
    plan.retimed = state
        .instance
        .iter()
        .find(|live| live.nat != wanted.nat)
        .map(|live| InstanceRow { nat: wanted.nat, ..live.clone() });
    let mut grants = Grants::new(host.instance, state, facts, &plan);
    let host_mtu = wanted.host.mtu.or(uplinks.iter().map(|u| u.mtu).min()).unwrap_or(DEFAULT_MTU_BYTES);
    for (i, network) in wanted.networks.iter().enumerate() {
        if state.network_named(&network.name).is_none() {
            let field = format!("network[{i}]");
            let row =
                grants.network(network, host_mtu).map_err(|p| located(InputError::new(field, &network.name, p)))?;
            plan.networks.push(row);
        }
    }
    grants.pods(state, wanted, Origin::File, &mut plan, next_id, &located)?;
    plan.switched = switched(state, wanted, &kept, &plan);
    Ok(plan)
}

/// The rows of publishes that stay, where the file says otherwise than they do.
fn switched(state: &State, wanted: &Topology, kept: &[Publish], plan: &Plan) -> Vec<PublishRow> {
    let mut rows = Vec::new();
    for declared in wanted.declared() {
        let publish = &declared.publish;
        let Some(row) = state.publishes.iter().find(|q| q.publish == publish.port && kept.contains(&q.publish)) else {
            continue;
        };
        if is_as_declared(state, row, publish) {
            continue;
        }
        let was = |id| row.backends.iter().any(|b| b.attachment == id && b.draining);
        let backend = |b: &Backend| {
            let attachment = plan.attachment(state, &b.pod)?;
            Some(BackendRow { attachment, weight: b.weight, draining: was(attachment) })
        };
        let backends: Vec<_> = publish.backends.iter().filter_map(backend).collect();
        let same_pods = backends.iter().all(|b| row.leads_to(b.attachment));
        rows.push(PublishRow {
            backends,
            affinity: publish.affinity,
            allow: publish.allow.clone(),
            draining: row.draining && same_pods,
            ..row.clone()
        });
    }
    rows
}

/// Whether a live publish is what the file says.
fn is_as_declared(state: &State, row: &PublishRow, publish: &SharedPublish) -> bool {
    let sorted = |mut backends: Vec<Backend>| {
        backends.sort();
        backends
    };
    row.affinity == publish.affinity
        && row.allow.is_like(&publish.allow)
        && sorted(state.backends(row)) == sorted(publish.backends.clone())
}

/// Whether a live pod is what the file says: what a verb added may be declared as it is, and stays the verb's.
fn is_pod_as_declared(state: &State, row: &PodRow, pod: &Pod) -> bool {
    let live = taken_pod(state, row);
    live.name == pod.name && live.network == pod.network && pod.address.iter().all(|a| live.addresses.contains(a))
}

/// What `add` has to do.
///
/// # Errors
///
/// The request breaks a rule; fields are the verb's flags.
pub(super) fn add(
    state: &State,
    request: &PodRequest,
    host: &Surroundings<'_>,
    next_id: NextId<'_>,
) -> Result<Plan, InstanceError> {
    let network = match (&request.network, state.networks.as_slice()) {
        (Some(name), _) => name.clone(),
        (None, [only]) => only.network.name.clone(),
        (None, []) => {
            let problem = Problem::UnknownNetwork("the instance has none; declare one in its file".to_owned());
            return Err(InputError::new("--network", "", problem).into());
        }
        (None, many) => {
            let names: Vec<_> = many.iter().map(|n| n.network.name.as_str()).collect();
            return Err(InputError::new("--network", "", Problem::NetworkAmbiguous(names.join(", "))).into());
        }
    };
    let pod = Pod {
        name: request.name.clone(),
        network,
        address: request.addresses.clone(),
        publish: request.publishes.iter().map(|p| (*p).into()).collect(),
    };
    let (mut wanted, mut taken) = beside(state);
    wanted.pods.push(pod);
    taken.publishes.extend(host.publishes());
    topology::validate(&wanted, host.facts, host.ports, &taken).map_err(as_flag)?;
    let mut plan = Plan::default();
    let mut grants = Grants::new(host.instance, state, host.facts, &plan);
    grants.pods(state, &wanted, Origin::Verb, &mut plan, next_id, &|e| as_flag(e).into())?;
    Ok(plan)
}

/// What `publish add` has to do; nothing when it is published exactly like this already.
///
/// # Errors
///
/// A pod is unknown, or a publish breaks a rule.
pub(super) fn publish(
    state: &State,
    publishes: &[SharedPublish],
    host: &Surroundings<'_>,
    next_id: NextId<'_>,
) -> Result<Plan, InstanceError> {
    let (mut wanted, mut taken) = beside(state);
    for publish in publishes {
        if let Some(unknown) = publish.backends.iter().find(|b| state.pod(&b.pod).is_none()) {
            return Err(InputError::new("POD", &unknown.pod, Problem::UnknownPod).into());
        }
        let is_there = |row: &PublishRow| row.publish == publish.port && is_as_declared(state, row, publish);
        if !state.publishes.iter().any(is_there) {
            wanted.publishes.push(publish.clone());
        }
    }
    taken.publishes.extend(host.publishes());
    topology::validate(&wanted, host.facts, host.ports, &taken).map_err(as_flag)?;
    let mut plan = Plan::default();
    let mut grants = Grants::new(host.instance, state, host.facts, &plan);
    grants.publishes(state, &wanted, Origin::Verb, &mut plan, next_id, &|e| as_flag(e).into())?;
    Ok(plan)
}

/// The same error, in the words of a verb's flags.
fn as_flag(error: InputError) -> InputError {
    let is_list = |what: &str| error.field.starts_with("publish[") && error.field.contains(what);
    let field = match error.field.strip_prefix("pod[0].") {
        Some(f) if f.starts_with("address") => "--address",
        Some(f) if f.starts_with("publish") => "--publish",
        Some("network") => "--network",
        Some("name") => "NAME",
        _ if is_list("].backends") => "POD",
        _ if is_list("].port") => "PORTS",
        _ => return error,
    };
    error.under(field)
}

/// What the instance has networks for, without a pod or publish, and everything it holds beside that.
fn beside(state: &State) -> (Topology, Taken) {
    let mut taken = Taken {
        networks: state.networks.iter().map(|n| n.network.name.clone()).collect(),
        namespaces: state.pods.iter().map(|p| p.name.clone()).collect(),
        pods: state.pods.iter().map(|row| taken_pod(state, row)).collect(),
        ..Taken::default()
    };
    for q in &state.publishes {
        taken.publishes.push((names(state, q), q.publish));
    }
    let networks = state.networks.iter().map(|n| n.network.clone()).collect();
    // The uplink was judged when the instance came up; it may be away for a moment now.
    let host = topology::Host { uplink: topology::Uplink::None, ..topology::Host::default() };
    (Topology { host, networks, ..Topology::default() }, taken)
}

/// The pods a publish leads to, for messages.
fn names(state: &State, row: &PublishRow) -> String {
    row.backends.iter().map(|b| state.pod_name(b.attachment)).collect::<Vec<_>>().join(",")
}

fn taken_pod(state: &State, row: &PodRow) -> TakenPod {
    TakenPod {
        name: row.name.clone(),
        network: state.attachments_of(row.id).next().map_or("", |a| state.network_name(a.network)).to_owned(),
        addresses: state.attachments_of(row.id).flat_map(AttachmentRow::addresses).collect(),
    }
}

/// Refuses what cannot be changed while the instance is up.
fn unchanged(state: &State, wanted: &Topology) -> Result<(), InputError> {
    fn same<T: PartialEq>(field: String, new: &T, now: &T, words: impl Fn(&T) -> String) -> Result<(), InputError> {
        if new == now {
            return Ok(());
        }
        Err(InputError::new(field, words(new), Problem::ChangedLive { now: words(now) }))
    }
    let mtu = |m: &Option<u32>| m.map_or_else(|| "the uplink's".to_owned(), |m| m.to_string());
    if let Some(instance) = &state.instance {
        let (new, now) = (&wanted.host, &instance.host);
        same("host.uplink".into(), &new.uplink, &now.uplink, ToString::to_string)?;
        same("host.snat_ports".into(), &new.snat_ports, &now.snat_ports, ToString::to_string)?;
        same("host.mtu".into(), &new.mtu, &now.mtu, mtu)?;
    }
    for (i, new) in wanted.networks.iter().enumerate() {
        let Some(row) = state.network_named(&new.name) else { continue };
        let (now, field) = (&row.network, |f: &str| format!("network[{i}].{f}"));
        let sorted = |nets: &[ipnet::IpNet]| {
            let mut nets = nets.to_vec();
            nets.sort();
            nets
        };
        let words = |nets: &Vec<ipnet::IpNet>| {
            if nets.is_empty() {
                "none".to_owned()
            } else {
                nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
        };
        same(field("subnets"), &sorted(&new.subnets), &sorted(&now.subnets), words)?;
        same(field("masquerade"), &new.masquerade, &now.masquerade, ToString::to_string)?;
        let list = |addresses: &Vec<IpAddr>| {
            if addresses.is_empty() {
                "the uplink's".to_owned()
            } else {
                addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
        };
        same(field("mapping"), &new.mapping, &now.mapping, ToString::to_string)?;
        same(field("filtering"), &new.filtering, &now.filtering, ToString::to_string)?;
        same(field("snat_address"), &new.snat_address, &now.snat_address, list)?;
        same(field("no_masquerade"), &sorted(&new.no_masquerade), &sorted(&now.no_masquerade), words)?;
        same(field("mtu"), &new.mtu, &now.mtu, mtu)?;
    }
    for (i, new) in wanted.pods.iter().enumerate() {
        let Some(row) = state.pod(&new.name).filter(|p| p.origin == Origin::File) else { continue };
        let Some(row) = state.attachments_of(row.id).next() else { continue };
        let network = state.network_name(row.network).to_owned();
        same(format!("pod[{i}].network"), &new.network, &network, Clone::clone)?;
        for (k, address) in new.address.iter().enumerate() {
            let now = row.addresses().find(|a| a.is_ipv4() == address.is_ipv4());
            let words = |a: &Option<IpAddr>| a.map_or_else(|| "none".to_owned(), |a| a.to_string());
            same(format!("pod[{i}].address[{k}]"), &Some(*address), &now, words)?;
        }
    }
    for row in &state.networks {
        if wanted.networks.iter().any(|n| n.name == row.network.name) {
            continue;
        }
        let is_in = |p: &&PodRow| state.attachments_of(p.id).any(|a| a.network == row.id);
        let in_use = state.pods.iter().filter(is_in).filter(|p| p.origin == Origin::Verb);
        let names: Vec<_> = in_use.map(|p| p.name.as_str()).collect();
        if !names.is_empty() {
            return Err(InputError::new("network", &row.network.name, Problem::NetworkInUse(names.join(", "))));
        }
    }
    Ok(())
}

/// Tells what stays beside the file, what the file keeps, and what goes.
fn divide(state: &State, wanted: &Topology) -> (Taken, Plan) {
    let mut plan = Plan::default();
    let mut taken = Taken {
        networks: state.networks.iter().map(|n| n.network.name.clone()).collect(),
        namespaces: state.pods.iter().map(|p| p.name.clone()).collect(),
        ..Taken::default()
    };
    let mut going = HashSet::new();
    for row in &state.pods {
        if row.origin == Origin::Verb && !wanted.pods.iter().any(|p| is_pod_as_declared(state, row, p)) {
            taken.pods.push(taken_pod(state, row));
        } else if row.origin == Origin::File && !wanted.pods.iter().any(|p| p.name == row.name) {
            going.insert(row.id);
            plan.remove_pods.push(row.id);
        }
    }
    let all = wanted.declared();
    for q in &state.publishes {
        let declared = all.iter().map(|d| &d.publish).find(|p| p.port == q.publish);
        let goes = q.backends.iter().all(|b| state.pod_of(b.attachment).is_none_or(|p| going.contains(&p.id)));
        match declared {
            None if goes => plan.remove_publishes.push(q.id),
            Some(_) if goes && q.origin == Origin::Verb => plan.remove_publishes.push(q.id),
            Some(publish) if is_as_declared(state, q, publish) => taken.live.push(q.publish),
            Some(publish) if q.origin == Origin::File && keeps_families(state, wanted, q, publish) => {
                taken.live.push(q.publish);
            }
            _ if q.origin == Origin::Verb => taken.publishes.push((names(state, q), q.publish)),
            _ => plan.remove_publishes.push(q.id),
        }
    }
    for row in &state.networks {
        if !wanted.networks.iter().any(|n| n.name == row.network.name) {
            plan.remove_networks.push(row.id);
        }
    }
    (taken, plan)
}

/// Whether the ports' entries of a publish are right for other pods as well: those of "every address, both families" are
/// for the families its pods have.
fn keeps_families(state: &State, wanted: &Topology, row: &PublishRow, publish: &SharedPublish) -> bool {
    let now = row.backends.iter().filter_map(|b| state.attachment(b.attachment)).map(|a| a.network);
    let now = now.filter_map(|id| state.network(id)).map(|n| &n.network).map(topology::Network::families).next();
    let network = |name: &str| match wanted.pods.iter().find(|p| p.name == name) {
        Some(pod) => wanted.networks.iter().find(|n| n.name == pod.network),
        None => {
            let first = state.pod(name).and_then(|p| state.attachments_of(p.id).next());
            first.and_then(|a| state.network(a.network)).map(|n| &n.network)
        }
    };
    let then = publish.backends.first().and_then(|b| network(&b.pod)).map(topology::Network::families);
    row.publish.address.is_some() || now == then
}
