//! What verbs ask for, and the rows that makes.

use std::net::IpAddr;

use netns_ebpf_common::Mac;

use super::around::Surroundings;
use super::grants::Grants;
use super::rows::{NextId, Plan};
use super::{is_as_declared, is_interface_as_declared, names, taken_pod};
use crate::instance::InstanceError;
use crate::store::{AttachmentRow, Origin, PublishRow, State};
use crate::topology::{self, Adopt, Attachment, InputError, Pod, Problem, Publish, SharedPublish, Taken, Topology};

/// A pod asked for by a verb.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodRequest {
    /// Name.
    pub name: String,
    /// Its networks, an interface in each; may be left out when there is one.
    pub networks: Vec<String>,
    /// Addresses, each of the first of those networks it is in; a family that is not here is allocated.
    pub addresses: Vec<IpAddr>,
    /// Somebody else's namespace that it is to be.
    pub adopt: Option<Adopt>,
    /// Published ports.
    pub publishes: Vec<Publish>,
}

/// What `add` has to do.
///
/// # Errors
///
/// The request breaks a rule; fields are the verb's flags.
pub(in crate::instance) fn add(
    state: &State,
    request: &PodRequest,
    host: &Surroundings<'_>,
    next_id: NextId<'_>,
) -> Result<Plan, InstanceError> {
    let networks = match request.networks.as_slice() {
        [] => vec![only_network(state)?],
        several => several.to_vec(),
    };
    let mut attachments = in_networks(state, &networks, &request.addresses);
    let pod = Pod {
        name: request.name.clone(),
        adopt: request.adopt.clone(),
        first: attachments.remove(0),
        publish: request.publishes.iter().map(|p| (*p).into()).collect(),
        more: attachments,
    };
    let (mut wanted, mut taken) = beside(state);
    wanted.pods.push(pod);
    taken.publishes.extend(host.publishes());
    topology::validate(&wanted, host.facts, host.ports, &taken).map_err(as_flag)?;
    let mut plan = Plan::default();
    let mut grants = Grants::new(state, host, &plan);
    grants.pods(state, &wanted, Origin::Verb, &mut plan, next_id, &|e| as_flag(e).into())?;
    Ok(plan)
}

/// The network that goes without saying.
fn only_network(state: &State) -> Result<String, InputError> {
    let error = |problem| Err(InputError::new("--network", "", problem));
    match state.networks.as_slice() {
        [only] => Ok(only.network.name.clone()),
        [] => error(Problem::UnknownNetwork("the instance has none; declare one in its file".to_owned())),
        many => {
            let names: Vec<_> = many.iter().map(|n| n.network.name.as_str()).collect();
            error(Problem::NetworkAmbiguous(names.join(", ")))
        }
    }
}

/// An interface in each of these networks, with the addresses that are in them: one that is in none is the first's, where it is refused.
fn in_networks(state: &State, networks: &[String], addresses: &[IpAddr]) -> Vec<Attachment> {
    let interface = |network: &String| Attachment { network: network.clone(), ..Attachment::default() };
    let mut found: Vec<Attachment> = networks.iter().map(interface).collect();
    for address in addresses {
        let has_place = |a: &Attachment| {
            let network = state.network_named(&a.network);
            let is_in = network.is_some_and(|n| n.network.subnets.iter().any(|s| s.contains(address)));
            is_in && !a.address.iter().any(|other| other.is_ipv4() == address.is_ipv4())
        };
        let place = found.iter().position(has_place).unwrap_or(0);
        if let Some(attachment) = found.get_mut(place) {
            attachment.address.push(*address);
        }
    }
    found
}

/// An interface asked for by a verb.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The pod.
    pub pod: String,
    /// Its network.
    pub network: String,
    /// Name in the pod; `None`: `eth` and the first number that is free.
    pub interface: Option<String>,
    /// Addresses; a family that is not here is allocated.
    pub addresses: Vec<IpAddr>,
    /// Link-layer address.
    pub mac: Option<Mac>,
}

/// What `connect` has to do; nothing when the pod has exactly that already.
///
/// # Errors
///
/// There is no such pod, or the request breaks a rule.
pub(in crate::instance) fn connect(
    state: &State,
    request: &ConnectRequest,
    host: &Surroundings<'_>,
    next_id: NextId<'_>,
) -> Result<Plan, InstanceError> {
    let pod = state.pod(&request.pod).ok_or_else(|| InstanceError::NoPod(request.pod.clone()))?;
    let has = |name: &str| state.attachments_of(pod.id).find(|a| a.ifname == name);
    let free = || (0..).map(Attachment::default_ifname).find(|name| has(name).is_none()).unwrap_or_default();
    let ifname = request.interface.clone().unwrap_or_else(free);
    let said = Attachment {
        network: request.network.clone(),
        address: request.addresses.clone(),
        interface: Some(ifname.clone()),
        mac: request.mac,
    };
    match has(&ifname) {
        Some(row) if is_interface_as_declared(state, row, &said) => return Ok(Plan::default()),
        Some(row) => {
            let network = state.network_name(row.network).to_owned();
            return Err(InputError::new("--interface", ifname, Problem::InterfaceTwice(network)).into());
        }
        None => {}
    }
    let (mut wanted, mut taken) = beside(state);
    // It is judged as the only interface of a pod of its own, beside what the pod has.
    taken.pods.iter_mut().filter(|t| t.name == pod.name).for_each(|t| t.name.insert(0, '/'));
    wanted.pods.push(Pod {
        name: pod.name.clone(),
        adopt: None,
        first: said.clone(),
        publish: Vec::new(),
        more: Vec::new(),
    });
    topology::validate(&wanted, host.facts, host.ports, &taken).map_err(as_flag)?;
    let mut plan = Plan::default();
    Grants::new(state, host, &plan)
        .connect(state, pod, &said, &mut plan, next_id)
        .map_err(|(key, p)| as_flag(InputError::new(Pod::field(0, 0, key), &request.pod, p)))?;
    Ok(plan)
}

/// What `disconnect` has to do. `which` is the name of an interface, or of a network in which the pod has one.
///
/// # Errors
///
/// There is no such pod or interface, it is the last one, or ports lead to it that cannot lead to another.
pub(in crate::instance) fn disconnect(state: &State, pod: &str, which: &str) -> Result<Plan, InstanceError> {
    let row = state.pod(pod).ok_or_else(|| InstanceError::NoPod(pod.to_owned()))?;
    let refused = |problem| InstanceError::from(InputError::new("INTERFACE", which, problem));
    let all: Vec<&AttachmentRow> = state.attachments_of(row.id).collect();
    let named = all.iter().filter(|a| a.ifname == which);
    let in_network = || all.iter().filter(|a| state.network_name(a.network) == which);
    let found: Vec<&&AttachmentRow> =
        if named.clone().next().is_some() { named.collect() } else { in_network().collect() };
    let going = match found.as_slice() {
        [] => return Err(refused(Problem::UnknownInterface)),
        [only] => only.id,
        many => {
            let names: Vec<_> = many.iter().map(|a| a.ifname.as_str()).collect();
            return Err(refused(Problem::InterfaceAmbiguous(names.join(", "))));
        }
    };
    if all.len() == 1 {
        return Err(refused(Problem::LastInterface));
    }
    let mut plan = Plan { remove_attachments: vec![going], ..Plan::default() };
    plan.lead_on(state)
        .map_err(|(publish, family)| refused(Problem::InterfacePublished(publish.publish.to_string(), family)))?;
    Ok(plan)
}

/// What `publish add` has to do; nothing when it is published exactly like this already.
///
/// # Errors
///
/// A pod is unknown, or a publish breaks a rule.
pub(in crate::instance) fn publish(
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
    let mut grants = Grants::new(state, host, &plan);
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
        Some("interface") => "--interface",
        Some("mac") => "--mac",
        Some("adopt") => "--adopt",
        Some(f) if f.starts_with("attachment[") && f.contains("].address") => "--address",
        Some(f) if f.starts_with("attachment[") => "--network",
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
        networks: state.networks.iter().map(|n| n.network.clone()).collect(),
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
