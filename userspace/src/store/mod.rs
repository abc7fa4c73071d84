//! What an instance holds, across processes: networks, pods, their interfaces, publishes, and how far each has come.
//!
//! Intent is written before the kernel is changed. A row is `creating` until the verb that wrote it is done, `updating`
//! while the kernel is brought to what the row says now, and `deleting` from the moment its removal begins; whatever a
//! killed process left in one of these phases, the next verb undoes or carries on.
//! The trait is the seam for another back end; the one here is a SQLite file under `/run`, which a reboot empties
//! together with the kernel state it describes.

mod copy;
mod kinds;
mod row;
mod sqlite;
mod state;

use std::io;
use std::path::PathBuf;

pub use kinds::{
    AttachmentRow, BackendRow, InstanceRow, NetworkRow, PodRow, PublishRow, Source, UplinkRow, Withdrawal,
};
pub use row::{Change, Origin, Phase, Row, RowId};
pub use sqlite::SqliteStore;
pub use state::State;

/// Where an instance's state is kept.
///
/// Readers see one consistent state and do not wait for writers; writers are serialised by the instance's lock.
pub trait Store {
    /// All of it.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is damaged.
    fn load(&self) -> Result<State, StoreError>;

    /// Makes a list of changes, as a whole.
    ///
    /// # Errors
    ///
    /// It cannot be written; nothing has changed then.
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// A number never handed out before in this store: the owner of pods, publishes and their map entries.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    fn next_id(&mut self) -> Result<u64, StoreError>;
}

impl StoreError {
    /// What kind of failure it is, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => "damaged",
            Self::Version { .. } => "version",
            Self::Sqlite { source, .. } if source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => "full",
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => "full",
            Self::Sqlite { .. } | Self::Io { .. } => "failed",
        }
    }
}

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is no database of ours, or a broken one.
    #[error(
        "the state file {path} is damaged ({reason}); `netns down --force` removes what the instance left in the \
         kernel, and the file"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written by another version.
    #[error(
        "the state file {path} has schema {found}, this netns knows {known}: take the instance down with the netns that \
         wrote it, or with `netns down --force`, which removes what the instance left in the kernel, and the file"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The database refused.
    #[error("the state file {path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A file could not be made or removed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests;
