//! Flows of published ports that end when what the ports lead to changes.
//!
//! All publishes that change together are dealt with together: however many they are, programs are waited for once and the
//! flow table is read a few times.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use netns_ebpf_common::proto;

use super::{Host, PublishSpec, WiringError};
use crate::datapath::FlowRecord;
use crate::netlink::{abort_connections, abort_sockets};
use crate::netns::Netns;

/// Publishes some of whose flows end, by index.
pub(super) struct Ended<'a>(BTreeMap<u32, &'a PublishSpec>);

impl<'a> Ended<'a> {
    pub(super) fn of(specs: impl IntoIterator<Item = &'a PublishSpec>) -> Self {
        Self(specs.into_iter().map(|spec| (spec.id, spec)).collect())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn indexes(&self) -> BTreeSet<u32> {
        self.0.keys().copied().collect()
    }

    /// The publish of an opener's direction; each flow has one.
    fn of_flow(&self, flow: &FlowRecord) -> Option<&'a PublishSpec> {
        flow.publish.filter(|_| flow.original).and_then(|id| self.0.get(&id).copied())
    }
}

/// The pod's end of a connection to it, and the client's.
const fn ends(flow: &FlowRecord) -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(flow.to_dst, flow.to_dport), SocketAddr::new(flow.to_src, flow.to_sport))
}

impl Host {
    /// Ends TCP connections of publishes, those whose opener's direction is `doomed`.
    ///
    /// The pod's kernel ends each ([`abort_connections`]); its RST goes to the client along the flow, which therefore stays
    /// and is forgotten soon. A connection that kernel does not have (it has ended there, or is another TCP's) loses its
    /// flow: the client's next packet reaches the host, which has no such connection, and gets its RST from there.
    pub(super) fn reset_connections(
        &self,
        publishes: &Ended<'_>,
        netns: impl Fn(u32) -> Option<Netns>,
        doomed: impl Fn(&PublishSpec, &FlowRecord) -> bool,
    ) -> Result<(), WiringError> {
        if publishes.is_empty() {
            return Ok(());
        }
        let goes = |flow: &FlowRecord| {
            flow.proto == proto::TCP && publishes.of_flow(flow).is_some_and(|spec| doomed(spec, flow))
        };
        let mut connections: BTreeMap<u32, Vec<(SocketAddr, SocketAddr)>> = BTreeMap::new();
        self.datapath.visit_flows(|flow| {
            if let Some(slot) = flow.target_slot.filter(|_| goes(&flow)) {
                connections.entry(slot).or_default().push(ends(&flow));
            }
        })?;
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
        self.datapath.delete_flows(|flow| goes(flow) && !has_ended(flow))?;
        Ok(())
    }

    /// Ends flows of publishes that are no connections, those whose opener's direction is `doomed`.
    pub(super) fn end_datagrams(
        &self,
        publishes: &Ended<'_>,
        doomed: impl Fn(&PublishSpec, &FlowRecord) -> bool,
    ) -> Result<(), WiringError> {
        if publishes.is_empty() {
            return Ok(());
        }
        self.datapath.wait_for_programs()?;
        self.datapath.delete_flows(|flow| {
            !flow.is_connection() && publishes.of_flow(flow).is_some_and(|spec| doomed(spec, flow))
        })?;
        Ok(())
    }

    /// Ends the host's own connected sockets of a protocol that publishes have led to a pod's end, unless `keeps` says by that
    /// end and the address their process asked for that they may stay: they know nothing of the publish, and would go on to
    /// that pod for ever.
    ///
    /// Their programs' next call fails with `ECONNABORTED`; when they connect again they get to where the port leads now.
    pub(super) fn end_host_sockets(
        &self,
        publishes: &Ended<'_>,
        proto: u8,
        keeps: impl Fn(&PublishSpec, SocketAddr, IpAddr) -> bool + Sync,
    ) -> Result<(), WiringError> {
        if publishes.is_empty() {
            return Ok(());
        }
        let peers = self.datapath.host_peers(&publishes.indexes())?;
        if peers.is_empty() {
            return Ok(());
        }
        let doomed = |end, cookie| {
            let peer = peers.get(&(end, cookie)).and_then(|(id, asked)| Some((publishes.0.get(id)?, asked)));
            peer.is_some_and(|(spec, asked)| !keeps(spec, end, *asked))
        };
        // A kernel without CONFIG_INET_DIAG_DESTROY, for one. To stop here would leave the change half-done.
        if let Err(e) = abort_sockets(&self.netns, proto, doomed) {
            tracing::warn!("{e}: sockets of this host stay connected to the pod they have");
        }
        Ok(())
    }
}
