//! One mutating verb at work: the lock, the store, what it plans and how that is carried out.

use super::difference::{Difference, Trouble, differences, unfinished};
use super::plan::{NextId, Plan, Surroundings};
use super::platform::{Platform, PlatformError};
use super::{Applied, Dirs, Instance, InstanceError};
use crate::netns::{NetnsId, names_of, pids_in};
use crate::store::{
    AttachmentRow, BackendRow, Change, InstanceRow, Phase, PublishRow, Row, RowId, SqliteStore, State, Store,
    StoreError,
};
use crate::topology::HostFacts;

/// Flow entries of a family a verb looks at in passing, a millisecond's work; the agent does the rest, or the next verb.
const SWEPT_BY_A_VERB: usize = 4096;

/// The lock and the open store of an instance.
pub(super) struct Session<'a, P> {
    pub(super) platform: &'a mut P,
    pub(super) store: SqliteStore,
    pub(super) state: State,
    /// What a verb before has left unfinished, and this one has carried on.
    pub(super) carried_on: Vec<Difference>,
    /// What was to be removed and was not there.
    pub(super) missing: Vec<String>,
    lock: super::lock::Lock,
    /// Held as long: what is handed out is handed out once.
    pub(super) shared: Option<super::lock::Lock>,
    dirs: &'a Dirs,
    host_netns: &'a Option<String>,
    /// The data path's maps are open.
    pub(super) opened: bool,
    /// What cannot be written down is done all the same: whoever is killed then does it again.
    unwritten: bool,
}

impl<P: Platform> Instance<P> {
    /// Takes the lock and deals with what a killed verb left; `None` when the instance has no state and none is to be made.
    pub(super) fn begin(&mut self, create: bool) -> Result<Option<Session<'_, P>>, InstanceError> {
        let Some(mut session) = self.session(create, false)? else { return Ok(None) };
        session.carried_on = unfinished(&session.state);
        let left = session.carry_on()?;
        if !left.is_empty() {
            return Err(InstanceError::Unfinished(left));
        }
        if !create && session.state.instance.is_none() {
            session.end()?;
            return Ok(None);
        }
        Ok(Some(session))
    }

    /// The same for taking the instance down: whatever is left over goes with the rest, and nothing has to be written.
    pub(super) fn begin_down(&mut self) -> Result<Option<Session<'_, P>>, InstanceError> {
        self.session(false, true)
    }

    fn session(&mut self, create: bool, down: bool) -> Result<Option<Session<'_, P>>, InstanceError> {
        if !create && !self.dirs.state().exists() {
            return Ok(None);
        }
        let Some(lock) = self.dirs.lock(create)? else { return Ok(None) };
        let shared = match self.dirs.lock_shared() {
            Err(e @ InstanceError::Io { .. }) if down => {
                tracing::warn!("going on without the lock of all instances: {e}");
                None
            }
            done => done?,
        };
        let mut unwritten = false;
        let store = if create {
            Some(SqliteStore::create(&self.dirs.database())?)
        } else {
            match self.dirs.open_to_write(&lock) {
                Err(InstanceError::Store(StoreError::Sqlite { .. })) if down => {
                    unwritten = true;
                    self.dirs.open()?
                }
                done => done?,
            }
        };
        let Some(store) = store else {
            self.dirs.remove_state(&lock)?;
            return Ok(None);
        };
        let state = store.load()?;
        if let Some(row) = state.instance.clone() {
            self.check_host(&row, down)?;
        }
        Ok(Some(Session {
            platform: &mut self.platform,
            store,
            state,
            carried_on: Vec::new(),
            missing: Vec::new(),
            lock,
            shared,
            dirs: &self.dirs,
            host_netns: &self.host_netns,
            opened: false,
            unwritten: unwritten || down,
        }))
    }

    /// Refuses an instance that is not where this process is. One is taken down all the same whose host, by its name, is gone or
    /// another by now.
    pub(super) fn check_host(&mut self, row: &InstanceRow, down: bool) -> Result<(), InstanceError> {
        let Err(refused) = self.is_here(row) else { return Ok(()) };
        let is_other = row.host_netns != self.host_netns;
        let is_gone = row.host_netns.is_some() || self.platform.host_id().is_none() || nobody_has(&row.host_id);
        if down && !is_other && is_gone {
            self.platform.leave_host();
            return Ok(());
        }
        Err(refused)
    }

    /// Refuses to tell of an instance that is not where this process is: what is here is not its.
    pub(super) fn is_here(&self, row: &InstanceRow) -> Result<(), InstanceError> {
        let elsewhere = |there, here| {
            let instance = self.dirs.name().to_owned();
            Err(InstanceError::Elsewhere { instance, there, here })
        };
        let words = |n: &Option<String>| n.as_ref().map_or("the host's own namespace".to_owned(), Clone::clone);
        if row.host_netns != self.host_netns {
            return elsewhere(words(&row.host_netns), words(&self.host_netns));
        }
        match self.platform.host_id() {
            None => Err(InstanceError::HostGone(words(&row.host_netns))),
            Some(id) if row.host_id.is_empty() || id == row.host_id => Ok(()),
            Some(id) => elsewhere(format!("network namespace {}", row.host_id), format!("network namespace {id}")),
        }
    }
}

/// Whether a namespace, as rows have it, has neither a process nor a name: nobody can go there, and its devices are gone.
fn nobody_has(host_id: &str) -> bool {
    let Some((Ok(dev), Ok(ino))) = host_id.split_once(':').map(|(dev, ino)| (dev.parse(), ino.parse())) else {
        return false;
    };
    let id = NetnsId { dev, ino };
    pids_in(id).is_ok_and(|pids| pids.is_empty()) && names_of(id).is_ok_and(|names| names.is_empty())
}

/// [`Session::look_around`], for whoever changes nothing and holds no lock.
pub(super) fn look_around<P: Platform>(
    platform: &P,
    dirs: &Dirs,
    host_netns: Option<&str>,
    state: &State,
    routes: bool,
) -> Result<(HostFacts, Vec<(String, State)>), InstanceError> {
    let mut facts = platform.facts(state, routes)?;
    if state.instance.is_none() {
        // What an instance of this name has left goes before it comes up again.
        platform.wreck()?.leave_out(&mut facts);
    }
    let others = neighbours(platform, dirs, host_netns)?;
    Ok((facts, others.into_iter().map(|(dirs, state)| (dirs.name().to_owned(), state)).collect()))
}

/// The other instances on this host.
fn neighbours<P: Platform>(
    platform: &P,
    dirs: &Dirs,
    host_netns: Option<&str>,
) -> Result<Vec<(Dirs, State)>, InstanceError> {
    let id = platform.host_id().unwrap_or_default();
    // One that does not say where it is counts as here: ports are refused rather than taken twice.
    let here = |r: &InstanceRow| r.host_id == id || (r.host_id.is_empty() && r.host_netns.as_deref() == host_netns);
    let mut neighbours = Vec::new();
    for dirs in dirs.others()? {
        // A damaged one is its own verbs' to report.
        let Ok(Some(store)) = dirs.open() else { continue };
        let Ok(state) = store.load() else { continue };
        if state.instance.as_ref().is_some_and(here) {
            neighbours.push((dirs, state));
        }
    }
    Ok(neighbours)
}

impl<P: Platform> Session<'_, P> {
    /// The name of the instance.
    pub(super) fn name(&self) -> String {
        self.dirs.name().to_owned()
    }

    /// What the host has, and which other instances are on it. Its routes only for those who mean to add subnets.
    pub(super) fn look_around(&self, routes: bool) -> Result<(HostFacts, Vec<(String, State)>), InstanceError> {
        look_around(&*self.platform, self.dirs, self.host_netns.as_deref(), &self.state, routes)
    }

    /// Plans against what is around, the host's routes among it where `routes` asks for them.
    pub(super) fn plan(
        &mut self,
        routes: bool,
        make: impl FnOnce(&State, &Surroundings<'_>, NextId<'_>) -> Result<Plan, InstanceError>,
    ) -> Result<Plan, InstanceError> {
        let (facts, others) = self.look_around(routes)?;
        let host = Surroundings {
            facts: &facts,
            ports: &*self.platform,
            rests: &|number| self.platform.rests(number),
            instance: self.dirs.name(),
            host_id: self.platform.host_id().unwrap_or_default(),
            others: &others,
        };
        make(&self.state, &host, &mut || self.store.next_id())
    }

    /// The other instances on this host.
    pub(super) fn neighbours(&self) -> Result<Vec<(Dirs, State)>, InstanceError> {
        neighbours(&*self.platform, self.dirs, self.host_netns.as_deref())
    }

    /// Makes changes to the store, and to what is known of it.
    pub(super) fn write(&mut self, changes: &[Change]) -> Result<(), InstanceError> {
        if changes.is_empty() {
            return Ok(());
        }
        match self.store.apply(changes) {
            Err(e @ StoreError::Sqlite { .. }) if self.unwritten => tracing::warn!("going on without a record: {e}"),
            done => done?,
        }
        self.state.apply(changes);
        Ok(())
    }

    /// The data path's maps, opened once.
    pub(super) fn open(&mut self) -> Result<(), PlatformError> {
        if !self.opened {
            self.platform.open()?;
            self.opened = true;
        }
        Ok(())
    }

    /// Carries a plan out: what is new is made before anything is removed. On failure what was made is undone; what had begun to
    /// change or to go is carried on, by this verb or the next.
    pub(super) fn carry_out(mut self, plan: &Plan) -> Result<Applied, InstanceError> {
        let mut applied = Applied { instance: self.name(), changed: !plan.is_empty(), ..Applied::default() };
        match self.steps(plan, &mut applied) {
            Ok(()) => Ok(applied),
            Err(cause) => {
                let left = self.carry_on()?;
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
        if plan.instance.is_none() {
            // Before anything is written: a verb that cannot do its work leaves nothing to be undone.
            self.open()?;
        }
        // Ports that somebody still has lead elsewhere when he has gone.
        let (later, now): (Vec<Row>, Vec<Row>) = plan.rows().partition(|row| self.waits(row, plan));
        let touched = plan.touched.iter().cloned().map(Change::put);
        let intent: Vec<Change> = touched.chain(now.iter().cloned().map(Change::Put)).collect();
        self.write(&intent)?;
        self.make(&now)?;
        if !plan.changes_what_is_there() || !now.is_empty() {
            self.refresh()?;
        }
        // From here on there is no way back: what was there begins to change and to go.
        let mut commit = plan.commitment(&self.state, applied);
        commit.extend(later.into_iter().map(|row| Change::Put(row.at(Phase::Waiting))));
        self.write(&commit)?;
        let left = self.carry_on()?;
        if !left.is_empty() {
            return Err(InstanceError::Unfinished(left));
        }
        if plan.changes_what_is_there() {
            self.refresh()?;
        }
        plan.tell_added(&self.state, applied);
        Ok(())
    }

    /// Whether a row can be made only when something that goes has gone, or what it stands on has changed.
    fn waits(&self, row: &Row, plan: &Plan) -> bool {
        let changes = |a: &AttachmentRow| plan.networks_changed.iter().any(|n| n.id == a.network);
        match row {
            Row::Attachment(new) => changes(new),
            Row::Publish(new) => {
                let mut going = self.state.publishes.iter().filter(|q| plan.removes_publish(&self.state, q));
                let led = |b: &BackendRow| plan.attachments.iter().find(|a| a.id == b.attachment);
                going.any(|q| q.publish.conflicts(&new.publish)) || new.backends.iter().filter_map(led).any(changes)
            }
            _ => false,
        }
    }

    /// Makes what rows say, writing down what is known of it only then.
    pub(super) fn make(&mut self, rows: &[Row]) -> Result<(), InstanceError> {
        for alike in rows.chunk_by(|a, b| std::mem::discriminant(a) == std::mem::discriminant(b)) {
            let Self { platform, store, state, .. } = self;
            let mut noted = Vec::new();
            let done = platform.make_all(alike, state, &mut |row| {
                let change = [Change::Put(row)];
                store.apply(&change)?;
                noted.extend(change);
                Ok(())
            });
            state.apply(&noted);
            self.opened |= done.is_ok() && matches!(alike.first(), Some(Row::Instance(_)));
            done?;
        }
        Ok(())
    }

    /// Brings the data path's view of the host up to date.
    pub(super) fn refresh(&mut self) -> Result<(), InstanceError> {
        if self.state.instance.is_none() {
            return Ok(());
        }
        let changed = self.platform.refresh(&self.state)?;
        // Whoever passes by sweeps. What stays is absent to the programs all the same: no reason for a verb to fail.
        if let Err(e) = self.platform.expire_flows(SWEPT_BY_A_VERB) {
            tracing::warn!("{e}");
        }
        self.write(&changed.into_iter().map(Change::Put).collect::<Vec<_>>())?;
        self.sync_reserved_ports()
    }

    /// What of the rows is not there.
    pub(super) fn differences(&self) -> Result<Vec<Difference>, InstanceError> {
        Ok(differences(self.dirs.name(), &self.state, &self.platform.observe(&self.state)?))
    }

    /// Mends what is not as the rows say, of one pod or of all; returns what was mended, and what could not be and why.
    pub(super) fn mend(&mut self, pod: Option<u64>) -> Result<(Vec<Difference>, Vec<String>), InstanceError> {
        let concerns = |state: &State, row: RowId| match (pod, row) {
            (None, _) => true,
            (Some(pod), RowId::Pod(id)) => id == pod,
            (Some(pod), RowId::Attachment(id)) => state.attachment(id).is_some_and(|a| a.pod == pod),
            (Some(_), _) => false,
        };
        let (mut mended, mut not): (Vec<Difference>, Vec<(Difference, String)>) = Default::default();
        let mut goes_on = true;
        while goes_on {
            goes_on = false;
            for difference in self.differences()? {
                let is_old = mended.iter().chain(not.iter().map(|(d, _)| d)).any(|d| *d == difference);
                if is_old || !concerns(&self.state, difference.row) {
                    continue;
                }
                if difference.trouble.repair().is_err() {
                    not.push((difference.clone(), difference.to_string()));
                    continue;
                }
                if let Trouble::UplinkFound(name) = &difference.trouble
                    && let Some(other) = self.sharer_of_ports(name)?
                {
                    let why = format!("{difference}: instance {other:?} translates to it with ports of the same range");
                    not.push((difference, why));
                    continue;
                }
                match self.mend_one(&difference) {
                    Ok(()) => {
                        goes_on |= difference.trouble.hides_others();
                        mended.push(difference);
                    }
                    Err(e) => not.push((difference, e.to_string())),
                }
            }
        }
        Ok((mended, not.into_iter().map(|(_, why)| why).collect()))
    }

    fn mend_one(&mut self, difference: &Difference) -> Result<(), PlatformError> {
        let Self { platform, store, state, .. } = self;
        let mut noted = Vec::new();
        let done = platform.mend(difference, state, &mut |row| {
            let change = [Change::Put(row)];
            store.apply(&change)?;
            noted.extend(change);
            Ok(())
        });
        state.apply(&noted);
        done
    }

    /// Another instance that has this uplink and hands out ports of the same range.
    fn sharer_of_ports(&self, uplink: &str) -> Result<Option<String>, InstanceError> {
        let Some(row) = &self.state.instance else { return Ok(None) };
        let neighbours = self.neighbours()?.into_iter();
        let mut sharers = neighbours.filter(|(_, state)| {
            let shares =
                |other: &InstanceRow| other.has_uplink(uplink) && other.host.snat_ports.overlaps(row.host.snat_ports);
            state.instance.as_ref().is_some_and(shares)
        });
        Ok(sharers.next().map(|(dirs, _)| dirs.name().to_owned()))
    }

    /// Changes live publishes: intent first, then the data path. A killed or failed change is carried on by the next verb.
    pub(super) fn switch(self, rows: Vec<PublishRow>) -> Result<Applied, InstanceError> {
        self.carry_out(&Plan { switched: rows, ..Plan::default() })
    }

    /// Removes the state directory of an instance that holds nothing.
    pub(super) fn end(self) -> Result<(), InstanceError> {
        drop(self.store);
        self.dirs.remove_state(&self.lock)
    }
}
