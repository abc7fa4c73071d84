//! Published ports.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use netns_ebpf_common::flow::proto;
use netns_ebpf_common::publish::{Backends, Publish};

use super::buckets::{Share, assign};
use super::{Host, WiringError};
use crate::datapath::{FlowRecord, PublishPorts};
use crate::netlink::abort_connections;
use crate::netns::Netns;
use crate::topology::Allow;

/// A declaration: host ports that lead to pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishSpec {
    /// Index, below `abi::MAX_PUBLISHES`.
    pub id: u32,
    /// The store's id of the declaration, not 0.
    pub owner: u64,
    /// The pods, at least one.
    pub backends: Vec<BackendSpec>,
    /// A client's address says which of them its flows go to.
    pub sticky: bool,
    /// Who may come in.
    pub allow: Allow,
    /// New flows are accepted; without it only those that exist go on.
    pub active: bool,
    /// Reachable from the host itself only.
    pub loopback: bool,
    /// The ports.
    pub ports: PublishPorts,
}

/// A pod behind published ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// The pod's slot.
    pub slot: u32,
    /// Its name.
    pub name: String,
    /// Its share of the new flows, not 0.
    pub weight: u32,
    /// It gets new flows; without it only those it has go on.
    pub open: bool,
}

impl PublishSpec {
    fn open(&self) -> impl Iterator<Item = &BackendSpec> {
        self.backends.iter().filter(|b| b.open)
    }

    fn declaration(&self) -> Publish {
        let flag = |on, flag| if on { flag } else { 0 };
        let first = self.open().next().or(self.backends.first());
        Publish {
            slot: first.map_or(u32::MAX, |b| b.slot),
            flags: flag(self.active && self.open().next().is_some(), Publish::ACTIVE)
                | flag(self.loopback, Publish::LOOPBACK)
                | flag(!self.allow.is_anyone(), Publish::RESTRICTED)
                | flag(self.open().nth(1).is_some(), Publish::SEVERAL)
                | flag(self.sticky, Publish::STICKY),
            owner: self.owner,
        }
    }

    /// The table of those that have several backends to choose from.
    fn table(&self) -> Option<Backends> {
        let open: Vec<&BackendSpec> = self.open().collect();
        let shares: Vec<_> = open.iter().map(|b| Share { name: &b.name, weight: b.weight }).collect();
        #[expect(clippy::cast_possible_truncation, reason = "slots are below `abi::MAX_ENDPOINTS`")]
        let slot = |i: usize| open[i].slot as u16;
        (open.len() > 1).then(|| Backends { slots: assign(&shares).map(slot) })
    }

    /// Whether a flow that is no connection may go on as it is.
    fn keeps(&self, flow: &FlowRecord) -> bool {
        self.active && self.backends.iter().any(|b| Some(b.slot) == flow.target_slot) && self.allow.admits(flow.src)
    }
}

/// Whether a protocol's flows are connections, which stay with the pod that has them whatever becomes of a publish.
const fn is_connection(proto: u8) -> bool {
    matches!(proto, proto::TCP | proto::SCTP)
}

impl Host {
    /// Publishes ports. May be repeated, also to change what they lead to.
    ///
    /// Flows that were opened without the declaration are left: they belong to somebody else.
    pub fn wire_publish(&self, spec: &PublishSpec) -> Result<(), WiringError> {
        self.around(spec, || Ok(self.datapath.put_publish(spec.id, &spec.declaration(), &spec.ports)?))
    }

    /// Gives a live publish other backends, clients or flags: one write, which all of its ports follow.
    ///
    /// Its connections stay where they are, but for those of clients that may not come in any more, which end with a RST.
    /// Its other flows end unless they could be opened again as they are, so that the next datagram is judged anew. The
    /// write is seen by every program before that, so that none is made as before after it. May be repeated.
    ///
    /// `netns` finds the namespace of the pod in a slot.
    pub fn switch_publish(&self, spec: &PublishSpec, netns: impl Fn(u32) -> Option<Netns>) -> Result<(), WiringError> {
        self.around(spec, || Ok(self.datapath.switch_publish(spec.id, &spec.declaration())?))?;
        self.end_datagrams(spec, |flow| !spec.keeps(flow))?;
        if !spec.allow.is_anyone() {
            self.reset_connections(spec, netns, |flow| !spec.allow.admits(flow.src))?;
            self.end_host_sockets(spec.id, proto::TCP, |_, asked| spec.allow.admits(asked))?;
        }
        let mut pods = HashSet::new();
        for backend in spec.backends.iter().filter(|_| spec.active) {
            let endpoint = self.datapath.endpoint(backend.slot)?;
            pods.extend(endpoint.iter().flat_map(|e| [IpAddr::from(e.addr4), IpAddr::from(e.addr6)]));
        }
        let stays = |end: SocketAddr, asked| pods.contains(&end.ip()) && spec.allow.admits(asked);
        self.end_host_sockets(spec.id, proto::UDP, stays)
    }

    /// Withdraws ports. `false`: the index is free or another owner's.
    ///
    /// Connections that came in by them run on, and are no publish's any more; other flows end.
    pub fn unwire_publish(&self, spec: &PublishSpec) -> Result<bool, WiringError> {
        let removed = self.datapath.remove_publish(spec.id, spec.owner, &spec.ports)?;
        if removed {
            self.end_datagrams(spec, |_| true)?;
            self.datapath.orphan_flows(spec.id)?;
            self.end_host_sockets(spec.id, proto::UDP, |_, _| false)?;
            self.datapath.orphan_host_peers(spec.id)?;
        }
        Ok(removed)
    }

    /// Withdraws ports and nothing else, for when all flows, and the maps, go anyway.
    pub fn forget_publish(&self, spec: &PublishSpec) -> Result<bool, WiringError> {
        let ours = self.datapath.publish(spec.id)?.is_some_and(|live| live.owner == spec.owner);
        if ours {
            self.datapath.withdraw_ports(spec.id, &spec.ports)?;
        }
        Ok(ours)
    }

    /// Takes no new flows by a publish from now on, and ends the TCP connections it has with a RST.
    pub fn reset_publish(&self, spec: &PublishSpec, netns: impl Fn(u32) -> Option<Netns>) -> Result<(), WiringError> {
        self.switch_publish(&PublishSpec { active: false, ..spec.clone() }, &netns)?;
        self.reset_connections(spec, netns, |_| true)?;
        self.end_host_sockets(spec.id, proto::TCP, |_, _| false)
    }

    /// Changes a declaration between what it needs and what it leaves behind: clients and backends are there before it asks
    /// for them, and go when it does no more. A new one leaves nothing: whoever was killed making or changing another of its
    /// index has an heir that cleared up.
    fn around(&self, spec: &PublishSpec, change: impl FnOnce() -> Result<(), WiringError>) -> Result<(), WiringError> {
        let (table, prefixes) = (spec.table(), spec.allow.prefixes().unwrap_or_default());
        let live = self.datapath.publish(spec.id)?;
        if live.is_some_and(|live| live.owner != spec.owner) {
            // Refused there, and what belongs to the other is left alone.
            return change();
        }
        if table.is_some() {
            self.datapath.set_backends(spec.id, table.as_ref())?;
        }
        self.datapath.add_allowed(spec.id, prefixes)?;
        change()?;
        if live.is_some() {
            if table.is_none() {
                self.datapath.set_backends(spec.id, None)?;
            }
            self.datapath.sync_allowed(spec.id, prefixes)?;
        }
        Ok(())
    }

    /// Ends TCP connections of a publish, those whose opener's direction is `doomed`.
    ///
    /// The pod's kernel ends each ([`abort_connections`]); its RST goes to the client along the flow, which therefore stays
    /// and is forgotten soon. A connection that kernel does not have (it has ended there, or is another TCP's) loses its
    /// flow: the client's next packet reaches the host, which has no such connection, and gets its RST from there.
    fn reset_connections(
        &self,
        spec: &PublishSpec,
        netns: impl Fn(u32) -> Option<Netns>,
        doomed: impl Fn(&FlowRecord) -> bool,
    ) -> Result<(), WiringError> {
        let ours = |flow: &FlowRecord| flow.publish == Some(spec.id) && flow.proto == proto::TCP && flow.original;
        let ends = |flow: &FlowRecord| {
            (SocketAddr::new(flow.to_dst, flow.to_dport), SocketAddr::new(flow.to_src, flow.to_sport))
        };
        let mut connections: BTreeMap<u32, Vec<(SocketAddr, SocketAddr)>> = BTreeMap::new();
        for flow in self.datapath.flows()?.iter().filter(|flow| ours(flow) && doomed(flow)) {
            if let Some(slot) = flow.target_slot {
                connections.entry(slot).or_default().push(ends(flow));
            }
        }
        let mut ended = BTreeMap::new();
        for (slot, connections) in &connections {
            let Some(netns) = netns(*slot) else { continue };
            match abort_connections(&netns, connections) {
                Ok(done) => drop(ended.insert(Some(*slot), done)),
                // A kernel without CONFIG_INET_DIAG_DESTROY, for one. To stop here would keep the ports published.
                Err(e) => tracing::warn!("{e}: the pod finds out by itself that its connections are gone"),
            }
        }
        let has_ended = |flow: &FlowRecord| ended.get(&flow.target_slot).is_some_and(|done| done.contains(&ends(flow)));
        self.datapath.delete_flows(|flow| ours(flow) && doomed(flow) && !has_ended(flow))?;
        Ok(())
    }

    /// Ends flows of a publish that are no connections, those whose opener's direction is `doomed`.
    fn end_datagrams(&self, spec: &PublishSpec, doomed: impl Fn(&FlowRecord) -> bool) -> Result<(), WiringError> {
        self.datapath.wait_for_programs()?;
        let ours = |flow: &FlowRecord| flow.publish == Some(spec.id) && !is_connection(flow.proto) && flow.original;
        self.datapath.delete_flows(|flow| ours(flow) && doomed(flow))?;
        Ok(())
    }
}
