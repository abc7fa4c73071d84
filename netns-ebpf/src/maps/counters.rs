//! Counters, one element per CPU; user space adds the CPUs up.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use netns_ebpf_common::abi;
use netns_ebpf_common::counters::{EndpointCounters, PublishCounters, VERDICT_COUNTERS};
use netns_ebpf_common::verdict::DROP_COUNTERS;

use super::atomic;

#[map]
static ENDPOINT_STATS: PerCpuArray<EndpointCounters> = PerCpuArray::with_max_entries(abi::MAX_ENDPOINTS, 0);
#[map]
static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(VERDICT_COUNTERS, 0);
#[map]
static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(DROP_COUNTERS, 0);
#[map]
static PUBLISH_STATS: PerCpuArray<PublishCounters> = PerCpuArray::with_max_entries(abi::MAX_PUBLISHES, 0);

/// Adds to this CPU's counter of a verdict.
#[inline(always)]
pub fn count_verdict(index: u32) {
    if let Some(n) = VERDICTS.get_ptr_mut(index) {
        // SAFETY: per-CPU element, no nesting.
        unsafe { *n += 1 };
    }
}

/// Adds to this CPU's counter of a drop reason's number.
#[inline(always)]
pub fn count_drop(reason: u8) {
    if let Some(n) = DROPS.get_ptr_mut(u32::from(reason)) {
        // SAFETY: per-CPU element, no nesting.
        unsafe { *n += 1 };
    }
}

/// This CPU's counters of an endpoint.
#[inline(always)]
pub fn with_endpoint_stats(slot: u32, f: impl FnOnce(&mut EndpointCounters)) {
    if let Some(stats) = ENDPOINT_STATS.get_ptr_mut(slot) {
        // SAFETY: per-CPU element, no nesting; the reference ends with the call.
        f(unsafe { &mut *stats });
    }
}

/// Counts a flow of a publish a process of the host opens: in one instruction, as a softirq of this CPU that counts as well, or
/// another process, may come in between.
#[inline(always)]
pub fn count_host_flow(publish: u32) {
    if let Some(stats) = PUBLISH_STATS.get_ptr_mut(publish) {
        // SAFETY: an aligned word of an element just looked up.
        unsafe { atomic::fetch_add(&raw mut (*stats).flows, 1) };
    }
}

/// This CPU's counters of a publish.
#[inline(always)]
pub fn with_publish_stats(id: u32, f: impl FnOnce(&mut PublishCounters)) {
    if let Some(stats) = PUBLISH_STATS.get_ptr_mut(id) {
        // SAFETY: per-CPU element, no nesting; the reference ends with the call.
        f(unsafe { &mut *stats });
    }
}
