//! The mutating verbs.

use super::plan::{self, Plan, PodRequest, Surroundings};
use super::session::Session;
use super::{Applied, Fabric, Instance, InstanceError};
use crate::store::{PublishRow, State, Store};
use crate::topology::{Document, InputError, Problem, Publish};

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

impl<F: Fabric> Instance<F> {
    /// Makes the instance what `document` says: from nothing, or from what it is.
    ///
    /// With the same document again nothing changes. Pods and publishes the file no longer has are removed if they came
    /// from a file; what verbs added stays.
    ///
    /// # Errors
    ///
    /// Input that is refused before anything is changed; or a step that failed, after what was made has been undone.
    pub async fn up(&mut self, document: &Document) -> Result<Applied, InstanceError> {
        self.fabric.check().await?;
        let host_netns = self.host_netns.clone();
        let Some(mut session) = self.begin(true).await? else {
            return Err(InstanceError::NotUp(self.dirs.name().to_owned()));
        };
        let around = session.look_around().await;
        let Session { fabric, store, state, .. } = &mut session;
        let planned = around.and_then(|(facts, others)| {
            let host = Surroundings { facts: &facts, ports: &**fabric, host_id: fabric.host_id(), others: &others };
            plan::up(state, host_netns.as_deref(), document, &host, &mut || store.next_id())
        });
        match planned {
            Ok(plan) => session.carry_out(plan).await,
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
    /// # Errors
    ///
    /// What could not be removed; it stays recorded, and the next `down` tries again.
    pub async fn down(&mut self) -> Result<Applied, InstanceError> {
        let name = self.dirs.name().to_owned();
        let mut applied = Applied { instance: name, ..Applied::default() };
        let Some(mut session) = self.begin(false).await? else { return Ok(applied) };
        applied.changed = true;
        applied.networks_removed = session.state.networks.iter().map(|n| n.network.name.clone()).collect();
        applied.pods_removed = session.state.pods.iter().map(|p| p.name.clone()).collect();
        applied.publishes_removed = session.state.publish_views();
        session.mark_all_deleting()?;
        let left = session.undo_unfinished().await?;
        if !left.is_empty() {
            return Err(InstanceError::Unfinished(left));
        }
        session.end()?;
        Ok(applied)
    }

    /// Adds a pod.
    ///
    /// # Errors
    ///
    /// The instance is not up, the request is refused, or a step failed and was undone.
    pub async fn add(&mut self, request: &PodRequest) -> Result<Applied, InstanceError> {
        let mut session = self.live().await?;
        let (facts, others) = session.look_around().await?;
        let Session { fabric, store, state, .. } = &mut session;
        let host = Surroundings { facts: &facts, ports: &**fabric, host_id: fabric.host_id(), others: &others };
        let plan = plan::add(state, request, &host, &mut || store.next_id())?;
        session.carry_out(plan).await
    }

    /// Deletes a pod, its namespace, and what it publishes.
    ///
    /// # Errors
    ///
    /// There is no such pod, or something of it could not be removed.
    pub async fn del(&mut self, name: &str) -> Result<Applied, InstanceError> {
        let session = self.live().await?;
        let Some(pod) = session.state.pod(name) else { return Err(InstanceError::NoPod(name.to_owned())) };
        let plan = Plan {
            remove_pods: vec![pod.id],
            remove_publishes: session.state.publishes_of(pod.id).map(|q| q.id).collect(),
            ..Plan::default()
        };
        session.carry_out(plan).await
    }

    /// Publishes ports of a live pod; what it publishes already stays as it is.
    ///
    /// # Errors
    ///
    /// The instance is not up, the request is refused, or a step failed and was undone.
    pub async fn publish(&mut self, pod: &str, publishes: &[Publish]) -> Result<Applied, InstanceError> {
        let mut session = self.live().await?;
        let (facts, others) = session.look_around().await?;
        let Session { fabric, store, state, .. } = &mut session;
        let host = Surroundings { facts: &facts, ports: &**fabric, host_id: fabric.host_id(), others: &others };
        let plan = plan::publish(state, pod, publishes, &host, &mut || store.next_id())?;
        session.carry_out(plan).await
    }

    /// Withdraws published ports. TCP connections that came in by them run on, or end with a RST if `reset`; the next
    /// datagram finds nothing published in either case.
    ///
    /// # Errors
    ///
    /// There is no such pod, or it does not publish one of them: then nothing is withdrawn.
    pub async fn unpublish(&mut self, pod: &str, publishes: &[Publish], reset: bool) -> Result<Applied, InstanceError> {
        let session = self.live().await?;
        let Some(row) = session.state.pod(pod) else { return Err(InstanceError::NoPod(pod.to_owned())) };
        let mut plan = Plan { reset, ..Plan::default() };
        for publish in publishes {
            let Some(found) = session.state.publishes_of(row.id).find(|q| q.publish == *publish) else {
                return Err(InstanceError::NotPublished { pod: pod.to_owned(), publish: publish.to_string() });
            };
            plan.remove_publishes.push(found.id);
        }
        session.carry_out(plan).await
    }

    /// Sends a publish's new connections, and its next datagrams, to another pod, in one step for all its ports; it takes
    /// new connections then, if it was draining before. Established TCP connections stay with the old pod.
    ///
    /// # Errors
    ///
    /// There is no such publish or pod, or the pod has no address of the publish's family.
    pub async fn move_publish(&mut self, publish: &PublishRef, to: &str) -> Result<Applied, InstanceError> {
        let session = self.live().await?;
        let state = &session.state;
        let refused = |problem| InstanceError::from(InputError::new("--to", to, problem));
        let row = find_publish(state, publish)?;
        let pod = state.pod(to).ok_or_else(|| refused(Problem::UnknownPod))?;
        // "Every address, both families" follows the pod's families, which its ports' entries were made for.
        let families = |pod: &crate::store::PodRow| (pod.addr4.is_some(), pod.addr6.is_some());
        let had = state.pods.iter().find(|p| p.id == row.pod).map_or((true, true), families);
        let (v4, v6) = families(pod);
        for (reached, led, family) in
            [(row.publish.is_v4() && had.0, v4, "IPv4"), (row.publish.is_v6() && had.1, v6, "IPv6")]
        {
            if reached && !led {
                return Err(refused(Problem::PublishFamily { pod: to.to_owned(), family }));
            }
        }
        let moved = PublishRow { pod: pod.id, draining: false, ..row.clone() };
        let rows = if moved == *row { Vec::new() } else { vec![moved] };
        session.switch(rows).await
    }

    /// Makes publishes take no new connections and no datagrams; established TCP connections go on. With `drain` false they
    /// take them again.
    ///
    /// # Errors
    ///
    /// There is no such publish: then nothing is changed.
    pub async fn drain(&mut self, publishes: &[PublishRef], drain: bool) -> Result<Applied, InstanceError> {
        let session = self.live().await?;
        let mut rows: Vec<PublishRow> = Vec::new();
        for publish in publishes {
            let row = find_publish(&session.state, publish)?;
            if row.draining != drain && rows.iter().all(|r| r.id != row.id) {
                rows.push(PublishRow { draining: drain, ..row.clone() });
            }
        }
        session.switch(rows).await
    }

    /// Brings the data path's view of the host up to date, and undoes what a killed verb left.
    ///
    /// # Errors
    ///
    /// The instance is not up, or the host cannot be read.
    pub async fn refresh(&mut self) -> Result<(), InstanceError> {
        let mut session = self.live().await?;
        session.open_fabric().await?;
        session.refresh().await
    }

    /// Removes all flows whose time is over; says how many entries went. Takes no lock.
    ///
    /// # Errors
    ///
    /// The maps cannot be read, as when the instance is not up.
    pub fn expire_flows(&self) -> Result<usize, InstanceError> {
        Ok(self.fabric.expire_flows(usize::MAX)?)
    }

    async fn live(&mut self) -> Result<Session<'_, F>, InstanceError> {
        self.fabric.check().await?;
        let name = self.dirs.name().to_owned();
        self.begin(false).await?.ok_or(InstanceError::NotUp(name))
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
