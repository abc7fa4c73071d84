//! Wanted, present, difference: what of the rows is not there, in words and for programs, and what mends it. Pure.

mod present;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;
use serde::Serialize;

use crate::store::{Phase, Row, RowId, State};

pub use present::{Device, Inside, Led, Present, Way};
pub use trouble::{Repair, Trouble};

/// Something that is not as the rows say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The row it is about.
    pub row: RowId,
    /// What that is, for people.
    pub object: String,
    /// What is wrong.
    pub trouble: Trouble,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.trouble)?;
        match self.trouble.repair() {
            Ok(_) => Ok(()),
            Err(why) => write!(f, " ({why})"),
        }
    }
}

/// A difference, for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DifferenceView {
    /// What it is about: `instance`, `network`, `pod`, `attachment`.
    pub object: String,
    /// What is wrong, as a word.
    pub kind: &'static str,
    /// The same in words.
    pub message: String,
    /// Whether `netns repair` mends it.
    pub mendable: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl From<&Difference> for DifferenceView {
    fn from(d: &Difference) -> Self {
        let reason = d.trouble.repair().err();
        Self {
            object: d.object.clone(),
            kind: d.trouble.kind(),
            message: d.trouble.to_string(),
            mendable: reason.is_none(),
            reason,
        }
    }
}

/// What is between two phases. Of an instance that is itself nothing else is said: all of it is.
pub fn unfinished(all: &State) -> Vec<Difference> {
    let is_whole = all.instance.as_ref().is_none_or(|row| row.phase.is_live());
    let rows = all.rows().filter(|row| row.phase() != Phase::Ready);
    let rows = rows.filter(|row| is_whole || matches!(row, Row::Instance(_)));
    rows.map(|row| Difference { row: row.id(), object: words(&row, all), trouble: Trouble::Unfinished(row.phase()) })
        .collect()
}

/// What of the rows of the instance of this name is not there, and what of them is unfinished.
///
/// Of a row whose namespace or device is gone nothing else is said: all of it is made anew.
pub fn differences(instance: &str, all: &State, present: &Present) -> Vec<Difference> {
    let wanted = Present::wanted(instance, all);
    let mut found = unfinished(all);
    if !wanted.loaded {
        return found;
    }
    for row in all.rows() {
        let mut troubles = Vec::new();
        match &row {
            Row::Instance(_) => instance_troubles(&wanted, present, &mut troubles),
            Row::Network(r) => {
                let index = u16::try_from(r.id).map_or(0, crate::wiring::gateway_ifindex);
                device_troubles(index, &wanted, present, &mut troubles);
                gateway_troubles(index, &wanted, present, &mut troubles);
            }
            Row::Pod(r) => match (wanted.namespaces.get(&r.id), present.namespaces.get(&r.id)) {
                (Some(_), None) => troubles.push(Trouble::NamespaceGone),
                (Some(a), Some(b)) if a != b => troubles.push(Trouble::NamespaceReplaced(*b)),
                (Some(_), _) if present.nameless.contains(&r.id) => troubles.push(Trouble::NameGone),
                _ => {}
            },
            Row::Attachment(r) => {
                let pod = wanted.namespaces.get(&r.pod).map(|_| r.pod);
                if pod.is_some_and(|id| wanted.namespaces.get(&id) == present.namespaces.get(&id)) {
                    device_troubles(r.ifindex, &wanted, present, &mut troubles);
                    inside_troubles(r.id, &wanted, present, &mut troubles);
                }
            }
            Row::Publish(_) => {}
        }
        let is_all_of_it = |t: &&Trouble| matches!(t, Trouble::DeviceGone(_));
        let is_in_the_way = |t: &Trouble| matches!(t, Trouble::InTheWay { .. });
        if let Some(all_of_it) = troubles.iter().find(is_all_of_it).cloned() {
            // It cannot be made as long as something has its place.
            let first = troubles.iter().find(|t| is_in_the_way(t)).cloned();
            troubles = vec![first.unwrap_or(all_of_it)];
        }
        let object = words(&row, all);
        found.extend(troubles.into_iter().map(|trouble| Difference { row: row.id(), object: object.clone(), trouble }));
        if matches!(found.last(), Some(Difference { trouble: Trouble::NotLoaded | Trouble::PinsGone(_), .. })) {
            // Without its maps there is nothing to compare with.
            return found;
        }
    }
    found
}

/// What a row stands for, for people.
fn words(row: &Row, all: &State) -> String {
    match row {
        Row::Instance(_) => "instance".to_owned(),
        Row::Network(r) => format!("network {}", r.network.name),
        Row::Pod(r) => format!("pod {}", r.name),
        Row::Attachment(r) => format!("pod {} {}", all.pod_name(r.id), r.ifname),
        Row::Publish(r) => format!("publish {}", r.publish),
    }
}

fn instance_troubles(wanted: &Present, present: &Present, troubles: &mut Vec<Trouble>) {
    if !present.loaded {
        troubles.push(Trouble::NotLoaded);
        return;
    }
    if !present.pins_gone.is_empty() {
        troubles.push(Trouble::PinsGone(present.pins_gone.clone()));
        return;
    }
    if !present.socket_hooks_off.is_empty() {
        troubles.push(Trouble::SocketHooks(present.socket_hooks_off.clone()));
    }
    let ports = wanted.reserved.difference(&present.reserved);
    if !ports.is_empty() {
        troubles.push(Trouble::NotReserved(ports));
    }
    auto_troubles(wanted, present, troubles);
    for (name, index) in &wanted.uplinks {
        // By its index, whatever has its name by now.
        let found = present.devices.get(index).map(|device| device.name.clone());
        if let Some(found) = found.filter(|found| found != name) {
            troubles.push(Trouble::UplinkRenamed { name: name.clone(), found });
            continue;
        }
        match present.uplinks.get(name) {
            None => troubles.push(Trouble::UplinkGone(name.clone())),
            Some(found) if found != index => troubles.push(Trouble::UplinkAnew(name.clone())),
            Some(_) => {
                let hooks = ["from_uplink", "from_uplink_l3"];
                if !hooks.iter().any(|hook| present.attached.contains(&(*hook, *index))) {
                    troubles.push(Trouble::Detached("from_uplink"));
                }
            }
        }
    }
}

/// Whether an instance that takes its uplinks by default routes has the one there is.
fn auto_troubles(wanted: &Present, present: &Present, troubles: &mut Vec<Trouble>) {
    let (true, Some(found)) = (wanted.default_uplinks.is_some(), &present.default_uplinks) else { return };
    // By its index too: one that was renamed is none that is new.
    let is_known = |name: &str, index: &u32| wanted.uplinks.iter().any(|(n, i)| n == name || i == index);
    let new = found.iter().filter(|(name, index)| !is_known(name, index));
    troubles.extend(new.map(|(name, _)| Trouble::UplinkFound(name.clone())));
    if found.is_empty() && wanted.uplinks.is_empty() {
        troubles.push(Trouble::UplinkAwaited);
    }
}

/// A device of the host that should be as wanted.
fn device_troubles(index: u32, wanted: &Present, present: &Present, troubles: &mut Vec<Trouble>) {
    let Some(should) = wanted.devices.get(&index) else { return };
    let is = present.devices.get(&index).filter(|device| device.ours);
    let has_its_place = |(at, device): &(&u32, &Device)| match **at == index {
        true => !device.ours,
        false => device.name == should.name,
    };
    compare(should, is, present.devices.iter().find(has_its_place).map(|(at, d)| (Some(*at), d)), troubles);
    if let (Some(should), Some(is)) = (wanted.addresses.get(&index), present.addresses.get(&index)) {
        addresses_gone(should, is, troubles);
        let added: BTreeSet<_> = is.difference(should).copied().collect();
        if !added.is_empty() {
            troubles.push(Trouble::AddressesAdded(added));
        }
    } else if wanted.addresses.get(&index).is_some_and(|should| !should.is_empty()) {
        troubles.push(Trouble::AddressesGone(wanted.addresses[&index].clone()));
    }
    let detached = wanted.attached.iter().filter(|hook| hook.1 == index && !present.attached.contains(hook));
    troubles.extend(detached.map(|(hook, _)| Trouble::Detached(hook)));
}

/// The other end of a network's gateway device, and whether the host's routes lead to it.
fn gateway_troubles(index: u32, wanted: &Present, present: &Present, troubles: &mut Vec<Trouble>) {
    let Some(is) = present.devices.get(&index).filter(|device| device.ours) else { return };
    if let Some(should) = wanted.peers.get(&index) {
        let end = present.peers.get(&index);
        let has_its_name = |(_, d): &(&u32, &Device)| d.name == should.name && end.is_none_or(|end| end != *d);
        let other = present.devices.iter().find(has_its_name).map(|(at, d)| (Some(*at), d));
        compare(should, end, other, troubles);
    }
    if !is.up {
        // Its routes went with that.
        return;
    }
    let (mut gone, mut elsewhere) = (BTreeSet::new(), BTreeMap::new());
    for (address, should) in wanted.led.iter().filter(|(_, led)| led.index == index) {
        match present.led.get(address) {
            Some(led) if led.index == index => {}
            Some(led) if led.destination.prefix_len() > should.destination.prefix_len() => {
                let by = present.devices.get(&led.index).map_or_else(String::new, |d| d.name.clone());
                elsewhere.entry(by).or_insert_with(BTreeSet::new).insert(led.destination);
            }
            _ => drop(gone.insert(should.destination)),
        }
    }
    if !gone.is_empty() {
        troubles.push(Trouble::HostRoutesGone(gone));
    }
    troubles.extend(elsewhere.into_iter().map(|(by, destinations)| Trouble::LedElsewhere { destinations, by }));
}

fn inside_troubles(attachment: u64, wanted: &Present, present: &Present, troubles: &mut Vec<Trouble>) {
    let Some(should) = wanted.inside.get(&attachment) else { return };
    let Some(device) = &should.device else { return };
    let Some(is) = present.inside.get(&attachment) else {
        troubles.push(Trouble::DeviceGone(device.name.clone()));
        return;
    };
    compare(device, is.device.as_ref(), is.other.as_ref().map(|other| (None, other)), troubles);
    // Others it may have: the data path lets nothing of theirs out.
    addresses_gone(&should.addresses, &is.addresses, troubles);
    if should.known && !is.known {
        troubles.push(Trouble::NotKnown);
    }
    let routes: BTreeSet<_> = should.routes.difference(&is.routes).copied().collect();
    if !routes.is_empty() {
        troubles.push(Trouble::RoutesGone(routes));
    }
    let own_ways: BTreeSet<_> = should.own_ways.difference(&is.own_ways).copied().collect();
    if !own_ways.is_empty() {
        troubles.push(Trouble::RulesGone(own_ways));
    }
}

/// Compares a device with what it should be; `other` has its place, by name or at its index.
fn compare(should: &Device, is: Option<&Device>, other: Option<(Option<u32>, &Device)>, troubles: &mut Vec<Trouble>) {
    let name = should.name.clone();
    let in_the_way = other.map(|(index, other)| {
        let index = index.map_or_else(String::new, |index| format!("index {index}; "));
        Trouble::InTheWay { wanted: name.clone(), other: format!("{} ({index}{})", other.name, other.whose) }
    });
    let Some(is) = is else {
        troubles.extend(in_the_way);
        troubles.push(Trouble::DeviceGone(name));
        return;
    };
    if is.name != should.name {
        let renamed = Trouble::Renamed { wanted: name.clone(), found: is.name.clone() };
        troubles.push(in_the_way.unwrap_or(renamed));
    }
    if is.mac != should.mac {
        troubles.push(Trouble::Mac(name.clone()));
    }
    if is.mtu_bytes != should.mtu_bytes {
        troubles.push(Trouble::Mtu { name: name.clone(), found: is.mtu_bytes, wanted: should.mtu_bytes });
    }
    if is.noarp != should.noarp {
        troubles.push(Trouble::Neighbours(name.clone()));
    }
    if is.master != should.master {
        troubles.push(Trouble::Port(name.clone()));
    }
    for (key, wanted) in &should.settings {
        match (*key, is.settings.get(key)) {
            (_, None) => {}
            (_, Some(found)) if found == wanted => {}
            ("ipv4/forwarding", Some(0)) => troubles.push(Trouble::NotForwarding("IPv4")),
            ("ipv6/forwarding", Some(0)) => troubles.push(Trouble::NotForwarding("IPv6")),
            (key, Some(found)) => {
                troubles.push(Trouble::Setting { name: name.clone(), key, found: *found, wanted: *wanted });
            }
        }
    }
    if !is.up {
        troubles.push(Trouble::Down(name));
    }
}

fn addresses_gone(should: &BTreeSet<IpNet>, is: &BTreeSet<IpNet>, troubles: &mut Vec<Trouble>) {
    let gone: BTreeSet<_> = should.difference(is).copied().collect();
    if !gone.is_empty() {
        troubles.push(Trouble::AddressesGone(gone));
    }
}

#[cfg(test)]
mod tests;
