//! All rows of an instance together.

use super::{AttachmentRow, Change, InstanceRow, NetworkRow, Phase, PodRow, PublishRow, Row, RowId};

/// Everything an instance holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The instance, when it is up or on its way.
    pub instance: Option<InstanceRow>,
    /// Networks, by id.
    pub networks: Vec<NetworkRow>,
    /// Pods, by id.
    pub pods: Vec<PodRow>,
    /// Interfaces of pods, by id.
    pub attachments: Vec<AttachmentRow>,
    /// Publishes, by id.
    pub publishes: Vec<PublishRow>,
}

impl FromIterator<Row> for State {
    fn from_iter<I: IntoIterator<Item = Row>>(rows: I) -> Self {
        let mut state = Self::default();
        for row in rows {
            state.put(row);
        }
        state
    }
}

impl State {
    /// All rows, in the order of making.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = Row> + '_ {
        let instance = self.instance.iter().cloned().map(Row::Instance);
        let networks = self.networks.iter().cloned().map(Row::Network);
        let pods = self.pods.iter().cloned().map(Row::Pod);
        let attachments = self.attachments.iter().cloned().map(Row::Attachment);
        let publishes = self.publishes.iter().cloned().map(Row::Publish);
        instance.chain(networks).chain(pods).chain(attachments).chain(publishes)
    }

    /// The row of this id.
    pub fn row(&self, id: RowId) -> Option<Row> {
        match id {
            RowId::Instance => self.instance.clone().map(Row::Instance),
            RowId::Network(id) => self.network(id).cloned().map(Row::Network),
            RowId::Pod(id) => self.pods.iter().find(|r| r.id == id).cloned().map(Row::Pod),
            RowId::Attachment(id) => self.attachment(id).cloned().map(Row::Attachment),
            RowId::Publish(id) => self.publishes.iter().find(|r| r.id == id).cloned().map(Row::Publish),
        }
    }

    /// Makes changes as the store does.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put(row) => self.put(row.clone()),
                Change::Delete(id) => self.delete(*id),
            }
        }
    }

    fn put(&mut self, row: Row) {
        fn replace<T, K: Ord>(rows: &mut Vec<T>, row: T, key: impl Fn(&T) -> K) {
            match rows.binary_search_by_key(&key(&row), &key) {
                Ok(at) => rows[at] = row,
                Err(at) => rows.insert(at, row),
            }
        }
        match row {
            Row::Instance(row) => self.instance = Some(row),
            Row::Network(row) => replace(&mut self.networks, row, |r| r.id),
            Row::Pod(row) => replace(&mut self.pods, row, |r| r.id),
            Row::Attachment(row) => replace(&mut self.attachments, row, |r| r.id),
            Row::Publish(row) => replace(&mut self.publishes, row, |r| r.id),
        }
    }

    fn delete(&mut self, id: RowId) {
        match id {
            RowId::Instance => self.instance = None,
            RowId::Network(id) => self.networks.retain(|r| r.id != id),
            RowId::Pod(id) => self.pods.retain(|r| r.id != id),
            RowId::Attachment(id) => self.attachments.retain(|r| r.id != id),
            RowId::Publish(id) => self.publishes.retain(|r| r.id != id),
        }
    }

    /// Whether other rows refer to this one: it goes after them.
    pub fn is_needed(&self, id: RowId) -> bool {
        match id {
            RowId::Instance => self.rows().any(|r| r.id() != id),
            RowId::Network(id) => self.attachments.iter().any(|a| a.network == id),
            RowId::Pod(id) => self.attachments.iter().any(|a| a.pod == id),
            RowId::Attachment(id) => self.publishes.iter().any(|q| q.leads_to(id)),
            RowId::Publish(_) => false,
        }
    }

    /// Whether another interface of the network has one of this one's addresses: one that is about to go.
    pub fn shares_address(&self, row: &AttachmentRow) -> bool {
        let shares = |a: &AttachmentRow| {
            a.id != row.id
                && a.network == row.network
                && ((a.addr4.is_some() && a.addr4 == row.addr4) || (a.addr6.is_some() && a.addr6 == row.addr6))
        };
        self.attachments.iter().any(shares)
    }

    /// The pod of this name.
    pub fn pod(&self, name: &str) -> Option<&PodRow> {
        self.pods.iter().find(|p| p.name == name)
    }

    /// The attachment of this id.
    pub fn attachment(&self, id: u64) -> Option<&AttachmentRow> {
        self.attachments.binary_search_by_key(&id, |a| a.id).ok().map(|at| &self.attachments[at])
    }

    /// Interfaces of a pod, in the order they were made.
    pub fn attachments_of(&self, pod: u64) -> impl Iterator<Item = &AttachmentRow> {
        self.attachments.iter().filter(move |a| a.pod == pod)
    }

    /// The first interface of a pod: ports lead to it.
    pub fn first_of(&self, pod: u64) -> Option<&AttachmentRow> {
        self.attachments_of(pod).min_by_key(|a| (a.rank, a.id))
    }

    /// Whether the pod of an interface has, or is to have, other ones.
    pub fn has_others(&self, row: &AttachmentRow) -> bool {
        let is_other = |a: &AttachmentRow| a.id != row.id && a.phase != Phase::Deleting;
        self.attachments_of(row.pod).any(is_other)
    }

    /// The pod of an attachment.
    pub fn pod_of(&self, attachment: u64) -> Option<&PodRow> {
        let pod = self.attachment(attachment)?.pod;
        self.pods.binary_search_by_key(&pod, |p| p.id).ok().map(|at| &self.pods[at])
    }

    /// Name of the pod of an attachment; empty where that is gone.
    pub fn pod_name(&self, attachment: u64) -> &str {
        self.pod_of(attachment).map_or("", |p| p.name.as_str())
    }

    /// The network of this id.
    pub fn network(&self, id: u32) -> Option<&NetworkRow> {
        self.networks.iter().find(|n| n.id == id)
    }

    /// The network of this name.
    pub fn network_named(&self, name: &str) -> Option<&NetworkRow> {
        self.networks.iter().find(|n| n.network.name == name)
    }

    /// What leads to this pod, by whichever of its interfaces.
    pub fn publishes_of(&self, pod: u64) -> impl Iterator<Item = &PublishRow> {
        let is_its = move |attachment: u64| self.attachment(attachment).is_some_and(|a| a.pod == pod);
        self.publishes.iter().filter(move |p| p.backends.iter().any(|b| is_its(b.attachment)))
    }
}
