//! Published ports.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use netns_ebpf_common::proto;
use netns_ebpf_common::publish::{Backends, Publish};

use super::buckets::{Share, assign};
use super::publish_flows::Ended;
use super::{Host, WiringError};
use crate::datapath::{FlowRecord, PublishPorts};
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
    pub(super) fn keeps(&self, flow: &FlowRecord) -> bool {
        self.active && self.backends.iter().any(|b| Some(b.slot) == flow.target_slot) && self.allow.admits(flow.src)
    }
}

impl Host {
    /// Publishes ports. May be repeated, also to change what they lead to.
    ///
    /// Flows that were opened without the declaration are left: they belong to somebody else.
    pub fn wire_publish(&self, spec: &PublishSpec) -> Result<(), WiringError> {
        self.around(spec, || Ok(self.datapath.put_publish(spec.id, &spec.declaration(), &spec.ports)?))
    }

    /// Gives live publishes other backends, clients or flags: one write each, which all of its ports follow.
    ///
    /// Their connections stay where they are, but for those of clients that may not come in any more, which end with a RST.
    /// Their other flows end unless they could be opened again as they are, so that the next datagram is judged anew. The
    /// writes are seen by every program before that, so that none is made as before after it. May be repeated.
    ///
    /// `netns` finds the namespace of the pod in a slot.
    pub fn switch_publishes(
        &self,
        specs: &[PublishSpec],
        netns: impl Fn(u32) -> Option<Netns>,
    ) -> Result<(), WiringError> {
        for spec in specs {
            self.around(spec, || Ok(self.datapath.switch_publish(spec.id, &spec.declaration())?))?;
        }
        let ended = Ended::of(specs);
        self.end_datagrams(&ended, |spec, flow| !spec.keeps(flow))?;
        let restricted = Ended::of(specs.iter().filter(|spec| !spec.allow.is_anyone()));
        self.reset_connections(&restricted, netns, |spec, flow| !spec.allow.admits(flow.src))?;
        self.end_host_sockets(&restricted, proto::TCP, |spec, _, asked| spec.allow.admits(asked))?;
        let mut pods = HashSet::new();
        for spec in specs.iter().filter(|spec| spec.active) {
            for backend in &spec.backends {
                let endpoint = self.datapath.endpoint(backend.slot)?;
                let addresses = endpoint.iter().flat_map(|e| [IpAddr::from(e.addr4), IpAddr::from(e.addr6)]);
                pods.extend(addresses.map(|address| (spec.id, address)));
            }
        }
        let stays = |spec: &PublishSpec, end: SocketAddr, asked| {
            pods.contains(&(spec.id, end.ip())) && spec.allow.admits(asked)
        };
        self.end_host_sockets(&ended, proto::UDP, stays)
    }

    /// Withdraws ports; says of how many publishes: the index of others is another owner's. May be repeated.
    ///
    /// Connections that came in by them run on, and are no publish's any more; other flows end, or count as absent. Among many
    /// none are looked for, which would take longer the more there are: the index rests then until somebody sweeps.
    pub fn unwire_publishes(&self, specs: &[PublishSpec]) -> Result<usize, WiringError> {
        let mut ours = Vec::new();
        for spec in specs {
            if self.datapath.withdraw_publish(spec.id, spec.owner, &spec.ports)? {
                ours.push(spec);
            }
        }
        let ended = Ended::of(ours);
        let few = self.datapath.has_few_flows()?;
        if few {
            self.end_datagrams(&ended, |_, _| true)?;
            self.datapath.orphan_flows(&ended.indexes())?;
        }
        self.end_host_sockets(&ended, proto::UDP, |_, _, _| false)?;
        self.datapath.orphan_host_peers(&ended.indexes())?;
        // Last: the index has no other owner until all of this is done, and after a kill the next verb does the rest.
        ended
            .indexes()
            .into_iter()
            .try_for_each(|id| if few { self.datapath.free_publish(id) } else { self.datapath.rest_publish(id) })?;
        Ok(ended.len())
    }

    /// Withdraws ports and nothing else, for when all flows, and the maps, go anyway.
    pub fn forget_publish(&self, spec: &PublishSpec) -> Result<(), WiringError> {
        if self.datapath.publish(spec.id)?.is_some_and(|live| live.owner == spec.owner) {
            self.datapath.withdraw_ports(spec.id, &spec.ports)?;
        }
        Ok(())
    }

    /// Takes no new flows by publishes from now on, and ends the TCP connections they have with a RST.
    pub fn reset_publishes(
        &self,
        specs: &[PublishSpec],
        netns: impl Fn(u32) -> Option<Netns>,
    ) -> Result<(), WiringError> {
        let closed: Vec<_> = specs.iter().map(|spec| PublishSpec { active: false, ..spec.clone() }).collect();
        self.switch_publishes(&closed, &netns)?;
        let ended = Ended::of(&closed);
        self.reset_connections(&ended, netns, |_, _| true)?;
        self.end_host_sockets(&ended, proto::TCP, |_, _, _| false)
    }

    /// Changes a declaration between what it needs and what it leaves behind: clients and backends are there before it asks
    /// for them, and go when it does no more. A new one leaves nothing: what a killed verb left at this index
    /// the next verb has undone before this runs.
    fn around(&self, spec: &PublishSpec, change: impl FnOnce() -> Result<(), WiringError>) -> Result<(), WiringError> {
        let (table, prefixes) = (spec.table(), spec.allow.prefixes().unwrap_or_default());
        let mut live = self.datapath.publish(spec.id)?;
        if live.is_some_and(|live| live.is_resting() && live.owner != spec.owner) {
            // No other was to be had.
            self.datapath.mark_resting()?;
            self.datapath.sweep_resting()?;
            live = self.datapath.publish(spec.id)?;
        }
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
            let was_restricted = live.is_some_and(|live| live.flags & Publish::RESTRICTED != 0);
            if was_restricted || !spec.allow.is_anyone() {
                self.datapath.sync_allowed(spec.id, prefixes)?;
            }
        }
        Ok(())
    }
}
