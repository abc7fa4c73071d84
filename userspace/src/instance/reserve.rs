//! Published ports kept out of the kernel's own choice.
//!
//! The kernel gives a socket that asks for any port one of `net.ipv4.ip_local_port_range`. A datagram that comes back to a
//! port which is published would go to the pod.

use super::InstanceError;
use super::platform::{HostPorts, Platform};
use super::session::Session;
use crate::store::{Change, InstanceRow, Phase, State, Store};
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
        let published = published(&self.state).intersection(&range);
        let published = if range.difference(&published).len() < LEFT_TO_CHOOSE && !published.is_empty() {
            tracing::warn!("published ports leave the kernel too few of ip_local_port_range ({range}): not reserved");
            PortSet::default()
        } else {
            published
        };
        let wanted = wanted(&row, &published);
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
            let needed = self.hand_over(&drop)?;
            self.platform.release(&drop.difference(&needed))?;
            self.write(&[Change::put(InstanceRow { reserved_ports: held.difference(&drop), ..row })])?;
        }
        Ok(())
    }

    /// Before the instance goes: what it has reserved and others on the host need as well stays, and is theirs to give back.
    pub(super) fn hand_over_ports(&mut self) -> Result<(), InstanceError> {
        let Some(row) = self.state.instance.clone() else { return Ok(()) };
        let needed = self.hand_over(&row.reserved_ports)?;
        if needed.is_empty() {
            return Ok(());
        }
        let reserved_ports = row.reserved_ports.difference(&needed);
        self.write(&[Change::put(InstanceRow { reserved_ports, ..row })])
    }

    /// Writes into others' rows which of these ports they need, and returns those.
    ///
    /// Nobody else reads or writes them meanwhile: each verb reads its rows when it has the lock of all instances.
    fn hand_over(&self, ports: &PortSet) -> Result<PortSet, InstanceError> {
        let mut handed = PortSet::default();
        let Some(shared) = &self.shared else { return Ok(handed) };
        for (dirs, state) in self.neighbours()? {
            let Some(row) = state.instance.clone() else { continue };
            let needed = wanted(&row, &published(&state)).intersection(ports);
            if needed.difference(&handed).is_empty() {
                continue;
            }
            let Some(mut store) = dirs.open_to_write(shared)? else { continue };
            let reserved_ports = row.reserved_ports.union(&needed);
            store.apply(&[Change::put(InstanceRow { reserved_ports, ..row })])?;
            handed = handed.union(&needed);
        }
        Ok(handed)
    }
}

/// The ports an instance wants reserved.
fn wanted(row: &InstanceRow, published: &PortSet) -> PortSet {
    published.union(&(row.host.snat_ports.start()..=row.host.snat_ports.end()).into())
}

/// The host's ports that are published.
fn published(state: &State) -> PortSet {
    let stay = state.publishes.iter().filter(|q| q.phase != Phase::Deleting).map(|q| q.publish.host_ports);
    stay.fold(PortSet::default(), |all, range| all.union(&(range.start()..=range.end()).into()))
}
