//! Endpoints and networks.

use std::net::{IpAddr, Ipv4Addr};

use aya::Pod;
use aya::maps::{HashMap, MapData};
use ipnet::IpNet;
use netns_ebpf_common::abi::{ZONE_HOST, map};
use netns_ebpf_common::counters::EndpointCounters;
use netns_ebpf_common::endpoint::{Endpoint, EndpointKey};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::{Addr4, Addr6};

use super::{Datapath, DatapathError, errno, map_error, or_absent};

impl Datapath {
    /// The endpoint in a slot; `None` when it is free.
    pub fn endpoint(&self, slot: u32) -> Result<Option<Endpoint>, DatapathError> {
        let found = self.array::<Endpoint>(map::ENDPOINTS)?.get(&slot, 0);
        let found = found.map_err(|e| map_error(map::ENDPOINTS, format!("read slot {slot}"), e))?;
        Ok((found.ifindex != 0).then_some(found))
    }

    /// Fills a slot, then adds its address entries if it is [`Endpoint::UP`] (and removes them if not).
    ///
    /// A slot of another owner is refused; the counters of a new owner start at 0.
    pub fn put_endpoint(&self, slot: u32, endpoint: &Endpoint) -> Result<(), DatapathError> {
        let before = self.endpoint(slot)?;
        match &before {
            Some(b) if b.owner != endpoint.owner => {
                return Err(DatapathError::Owner {
                    what: format!("endpoint slot {slot}"),
                    found: b.owner,
                    ours: endpoint.owner,
                });
            }
            Some(b) if (b.network, b.addr4, b.addr6) != (endpoint.network, endpoint.addr4, endpoint.addr6) => {
                // What it keeps stays in sight.
                self.remove_addresses(
                    slot,
                    &left(b, endpoint.network, [endpoint.addr4.into(), endpoint.addr6.into()]),
                )?;
            }
            Some(_) => {}
            None => self.clear_per_cpu::<EndpointCounters>(map::ENDPOINT_STATS, slot)?,
        }
        self.set_endpoint(slot, endpoint)?;
        if endpoint.flags & Endpoint::UP == 0 {
            return self.remove_addresses(slot, endpoint);
        }
        let (mut addresses4, mut addresses6) = (self.hash(map::ENDPOINT_ADDR4)?, self.hash(map::ENDPOINT_ADDR6)?);
        for network in self.zones(endpoint)? {
            if endpoint.addr4 != Addr4::UNSPECIFIED {
                add_address(&mut addresses4, map::ENDPOINT_ADDR4, EndpointKey { network, addr: endpoint.addr4 }, slot)?;
            }
            if endpoint.addr6 != Addr6::UNSPECIFIED {
                add_address(&mut addresses6, map::ENDPOINT_ADDR6, EndpointKey { network, addr: endpoint.addr6 }, slot)?;
            }
        }
        Ok(())
    }

    /// Whether a slot holds exactly this, and its addresses lead to it in every zone they are known in.
    pub fn has_endpoint(&self, slot: u32, endpoint: &Endpoint) -> Result<bool, DatapathError> {
        if self.endpoint(slot)?.as_ref() != Some(endpoint) {
            return Ok(false);
        }
        let (addresses4, addresses6) = (self.hash(map::ENDPOINT_ADDR4)?, self.hash(map::ENDPOINT_ADDR6)?);
        for network in self.zones(endpoint)? {
            let key4 = EndpointKey { network, addr: endpoint.addr4 };
            let key6 = EndpointKey { network, addr: endpoint.addr6 };
            let led4 = endpoint.addr4 == Addr4::UNSPECIFIED || addresses4.get(&key4, 0).ok() == Some(slot);
            let led6 = endpoint.addr6 == Addr6::UNSPECIFIED || addresses6.get(&key6, 0).ok() == Some(slot);
            if !led4 || !led6 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the addresses of this owner's slot unknown that are not among `kept` (IPv4's and IPv6's) in `network`.
    pub fn leave_addresses(
        &self,
        slot: u32,
        owner: u64,
        network: u16,
        kept: [Option<IpAddr>; 2],
    ) -> Result<(), DatapathError> {
        let Some(found) = self.endpoint(slot)?.filter(|e| e.owner == owner) else { return Ok(()) };
        let kept = kept.map(|a| a.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        self.remove_addresses(slot, &left(&found, network.into(), kept))
    }

    /// Where a pod's addresses are known: in its network, and in the host's zone if the host has routes to them, so that
    /// `from_uplink` can tell a packet straight to a pod from one that is nobody's.
    fn zones(&self, endpoint: &Endpoint) -> Result<Vec<u32>, DatapathError> {
        let network = u16::try_from(endpoint.network).ok().map(|id| self.network(id)).transpose()?.flatten();
        let routed = network.is_some_and(|n| n.flags & Network::HOST_ACCESS != 0);
        Ok([endpoint.network].into_iter().chain(routed.then_some(u32::from(ZONE_HOST))).collect())
    }

    /// Removes a slot's address entries, then clears the slot.
    ///
    /// `false`: the slot is free or another owner's, and left as it is.
    pub fn remove_endpoint(&self, slot: u32, owner: u64) -> Result<bool, DatapathError> {
        let Some(found) = self.endpoint(slot)?.filter(|e| e.owner == owner) else { return Ok(false) };
        self.remove_addresses(slot, &found)?;
        self.set_endpoint(slot, &Endpoint::default())?;
        Ok(true)
    }

    /// Takes a slot from a pod that is gone; it [rests](Endpoint::RESTING) until its flows are swept.
    ///
    /// `false`: the slot is free or another owner's, and left as it is.
    pub fn rest_endpoint(&self, slot: u32, owner: u64) -> Result<bool, DatapathError> {
        let Some(found) = self.endpoint(slot)?.filter(|e| e.owner == owner) else { return Ok(false) };
        self.remove_addresses(slot, &found)?;
        self.set_endpoint(slot, &Endpoint { flags: Endpoint::RESTING, ..found })?;
        self.mark_resting()?;
        Ok(true)
    }

    /// Whether a slot rests.
    pub fn endpoint_rests(&self, slot: u32) -> Result<bool, DatapathError> {
        Ok(self.endpoint(slot)?.is_some_and(|e| e.is_resting()))
    }

    /// The slots that rest, each with its former owner.
    pub(super) fn resting_endpoints(&self) -> Result<impl Iterator<Item = (u32, u64)>, DatapathError> {
        let all = self.array::<Endpoint>(map::ENDPOINTS)?.iter().collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|e| map_error(map::ENDPOINTS, "list slots", e))?;
        Ok((0..).zip(all).filter(|(_, e)| e.is_resting()).map(|(slot, e)| (slot, e.owner)))
    }

    /// Ends the rest of a slot, if it is still this owner's.
    pub(super) fn wake_endpoint(&self, slot: u32, owner: u64) -> Result<(), DatapathError> {
        match self.endpoint(slot)? {
            Some(found) if found.is_resting() && found.owner == owner => self.set_endpoint(slot, &Endpoint::default()),
            _ => Ok(()),
        }
    }

    /// The network of this id; `None` when the id is free.
    pub fn network(&self, id: u16) -> Result<Option<Network>, DatapathError> {
        let found = self.array::<Network>(map::NETWORKS)?.get(&u32::from(id), 0);
        let found = found.map_err(|e| map_error(map::NETWORKS, format!("read network {id}"), e))?;
        Ok((found.gateway_ifindex != 0).then_some(found))
    }

    /// Declares a network.
    pub fn put_network(&self, id: u16, network: &Network) -> Result<(), DatapathError> {
        self.array::<Network>(map::NETWORKS)?
            .set(u32::from(id), network, 0)
            .map_err(|e| map_error(map::NETWORKS, format!("write network {id}"), e))
    }

    /// Clears a network, its SNAT addresses and its `no_masquerade` prefixes.
    pub fn remove_network(&self, id: u16) -> Result<(), DatapathError> {
        if self.network(id)?.is_some() {
            self.mark_stale()?;
        }
        self.put_network(id, &Network::default())?;
        self.put_snat_pools(id, &[], |_| false)?;
        self.sync_no_masquerade(id, &[])
    }

    /// Makes a network's `no_masquerade` prefixes exactly these. An empty list means none.
    pub fn sync_no_masquerade(&self, id: u16, prefixes: &[IpNet]) -> Result<(), DatapathError> {
        self.sync_prefixes([map::NO_MASQ4, map::NO_MASQ6], id.into(), prefixes)
    }

    fn set_endpoint(&self, slot: u32, endpoint: &Endpoint) -> Result<(), DatapathError> {
        self.array::<Endpoint>(map::ENDPOINTS)?
            .set(slot, endpoint, 0)
            .map_err(|e| map_error(map::ENDPOINTS, format!("write slot {slot}"), e))
    }

    fn remove_addresses(&self, slot: u32, endpoint: &Endpoint) -> Result<(), DatapathError> {
        let (mut addresses4, mut addresses6) = (self.hash(map::ENDPOINT_ADDR4)?, self.hash(map::ENDPOINT_ADDR6)?);
        // Of the host's zone too, whatever the network says by now: an entry that leads to another slot is left.
        for network in [endpoint.network, u32::from(ZONE_HOST)] {
            remove_address(&mut addresses4, map::ENDPOINT_ADDR4, EndpointKey { network, addr: endpoint.addr4 }, slot)?;
            remove_address(&mut addresses6, map::ENDPOINT_ADDR6, EndpointKey { network, addr: endpoint.addr6 }, slot)?;
        }
        Ok(())
    }
}

/// What of an endpoint's addresses is none of `kept` in `network`; the others are unspecified.
fn left(before: &Endpoint, network: u32, kept: [IpAddr; 2]) -> Endpoint {
    let goes = |address: IpAddr| before.network != network || !kept.contains(&address);
    Endpoint {
        addr4: if goes(before.addr4.into()) { before.addr4 } else { Addr4::UNSPECIFIED },
        addr6: if goes(before.addr6.into()) { before.addr6 } else { Addr6::UNSPECIFIED },
        ..*before
    }
}

fn add_address<A: std::fmt::Debug>(
    addresses: &mut HashMap<MapData, EndpointKey<A>, u32>,
    name: &'static str,
    key: EndpointKey<A>,
    slot: u32,
) -> Result<(), DatapathError>
where
    EndpointKey<A>: Pod,
{
    let what = || format!("add address {:?} of network {}", key.addr, key.network);
    match addresses.get(&key, 0) {
        Ok(found) if found == slot => Ok(()),
        Ok(found) => Err(DatapathError::Owner { what: what(), found: u64::from(found), ours: u64::from(slot) }),
        Err(e) if errno(&e) == Some(nix::libc::ENOENT) => {
            addresses.insert(key, slot, 0).map_err(|e| map_error(name, what(), e))
        }
        Err(e) => Err(map_error(name, what(), e)),
    }
}

/// Removes an address entry if it leads to this slot.
fn remove_address<A: std::fmt::Debug>(
    addresses: &mut HashMap<MapData, EndpointKey<A>, u32>,
    name: &'static str,
    key: EndpointKey<A>,
    slot: u32,
) -> Result<(), DatapathError>
where
    EndpointKey<A>: Pod,
{
    match addresses.get(&key, 0) {
        Ok(found) if found == slot => or_absent(name, format!("remove address {:?}", key.addr), addresses.remove(&key)),
        Ok(_) => Ok(()),
        Err(e) => or_absent(name, format!("find address {:?}", key.addr), Err(e)),
    }
}
