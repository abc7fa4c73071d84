//! Counters, one element per CPU; user space adds the CPUs up.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use netns_ebpf_common::abi;
use netns_ebpf_common::counters::{EndpointCounters, PublishCounters, VERDICT_COUNTERS};
use netns_ebpf_common::verdict::DROP_COUNTERS;

use super::place::{Places, field};

#[map]
static ENDPOINT_STATS: PerCpuArray<EndpointCounters> = PerCpuArray::with_max_entries(abi::MAX_ENDPOINTS, 0);
#[map]
static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(VERDICT_COUNTERS, 0);
#[map]
static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(DROP_COUNTERS, 0);
#[map]
static PUBLISH_STATS: PerCpuArray<PublishCounters> = PerCpuArray::with_max_entries(abi::MAX_PUBLISHES, 0);

/// This CPU's element.
#[inline(always)]
fn with_own<T>(counters: &PerCpuArray<T>, index: u32, count: impl FnOnce(&mut T)) {
    if let Some(own) = counters.get_ptr_mut(index) {
        // SAFETY: per-CPU element, and a run at these hooks never nests in another on one CPU; the reference ends with the call.
        count(unsafe { &mut *own });
    }
}

/// Adds to this CPU's counter of a verdict.
#[inline(always)]
pub fn count_verdict(index: u32) {
    with_own(&VERDICTS, index, |n| *n += 1);
}

/// Adds to this CPU's counter of a drop reason's number.
#[inline(always)]
pub fn count_drop(reason: u8) {
    with_own(&DROPS, reason.into(), |n| *n += 1);
}

/// This CPU's counters of an endpoint.
#[inline(always)]
pub fn with_endpoint_stats(slot: u32, count: impl FnOnce(&mut EndpointCounters)) {
    with_own(&ENDPOINT_STATS, slot, count);
}

/// Counts a flow of a publish: in one instruction, as a process of the host may open one, and a softirq of this CPU that counts as well,
/// or another process, come in between.
#[inline(always)]
pub fn count_flow(publish: u32) {
    if let Some(own) = PUBLISH_STATS.place(publish) {
        field!(own, flows).fetch_add(1);
    }
}

/// Counts a packet to a publish; no process of the host comes by here.
#[inline(always)]
pub fn count_published(publish: u32, len_bytes: usize) {
    with_own(&PUBLISH_STATS, publish, |own| {
        own.packets += 1;
        own.bytes += len_bytes as u64;
    });
}
