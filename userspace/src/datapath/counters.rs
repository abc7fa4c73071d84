//! Counters, added up over the CPUs.

use aya::Pod;
use aya::maps::PerCpuValues;
use aya::util::nr_cpus;
use netns_ebpf_common::abi::map;
use netns_ebpf_common::counters::{EndpointCounters, Hook, PublishCounters, verdict_index};
use netns_ebpf_common::shared::Shared;
use netns_ebpf_common::verdict::{DropReason, Kind};

use super::{Datapath, DatapathError, map_error};

/// Packets that left a hook in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictCount {
    /// The hook.
    pub hook: Hook,
    /// The way out.
    pub kind: Kind,
    /// How many.
    pub packets: u64,
}

/// Packets dropped for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCount {
    /// The reason.
    pub reason: DropReason,
    /// How many.
    pub packets: u64,
}

impl Datapath {
    /// A slot's counters.
    pub fn endpoint_counters(&self, slot: u32) -> Result<EndpointCounters, DatapathError> {
        self.sum(map::ENDPOINT_STATS, slot, |sum: EndpointCounters, cpu| EndpointCounters {
            tx_packets: sum.tx_packets.wrapping_add(cpu.tx_packets),
            tx_bytes: sum.tx_bytes.wrapping_add(cpu.tx_bytes),
            rx_packets: sum.rx_packets.wrapping_add(cpu.rx_packets),
            rx_bytes: sum.rx_bytes.wrapping_add(cpu.rx_bytes),
            tx_dropped: sum.tx_dropped.wrapping_add(cpu.tx_dropped),
            rx_dropped: sum.rx_dropped.wrapping_add(cpu.rx_dropped),
            refused_limit: sum.refused_limit.wrapping_add(cpu.refused_limit),
            refused_table: sum.refused_table.wrapping_add(cpu.refused_table),
            refused_ports: sum.refused_ports.wrapping_add(cpu.refused_ports),
        })
    }

    /// A declaration's counters.
    pub fn publish_counters(&self, id: u32) -> Result<PublishCounters, DatapathError> {
        self.sum(map::PUBLISH_STATS, id, |sum: PublishCounters, cpu| PublishCounters {
            flows: Shared::new(sum.flows.get().wrapping_add(cpu.flows.get())),
            packets: sum.packets.wrapping_add(cpu.packets),
            bytes: sum.bytes.wrapping_add(cpu.bytes),
        })
    }

    /// Every hook's packets by way out: one element for each pair, zeros included.
    pub fn verdicts(&self) -> Result<Vec<VerdictCount>, DatapathError> {
        let mut counts = Vec::new();
        for hook in Hook::ALL {
            for kind in Kind::ALL {
                let packets = self.sum(map::VERDICTS, verdict_index(hook, kind), u64::wrapping_add)?;
                counts.push(VerdictCount { hook, kind, packets });
            }
        }
        Ok(counts)
    }

    /// Dropped packets by reason: one element for each reason, zeros included.
    pub fn drops(&self) -> Result<Vec<DropCount>, DatapathError> {
        DropReason::ALL
            .iter()
            .map(|&reason| {
                let packets = self.sum(map::DROPS, reason as u32, u64::wrapping_add)?;
                Ok(DropCount { reason, packets })
            })
            .collect()
    }

    fn sum<V: Pod + Default>(
        &self,
        name: &'static str,
        index: u32,
        add: impl Fn(V, V) -> V,
    ) -> Result<V, DatapathError> {
        let values =
            self.per_cpu::<V>(name)?.get(&index, 0).map_err(|e| map_error(name, format!("read counter {index}"), e))?;
        Ok(values.iter().fold(V::default(), |sum, v| add(sum, *v)))
    }

    pub(super) fn clear_per_cpu<V: Pod + Default>(&self, name: &'static str, index: u32) -> Result<(), DatapathError> {
        let fail = |e| map_error(name, format!("clear counter {index}"), e);
        let cpus = nr_cpus().map_err(|(_, e)| fail(e.into()))?;
        let zeros = PerCpuValues::try_from(vec![V::default(); cpus]).map_err(|e| fail(e.into()))?;
        self.per_cpu::<V>(name)?.set(index, zeros, 0).map_err(fail)
    }
}
