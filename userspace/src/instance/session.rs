//! One mutating verb at work: the lock, the store, and the one way back.

use std::collections::BTreeMap;

use super::plan::Plan;
use super::{Applied, Dirs, Ending, Fabric, FabricError, Instance, InstanceError};
use crate::store::{
    BackendRow, Change, InstanceRow, Phase, PodRow, PublishRow, Row, RowId, Source, SqliteStore, State, Store,
    Withdrawal,
};
use crate::topology::HostFacts;

/// Flow entries of a family a verb sweeps in passing, a fraction of a second's work; `run` does the rest, or the next verb.
const SWEPT_BY_A_VERB: usize = 16_384;

/// The lock and the open store of an instance.
pub(super) struct Session<'a, F> {
    pub(super) fabric: &'a mut F,
    pub(super) store: SqliteStore,
    pub(super) state: State,
    lock: super::lock::Lock,
    dirs: &'a Dirs,
    host_netns: &'a Option<String>,
    opened: bool,
}

impl<F: Fabric> Instance<F> {
    /// Takes the lock and undoes what a killed verb left; `None` when the instance has no state and none is to be made.
    pub(super) fn begin(&mut self, create: bool) -> Result<Option<Session<'_, F>>, InstanceError> {
        if !create && !self.dirs.state().exists() {
            return Ok(None);
        }
        let Some(lock) = self.dirs.lock(create)? else { return Ok(None) };
        let store = if create {
            SqliteStore::create(&self.dirs.database())?
        } else {
            match self.dirs.open_to_write(&lock)? {
                Some(store) => store,
                None => {
                    self.dirs.remove_state(&lock)?;
                    return Ok(None);
                }
            }
        };
        let state = store.load()?;
        if let Some(row) = &state.instance
            && row.host_netns != self.host_netns
        {
            let words = |n: &Option<String>| n.as_ref().map_or("the host's own namespace".to_owned(), Clone::clone);
            return Err(InstanceError::Elsewhere {
                instance: self.dirs.name().to_owned(),
                there: words(&row.host_netns),
                here: words(&self.host_netns),
            });
        }
        let mut session = Session {
            fabric: &mut self.fabric,
            store,
            state,
            lock,
            dirs: &self.dirs,
            host_netns: &self.host_netns,
            opened: false,
        };
        let left = session.undo_unfinished()?;
        if !left.is_empty() {
            return Err(InstanceError::Unfinished(left));
        }
        if !create && session.state.instance.is_none() {
            session.end()?;
            return Ok(None);
        }
        Ok(Some(session))
    }
}

impl<F: Fabric> Session<'_, F> {
    /// The name of the instance.
    pub(super) fn name(&self) -> String {
        self.dirs.name().to_owned()
    }

    /// What the host has, and which other instances are on it. Its routes only for those who mean to add subnets.
    pub(super) fn look_around(&self, routes: bool) -> Result<(HostFacts, Vec<(String, State)>), InstanceError> {
        let facts = self.fabric.facts(&self.state, routes)?;
        let mut others = Vec::new();
        for dirs in self.dirs.others()? {
            // A damaged one is its own verbs' to report.
            let Ok(Some(store)) = dirs.open() else { continue };
            let Ok(state) = store.load() else { continue };
            // One that does not say where it is counts as here: ports are refused rather than taken twice.
            let here = |r: &InstanceRow| {
                r.host_id == self.fabric.host_id() || (r.host_id.is_empty() && r.host_netns == *self.host_netns)
            };
            if state.instance.as_ref().is_some_and(here) {
                others.push((dirs.name().to_owned(), state));
            }
        }
        Ok((facts, others))
    }

    /// Makes changes to the store, and to what is known of it.
    pub(super) fn write(&mut self, changes: &[Change]) -> Result<(), InstanceError> {
        if !changes.is_empty() {
            self.store.apply(changes)?;
            self.state.apply(changes);
        }
        Ok(())
    }

    /// The data path's maps, opened once.
    pub(super) fn open_fabric(&mut self) -> Result<(), FabricError> {
        if !self.opened {
            self.fabric.open()?;
            self.opened = true;
        }
        Ok(())
    }

    /// Carries a plan out; on failure everything it made is undone.
    ///
    /// What it removes stays removed: the plan was judged as a whole, and a pod's processes do not come back.
    pub(super) fn carry_out(mut self, plan: &Plan) -> Result<Applied, InstanceError> {
        let mut applied = Applied { instance: self.name(), changed: !plan.is_empty(), ..Applied::default() };
        match self.steps(plan, &mut applied) {
            Ok(()) => Ok(applied),
            Err(cause) => {
                let left = self.undo_unfinished()?;
                if self.state.instance.is_none() {
                    self.end()?;
                }
                if left.is_empty() {
                    Err(cause)
                } else {
                    Err(InstanceError::NotUndone { cause: Box::new(cause), left })
                }
            }
        }
    }

    fn steps(&mut self, plan: &Plan, applied: &mut Applied) -> Result<(), InstanceError> {
        self.remove_planned(plan, applied)?;
        if let Some(instance) = &plan.instance {
            self.make_instance(instance.clone())?;
        } else {
            self.open_fabric()?;
        }
        let retimed = plan.retimed.iter().cloned().map(Change::put);
        let networks = plan.touched.iter().chain(&plan.networks).cloned().map(Change::put);
        let intent: Vec<Change> = retimed
            .chain(networks)
            .chain(plan.pods.iter().cloned().map(Change::put))
            .chain(plan.attachments.iter().cloned().map(Change::put))
            .chain(plan.publishes.iter().cloned().map(Change::put))
            .collect();
        self.write(&intent)?;
        for network in &plan.networks {
            self.fabric.add_network(network)?;
        }
        for pod in &plan.pods {
            self.make_pod(pod)?;
        }
        for attachment in &plan.attachments {
            self.fabric.add_attachment(attachment, &self.state)?;
        }
        for publish in &plan.publishes {
            self.fabric.add_publish(publish, &self.state)?;
        }
        self.refresh()?;
        self.mark_ready()?;
        // Last, when what is new stays whatever comes: a change of what is live is carried on, never undone.
        self.switch_rows(&plan.switched, applied)?;
        let state = &self.state;
        applied.nat_changed = plan.retimed.as_ref().map(|row| row.nat);
        applied.networks_added = plan.networks.iter().map(|n| n.network.name.clone()).collect();
        let is_new = |name: &str| plan.pods.iter().any(|p| p.name == name);
        applied.pods_added = state.pod_views().into_iter().filter(|v| is_new(&v.name)).collect();
        applied.publishes_added = plan.publishes.iter().map(|q| state.publish_view(q)).collect();
        Ok(())
    }

    /// Brings the data path's view of the host up to date.
    pub(super) fn refresh(&mut self) -> Result<(), InstanceError> {
        let Some(row) = self.state.instance.clone() else { return Ok(()) };
        // First: no flow takes an address any more whose flows are about to end.
        self.fabric.refresh_networks(&self.state.networks)?;
        let uplinks = self.fabric.refresh(&row)?;
        // Whoever passes by sweeps. What stays is absent to the programs all the same: no reason for a verb to fail.
        if let Err(e) = self.fabric.expire_flows(SWEPT_BY_A_VERB) {
            tracing::warn!("{e}");
        }
        if uplinks != row.uplinks {
            self.write(&[Change::put(InstanceRow { uplinks, ..row })])?;
        }
        self.sync_reserved_ports()
    }

    /// Turns everything that was being made into what is live, in one step.
    fn mark_ready(&mut self) -> Result<(), InstanceError> {
        let made = self.state.rows().filter(|r| r.phase() == Phase::Creating);
        let changes: Vec<Change> = made.map(|r| Change::Put(r.at(Phase::Ready))).collect();
        self.write(&changes)
    }

    fn make_instance(&mut self, mut row: InstanceRow) -> Result<(), InstanceError> {
        // Written before they are reserved, so that a later `down` gives back exactly what was added.
        row.reserved_ports = self.fabric.unreserved(&row.host.snat_ports.to_string())?;
        self.write(&[Change::put(row.clone())])?;
        self.fabric.reserve(&row.reserved_ports)?;
        self.fabric.load(&row)?;
        self.opened = true;
        self.fabric.add_uplinks(&row)?;
        Ok(())
    }

    fn make_pod(&mut self, pod: &PodRow) -> Result<(), InstanceError> {
        match self.fabric.add_netns(pod) {
            Ok(id) => self.write(&[Change::put(PodRow { netns: Some(id), ..pod.clone() })]),
            Err(e @ FabricError::Exists(_)) => {
                // Made by somebody else after we looked: undoing must leave it alone.
                self.write(&[Change::put(PodRow { source: Source::Named, ..pod.clone() })])?;
                Err(e.into())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Removes what a plan removes, recording each intent first.
    pub(super) fn remove_planned(&mut self, plan: &Plan, applied: &mut Applied) -> Result<(), InstanceError> {
        let mut changes = Vec::new();
        for row in &self.state.publishes {
            let stays =
                |b: &&BackendRow| self.state.pod_of(b.attachment).is_some_and(|p| !plan.remove_pods.contains(&p.id));
            let backends: Vec<_> = row.backends.iter().filter(stays).copied().collect();
            let row = if plan.remove_publishes.contains(&row.id) || backends.is_empty() {
                applied.publishes_removed.push(self.state.publish_view(row));
                let withdrawal = if plan.reset { Withdrawal::Reset } else { Withdrawal::RunOn };
                PublishRow { phase: Phase::Deleting, withdrawal, ..row.clone() }
            } else if backends.len() < row.backends.len() {
                // A pod that goes leaves it before; the others take over.
                let row = PublishRow { backends, phase: Phase::Updating, ..row.clone() };
                applied.publishes_changed.push(self.state.publish_view(&row));
                row
            } else {
                continue;
            };
            changes.push(Change::put(row));
        }
        for row in self.state.pods.iter().filter(|p| plan.remove_pods.contains(&p.id)) {
            applied.pods_removed.push(row.name.clone());
            changes.push(Change::Put(Row::from(row.clone()).at(Phase::Deleting)));
            let its = self.state.attachments_of(row.id).cloned();
            changes.extend(its.map(|a| Change::Put(Row::from(a).at(Phase::Deleting))));
        }
        for row in self.state.networks.iter().filter(|n| plan.remove_networks.contains(&n.id)) {
            applied.networks_removed.push(row.network.name.clone());
            changes.push(Change::Put(Row::from(row.clone()).at(Phase::Deleting)));
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.write(&changes)?;
        let left = self.undo_unfinished()?;
        if left.is_empty() { Ok(()) } else { Err(InstanceError::Unfinished(left)) }
    }

    /// Marks everything as going.
    pub(super) fn mark_all_deleting(&mut self) -> Result<(), InstanceError> {
        let changes: Vec<Change> = self.state.rows().map(|r| Change::Put(r.at(Phase::Deleting))).collect();
        self.write(&changes)
    }

    /// Removes every row that is not ready, and what it stands for, in the reverse order of making.
    ///
    /// Goes on past errors and returns them; rows behind them stay, for the next verb.
    pub(super) fn undo_unfinished(&mut self) -> Result<Vec<FabricError>, InstanceError> {
        let whole = self.state.instance.as_ref().is_some_and(|r| r.phase != Phase::Ready);
        if whole {
            self.mark_all_deleting()?;
        }
        let unfinished = |p: Phase| !p.is_live();
        let before = self.state.clone();
        let State { instance, networks, pods, attachments, publishes } = before.clone();
        if before.rows().all(|r| r.phase() == Phase::Ready) {
            return Ok(Vec::new());
        }
        let mut left = Vec::new();
        // An instance that was killed before its maps were pinned has none to open.
        if let Err(e) = self.open_fabric()
            && !whole
        {
            return Ok(vec![e]);
        }
        left.extend(self.switch_publishes()?);
        let going = |b: &BackendRow| before.attachment(b.attachment).is_none_or(|a| unfinished(a.phase));
        let mut doomed: BTreeMap<Ending, Vec<PublishRow>> = BTreeMap::new();
        for row in publishes.iter().filter(|r| unfinished(r.phase) || r.backends.iter().all(going)) {
            let ending = match row.withdrawal {
                _ if whole => Ending::WithMaps,
                Withdrawal::Reset => Ending::Reset,
                Withdrawal::RunOn => Ending::RunOn,
            };
            doomed.entry(ending).or_default().push(row.clone());
        }
        for (ending, rows) in doomed {
            match self.fabric.remove_publishes(&rows, ending, &before) {
                Ok(()) => {
                    self.write(&rows.iter().map(|row| Change::Delete(RowId::Publish(row.id))).collect::<Vec<_>>())?
                }
                Err(e) => left.push(e),
            }
        }
        for row in attachments.iter().filter(|r| unfinished(r.phase)) {
            match self.fabric.remove_attachment(row, &before) {
                Ok(()) if self.state.publishes.iter().all(|q| !q.leads_to(row.id)) => {
                    self.write(&[Change::Delete(RowId::Attachment(row.id))])?;
                }
                Ok(()) => {}
                Err(e) => left.push(e),
            }
        }
        for row in pods.iter().filter(|r| unfinished(r.phase)) {
            if self.state.attachments_of(row.id).next().is_some() {
                continue;
            }
            let gone = if row.source == Source::Made { self.fabric.remove_netns(row) } else { Ok(()) };
            match gone {
                Ok(()) => self.write(&[Change::Delete(RowId::Pod(row.id))])?,
                Err(e) => left.push(e),
            }
        }
        for row in networks.iter().filter(|r| unfinished(r.phase)) {
            if self.state.attachments.iter().any(|a| a.network == row.id) {
                continue;
            }
            match self.fabric.remove_network(row) {
                Ok(()) => self.write(&[Change::Delete(RowId::Network(row.id))])?,
                Err(e) => left.push(e),
            }
        }
        if let Some(row) = instance.filter(|_| whole && left.is_empty()) {
            left.extend(self.unmake_instance(&row)?);
        }
        Ok(left)
    }

    /// Makes the data path's declarations what rows that were changed say.
    fn switch_publishes(&mut self) -> Result<Option<FabricError>, InstanceError> {
        let is_live = |b: &BackendRow| self.state.attachment(b.attachment).is_some_and(|a| a.phase == Phase::Ready);
        let switching = |r: &&PublishRow| r.phase == Phase::Updating && r.backends.iter().all(is_live);
        let rows: Vec<PublishRow> = self.state.publishes.iter().filter(switching).cloned().collect();
        if rows.is_empty() {
            return Ok(None);
        }
        if let Err(e) = self.fabric.switch_publishes(&rows, &self.state) {
            return Ok(Some(e));
        }
        let ready = |row: PublishRow| Change::Put(Row::from(row).at(Phase::Ready));
        self.write(&rows.into_iter().map(ready).collect::<Vec<_>>())?;
        Ok(None)
    }

    /// Changes live publishes: intent first, then the data path. A killed or failed change is carried on by the next verb.
    pub(super) fn switch(mut self, rows: &[PublishRow]) -> Result<Applied, InstanceError> {
        let mut applied = Applied { instance: self.name(), changed: !rows.is_empty(), ..Applied::default() };
        self.open_fabric()?;
        self.switch_rows(rows, &mut applied)?;
        self.refresh()?;
        Ok(applied)
    }

    fn switch_rows(&mut self, rows: &[PublishRow], applied: &mut Applied) -> Result<(), InstanceError> {
        let intent: Vec<Change> = rows.iter().map(|r| Change::Put(Row::from(r.clone()).at(Phase::Updating))).collect();
        self.write(&intent)?;
        if let Some(left) = self.switch_publishes()? {
            return Err(InstanceError::Unfinished(vec![left]));
        }
        for row in rows {
            // One that lost a pod on the way is told of once.
            applied.publishes_changed.retain(|v| v.id != row.id);
            applied.publishes_changed.push(self.state.publish_view(row));
        }
        Ok(())
    }

    fn unmake_instance(&mut self, row: &InstanceRow) -> Result<Option<FabricError>, InstanceError> {
        if let Err(e) = self.fabric.remove_uplinks(row) {
            return Ok(Some(e));
        }
        self.opened = false;
        if let Err(e) = self.fabric.unload() {
            return Ok(Some(e));
        }
        if let Err(e) = self.fabric.release(&row.reserved_ports) {
            return Ok(Some(e));
        }
        self.write(&[Change::Delete(RowId::Instance)])?;
        Ok(None)
    }

    /// Removes the state directory of an instance that holds nothing.
    pub(super) fn end(self) -> Result<(), InstanceError> {
        drop(self.store);
        self.dirs.remove_state(&self.lock)
    }
}
