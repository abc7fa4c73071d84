//! What the programs know of the host.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::net::IpAddr;

use aya::Pod;
use netns_ebpf_common::abi::map;
use netns_ebpf_common::host::{HostConfig, Uplink};
use netns_ebpf_common::{Addr4, Addr6, abi};

use super::{Datapath, DatapathError, map_error, or_absent};

impl Datapath {
    /// The host-wide settings.
    pub fn host_config(&self) -> Result<HostConfig, DatapathError> {
        self.array::<HostConfig>(map::HOST_CONFIG)?
            .get(&0, 0)
            .map_err(|e| map_error(map::HOST_CONFIG, "read the settings", e))
    }

    /// Sets the host-wide settings.
    pub fn set_host_config(&self, config: &HostConfig) -> Result<(), DatapathError> {
        self.array::<HostConfig>(map::HOST_CONFIG)?
            .set(0, config, 0)
            .map_err(|e| map_error(map::HOST_CONFIG, "write the settings", e))
    }

    /// Says whether some network has endpoint-independent mapping: without one the programs look for no mapping.
    pub fn set_mappings(&self, some: bool) -> Result<(), DatapathError> {
        let mut config = self.host_config()?;
        let flags = config.flags & !HostConfig::MAPPINGS | if some { HostConfig::MAPPINGS } else { 0 };
        if flags == config.flags {
            return Ok(());
        }
        config.flags = flags;
        self.set_host_config(&config)
    }

    /// Declares an uplink, or changes it.
    pub fn put_uplink(&self, ifindex: u32, uplink: &Uplink) -> Result<(), DatapathError> {
        self.hash::<u32, Uplink>(map::UPLINKS)?
            .insert(ifindex, uplink, 0)
            .map_err(|e| map_error(map::UPLINKS, format!("add uplink {ifindex}"), e))
    }

    /// Removes an uplink; not there means done.
    pub fn remove_uplink(&self, ifindex: u32) -> Result<(), DatapathError> {
        let what = format!("remove uplink {ifindex}");
        let mut uplinks = self.hash::<u32, Uplink>(map::UPLINKS)?;
        match uplinks.get(&ifindex, 0) {
            Ok(_) => self.mark_stale()?,
            Err(e) => return or_absent(map::UPLINKS, what, Err(e)),
        }
        or_absent(map::UPLINKS, what, uplinks.remove(&ifindex))
    }

    /// The uplinks by interface index.
    pub fn uplinks(&self) -> Result<Vec<(u32, Uplink)>, DatapathError> {
        self.hash::<u32, Uplink>(map::UPLINKS)?
            .iter()
            .collect::<Result<_, _>>()
            .map_err(|e| map_error(map::UPLINKS, "list uplinks", e))
    }

    /// Makes the host's addresses exactly these, each with its interface's index: new ones are added before old ones
    /// go, and those that stay are not touched. Says whether one went.
    pub fn sync_host_addresses(&self, addresses: &[(IpAddr, u32)]) -> Result<bool, DatapathError> {
        let (mut v4, mut v6) = (HashMap::new(), HashMap::new());
        for (address, ifindex) in addresses {
            match address {
                IpAddr::V4(a) => v4.insert(Addr4::from(*a), *ifindex),
                IpAddr::V6(a) => v6.insert(Addr6::from(*a), *ifindex),
            };
        }
        let (went4, went6) = (self.sync_hash(map::HOST_ADDRS4, &v4)?, self.sync_hash(map::HOST_ADDRS6, &v6)?);
        Ok(went4 || went6)
    }

    /// Deletes the flows that would leave with a source the host no longer has, or by an uplink it no longer has, by what
    /// the maps say of both; says how many entries went.
    ///
    /// Both directions of each: of source NAT, of published ports, and of pods that reach one another by them. Nothing is looked
    /// at unless an address, a network or an uplink has gone since the last time.
    pub fn end_stale_flows(&self) -> Result<usize, DatapathError> {
        if !self.is_stale() {
            return Ok(0);
        }
        // A program that runs now may still make a flow of what was before.
        self.wait_for_programs()?;
        let mut sources = self.addresses::<Addr4>(map::HOST_ADDRS4)?;
        sources.extend(self.addresses::<Addr6>(map::HOST_ADDRS6)?);
        // A network the host has no way to has its gateway in the programs only.
        for id in 1..abi::MAX_NETWORKS {
            if let Some(network) = u16::try_from(id).ok().map(|id| self.network(id)).transpose()?.flatten() {
                sources.extend([IpAddr::from(network.gateway4), IpAddr::from(network.gateway6)]);
            }
        }
        let uplinks: HashSet<u32> = self.uplinks()?.into_iter().map(|(index, _)| index).collect();
        let ended = self.delete_flows(|flow| {
            flow.target_uplink.is_some_and(|index| !uplinks.contains(&index))
                || (flow.src != flow.to_src && !sources.contains(&flow.to_src))
        })?;
        self.unmark_stale()?;
        Ok(ended)
    }

    fn addresses<A: Pod + Into<IpAddr>>(&self, name: &'static str) -> Result<HashSet<IpAddr>, DatapathError> {
        let keys = self.hash::<A, u32>(name)?.keys().map(|key| key.map(Into::into)).collect::<Result<_, _>>();
        keys.map_err(|e| map_error(name, "list addresses", e))
    }

    fn sync_hash<K: Pod + Eq + Hash + Debug>(
        &self,
        name: &'static str,
        wanted: &HashMap<K, u32>,
    ) -> Result<bool, DatapathError> {
        let mut hash = self.hash::<K, u32>(name)?;
        let found: HashMap<K, u32> =
            hash.iter().collect::<Result<_, _>>().map_err(|e| map_error(name, "list addresses", e))?;
        for (key, value) in wanted.iter().filter(|(k, v)| found.get(k) != Some(v)) {
            hash.insert(key, value, 0).map_err(|e| map_error(name, format!("add address {key:?}"), e))?;
        }
        let mut went = false;
        for key in found.keys().filter(|k| !wanted.contains_key(k)) {
            if !went {
                self.mark_stale()?;
            }
            or_absent(name, format!("remove address {key:?}"), hash.remove(key))?;
            went = true;
        }
        Ok(went)
    }
}
