//! Sweeping: taking flows whose time is over out of the table.
//!
//! The programs treat such a flow as absent whether it is swept or not; sweeping only gives its room back.

use std::os::fd::AsFd;

use aya::Pod;
use aya::maps::{HashMap, MapData};
use netns_ebpf_common::flow::{FlowEntry, FlowKey, State, is_expired};
use netns_ebpf_common::host::HostConfig;
use netns_ebpf_common::{Addr4, Addr6};
use nix::time::{ClockId, clock_gettime};

use super::flows::FlowFamily;
use super::{Datapath, DatapathError, call, errno, io_error, map_error};

const BPF_NOEXIST: u64 = 1;

impl Datapath {
    /// Removes flows of both families whose time is over, both directions of each, until about `limit` entries of a family
    /// went or none is left; says how many went. A hundred thousand take a second or two.
    ///
    /// May run beside the programs and beside itself. The rule is the programs' own ([`is_expired`]); it is applied once more
    /// to what an entry was when it was taken out, and one that came to life at that moment is put back.
    ///
    /// # Errors
    ///
    /// Nothing is loaded, or the kernel refuses; what had gone by then stays gone.
    pub fn expire_flows(&self, limit: usize) -> Result<usize, DatapathError> {
        let config = self.host_config()?;
        Ok(self.expire_flows_of::<Addr4>(&config, limit)? + self.expire_flows_of::<Addr6>(&config, limit)?)
    }

    fn expire_flows_of<A: FlowFamily>(&self, config: &HostConfig, limit: usize) -> Result<usize, DatapathError>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        let flows = self.hash::<FlowKey<A>, FlowEntry<A>>(A::MAP)?;
        let mut table = Table { data: self.map_data(A::MAP)?, flows, config };
        let now = now_ns()?;
        let mut idle = Vec::new();
        let read = call::walk(table.data.fd().as_fd(), |keys: &[FlowKey<A>], entries: &[FlowEntry<A>]| {
            // The other direction is not asked here: most of what this picks is over.
            let picked = keys.iter().zip(entries).filter(|(key, entry)| table.is_over(key, entry, || None, now));
            idle.extend(picked.map(|(key, _)| *key));
        });
        read.map_err(|e| io_error(A::MAP, "list flows", e))?;
        let mut removed = 0;
        for key in &idle {
            if removed >= limit {
                break;
            }
            removed += table.expire(key)?;
        }
        Ok(removed)
    }
}

/// A family's flow table at work.
struct Table<'a, A: FlowFamily>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    data: MapData,
    flows: HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    config: &'a HostConfig,
}

impl<A: FlowFamily> Table<'_, A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    fn is_over(
        &self,
        key: &FlowKey<A>,
        entry: &FlowEntry<A>,
        peer: impl FnOnce() -> Option<FlowEntry<A>>,
        now_ns: u64,
    ) -> bool {
        let class = State::from_u8(entry.state).timeout_class(key.proto);
        let peer_last_seen_ns = || peer().map(|p| p.last_seen_ns);
        is_expired(entry.last_seen_ns, peer_last_seen_ns, now_ns, self.config.timeout_ns[class as usize])
    }

    fn get(&self, key: &FlowKey<A>) -> Result<Option<FlowEntry<A>>, DatapathError> {
        match self.flows.get(key, 0) {
            Ok(entry) => Ok(Some(entry)),
            Err(e) if errno(&e) == Some(nix::libc::ENOENT) => Ok(None),
            Err(e) => Err(map_error(A::MAP, "look at a flow", e)),
        }
    }

    fn take(&self, key: &FlowKey<A>) -> Result<Option<FlowEntry<A>>, DatapathError> {
        call::take(self.data.fd().as_fd(), key).map_err(|e| io_error(A::MAP, "take a flow out", e))
    }

    /// Removes a flow by the key of either direction if its time is over now.
    fn expire(&mut self, key: &FlowKey<A>) -> Result<usize, DatapathError> {
        let Some(seen) = self.get(key)? else { return Ok(0) };
        let peer_key = seen.peer_key(key.proto);
        let peer = self.get(&peer_key)?;
        if !self.is_over(key, &seen, || peer, now_ns()?) {
            return Ok(0);
        }
        let (entry, peer) = (self.take(key)?, self.take(&peer_key)?);
        let now = now_ns()?;
        let alive = |found: &Option<FlowEntry<A>>, key| found.is_some_and(|e| !self.is_over(key, &e, || None, now));
        if alive(&entry, key) || alive(&peer, &peer_key) {
            for (key, entry) in [(key, entry), (&peer_key, peer)] {
                // What has come in its place meanwhile is newer.
                let back = entry.map_or(Ok(()), |entry| self.flows.insert(key, entry, BPF_NOEXIST));
                match back {
                    Err(e) if errno(&e) != Some(nix::libc::EEXIST) => {
                        return Err(map_error(A::MAP, "put a flow back", e));
                    }
                    _ => {}
                }
            }
            return Ok(0);
        }
        Ok(usize::from(entry.is_some()) + usize::from(peer.is_some()))
    }
}

/// The clock the programs stamp entries with (`bpf_ktime_get_ns`).
fn now_ns() -> Result<u64, DatapathError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|e| io_error("FLOWS", "read the clock", e.into()))?;
    Ok(now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}
