//! What a plan is.

use super::live::Setting;
use crate::store::{
    AttachmentRow, BackendRow, InstanceRow, NetworkRow, Phase, PodRow, PublishRow, Row, State, StoreError,
};

/// Rows to remove and rows to make; made rows are [`crate::store::Phase::Creating`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The instance, when it is not up yet.
    pub instance: Option<InstanceRow>,
    /// The live instance with other settings, in place of which it goes on.
    pub instance_changed: Option<InstanceRow>,
    /// Live networks with other settings.
    pub networks_changed: Vec<NetworkRow>,
    /// Live interfaces that get another network, address, prefix or MTU.
    pub attachments_changed: Vec<AttachmentRow>,
    /// What of all that changes, in words.
    pub settings: Vec<Setting>,
    /// Ids of publishes to remove.
    pub remove_publishes: Vec<u64>,
    /// End the TCP connections of those.
    pub reset: bool,
    /// Ids of pods to remove.
    pub remove_pods: Vec<u64>,
    /// Ids of interfaces to remove of pods that stay.
    pub remove_attachments: Vec<u64>,
    /// Ids of networks to remove.
    pub remove_networks: Vec<u32>,
    /// Networks to make.
    pub networks: Vec<NetworkRow>,
    /// Live networks whose record of handed-out addresses moves on.
    pub touched: Vec<NetworkRow>,
    /// Pods to make.
    pub pods: Vec<PodRow>,
    /// Interfaces to make.
    pub attachments: Vec<AttachmentRow>,
    /// Publishes to make.
    pub publishes: Vec<PublishRow>,
    /// Live publishes that change in place, once all else is done.
    pub switched: Vec<PublishRow>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self { touched: self.touched.clone(), reset: self.reset, ..Self::default() }
    }

    /// Whether it takes away pods or networks.
    pub(in crate::instance) const fn removes_something(&self) -> bool {
        !(self.remove_pods.is_empty() && self.remove_attachments.is_empty() && self.remove_networks.is_empty())
    }

    /// Whether an interface goes, alone or with its pod.
    pub(in crate::instance) fn removes_attachment(&self, row: &AttachmentRow) -> bool {
        self.remove_pods.contains(&row.pod) || self.remove_attachments.contains(&row.id)
    }

    /// What is to be made, in that order.
    pub(in crate::instance) fn rows(&self) -> impl Iterator<Item = Row> {
        let instance = self.instance.iter().cloned().map(Row::Instance);
        let networks = self.networks.iter().cloned().map(Row::Network);
        let pods = self.pods.iter().cloned().map(Row::Pod);
        let attachments = self.attachments.iter().cloned().map(Row::Attachment);
        instance.chain(networks).chain(pods).chain(attachments).chain(self.publishes.iter().cloned().map(Row::Publish))
    }

    /// Whether something changes or goes that is there already.
    pub(in crate::instance) fn changes_what_is_there(&self) -> bool {
        let removes = self.removes_something() || !self.remove_publishes.is_empty();
        let changes = self.instance_changed.is_some()
            || !(self.networks_changed.is_empty() && self.attachments_changed.is_empty() && self.switched.is_empty());
        removes || changes
    }

    /// The interfaces there are once the plan is carried out.
    pub(in crate::instance) fn attachments_after<'a>(
        &'a self,
        state: &'a State,
    ) -> impl Iterator<Item = AttachmentRow> + 'a {
        let stays = |a: &&AttachmentRow| !self.removes_attachment(a);
        let changed = |a: &AttachmentRow| self.attachments_changed.iter().find(|c| c.id == a.id).unwrap_or(a).clone();
        state.attachments.iter().filter(stays).map(changed).chain(self.attachments.iter().cloned())
    }

    /// Interfaces that were their pod's only one and are no longer are told: what leaves with their addresses leaves by them.
    pub(in crate::instance) fn tell_firsts(&mut self, state: &State) {
        for row in &state.attachments {
            let joined = self.attachments.iter().any(|new| new.pod == row.pod) && !state.has_others(row);
            if !joined || self.removes_attachment(row) {
                continue;
            }
            match self.attachments_changed.iter_mut().find(|c| c.id == row.id) {
                Some(changed) => changed.phase = Phase::Updating,
                None => self.attachments_changed.push(AttachmentRow { phase: Phase::Updating, ..row.clone() }),
            }
        }
    }

    /// Ports that lead to an interface that goes, of a pod that stays, lead to the first one it has left from then on.
    ///
    /// # Errors
    ///
    /// That has no address of a family the ports have; with the publish.
    pub(in crate::instance) fn lead_on(&mut self, state: &State) -> Result<(), (PublishRow, &'static str)> {
        let going = |b: &BackendRow| self.remove_attachments.contains(&b.attachment);
        let mut moved = Vec::new();
        for row in state.publishes.iter().filter(|q| !self.remove_publishes.contains(&q.id)) {
            let now = self.switched.iter().find(|s| s.id == row.id).unwrap_or(row);
            if !now.backends.iter().any(going) {
                continue;
            }
            let mut new = now.clone();
            for backend in new.backends.iter_mut().filter(|b| going(b)) {
                let pod = state.pod_name(backend.attachment);
                let Some(next) = self.attachment(state, pod) else { continue };
                let find = |id| self.attachments_after(state).chain(state.attachments.clone()).find(|a| a.id == id);
                if let (Some(before), Some(after)) = (find(backend.attachment), find(next)) {
                    for (had, has, family) in [
                        (before.addr4.is_some(), after.addr4.is_some(), "IPv4"),
                        (before.addr6.is_some(), after.addr6.is_some(), "IPv6"),
                    ] {
                        if had != has {
                            return Err((row.clone(), family));
                        }
                    }
                }
                backend.attachment = next;
            }
            moved.push(new);
        }
        for new in moved {
            match self.switched.iter_mut().find(|s| s.id == new.id) {
                Some(switched) => *switched = new,
                None => self.switched.push(new),
            }
        }
        Ok(())
    }

    /// Name of the pod of an interface.
    pub(in crate::instance) fn pod_name<'a>(&'a self, state: &'a State, row: &AttachmentRow) -> &'a str {
        self.pods.iter().chain(&state.pods).find(|p| p.id == row.pod).map_or("", |p| p.name.as_str())
    }

    /// What a publish leads to when the pods are gone that go.
    pub(in crate::instance) fn backends_left(&self, state: &State, row: &PublishRow) -> Vec<BackendRow> {
        let stays = |b: &&BackendRow| {
            let row = self.attachments.iter().chain(&state.attachments).find(|a| a.id == b.attachment);
            row.is_some_and(|row| !self.removes_attachment(row))
        };
        row.backends.iter().filter(stays).copied().collect()
    }

    /// Whether a publish goes: it is to, or all its pods do and none takes over.
    pub(in crate::instance) fn removes_publish(&self, state: &State, row: &PublishRow) -> bool {
        let switched = self.switched.iter().any(|q| q.id == row.id);
        self.remove_publishes.contains(&row.id) || (!switched && self.backends_left(state, row).is_empty())
    }

    /// The interface by which ports lead to the pod of this name once the plan is carried out: its first.
    pub(in crate::instance) fn attachment(&self, state: &State, pod: &str) -> Option<u64> {
        let stays = |p: &&PodRow| p.name == pod && !self.remove_pods.contains(&p.id);
        let pod = self.pods.iter().chain(&state.pods).find(stays)?.id;
        let all = self.attachments.iter().chain(&state.attachments);
        let its = all.filter(|a| a.pod == pod && !self.remove_attachments.contains(&a.id));
        its.min_by_key(|a| (a.rank, a.id)).map(|a| a.id)
    }
}

/// Hands out ids of rows.
pub(in crate::instance) type NextId<'a> = &'a mut dyn FnMut() -> Result<u64, StoreError>;
