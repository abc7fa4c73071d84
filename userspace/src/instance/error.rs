//! Why a verb failed.

use std::io;
use std::path::PathBuf;

use super::platform::PlatformError;
use crate::store::StoreError;
use crate::topology::InputError;

/// Why a verb failed. What it had done by then has been undone, unless it is [`InstanceError::Unfinished`].
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Input was refused; nothing was changed.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The instance is not up.
    #[error("instance {0:?} is not up; `netns up -f FILE` or `netns run` starts it")]
    NotUp(String),
    /// Several instances are up and none was chosen.
    #[error("several instances are up ({}); choose one with --instance", .0.join(", "))]
    Several(Vec<String>),
    /// Pods that are in use would go: the file no longer has them, or they are left of an instance whose state was lost.
    #[error("processes run in pods that would be deleted: {}; --prune deletes them all the same", .0.join(", "))]
    Occupied(Vec<String>),
    /// Which namespaces there are, or who is in them, cannot be read.
    #[error(transparent)]
    Netns(#[from] crate::netns::NetnsError),
    /// Another verb changes the instance.
    #[error("instance {instance:?} is being changed by {holder}; gave up after {} s", waited.as_secs())]
    Busy {
        /// The instance.
        instance: String,
        /// Who changes it, in words.
        holder: String,
        /// How long it was waited for.
        waited: std::time::Duration,
    },
    /// The instance is up, with another host namespace than the one asked for.
    #[error("instance {instance:?} is up in {there}, not in {here}; use it there, or choose another with --instance")]
    Elsewhere {
        /// The instance.
        instance: String,
        /// Its host namespace.
        there: String,
        /// The one asked for.
        here: String,
    },
    /// The namespace that was the instance's host is gone.
    #[error("the host of the instance, {0}, is gone")]
    HostGone(String),
    /// No pod of this name.
    #[error("no pod named {0:?}; `netns list` names them")]
    NoPod(String),
    /// The pod does not publish this.
    #[error("pod {pod:?} does not publish {publish}; `netns publish list` names what is published")]
    NotPublished {
        /// The pod.
        pod: String,
        /// What was to be withdrawn.
        publish: String,
    },
    /// No publish of this id or specification.
    #[error("nothing is published as {0:?}; `netns publish list` names what is")]
    NoPublish(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel side.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// A directory or lock of the instance.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Something could not be removed; what is left is recorded, and the next verb tries again.
    #[error("{} left over, the next verb tries again: {}", .0.len(), join(.0))]
    Unfinished(Vec<PlatformError>),
    /// A verb failed, and undoing it failed as well.
    #[error("{cause}; and undoing failed: {}; the next verb tries again", join(.left))]
    NotUndone {
        /// Why the verb failed.
        cause: Box<InstanceError>,
        /// What could not be undone.
        left: Vec<PlatformError>,
    },
}

impl InstanceError {
    /// The process's exit status: 2 for what was refused before anything changed, 1 for the rest.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Input(_) | Self::Several(_) | Self::Elsewhere { .. } | Self::Occupied(_) => 2,
            Self::Platform(e) if e.is_unsupported() => 2,
            _ => 1,
        }
    }
}

impl InstanceError {
    /// What kind of failure it is, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Input(_) => "input",
            Self::NotUp(_) => "not-up",
            Self::Several(_) => "several",
            Self::Elsewhere { .. } => "elsewhere",
            Self::HostGone(_) => "host-gone",
            Self::Occupied(_) => "occupied",
            Self::Netns(_) => "failed",
            Self::Busy { .. } => "busy",
            Self::NoPod(_) | Self::NotPublished { .. } | Self::NoPublish(_) => "absent",
            Self::Store(e) => e.kind(),
            Self::Platform(e) => e.kind(),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => "full",
            Self::Io { .. } => "failed",
            Self::Unfinished(_) | Self::NotUndone { .. } => "unfinished",
        }
    }

    /// What to do about it, where the message does not say so itself.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotUp(_) => Some("`netns up -f FILE` or `netns run` starts it"),
            Self::Several(_) => Some("choose one with --instance"),
            Self::Occupied(_) => Some("end the processes, or delete the pods with `netns up --prune`"),
            Self::HostGone(_) => Some("`netns down` removes what is left of the instance"),
            Self::NoPod(_) => Some("`netns list` names them"),
            Self::NotPublished { .. } | Self::NoPublish(_) => Some("`netns publish list` names what is published"),
            Self::Store(e) if e.kind() == "full" => Some("make room; `netns down` works without"),
            Self::Platform(e) => e.hint(),
            Self::Unfinished(_) | Self::NotUndone { .. } => {
                Some("the next verb tries again; `netns down` removes everything")
            }
            _ => None,
        }
    }
}

fn join(errors: &[PlatformError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
