//! Counting: one verdict per packet and hook, one reason per drop.

use netns_ebpf_common::counters::{Hook, verdict_index};
use netns_ebpf_common::verdict::{DropReason, Kind, Verdict};

use crate::maps;
use crate::packet::Packet;

/// Counts a verdict of a hook, and the reason if it is a drop; a build with the feature `trace` logs it as well.
#[inline(always)]
pub fn count(pkt: &Packet, hook: Hook, verdict: Verdict) {
    #[cfg(feature = "trace")]
    pkt.log(hook, verdict);
    #[cfg(not(feature = "trace"))]
    let _ = pkt;
    maps::count_verdict(verdict_index(hook, verdict.kind()));
    if verdict.kind().is_drop() {
        maps::count_drop(verdict.reason());
    }
}

/// Counts a packet its pod sent; one that was put aside counts when it comes by again.
#[inline(always)]
pub fn count_endpoint_tx(slot: u32, len_bytes: usize, verdict: Verdict) {
    if matches!(verdict.kind(), Kind::Held) {
        return;
    }
    maps::with_endpoint_stats(slot, |s| {
        s.tx_packets += 1;
        s.tx_bytes += len_bytes as u64;
        if verdict.kind().is_drop() {
            s.tx_dropped += 1;
        }
    });
}

/// Counts a packet delivered to a pod.
#[inline(always)]
pub fn count_endpoint_rx(slot: u32, len_bytes: usize) {
    maps::with_endpoint_stats(slot, |s| {
        s.rx_packets += 1;
        s.rx_bytes += len_bytes as u64;
    });
}

/// Counts a flow that was refused.
#[inline(always)]
pub fn count_refused(slot: u32, reason: DropReason) {
    maps::with_endpoint_stats(slot, |s| match reason {
        DropReason::FlowLimit => s.refused_limit += 1,
        DropReason::FlowTableFull => s.refused_table += 1,
        DropReason::PortsExhausted => s.refused_ports += 1,
        _ => {}
    });
}

/// Counts a packet for a pod that did not get through.
#[inline(always)]
pub fn count_endpoint_rx_drop(slot: u32) {
    maps::with_endpoint_stats(slot, |s| s.rx_dropped += 1);
}
