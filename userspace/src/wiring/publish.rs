//! Published ports.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use netns_ebpf_common::flow::{State, proto};
use netns_ebpf_common::publish::Publish;

use super::{Host, WiringError};
use crate::datapath::{FlowRecord, PublishPorts};
use crate::netlink::abort_connections;
use crate::netns::Netns;

/// How long RSTs are given to pass the programs: they take microseconds, but may have to wait for a CPU.
const RESET_PATIENCE: Duration = Duration::from_millis(500);

/// A declaration: host ports that lead to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishSpec {
    /// Index, below `abi::MAX_PUBLISHES`.
    pub id: u32,
    /// The store's id of the declaration, not 0.
    pub owner: u64,
    /// The pod's slot.
    pub slot: u32,
    /// New flows are accepted; without it only those that exist go on.
    pub active: bool,
    /// Reachable from the host itself only.
    pub loopback: bool,
    /// The ports.
    pub ports: PublishPorts,
}

impl PublishSpec {
    fn declaration(&self) -> Publish {
        let active = if self.active { Publish::ACTIVE } else { 0 };
        let loopback = if self.loopback { Publish::LOOPBACK } else { 0 };
        Publish { slot: self.slot, flags: active | loopback, owner: self.owner }
    }
}

impl Host {
    /// Publishes ports. May be repeated, also to change backend and flags.
    ///
    /// Flows that were opened without the declaration are left: they belong to somebody else.
    pub fn wire_publish(&self, spec: &PublishSpec) -> Result<(), WiringError> {
        Ok(self.datapath.put_publish(spec.id, &spec.declaration(), &spec.ports)?)
    }

    /// Gives a live publish another backend or other flags: one write, which all of its ports follow.
    ///
    /// Its TCP flows stay where they are. Its other flows end, so that the next datagram is judged anew; the write is
    /// seen by every program before they do, so that none is made to the old backend after. May be repeated.
    pub fn switch_publish(&self, spec: &PublishSpec) -> Result<(), WiringError> {
        self.datapath.switch_publish(spec.id, &spec.declaration())?;
        self.end_datagrams(spec)?;
        let pod = self.datapath.endpoint(spec.slot)?.filter(|_| spec.active);
        let stay = pod.map(|e| [IpAddr::from(e.addr4), IpAddr::from(e.addr6)]);
        self.end_host_sockets(spec.id, proto::UDP, |end| stay.is_some_and(|pod| pod.contains(&end.ip())))
    }

    /// Withdraws ports. `false`: the index is free or another owner's.
    ///
    /// TCP flows that came in by them run on, and are no publish's any more; other flows end.
    pub fn unwire_publish(&self, spec: &PublishSpec) -> Result<bool, WiringError> {
        let removed = self.datapath.remove_publish(spec.id, spec.owner, &spec.ports)?;
        if removed {
            self.end_datagrams(spec)?;
            self.datapath.orphan_flows(spec.id)?;
            self.end_host_sockets(spec.id, proto::UDP, |_| false)?;
            self.datapath.orphan_host_peers(spec.id)?;
        }
        Ok(removed)
    }

    /// Withdraws ports and nothing else, for when all flows go anyway.
    pub fn forget_publish(&self, spec: &PublishSpec) -> Result<bool, WiringError> {
        Ok(self.datapath.remove_publish(spec.id, spec.owner, &spec.ports)?)
    }

    /// Takes no new flows by a publish from now on, and ends the TCP connections it has. `netns` finds the namespace of
    /// the pod in a slot.
    ///
    /// The pod's kernel ends each connection ([`abort_connections`]); its RST goes to the client along the flow. A
    /// connection the pod's kernel does not have (it has ended there, or is another TCP's) loses its flow only: the client's
    /// next packet reaches the host, which has no such connection, and gets its RST from there.
    pub fn reset_publish(&self, spec: &PublishSpec, netns: impl Fn(u32) -> Option<Netns>) -> Result<(), WiringError> {
        self.switch_publish(&PublishSpec { active: false, ..*spec })?;
        let is_ours = |flow: &FlowRecord| flow.publish == Some(spec.id) && flow.proto == proto::TCP;
        let mut connections: BTreeMap<u32, Vec<(SocketAddr, SocketAddr)>> = BTreeMap::new();
        for flow in self.datapath.flows()?.iter().filter(|flow| is_ours(flow) && flow.original) {
            let Some(slot) = flow.target_slot else { continue };
            let pods_end = SocketAddr::new(flow.to_dst, flow.to_dport);
            connections.entry(slot).or_default().push((pods_end, SocketAddr::new(flow.to_src, flow.to_sport)));
        }
        let mut ended = 0;
        for (slot, connections) in &connections {
            let Some(netns) = netns(*slot) else { continue };
            match abort_connections(&netns, connections) {
                Ok(n) => ended += n,
                // A kernel without CONFIG_INET_DIAG_DESTROY, for one. To stop here would keep the ports published.
                Err(e) => tracing::warn!("{e}: the pod finds out by itself that its connections are gone"),
            }
        }
        // The flows must not go before the RSTs have gone along them.
        let patience = Instant::now() + RESET_PATIENCE;
        while Instant::now() < patience {
            let flows = self.datapath.flows()?;
            let reset = flows.iter().filter(|f| is_ours(f) && f.original && f.state == State::Reset).count();
            if reset >= ended {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.datapath.delete_flows(is_ours)?;
        self.end_host_sockets(spec.id, proto::TCP, |_| false)
    }

    fn end_datagrams(&self, spec: &PublishSpec) -> Result<(), WiringError> {
        self.datapath.wait_for_programs();
        self.datapath.delete_flows(|flow| flow.publish == Some(spec.id) && flow.proto != proto::TCP)?;
        Ok(())
    }
}
