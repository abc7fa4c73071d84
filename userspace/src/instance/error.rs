//! Why a verb failed.

use std::io;
use std::path::PathBuf;

use crate::store::StoreError;
use crate::topology::InputError;

/// The kernel side refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// What was to be made is there already, made by somebody else.
    #[error("{0} exists already; remove it, or choose another name")]
    Exists(String),
    /// The machine or the caller's privileges do not allow it; found before anything was changed.
    #[error("{0}")]
    Unsupported(String),
    /// A step failed.
    #[error("{step}: {source}")]
    Step {
        /// The step and its object.
        step: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl FabricError {
    /// A failed step.
    pub fn step(step: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Step { step: step.into(), source: source.into() }
    }
}

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
    Fabric(#[from] FabricError),
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
    Unfinished(Vec<FabricError>),
    /// A verb failed, and undoing it failed as well.
    #[error("{cause}; and undoing failed: {}; the next verb tries again", join(.left))]
    NotUndone {
        /// Why the verb failed.
        cause: Box<InstanceError>,
        /// What could not be undone.
        left: Vec<FabricError>,
    },
}

impl InstanceError {
    /// The process's exit status: 2 for what was refused before anything changed, 1 for the rest.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Input(_) | Self::Fabric(FabricError::Unsupported(_)) | Self::Several(_) | Self::Elsewhere { .. } => 2,
            _ => 1,
        }
    }
}

fn join(errors: &[FabricError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
