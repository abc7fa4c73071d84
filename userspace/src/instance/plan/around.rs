//! What a plan is judged against.

use std::net::IpAddr;

use crate::instance::platform::Numbered;
use crate::store::{InstanceRow, State};
use crate::topology::{HostFacts, InputError, Interface, PortProbe, Problem, Publish, Topology, Uplink};

/// What is around an instance.
pub(in crate::instance) struct Surroundings<'a> {
    /// What the host has.
    pub(in crate::instance) facts: &'a HostFacts,
    /// Who listens on the host's ports.
    pub(in crate::instance) ports: &'a dyn PortProbe,
    /// The instance's name.
    pub(in crate::instance) instance: &'a str,
    /// Which host namespace it is.
    pub(in crate::instance) host_id: String,
    /// Which numbers rest: see [`Platform::rests`].
    ///
    /// [`Platform::rests`]: crate::instance::platform::Platform::rests
    pub(in crate::instance) rests: &'a dyn Fn(Numbered) -> bool,
    /// The other instances on the same host namespace, by name.
    pub(in crate::instance) others: &'a [(String, State)],
}

impl Surroundings<'_> {
    /// What other instances publish on this host.
    pub(super) fn publishes(&self) -> impl Iterator<Item = (String, Publish)> {
        self.others.iter().flat_map(|(name, state)| {
            state
                .publish_views()
                .into_iter()
                .zip(&state.publishes)
                .map(move |(view, row)| (format!("{} of instance {name}", view.pod), row.publish))
        })
    }

    /// Two instances that translate to the same address must not hand out the same ports.
    pub(super) fn check_snat_ports(&self, wanted: &Topology, uplinks: &[&Interface]) -> Result<(), InputError> {
        let ports = wanted.host.snat_ports;
        for (name, state) in self.others {
            let Some(other) = state.instance.as_ref().filter(|other| other.host.snat_ports.overlaps(ports)) else {
                continue;
            };
            let theirs = other.host.snat_ports.to_string();
            // Both take what has the default route, whenever that comes.
            let follows = |row: &InstanceRow| row.host.uplink == Uplink::Auto;
            let both_follow = wanted.host.uplink == Uplink::Auto && follows(other);
            let pooled = |a: &ipnet::IpNet| state.networks.iter().any(|n| n.network.snat_address.contains(&a.addr()));
            if both_follow || uplinks.iter().any(|u| other.has_uplink(&u.name) || u.addresses.iter().any(pooled)) {
                let problem = Problem::SnatPortsTaken(name.clone(), theirs);
                return Err(InputError::new("host.snat_ports", ports, problem));
            }
            for (i, network) in wanted.networks.iter().enumerate() {
                let mut addresses = network.snat_address.iter().enumerate();
                if let Some((k, address)) = addresses.find(|(_, a)| self.translates_to(state, **a)) {
                    let problem = Problem::SnatAddressShared(name.clone(), theirs);
                    return Err(InputError::new(format!("network[{i}].snat_address[{k}]"), address, problem));
                }
            }
        }
        Ok(())
    }

    /// Whether packets of another instance may leave with this address.
    fn translates_to(&self, other: &State, address: IpAddr) -> bool {
        let uplinks = other.instance.iter().flat_map(|row| &row.uplinks);
        let mut uplinks = uplinks.filter_map(|u| self.facts.interface(&u.name));
        other.networks.iter().any(|n| n.network.snat_address.contains(&address))
            || uplinks.any(|u| u.addresses.iter().any(|a| a.addr() == address))
    }
}
