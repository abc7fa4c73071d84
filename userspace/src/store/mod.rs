//! What an instance holds, across processes: networks, pods, publishes, and how far each has come.
//!
//! Intent is written before the kernel is changed. A row is `creating` until the verb that wrote it is done, and
//! `deleting` from the moment its removal begins; whatever a killed process left in either phase, the next verb undoes.
//! The trait is the seam for another back end; the one here is a SQLite file under `/run`, which a reboot empties
//! together with the kernel state it describes.

mod rows;
mod sqlite;

use std::io;
use std::path::PathBuf;

pub use rows::{BackendRow, InstanceRow, NetworkRow, Origin, Phase, PodRow, PublishRow, State, UplinkRow};
pub use sqlite::SqliteStore;

/// One step of a change; a list of them takes effect as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Adds or replaces the instance's row.
    PutInstance(InstanceRow),
    /// Removes the instance's row.
    DeleteInstance,
    /// Adds or replaces a network.
    PutNetwork(NetworkRow),
    /// Removes a network by id.
    DeleteNetwork(u32),
    /// Adds or replaces a pod.
    PutPod(PodRow),
    /// Removes a pod by id.
    DeletePod(u64),
    /// Adds or replaces a publish.
    PutPublish(PublishRow),
    /// Removes a publish by id.
    DeletePublish(u64),
}

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
    #[error("the state file {path} has schema {found}, this netns knows {known}: use the netns that wrote it")]
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
