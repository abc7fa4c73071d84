//! Ending flows: user space looks for them, the program `sweep` takes them out.
//!
//! Everything that ends a flow runs in the kernel, so accounts of flows stay exact and a flow is judged by what it is when it
//! goes, not by what it was when it was read.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::slice;

use aya::TestRun;
use aya::maps::{MapData, MapError};
use aya::programs::{ProgramError, SchedClassifier, TestRunOptions};
use netns_ebpf_common::abi::program;
use netns_ebpf_common::flow::{FlowEntry, FlowKey, is_expired, wide};
use netns_ebpf_common::hdr::eth::ETH_LEN;
use netns_ebpf_common::host::HostConfig;
use netns_ebpf_common::plain::{Plain, bytes_of};
use netns_ebpf_common::state::State;
use netns_ebpf_common::sweep::{SWEEP_KEYS_BYTES, SweepHeader, SweepMode};
use netns_ebpf_common::{Addr4, Addr6};
use nix::time::{ClockId, clock_gettime};

use super::flows::{FlowFamily, FlowRecord};
use super::load::PROGS;
use super::{Datapath, DatapathError, call, io_error, map_error};

impl Datapath {
    /// Removes flows of both families whose time is over, both directions of each, until about `limit` entries of a family
    /// went or none is left; says how many went.
    ///
    /// May run beside the programs and beside itself. Until it is swept such a flow takes room, and counts as absent otherwise.
    ///
    /// # Errors
    ///
    /// Nothing is loaded, or the kernel refuses; what had gone by then stays gone.
    pub fn expire_flows(&self, limit: usize) -> Result<usize, DatapathError> {
        let all = Part::whole(limit);
        Ok(self.expire_flows_of::<Addr4>(all)? + self.expire_flows_of::<Addr6>(all)?)
    }

    /// Looks at about `some` entries of each family, wherever in the table, and removes flows of them whose time is over; says how
    /// many entries went. What it takes does not depend on how many flows there are.
    ///
    /// # Errors
    ///
    /// As [`Self::expire_flows`].
    pub fn expire_some_flows(&self, some: usize) -> Result<usize, DatapathError> {
        let [v4, v6] = self.flow_totals()?;
        let mappings = self.host_config()?.flags & HostConfig::MAPPINGS != 0;
        let mut gone = 0;
        // Few who pass by have anything to look for: an empty table takes the kernel long enough.
        if v4 > 0 || mappings {
            gone += self.expire_flows_of::<Addr4>(Part::anywhere(some))?;
        }
        if v6 > 0 || mappings {
            gone += self.expire_flows_of::<Addr6>(Part::anywhere(some))?;
        }
        Ok(gone)
    }

    fn expire_flows_of<A: FlowFamily>(&self, part: Part) -> Result<usize, DatapathError>
    where
        FlowKey<A>: Plain,
        FlowEntry<A>: Plain,
    {
        let timeout_ns = self.host_config()?.timeout_ns;
        let now = now_ns()?;
        // The other direction is not asked here: most of what this picks is over.
        let idle = |key: &FlowKey<A>, entry: &FlowEntry<A>| {
            let class = State::from_u8(entry.state).timeout_class(key.proto);
            is_expired(entry.last_seen_ns, || None, now, timeout_ns[class as usize])
        };
        self.sweep(SweepMode::Expired, part, idle)
    }

    /// Deletes every flow one of whose directions `doomed` picks, both directions of it; says how many entries went.
    pub fn delete_flows(&self, mut doomed: impl FnMut(&FlowRecord) -> bool) -> Result<usize, DatapathError> {
        let (mode, all) = (SweepMode::Any, Part::whole(usize::MAX));
        let v4 = self.sweep::<Addr4>(mode, all, |key, entry| doomed(&FlowRecord::new(key, entry)))?;
        let v6 = self.sweep::<Addr6>(mode, all, |key, entry| doomed(&FlowRecord::new(key, entry)))?;
        Ok(v4 + v6)
    }

    /// Ends the flows of pods and publishes that are gone, and gives their slots and indexes to whoever comes next.
    ///
    /// May run beside the programs, and beside verbs: what is not resting any more by then, or rests again for another, is left.
    ///
    /// # Errors
    ///
    /// As [`Self::expire_flows`].
    pub fn sweep_resting(&self) -> Result<(), DatapathError> {
        // Before anything is looked at: what rests from now on notes it anew.
        if !self.take_resting()? {
            return Ok(());
        }
        self.sweep_what_rests().inspect_err(|_| drop(self.mark_resting()))
    }

    fn sweep_what_rests(&self) -> Result<(), DatapathError> {
        let slots: BTreeMap<u32, u64> = self.resting_endpoints()?.collect();
        let publishes: BTreeMap<u32, u64> = self.resting_publishes()?.collect();
        if slots.is_empty() && publishes.is_empty() {
            return Ok(());
        }
        // A program that ran when they went may have made a flow since.
        self.wait_for_programs()?;
        let of_pod = |slot: Option<u32>| slot.is_some_and(|slot| slots.contains_key(&slot));
        let of_publish =
            |flow: &FlowRecord| !flow.is_connection() && flow.publish.is_some_and(|id| publishes.contains_key(&id));
        self.delete_flows(|flow| of_pod(flow.owner_slot) || of_pod(flow.target_slot) || of_publish(flow))?;
        if !publishes.is_empty() {
            self.orphan_flows(&publishes.keys().copied().collect())?;
        }
        slots.into_iter().try_for_each(|(slot, owner)| self.wake_endpoint(slot, owner))?;
        publishes.into_iter().try_for_each(|(id, owner)| self.wake_publish(id, owner))
    }

    /// Cuts flows that stay from publishes that go, whose indexes others get: they count for nobody then.
    pub fn orphan_flows(&self, publishes: &BTreeSet<u32>) -> Result<(), DatapathError> {
        self.orphan_flows_of::<Addr4>(publishes)?;
        self.orphan_flows_of::<Addr6>(publishes)
    }

    fn orphan_flows_of<A: FlowFamily>(&self, publishes: &BTreeSet<u32>) -> Result<(), DatapathError>
    where
        FlowKey<A>: Plain,
        FlowEntry<A>: Plain,
    {
        let mut theirs: BTreeMap<u32, Vec<FlowKey<A>>> = BTreeMap::new();
        self.each_flow::<A>(|key, entry| {
            if publishes.contains(&wide(entry.publish)) {
                theirs.entry(wide(entry.publish)).or_default().push(*key);
            }
        })?;
        for (publish, keys) in theirs {
            let mut batch = Batch::<A>::new(self, SweepMode::Disown, publish)?;
            keys.chunks(Batch::<A>::KEYS).try_for_each(|keys| batch.run(keys).map(drop))?;
        }
        Ok(())
    }

    /// Walks a family's table, or part of it, and hands what `picked` picks to the program, in batches.
    fn sweep<A: FlowFamily>(
        &self,
        mode: SweepMode,
        part: Part,
        mut picked: impl FnMut(&FlowKey<A>, &FlowEntry<A>) -> bool,
    ) -> Result<usize, DatapathError>
    where
        FlowKey<A>: Plain,
        FlowEntry<A>: Plain,
    {
        let mut batch = Batch::<A>::new(self, mode, FlowEntry::<A>::NO_OWNER)?;
        let table = self.map_data(A::MAP)?;
        let Part { removed: limit, seen: most, anywhere } = part;
        let (mut done, mut seen, mut failed) = (0, 0, None);
        let mut visit = |keys: &[FlowKey<A>], entries: &[FlowEntry<A>]| {
            seen += keys.len();
            let picked: Vec<_> = keys.iter().zip(entries).filter(|(k, e)| picked(k, e)).map(|(k, _)| *k).collect();
            let mut rest = picked.as_slice();
            while !rest.is_empty() && done < limit {
                // A key takes two entries at most.
                let (now, later) = rest.split_at(rest.len().min(Batch::<A>::KEYS).min((limit - done).div_ceil(2)));
                match batch.run(now) {
                    Ok(n) => done += n,
                    Err(e) => failed = Some(e),
                }
                rest = if failed.is_some() { &[] } else { later };
            }
            if done < limit && seen < most && failed.is_none() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        let fail = |e| io_error(A::MAP, "list flows", e);
        let first =
            if anywhere { some_bucket(&table).map_err(|e| map_error(A::MAP, "ask for its size", e))? } else { 0 };
        let mut ended = false;
        let walked = call::walk(table.fd().as_fd(), first, |keys: &[FlowKey<A>], entries: &[FlowEntry<A>]| {
            let flow = visit(keys, entries);
            ended |= flow.is_break();
            flow
        });
        walked.map_err(fail)?;
        if first > 0 && !ended {
            // The end of the table came before enough was seen: on from its beginning, at worst over what was seen once more.
            call::walk(table.fd().as_fd(), 0, visit).map_err(fail)?;
        }
        failed.map_or(Ok(done), Err)
    }
}

/// How much of a table is looked at.
#[derive(Clone, Copy)]
struct Part {
    /// Until about so many entries were removed.
    removed: usize,
    /// Or about so many were seen.
    seen: usize,
    /// From any place of it on, instead of from its beginning.
    anywhere: bool,
}

impl Part {
    const fn whole(removed: usize) -> Self {
        Self { removed, seen: usize::MAX, anywhere: false }
    }

    const fn anywhere(seen: usize) -> Self {
        Self { removed: usize::MAX, seen, anywhere: true }
    }
}

/// One of the table's buckets, of which the kernel makes as many as there may be elements, rounded up to a power of two.
fn some_bucket(table: &MapData) -> Result<u32, MapError> {
    let buckets = table.info()?.max_entries().next_power_of_two();
    // The standard library's own hash keys come from the system's random numbers.
    Ok(RandomState::new().hash_one(buckets) as u32 & (buckets - 1))
}

/// A run of the program over some keys: what it reads is a packet.
struct Batch<A> {
    program: SchedClassifier,
    packet: Vec<u8>,
    header: SweepHeader,
    keys: std::marker::PhantomData<A>,
}

impl<A: FlowFamily> Batch<A>
where
    FlowKey<A>: Plain,
{
    const KEYS: usize = SWEEP_KEYS_BYTES / size_of::<FlowKey<A>>();

    fn new(datapath: &Datapath, mode: SweepMode, publish: u32) -> Result<Self, DatapathError> {
        let program = SchedClassifier::from_pin(datapath.pins().join(PROGS).join(program::SWEEP)).map_err(failure)?;
        let header = SweepHeader { mode: mode as u32, family: A::VERSION, keys: 0, publish };
        Ok(Self { program, packet: Vec::new(), header, keys: std::marker::PhantomData })
    }

    fn run(&mut self, keys: &[FlowKey<A>]) -> Result<usize, DatapathError> {
        #[expect(clippy::cast_possible_truncation, reason = "at most `KEYS`")]
        let header = SweepHeader { keys: keys.len() as u32, ..self.header };
        self.packet.clear();
        self.packet.resize(ETH_LEN, 0);
        self.packet.extend_from_slice(bytes_of(slice::from_ref(&header)));
        self.packet.extend_from_slice(bytes_of(keys));
        let options = TestRunOptions { data_in: Some(&self.packet), ..TestRunOptions::default() };
        let done = self.program.test_run(options).map_err(failure)?;
        Ok(done.return_value as usize)
    }
}

fn failure(e: ProgramError) -> DatapathError {
    DatapathError::Program { name: program::SWEEP.to_owned(), source: Box::new(e) }
}

/// The clock the programs stamp entries with (`bpf_ktime_get_ns`).
fn now_ns() -> Result<u64, DatapathError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|e| io_error("FLOWS", "read the clock", e.into()))?;
    Ok(now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}
