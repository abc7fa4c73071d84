//! Published ports.

use netns_ebpf_common::publish::Publish;

use super::{Host, WiringError};
use crate::datapath::PublishPorts;

/// A declaration: host ports that lead to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishSpec {
    /// Index, below `abi::MAX_PUBLISHES`.
    pub id: u32,
    /// The store's id of the declaration, not 0.
    pub owner: u64,
    /// The pod's slot.
    pub slot: u32,
    /// New flows are accepted; without it only those that exist go on.
    pub active: bool,
    /// Reachable from the host itself only.
    pub loopback: bool,
    /// The ports.
    pub ports: PublishPorts,
}

impl PublishSpec {
    fn declaration(&self) -> Publish {
        let active = if self.active { Publish::ACTIVE } else { 0 };
        let loopback = if self.loopback { Publish::LOOPBACK } else { 0 };
        Publish { slot: self.slot, flags: active | loopback, owner: self.owner }
    }
}

impl Host {
    /// Publishes ports. May be repeated, also to change backend and flags.
    ///
    /// Flows that were opened without the declaration are left: they belong to somebody else.
    pub fn wire_publish(&self, spec: &PublishSpec) -> Result<(), WiringError> {
        Ok(self.datapath.put_publish(spec.id, &spec.declaration(), &spec.ports)?)
    }

    /// Withdraws ports and ends the flows that came in by them. `false`: the index is free or another owner's.
    pub fn unwire_publish(&self, spec: &PublishSpec) -> Result<bool, WiringError> {
        let removed = self.datapath.remove_publish(spec.id, spec.owner, &spec.ports)?;
        if removed {
            self.datapath.delete_flows(|flow| flow.publish == Some(spec.id))?;
        }
        Ok(removed)
    }
}
