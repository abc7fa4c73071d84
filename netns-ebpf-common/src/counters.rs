//! Per-CPU counters; user space adds the CPUs up.

use crate::plain;
use crate::shared::Shared;
use crate::verdict::Kind;

/// A pod's packets, from the pod's side.
///
/// A GSO packet counts once, with its full length.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EndpointCounters {
    /// Packets the pod sent, dropped ones included.
    pub tx_packets: u64,
    /// Bytes of those, link layer included.
    pub tx_bytes: u64,
    /// Packets delivered to the pod.
    pub rx_packets: u64,
    /// Bytes of those.
    pub rx_bytes: u64,
    /// Packets the pod sent and the data path dropped.
    pub tx_dropped: u64,
    /// Packets for the pod the data path dropped.
    pub rx_dropped: u64,
    /// Flows of the pod's accounts refused because an account was at its limit.
    pub refused_limit: u64,
    /// Flows refused because the table was full.
    pub refused_table: u64,
    /// Flows refused because every port towards their destination was taken.
    pub refused_ports: u64,
}

/// A publish declaration's new flows and packets from clients.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PublishCounters {
    /// New flows, those of the host's own processes included: those count in the middle of whatever their CPU does.
    pub flows: Shared<u64>,
    /// Packets towards the pod.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// The hooks, in the order of their rows in the verdict counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `from_pod`.
    FromPod = 0,
    /// `from_host`.
    FromHost = 1,
    /// `from_uplink`.
    FromUplink = 2,
    /// `from_uplink_l3`.
    FromUplinkL3 = 3,
}

impl Hook {
    /// All of them, in row order.
    pub const ALL: [Self; 4] = [Self::FromPod, Self::FromHost, Self::FromUplink, Self::FromUplinkL3];

    /// The program's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FromPod => crate::abi::program::FROM_POD,
            Self::FromHost => crate::abi::program::FROM_HOST,
            Self::FromUplink => crate::abi::program::FROM_UPLINK,
            Self::FromUplinkL3 => crate::abi::program::FROM_UPLINK_L3,
        }
    }
}

/// Columns of the verdict counters, kinds to come included.
const KINDS: u32 = 16;

/// Elements of the verdict counters.
pub const VERDICT_COUNTERS: u32 = KINDS * Hook::ALL.len() as u32;

/// Index of a hook's verdict kind in the verdict counters.
#[inline(always)]
pub const fn verdict_index(hook: Hook, kind: Kind) -> u32 {
    hook as u32 * KINDS + kind as u32
}

plain!(EndpointCounters {
    tx_packets, tx_bytes, rx_packets, rx_bytes, tx_dropped, rx_dropped, refused_limit, refused_table, refused_ports
}: size 72, align 8);
plain!(PublishCounters { flows, packets, bytes }: size 24, align 8);
