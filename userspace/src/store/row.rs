//! What every row has: which one it is, how far it has come, and its place in the order of making.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{AttachmentRow, InstanceRow, NetworkRow, PodRow, PublishRow};

/// How far a row has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Being made, or the maker was killed: whoever finds it undoes it.
    #[default]
    Creating,
    /// Live.
    Ready,
    /// Wanted, and made when what stands in its way has gone: whoever finds it makes it.
    Waiting,
    /// Live, and on its way to what the row says now: whoever finds it carries that on.
    Updating,
    /// Being removed, or the remover was killed: whoever finds it removes it.
    Deleting,
}

impl Phase {
    /// Whether the row stays.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Ready | Self::Updating | Self::Waiting)
    }

    /// The word in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Waiting => "waiting",
            Self::Updating => "updating",
            Self::Deleting => "deleting",
        }
    }

    /// Every phase.
    pub(in crate::store) const ALL: [Self; 5] =
        [Self::Creating, Self::Ready, Self::Waiting, Self::Updating, Self::Deleting];
}

/// Who asked for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The topology file: `up` with a file that no longer has it removes it.
    File,
    /// A verb: stays until a verb removes it.
    Verb,
}

/// Names a row. Sorted, rows come in the order in which they are made; they are removed in the reverse order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowId {
    /// The instance itself.
    Instance,
    /// A network.
    Network(u32),
    /// A pod.
    Pod(u64),
    /// An interface of a pod.
    Attachment(u64),
    /// A published port or range.
    Publish(u64),
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance => f.write_str("the instance"),
            Self::Network(id) => write!(f, "network {id}"),
            Self::Pod(id) => write!(f, "pod {id}"),
            Self::Attachment(id) => write!(f, "attachment {id}"),
            Self::Publish(id) => write!(f, "publish {id}"),
        }
    }
}

/// Anything an instance holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// The instance itself.
    Instance(InstanceRow),
    /// A network.
    Network(NetworkRow),
    /// A pod.
    Pod(PodRow),
    /// An interface of a pod.
    Attachment(AttachmentRow),
    /// A published port or range.
    Publish(PublishRow),
}

impl Row {
    /// Which one it is.
    pub const fn id(&self) -> RowId {
        match self {
            Self::Instance(_) => RowId::Instance,
            Self::Network(r) => RowId::Network(r.id),
            Self::Pod(r) => RowId::Pod(r.id),
            Self::Attachment(r) => RowId::Attachment(r.id),
            Self::Publish(r) => RowId::Publish(r.id),
        }
    }

    /// How far it has come.
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Instance(r) => r.phase,
            Self::Network(r) => r.phase,
            Self::Pod(r) => r.phase,
            Self::Attachment(r) => r.phase,
            Self::Publish(r) => r.phase,
        }
    }

    /// The same row in another phase.
    #[must_use]
    pub const fn at(mut self, phase: Phase) -> Self {
        match &mut self {
            Self::Instance(r) => r.phase = phase,
            Self::Network(r) => r.phase = phase,
            Self::Pod(r) => r.phase = phase,
            Self::Attachment(r) => r.phase = phase,
            Self::Publish(r) => r.phase = phase,
        }
        self
    }
}

/// Each kind is a row.
macro_rules! rows {
    ($($variant:ident($kind:ty)),+) => {$(
        impl From<$kind> for Row {
            fn from(row: $kind) -> Self {
                Self::$variant(row)
            }
        }
    )+};
}

rows!(Instance(InstanceRow), Network(NetworkRow), Pod(PodRow), Attachment(AttachmentRow), Publish(PublishRow));

/// One step of a change; a list of them takes effect as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Adds or replaces a row.
    Put(Row),
    /// Removes a row.
    Delete(RowId),
}

impl Change {
    /// Adds or replaces a row of whatever kind.
    pub fn put(row: impl Into<Row>) -> Self {
        Self::Put(row.into())
    }
}
