//! The mutating verbs.

use super::difference::{Difference, DifferenceView, differences};
use super::dirs::leave;
use super::plan::{self, ConnectRequest, Plan, PodRequest};
use super::platform::Platform;
use super::session::Session;
use super::{Applied, Instance, InstanceError, Repaired};
use crate::store::{AttachmentRow, BackendRow, InstanceRow, PublishRow, State, StoreError};
use crate::topology::{Affinity, Allow, Backend, Document, InputError, Problem, Publish, SharedPublish, Uplink};

/// Names a live publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishRef {
    /// By the store's id.
    Id(u64),
    /// As it was declared.
    Spec(Publish),
}

impl std::fmt::Display for PublishRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Spec(publish) => publish.fmt(f),
        }
    }
}

/// What changes of a live publish; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishChange {
    /// Who may come in.
    pub allow: Option<Allow>,
    /// What keeps a client with one backend.
    pub affinity: Option<Affinity>,
}

/// How ports are withdrawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpublish {
    /// TCP connections that came in by them end with a RST.
    pub reset: bool,
    /// That a pod or a port is not there is all right.
    pub if_exists: bool,
}

impl<P: Platform> Instance<P> {
    /// Makes the instance what `document` says: from nothing, or from what it is.
    ///
    /// With the same document again nothing changes. Pods and publishes the file no longer has are removed if they came
    /// from a file; what verbs added stays.
    ///
    /// # Errors
    ///
    /// Input that is refused before anything is changed; or a step that failed, after what was made has been undone.
    pub fn up(&mut self, document: &Document) -> Result<Applied, InstanceError> {
        self.up_to(document, true)
    }

    /// [`Instance::up`]; deletes no pod in which processes run.
    ///
    /// # Errors
    ///
    /// As [`Instance::up`], and [`InstanceError::Occupied`].
    pub fn up_sparing(&mut self, document: &Document) -> Result<Applied, InstanceError> {
        self.up_to(document, false)
    }

    fn up_to(&mut self, document: &Document, prune: bool) -> Result<Applied, InstanceError> {
        self.platform.check()?;
        let host_netns = self.host_netns.clone();
        let Some(mut session) = self.begin(true)? else {
            return Err(InstanceError::NotUp(self.dirs.name().to_owned()));
        };
        let routes = plan::needs_routes(&session.state, &document.topology);
        let planned = session.plan(routes, |state, host, next_id| {
            let plan = plan::up(state, host_netns.as_deref(), document, host, next_id)?;
            if !prune {
                plan.spare(state, document)?;
            }
            Ok(plan)
        });
        let planned = planned.and_then(|plan| {
            if session.state.instance.is_none() {
                session.clear_away(prune)?;
            }
            Ok(plan)
        });
        match planned {
            Ok(plan) => {
                // What is there is made what it should be before it is made something else.
                let (mended, not_mended) =
                    if session.state.instance.is_some() { session.mend(None)? } else { Default::default() };
                for why in &not_mended {
                    tracing::warn!("not mended: {why}");
                }
                let is_new = |row: &InstanceRow| row.host.uplink == Uplink::Auto && row.uplinks.is_empty();
                if plan.instance.as_ref().is_some_and(is_new) {
                    tracing::warn!("the host has no default route: pods reach no LAN until there is one");
                }
                let mut applied = session.carry_out(&plan)?;
                applied.changed |= !mended.is_empty();
                applied.mended = mended.iter().map(Into::into).collect();
                Ok(applied)
            }
            Err(e) => {
                // Nothing was changed: not even a directory stays of an instance that is not up.
                if session.state.instance.is_none() {
                    session.end()?;
                }
                Err(e)
            }
        }
    }

    /// Removes every trace of the instance; `changed` is false when there was none.
    ///
    /// Whatever is broken, what is there goes: without the data path, without a name for its host, without a state that can be read
    /// ([`Platform::sweep`]). What was not there any more is said.
    ///
    /// # Errors
    ///
    /// What could not be removed; it stays recorded, and the next `down` tries again. Or the state is another version's.
    pub fn down(&mut self) -> Result<Applied, InstanceError> {
        let session = match self.begin_down() {
            Err(InstanceError::Store(e @ StoreError::Damaged { .. })) => {
                tracing::warn!("{e}: removing what can be recognised");
                return self.sweep();
            }
            done => done?,
        };
        let Some(mut session) = session else { return self.sweep() };
        let mut applied = Applied { instance: session.name(), changed: true, ..Applied::default() };
        applied.networks_removed = session.state.networks.iter().map(|n| n.network.name.clone()).collect();
        applied.pods_removed = session.state.pods.iter().map(|p| p.name.clone()).collect();
        applied.publishes_removed = session.state.publish_views();
        if let Err(e) = session.hand_over_ports() {
            tracing::warn!("other instances' ports: {e}");
        }
        session.mark_all_deleting()?;
        let left = session.carry_on()?;
        if !left.is_empty() {
            return Err(InstanceError::Unfinished(left));
        }
        applied.not_found = std::mem::take(&mut session.missing);
        session.end()?;
        Ok(applied)
    }

    /// [`Instance::down`]; takes down another version's instance as well, by what can be recognised as its.
    ///
    /// # Errors
    ///
    /// As [`Instance::down`].
    pub fn down_force(&mut self) -> Result<Applied, InstanceError> {
        match self.down() {
            Err(InstanceError::Store(e @ StoreError::Version { .. })) => {
                tracing::warn!("{e}: removing what can be recognised");
                self.sweep()
            }
            done => done,
        }
    }

    /// Takes down what has no rows, or none that can be read.
    fn sweep(&mut self) -> Result<Applied, InstanceError> {
        let mut applied = Applied { instance: self.dirs.name().to_owned(), ..Applied::default() };
        let lock = self.dirs.lock(false)?;
        if let Some(pods_removed) = self.platform.sweep()? {
            applied = Applied { changed: true, pods_removed, ..applied };
        }
        if let Some(lock) = lock {
            applied.changed = true;
            self.dirs.remove_state(&lock)?;
        } else if let Some(root) = self.dirs.state().parent() {
            leave(root);
        }
        Ok(applied)
    }

    /// What is not as the rows say. Takes no lock.
    ///
    /// # Errors
    ///
    /// The instance is not up, or the host cannot be read.
    pub fn differences(&self) -> Result<Vec<Difference>, InstanceError> {
        let not_up = || InstanceError::NotUp(self.dirs.name().to_owned());
        let state = self.state()?.ok_or_else(not_up)?;
        if let Some(row) = &state.instance {
            self.is_here(row)?;
        }
        Ok(differences(self.dirs.name(), &state, &self.platform.observe(&state)?))
    }

    /// Mends what is not as the rows say, of one pod or of all.
    ///
    /// # Errors
    ///
    /// The instance is not up, there is no such pod, or the host cannot be read. What cannot be mended is no error.
    pub fn repair(&mut self, pod: Option<&str>) -> Result<Repaired, InstanceError> {
        let mut session = self.live()?;
        let pod = match pod {
            None => None,
            Some(name) => Some(session.state.pod(name).ok_or_else(|| InstanceError::NoPod(name.to_owned()))?.id),
        };
        let carried_on = std::mem::take(&mut session.carried_on);
        let (mended, not_mended) = session.mend(pod)?;
        session.open()?;
        session.refresh()?;
        let mended: Vec<DifferenceView> = carried_on.iter().chain(&mended).map(Into::into).collect();
        let left = session.differences()?;
        let left = if pod.is_some() { Vec::new() } else { left.iter().map(Into::into).collect() };
        Ok(Repaired { instance: session.name(), changed: !mended.is_empty(), mended, not_mended, left })
    }

    /// Adds a pod.
    ///
    /// # Errors
    ///
    /// The instance is not up, the request is refused, or a step failed and was undone.
    pub fn add(&mut self, request: &PodRequest) -> Result<Applied, InstanceError> {
        let mut session = self.live()?;
        let plan = session.plan(false, |state, host, next_id| plan::add(state, request, host, next_id))?;
        session.carry_out(&plan)
    }

    /// Deletes a pod, its namespace, and what it alone publishes; other publishes go on with the pods they have left.
    ///
    /// # Errors
    ///
    /// There is no such pod, or something of it could not be removed.
    pub fn del(&mut self, name: &str) -> Result<Applied, InstanceError> {
        let session = self.live()?;
        let Some(pod) = session.state.pod(name) else { return Err(InstanceError::NoPod(name.to_owned())) };
        let plan = Plan { remove_pods: vec![pod.id], ..Plan::default() };
        session.carry_out(&plan)
    }

    /// Gives a live pod a further interface; what it has exactly like this already stays as it is.
    ///
    /// # Errors
    ///
    /// The instance is not up, there is no such pod, the request is refused, or a step failed and was undone.
    pub fn connect(&mut self, request: &ConnectRequest) -> Result<Applied, InstanceError> {
        let mut session = self.live()?;
        let plan = session.plan(false, |state, host, next_id| plan::connect(state, request, host, next_id))?;
        session.carry_out(&plan)
    }

    /// Takes an interface from a pod, by its name or that of its network. Ports that lead to it lead to the first one it has left.
    ///
    /// # Errors
    ///
    /// There is no such pod or interface (which is all right with `if_exists`), it is the pod's only one, or something of it could not
    /// be removed.
    pub fn disconnect(&mut self, pod: &str, interface: &str, if_exists: bool) -> Result<Applied, InstanceError> {
        let session = self.live()?;
        let plan = match plan::disconnect(&session.state, pod, interface) {
            Err(InstanceError::NoPod(_)) if if_exists => Plan::default(),
            Err(InstanceError::Input(e)) if if_exists && e.problem == Problem::UnknownInterface => Plan::default(),
            plan => plan?,
        };
        session.carry_out(&plan)
    }

    /// Publishes ports of live pods; what is published exactly like this already stays as it is.
    ///
    /// # Errors
    ///
    /// The instance is not up, the request is refused, or a step failed and was undone.
    pub fn publish(&mut self, publishes: &[SharedPublish]) -> Result<Applied, InstanceError> {
        let mut session = self.live()?;
        let plan = session.plan(false, |state, host, next_id| plan::publish(state, publishes, host, next_id))?;
        session.carry_out(&plan)
    }

    /// Withdraws published ports of a pod. TCP connections that came in by them run on, or end with a RST if `reset`; the
    /// next datagram finds nothing published in either case. A publish with other pods goes on with those.
    ///
    /// # Errors
    ///
    /// There is no such pod, or it does not publish one of them, or `reset` is asked of one that goes on: then nothing is
    /// withdrawn.
    pub fn unpublish(
        &mut self,
        pod: &str,
        publishes: &[Publish],
        Unpublish { reset, if_exists }: Unpublish,
    ) -> Result<Applied, InstanceError> {
        let session = self.live()?;
        let mut plan = Plan { reset, ..Plan::default() };
        let Some(row) = session.state.pod(pod) else {
            return if if_exists { session.carry_out(&plan) } else { Err(InstanceError::NoPod(pod.to_owned())) };
        };
        for publish in publishes {
            let Some(found) = session.state.publishes_of(row.id).find(|q| q.publish == *publish) else {
                if if_exists {
                    continue;
                }
                return Err(InstanceError::NotPublished { pod: pod.to_owned(), publish: publish.to_string() });
            };
            let is_others = |b: &&BackendRow| session.state.pod_of(b.attachment).is_none_or(|p| p.id != row.id);
            let left: Vec<BackendRow> = found.backends.iter().filter(is_others).copied().collect();
            if left.is_empty() {
                plan.remove_publishes.push(found.id);
            } else if reset {
                return Err(InputError::new("--reset", found.publish, Problem::ResetOfShared).into());
            } else {
                plan.switched.push(PublishRow { backends: left, ..found.clone() });
            }
        }
        session.carry_out(&plan)
    }

    /// Sends a publish's new connections, and its next datagrams, to other pods, in one step for all its ports; it takes
    /// new connections then, if it was draining before. Established TCP connections stay with their pods, and so does all
    /// else if its pod is one of them.
    ///
    /// # Errors
    ///
    /// There is no such publish or pod, or a pod has no address of the publish's family.
    pub fn move_publish(&mut self, publish: &PublishRef, to: &[Backend]) -> Result<Applied, InstanceError> {
        let session = self.live()?;
        let state = &session.state;
        let row = find_publish(state, publish)?;
        // "Every address, both families" follows the pods' families, which its ports' entries were made for.
        let families = |a: &AttachmentRow| (a.addr4.is_some(), a.addr6.is_some());
        let now = row.backends.first().and_then(|b| state.attachment(b.attachment));
        let had = now.map_or((true, true), families);
        let mut backends: Vec<BackendRow> = Vec::new();
        for backend in to {
            let refused = |problem| InstanceError::from(InputError::new("--to", &backend.pod, problem));
            let pod = state.pod(&backend.pod).ok_or_else(|| refused(Problem::UnknownPod))?;
            let first = state.first_of(pod.id).ok_or_else(|| refused(Problem::UnknownPod))?;
            if backends.iter().any(|b| b.attachment == first.id) {
                return Err(refused(Problem::BackendTwice(pod.name.clone())));
            }
            let (v4, v6) = families(first);
            for (reached, led, family) in
                [(row.publish.is_v4() && had.0, v4, "IPv4"), (row.publish.is_v6() && had.1, v6, "IPv6")]
            {
                if reached && !led {
                    return Err(refused(Problem::PublishFamily { pod: pod.name.clone(), family }));
                }
            }
            backends.push(BackendRow { attachment: first.id, weight: backend.weight, draining: false });
        }
        #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
        if backends.len() > Backend::MAX {
            return Err(InputError::new("--to", "", Problem::TooMany(Backend::MAX as u32)).into());
        }
        let moved = PublishRow { backends, draining: false, ..row.clone() };
        let rows = if moved == *row { Vec::new() } else { vec![moved] };
        session.switch(rows)
    }

    /// Makes publishes take no new connections and no datagrams; established TCP connections go on. With `drain` false they
    /// take them again, and so do all their pods.
    ///
    /// With `backend` it is one of their pods that gets nothing new, and all flows it has go on.
    ///
    /// # Errors
    ///
    /// There is no such publish, or the pod is none of its: then nothing is changed.
    pub fn drain(
        &mut self,
        publishes: &[PublishRef],
        drain: bool,
        backend: Option<&str>,
    ) -> Result<Applied, InstanceError> {
        let session = self.live()?;
        let one = match backend {
            Some(name) => {
                let pod = session.state.pod(name).ok_or_else(|| InstanceError::NoPod(name.to_owned()))?;
                let its: Vec<u64> = session.state.attachments_of(pod.id).map(|a| a.id).collect();
                Some((name, its))
            }
            None => None,
        };
        session.change(publishes, |row| {
            match &one {
                Some((name, its)) => {
                    let Some(backend) = row.backends.iter_mut().find(|b| its.contains(&b.attachment)) else {
                        let (pod, publish) = ((*name).to_owned(), row.publish.to_string());
                        return Err(InstanceError::NotPublished { pod, publish });
                    };
                    backend.draining = drain;
                }
                None => {
                    row.draining = drain;
                    row.backends.iter_mut().for_each(|b| b.draining &= drain);
                }
            }
            Ok(())
        })
    }

    /// Changes who may come in by publishes, and what keeps a client with a pod. Flows of clients that may not come in any
    /// more end, TCP connections with a RST.
    ///
    /// # Errors
    ///
    /// There is no such publish: then nothing is changed.
    pub fn set_publish(&mut self, publishes: &[PublishRef], change: &PublishChange) -> Result<Applied, InstanceError> {
        let session = self.live()?;
        session.change(publishes, |row| {
            if let Some(allow) = change.allow.as_ref().filter(|new| !new.is_like(&row.allow)) {
                row.allow = allow.clone();
            }
            row.affinity = change.affinity.unwrap_or(row.affinity);
            Ok(())
        })
    }

    /// Mends what is not as it should be, brings the data path's view of the host up to date, and undoes what a killed verb left.
    ///
    /// # Errors
    ///
    /// The instance is not up, or the host cannot be read.
    pub fn refresh(&mut self) -> Result<(), InstanceError> {
        let mut session = self.live()?;
        let (mended, not_mended) = session.mend(None)?;
        for difference in &mended {
            tracing::info!("mended: {difference}");
        }
        for why in &not_mended {
            tracing::warn!("not mended: {why}");
        }
        session.open()?;
        session.refresh()
    }

    /// Removes all flows whose time is over; says how many entries went. Takes no lock.
    ///
    /// # Errors
    ///
    /// The maps cannot be read, as when the instance is not up.
    pub fn expire_flows(&self) -> Result<usize, InstanceError> {
        Ok(self.platform.expire_flows(usize::MAX)?)
    }

    fn live(&mut self) -> Result<Session<'_, P>, InstanceError> {
        self.platform.check()?;
        let name = self.dirs.name().to_owned();
        self.begin(false)?.ok_or(InstanceError::NotUp(name))
    }
}

impl<P: Platform> Session<'_, P> {
    /// Changes live publishes, those that are something else by it; none if one of them cannot be.
    fn change(
        self,
        publishes: &[PublishRef],
        mut change: impl FnMut(&mut PublishRow) -> Result<(), InstanceError>,
    ) -> Result<Applied, InstanceError> {
        let mut rows: Vec<PublishRow> = Vec::new();
        for publish in publishes {
            let row = find_publish(&self.state, publish)?;
            let mut changed = row.clone();
            change(&mut changed)?;
            if changed != *row && rows.iter().all(|r| r.id != row.id) {
                rows.push(changed);
            }
        }
        self.switch(rows)
    }
}

/// No two publishes of an instance are declared alike, so a declaration names one.
fn find_publish<'a>(state: &'a State, publish: &PublishRef) -> Result<&'a PublishRow, InstanceError> {
    let found = state.publishes.iter().find(|row| match publish {
        PublishRef::Id(id) => row.id == *id,
        PublishRef::Spec(spec) => row.publish == *spec,
    });
    found.ok_or_else(|| InstanceError::NoPublish(publish.to_string()))
}
