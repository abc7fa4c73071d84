//! What verbs tell: stable, serialisable, the same for text and JSON.

use std::net::IpAddr;

use serde::Serialize;

use super::difference::DifferenceView;
use super::plan::Setting;
use crate::store::{AttachmentRow, Origin, Phase, PodRow, PublishRow, Source, State};
use crate::topology::{Adopt, Affinity, Allow, Backend, Behaviour, Nat};

/// What a mutating verb did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// The instance.
    pub instance: String,
    /// Whether anything changed.
    pub changed: bool,
    /// `[nat]`, when it was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat_changed: Option<Nat>,
    /// What of the host, networks and pods is another than before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settings_changed: Vec<Setting>,
    /// Names of networks that were made.
    pub networks_added: Vec<String>,
    /// Names of networks that were removed.
    pub networks_removed: Vec<String>,
    /// Pods that were made.
    pub pods_added: Vec<PodView>,
    /// Names of pods that were removed.
    pub pods_removed: Vec<String>,
    /// Interfaces that pods which were there got.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces_added: Vec<InterfaceView>,
    /// Interfaces that were taken from pods which stay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces_removed: Vec<InterfaceView>,
    /// Ports that were published.
    pub publishes_added: Vec<PublishView>,
    /// Published ports that lead elsewhere now, or take new connections or none.
    pub publishes_changed: Vec<PublishView>,
    /// Ports that are published no longer.
    pub publishes_removed: Vec<PublishView>,
    /// What was not as it should be, and is again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mended: Vec<DifferenceView>,
    /// What was to be removed and was not there any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_found: Vec<String>,
}

/// What `repair` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// The instance.
    pub instance: String,
    /// Whether anything was mended.
    pub changed: bool,
    /// What was not as it should be, and is again.
    pub mended: Vec<DifferenceView>,
    /// What could not be mended, and why.
    pub not_mended: Vec<String>,
    /// What is not as it should be after all.
    pub left: Vec<DifferenceView>,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkView {
    /// Name.
    pub name: String,
    /// Id in the data path.
    pub id: u32,
    /// Subnets.
    pub subnets: Vec<ipnet::IpNet>,
    /// Gateway addresses, in the order of the subnets.
    pub gateways: Vec<IpAddr>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Pods leave for the LAN with an address of the host.
    pub masquerade: bool,
    /// Which ones, as declared; a family that is not here: the uplink's.
    pub snat_address: Vec<IpAddr>,
    /// Whether a pod's port is the same port of the host whoever it talks to.
    pub mapping: Behaviour,
    /// Who reaches a pod by such a port.
    pub filtering: Behaviour,
    /// Destinations reached untranslated all the same.
    pub no_masquerade: Vec<ipnet::IpNet>,
    /// Whether host and pods reach each other.
    pub host_access: bool,
    /// Number of its pods.
    pub pods: usize,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodView {
    /// Name, also of its namespace.
    pub name: String,
    /// The network of its first interface.
    pub network: String,
    /// The addresses of all its interfaces.
    pub addresses: Vec<IpAddr>,
    /// The first interface's slot in the data path.
    pub slot: u32,
    /// Its interfaces, the first one first.
    pub attachments: Vec<AttachmentView>,
    /// Whose namespace it is, of one that was not made for it: its name, path or process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Adopt>,
    /// Who asked for it.
    pub origin: Origin,
    /// Phase.
    pub phase: Phase,
    /// What it publishes.
    pub publish: Vec<String>,
}

/// An interface of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttachmentView {
    /// Name in the pod.
    pub ifname: String,
    /// Its network.
    pub network: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its link-layer address.
    pub mac: String,
    /// Slot in the data path.
    pub slot: u32,
    /// Index of its other end, in the host.
    pub ifindex: u32,
}

/// An interface, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InterfaceView {
    /// Its pod.
    pub pod: String,
    /// What it is.
    #[serde(flatten)]
    pub attachment: AttachmentView,
}

/// A published port or range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishView {
    /// Never used twice; names it to `move` and `drain`.
    pub id: u64,
    /// The pods it leads to: one's name, or several as `POD[:WEIGHT]` with commas between.
    pub pod: String,
    /// The same, one by one.
    pub backends: Vec<BackendView>,
    /// What keeps a client with one of them.
    pub affinity: Affinity,
    /// Who may come in; absent: everybody, empty: nobody.
    pub allow: Allow,
    /// As declared, in full.
    pub publish: String,
    /// Protocol.
    pub proto: &'static str,
    /// Host address; absent: every address of the host.
    pub address: Option<IpAddr>,
    /// Host ports.
    pub host_ports: String,
    /// The pod's ports.
    pub pod_ports: String,
    /// Reachable from the host itself only.
    pub loopback: bool,
    /// It takes no new connections; those it has go on.
    pub draining: bool,
    /// Index in the data path.
    pub index: u32,
    /// Who asked for it.
    pub origin: Origin,
}

/// A pod behind a published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackendView {
    /// Its name and weight.
    #[serde(flatten)]
    pub backend: Backend,
    /// It takes no new connections; those it has go on.
    pub draining: bool,
}

/// What a pod was adopted by, as a file says it.
pub(super) fn adopted(row: &PodRow) -> Option<Adopt> {
    match &row.source {
        Source::Made => None,
        Source::Named => Some(Adopt::Name(row.name.clone())),
        Source::Path(path) => Some(Adopt::Path(path.clone())),
        Source::Pid(pid) => Some(Adopt::Pid(*pid)),
    }
}

impl State {
    /// The networks, by id.
    pub fn network_views(&self) -> Vec<NetworkView> {
        self.networks
            .iter()
            .map(|n| NetworkView {
                name: n.network.name.clone(),
                id: n.id,
                subnets: n.network.subnets.clone(),
                gateways: n.network.subnets.iter().map(|s| crate::topology::gateway(*s)).collect(),
                mtu: n.mtu_bytes,
                masquerade: n.network.masquerade,
                snat_address: n.network.snat_address.clone(),
                mapping: n.network.mapping,
                filtering: n.network.filtering,
                no_masquerade: n.network.no_masquerade.clone(),
                host_access: n.host_access,
                pods: self.pods.iter().filter(|p| self.attachments_of(p.id).any(|a| a.network == n.id)).count(),
            })
            .collect()
    }

    /// The pods, in the order they were made.
    pub fn pod_views(&self) -> Vec<PodView> {
        self.pods
            .iter()
            .map(|p| {
                let mut rows: Vec<&AttachmentRow> = self.attachments_of(p.id).collect();
                rows.sort_by_key(|a| (a.rank, a.id));
                let attachments: Vec<_> = rows.into_iter().map(|a| self.attachment_view(a)).collect();
                PodView {
                    name: p.name.clone(),
                    network: attachments.first().map_or_else(String::new, |a| a.network.clone()),
                    addresses: attachments.iter().flat_map(|a| a.addresses.iter().copied()).collect(),
                    slot: attachments.first().map_or(0, |a| a.slot),
                    attachments,
                    adopted: adopted(p),
                    origin: p.origin,
                    phase: p.phase,
                    publish: self.publishes_of(p.id).map(|q| q.publish.to_string()).collect(),
                }
            })
            .collect()
    }

    pub(super) fn interface_view(&self, row: &AttachmentRow) -> InterfaceView {
        InterfaceView { pod: self.pod_name(row.id).to_owned(), attachment: self.attachment_view(row) }
    }

    fn attachment_view(&self, row: &AttachmentRow) -> AttachmentView {
        AttachmentView {
            ifname: row.ifname.clone(),
            network: self.network_name(row.network).to_owned(),
            addresses: row.addresses().collect(),
            mac: row.mac.to_string(),
            slot: row.slot,
            ifindex: row.ifindex,
        }
    }

    /// Name of a network; empty where it is gone.
    pub fn network_name(&self, id: u32) -> &str {
        self.network(id).map_or("", |n| n.network.name.as_str())
    }

    /// The publishes, in the order they were made.
    pub fn publish_views(&self) -> Vec<PublishView> {
        self.publishes.iter().map(|q| self.publish_view(q)).collect()
    }

    /// The pods a publish leads to, by name.
    pub(super) fn backends(&self, row: &PublishRow) -> Vec<Backend> {
        row.backends.iter().map(|b| Backend { pod: self.pod_name(b.attachment).to_owned(), weight: b.weight }).collect()
    }

    pub(super) fn publish_view(&self, row: &PublishRow) -> PublishView {
        let publish = &row.publish;
        let backends = self.backends(row);
        // One alone has all there is, whatever its weight.
        let words = match backends.as_slice() {
            [only] => vec![only.pod.clone()],
            several => several.iter().map(Backend::to_string).collect(),
        };
        let draining = row.backends.iter().map(|b| b.draining);
        PublishView {
            id: row.id,
            pod: words.join(","),
            backends: backends
                .into_iter()
                .zip(draining)
                .map(|(backend, draining)| BackendView { backend, draining })
                .collect(),
            affinity: row.affinity,
            allow: row.allow.clone(),
            publish: publish.to_string(),
            proto: publish.proto.as_str(),
            address: publish.address,
            host_ports: publish.host_ports.to_string(),
            pod_ports: publish.pod_ports.to_string(),
            loopback: publish.is_loopback(),
            draining: row.draining,
            index: row.index,
            origin: row.origin,
        }
    }
}
