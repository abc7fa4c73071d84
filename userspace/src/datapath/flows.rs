//! Flows, for listing and for removal by rule.

use std::fmt::Debug;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use netns_ebpf_common::abi::map;
use netns_ebpf_common::flow::{FlowEntry, FlowFlags, FlowKey, wide};
use netns_ebpf_common::plain::Plain;
use netns_ebpf_common::proto;
use netns_ebpf_common::state::State;
use netns_ebpf_common::{Addr4, Addr6};

use super::{Datapath, DatapathError, call, io_error};

/// One direction of a flow, whatever its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Network id or `abi::ZONE_HOST`: where the tuple was seen.
    pub zone: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Source as it arrives.
    pub src: IpAddr,
    /// Source port as it arrives.
    pub sport: u16,
    /// Destination as it arrives.
    pub dst: IpAddr,
    /// Destination port as it arrives.
    pub dport: u16,
    /// Source after translation.
    pub to_src: IpAddr,
    /// Source port after translation.
    pub to_sport: u16,
    /// Destination after translation.
    pub to_dst: IpAddr,
    /// Destination port after translation.
    pub to_dport: u16,
    /// Zone of the other direction.
    pub peer_zone: u16,
    /// Where it goes: a pod's slot.
    pub target_slot: Option<u32>,
    /// Where it goes: an uplink's index.
    pub target_uplink: Option<u32>,
    /// The opener's direction; false for both entries of a mapping.
    pub original: bool,
    /// An entry of a mapping (see `netns_ebpf_common::mapping`): how many flows it counts, always 0 in the outside one.
    pub mapping: Option<u32>,
    /// Packets come back in by the uplink: hairpin.
    pub hairpin: bool,
    /// Connection state.
    pub state: State,
    /// `CLOCK_MONOTONIC` of the last packet in this direction.
    pub last_seen_ns: u64,
    /// The slot it is accounted to.
    pub owner_slot: Option<u32>,
    /// The publish it came in by.
    pub publish: Option<u32>,
}

/// A family's flow map.
pub(super) trait FlowFamily: Copy + Debug + Default + PartialEq + Into<IpAddr> + 'static {
    const MAP: &'static str;
    /// Of the Internet protocol.
    const VERSION: u32;
}

impl FlowFamily for Addr4 {
    const MAP: &'static str = map::FLOWS4;
    const VERSION: u32 = 4;
}

impl FlowFamily for Addr6 {
    const MAP: &'static str = map::FLOWS6;
    const VERSION: u32 = 6;
}

impl FlowRecord {
    pub(super) fn new<A: FlowFamily>(key: &FlowKey<A>, entry: &FlowEntry<A>) -> Self {
        let present = |v: u16| (wide(v) != FlowEntry::<A>::NO_OWNER).then_some(wide(v));
        let target = entry.target();
        let uplink = target.is_uplink();
        Self {
            zone: key.zone,
            proto: key.proto,
            src: key.tuple.src.into(),
            sport: key.tuple.sport.get(),
            dst: key.tuple.dst.into(),
            dport: key.tuple.dport.get(),
            to_src: entry.to.src.into(),
            to_sport: entry.to.sport.get(),
            to_dst: entry.to.dst.into(),
            to_dport: entry.to.dport.get(),
            peer_zone: entry.peer_zone,
            target_slot: (!uplink).then_some(target.id),
            target_uplink: uplink.then_some(target.id),
            original: entry.is_original(),
            mapping: entry.flags.has(FlowFlags::MAPPING).then_some(entry.ack),
            hairpin: entry.flags.has(FlowFlags::HAIRPIN),
            state: State::from_u8(entry.state),
            last_seen_ns: entry.last_seen_ns,
            owner_slot: present(entry.owner_slot),
            publish: present(entry.publish),
        }
    }

    /// Whether it is a connection, which stays where it is whatever becomes of the publish or route it was opened by: the next
    /// packet of anything else may as well open another flow.
    pub const fn is_connection(&self) -> bool {
        matches!(self.proto, proto::TCP | proto::SCTP)
    }

    /// Whether the flow's direction leads to, or is accounted to, the pod in this slot.
    pub fn concerns_slot(&self, slot: u32) -> bool {
        self.target_slot == Some(slot) || self.owner_slot == Some(slot)
    }
}

impl Datapath {
    /// All flow entries of both families: two for each flow.
    pub fn flows(&self) -> Result<Vec<FlowRecord>, DatapathError> {
        let mut records = Vec::new();
        self.visit_flows(|record| records.push(record))?;
        Ok(records)
    }

    /// Visits all flow entries of both families.
    pub fn visit_flows(&self, mut visit: impl FnMut(FlowRecord)) -> Result<(), DatapathError> {
        self.each_flow::<Addr4>(|key, entry| visit(FlowRecord::new(key, entry)))?;
        self.each_flow::<Addr6>(|key, entry| visit(FlowRecord::new(key, entry)))
    }

    /// Returns when every program that ran before the call has ended: flows made after it are made of what the maps hold
    /// now.
    ///
    /// # Errors
    ///
    /// The kernel refuses the map that is made for it, for want of memory.
    pub fn wait_for_programs(&self) -> Result<(), DatapathError> {
        call::wait_for_programs().map_err(|e| io_error("for waiting", "wait for programs", e))
    }

    pub(super) fn each_flow<A: FlowFamily>(
        &self,
        mut visit: impl FnMut(&FlowKey<A>, &FlowEntry<A>),
    ) -> Result<(), DatapathError>
    where
        FlowKey<A>: Plain,
        FlowEntry<A>: Plain,
    {
        let data = self.map_data(A::MAP)?;
        let read = call::walk(data.fd().as_fd(), 0, |keys: &[FlowKey<A>], entries: &[FlowEntry<A>]| {
            keys.iter().zip(entries).for_each(|(key, entry)| visit(key, entry));
            ControlFlow::Continue(())
        });
        read.map_err(|e| io_error(A::MAP, "list flows", e))
    }
}
