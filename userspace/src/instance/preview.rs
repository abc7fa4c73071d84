//! What a plan does, in words: before it is carried out, and as it is.

use std::collections::HashMap;

use super::plan::{self, Plan, Surroundings};
use super::platform::Platform;
use super::session::look_around;
use super::{Applied, DifferenceView, Instance, InstanceError, differences};
use crate::netns::pids_by_namespace;
use crate::store::{
    AttachmentRow, Change, InstanceRow, Phase, PodRow, PublishRow, Row, Source, State, Store, Withdrawal,
};
use crate::topology::{Document, InputError, Problem};

impl<P: Platform> Instance<P> {
    /// What [`Instance::up`] would do, in the words it would say it in. Takes no lock and changes nothing; ids and what the
    /// kernel has yet to choose are not the ones `up` will hand out. What a killed verb left is taken as undone.
    ///
    /// # Errors
    ///
    /// Input that `up` refuses, pods in which processes run unless `prune`, or the host cannot be read.
    pub fn plan(&mut self, document: &Document, prune: bool) -> Result<Applied, InstanceError> {
        self.platform.check()?;
        let mut state = match self.dirs.open()? {
            Some(store) => store.load()?,
            None => State::default(),
        };
        if let Some(row) = state.instance.clone() {
            self.check_host(&row, false)?;
        }
        let is_whole = state.rows().all(|row| row.phase() == Phase::Ready);
        if state.instance.as_ref().is_some_and(|row| !row.phase.is_live()) {
            state = State::default();
        }
        let cut_off: Vec<Change> =
            state.rows().filter(|r| !r.phase().is_live()).map(|r| Change::Delete(r.id())).collect();
        state.apply(&cut_off);
        let routes = plan::needs_routes(&state, &document.topology);
        let host_netns = self.host_netns.as_deref();
        let (facts, others) = look_around(&self.platform, &self.dirs, host_netns, &state, routes)?;
        let host = Surroundings {
            facts: &facts,
            ports: &self.platform,
            rests: &|number| self.platform.rests(number),
            instance: self.dirs.name(),
            host_id: self.platform.host_id().unwrap_or_default(),
            others: &others,
        };
        let ids = state.pods.iter().map(|p| p.id).chain(state.attachments.iter().map(|a| a.id));
        let mut last = ids.chain(state.publishes.iter().map(|q| q.id)).max().unwrap_or(0);
        let plan = plan::up(&state, host_netns, document, &host, &mut || {
            last += 1;
            Ok(last)
        })?;
        if !prune {
            plan.spare(&state, document)?;
        }
        let mut applied = Applied { instance: self.dirs.name().to_owned(), ..Applied::default() };
        if state.instance.is_some() {
            for difference in differences(self.dirs.name(), &state, &self.platform.observe(&state)?) {
                match difference.trouble.repair() {
                    Ok(_) => applied.mended.push(DifferenceView::from(&difference)),
                    Err(_) => tracing::warn!("not to be mended: {difference}"),
                }
            }
        }
        applied.changed = !plan.is_empty() || !applied.mended.is_empty() || !is_whole;
        plan.tell(state, &mut applied);
        Ok(applied)
    }
}

impl Plan {
    /// Refuses what a file may do that was cut off, or was not meant for this instance: to take away all there is, or pods in which
    /// processes run.
    pub(super) fn spare(&self, state: &State, document: &Document) -> Result<(), InstanceError> {
        if document.topology.is_empty() && self.removes_something() {
            return Err(InputError::new("the file", "", Problem::DeclaresNothing).into());
        }
        self.spare_processes(state)
    }

    /// Refuses to delete pods in which processes run.
    fn spare_processes(&self, state: &State) -> Result<(), InstanceError> {
        if self.remove_pods.is_empty() {
            return Ok(());
        }
        let processes: HashMap<_, _> = pids_by_namespace()?;
        // One that is somebody else's goes on.
        let ends = |p: &&PodRow| self.remove_pods.contains(&p.id) && p.source == Source::Made;
        let going = state.pods.iter().filter(ends);
        let occupied: Vec<String> = going
            .filter_map(|pod| Some((pod, processes.get(&pod.netns?)?)))
            .map(|(pod, pids)| format!("{} (pid {})", pod.name, pids.first().copied().unwrap_or_default()))
            .collect();
        if occupied.is_empty() { Ok(()) } else { Err(InstanceError::Occupied(occupied)) }
    }

    /// Says all that the plan does to `state`.
    fn tell(&self, mut state: State, applied: &mut Applied) {
        state.apply(&self.rows().map(Change::Put).collect::<Vec<_>>());
        let changes = self.commitment(&state, applied);
        let gone = changes.iter().filter_map(|change| match change {
            Change::Put(row) if row.phase() == Phase::Deleting => Some(Change::Delete(row.id())),
            _ => None,
        });
        let gone: Vec<Change> = gone.collect();
        state.apply(&changes);
        state.apply(&gone);
        self.tell_added(&state, applied);
    }

    /// Says what is new, once the plan is carried out on `state`.
    pub(super) fn tell_added(&self, state: &State, applied: &mut Applied) {
        // As it was: the state may be the one to come already.
        applied.settings_changed.clone_from(&self.settings);
        applied.networks_added = self.networks.iter().map(|n| n.network.name.clone()).collect();
        let is_new = |name: &str| self.pods.iter().any(|p| p.name == name);
        applied.pods_added = state.pod_views().into_iter().filter(|v| is_new(&v.name)).collect();
        let is_new = |a: &&AttachmentRow| !self.pods.iter().any(|p| p.id == a.pod);
        applied.interfaces_added = self.attachments.iter().filter(is_new).map(|a| state.interface_view(a)).collect();
        applied.publishes_added = self.publishes.iter().map(|q| state.publish_view(q)).collect();
    }

    /// The step after which what is new is live, and what goes is going.
    pub(super) fn commitment(&self, state: &State, applied: &mut Applied) -> Vec<Change> {
        let mut changes = Vec::new();
        for row in state.rows().filter(|r| r.phase() == Phase::Creating) {
            // One that was made without addresses which another has gets them when that has gone.
            let waits = matches!(&row, Row::Attachment(a) if state.shares_address(a));
            changes.push(Change::Put(row.at(if waits { Phase::Updating } else { Phase::Ready })));
        }
        let mut settled = Vec::new();
        if let (Some(new), Some(now)) = (&self.instance_changed, &state.instance) {
            applied.nat_changed = (new.nat != now.nat).then_some(new.nat);
            // What else is known of it may have moved on since the plan was made.
            let reserved_ports = now.reserved_ports.clone();
            let uplinks = if new.host.uplink == now.host.uplink { &now.uplinks } else { &new.uplinks }.clone();
            settled.push(Row::from(InstanceRow { reserved_ports, uplinks, ..new.clone() }));
        }
        settled.extend(self.networks_changed.iter().cloned().map(Row::from));
        changes.extend(settled.into_iter().map(|row| Change::Put(row.at(Phase::Updating))));
        changes.extend(self.attachments_changed.iter().cloned().map(Change::put));
        for row in &state.publishes {
            let backends = self.backends_left(state, row);
            if self.removes_publish(state, row) {
                applied.publishes_removed.push(state.publish_view(row));
                let withdrawal = if self.reset { Withdrawal::Reset } else { Withdrawal::RunOn };
                changes.push(Change::Put(Row::from(PublishRow { withdrawal, ..row.clone() }).at(Phase::Deleting)));
            } else if let Some(switched) = self.switched.iter().find(|q| q.id == row.id) {
                applied.publishes_changed.push(state.publish_view(switched));
                changes.push(Change::Put(Row::from(switched.clone()).at(Phase::Updating)));
            } else if backends.len() < row.backends.len() {
                // A pod that goes leaves it before; the others take over.
                let row = PublishRow { backends, ..row.clone() };
                applied.publishes_changed.push(state.publish_view(&row));
                changes.push(Change::Put(Row::from(row).at(Phase::Updating)));
            }
        }
        for row in state.rows() {
            let goes = match &row {
                Row::Pod(p) => self.remove_pods.contains(&p.id),
                Row::Attachment(a) => self.removes_attachment(a),
                Row::Network(n) => self.remove_networks.contains(&n.id),
                Row::Instance(_) | Row::Publish(_) => false,
            };
            if goes {
                match &row {
                    Row::Pod(p) => applied.pods_removed.push(p.name.clone()),
                    Row::Network(n) => applied.networks_removed.push(n.network.name.clone()),
                    Row::Attachment(a) if !self.remove_pods.contains(&a.pod) => {
                        applied.interfaces_removed.push(state.interface_view(a));
                    }
                    _ => {}
                }
                changes.push(Change::Put(row.at(Phase::Deleting)));
            }
        }
        changes
    }
}
