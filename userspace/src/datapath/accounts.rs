//! Accounts of flows: how many each pod has, and where ports are wanting.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::Pod;
use aya::maps::{HashMap, Map};
use netns_ebpf_common::abi::{MAX_ENDPOINTS, map};
use netns_ebpf_common::account::{Admission, Destination, PodAccounts, PortSearch};
use netns_ebpf_common::host::HostConfig;
use netns_ebpf_common::{Addr4, Addr6};

use super::{Datapath, DatapathError, map_error};

/// Flows that are few: they take less time than the empty places of the table.
const FEW: u64 = 4096;

/// A destination towards which flows were refused for want of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExhaustedPorts {
    /// Id of the network the flows were to come from.
    pub network: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Address.
    pub addr: IpAddr,
    /// Port; 0 for ICMP.
    pub port: u16,
    /// Flows refused.
    pub refused: u64,
}

/// A pod's flows of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowCount {
    /// Those it opened.
    pub opened: u64,
    /// Those opened to it.
    pub incoming: u64,
}

impl Datapath {
    /// A slot's flows, of IPv4 and of IPv6.
    pub fn flow_counts(&self, slot: u32) -> Result<[FlowCount; 2], DatapathError> {
        let of = |name| {
            let found = self.array::<PodAccounts>(name)?.get(&slot, 0);
            let found = found.map_err(|e| map_error(name, format!("read account {slot}"), e))?;
            Ok::<_, DatapathError>(FlowCount { opened: found.opened.flows, incoming: found.incoming.flows })
        };
        Ok([of(map::ACCOUNTS4)?, of(map::ACCOUNTS6)?])
    }

    /// All flows there are, of IPv4 and of IPv6.
    pub fn flow_totals(&self) -> Result<[u64; 2], DatapathError> {
        let of = |name| {
            let found = self.array::<Admission>(name)?.get(&0, 0);
            found.map(|a| a.total).map_err(|e| map_error(name, "read the number of flows", e))
        };
        Ok([of(map::ADMISSION4)?, of(map::ADMISSION6)?])
    }

    /// Whether there are so few flows that looking through all of them takes a verb no time to speak of.
    pub fn has_few_flows(&self) -> Result<bool, DatapathError> {
        // Mappings are not counted.
        let mappings = self.host_config()?.flags & HostConfig::MAPPINGS != 0;
        Ok(!mappings && self.flow_totals()?.iter().sum::<u64>() <= FEW)
    }

    /// Where flows of pods were refused for want of a port, the most refusals first.
    pub fn exhausted_ports(&self) -> Result<Vec<ExhaustedPorts>, DatapathError> {
        let mut found = self.exhausted_ports_of::<Addr4>(map::PORT_SEARCHES4)?;
        found.extend(self.exhausted_ports_of::<Addr6>(map::PORT_SEARCHES6)?);
        found.sort_by_key(|e| std::cmp::Reverse(e.refused));
        Ok(found)
    }

    fn exhausted_ports_of<A: Copy + Into<IpAddr>>(
        &self,
        name: &'static str,
    ) -> Result<Vec<ExhaustedPorts>, DatapathError>
    where
        Destination<A>: Pod,
    {
        let data = self.map_data(name)?;
        let searches = HashMap::<_, Destination<A>, PortSearch>::try_from(Map::LruHashMap(data))
            .map_err(|e| map_error(name, "open it as a hash", e))?;
        // Each pod searches for itself.
        let mut refused = BTreeMap::new();
        for pair in searches.iter() {
            let (to, search) = pair.map_err(|e| map_error(name, "list searches", e))?;
            let Destination { addr, network, port, proto, searcher, .. } = to;
            if searcher < MAX_ENDPOINTS && search.refused > 0 {
                *refused.entry((network, proto, addr.into(), port.get())).or_default() += search.refused;
            }
        }
        let listed = refused.into_iter();
        Ok(listed
            .map(|((network, proto, addr, port), refused)| ExhaustedPorts { network, proto, addr, port, refused })
            .collect())
    }
}
