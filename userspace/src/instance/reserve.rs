//! Published ports kept out of the kernel's own choice.
//!
//! The kernel gives a socket that asks for any port one of `net.ipv4.ip_local_port_range`. A datagram that comes back to a
//! port which is published would go to the pod.

use super::session::Session;
use super::{Fabric, FabricError, InstanceError};
use crate::store::{Change, InstanceRow, Phase};
use crate::sysctl::{PortSet, SysctlError};

/// Ports of the kernel's range that stay free for it to choose from, whatever is published.
const LEFT_TO_CHOOSE: usize = 1024;

impl<F: Fabric> Session<'_, F> {
    /// Reserves the published ports that are in the kernel's range, and gives those back that are published no longer.
    ///
    /// What is reserved is in the instance's row before it is, and until it is given back.
    pub(super) fn sync_reserved_ports(&mut self) -> Result<(), InstanceError> {
        let Some(row) = self.state.instance.clone() else { return Ok(()) };
        let range = ports(&self.fabric.local_ports()?)?;
        let wanted = self.published().intersection(&range);
        let wanted = if range.difference(&wanted).len() < LEFT_TO_CHOOSE && !wanted.is_empty() {
            tracing::warn!("published ports leave the kernel too few of ip_local_port_range ({range}): not reserved");
            PortSet::default()
        } else {
            wanted
        };
        let ours = ports(&row.reserved_ports)?;
        let missing = wanted.difference(&ours);
        let add = if missing.is_empty() { missing } else { ports(&self.fabric.unreserved(&missing.to_string())?)? };
        let snat: PortSet = (row.host.snat_ports.start()..=row.host.snat_ports.end()).into();
        let drop = ours.difference(&wanted.union(&snat));
        let held = ours.union(&add);
        if !add.is_empty() {
            self.write(&[Change::put(InstanceRow { reserved_ports: held.to_string(), ..row.clone() })])?;
            self.fabric.reserve(&add.to_string())?;
        }
        if !drop.is_empty() {
            self.fabric.release(&drop.to_string())?;
            let reserved_ports = held.difference(&drop).to_string();
            self.write(&[Change::put(InstanceRow { reserved_ports, ..row })])?;
        }
        Ok(())
    }

    /// The host's ports that are published.
    fn published(&self) -> PortSet {
        let stay = self.state.publishes.iter().filter(|q| q.phase != Phase::Deleting).map(|q| q.publish.host_ports);
        stay.fold(PortSet::default(), |all, range| all.union(&(range.start()..=range.end()).into()))
    }
}

fn ports(text: &str) -> Result<PortSet, FabricError> {
    text.parse().map_err(|e: SysctlError| FabricError::step(format!("read ports {text:?}"), e))
}
