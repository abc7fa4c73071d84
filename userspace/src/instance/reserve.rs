//! Published ports kept out of the kernel's own choice.
//!
//! The kernel gives a socket that asks for any port one of `net.ipv4.ip_local_port_range`. A datagram that comes back to a
//! port which is published would go to the pod.

use super::InstanceError;
use super::platform::{HostPorts, Platform};
use super::session::Session;
use crate::store::{Change, InstanceRow, Phase};
use crate::sysctl::PortSet;

/// Ports of the kernel's range that stay free for it to choose from, whatever is published.
const LEFT_TO_CHOOSE: usize = 1024;

impl<P: Platform> Session<'_, P> {
    /// Reserves SNAT's ports and the published ones that are in the kernel's range, also those that somebody gave back for us, and
    /// gives those back that are published no longer.
    ///
    /// What is reserved is in the instance's row before it is, and until it is given back.
    pub(super) fn sync_reserved_ports(&mut self) -> Result<(), InstanceError> {
        let Some(row) = self.state.instance.clone() else { return Ok(()) };
        let HostPorts { local: range, reserved } = self.platform.ports()?;
        let published = self.published().intersection(&range);
        let published = if range.difference(&published).len() < LEFT_TO_CHOOSE && !published.is_empty() {
            tracing::warn!("published ports leave the kernel too few of ip_local_port_range ({range}): not reserved");
            PortSet::default()
        } else {
            published
        };
        let snat: PortSet = (row.host.snat_ports.start()..=row.host.snat_ports.end()).into();
        let wanted = published.union(&snat);
        let (ours, add) = (row.reserved_ports.clone(), wanted.difference(&reserved));
        let drop = ours.difference(&wanted);
        let held = ours.union(&add);
        if !add.is_empty() {
            if held != ours {
                self.write(&[Change::put(InstanceRow { reserved_ports: held.clone(), ..row.clone() })])?;
            }
            self.platform.reserve(&add)?;
        }
        if !drop.is_empty() {
            self.platform.release(&drop)?;
            self.write(&[Change::put(InstanceRow { reserved_ports: held.difference(&drop), ..row })])?;
        }
        Ok(())
    }

    /// The host's ports that are published.
    fn published(&self) -> PortSet {
        let stay = self.state.publishes.iter().filter(|q| q.phase != Phase::Deleting).map(|q| q.publish.host_ports);
        stay.fold(PortSet::default(), |all, range| all.union(&(range.start()..=range.end()).into()))
    }
}
