//! From what is live to the topology that declares it.

use super::view::adopted;
use crate::store::{AttachmentRow, State};
use crate::topology::{Affinity, Attachment, Pod, PodPublish, SharedPublish, Topology};
use crate::wiring::pod_mac;

impl State {
    /// What a file says that changes nothing of the instance `name`: with every address written out, and with what verbs added. Whose it is does
    /// not change by that; what drains is not said, and goes on draining.
    pub fn topology(&self, name: &str) -> Topology {
        let instance = self.instance.as_ref();
        let mut topology = Topology {
            host: instance.map(|row| row.host.clone()).unwrap_or_default(),
            nat: instance.map(|row| row.nat).unwrap_or_default(),
            networks: self.networks.iter().map(|n| n.network.clone()).collect(),
            ..Topology::default()
        };
        for row in &self.pods {
            let mut rows: Vec<&AttachmentRow> = self.attachments_of(row.id).collect();
            rows.sort_by_key(|a| (a.rank, a.id));
            let mut interfaces = rows.into_iter().enumerate().map(|(k, a)| self.declared_interface(name, k, a));
            let Some(first) = interfaces.next() else { continue };
            let more = interfaces.collect();
            topology.pods.push(Pod { name: row.name.clone(), adopt: adopted(row), first, publish: Vec::new(), more });
        }
        for row in &self.publishes {
            let backends = self.backends(row);
            let owner = match backends.as_slice() {
                [only] if only.weight == 1 && row.affinity == Affinity::None => Some(&only.pod),
                _ => None,
            };
            match topology.pods.iter_mut().find(|p| Some(&p.name) == owner) {
                Some(pod) => pod.publish.push(PodPublish { port: row.publish, allow: row.allow.clone() }),
                None => topology.publishes.push(SharedPublish {
                    port: row.publish,
                    backends,
                    affinity: row.affinity,
                    allow: row.allow.clone(),
                }),
            }
        }
        topology
    }

    /// What the file says of an interface, which is number `k` of its pod.
    fn declared_interface(&self, instance: &str, k: usize, row: &AttachmentRow) -> Attachment {
        Attachment {
            network: self.network_name(row.network).to_owned(),
            address: row.addresses().collect(),
            interface: Some(row.ifname.clone()).filter(|name| *name != Attachment::default_ifname(k)),
            mac: Some(row.mac).filter(|mac| *mac != pod_mac(instance, row.slot)),
        }
    }
}
