//! Wanted, present, difference: what of the rows is not there, in words and for programs, and what mends it. Pure.

mod present;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::netns::NetnsId;
use crate::store::{Row, RowId, State};
use crate::sysctl::PortSet;

pub use present::{Device, Inside, Present};

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

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Programs and maps are gone.
    NotLoaded,
    /// The pod's namespace is gone.
    NamespaceGone,
    /// Another namespace has the pod's name.
    NamespaceReplaced(NetnsId),
    /// An interface is gone: the host's of that name, or a pod's.
    DeviceGone(String),
    /// It has another name.
    Renamed {
        /// The name it should have.
        wanted: String,
        /// The one it has.
        found: String,
    },
    /// It is down.
    Down(String),
    /// It has another link-layer address, and is told by its index or name.
    Mac(String),
    /// It has another MTU.
    Mtu {
        /// Its name.
        name: String,
        /// The MTU it has, in bytes.
        found: u32,
        /// The one it should have.
        wanted: u32,
    },
    /// It lacks addresses.
    AddressesGone(BTreeSet<IpNet>),
    /// It has addresses nobody gave it.
    AddressesAdded(BTreeSet<IpNet>),
    /// It lacks default routes.
    RoutesGone(BTreeSet<IpAddr>),
    /// It does not forward a family.
    NotForwarding(&'static str),
    /// A program is not attached to it.
    Detached(&'static str),
    /// Socket hooks are not attached.
    SocketHooks(BTreeSet<&'static str>),
    /// Ports are not reserved.
    NotReserved(PortSet),
    /// An uplink is away.
    UplinkGone(String),
    /// An uplink was made anew.
    UplinkAnew(String),
}

/// How a difference is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Everything is made again.
    All,
    /// The namespace is made again, and its interfaces.
    Pod,
    /// What is left of the row's devices is removed, then made again.
    Anew,
    /// The row is made again: what is there stays.
    Again,
    /// The next look at the host does it.
    Refresh,
}

impl Trouble {
    /// A word for programs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotLoaded => "not-loaded",
            Self::NamespaceGone => "namespace-gone",
            Self::NamespaceReplaced(_) => "namespace-replaced",
            Self::DeviceGone(_) => "device-gone",
            Self::Renamed { .. } => "device-renamed",
            Self::Down(_) => "device-down",
            Self::Mac(_) => "mac",
            Self::Mtu { .. } => "mtu",
            Self::AddressesGone(_) => "addresses-gone",
            Self::AddressesAdded(_) => "addresses-added",
            Self::RoutesGone(_) => "routes-gone",
            Self::NotForwarding(_) => "not-forwarding",
            Self::Detached(_) => "program-detached",
            Self::SocketHooks(_) => "socket-hooks-detached",
            Self::NotReserved(_) => "ports-not-reserved",
            Self::UplinkGone(_) => "uplink-gone",
            Self::UplinkAnew(_) => "uplink-anew",
        }
    }

    /// What mends it, or why nothing does.
    ///
    /// # Errors
    ///
    /// The reason.
    pub const fn repair(&self) -> Result<Repair, &'static str> {
        match self {
            Self::NotLoaded => Ok(Repair::All),
            Self::NamespaceGone => Ok(Repair::Pod),
            Self::NamespaceReplaced(_) => {
                Err("the other one is somebody else's: give it another name, and the pod's is made anew")
            }
            Self::UplinkGone(_) => Err("it is used again as soon as there is an interface of that name"),
            Self::DeviceGone(_) => Ok(Repair::Anew),
            Self::Renamed { .. }
            | Self::Down(_)
            | Self::Mac(_)
            | Self::Mtu { .. }
            | Self::AddressesGone(_)
            | Self::AddressesAdded(_)
            | Self::RoutesGone(_)
            | Self::Detached(_)
            | Self::SocketHooks(_)
            | Self::NotForwarding(_) => Ok(Repair::Again),
            Self::NotReserved(_) | Self::UplinkAnew(_) => Ok(Repair::Refresh),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Display>(items: &BTreeSet<T>) -> String {
            items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
        match self {
            Self::NotLoaded => f.write_str("its programs and maps are gone"),
            Self::NamespaceGone => f.write_str("its namespace is gone"),
            Self::NamespaceReplaced(_) => f.write_str("another namespace has its name"),
            Self::DeviceGone(name) => write!(f, "{name} is gone"),
            Self::Renamed { wanted, found } => write!(f, "{wanted} is called {found}"),
            Self::Down(name) => write!(f, "{name} is down"),
            Self::Mac(name) => write!(f, "{name} has another link-layer address"),
            Self::Mtu { name, found, wanted } => write!(f, "{name} has MTU {found}, not {wanted}"),
            Self::AddressesGone(nets) => write!(f, "it lacks {}", list(nets)),
            Self::AddressesAdded(nets) => write!(f, "it has {}, which nobody gave it", list(nets)),
            Self::RoutesGone(gateways) => write!(f, "it lacks its default route via {}", list(gateways)),
            Self::NotForwarding(family) => {
                write!(f, "its gateway device does not forward {family}: the host's forwarding was switched off")
            }
            Self::Detached(hook) => write!(f, "program {hook} is not attached"),
            Self::SocketHooks(hooks) => write!(f, "socket hooks are not attached: {}", list(hooks)),
            Self::NotReserved(ports) => write!(f, "ports {ports} are not reserved any more"),
            Self::UplinkGone(name) => write!(f, "uplink {name} is away"),
            Self::UplinkAnew(name) => write!(f, "uplink {name} was made anew"),
        }
    }
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

/// What of the rows of the instance of this name is not there.
///
/// Of a row whose namespace or device is gone nothing else is said: all of it is made anew.
pub fn differences(instance: &str, all: &State, present: &Present) -> Vec<Difference> {
    let wanted = Present::wanted(instance, all);
    let mut found = Vec::new();
    for row in all.rows() {
        let mut troubles = Vec::new();
        match &row {
            Row::Instance(_) if !wanted.loaded => return Vec::new(),
            Row::Instance(_) => instance_troubles(&wanted, present, &mut troubles),
            Row::Network(r) => {
                let index = u16::try_from(r.id).map_or(0, crate::wiring::gateway_ifindex);
                device_troubles(index, &wanted, present, &mut troubles);
                let forwarding = present.not_forwarding.iter().filter(|(id, _)| *id == r.id);
                troubles.extend(forwarding.map(|(_, family)| Trouble::NotForwarding(family)));
            }
            Row::Pod(r) => match (wanted.namespaces.get(&r.id), present.namespaces.get(&r.id)) {
                (Some(_), None) => troubles.push(Trouble::NamespaceGone),
                (Some(a), Some(b)) if a != b => troubles.push(Trouble::NamespaceReplaced(*b)),
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
        if let Some(all_of_it) = troubles.iter().find(|t| matches!(t, Trouble::DeviceGone(_))).cloned() {
            troubles = vec![all_of_it];
        }
        let object = words(&row, all);
        found.extend(troubles.into_iter().map(|trouble| Difference { row: row.id(), object: object.clone(), trouble }));
        if matches!(found.first(), Some(Difference { trouble: Trouble::NotLoaded, .. })) {
            // Without its maps there is nothing to compare with.
            found.truncate(1);
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
    if !present.socket_hooks_off.is_empty() {
        troubles.push(Trouble::SocketHooks(present.socket_hooks_off.clone()));
    }
    let ports = wanted.reserved.difference(&present.reserved);
    if !ports.is_empty() {
        troubles.push(Trouble::NotReserved(ports));
    }
    for (name, index) in &wanted.uplinks {
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

/// A device of the host that should be as wanted.
fn device_troubles(index: u32, wanted: &Present, present: &Present, troubles: &mut Vec<Trouble>) {
    let Some(should) = wanted.devices.get(&index) else { return };
    compare(should, present.devices.get(&index), troubles);
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

fn inside_troubles(attachment: u64, wanted: &Present, present: &Present, troubles: &mut Vec<Trouble>) {
    let Some(should) = wanted.inside.get(&attachment) else { return };
    let Some(device) = &should.device else { return };
    let is = present.inside.get(&attachment);
    compare(device, is.and_then(|i| i.device.as_ref()), troubles);
    if let Some(is) = is {
        // Others it may have: the data path lets nothing of theirs out.
        addresses_gone(&should.addresses, &is.addresses, troubles);
        let routes: BTreeSet<_> = should.gateways.difference(&is.gateways).copied().collect();
        if !routes.is_empty() {
            troubles.push(Trouble::RoutesGone(routes));
        }
    }
}

fn compare(should: &Device, is: Option<&Device>, troubles: &mut Vec<Trouble>) {
    let name = should.name.clone();
    let Some(is) = is else {
        troubles.push(Trouble::DeviceGone(name));
        return;
    };
    if is.name != should.name {
        if is.mac != should.mac {
            // Neither: somebody else's has the index.
            troubles.push(Trouble::DeviceGone(name));
            return;
        }
        troubles.push(Trouble::Renamed { wanted: name.clone(), found: is.name.clone() });
    }
    if is.mac != should.mac {
        troubles.push(Trouble::Mac(name.clone()));
    }
    if is.mtu_bytes != should.mtu_bytes {
        troubles.push(Trouble::Mtu { name: name.clone(), found: is.mtu_bytes, wanted: should.mtu_bytes });
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
