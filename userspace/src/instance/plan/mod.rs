//! From what is wanted and what is there to the rows to make and to remove. Pure: no kernel, no store.

mod around;
mod grants;
mod live;
mod rows;
mod verbs;

use std::collections::HashSet;

pub(super) use around::Surroundings;
use grants::Grants;
pub use live::Setting;
use live::row_of;
pub(super) use rows::NextId;
pub use rows::Plan;
pub use verbs::{ConnectRequest, PodRequest};
pub(super) use verbs::{add, connect, disconnect, publish};

use super::InstanceError;
use crate::store::{AttachmentRow, BackendRow, InstanceRow, Origin, Phase, PodRow, PublishRow, State, UplinkRow};
use crate::topology::{
    self, Attachment, Backend, Document, InputError, Pod, Problem, Publish, SharedPublish, Taken, TakenPod, Topology,
};

/// MTU where neither file nor uplink name one, in bytes.
const DEFAULT_MTU_BYTES: u32 = 1500;

/// Whether [`up`] would add subnets or look for uplinks, which takes the host's routes.
pub(super) fn needs_routes(state: &State, wanted: &Topology) -> bool {
    let is_live = |n: &topology::Network| {
        state.network_named(&n.name).is_some_and(|row| n.subnets.iter().all(|s| row.network.subnets.contains(s)))
    };
    let same_uplinks = state.instance.as_ref().is_some_and(|live| live.host.uplink == wanted.host.uplink);
    !same_uplinks || !wanted.networks.iter().all(is_live)
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
    spare_networks(state, wanted).map_err(located)?;
    check_interfaces(state, wanted).map_err(located)?;
    let (mut taken, mut plan) = divide(state, wanted);
    taken.publishes.extend(host.publishes());
    let kept = taken.live.clone();
    // An uplink is judged when it is taken on; it may be away for a moment later.
    let uplinks = match &state.instance {
        None => {
            topology::resolve_uplinks(&wanted.host.uplink, facts).map(|found| found.into_iter().map(row_of).collect())
        }
        Some(live) => live::uplinks(live, &wanted.host.uplink, facts),
    };
    let uplinks: Vec<UplinkRow> = uplinks.map_err(located)?;
    let mut judged = wanted.clone();
    judged.host.uplink = topology::Uplink::None;
    topology::validate(&judged, facts, host.ports, &taken).map_err(located)?;
    let interfaces: Vec<_> = uplinks.iter().filter_map(|u| facts.interface(&u.name)).collect();
    host.check_snat_ports(wanted, &interfaces).map_err(located)?;
    let host_mtu = wanted.host.mtu.or(interfaces.iter().map(|u| u.mtu).min());
    match &state.instance {
        None => {
            plan.instance = Some(InstanceRow {
                host_netns: host_netns.map(str::to_owned),
                host_id: host.host_id.clone(),
                host: wanted.host.clone(),
                nat: wanted.nat,
                uplinks,
                reserved_ports: crate::sysctl::PortSet::default(),
                phase: Phase::Creating,
            });
        }
        Some(live) => live::instance(live, wanted, uplinks, &mut plan),
    }
    let mut changed = Vec::new();
    for (i, network) in wanted.networks.iter().enumerate() {
        let Some(row) = state.network_named(&network.name) else { continue };
        // Nobody says another one while all uplinks are away.
        let is_declared_alike = row.network.mtu == network.mtu
            && state.instance.as_ref().is_none_or(|live| live.host.mtu == wanted.host.mtu);
        let last = if is_declared_alike { row.mtu_bytes } else { DEFAULT_MTU_BYTES };
        let mtu_bytes = network.mtu.or(host_mtu).unwrap_or(last);
        if let Some(row) = live::network(row, network, mtu_bytes, &mut plan.settings) {
            changed.push(i);
            plan.networks_changed.push(row);
        }
    }
    let mut grants = Grants::new(state, host, &plan);
    for (i, network) in wanted.networks.iter().enumerate() {
        if state.network_named(&network.name).is_none() {
            let field = format!("network[{i}]");
            let mtu_bytes = network.mtu.or(host_mtu).unwrap_or(DEFAULT_MTU_BYTES);
            let row =
                grants.network(network, mtu_bytes).map_err(|p| located(InputError::new(field, &network.name, p)))?;
            plan.networks.push(row);
        }
    }
    grants.change(state, wanted, &mut plan).map_err(located)?;
    grants.pods(state, wanted, Origin::File, &mut plan, next_id, &located)?;
    for (i, row) in changed.into_iter().zip(&plan.networks_changed) {
        live::check_subnets(i, row, state, &plan).map_err(located)?;
    }
    live::check_addresses(wanted, state, &plan).map_err(located)?;
    plan.switched = switched(state, wanted, &kept, &plan);
    plan.lead_on(state).map_err(|(publish, family)| {
        let publish = publish.publish.to_string();
        located(InputError::new("pod", &publish, Problem::InterfacePublished(publish.clone(), family)))
    })?;
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

/// Whether a live interface is what the file says.
fn is_interface_as_declared(state: &State, row: &AttachmentRow, said: &Attachment) -> bool {
    state.network_name(row.network) == said.network
        && said.mac.is_none_or(|mac| mac == row.mac)
        && said.address.iter().all(|a| row.addresses().any(|b| b == *a))
}

/// Whether a live pod's namespace is the one the file says.
fn is_source(row: &PodRow, pod: &Pod) -> bool {
    row.source == grants::source_of(pod)
}

/// Refuses what of live pods' interfaces cannot become what the file says.
fn check_interfaces(state: &State, wanted: &Topology) -> Result<(), InputError> {
    for (i, pod) in wanted.pods.iter().enumerate() {
        let Some(row) = state.pod(&pod.name).filter(|row| row.origin == Origin::File) else { continue };
        if !is_source(row, pod) {
            let adopt = pod.adopt.as_ref().map_or_else(String::new, ToString::to_string);
            return Err(InputError::new(format!("pod[{i}].adopt"), adopt, Problem::AdoptChanged));
        }
        for (k, (ifname, said)) in pod.interfaces().enumerate() {
            let by_hand = state.attachments_of(row.id).find(|a| a.ifname == ifname && a.origin == Origin::Verb);
            if by_hand.is_some_and(|a| !is_interface_as_declared(state, a, said)) {
                return Err(InputError::new(Pod::field(i, k, "interface"), ifname, Problem::InterfaceByHand));
            }
        }
    }
    Ok(())
}

/// Whether a live pod is what the file says: what a verb added may be declared as it is, and stays the verb's.
fn is_pod_as_declared(state: &State, row: &PodRow, pod: &Pod) -> bool {
    let live = taken_pod(state, row);
    let is_there = |(ifname, said): (String, &Attachment)| {
        let row = state.attachments_of(row.id).find(|a| a.ifname == ifname);
        row.is_some_and(|row| is_interface_as_declared(state, row, said))
    };
    live.name == pod.name && is_source(row, pod) && pod.interfaces().all(is_there)
}

/// The pods a publish leads to, for messages.
fn names(state: &State, row: &PublishRow) -> String {
    row.backends.iter().map(|b| state.pod_name(b.attachment)).collect::<Vec<_>>().join(",")
}

fn taken_pod(state: &State, row: &PodRow) -> TakenPod {
    TakenPod {
        name: row.name.clone(),
        network: state.first_of(row.id).map_or("", |a| state.network_name(a.network)).to_owned(),
        addresses: state
            .attachments_of(row.id)
            .flat_map(|a| {
                let network = state.network_name(a.network);
                a.addresses().map(|address| (network.to_owned(), address))
            })
            .collect(),
        interfaces: state.attachments_of(row.id).count(),
    }
}

/// Refuses to remove networks in which there are pods that stay.
fn spare_networks(state: &State, wanted: &Topology) -> Result<(), InputError> {
    for row in &state.networks {
        if wanted.networks.iter().any(|n| n.name == row.network.name) {
            continue;
        }
        let by_hand = |p: &&PodRow| {
            let mut its = state.attachments_of(p.id).filter(|a| a.network == row.id);
            its.any(|a| a.origin == Origin::Verb || p.origin == Origin::Verb)
        };
        let names: Vec<_> = state.pods.iter().filter(by_hand).map(|p| p.name.as_str()).collect();
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
        networks: state.networks.iter().map(|n| n.network.clone()).collect(),
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
        } else if let Some(pod) = wanted.pods.iter().find(|p| p.name == row.name && row.origin == Origin::File) {
            let is_declared = |a: &AttachmentRow| pod.interfaces().any(|(ifname, _)| ifname == a.ifname);
            let its = state.attachments_of(row.id).filter(|a| a.origin == Origin::File && !is_declared(a));
            plan.remove_attachments.extend(its.map(|a| a.id));
        }
    }
    let all = wanted.declared();
    for q in &state.publishes {
        let declared = all.iter().map(|d| &d.publish).find(|p| p.port == q.publish);
        let goes = q.backends.iter().all(|b| state.pod_of(b.attachment).is_none_or(|p| going.contains(&p.id)));
        match declared {
            None if goes => plan.remove_publishes.push(q.id),
            Some(_) if goes && q.origin == Origin::Verb => plan.remove_publishes.push(q.id),
            Some(publish)
                if is_as_declared(state, q, publish)
                    && (q.origin == Origin::Verb || keeps_families(state, wanted, q, publish)) =>
            {
                taken.live.push(q.publish);
            }
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
        Some(pod) => wanted.networks.iter().find(|n| n.name == pod.first.network),
        None => {
            let first = state.pod(name).and_then(|p| state.first_of(p.id));
            first.and_then(|a| state.network(a.network)).map(|n| &n.network)
        }
    };
    let then = publish.backends.first().and_then(|b| network(&b.pod)).map(topology::Network::families);
    row.publish.address.is_some() || now == then
}
