//! The addresses networks leave for the LAN with, where they are not the uplink's.

use std::net::IpAddr;

use aya::Pod;
use netns_ebpf_common::abi::map;
use netns_ebpf_common::network::{MAX_SNAT_ADDRS, SnatPool};
use netns_ebpf_common::{Addr4, Addr6};

use super::{Datapath, DatapathError, errno, map_error, or_absent};

/// A family's pools.
trait PoolFamily: Copy + Default + PartialEq + Into<IpAddr> + 'static {
    const MAP: &'static str;

    fn of(address: IpAddr) -> Option<Self>;
}

impl PoolFamily for Addr4 {
    const MAP: &'static str = map::SNAT_POOLS4;

    fn of(address: IpAddr) -> Option<Self> {
        if let IpAddr::V4(a) = address { Some(a.into()) } else { None }
    }
}

impl PoolFamily for Addr6 {
    const MAP: &'static str = map::SNAT_POOLS6;

    fn of(address: IpAddr) -> Option<Self> {
        if let IpAddr::V6(a) = address { Some(a.into()) } else { None }
    }
}

impl Datapath {
    /// Makes a network's SNAT addresses those of the list that are `live`, in its order, at most
    /// [`MAX_SNAT_ADDRS`] of a family. A family without any in the list has no pool: the uplink's address is taken.
    pub fn put_snat_pools(
        &self,
        id: u16,
        addresses: &[IpAddr],
        live: impl Fn(IpAddr) -> bool,
    ) -> Result<(), DatapathError> {
        self.put_pool::<Addr4>(id, addresses, &live)?;
        self.put_pool::<Addr6>(id, addresses, &live)
    }

    /// The SNAT addresses of a network that are live.
    pub fn snat_addresses(&self, id: u16) -> Result<Vec<IpAddr>, DatapathError> {
        Ok([self.pool::<Addr4>(id)?, self.pool::<Addr6>(id)?].concat())
    }

    fn put_pool<A: PoolFamily>(
        &self,
        id: u16,
        addresses: &[IpAddr],
        live: impl Fn(IpAddr) -> bool,
    ) -> Result<(), DatapathError>
    where
        SnatPool<A>: Pod,
    {
        let (key, what) = (u32::from(id), format!("write SNAT addresses of network {id}"));
        let mut pools = self.hash::<u32, SnatPool<A>>(A::MAP)?;
        if !addresses.iter().any(|a| A::of(*a).is_some()) {
            return or_absent(A::MAP, what, pools.remove(&key));
        }
        let mut pool = SnatPool { count: 0, addrs: [A::default(); MAX_SNAT_ADDRS] };
        let found = addresses.iter().filter(|a| live(**a)).filter_map(|a| A::of(*a));
        for (place, address) in pool.addrs.iter_mut().zip(found) {
            *place = address;
            pool.count += 1;
        }
        if pools.get(&key, 0).is_ok_and(|found| found == pool) {
            return Ok(());
        }
        pools.insert(key, pool, 0).map_err(|e| map_error(A::MAP, what, e))
    }

    fn pool<A: PoolFamily>(&self, id: u16) -> Result<Vec<IpAddr>, DatapathError>
    where
        SnatPool<A>: Pod,
    {
        match self.hash::<u32, SnatPool<A>>(A::MAP)?.get(&u32::from(id), 0) {
            Ok(pool) => Ok(pool.addrs.iter().take(pool.count as usize).map(|a| (*a).into()).collect()),
            Err(e) if errno(&e) == Some(nix::libc::ENOENT) => Ok(Vec::new()),
            Err(e) => Err(map_error(A::MAP, format!("read SNAT addresses of network {id}"), e)),
        }
    }
}
