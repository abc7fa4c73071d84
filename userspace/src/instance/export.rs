//! From what is live to the topology that declares it.

use crate::store::State;
use crate::topology::{Affinity, Pod, PodPublish, SharedPublish, Topology};

impl State {
    /// What a file says that changes nothing: with every address written out, and with what verbs added. Whose it is does
    /// not change by that; what drains is not said, and goes on draining.
    pub fn topology(&self) -> Topology {
        let instance = self.instance.as_ref();
        let mut topology = Topology {
            host: instance.map(|row| row.host.clone()).unwrap_or_default(),
            nat: instance.map(|row| row.nat).unwrap_or_default(),
            networks: self.networks.iter().map(|n| n.network.clone()).collect(),
            ..Topology::default()
        };
        for row in &self.pods {
            let Some(first) = self.attachments_of(row.id).next() else { continue };
            topology.pods.push(Pod {
                name: row.name.clone(),
                network: self.network_name(first.network).to_owned(),
                address: first.addresses().collect(),
                publish: Vec::new(),
            });
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
}
