//! What of the file is another than what is up, and the rows that makes.
//!
//! Each kind is taken apart field by field: one that is added has to be dealt with here, and named in
//! [`topology::KEYS`].

use std::collections::HashMap;
use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::{DEFAULT_MTU_BYTES, Plan};
use crate::store::{InstanceRow, NetworkRow, Phase, State, UplinkRow};
use crate::topology::{self, Host, HostFacts, InputError, Interface, Network, Pod, Problem, Topology, Uplink};

/// A setting that changes where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Whose it is: `host`, `network NAME`, `pod NAME`.
    pub object: String,
    /// Its key in the file.
    pub key: &'static str,
    /// What it was, in words.
    pub from: String,
    /// What it becomes.
    pub to: String,
}

/// Collects settings.
pub(super) struct Settings<'a> {
    object: &'a str,
    found: &'a mut Vec<Setting>,
}

impl<'a> Settings<'a> {
    pub(super) const fn of(object: &'a str, found: &'a mut Vec<Setting>) -> Self {
        Self { object, found }
    }

    /// Notes a setting if it changes; says whether it does.
    pub(super) fn compare<T: PartialEq>(
        &mut self,
        key: &'static str,
        now: &T,
        new: &T,
        words: impl Fn(&T) -> String,
    ) -> bool {
        if now != new {
            let object = self.object.to_owned();
            self.found.push(Setting { object, key, from: words(now), to: words(new) });
        }
        now != new
    }
}

/// The uplinks a live instance has by what the file says now.
pub(super) fn uplinks(live: &InstanceRow, wanted: &Uplink, facts: &HostFacts) -> Result<Vec<UplinkRow>, InputError> {
    if *wanted == live.host.uplink {
        // Judged when they were taken on; one may be away for a moment now.
        return Ok(live.uplinks.clone());
    }
    if let Uplink::Named(names) = wanted {
        // Of those that stay, too, what is away is taken on when it is back.
        topology::resolve_uplinks(wanted, &with_absent(live, facts))?;
        let row = |name: &String| facts.interface(name).map(row_of).or_else(|| known(live, name, facts).cloned());
        return Ok(names.iter().filter_map(row).collect());
    }
    let found = topology::resolve_uplinks(wanted, facts)?;
    if *wanted == Uplink::Auto && found.is_empty() {
        // Without a default route nothing says that they are none.
        return Ok(live.uplinks.clone());
    }
    Ok(found.into_iter().map(row_of).collect())
}

/// An uplink the instance has by this name, unless it has another one by now.
fn known<'a>(live: &'a InstanceRow, name: &str, facts: &HostFacts) -> Option<&'a UplinkRow> {
    let is_renamed = |u: &UplinkRow| facts.interfaces.iter().any(|i| i.index == u.ifindex && i.name != u.name);
    live.uplinks.iter().find(|u| u.name == name).filter(|u| !is_renamed(u))
}

/// The host's facts, in which no uplink the instance has is away.
fn with_absent(live: &InstanceRow, facts: &HostFacts) -> HostFacts {
    let mut facts = facts.clone();
    let away = |u: &&UplinkRow| facts.interface(&u.name).is_none() && known(live, &u.name, &facts).is_some();
    for uplink in live.uplinks.iter().filter(away).collect::<Vec<_>>() {
        let (index, name) = (uplink.ifindex, uplink.name.clone());
        facts.interfaces.push(Interface { index, name, mtu: DEFAULT_MTU_BYTES, addresses: Vec::new(), unfit: None });
    }
    facts
}

pub(super) fn row_of(interface: &Interface) -> UplinkRow {
    UplinkRow { name: interface.name.clone(), ifindex: interface.index }
}

/// The live instance as the file has it.
pub(super) fn instance(live: &InstanceRow, wanted: &Topology, uplinks: Vec<UplinkRow>, plan: &mut Plan) {
    let Host { uplink, snat_ports, mtu } = &wanted.host;
    let mut settings = Settings::of("host", &mut plan.settings);
    let names = |uplink: &Uplink, rows: &[UplinkRow]| match uplink {
        Uplink::Auto => format!("auto ({})", list(rows.iter().map(|u| &u.name), "none yet")),
        uplink => uplink.to_string(),
    };
    let (now, new) = (names(&live.host.uplink, &live.uplinks), names(uplink, &uplinks));
    settings.compare("uplink", &now, &new, Clone::clone);
    settings.compare("snat_ports", &live.host.snat_ports, snat_ports, ToString::to_string);
    settings.compare("mtu", &live.host.mtu, mtu, |mtu| words(mtu, "the uplink's"));
    if live.host != wanted.host || live.nat != wanted.nat || live.uplinks != uplinks {
        let phase = Phase::Updating;
        plan.instance_changed =
            Some(InstanceRow { host: wanted.host.clone(), nat: wanted.nat, uplinks, phase, ..live.clone() });
    }
}

/// A live network as the file has it; `None` if it is that already.
pub(super) fn network(
    row: &NetworkRow,
    wanted: &Network,
    mtu_bytes: u32,
    settings: &mut Vec<Setting>,
) -> Option<NetworkRow> {
    let Network { name, subnets, masquerade, snat_address, mapping, filtering, no_masquerade, mtu } = wanted;
    let (now, object) = (&row.network, format!("network {name}"));
    let mut settings = Settings::of(&object, settings);
    let nets = |nets: &Vec<IpNet>| list(nets, "none");
    let mut changed = settings.compare("subnets", &sorted(&now.subnets), &sorted(subnets), nets);
    changed |= settings.compare("masquerade", &now.masquerade, masquerade, ToString::to_string);
    let pool = |pool: &Vec<IpAddr>| list(pool, "the uplink's");
    changed |= settings.compare("snat_address", &now.snat_address, snat_address, pool);
    changed |= settings.compare("mapping", &now.mapping, mapping, ToString::to_string);
    changed |= settings.compare("filtering", &now.filtering, filtering, ToString::to_string);
    changed |= settings.compare("no_masquerade", &sorted(&now.no_masquerade), &sorted(no_masquerade), nets);
    changed |= settings.compare("mtu", &row.mtu_bytes, &mtu_bytes, ToString::to_string);
    changed |= now.mtu != *mtu;
    let snat_left = now.snat_address.iter().filter(|a| !snat_address.contains(a)).copied().collect();
    changed.then(|| NetworkRow { network: wanted.clone(), mtu_bytes, snat_left, phase: Phase::Updating, ..row.clone() })
}

/// Refuses subnets in which pods that stay have no place, and those the host has by another network.
pub(super) fn check_subnets(i: usize, changed: &NetworkRow, state: &State, plan: &Plan) -> Result<(), InputError> {
    let error = |k: usize, problem| {
        let subnet = changed.network.subnets.get(k).map_or_else(String::new, ToString::to_string);
        InputError::new(format!("network[{i}].subnets[{k}]"), subnet, problem)
    };
    for row in plan.attachments_after(state).filter(|a| a.network == changed.id) {
        for address in row.addresses() {
            let found = changed.network.subnets.iter().position(|s| topology::same_family(*s, address));
            let fits = match found {
                None => Err("of no family the network has"),
                Some(k) => match topology::is_assignable(&changed.network.name, changed.network.subnets[k], address) {
                    Ok(()) => Ok(()),
                    Err(Problem::AddressIsGateway(_)) => Err("the gateway's"),
                    Err(Problem::AddressIsNetwork(_) | Problem::AddressIsBroadcast(_)) => Err("nobody's"),
                    Err(_) => Err("outside"),
                },
            };
            if let Err(what) = fits {
                let (pod, address) = (plan.pod_name(state, &row).to_owned(), address.to_string());
                return Err(error(found.unwrap_or(0), Problem::SubnetLeavesOut { pod, address, what }));
            }
        }
    }
    if !changed.host_access {
        return Ok(());
    }
    let others = state.networks.iter().filter(|n| n.id != changed.id && !plan.remove_networks.contains(&n.id));
    for other in others.filter(|n| n.host_access) {
        let other = plan.networks_changed.iter().find(|n| n.id == other.id).unwrap_or(other);
        let overlaps = |k: &usize| {
            let subnet = changed.network.subnets[*k];
            other.network.subnets.iter().any(|s| s.contains(&subnet) || subnet.contains(s))
        };
        if let Some(k) = (0..changed.network.subnets.len()).find(overlaps) {
            return Err(error(k, Problem::SubnetGrowsInto(other.network.name.clone())));
        }
    }
    Ok(())
}

/// Refuses to give a pod an address that another one has and keeps.
pub(super) fn check_addresses(wanted: &Topology, state: &State, plan: &Plan) -> Result<(), InputError> {
    let mut holders: HashMap<(u32, IpAddr), Vec<&str>> = HashMap::new();
    let after: Vec<_> = plan.attachments_after(state).collect();
    for row in &after {
        for address in row.addresses() {
            holders.entry((row.network, address)).or_default().push(plan.pod_name(state, row));
        }
    }
    for ((_, address), names) in holders.into_iter().filter(|(_, names)| names.len() > 1) {
        for (i, pod) in wanted.pods.iter().enumerate().filter(|(_, pod)| names.contains(&pod.name.as_str())) {
            for (k, said) in pod.attachments().enumerate() {
                if let Some(n) = said.address.iter().position(|a| *a == address) {
                    let other = names.iter().find(|n| **n != pod.name).unwrap_or(&"");
                    let problem = Problem::AddressTaken((*other).to_owned());
                    return Err(InputError::new(Pod::field(i, k, &format!("address[{n}]")), address, problem));
                }
            }
        }
    }
    Ok(())
}

fn sorted(nets: &[IpNet]) -> Vec<IpNet> {
    let mut nets = nets.to_vec();
    nets.sort();
    nets
}

fn words<T: Display>(value: &Option<T>, none: &str) -> String {
    value.as_ref().map_or_else(|| none.to_owned(), ToString::to_string)
}

fn list<T: Display>(items: impl IntoIterator<Item = T>, none: &str) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { none.to_owned() } else { items.join(", ") }
}
